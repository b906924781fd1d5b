"""Where the mitigated features lie in the films to fine-tune on, asked by the workers of an engine.

The films are those that the model will be trained on, at its resolution; none is decoded again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.config import Config
from ravl_med.discovery.detector import FeatureDetector
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.precision import using_threads
from ravl_med.engine.opening import opened_engine
from ravl_med.engine.work import Work
from ravl_med.evidence.audited_images import AuditedImages
from ravl_med.evidence.bench import Bench
from ravl_med.evidence.counterfactual import Probe, build_bench
from ravl_med.evidence.places import choose_shifts
from ravl_med.mitigation.fine_tuning_set import FilmStore, RegionTable
from ravl_med.mitigation.spurious_regions import carriers_in, films_to_explore, regions_by_film
from ravl_med.pipeline.setting import Setting, staged
from ravl_med.pipeline.split_films import SplitFilms
from ravl_med.pipeline.stages import open_model_of

__all__ = ["locate_features"]

_FILMS = 256  # of a unit

Located = tuple[NDArray[np.int64], NDArray[np.float32]]


def locate_features(
    setting: Setting, split: SplitFilms, found: NDArray[np.bool_]
) -> tuple[RegionTable, list[int]]:
    """Find the regions that carry the features, by removal.

    Parameters
    ----------
    setting : Setting
    split : SplitFilms - N films
    found : ndarray of shape (R, F), bool - regions of each feature

    Returns
    -------
    carriers : RegionTable - of all features together, in input pixels
    located : list of int, length F - films located by each feature

    Raises
    ------
    EngineError
        Workers died.
    """
    where, boxes, located = [], [], []
    for number, feature in enumerate(setting.features):
        stage = f"locate feature {number + 1} of {len(setting.features)} by removal"
        progress = staged(setting.progress, stage)
        films, places = _locate(setting, split, found[:, number], feature.detector, progress)
        where.append(films)
        boxes.append(places)
        located.append(len(np.unique(films)))
    film = np.concatenate(where)
    order = np.argsort(film, kind="stable")
    return RegionTable.of(np.concatenate(boxes)[order], film[order], len(split)), located


@dataclass(frozen=True, slots=True, eq=False)
class _Unit:
    """Some films of a split, called 0, 1, ..., and the regions of a feature on them.

    Attributes
    ----------
    films : ndarray of shape (n,), int64 - what they are called in the split
    images : AuditedImages - with the regions of the feature alone
    store : FilmStore
    detector : FeatureDetector
    shifts : ndarray of shape (s, 2), float64, or None - None before they are chosen
    """

    films: NDArray[np.int64]
    images: AuditedImages
    store: FilmStore
    detector: FeatureDetector
    shifts: NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls,
        split: SplitFilms,
        regions: dict[int, NDArray[np.int64]],
        films: list[int],
        detector: FeatureDetector,
    ) -> _Unit:
        """Take some films out of a split, with the regions of each."""
        own = np.array(films, dtype=np.int64)
        rows = np.concatenate([regions[film] for film in films])
        none = np.zeros(len(own), dtype=np.int64)
        images = AuditedImages(
            classes=split.cohort.classes,
            labels=none,
            predictions=none,
            patients=none,
            sizes=split.kept.sizes[own],
            region_image=np.repeat(np.arange(len(own)), [len(regions[film]) for film in films]),
            region_boxes=split.kept.boxes[rows],
        )
        return cls(own, images, replace(split.films, rows=split.films.rows[own]), detector)

    def regions(self) -> dict[int, NDArray[np.int64]]:
        """Return the regions of each film."""
        image = self.images.region_image
        return regions_by_film(np.ones(len(image), dtype=np.bool_), image)


@dataclass(frozen=True, slots=True, eq=False)
class _Locator:
    """What a worker holds: the model, and what the classes are called in its space."""

    config: Config
    encoder: Encoder
    classes: NDArray[np.float32]

    def bench(self, unit: _Unit) -> Bench:
        """Put the films of a unit on a bench, as they will be trained on."""

        def read(film: int) -> NDArray[np.float32]:
            store = unit.store
            picture: NDArray[np.float32] = store.inputs(store.read(np.array([film])))[0].numpy()
            return picture

        probe = Probe(
            self.encoder, read, self.classes, self.config.task.temperature,
            self.config.model.batch_size,
        )  # fmt: skip
        sides = unit.detector.raised_class, unit.detector.lowered_class
        return replace(build_bench(probe, *sides, unit.images), read=read)

    def choose(self, unit: _Unit) -> NDArray[np.float64]:
        """Choose how regions are moved, on all films of a unit."""
        regions = unit.regions()
        return choose_shifts(self.bench(unit), list(regions), regions)

    def locate(self, unit: _Unit) -> Located:
        """Find the regions that carry the feature, by the films' names in the split."""
        assert unit.shifts is not None  # they are chosen before units are sent
        found, boxes = carriers_in(self.bench(unit), unit.detector, unit.regions(), unit.shifts)
        return unit.films[found], boxes


def _locate(
    setting: Setting,
    split: SplitFilms,
    found: NDArray[np.bool_],
    detector: FeatureDetector,
    progress: Callable[[int, int], None],
) -> Located:
    config = setting.config
    regions = regions_by_film(found, split.region_image)
    films = list(regions)
    if not films:
        return np.empty(0, np.int64), np.empty((0, 4), np.float32)
    own = _Locator(config, setting.encoder, setting.classes)
    with using_threads(config.threads), opened_engine(config) as engine:
        shifts = own.choose(_Unit.of(split, regions, films_to_explore(films), detector))
        units = [
            replace(_Unit.of(split, regions, films[i : i + _FILMS], detector), shifts=shifts)
            for i in range(0, len(films), _FILMS)
        ]
        work: Work[_Unit, Located] = Work(
            open=partial(_open_locator, config, setting.start, setting.classes),
            here=lambda: own.locate,
            threads=config.threads or 1,
            name="location of features",
        )
        done: list[Located] = []
        for located in engine.map(work, units):
            done.append(located)
            progress(min(len(done) * _FILMS, len(films)), len(films))
    return np.concatenate([w for w, _ in done]), np.concatenate([b for _, b in done])


def _open_locator(
    config: Config, model: Path, classes: NDArray[np.float32]
) -> Callable[[_Unit], Located]:
    return _Locator(config, open_model_of(config, model), classes).locate
