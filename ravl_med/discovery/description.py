"""A feature cluster in plain words, from what its regions are called and where they lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["describe_regions"]

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
    in common ``85 % in the upper right of the film`` (left and right as in the picture); blank
    without regions
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
