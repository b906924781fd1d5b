"""The films of a setting: things planted tightly where a model learns, freely where it is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.evaluation.film_pool import FilmPool
from ravl_med.evaluation.painted_things import GLOBAL
from ravl_med.evaluation.pool_films import FINETUNE, TEST, VALIDATION
from ravl_med.evaluation.settings import Setting
from ravl_med.phantoms.plan import PATIENT_TRAITS, cramers_v, plan_contingency
from ravl_med.pipeline.truth import is_hit

LEARNED = 0.10
"""Both gaps of a valid setting exceed this share (RaVL: 10 points)."""


@dataclass(frozen=True, slots=True, eq=False)
class PlacedThing:
    """Where one thing lies on the n films of a split.

    Attributes
    ----------
    target : int - class that it is tied to
    present : ndarray of shape (n,), bool
    boxes : ndarray of shape (M, 4), float32 - xyxy in pixels of the film
    film : ndarray of shape (M,), int64 - ascending
    masks : ndarray of shape (n, S, S), bool, or None - of the lines that belong to it
    """

    name: str
    target: int
    present: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    film: NDArray[np.int64]
    masks: NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True, eq=False)
class SplitFilms:
    """n films of a split.

    Attributes
    ----------
    pixels : ndarray of shape (n, S, S), uint8
    labels, patients : ndarray of shape (n,), int64
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]
    things: tuple[PlacedThing, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class SettingFilms:
    """All films of a setting.

    Attributes
    ----------
    reached : tuple of float - Cramer's V of each pair on the films to fine-tune on
    """

    classes: tuple[str, ...]
    finetune: SplitFilms
    validation: SplitFilms
    reached: tuple[float, ...]


def make_films(setting: Setting, pool: FilmPool) -> SettingFilms:
    """Plant the things of a setting.

    Parameters
    ----------
    pool : FilmPool - of its domain and seed
    """
    finetune = _plant_split(setting, pool, FINETUNE, setting.strength)
    reached = tuple(
        cramers_v(finetune.labels == thing.target, thing.present) for thing in finetune.things
    )
    validation = _plant_split(setting, pool, VALIDATION, 0.0)
    return SettingFilms(pool.classes, finetune, validation, reached)


def plant_test(setting: Setting, pool: FilmPool) -> SplitFilms:
    """Plant the things of a setting on the films of the final test, where they are free."""
    return _plant_split(setting, pool, TEST, 0.0)


def _plant_split(setting: Setting, pool: FilmPool, split: int, strength: float) -> SplitFilms:
    """Plant the things of a setting on the films of one split.

    Parameters
    ----------
    split : int - of the pool
    strength : float - Cramer's V; 0 gives half of the films of each class the thing
    """
    rows = pool.films.rows(split)
    pixels = np.array(pool.films.pixels[rows])
    labels, patients = pool.films.labels[rows], pool.films.patients[rows]
    things = []
    for turn, pair in enumerate(setting.pairs):
        target = pool.classes.index(pair.finding)
        rng = np.random.default_rng([setting.seed, 50, split, turn, int(setting.digest[:8], 16)])
        owners = patients if pair.thing in PATIENT_TRAITS else np.arange(len(rows))
        present = draw_carriers(labels, owners, target, strength, rng)
        chosen = np.flatnonzero(present)
        planted = pool.plant(pair.thing, rows[chosen], pixels[chosen], turn)
        pixels[chosen] = planted.pixels
        masks = None
        if planted.masks is not None:
            masks = np.zeros(pixels.shape, dtype=np.bool_)
            masks[chosen] = planted.masks
        things.append(
            PlacedThing(pair.thing, target, present, planted.boxes, chosen[planted.film], masks)
        )
    return SplitFilms(pixels, labels, patients, tuple(things))


def draw_carriers(
    labels: NDArray[np.int64],
    patients: NDArray[np.int64],
    target: int,
    strength: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Decide which films carry a thing: all of a patient, or none.

    Devices are traits of patients; for what is laid on single films, each is a patient of its own.

    Parameters
    ----------
    labels, patients : ndarray of shape (n,), int64
    target : int - class that it is tied to
    strength : float - see `plan_contingency`

    Returns
    -------
    ndarray of shape (n,), bool
    """
    _, first, who, films = np.unique(
        patients, return_index=True, return_inverse=True, return_counts=True
    )
    carries = plan_contingency(labels[first], films.astype(np.int64), target, strength, rng)
    present: NDArray[np.bool_] = carries[who]
    return present


def learned_gaps(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], thing: PlacedThing
) -> tuple[float, float]:
    """Return the two gaps of RaVL's validity test by true presence.

    Parameters
    ----------
    labels, predictions : ndarray of shape (n,), int64

    Returns
    -------
    raised : float - accuracy on the tied class with minus without the thing
    lowered : float - the largest, over the other classes, of accuracy without minus with it
    """
    right = predictions == labels

    def gap(label: int) -> float:
        own = labels == label
        having, without = right[own & thing.present], right[own & ~thing.present]
        if not len(having) or not len(without):
            return math.nan
        return float(having.mean() - without.mean())

    others = [-gap(int(label)) for label in np.unique(labels) if label != thing.target]
    return gap(thing.target), float(np.nanmax(others))


def regions_on(
    thing: PlacedThing,
    boxes: NDArray[np.float32],
    film: NDArray[np.int64],
    *,
    touching: bool = False,
) -> NDArray[np.bool_]:
    """Tell which regions lie on a thing.

    Parameters
    ----------
    boxes : ndarray of shape (R, 4), float32 - xyxy in pixels of the film
    film : ndarray of shape (R,), int64
    touching : bool - any common area is enough; else half of the smaller box, or, of a line
        that belongs to the thing, as many pixels as half the shorter side of the region is long

    Returns
    -------
    ndarray of shape (R,), bool
    """
    if thing.name == GLOBAL:
        return thing.present[film]
    starts = np.searchsorted(thing.film, film)
    ends = np.searchsorted(thing.film, film, side="right")
    hit = np.zeros(len(boxes), dtype=np.bool_)
    for row in np.flatnonzero(thing.present[film]):
        own = thing.boxes[starts[row] : ends[row]]
        if touching:
            low = np.maximum(own[:, :2], boxes[row, :2])
            high = np.minimum(own[:, 2:], boxes[row, 2:])
            hit[row] = bool((high > low).all(axis=1).any())
        else:
            hit[row] = any(is_hit(boxes[row], box) for box in own)
        if thing.masks is not None:
            x0, y0, x1, y1 = np.rint(boxes[row]).astype(int)
            inside = int(thing.masks[film[row], max(y0, 0) : y1, max(x0, 0) : x1].sum())
            hit[row] |= inside >= (1 if touching else 0.5 * max(min(x1 - x0, y1 - y0), 1))
    return hit
