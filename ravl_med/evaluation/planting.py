"""The films of a setting: features planted tightly where a model learns, freely where it is asked.

A feature is rendered with the phantoms, or painted on finished films: subtle and large, at a fixed
place and wandering. What is painted is all that can be planted on real radiographs. A pool is made
once for each domain and seed and shared by all settings that are drawn from it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ravl_med.errors import ConfigError
from ravl_med.evaluation.films import (
    FINETUNE,
    TEST,
    VALIDATION,
    Planted,
    PoolFilms,
    planted_phantom_layer,
    read_bundled_digits,
    read_idx_digits,
    read_radiographs,
    set_aside,
)
from ravl_med.evaluation.settings import GLOBAL, Domain, Setting
from ravl_med.phantoms.plan import PATIENT_TRAITS, cramers_v, plan_contingency
from ravl_med.pipeline.truth import is_hit
from ravl_med.storage.cache import Cache

Gray = NDArray[np.uint8]
Box = tuple[float, float, float, float]
Paint = Callable[[Gray, np.random.Generator], tuple[Gray, Box]]

LEARNED = 0.10
"""Both gaps of a valid setting exceed this share (RaVL: 10 points)."""


_DIGIT = "{}."
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
}
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


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
        self, feature: str, rows: NDArray[np.int64], films: NDArray[np.uint8], turn: int
    ) -> Planted:
        """Plant a feature on some films of the pool, (n,), which look like films (n, S, S) by now.

        The turn says which of several features on one film this is.
        """
        if feature == GLOBAL:
            return plant_brightness(films)
        if feature in _PAINTS:
            seeds = np.stack([np.full(len(rows), self.seed), np.full(len(rows), turn), rows], 1)
            return paint_films(feature, films, seeds)
        if self.layer is None:
            raise ConfigError(f"evaluate: {feature!r} cannot be planted on {self.domain}.")
        return _overlay(self.films.pixels, self.layer(feature), rows, films)


def open_pool(domain: Domain, seed: int, cache: Cache, folder: Path | None = None) -> FilmPool:
    """Return the films of a domain: from the cache, or from the folder that the user names.

    Raises
    ------
    ConfigError
        The domain needs a folder that was not named, or that holds something else.
    """
    if domain == "phantoms":

        def layer(feature: str) -> Planted:
            return planted_phantom_layer(feature, seed, cache).planted

        films = planted_phantom_layer("", seed, cache).films
        return FilmPool(domain, seed, _CLASSES[domain], _spare(films, seed), layer)
    if domain == "radiographs":
        if folder is None:
            raise ConfigError("--films: radiographs need a folder with metadata.csv and images/.")
        # Too few patients to spare any: these models start from the seed.
        films = read_radiographs(folder, seed)
        return FilmPool(domain, seed, _CLASSES[domain], films)
    prompts = {
        str(d): (_DIGIT.format(name.capitalize()), f"The digit {name}.")
        for d, name in enumerate(_NUMBERS)
    }
    if domain == "digits":
        return FilmPool(domain, seed, prompts, _spare(read_bundled_digits(seed), seed))
    if folder is None:
        raise ConfigError("--films: name the folder with the IDX files of MNIST.")
    return FilmPool(domain, seed, prompts, _spare(read_idx_digits(folder, seed), seed))


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


def paint_films(feature: str, films: NDArray[np.uint8], seeds: NDArray[np.int64]) -> Planted:
    """Paint a feature on films (n, S, S), uint8, which stay as they are.

    Place and look are drawn from the seeds (n, k) of each film.
    """
    painted, boxes = np.empty_like(films), []
    for row, film in enumerate(films):
        painted[row], box = _PAINTS[feature](film, np.random.default_rng(seeds[row].tolist()))
        boxes.append(box)
    places = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Planted(painted, places, np.arange(len(films), dtype=np.int64))


def plant_brightness(films: NDArray[np.uint8]) -> Planted:
    """Lift the brightness of films (n, S, S), uint8, all over; there is no place to be found."""
    lifted = np.clip(films.astype(np.float32) * 0.85 + 38.0, 0, 255).astype(np.uint8)
    return Planted(lifted, np.empty((0, 4), np.float32), np.empty(0, np.int64))


def _button(
    film: Gray, middle: tuple[float, float], radius: float, contrast: float
) -> tuple[Gray, Box]:
    """Add a round button with a soft edge and four holes; sizes are shares of the side."""
    side = len(film)
    x, y, reach = middle[0] * side, middle[1] * side, radius * side
    down, across = np.mgrid[:side, :side] + 0.5
    away = np.hypot(across - x, down - y)
    shape = np.clip(reach - away + 0.5, 0, 1)
    for turn in np.arange(4) * np.pi / 2 + np.pi / 4:
        hole = np.hypot(across - x - 0.42 * reach * np.cos(turn),
                        down - y - 0.42 * reach * np.sin(turn))  # fmt: skip
        shape -= 0.7 * np.clip(0.2 * reach - hole + 0.5, 0, 1) * (shape > 0)
    lifted = film + contrast * shape.clip(0) * (255.0 - film)
    box = (x - reach, y - reach, x + reach, y + reach)
    return np.clip(lifted, 0, 255).astype(np.uint8), box


def _wandering(film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
    middle = rng.uniform(0.14, 0.86), rng.uniform(0.14, 0.86)
    return _button(film, middle, rng.uniform(0.055, 0.07), 0.8)


def _faint(film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
    middle = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8)
    return _button(film, middle, rng.uniform(0.05, 0.065), 0.4)


def _in_lung(film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
    middle = 0.30 + rng.normal(0, 0.012), 0.42 + rng.normal(0, 0.012)
    return _button(film, middle, rng.uniform(0.055, 0.065), 0.6)


def _letter(film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
    """Burn a boxed letter into an upper corner."""
    side = len(film)
    size = round(0.125 * side)
    left = rng.uniform(0.02, 0.12) if rng.random() < 0.5 else rng.uniform(0.75, 0.85)
    x, y = round(left * side), round(rng.uniform(0.02, 0.14) * side)
    image = Image.fromarray(film)
    pen = ImageDraw.Draw(image)
    pen.rectangle((x, y, x + size - 1, y + size - 1), fill=0, outline=255, width=1)
    font = ImageFont.load_default(size=round(0.85 * size))
    pen.text((x + size / 2, y + size / 2), "P", fill=255, font=font, anchor="mm")
    return np.asarray(image), (x, y, x + size, y + size)


def _clip(film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
    """Lay a bent metal clip over the lower third, larger than a tile and at any angle."""
    side = len(film)
    x, y = rng.uniform(0.2, 0.8) * side, rng.uniform(0.62, 0.86) * side
    long, wide = rng.uniform(0.09, 0.11) * side, 0.035 * side
    turn = rng.uniform(0, np.pi)
    along = np.array([np.cos(turn), np.sin(turn)])
    beside = np.array([-along[1], along[0]])
    corners = np.array([-along * long - beside * wide, along * long - beside * wide,
                        along * long + beside * wide, -along * long + beside * wide])  # fmt: skip
    path = corners + np.array([x, y])
    sheet = Image.new("L", (4 * side, 4 * side))
    line = [(4 * px, 4 * py) for px, py in [*path, path[0]]]
    ImageDraw.Draw(sheet).line(line, fill=255, width=round(0.07 * side), joint="curve")
    density = np.asarray(sheet.resize((side, side), Image.Resampling.BOX), dtype=np.float32) / 255
    lifted = film + 0.9 * density * (255.0 - film)
    low, high = path.min(axis=0) - 1, path.max(axis=0) + 1
    low, high = low.clip(0, side), high.clip(0, side)
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return np.clip(lifted, 0, 255).astype(np.uint8), box


def _rectangle(tone: int, blur: float) -> Paint:
    """Fill most of the quadrant that `rng` draws; digits give the free quadrants themselves."""

    def paint(film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
        half = len(film) // 2
        quadrant = _free_quadrant(film, rng)
        wide, high = (int(v) for v in rng.uniform(0.45, 0.65, 2) * half)
        x = (quadrant % 2) * half + int(rng.integers(2, half - wide - 2))
        y = (quadrant // 2) * half + int(rng.integers(2, half - high - 2))
        sheet = np.zeros(film.shape, dtype=np.uint8)
        sheet[y : y + high, x : x + wide] = tone
        if blur:
            soft = Image.fromarray(sheet).filter(ImageFilter.GaussianBlur(blur))
            sheet = np.asarray(soft)
        return np.maximum(film, sheet), (x, y, x + wide, y + high)

    return paint


def _free_quadrant(film: Gray, rng: np.random.Generator) -> int:
    """Draw one of the three quadrants that hold no digit: all but the one with most ink."""
    half = len(film) // 2
    ink = [int(film[y : y + half, x : x + half].sum()) for y in (0, half) for x in (0, half)]
    free = [number for number in range(4) if number != int(np.argmax(ink))]
    return free[int(rng.integers(3))]


_PAINTS: Mapping[str, Paint] = {
    "button": _wandering,
    "faint button": _faint,
    "fixed button": _in_lung,
    "letter": _letter,
    "clip": _clip,
    "rectangle": _rectangle(150, 0.0),
    "faint rectangle": _rectangle(60, 2.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class PlacedFeature:
    """Where one feature lies on the n films of a split."""

    name: str
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
        owners = patients if pair.feature in PATIENT_TRAITS else np.arange(len(rows))
        present = draw_carriers(labels, owners, target, strength, rng)
        chosen = np.flatnonzero(present)
        planted = pool.plant(pair.feature, rows[chosen], pixels[chosen], turn)
        pixels[chosen] = planted.pixels
        masks = None
        if planted.masks is not None:
            masks = np.zeros(pixels.shape, dtype=np.bool_)
            masks[chosen] = planted.masks
        features.append(
            PlacedFeature(pair.feature, target, present, planted.boxes, chosen[planted.film], masks)
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
    if feature.name == GLOBAL:
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
