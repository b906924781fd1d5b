"""The regions of one film from all sources, and the equal tiles and sliding windows among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.cohort import RegionSource
from ravl_med.regions.geometry import box_overlaps

_COVERING = ("windows", "tiles")
_SPECIFIC = {source: rank for rank, source in enumerate(get_args(RegionSource))}


@dataclass(frozen=True, slots=True)
class RegionKind:
    """The kind of a region."""

    source: RegionSource
    name: str  # in the report
    place: str = ""  # the anatomy that it lies over; blank where unknown, or the region itself
    score: float | None = None  # likelihood that it is there, where that is to be shown

    def text(self) -> str:
        """Return name and place as a report prints them."""
        return f"{self.name}, {self.place}" if self.place else self.name


@dataclass(frozen=True, slots=True, eq=False)
class RegionSet:
    """The r regions of one film."""

    boxes: NDArray[np.float32]  # (r, 4), xyxy in stored pixels, half-open, origin the outer corner
    kinds: tuple[RegionKind, ...]
    problems: tuple[str, ...] = ()  # why something that should be a region is none

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: Sequence[int]) -> RegionSet:
        """Return some of the regions, in the order of `rows`."""
        index = np.asarray(rows, dtype=np.int64)
        return replace(self, boxes=self.boxes[index], kinds=tuple(self.kinds[i] for i in rows))


def combine_regions(
    sets: Sequence[RegionSet], merge_overlap: float, most: int | None = None
) -> RegionSet:
    """Join sets of one film and merge near-duplicates, the most specific regions first.

    Of regions that overlap by `merge_overlap` (intersection over union) or more the most specific
    stays, of one source the first. At most `most` are kept, and each dropped one is a problem,
    ``over_limit``. Tiles and windows cover the film together, so they are neither merged with their
    like nor counted.
    """
    if len(sets) == 1 and all(kind.source in _COVERING for kind in sets[0].kinds):
        return sets[0]
    boxes = np.concatenate([np.empty((0, 4), np.float32), *(s.boxes for s in sets)])
    kinds = [kind for s in sets for kind in s.kinds]
    problems = tuple(problem for s in sets for problem in s.problems)
    shared = box_overlaps(boxes, boxes)
    kept: list[int] = []
    counted, dropped = 0, 0
    for row in sorted(range(len(kinds)), key=lambda i: _SPECIFIC[kinds[i].source]):
        source = kinds[row].source
        covers = source in _COVERING
        rivals = [k for k in kept if not (covers and kinds[k].source == source)]
        if rivals and shared[row, rivals].max() >= merge_overlap:
            continue
        if not covers and counted == most:
            dropped += 1
            continue
        kept.append(row)
        counted += not covers
    problems += ("over_limit",) * dropped
    return RegionSet(boxes, tuple(kinds), problems).take(kept)


def cut_tiles(height: int, width: int, rows: int, columns: int) -> NDArray[np.float32]:
    """Cut a film into equal tiles, row by row: (n, 4), xyxy in stored pixels, half-open."""
    y = np.linspace(0.0, height, rows + 1, dtype=np.float32)
    x = np.linspace(0.0, width, columns + 1, dtype=np.float32)
    top, left = (grid.ravel() for grid in np.meshgrid(y[:-1], x[:-1], indexing="ij"))
    bottom, right = (grid.ravel() for grid in np.meshgrid(y[1:], x[1:], indexing="ij"))
    return np.stack([left, top, right, bottom], axis=1).astype(np.float32)


def tile_names(rows: int, columns: int) -> tuple[str, ...]:
    """Return the names of the tiles in the order of `cut_tiles`, counted from 1."""
    return tuple(
        f"tile row {row + 1} of {rows}, column {column + 1} of {columns}"
        for row in range(rows)
        for column in range(columns)
    )


def slide_windows(height: int, width: int, side: float, step: float) -> NDArray[np.float32]:
    """Cover a film with overlapping windows, row by row: (n, 4), xyxy in stored pixels, half-open.

    `side` is a share of the film's sides, `step` the largest distance of neighbours as a share of a
    window's sides; it is shortened so that the last window ends at the film's border.
    """
    count = 1 + math.ceil(round((1.0 - side) / (side * step), 9))
    start = np.linspace(0.0, 1.0 - side, count)
    top, left = (grid.ravel() for grid in np.meshgrid(start, start, indexing="ij"))
    boxes = np.stack([left, top, left + side, top + side], axis=1)
    return (boxes * [width, height, width, height]).astype(np.float32)


def window_names(side: float, step: float) -> tuple[str, ...]:
    """Return the names of the windows in the order of `slide_windows`, counted from 1."""
    count = math.isqrt(len(slide_windows(1, 1, side, step)))
    return tuple(
        f"window of {100 * side:g} %, row {row + 1} of {count}, column {column + 1} of {count}"
        for row in range(count)
        for column in range(count)
    )
