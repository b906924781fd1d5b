"""Regions of what is not of the body: devices, letters, metal, and what was not exposed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from ravl_med.regions.segmentation import Segmentation
from ravl_med.regions.structures import ARTIFACTS, LINES

__all__ = ["ARTIFACT_NAMES", "Artifact", "find_artifacts"]

Mask = NDArray[np.bool_]
Rows = tuple[slice, slice]

ARTIFACT_NAMES = {
    "generator": "pulse generator",
    "lead": "pacing lead",
    "tube": "tube or line",
    "electrode": "electrode",
    "wire": "wire",
    "marker": "laterality marker",
    "text": "burned-in text",
    "metal": "metal",
    "border": "film border",
}
"""What a report calls each of `ARTIFACTS`."""

_LEAST = {"generator": 60, "text": 12, "marker": 20, "electrode": 10, "metal": 10}
# Chosen on phantoms, where nothing is lost, and on real films without devices, where fewer are
# false.
_CERTAIN = {"tube": 0.6, "metal": 0.6, "electrode": 0.8}
_HALF = 0.5
_LEAST_LINE = 24  # pixels of 256 x 256 below which a thing is a speck
_COMPACT = ("generator", "electrode", "marker", "text", "metal")
_LONG, _SPARSE = 0.35, 0.25  # a box that is longer, and filled less, is cut in two
_SAME, _MUCH = 0.6, 6.0  # one thing is not of two kinds; but a letter may lie on a border
_BORDER_ROWS = 0.6  # share of a row that has to be border


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """Something on a film that is not of the body.

    Attributes
    ----------
    kind : str - one of `ARTIFACTS`
    score : float - mean likelihood of its pixels, 0.5 to 1
    box : tuple of float - xyxy as shares of the film's width and height
    """

    kind: str
    score: float
    box: tuple[float, float, float, float]

    @property
    def name(self) -> str:
        """What a report calls it."""
        return ARTIFACT_NAMES[self.kind]


def find_artifacts(film: Segmentation) -> tuple[Artifact, ...]:
    """Find what is not of the body.

    A lead that runs across the chest is several regions, since the box around all of it would be
    mostly chest. Where one thing is seen as two kinds, the more certain one stays.

    Parameters
    ----------
    film : Segmentation

    Returns
    -------
    tuple of Artifact - by score, the most certain first
    """
    found: list[Artifact] = []
    for kind in ARTIFACTS:
        mask = film.mask(kind, certain=_CERTAIN.get(kind, _HALF))
        if not mask.any():
            continue
        parts = _strips(mask) if kind == "border" else _things(mask, kind)
        for rows in parts:
            inside = film.likelihoods[kind][rows][mask[rows]]
            height, width = mask.shape
            down, across = rows
            box = (
                across.start / width,
                down.start / height,
                across.stop / width,
                down.stop / height,
            )
            found.append(Artifact(kind, float(inside.mean()), box))
    kept: list[Artifact] = []
    for one in sorted(found, key=lambda artifact: -artifact.score):
        rivals = [other for other in kept if other.kind in _COMPACT and other.kind != one.kind]
        # A line is not in most of its box: it says nothing of what lies there.
        if one.kind not in _COMPACT or all(_shared(one.box, o.box) < _SAME for o in rivals):
            kept.append(one)
    return tuple(kept)


def _shared(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Share of the smaller of two boxes that lies in the other, where neither is much larger."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    if wide <= 0 or high <= 0 or max(areas) > _MUCH * min(areas):
        return 0.0
    return wide * high / min(areas)


def _things(mask: Mask, kind: str) -> Iterator[Rows]:
    parts, _ = label(mask, structure=np.ones((3, 3)))
    least = _LEAST.get(kind, _LEAST_LINE)
    for number, (down, across) in enumerate(find_objects(parts), start=1):
        here = parts[down, across] == number
        if here.sum() >= least:
            rows = (down, across)
            yield from _cut(here, rows, least) if kind in LINES else (rows,)


def _cut(mask: Mask, rows: Rows, least: int) -> Iterator[Rows]:
    """Halve what is long and thin until each box is about what it holds."""
    down, across = rows
    sides = (down.stop - down.start, across.stop - across.start)
    size = 256
    if max(sides) <= _LONG * size or mask.mean() >= _SPARSE:
        yield rows
        return
    axis = int(sides[1] > sides[0])
    half = sides[axis] // 2
    for part in (slice(0, half), slice(half, sides[axis])):
        piece = mask[part] if axis == 0 else mask[:, part]
        if piece.sum() < least:
            continue
        high, wide = np.flatnonzero(piece.any(axis=1)), np.flatnonzero(piece.any(axis=0))
        top = down.start + (part.start if axis == 0 else 0)
        left = across.start + (part.start if axis == 1 else 0)
        inner = (
            slice(top + int(high[0]), top + int(high[-1]) + 1),
            slice(left + int(wide[0]), left + int(wide[-1]) + 1),
        )
        yield from _cut(piece[high[0] : high[-1] + 1, wide[0] : wide[-1] + 1], inner, least)


def _strips(mask: Mask) -> Iterator[Rows]:
    """Find strips along the four sides of a film."""
    height, width = mask.shape
    full_rows = mask.mean(axis=1) > _BORDER_ROWS
    full_columns = mask.mean(axis=0) > _BORDER_ROWS

    def run(full: NDArray[np.bool_]) -> int:
        return len(full) if full.all() else int(np.argmin(full))

    whole = slice(0, height), slice(0, width)
    for length, rows in (
        (run(full_rows), lambda n: (slice(0, n), whole[1])),
        (run(full_rows[::-1]), lambda n: (slice(height - n, height), whole[1])),
        (run(full_columns), lambda n: (whole[0], slice(0, n))),
        (run(full_columns[::-1]), lambda n: (whole[0], slice(width - n, width))),
    ):
        if length > 1:
            yield rows(length)
