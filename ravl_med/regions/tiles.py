"""Equal tiles: the regions of RaVL when nothing is known of what a film shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["cut_tiles", "tile_names"]


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
