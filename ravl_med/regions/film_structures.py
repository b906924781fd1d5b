"""Anatomy and artifacts of one film: devices, letters, metal, and what was not exposed.

Boxes of letters are refined on the film itself: a letter is a few pixels of 256 wide, so half a
pixel at each side matters, and it stands out from its surroundings, bright or dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from ravl_med.regions.anatomy import anatomical_names, find_anatomy
from ravl_med.regions.geometry import box_overlap
from ravl_med.regions.segmenter import ARTIFACTS, LETTERS, LINES, SIDE, Segmentation, Segmenter

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
"""The name of each of `ARTIFACTS` in the report."""

_LEAST = {"generator": 60, "text": 12, "marker": 20, "electrode": 10, "metal": 10}
# Chosen on phantoms, so that none is lost, and on real films without devices, for fewer false ones.
_CERTAIN = {"tube": 0.6, "metal": 0.6, "electrode": 0.8}
_HALF = 0.5
_LEAST_LINE = 24  # pixels of 256 x 256 below which an object is a speck
_COMPACT = ("generator", "electrode", "marker", "text", "metal")
_LONG, _SPARSE = 0.35, 0.25  # a box that is longer, and filled less, is cut in two
_SAME, _MUCH = 0.6, 6.0  # an object has one kind; but a letter may lie on a border
_BORDER_ROWS = 0.6  # share of a row that has to be border
_AROUND, _LEAST_AROUND = 0.35, 3  # of a box's sides, and pixels, of the surroundings that count
_STRONG = 0.45  # of the strongest contrast in a box, from which a pixel is ink
_FAINT = 0.04  # contrast below which nothing stands out
_TAIL = 0.95
_NEAR = 0.3  # overlap below which another object was found
_FEW = 8  # pixels, too few to know the surroundings


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """An object on a film that is not part of the body."""

    kind: str  # of `ARTIFACTS`
    score: float  # mean likelihood of its pixels, 0.5 to 1
    box: tuple[float, float, float, float]  # xyxy as shares of the film's width and height

    @property
    def name(self) -> str:
        """Return its name in the report."""
        return ARTIFACT_NAMES[self.kind]


def find_artifacts(film: Segmentation) -> tuple[Artifact, ...]:
    """Find artifacts, the most certain first.

    A lead that runs across the chest is several regions, since the box around all of it would be
    mostly chest. An object that is seen as two kinds is the more certain one.
    """
    found: list[Artifact] = []
    for kind in ARTIFACTS:
        mask = film.mask(kind, certain=_CERTAIN.get(kind, _HALF))
        if not mask.any():
            continue
        parts = _strips(mask) if kind == "border" else _objects(mask, kind)
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
        # A line fills little of its box, so others may lie there.
        if one.kind not in _COMPACT or all(_shared(one.box, o.box) < _SAME for o in rivals):
            kept.append(one)
    return tuple(kept)


def _shared(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Return the share of the smaller box that lies in the other, where neither is much larger."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    if wide <= 0 or high <= 0 or max(areas) > _MUCH * min(areas):
        return 0.0
    return wide * high / min(areas)


def _objects(mask: Mask, kind: str) -> Iterator[Rows]:
    """Yield the connected objects of a mask; long thin ones in parts."""
    parts, _ = label(mask, structure=np.ones((3, 3)))
    least = _LEAST.get(kind, _LEAST_LINE)
    for number, (down, across) in enumerate(find_objects(parts), start=1):
        here = parts[down, across] == number
        if here.sum() >= least:
            rows = (down, across)
            yield from _cut(here, rows, least) if kind in LINES else (rows,)


def _cut(mask: Mask, rows: Rows, least: int) -> Iterator[Rows]:
    """Halve a long and thin object until each box is mostly filled."""
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


def refine_box(
    pixels: NDArray[np.float32], box: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """Fit a box to the ink in it; return it unchanged where nothing, or something else, stands out.

    The film is (H, W) in [0, 1]; boxes are xyxy as shares of width and height.
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
    """Return the pixels that stand out from the surroundings of a box and lie mostly in it."""
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


_PLACES = (
    *(
        f"{side} {part}"
        for part in ("upper lung zone", "middle lung zone", "lower lung zone", "shoulder")
        for side in ("right", "left")
    ),
    "cardiac silhouette",
    "mediastinum",
    "trachea and neck",
    "upper abdomen",
    "outside the body",
)
"""Places that do not overlap, apart from the heart, which lies over the lungs."""

_MEANT = 0.3  # share of a box that has to lie in its place


@dataclass(frozen=True, slots=True, eq=False)
class FilmStructures:
    """Anatomy and artifacts of a film, which is squashed to a square for all masks (S, S)."""

    anatomy: Mapping[str, Mask]  # of `ANATOMICAL_REGIONS`; empty where it is no frontal chest film
    artifacts: tuple[Artifact, ...]  # the most certain first
    foreign: Mask  # where any artifact lies
    lines: Mask  # where any lead, tube or wire lies

    def region(self, names: Sequence[str]) -> Mask | None:
        """Return where any of some anatomical regions lies, (S, S); None where none was found."""
        found = [
            self.anatomy[part]
            for name in names
            for part in anatomical_names(name)
            if part in self.anatomy
        ]
        if not found:
            return None
        together: Mask = np.any(found, axis=0)
        return together

    def artifacts_in(self, box: Sequence[float]) -> tuple[str, ...]:
        """Return the names of the artifacts that a box, xyxy as shares of the film, holds.

        A box holds an artifact if half of that lies in it, or if it covers a sixth of the box.
        """
        names = [
            artifact.name
            for artifact in self.artifacts
            if _common(artifact.box, box) >= min(0.5 * _area(artifact.box), _area(box) / 6.0)
        ]
        return tuple(dict.fromkeys(names))

    def place(self, box: Sequence[float]) -> str:
        """Return the place where a box, xyxy as shares of the film, lies; blank where none fits."""
        shares = {name: _share(self.anatomy[name], box) for name in _PLACES if name in self.anatomy}
        heart = shares.get("cardiac silhouette", 0.0)
        if heart >= 0.5:
            return "cardiac silhouette"
        best = max(shares, key=lambda name: shares[name], default="")
        return best if best and shares[best] >= _MEANT else ""


_EMPTY: Mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
NOTHING = FilmStructures({}, (), _EMPTY, _EMPTY)
"""The structures of a film about which nothing is known."""


def read_structures(
    segmenter: Segmenter, pixels: NDArray[np.float32], *, mirrored: bool = False
) -> FilmStructures:
    """Find anatomy and artifacts of a film (H, W), float32 in [0, 1].

    Segmenters take the left half of a chest film for the patient's right. A mirrored film, with the
    patient's left at its left edge, is turned for them, and their masks are turned back: the sides
    in names are the patient's, the places those of the film.
    """
    if mirrored:
        turned = np.ascontiguousarray(pixels[:, ::-1])
        return _turned(read_structures(segmenter, turned))
    film: Segmentation = segmenter.segment(pixels)
    artifacts = tuple(
        replace(one, box=refine_box(pixels, one.box)) if one.kind in LETTERS else one
        for one in find_artifacts(film)
    )
    return FilmStructures(find_anatomy(film), artifacts, film.mask(*ARTIFACTS), film.mask(*LINES))


def _turned(film: FilmStructures) -> FilmStructures:
    """Mirror all places, left to right; names stay."""
    return FilmStructures(
        {name: mask[:, ::-1] for name, mask in film.anatomy.items()},
        tuple(
            replace(one, box=(1.0 - one.box[2], one.box[1], 1.0 - one.box[0], one.box[3]))
            for one in film.artifacts
        ),
        film.foreign[:, ::-1],
        film.lines[:, ::-1],
    )


def box_of(mask: Mask) -> tuple[float, float, float, float]:
    """Return the box around a mask that is not empty, xyxy as shares of width and height."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        float(columns[0]) / width,
        float(rows[0]) / height,
        float(columns[-1] + 1) / width,
        float(rows[-1] + 1) / height,
    )


def _area(box: Sequence[float]) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _common(a: Sequence[float], b: Sequence[float]) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    return _area((*low, *high))


def _share(mask: Mask, box: Sequence[float]) -> float:
    """Return the share of a box that a mask covers, of at least one pixel."""
    height, width = mask.shape
    x0, y0 = int(box[0] * width), int(box[1] * height)
    x1, y1 = max(x0 + 1, round(box[2] * width)), max(y0 + 1, round(box[3] * height))
    part = mask[y0:y1, x0:x1]
    return float(part.mean()) if part.size else 0.0


# Shares of the film. The least of all but one of 184 real frontal films is 0.06 (heart) and 0.05
# (spine). In a lateral film the segmenter takes front and back for the two lungs, with a small or
# no heart between them, and no spine in the middle.
_LEAST_HEART, _LEAST_SPINE = 0.045, 0.045


def shows_frontal_chest(segmenter: Segmenter, pixels: NDArray[np.float32]) -> bool:
    """Return whether lungs, heart and spine on a film (H, W) look as from the front."""
    film = segmenter.segment(pixels)
    return bool(
        film.mask("heart").mean() >= _LEAST_HEART
        and film.mask("spine").mean() >= _LEAST_SPINE
        and find_anatomy(film)
    )
