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


def describe_regions(names: Sequence[str], shares: NDArray[np.floating]) -> str:
    """Describe regions by their names, the most common first, and by their place on the film.

    Parameters
    ----------
    names : sequence of str, length n - blank for a region whose name is but its place in a grid
    shares : ndarray of shape (n, 4) - xyxy as shares of the film's width and height

    Returns
    -------
    str - such as ``92 % pulse generator; 85 % in the upper right of the film``; blank without
    regions. Left and right are those of the picture.
    """
    if len(names) == 0:
        return ""
    parts = [
        f"{_percent(count, len(names))} {name}"
        for name, count in Counter(filter(None, names)).most_common(_MOST)
        if count >= _LEAST * len(names)
    ]
    middles = (np.asarray(shares)[:, :2] + np.asarray(shares)[:, 2:]) / 2.0
    thirds = np.clip((3.0 * middles).astype(int), 0, 2)
    (column, row), count = Counter(map(tuple, thirds.tolist())).most_common(1)[0]
    if count >= _LEAST * len(names):
        place = "centre" if row == column == 1 else f"{_ROWS[row]} {_COLUMNS[column]}"
        parts.append(f"{_percent(count, len(names))} in the {place} of the film")
    else:
        parts.append("all over the film")
    return "; ".join(parts)


def _percent(count: int, of: int) -> str:
    return f"{100 * count / of:.0f} %"
