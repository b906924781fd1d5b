"""Files that a manifest names: where they lie, and the folders that they may lie in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ravl_med.errors import ImageError
from ravl_med.storage.remote import FilePath, RemotePath, StorageAccess, is_url

OUTSIDE = (
    "the path, or a link on it, leads out of the manifest's folder. Name the other folder in "
    "cohort.roots, or move the file."
)
"""What is said of it."""

_PATHS = ("report_path", "annotation")


def file_of(cell: str, folder: FilePath, roots: Sequence[FilePath] = ()) -> FilePath:
    """Return the file that a cell of a manifest names.

    Parameters
    ----------
    cell : str - a path relative to the manifest's folder, an absolute path of this machine, or a
        URL
    folder : Path or RemotePath - of the manifest
    roots : sequence of Path or RemotePath - whose storage a URL is reached as
    """
    if is_url(cell):
        far = [place for place in (folder, *roots) if isinstance(place, RemotePath)]
        access, role = (far[0].access, far[0].role) if far else (StorageAccess(), "cohort.roots")
        try:
            return RemotePath.parse(cell, access, role)
        except ValueError:
            return RemotePath("none://none", access, role)  # which lies nowhere
    if isinstance(folder, RemotePath) and cell.startswith("/"):
        return Path(cell)
    return folder / cell


class ManifestFiles(Sequence[FilePath]):
    """Files that a column of a manifest names, each a path while it is asked for.

    Kept as the text of their cells: as objects, the paths of 200,000 films take 100 MB.
    """

    __slots__ = ("_cells", "_folder", "_roots")

    def __init__(
        self, cells: Iterable[str], folder: FilePath, roots: Sequence[FilePath] = ()
    ) -> None:
        self._cells, self._folder, self._roots = tuple(cells), folder, tuple(roots)

    @overload
    def __getitem__(self, index: int) -> FilePath: ...
    @overload
    def __getitem__(self, index: slice) -> ManifestFiles: ...
    def __getitem__(self, index: int | slice) -> FilePath | ManifestFiles:
        if isinstance(index, slice):
            return ManifestFiles(self._cells[index], self._folder, self._roots)
        return file_of(self._cells[index], self._folder, self._roots)

    def __iter__(self) -> Iterator[FilePath]:
        return (file_of(cell, self._folder, self._roots) for cell in self._cells)

    def __len__(self) -> int:
        return len(self._cells)

    def take(self, index: Iterable[int]) -> ManifestFiles:
        """Return the files at `index`."""
        return ManifestFiles((self._cells[i] for i in index), self._folder, self._roots)


def lies_inside(path: FilePath, roots: Sequence[FilePath]) -> bool:
    """Tell whether a path, its links followed, lies in one of some folders; none allow all."""
    if not roots:
        return True
    if isinstance(path, RemotePath):
        return any(path.lies_below(root) for root in roots if isinstance(root, RemotePath))
    try:
        target = path.resolve()
    except (OSError, RuntimeError, ValueError):  # a ring of links, a NUL: the reader says which
        return True
    own = [root for root in roots if isinstance(root, Path)]
    return any(target.is_relative_to(root.resolve()) for root in own)


def require_inside(path: FilePath, roots: Sequence[FilePath]) -> None:
    """Refuse a path that leads out of some folders.

    Raises
    ------
    ImageError
        ``outside_root``.
    """
    if not lies_inside(path, roots):
        raise ImageError("outside_root", OUTSIDE)


def rows_outside(
    table: pd.DataFrame, taken: NDArray[np.bool_], folder: FilePath, roots: Sequence[FilePath]
) -> list[int]:
    """Return the rows at `taken` whose report or annotation leads out of some folders.

    Parameters
    ----------
    table : DataFrame - of a manifest, of text
    taken : ndarray of shape (N,), bool
    folder : Path or RemotePath - of the manifest, which its paths are relative to
    """
    columns = [table[name].tolist() for name in _PATHS if name in table]
    found = []
    for i in np.flatnonzero(taken).tolist() if columns else []:
        parts = [part.strip() for cells in columns for part in cells[i].split(";")]
        if not all(lies_inside(file_of(part, folder, roots), roots) for part in parts if part):
            found.append(i)
    return found
