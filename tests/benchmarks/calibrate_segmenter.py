"""Thresholds of the built-in segmenter: what counts as found, and what has a name.

They are set on films that the networks have not seen: clean films that were kept back and the
validation films, as they are and with objects painted on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ravl_med.regions.film_structures import Artifact, find_artifacts
from ravl_med.regions.segmenter import ANY, LETTERS, OBJECTS, Segmentation
from tests.benchmarks.boxed_films import BoxedFilm, group_of, true_kinds
from tests.benchmarks.painted_objects import Masks, paint_objects

Segment = Callable[[NDArray[np.float32]], Segmentation]

_FALSE = {"compact": 0.15, "line": 0.2}  # objects a film on which nothing is
_PRECISION = 0.9  # of a name, and of letters
_STEPS = tuple(np.round(np.arange(0.1, 0.99, 0.04), 2).tolist())
_FEW = 5  # named objects; of fewer nothing is said, and the name needs certainty
_NEVER = 2.0  # no likelihood reaches it
_PAINTED = 6  # times each clean film is painted


def choose_thresholds(
    segment: Segment, films: Sequence[BoxedFilm], seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the least core of an object by structure, and the least mean likelihood by name."""
    seen = [(film, segment(film.read())) for film in films]
    clean = [answer for film, answer in seen if film.clean]
    boxed = [(film, answer) for film, answer in seen if film.boxed]
    found = {}
    for name, most in _FALSE.items():
        found[name] = _least(partial(_is_rare, clean, name, most * len(clean)))
    for name in LETTERS:
        found[name] = _least(partial(_is_right, boxed, name))
    real = [_judged(answer, found, partial(_true, film)) for film, answer in boxed]
    rng = np.random.default_rng([47, seed])
    painted = []
    for film, _ in seen:
        for _ in range(_PAINTED if film.clean else 0):
            pixels = film.read()
            masks = paint_objects(pixels, rng)
            painted.append(_judged(segment(pixels), found, partial(_painted, masks)))
    both = list(chain(*real)), list(chain(*painted))
    names = {kind: _least(partial(_is_sure, both, kind)) for kind in OBJECTS}
    return found, {kind: least if least < 1.0 else _NEVER for kind, least in names.items()}


def _least(holds: Callable[[float], bool]) -> float:
    return next((step for step in _STEPS if holds(step)), 1.0)


def _is_rare(clean: Sequence[Segmentation], name: str, most: float, least: float) -> bool:
    """Return whether few objects are found where nothing is."""
    unnamed = dict.fromkeys(OBJECTS, _NEVER)
    count = 0
    for answer in clean:
        artifacts, _, _ = find_artifacts(replace(answer, found={name: least}, names=unnamed))
        count += sum(one.kind == name for one in artifacts)
    return count <= most


def _is_right(boxed: Sequence[tuple[BoxedFilm, Segmentation]], name: str, least: float) -> bool:
    """Return whether enough letters lie in a box of letters."""
    met = [
        bool(true_kinds(one, film.boxes) & set(LETTERS))
        for film, answer in boxed
        for one in find_artifacts(replace(answer, found={name: least}))[0]
        if one.kind == name
    ]
    return not met or float(np.mean(met)) >= _PRECISION


Judged = tuple[Mapping[str, float], set[str]]
"""How likely each kind of an object is, and which it may be."""


def _judged(
    answer: Segmentation, found: Mapping[str, float], true: Callable[[Artifact], set[str] | None]
) -> list[Judged]:
    """Return the objects that may have a name; those are left out of which nothing is known."""
    unnamed = dict.fromkeys(OBJECTS, _NEVER)
    artifacts, _, _ = find_artifacts(replace(answer, found=found, names=unnamed))
    kinds = [(one.likely, true(one)) for one in artifacts if one.kind in (*ANY, *LETTERS)]
    return [(likely, known) for likely, known in kinds if known is not None]


def _true(film: BoxedFilm, artifact: Artifact) -> set[str] | None:
    """Return the kinds of the boxes that an artifact meets; boxes do not follow every strand."""
    kinds = true_kinds(artifact, film.boxes)
    return kinds if kinds or artifact.kind != "line" else None


def _painted(masks: Masks, artifact: Artifact) -> set[str]:
    return {kind_painted(masks, artifact.box, group_of(artifact.kind))}


def _is_sure(both: Sequence[Sequence[Judged]], kind: str, least: float) -> bool:
    """Return whether a name is right often enough, on real objects and on painted ones."""
    shares = []
    for judged in both:
        right = [kind in true for likely, true in judged if likely.get(kind, 0.0) >= least]
        if len(right) >= _FEW:
            shares.append(float(np.mean(right)))
    return bool(shares) and min(shares) >= _PRECISION


def kind_painted(masks: Masks, box: tuple[float, float, float, float], group: str) -> str:
    """Return the kind with the most pixels of its group in a box; blank where none is."""
    height, width = next(iter(masks.values())).shape
    x0, y0, x1, y1 = (
        round(edge * side) for edge, side in zip(box, (width, height) * 2, strict=True)
    )
    pixels = {
        kind: int(mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)].sum())
        for kind, mask in masks.items()
        if group_of(kind) == group or "line" not in (group, group_of(kind))
    }
    best = max(pixels, key=lambda kind: pixels[kind])
    return best if pixels[best] else ""
