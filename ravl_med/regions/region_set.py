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


@dataclass(frozen=True, slots=True, order=True)
class RegionKind:
    """What a region is.

    Attributes
    ----------
    source : RegionSource
    name : str - what the report calls it
    """

    source: RegionSource
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class RegionSet:
    """r regions of one film.

    Attributes
    ----------
    boxes : ndarray of shape (r, 4), float32 - xyxy in pixels of the stored matrix, origin at the
        outer corner of the top-left pixel, half-open
    kinds : tuple of RegionKind, length r
    scores : ndarray of shape (r,), float32 - confidence in [0, 1]; 1 for what has none
    problems : tuple of str - reasons why something that was to be a region is none
    """

    boxes: NDArray[np.float32]
    kinds: tuple[RegionKind, ...]
    scores: NDArray[np.float32]
    problems: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        boxes: NDArray[np.float32],
        kinds: Sequence[RegionKind],
        scores: NDArray[np.float32] | None = None,
    ) -> RegionSet:
        """Make a set of boxes (r, 4); scores are 1 where none are given."""
        flat = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
        if scores is None:
            scores = np.ones(len(flat), dtype=np.float32)
        return cls(flat, tuple(kinds), np.asarray(scores, dtype=np.float32))

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: Sequence[int]) -> RegionSet:
        """Return some of the regions, in the order of `rows`."""
        index = np.asarray(rows, dtype=np.int64)
        kinds = tuple(self.kinds[i] for i in rows)
        return replace(self, boxes=self.boxes[index], kinds=kinds, scores=self.scores[index])


def combine_regions(sets: Sequence[RegionSet], merge_overlap: float) -> RegionSet:
    """Join sets and merge near-duplicates.

    Of regions that overlap by `merge_overlap` or more the most specific stays, of one source the
    higher score. Tiles and windows cover the film: they are not merged with their like, since a
    grid with holes is none.

    Parameters
    ----------
    sets : sequence of RegionSet - of one film
    merge_overlap : float in (0, 1] - intersection over union from which two regions are one

    Returns
    -------
    RegionSet - most specific first, then by score, then in the order given
    """
    if len(sets) == 1 and all(kind.source in _COVERING for kind in sets[0].kinds):
        return sets[0]
    boxes = np.concatenate([np.empty((0, 4), np.float32), *(s.boxes for s in sets)])
    kinds = [kind for s in sets for kind in s.kinds]
    scores = np.concatenate([np.empty(0, np.float32), *(s.scores for s in sets)])
    problems = tuple(problem for s in sets for problem in s.problems)
    joined = RegionSet(boxes, tuple(kinds), scores, problems)
    ranks = np.array([_SPECIFIC[kind.source] for kind in kinds], dtype=np.int64)
    order = np.lexsort((-scores, ranks))
    shared = box_overlaps(boxes, boxes)
    kept: list[int] = []
    for row in order.tolist():
        source = kinds[row].source
        covers = source in _COVERING
        rivals = [k for k in kept if not (covers and kinds[k].source == source)]
        if not rivals or shared[row, rivals].max() < merge_overlap:
            kept.append(row)
    return joined.take(kept)
