"""Folders that the files of a manifest may lie in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ravl_med.errors import ImageError

__all__ = ["OUTSIDE", "lies_inside", "require_inside", "rows_outside"]

OUTSIDE = (
    "the path, or a link on it, leads out of the manifest's folder. Name the other folder in "
    "cohort.roots, or move the file."
)
"""What is said of it."""

_PATHS = ("report_path", "annotation")


def lies_inside(path: Path, roots: Sequence[Path]) -> bool:
    """Tell whether a path, its links followed, lies in one of some folders; none allow all.

    Parameters
    ----------
    path : Path
    roots : sequence of Path
    """
    if not roots:
        return True
    try:
        target = path.resolve()
    except (OSError, RuntimeError, ValueError):  # a ring of links, a NUL: the reader says which
        return True
    return any(target.is_relative_to(root.resolve()) for root in roots)


def require_inside(path: Path, roots: Sequence[Path]) -> None:
    """Refuse a path that leads out of some folders.

    Raises
    ------
    ImageError
        ``outside_root``.
    """
    if not lies_inside(path, roots):
        raise ImageError("outside_root", OUTSIDE)


def rows_outside(
    table: pd.DataFrame, taken: NDArray[np.bool_], folder: Path, roots: Sequence[Path]
) -> list[int]:
    """Return the rows at `taken` whose report or annotation leads out of some folders.

    Parameters
    ----------
    table : DataFrame - of a manifest, of text
    taken : ndarray of shape (N,), bool
    folder : Path - of the manifest, which its paths are relative to
    roots : sequence of Path
    """
    columns = [table[name].tolist() for name in _PATHS if name in table]
    found = []
    for i in np.flatnonzero(taken).tolist() if columns else []:
        parts = [part.strip() for cells in columns for part in cells[i].split(";")]
        if not all(lies_inside(folder / part, roots) for part in parts if part):
            found.append(i)
    return found
