"""The films of a setting: marks planted tightly where a model learns, freely where it is asked.

A device is rendered with the phantoms; all else is painted on finished films, which is all that can
be done to real radiographs. A pool is made once for each domain and seed and shared by all settings
that are drawn from it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.errors import ConfigError
from ravl_med.evaluation.films import (
    FINETUNE,
    TEST,
    VALIDATION,
    Planted,
    PoolFilms,
    draw_garments,
    planted_phantom_layer,
    read_bundled_digits,
    read_idx_digits,
    read_nih,
    read_object,
    read_radiographs,
    set_aside,
)
from ravl_med.evaluation.painting import STYLES, Mark, paint
from ravl_med.evaluation.settings import GARMENTS, OBJECTS, Domain, Setting
from ravl_med.evidence.counterfactual.localisation import StructureReader
from ravl_med.phantoms.devices import FEATURES
from ravl_med.phantoms.plan import PATIENT_TRAITS, cramers_v, plan_contingency
from ravl_med.pipeline.stages import structure_reader
from ravl_med.pipeline.truth import is_hit
from ravl_med.regions.segmenter import built_in_segmenter
from ravl_med.storage.cache import Cache

LEARNED = 0.10
"""Both gaps of a valid setting exceed this share (RaVL: 10 points)."""

_PRETRAINED_ON = 0.3  # share of the patients to fine-tune on
_CLASSES: Mapping[Domain, Mapping[str, tuple[str, ...]]] = {
    "phantoms": {
        "cardiomegaly": ("Cardiomegaly.", "The heart is enlarged."),
        "pleural effusion": ("Pleural effusion.", "Blunted costophrenic angle with effusion."),
        "pneumothorax": ("Pneumothorax.", "Pneumothorax with a visible pleural line."),
        "consolidation": ("Consolidation.", "Focal airspace consolidation."),
        "no finding": ("No acute cardiopulmonary abnormality.", "Normal chest radiograph."),
    },
    "radiographs": {
        "present": ("The finding is present.", "Finding present."),
        "absent": ("The finding is absent.", "No finding of that kind."),
    },
    "nih": {
        "women": ("A woman.", "Chest radiograph of a woman."),
        "men": ("A man.", "Chest radiograph of a man."),
    },
    "garments": {name: (f"A {name}.", f"Picture of a {name}.") for name in GARMENTS},
}
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGITS = {
    str(d): (f"{name.capitalize()}.", f"The digit {name}.") for d, name in enumerate(_NUMBERS)
}


@dataclass(frozen=True, slots=True, eq=False)
class FilmPool:
    """Films of a domain and what can be planted on them."""

    domain: Domain
    seed: int
    prompts: Mapping[str, tuple[str, ...]]  # by class, in the order of the labels
    films: PoolFilms
    layer: Callable[[str], Planted] | None = None  # all films with a rendered feature

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.prompts)

    @property
    def digest(self) -> str:
        """SHA-256 of pixels, labels and splits."""
        digest = hashlib.sha256()
        for part in (self.films.pixels, self.films.labels, self.films.split):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def plant(
        self, mark: Mark, rows: NDArray[np.int64], films: NDArray[np.uint8], turn: int
    ) -> Planted:
        """Plant a mark on some films of the pool, (n,), which look like films (n, S, S) by now.

        The turn says which of several marks on one film this is.
        """
        if mark.shape in FEATURES:
            if self.layer is None:
                raise ConfigError(f"evaluate: {mark.shape!r} cannot be planted on {self.domain}.")
            return _overlay(self.films.pixels, self.layer(mark.shape), rows, films)
        seeds = np.stack([np.full(len(rows), self.seed), np.full(len(rows), turn), rows], axis=1)
        return paint_films(mark, films, seeds)

    def structures(self, films: SplitFilms, split: int, cache: Cache) -> StructureReader:
        """Return what finds anatomy and artifacts of the films of a split.

        On chest films the segmenter that comes along does; an object lies where it is known to.
        """
        if self.domain in OBJECTS:
            plain = self.films.pixels[self.films.rows(split)]
            return lru_cache(lambda film: read_object(plain[film], films.pixels[film]))
        return structure_reader(
            built_in_segmenter(),
            lambda film: films.pixels[film].astype(np.float32) / np.float32(255.0),
            cache=cache,  # settings of a seed share the films that nothing is painted on
            held=None,  # some hundreds, which every claim asks for
        )


def open_pool(domain: Domain, seed: int, cache: Cache, folder: Path | None = None) -> FilmPool:
    """Return the films of a domain: from the cache, or from the folder that the user names.

    Raises
    ------
    ConfigError
        The domain needs a folder that was not named, or that holds something else.
    """
    if domain == "phantoms":

        def layer(device: str) -> Planted:
            return planted_phantom_layer(device, seed, cache).planted

        films = planted_phantom_layer("", seed, cache).films
        return FilmPool(domain, seed, _CLASSES[domain], _spare(films, seed), layer)
    if domain == "garments":
        return FilmPool(domain, seed, _CLASSES[domain], _spare(draw_garments(seed), seed))
    if domain == "digits":
        return FilmPool(domain, seed, _DIGITS, _spare(read_bundled_digits(seed), seed))
    if folder is None:
        raise ConfigError(
            f"--films: {domain} need a folder with {_FOLDERS[domain]}; name it as "
            f"--films {domain}=FOLDER."
        )
    if domain == "mnist":
        return FilmPool(domain, seed, _DIGITS, _spare(read_idx_digits(folder, seed), seed))
    # Too few patients to spare any: these models start from the seed.
    read = read_radiographs if domain == "radiographs" else read_nih
    return FilmPool(domain, seed, _CLASSES[domain], read(folder, seed))


_FOLDERS: Mapping[Domain, str] = {
    "radiographs": "metadata.csv and images/",
    "nih": "films.csv and films/",
    "mnist": "the IDX files of MNIST",
}


def _spare(films: PoolFilms, seed: int) -> PoolFilms:
    """Set some patients aside, to pre-train on."""
    return set_aside(films, _PRETRAINED_ON, np.random.default_rng([seed, 45]))


def _overlay(
    plain: NDArray[np.uint8], layer: Planted, rows: NDArray[np.int64], films: NDArray[np.uint8]
) -> Planted:
    """Put a rendered feature on films: what it changed on the plain film is changed here too."""
    change = layer.pixels[rows].astype(np.int16) - plain[rows]
    pixels = np.clip(films.astype(np.int16) + change, 0, 255).astype(np.uint8)
    order = np.argsort(layer.film, kind="stable")
    starts = np.searchsorted(layer.film[order], rows)
    ends = np.searchsorted(layer.film[order], rows, side="right")
    taken = [order[a:b] for a, b in zip(starts, ends, strict=True)]
    film = np.repeat(np.arange(len(rows), dtype=np.int64), [len(part) for part in taken])
    boxes = layer.boxes[np.concatenate(taken).astype(np.int64)] if taken else layer.boxes[:0]
    masks = None if layer.masks is None else layer.masks[rows]
    return Planted(pixels, boxes, film, masks)


def paint_films(mark: Mark, films: NDArray[np.uint8], seeds: NDArray[np.int64]) -> Planted:
    """Paint a mark on films (n, S, S), uint8, which stay as they are.

    Place and look are drawn from the seeds (n, k) of each film.
    """
    painted, boxes, film = np.empty_like(films), [], []
    for row, plain in enumerate(films):
        rng = np.random.default_rng(seeds[row].tolist())
        painted[row], box = paint(mark, plain, rng)
        if box:
            boxes.append(box)
            film.append(row)
    places = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Planted(painted, places, np.array(film, dtype=np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class PlacedFeature:
    """Where one feature lies on the n films of a split."""

    name: str  # the shape of its mark
    target: int  # class that it is tied to
    present: NDArray[np.bool_]  # (n,)
    boxes: NDArray[np.float32]  # (M, 4), xyxy in pixels of the film
    film: NDArray[np.int64]  # (M,), ascending
    masks: NDArray[np.bool_] | None  # (n, S, S), of the lines that belong to it


@dataclass(frozen=True, slots=True, eq=False)
class SplitFilms:
    """n films of a split."""

    pixels: NDArray[np.uint8]  # (n, S, S)
    labels: NDArray[np.int64]  # (n,)
    patients: NDArray[np.int64]  # (n,)
    features: tuple[PlacedFeature, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class SettingFilms:
    """All films of a setting, and Cramer's V of each pair on those to fine-tune on."""

    finetune: SplitFilms
    validation: SplitFilms
    reached: tuple[float, ...]


def make_films(setting: Setting, pool: FilmPool) -> SettingFilms:
    """Plant the features of a setting on the films of a pool of its domain and seed."""
    finetune = _plant_split(setting, pool, FINETUNE, setting.strength)
    reached = tuple(
        cramers_v(finetune.labels == feature.target, feature.present)
        for feature in finetune.features
    )
    validation = _plant_split(setting, pool, VALIDATION, 0.0)
    return SettingFilms(finetune, validation, reached)


def plant_test(setting: Setting, pool: FilmPool) -> SplitFilms:
    """Plant the features of a setting on the films of the final test, where they are free."""
    return _plant_split(setting, pool, TEST, 0.0)


def _plant_split(setting: Setting, pool: FilmPool, split: int, strength: float) -> SplitFilms:
    """Plant the features of a setting on one split; V of 0 gives half of each class the feature."""
    rows = pool.films.rows(split)
    pixels = np.array(pool.films.pixels[rows])
    labels, patients = pool.films.labels[rows], pool.films.patients[rows]
    features = []
    for turn, pair in enumerate(setting.pairs):
        target = pool.classes.index(pair.finding)
        rng = np.random.default_rng([setting.seed, 50, split, turn, int(setting.digest[:8], 16)])
        owners = patients if pair.mark.shape in PATIENT_TRAITS else np.arange(len(rows))
        present = draw_carriers(labels, owners, target, strength, rng)
        chosen = np.flatnonzero(present)
        planted = pool.plant(pair.mark, rows[chosen], pixels[chosen], turn)
        pixels[chosen] = planted.pixels
        masks = None
        if planted.masks is not None:
            masks = np.zeros(pixels.shape, dtype=np.bool_)
            masks[chosen] = planted.masks
        features.append(
            PlacedFeature(
                pair.mark.shape, target, present, planted.boxes, chosen[planted.film], masks
            )
        )
    return SplitFilms(pixels, labels, patients, tuple(features))


def draw_carriers(
    labels: NDArray[np.int64],
    patients: NDArray[np.int64],
    target: int,
    strength: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Decide which films (n,) carry a feature: all of a patient, or none.

    Devices are traits of patients; for what is laid on single films, each is a patient of its own.
    """
    _, first, who, films = np.unique(
        patients, return_index=True, return_inverse=True, return_counts=True
    )
    carries = plan_contingency(labels[first], films.astype(np.int64), target, strength, rng)
    present: NDArray[np.bool_] = carries[who]
    return present


def learned_gaps(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], feature: PlacedFeature
) -> tuple[float, float]:
    """Return the two gaps of RaVL's validity test by true presence, on films (n,).

    Returns
    -------
    raised : float - accuracy on the tied class with minus without the feature
    lowered : float - the largest, over the other classes, of accuracy without minus with it
    """
    right = predictions == labels

    def gap(label: int) -> float:
        own = labels == label
        having, without = right[own & feature.present], right[own & ~feature.present]
        if not len(having) or not len(without):
            return math.nan
        return float(having.mean() - without.mean())

    others = [-gap(int(label)) for label in np.unique(labels) if label != feature.target]
    return gap(feature.target), float(np.nanmax(others))


def regions_on(
    feature: PlacedFeature,
    boxes: NDArray[np.float32],
    film: NDArray[np.int64],
    *,
    touching: bool = False,
) -> NDArray[np.bool_]:
    """Return which regions (R, 4), xyxy in pixels of their films (R,), lie on a feature.

    Touching: any common area is enough. Otherwise half of the smaller box is shared, or, of a line
    that belongs to the feature, as many pixels as half the shorter side of the region is long.
    """
    if feature.name in STYLES:
        return feature.present[film]
    starts = np.searchsorted(feature.film, film)
    ends = np.searchsorted(feature.film, film, side="right")
    hit = np.zeros(len(boxes), dtype=np.bool_)
    for row in np.flatnonzero(feature.present[film]):
        own = feature.boxes[starts[row] : ends[row]]
        if touching:
            low = np.maximum(own[:, :2], boxes[row, :2])
            high = np.minimum(own[:, 2:], boxes[row, 2:])
            hit[row] = bool((high > low).all(axis=1).any())
        else:
            hit[row] = any(is_hit(boxes[row], box) for box in own)
        if feature.masks is not None:
            x0, y0, x1, y1 = np.rint(boxes[row]).astype(int)
            inside = int(feature.masks[film[row], max(y0, 0) : y1, max(x0, 0) : x1].sum())
            hit[row] |= inside >= (1 if touching else 0.5 * max(min(x1 - x0, y1 - y0), 1))
    return hit
