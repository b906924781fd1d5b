"""A feature as what finds it in other films, and as what a reader is shown of it.

References
----------
Varma et al., RaVL, NeurIPS 2024, section 3.2: regions of the fine-tuning images go to the nearest
medoid of Stage 1, in the embedding space of the audited model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROWS = ("upper", "middle", "lower")
_COLUMNS = ("left", "middle", "right")
_LEAST = 0.25  # share of the regions below which a name or a place says nothing
_MOST = 2  # names that are shown
_REGIONS_AT_ONCE = 65_536


def describe_regions(
    names: Sequence[Sequence[str]], shares: NDArray[np.floating], places: Sequence[str] = ()
) -> str:
    """Describe n regions by their names, the most common first, and by where they lie.

    Names are what each region is called or holds, none for a place in a grid; shares (n, 4) are
    boxes, xyxy, of the film's width and height; places are the anatomy that each lies over, blank
    where it is not known. The text is such as ``92 % pulse generator; 85 % left upper lung zone``.
    """
    if len(names) == 0:
        return ""
    count_of = Counter(name for own in names for name in dict.fromkeys(own))
    parts = _common_ones(count_of, len(names))
    anatomy = _common_ones(Counter(filter(None, places)), len(names))
    if anatomy:
        return "; ".join([*parts, *anatomy])
    middles = (np.asarray(shares)[:, :2] + np.asarray(shares)[:, 2:]) / 2.0
    thirds = np.clip((3.0 * middles).astype(int), 0, 2)
    (column, row), count = Counter(map(tuple, thirds.tolist())).most_common(1)[0]
    if count >= _LEAST * len(names):
        place = "centre" if row == column == 1 else f"{_ROWS[row]} {_COLUMNS[column]}"
        parts.append(f"{_percent(count, len(names))} in the {place} of the film")
    else:
        parts.append("all over the film")
    return "; ".join(parts)


def _common_ones(count_of: Counter[str], regions: int) -> list[str]:
    return [
        f"{_percent(count, regions)} {name}"
        for name, count in count_of.most_common(_MOST)
        if count >= _LEAST * regions
    ]


def _percent(count: int, of: int) -> str:
    return f"{100 * count / of:.0f} %"


@dataclass(frozen=True, slots=True, eq=False)
class FeatureDetector:
    """A feature cluster as something that can be looked for."""

    medoids: NDArray[np.float32]  # (K, D) of the partition that holds the cluster, unit norm
    label: int  # the cluster, 0 .. K - 1
    raised_class: int
    lowered_class: int | None  # the most lowered one
    threshold: float  # least removal effect of a region that carries the feature, in logits

    def find(self, regions: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which regions (R, D), embedded by the audited model, belong to the feature."""
        return np.asarray(nearest_medoids(self.medoids, regions) == self.label)


def nearest_medoids(
    medoids: NDArray[np.float32], regions: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return the nearest of medoids (K, D) for each of regions (R, D), all of unit norm: (R,)."""
    nearest = np.empty(len(regions), dtype=np.int64)
    for start in range(0, len(regions), _REGIONS_AT_ONCE):
        part = slice(start, start + _REGIONS_AT_ONCE)
        nearest[part] = (regions[part] @ medoids.T).argmax(axis=1)
    return nearest
