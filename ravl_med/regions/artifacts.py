"""Regions of what is not of the body: devices, letters, metal, and what was not exposed.

Boxes of letters, brought from the grid of a network to the pixels of the film.

A letter is a few pixels of 256 wide; half a pixel at each side is much of it. On the film it stands
out from its surroundings, bright or dark, so its box can be read there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from ravl_med.regions.geometry import box_overlap
from ravl_med.regions.segmenter import ARTIFACTS, LINES, Segmentation

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


_AROUND, _LEAST_AROUND = 0.35, 3  # of a box's sides, and pixels, that are looked at around it
_STRONG = 0.45  # of the strongest contrast in a box, from which a pixel is ink
_FAINT = 0.04  # contrast below which nothing stands out
_TAIL = 0.95
_NEAR = 0.3  # overlap below which another thing was found
_FEW = 8  # pixels that say nothing of the surroundings


def refine_box(
    pixels: NDArray[np.float32], box: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """Fit a box to what stands out in it.

    Parameters
    ----------
    pixels : ndarray of shape (H, W), float32 in [0, 1]
    box : tuple of float - xyxy as shares of width and height

    Returns
    -------
    tuple of float - the same way; `box` itself where nothing stands out, or not there
    """
    height, width = pixels.shape
    sides = np.array([width, height, width, height])
    old = np.array(box) * sides
    around = np.maximum(_AROUND * (old[2:] - old[:2]), _LEAST_AROUND)
    low = np.maximum(np.floor(old[:2] - around), 0).astype(int)
    high = np.minimum(np.ceil(old[2:] + around), [width, height]).astype(int)
    crop = pixels[low[1] : high[1], low[0] : high[0]]
    first = np.maximum(np.floor(old[:2]).astype(int) - low, 0)
    last = np.ceil(old[2:]).astype(int) - low
    inner = np.zeros(crop.shape, dtype=np.bool_)
    inner[first[1] : last[1], first[0] : last[0]] = True
    ink = _find_ink(crop, inner)
    if ink is None:
        return box
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    new = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) + np.tile(low, 2)
    if box_overlap(old, new.astype(np.float64)) < _NEAR:
        return box
    x0, y0, x1, y1 = (new / sides).tolist()
    return x0, y0, x1, y1


def _find_ink(crop: NDArray[np.float32], inner: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Pixels that stand out from what is around a box and lie mostly in it."""
    ring = crop[~inner]
    if ring.size < _FEW or inner.sum() < _FEW:
        return None
    change = crop - np.median(ring)
    bright, dark = np.quantile(change[inner], [_TAIL, 1.0 - _TAIL])
    if -dark > bright:
        change, bright = -change, -dark
    if bright < _FAINT:
        return None
    parts, count = label(change > _STRONG * bright, structure=np.ones((3, 3)))
    size = np.bincount(parts.ravel(), minlength=count + 1)
    within = np.bincount(parts[inner], minlength=count + 1)
    mostly = np.flatnonzero(within[1:] >= 0.5 * size[1:]) + 1
    return np.isin(parts, mostly) if len(mostly) else None
