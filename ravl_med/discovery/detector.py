"""Detectors: the frozen medoids of an audit, by which a feature is found in other films.

References
----------
Varma et al., RaVL, NeurIPS 2024, section 3.2: regions of the fine-tuning images go to the nearest
medoid of Stage 1, in the embedding space of the audited model.

A feature cluster in plain words, from what its regions are called and where they lie.
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
_MOST = 2  # names that are told


def describe_regions(
    names: Sequence[Sequence[str]], shares: NDArray[np.floating], places: Sequence[str] = ()
) -> str:
    """Describe regions by their names, the most common first, and by where they lie.

    Parameters
    ----------
    names : sequence of n sequences of str - what each region is called or holds; none for one whose
        name is but its place in a grid
    shares : ndarray of shape (n, 4) - xyxy as shares of the film's width and height
    places : sequence of n str, or empty - the anatomy that each region lies over; blank where that
        is not known

    Returns
    -------
    str - such as ``92 % pulse generator; 85 % left upper lung zone``, or where they have no anatomy
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


_REGIONS_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class FeatureDetector:
    """A feature cluster as something that can be looked for.

    Attributes
    ----------
    medoids : ndarray of shape (K, D), float32 - of the partition that holds the cluster, unit norm
    label : int - the cluster, 0 .. K - 1
    lowered_class : int or None - the most lowered one
    threshold : float - least removal effect of a region that carries the feature, in logits
    """

    medoids: NDArray[np.float32]
    label: int
    raised_class: int
    lowered_class: int | None
    threshold: float

    def find(self, regions: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which regions belong to the feature.

        Parameters
        ----------
        regions : ndarray of shape (R, D), float32 - embedded by the audited model, unit norm

        Returns
        -------
        ndarray of shape (R,), bool - their nearest medoid is that of the feature
        """
        return np.asarray(nearest_medoids(self.medoids, regions) == self.label)


def nearest_medoids(
    medoids: NDArray[np.float32], regions: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return the nearest medoid of each region.

    Parameters
    ----------
    medoids : ndarray of shape (K, D), float32 - unit norm
    regions : ndarray of shape (R, D), float32 - unit norm

    Returns
    -------
    ndarray of shape (R,), int64 - 0 .. K - 1
    """
    nearest = np.empty(len(regions), dtype=np.int64)
    for start in range(0, len(regions), _REGIONS_AT_ONCE):
        part = slice(start, start + _REGIONS_AT_ONCE)
        nearest[part] = (regions[part] @ medoids.T).argmax(axis=1)
    return nearest
