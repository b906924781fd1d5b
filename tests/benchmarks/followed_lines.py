"""Lines on real films, followed inside the boxes that were drawn around their pieces.

A box is drawn around each piece of a line; the line runs through it along its longer side. The path
with the most ridge is followed by dynamic programming (a live wire).

References
----------
Mortensen, Barrett, "Intelligent scissors for image composition", SIGGRAPH 1995; Lindeberg, "Edge
detection and ridge detection with automatic scale selection", IJCV 1998.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

Floats = NDArray[np.float32]

_SCALES = (0.8, 1.3, 2.0)  # pixels
_STEP = 2  # pixels that a path moves aside in one pixel along
_ASIDE = 0.05  # what that costs, a pixel
_CLEAR = 0.6  # mean ridge along a path, of the box's 95th percentile, from which it is a line
_ROUGH, _STRETCH = 0.5, 9  # most pixels that a path lies off its own mean over so many, on the mean
_LEAST = 8  # pixels along


def find_ridges(film: Floats) -> Floats:
    """Return how much of a bright ridge each pixel of a film (H, W) is."""
    best = np.zeros_like(film)
    for scale in _SCALES:
        smooth = cv2.GaussianBlur(film, (0, 0), scale)
        xx, yy, xy = (
            cv2.Sobel(smooth, cv2.CV_32F, dx, dy, ksize=3) / 4
            for dx, dy in ((2, 0), (0, 2), (1, 1))
        )
        mean, root = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
        ridge = np.clip(root - mean - np.abs(root + mean), 0.0, None)
        best = np.maximum(best, np.float32(scale**1.5) * ridge)
    return best


def follow_line(ridges: Floats) -> NDArray[np.int64] | None:
    """Follow a line through a box (h, w): rows and columns (n, 2), or None where none is clear."""
    if max(ridges.shape) < _LEAST or min(ridges.shape) < 1:
        return None
    upright = ridges.shape[0] > ridges.shape[1]
    along = ridges.T if upright else ridges
    score = np.clip(along / (np.percentile(along, 95) + 1e-6), 0.0, 1.5)
    height, length = score.shape
    steps = np.arange(-_STEP, _STEP + 1)
    total, back = score[:, 0].astype(np.float64), np.zeros((height, length), dtype=np.int64)
    padded = np.full(height + 2 * _STEP, -np.inf)
    for at in range(1, length):
        padded[_STEP:-_STEP] = total
        before = np.stack([padded[_STEP + s : _STEP + s + height] for s in steps])
        before -= _ASIDE * np.abs(steps)[:, None]
        taken = before.argmax(axis=0)
        back[:, at] = np.arange(height) + steps[taken]
        total = before.max(axis=0) + score[:, at]
    rows = np.empty(length, dtype=np.int64)
    rows[-1] = total.argmax()
    for at in range(length - 1, 0, -1):
        rows[at - 1] = back[rows[at], at]
    columns = np.arange(length)
    rough = np.abs(rows - uniform_filter1d(rows.astype(np.float64), _STRETCH)).mean()
    if score[rows, columns].mean() < _CLEAR or rough > _ROUGH:
        return None
    return np.stack([columns, rows] if upright else [rows, columns], axis=1)


def draw_lines(
    film: Floats, pieces: Sequence[tuple[str, slice, slice]], wide: Mapping[str, int]
) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.bool_]]:
    """Draw the lines of some boxes (kind, rows, columns), so many pixels `wide` by kind.

    Returns masks (H, W) by kind, and where in these boxes certainly no line lies: not near one, nor
    in a box without a clear one.
    """
    ridges = find_ridges(film)
    masks = {kind: np.zeros(film.shape, np.uint8) for kind in wide}
    empty, unclear = np.zeros(film.shape, np.bool_), np.zeros(film.shape, np.bool_)
    for kind, down, across in pieces:
        path = follow_line(ridges[down, across])
        if path is None:
            unclear[down, across] = True
            continue
        empty[down, across] = True
        masks[kind][path[:, 0] + down.start, path[:, 1] + across.start] = 1
    for kind, mask in masks.items():
        near = np.ones((4 * wide[kind] + 1,) * 2, np.uint8)
        empty &= cv2.dilate(mask, near) == 0
    drawn = {
        kind: cv2.dilate(mask, np.ones((wide[kind],) * 2, np.uint8)) > 0
        for kind, mask in masks.items()
    }
    return drawn, empty & ~unclear
