"""The regions of one film, from all sources together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ravl_med.config import RegionSource
from ravl_med.regions.geometry import box_overlaps

__all__ = ["RegionKind", "RegionSet", "combine_regions"]

_COVERING = ("windows", "tiles")
_SPECIFIC = {source: rank for rank, source in enumerate(get_args(RegionSource))}


@dataclass(frozen=True, slots=True)
class RegionKind:
    """What a region is.

    Attributes
    ----------
    source : RegionSource
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
    kinds : tuple of RegionKind, length r
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
