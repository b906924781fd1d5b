"""The films of one split as the audited model sees them, read once for a whole mitigation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.manifest import Cohort
from ravl_med.config.loading import Config
from ravl_med.discovery.candidates import nearest_medoids
from ravl_med.discovery.ravl import film_shares
from ravl_med.encoders.base import Encoder, using_threads
from ravl_med.encoders.embeddings import Embeddings
from ravl_med.engine import opened_engine
from ravl_med.errors import DataError
from ravl_med.evidence.disclosure_control import HIDDEN, hide_counts
from ravl_med.evidence.mitigation_result import SplitSummary
from ravl_med.evidence.results import ConfirmedFeature
from ravl_med.mitigation.fine_tuning_set import GrayFilms, RegionTable
from ravl_med.mitigation.spurious_regions import find_features
from ravl_med.pipeline.embedding import KeptTables, Model, embed_with
from ravl_med.pipeline.stages import Run, films_not_finite, list_films, require_films
from ravl_med.regions.looks import measure_textures
from ravl_med.storage.mapped_arrays import map_parts, mapped_parts, release_pages
from ravl_med.storage.remote import FilePath

_FILMS = 512  # positions of a cohort whose regions are taken at a time


@dataclass(frozen=True, slots=True, eq=False)
class SplitFilms:
    """N films of a split, with R regions."""

    cohort: Cohort  # those that could be read; labels -1 where no task was given
    embeddings: Embeddings  # of these, by the audited model
    films: GrayFilms  # the same at the model's resolution
    regions: RegionTable  # in input pixels

    def __len__(self) -> int:
        return len(self.cohort)

    def require_other_pixels(self, other: SplitFilms, splits: tuple[str, str]) -> None:
        """Refuse films whose pixels are those of `other` films; the splits are its and theirs."""
        shared = len(set(self.embeddings.digests) & set(other.embeddings.digests))
        if shared:
            raise DataError(
                f"{self.cohort.name}: {shared} films of split {splits[0]!r} have the same pixels "
                f"as films of split {splits[1]!r}; expected none. Remove one of each pair."
            )

    def find(self, features: Sequence[ConfirmedFeature]) -> NDArray[np.bool_]:
        """Return which regions hold which feature, (R, F)."""
        detectors = [feature.detector for feature in features]
        own = self.embeddings
        shares = film_shares(own.region_boxes, own.sizes[own.region_image])
        found = np.zeros((len(shares), len(detectors)), dtype=np.bool_)
        start = 0
        for regions in mapped_parts(own.region):
            part = slice(start, start + len(regions))
            texture = partial(self._texture, first=start)
            found[part] = find_features(detectors, regions, shares[part], texture)
            start += len(regions)
        return found

    def _texture(self, regions: NDArray[np.int64], first: int) -> NDArray[np.float32]:
        """Measure how regions look, (n, T), that are numbered from `first` on."""
        rows = regions + first
        films = self.embeddings.region_image[rows]
        return measure_textures(self.films.input, films, self.regions.boxes[rows])

    def nearest(self, medoids: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the nearest of K medoids (K, D) of each region, (R,)."""
        nearest: NDArray[np.int64] = map_parts(
            self.embeddings.region, lambda regions: nearest_medoids(medoids, regions)
        )
        return nearest

    def present(self, found: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which films hold a region of which feature, (N, F)."""
        there = np.zeros((len(self), found.shape[1]), dtype=np.bool_)
        np.logical_or.at(there, self.embeddings.region_image, found)
        return there

    def region_parts(
        self, found: NDArray[np.bool_]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Yield the embeddings (r, D) of some regions at a time, and their rows of (R, F)."""
        last = int(self.embeddings.films[-1]) if len(self) else -1
        ends = np.searchsorted(self.embeddings.films, np.arange(0, last + _FILMS, _FILMS))
        starts = np.searchsorted(self.embeddings.region_image, ends)
        for start, end in pairwise(starts.tolist()):
            yield self.embeddings.region[start:end], found[start:end]
            release_pages(self.embeddings.region)

    def summary(self, role: str, least: int, rows: NDArray[np.bool_] | None = None) -> SplitSummary:
        """Count films and patients, of some of the films where `rows` (N,) says so.

        Counts of fewer than `least` patients are hidden, see `hide_counts`.
        """
        taken = np.ones(len(self), dtype=np.bool_) if rows is None else rows
        labels, patients = self.cohort.labels[taken], self.cohort.patients[taken]
        return summarise_split(role, labels, patients, self.cohort.classes, least)


def summarise_split(
    role: str,
    labels: NDArray[np.int64],
    patients: NDArray[np.int64],
    classes: tuple[str, ...],
    least: int,
) -> SplitSummary:
    """Count films, patients and the films of each class; those of few patients are hidden."""
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
    model: Model,
    run: Run,
    folder: Path,
    *,
    labelled: bool = True,
    reports: bool = False,
) -> SplitFilms:
    """Read a split once: keep its films at the model's resolution and embed them.

    What an earlier call has kept of the same films in the folder of the mitigation is found there.
    Unless the films are `labelled` they need no class. Radiology reports are blank unless they are
    asked for, since they take more memory than all else that is known of films.

    Raises
    ------
    ConfigError, DataError, EngineError
    """
    listed = list_films(config, manifest, split, labelled=labelled)
    if not reports:
        listed = replace(listed, radiology_reports=("",) * len(listed))
    with (
        using_threads(config.threads),
        opened_engine(config.engine, config.model.device, config.threads) as engine,
    ):
        kept = KeptTables(folder, split)
        embeddings = embed_with(engine, config, listed, model, run, kept)
    aside = (*embeddings.rejected, *films_not_finite(listed, embeddings))
    cohort = listed.keep(embeddings.films, aside)
    require_films(cohort, config.gate.max_rejected_fraction)
    inputs, info = embeddings.inputs, model[0].info
    assert inputs is not None  # `embed_with` has seen to it
    rows = np.arange(len(cohort), dtype=np.int64)
    boxes = _input_boxes(model[0], embeddings)
    return SplitFilms(
        cohort,
        embeddings,
        GrayFilms(inputs, rows, info.mean, info.std),
        RegionTable.of(boxes, embeddings.region_image, len(cohort)),
    )


def _input_boxes(encoder: Encoder, embeddings: Embeddings) -> NDArray[np.float32]:
    """Carry the boxes of regions (R, 4) into the input, all films of a size at a time."""
    boxes = np.empty((len(embeddings.region_boxes), 4), dtype=np.float32)
    sizes, size_of_film = np.unique(embeddings.sizes, axis=0, return_inverse=True)
    size_of_region = size_of_film.reshape(-1)[embeddings.region_image]
    for number, (height, width) in enumerate(sizes.tolist()):
        own = size_of_region == number
        boxes[own] = encoder.geometry(height, width).to_input(embeddings.region_boxes[own])
    release_pages(embeddings.region_boxes)
    return boxes
