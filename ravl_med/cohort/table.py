"""The table of a manifest: cells as text, the files that they name, and which rows can be used."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ravl_med.cohort.report_table import MEANINGS
from ravl_med.errors import ConfigError, DataError, ImageError
from ravl_med.labelling.film_labels import FindingCells
from ravl_med.storage.bounded_reading import naming_table, open_regular, read_rows
from ravl_med.storage.files import local_copy
from ravl_med.storage.remote import FilePath, RemotePath, StorageAccess, is_url

_SHORT = 8  # characters of a text that many rows may share
SPLITS = ("finetune", "validation", "test")
"""Of these the first is what a model was fitted on."""

ATTRIBUTES = ("view", "portable", "sex", "age", "site", "manufacturer", "model", "study_year")
COLUMNS = (
    *("image", "patient", "study", "split", "frame", "report", "report_path", "annotation"),
    *ATTRIBUTES,
)
"""Columns with a meaning, in capitals or not; any other may hold a finding."""

_LABELS = {"1": 1, "0": 0, "-1": -1, "": None}

OUTSIDE = (
    "the path, or a link on it, leads out of the manifest's folder. Name the other folder in "
    "cohort.roots, or move the file."
)
_PATHS = ("image", "report_path", "annotation")


@dataclass(frozen=True, slots=True)
class RejectedFilm:
    """A film that was set aside: manifest row, reason code, one line for the user."""

    row: int
    reason: str
    message: str
    path: FilePath | None = field(default=None, compare=False, repr=False)  # for the private key


def read_table(path: FilePath) -> pd.DataFrame:
    """Read all cells as stripped text; the index is the row that a spreadsheet shows.

    Cells may be separated by commas, semicolons or tabs; `COLUMNS` are named in small letters.

    Raises
    ------
    ConfigError
        The file does not exist.
    DataError
        It is not a CSV, is empty, or its rows do not fit its header.
    StorageError
        It lies in a storage that does not answer.
    """
    name = path.name
    header, rows = _read_rows(path)
    header = [cell.lower() if cell.lower() in COLUMNS else cell for cell in header]
    if not rows and not any(header):
        raise DataError(f"{name}: the file is empty; expected a header and one row a film.")
    for column, count in Counter(filter(None, header)).items():
        if count > 1:
            raise DataError(f"{name}: column {column!r} stands {count} times. Keep one of them.")
    if not rows:
        raise DataError(f"{name}: no rows below the header; expected one row a film.")
    for row, line in rows.items():
        if any(line[len(header) :]):
            raise DataError(
                f"{name} row {row}: {len(line)} cells; expected {len(header)} as in the header. "
                "Put text that holds the separator in double quotes."
            )
        del line[len(header) :]
        line += [""] * (len(header) - len(line))
    table = pd.DataFrame(list(rows.values()), index=list(rows), columns=header, dtype=str)
    return table.loc[:, [bool(column) for column in header]]


def _read_rows(path: FilePath) -> tuple[list[str], dict[int, list[str]]]:
    """Read the header, and the rows that are not blank, by the number that a spreadsheet shows."""
    name = path.name
    try:
        with (
            naming_table(name),
            local_copy(path) as file,
            TextIOWrapper(open_regular(file), encoding="utf-8-sig", newline="") as stream,
        ):
            first = stream.readline()
            lines = read_rows(chain([first], stream), max(",;\t", key=first.count))
            header = [cell.strip() for cell in next(lines, [])]
            rows = {row: line for row, line in enumerate(_stripped(lines), start=2) if any(line)}
    except (FileNotFoundError, NotADirectoryError):
        where = "Paths are relative to the config file."
        if isinstance(path, RemotePath):
            where = "Expected a bucket and an object in it; check both names."
        raise ConfigError(f"cohort.manifest: {name!r} does not exist. {where}") from None
    return header, rows


def intern_texts(texts: Iterable[str], known: dict[str, str] | None = None) -> list[str]:
    """Return texts with equal short ones as one object; `known` collects them."""
    known = {} if known is None else known
    return [known.setdefault(text, text) if len(text) <= _SHORT else text for text in texts]


def _stripped(lines: Iterable[list[str]]) -> Iterator[list[str]]:
    known: dict[str, str] = {}
    for line in lines:
        yield intern_texts(map(str.strip, line), known)


def row_number(table: pd.DataFrame, position: int | np.integer) -> int:
    """Return the spreadsheet row at a position of the table."""
    return int(table.index.to_numpy()[position])


def require_columns(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    """Refuse a table that lacks one of the columns (DataError)."""
    for column in columns:
        if column not in table:
            got = ", ".join(map(str, table.columns))
            raise DataError(f"{name}: column {column!r} is missing; got {got}. Add it.")


def require_findings(
    table: pd.DataFrame, columns: Mapping[str, Mapping[str, int]], name: str
) -> None:
    """Refuse a task whose findings have no column in the table (ConfigError)."""
    for label, cells in columns.items():
        for column in cells:
            if column not in table:
                near = difflib.get_close_matches(column, list(table.columns), n=1, cutoff=0.5)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ConfigError(
                    f"task.classes.{label}: {name} has no column {column!r}; got "
                    f"{', '.join(table.columns)}.{hint}"
                )


def take_split(
    table: pd.DataFrame, split: str | None, name: str, left_out: Counter[str]
) -> NDArray[np.bool_]:
    """Return the rows (N,) of a split, all for None, and count the others in `left_out`.

    Raises
    ------
    DataError
        A cell names no split, or no row has the wanted one.
    """
    taken = np.ones(len(table), dtype=np.bool_)
    if "split" not in table:
        return taken
    cells = table["split"].to_numpy(dtype=str)
    for i in np.flatnonzero(~np.isin(cells, (*SPLITS, ""))):
        raise DataError(
            f"{name} row {row_number(table, i)}: split is {str(cells[i])[:20]!r}; expected one of "
            f"{', '.join(SPLITS)}."
        )
    if split is not None:
        taken = cells == split
        left_out["other split"] = int((~taken).sum())
        if not taken.any():
            raise DataError(
                f"{name}: no row has split {split!r}; got "
                f"{', '.join(sorted(set(cells) - {''})) or 'blanks'}. "
                "Set cohort.split, or null to take every row."
            )
    return taken


def cells_of_columns(
    table: pd.DataFrame, columns: Mapping[str, Mapping[str, int]], name: str
) -> FindingCells:
    """Read the finding columns that a task names, which exist.

    Raises
    ------
    DataError
        A cell is none of 1, 0, -1 and blank, or of yes, no and the like in the whole column.
    """
    values: dict[str, list[int | None]] = {}
    for column in sorted({column for wanted in columns.values() for column in wanted}):
        cells = table[column].str.lower()
        meaning = next((one for one in MEANINGS if cells.isin(list(one)).all()), MEANINGS[0])
        for i in np.flatnonzero(~cells.isin(list(meaning)).to_numpy()):
            raise DataError(
                f"{name} row {row_number(table, i)}: {column} is {table[column].iloc[i][:20]!r}; "
                "expected 1, 0, -1 or blank."
            )
        values[column] = [_LABELS[meaning[cell]] for cell in cells]
    return FindingCells(values, ["manifest"] * len(table), {})


def usable_rows(
    table: pd.DataFrame,
    taken: NDArray[np.bool_],
    name: str,
    rejected: list[RejectedFilm],
    unit: str,
) -> NDArray[np.bool_]:
    """Return the rows (N,) with an image and a patient, and a study where studies are counted.

    An image, or a frame of one, counts once. Other rows among those taken go to `rejected`.
    """
    usable = np.ones(len(table), dtype=np.bool_)
    images = table["image"].to_numpy(dtype=str)
    patients = table["patient"].to_numpy(dtype=str)
    frames = table["frame"].to_numpy(dtype=str) if "frame" in table else [""] * len(table)
    seen: set[tuple[str, str]] = set()
    for i in np.flatnonzero(taken):
        reason = message = ""
        if not images[i]:
            reason, message = "no_image", "image is blank; expected a path. Fill it in."
        elif not patients[i]:
            reason = "no_patient"
            message = "patient is blank; expected any stable code, since patients are resampled."
        elif unit == "study" and not table["study"].iloc[i]:
            reason = "no_study"
            message = "study is blank; expected any stable code. Or set cohort.unit to image."
        elif (images[i], frames[i]) in seen:
            reason, message = "listed_twice", "the image stands in an earlier row. Remove one."
        if reason:
            usable[i] = False
            row = row_number(table, i)
            rejected.append(RejectedFilm(row, reason, f"{name} row {row}: {message}"))
        seen.add((images[i], frames[i]))
    return usable


def file_of(cell: str, folder: FilePath, roots: Sequence[FilePath] = ()) -> FilePath:
    """Return the file that a cell names: relative to the manifest's folder, absolute, or a URL.

    A URL is reached as the manifest's storage is, or that of the first remote root.
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
    """The files that a column of a manifest names, each made into a path when it is used.

    They are kept as the text of their cells: as objects, the paths of 200,000 films take 100 MB.
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


def names_inside(path: FilePath, roots: Sequence[FilePath]) -> bool:
    """Return whether a path, as it is written, lies in a root; without roots anything does.

    Nothing is asked of a disk or a storage: what a manifest names may be another machine.
    """
    if not roots:
        return True
    if isinstance(path, RemotePath):
        return any(path.lies_below(root) for root in roots if isinstance(root, RemotePath))
    written = os.path.abspath(path)  # noqa: PTH100 - without "..", and links are not followed
    own = [place for root in roots if isinstance(root, Path) for place in _places_of(root)]
    return any(Path(written).is_relative_to(place) for place in own)


@lru_cache(maxsize=256)
def _places_of(root: Path) -> tuple[Path, Path]:
    """Return a root as it is written, and with its links followed."""
    written = Path(os.path.abspath(root))  # noqa: PTH100
    try:
        return written, root.resolve()
    except (OSError, RuntimeError, ValueError):
        return written, written


def path_is_inside(path: FilePath, roots: Sequence[FilePath]) -> bool:
    """Return whether a path lies in a root, as it is written and with its links followed."""
    if not names_inside(path, roots):
        return False
    if not roots or isinstance(path, RemotePath):
        return True
    try:
        target = path.resolve()
    except (OSError, RuntimeError, ValueError):  # a ring of links, a NUL: the reader says which
        return True
    own = [root for root in roots if isinstance(root, Path)]
    return any(target.is_relative_to(_places_of(root)[1]) for root in own)


def require_path_inside(path: FilePath, roots: Sequence[FilePath]) -> None:
    """Refuse a path that leads out of the roots (ImageError ``outside_root``)."""
    if not path_is_inside(path, roots):
        raise ImageError("outside_root", OUTSIDE)


def rows_with_outside_paths(
    table: pd.DataFrame, taken: NDArray[np.bool_], folder: FilePath, roots: Sequence[FilePath]
) -> list[int]:
    """Return the rows taken of which a file lies outside of the roots.

    Reports and annotations have their links followed. Those of images are when they are read.
    """
    columns = [(name, table[name].tolist()) for name in _PATHS if name in table]
    found = []
    for i in np.flatnonzero(taken).tolist() if columns else []:
        for name, cells in columns:
            parts = [cells[i]] if name == "image" else [p.strip() for p in cells[i].split(";")]
            inside = names_inside if name == "image" else path_is_inside
            if not all(inside(file_of(part, folder, roots), roots) for part in parts if part):
                found.append(i)
                break
    return found
