"""The regions of one film, from all sources together.

Equal tiles and sliding windows: regions when nothing is known of what a film shows.
"""

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
    """What a region is.

    Attributes
    ----------
    name : str - what the report calls it
    place : str - the anatomy that it lies over; blank where that is not known or is the region
    """

    source: RegionSource
    name: str
    place: str = ""

    def words(self) -> str:
        """Return name and place as a report prints them."""
        return f"{self.name}, {self.place}" if self.place else self.name


@dataclass(frozen=True, slots=True, eq=False)
class RegionSet:
    """r regions of one film.

    Attributes
    ----------
    boxes : ndarray of shape (r, 4), float32 - xyxy in pixels of the stored matrix, origin at the
        outer corner of the top-left pixel, half-open
    problems : tuple of str - reasons why something that was to be a region is none
    """

    boxes: NDArray[np.float32]
    kinds: tuple[RegionKind, ...]
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: Sequence[int]) -> RegionSet:
        """Return some of the regions, in the order of `rows`."""
        index = np.asarray(rows, dtype=np.int64)
        return replace(self, boxes=self.boxes[index], kinds=tuple(self.kinds[i] for i in rows))


def combine_regions(
    sets: Sequence[RegionSet], merge_overlap: float, most: int | None = None
) -> RegionSet:
    """Join sets and merge near-duplicates.

    Of regions that overlap by `merge_overlap` or more the most specific stays, of one source the
    first. Tiles and windows cover the film: they are not merged with their like and not capped,
    since a grid with holes is none.

    Parameters
    ----------
    sets : sequence of RegionSet - of one film
    merge_overlap : float in (0, 1] - intersection over union from which two regions are one
    most : int or None - regions that are kept, tiles and windows not counted; what is dropped is a
        problem, ``over_limit``

    Returns
    -------
    RegionSet - most specific first, else in the order given
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
    """Cut a film into equal tiles that cover it without gaps, row by row.

    Parameters
    ----------
    height, width : int - stored matrix in pixels

    Returns
    -------
    ndarray of shape (rows * columns, 4), float32
        xyxy in pixels of the stored matrix, origin at the outer corner of the top-left pixel,
        half-open.
    """
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
    """Cover a film with windows of one size that overlap, row by row.

    Parameters
    ----------
    height, width : int - stored matrix in pixels
    side : float in (0, 1] - sides of a window, as a share of the film's sides
    step : float in (0, 1] - largest distance of neighbours, as a share of a window's sides; it is
        shortened so that the last window ends at the film's border

    Returns
    -------
    ndarray of shape (n, 4), float32 - xyxy in stored pixels, half-open
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
