"""Equal tiles and sliding windows: regions when nothing is known of what a film shows."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["cut_tiles", "slide_windows", "tile_names", "window_names"]


def cut_tiles(height: int, width: int, rows: int, columns: int) -> NDArray[np.float32]:
    """Cut a film into equal tiles that cover it without gaps, row by row.

    Parameters
    ----------
    height, width : int - stored matrix in pixels
    rows, columns : int

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
