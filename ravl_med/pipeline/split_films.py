"""The films of one split as the audited model sees them: kept, embedded, searched for features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.cache import Cache
from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import Cohort, read_manifest
from ravl_med.config import Config
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.embeddings import Embeddings
from ravl_med.encoders.precision import using_threads
from ravl_med.evidence.audited_images import AuditedImages
from ravl_med.evidence.claims import ConfirmedFeature
from ravl_med.evidence.mitigation_result import SplitSummary
from ravl_med.evidence.small_cells import HIDDEN, hide_counts
from ravl_med.mitigation.fine_tuning_set import FilmStore, RegionTable
from ravl_med.mitigation.spurious_regions import find_features
from ravl_med.pipeline.stages import Progress, embed_cohort, films_not_finite, require_films

__all__ = ["SplitFilms", "read_split", "summarise_split"]


@dataclass(frozen=True, slots=True, eq=False)
class SplitFilms:
    """N films of a split.

    Attributes
    ----------
    split : str
    cohort : Cohort - those that could be read; labels -1 where no task was given
    films : FilmStore
    embeddings : Embeddings - by the audited model
    regions : RegionTable - in input pixels
    """

    split: str
    cohort: Cohort
    films: FilmStore
    embeddings: Embeddings
    regions: RegionTable

    def __len__(self) -> int:
        return len(self.cohort)

    def find(self, features: Sequence[ConfirmedFeature]) -> NDArray[np.bool_]:
        """Return which regions hold which feature, (R, F)."""
        return find_features([f.detector for f in features], self.embeddings.region)

    def present(self, found: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which films hold a region of which feature, (N, F)."""
        there = np.zeros((len(self), found.shape[1]), dtype=np.bool_)
        np.logical_or.at(there, self.embeddings.region_image, found)
        return there

    def images(self, predictions: NDArray[np.int64]) -> AuditedImages:
        """Return the films as counterfactuals want them."""
        return AuditedImages(
            classes=self.cohort.classes,
            labels=self.cohort.labels,
            predictions=predictions,
            patients=self.cohort.patients,
            sizes=self.embeddings.sizes,
            region_image=self.embeddings.region_image,
            region_boxes=self.embeddings.region_boxes,
        )

    def summary(self, role: str, least: int, rows: NDArray[np.bool_] | None = None) -> SplitSummary:
        """Count films and patients, of some of the films where `rows` (N,) says so.

        Counts of fewer than `least` patients are hidden, see `small_cells`.
        """
        taken = np.ones(len(self), dtype=np.bool_) if rows is None else rows
        return summarise_split(
            role,
            self.cohort.labels[taken],
            self.cohort.patients[taken],
            self.cohort.classes,
            least,
        )


def summarise_split(
    role: str,
    labels: NDArray[np.int64],
    patients: NDArray[np.int64],
    classes: tuple[str, ...],
    least: int,
) -> SplitSummary:
    """Count films, patients and the films of each class; those of few patients are hidden.

    Parameters
    ----------
    role : str - what the films are for
    labels, patients : ndarray of shape (n,), int64
    classes : tuple of str
    least : int - smallest number of patients that may be told; 0 tells all
    """
    member = {name: labels == c for c, name in enumerate(classes)}
    total = len(np.unique(patients))
    return SplitSummary(
        role=role,
        films=len(labels),
        patients=HIDDEN if 0 < total < least else total,
        by_class=hide_counts(
            {name: int(own.sum()) for name, own in member.items()},
            {name: len(np.unique(patients[own])) for name, own in member.items()},
            least,
        ),
    )


def read_split(
    config: Config,
    manifest: Path,
    split: str,
    encoder: Encoder,
    reader: FilmReader,
    folder: Path,
    progress: Progress,
    *,
    labelled: bool = True,
    cache: Cache | None = None,
) -> SplitFilms:
    """Read a split once: keep its films at the model's resolution and embed them.

    Parameters
    ----------
    config : Config
    manifest : Path
    split : str
    encoder : Encoder - the audited model
    reader : FilmReader
    folder : Path - where the films are kept, as ``SPLIT.gray``
    progress : callable - called with (stage, done, total)
    labelled : bool - films need a class by their label columns
    cache : Cache or None - of embeddings

    Raises
    ------
    ConfigError, DataError
    """
    listed = read_manifest(
        manifest,
        split=split,
        columns=config.task.columns() if labelled else None,
        labels=config.labels,
        unit=config.cohort.unit,
        roots=config.cohort.roots,
    )
    passing, store = FilmStore.keeping(reader.films(listed), encoder, folder / f"{split}.gray")
    with using_threads(config.threads):  # as an audit does, which keeps embeddings by them
        embeddings = embed_cohort(
            config,
            listed,
            encoder,
            passing,
            lambda stage, done, total: progress(f"{stage}, {split}", done, total),
            cache,
        )
    cohort = listed.keep(
        embeddings.films, (*embeddings.rejected, *films_not_finite(listed, embeddings))
    )
    require_films(cohort, config.gate.max_rejected_fraction)
    boxes = np.empty_like(embeddings.region_boxes)
    starts = np.searchsorted(embeddings.region_image, np.arange(len(cohort) + 1))
    for film, (height, width) in enumerate(embeddings.sizes.tolist()):
        part = slice(starts[film], starts[film + 1])
        boxes[part] = encoder.geometry(height, width).to_input(embeddings.region_boxes[part])
    return SplitFilms(
        split,
        cohort,
        store(embeddings.films.tolist()),
        embeddings,
        RegionTable.of(boxes, embeddings.region_image, len(cohort)),
    )
