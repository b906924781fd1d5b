"""The films of one split as the audited model sees them: kept, embedded, searched for features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.cache import Cache
from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import Cohort, read_manifest
from ravl_med.config import Config
from ravl_med.discovery.detector import nearest_medoids
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.precision import using_threads
from ravl_med.engine.opening import opened_engine
from ravl_med.evidence.audited_images import AuditedImages
from ravl_med.evidence.claims import ConfirmedFeature
from ravl_med.evidence.mitigation_result import SplitSummary
from ravl_med.evidence.small_cells import HIDDEN, hide_counts
from ravl_med.mitigation.fine_tuning_set import FilmStore, RegionTable
from ravl_med.mitigation.spurious_regions import find_features
from ravl_med.pipeline.cohort_parts import embeddings_root
from ravl_med.pipeline.film_keeping import keep_films
from ravl_med.pipeline.kept_films import KeptFilms
from ravl_med.pipeline.stages import Progress, require_films
from ravl_med.storage.remote_path import FilePath

__all__ = ["SplitFilms", "read_split", "summarise_split"]


@dataclass(frozen=True, slots=True, eq=False)
class SplitFilms:
    """N films of a split, with R regions.

    Attributes
    ----------
    split : str
    cohort : Cohort - those that could be read; labels -1 where no task was given
    films : FilmStore
    kept : KeptFilms - as the audited model sees them
    region_image : ndarray of shape (R,), int64 - film of each region, ascending
    regions : RegionTable - in input pixels
    """

    split: str
    cohort: Cohort
    films: FilmStore
    kept: KeptFilms
    region_image: NDArray[np.int64]
    regions: RegionTable

    def __len__(self) -> int:
        return len(self.cohort)

    def find(self, features: Sequence[ConfirmedFeature]) -> NDArray[np.bool_]:
        """Return which regions hold which feature, (R, F)."""
        found = np.zeros((len(self.region_image), len(features)), dtype=np.bool_)
        for part, regions in self.kept.region_parts():
            found[part] = find_features([f.detector for f in features], regions)
        return found

    def nearest(self, medoids: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the nearest of K medoids (K, D) of each region, (R,)."""
        nearest = np.empty(len(self.region_image), dtype=np.int64)
        for part, regions in self.kept.region_parts():
            nearest[part] = nearest_medoids(medoids, regions)
        return nearest

    def present(self, found: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which films hold a region of which feature, (N, F)."""
        there = np.zeros((len(self), found.shape[1]), dtype=np.bool_)
        np.logical_or.at(there, self.region_image, found)
        return there

    def images(self, predictions: NDArray[np.int64]) -> AuditedImages:
        """Return the films as counterfactuals want them."""
        return AuditedImages(
            classes=self.cohort.classes,
            labels=self.cohort.labels,
            predictions=predictions,
            patients=self.cohort.patients,
            sizes=self.kept.sizes,
            region_image=self.region_image,
            region_boxes=self.kept.boxes,
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
    manifest: FilePath,
    split: str,
    encoder: Encoder,
    reader: FilmReader,
    folder: Path,
    progress: Progress,
    *,
    labelled: bool = True,
    cache: Cache | None = None,
    model: Path | None = None,
    reports: bool = False,
) -> SplitFilms:
    """Read a split once: keep its films at the model's resolution and embed them.

    What an earlier call has kept of the same films in the same folder is found there.

    Parameters
    ----------
    config : Config
    manifest : Path
    split : str
    encoder : Encoder - the audited model
    reader : FilmReader
    folder : Path - where the films are kept, in a folder of the split's name
    progress : callable - called with (stage, done, total)
    labelled : bool - films need a class by their label columns
    cache : Cache or None - of embeddings
    model : Path or None - folder of the audited model, for workers of the engine
    reports : bool - keep the radiology reports; else they are blank, since they take more memory
        than all else that is known of films

    Raises
    ------
    ConfigError, DataError, EngineError
    """
    listed = read_manifest(
        manifest,
        split=split,
        columns=config.task.columns() if labelled else None,
        labels=config.labels,
        unit=config.cohort.unit,
        roots=config.cohort.roots,
    )
    if not reports:
        listed = replace(listed, radiology_reports=("",) * len(listed))
    own = None if cache is None else embeddings_root(config, cache)
    with using_threads(config.threads), opened_engine(config) as engine:
        kept = keep_films(
            engine,
            config,
            listed,
            (encoder, model),
            reader,
            folder / "embeddings" if own is None else own,
            folder / split,
            lambda done: progress(f"embed films and regions, {split}", done, len(listed)),
        )
    cohort = listed.keep(kept.positions, kept.rejected)
    require_films(cohort, config.gate.max_rejected_fraction)
    region_image = np.repeat(np.arange(len(cohort), dtype=np.int64), kept.counts)
    info = encoder.info
    return SplitFilms(
        split,
        cohort,
        FilmStore(kept.shards, kept.rows, info.mean, info.std),
        kept,
        region_image,
        RegionTable.of(kept.input_boxes, region_image, len(cohort)),
    )
