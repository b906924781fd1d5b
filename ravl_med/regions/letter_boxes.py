"""Boxes of letters, brought from the grid of a network to the pixels of the film.

A letter is a few pixels of 256 wide; half a pixel at each side is much of it. On the film it stands
out from its surroundings, bright or dark, so its box can be read there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from ravl_med.regions.geometry import box_overlap

__all__ = ["refine_box"]

_AROUND, _LEAST = 0.35, 3  # of a box's sides, and pixels, that are looked at around it
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
    around = np.maximum(_AROUND * (old[2:] - old[:2]), _LEAST)
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
