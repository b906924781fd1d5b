"""The manifest: a CSV with one row a film, read into a `Cohort`.

Columns: ``image`` (path of a DICOM, PNG, JPEG or NIfTI file), ``patient``, ``report`` or
``report_path``, one column for each finding (1 present, 0 absent, -1 uncertain, blank not stated),
and optionally ``view``, ``sex``, ``age``, ``site``, ``manufacturer`` and ``split`` (``finetune``,
``validation`` or ``test``), and ``annotation`` (files with the film's regions, with semicolons
between them). Paths are relative to the manifest. Rows are counted as a spreadsheet
shows them: the header is row 1.
"""

from __future__ import annotations

import csv
import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ravl_med.cohort.radiology_report import read_radiology_report
from ravl_med.errors import ConfigError, DataError

__all__ = ["ATTRIBUTES", "Cohort", "RejectedFilm", "read_manifest", "shared_patients"]

ATTRIBUTES = ("view", "portable", "sex", "age", "site", "manufacturer", "model")
_SPLITS = ("finetune", "validation", "test")
_LABELS = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "": None}


@dataclass(frozen=True, slots=True)
class RejectedFilm:
    """A film that was set aside: manifest row, short reason code, one line for the user."""

    row: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Films with their patients, radiology reports, labels and acquisition attributes.

    Attributes
    ----------
    name : str - how messages call it: the manifest's file name
    rows : ndarray of shape (N,), int64 - row of the manifest
    paths : tuple of Path, length N - never printed
    patients : ndarray of shape (N,), int64 - patient number, 0 .. P - 1
    radiology_reports : tuple of str, length N - blank where there is none
    labels : ndarray of shape (N,), int64 - class of each film; -1 without a task
    classes : tuple of str, length C
    attributes : mapping of str to tuple of str, length N - blank where not stated
    listed : int - rows of the manifest
    left_out : mapping of str to int - rows that the split or the task does not take, by reason
    rejected : tuple of RejectedFilm - films that could not be read
    annotations : tuple of tuple of Path, length N - files with regions of each film; empty where
        the manifest has no such column
    """

    name: str
    rows: NDArray[np.int64]
    paths: tuple[Path, ...]
    patients: NDArray[np.int64]
    radiology_reports: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]]
    listed: int
    left_out: Mapping[str, int]
    rejected: tuple[RejectedFilm, ...] = ()
    annotations: tuple[tuple[Path, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, index: NDArray[np.int64], rejected: Sequence[RejectedFilm] = ()) -> Cohort:
        """Return the cohort with only the films at `index`, and more rejected ones noted."""
        _, patients = np.unique(self.patients[index], return_inverse=True)
        return replace(
            self,
            rows=self.rows[index],
            paths=tuple(self.paths[i] for i in index),
            patients=patients.astype(np.int64),
            radiology_reports=tuple(self.radiology_reports[i] for i in index),
            labels=self.labels[index],
            attributes={k: tuple(v[i] for i in index) for k, v in self.attributes.items()},
            rejected=(*self.rejected, *rejected),
            annotations=tuple(self.annotations[i] for i in index) if self.annotations else (),
        )


def read_manifest(
    path: Path,
    *,
    split: str | None,
    columns: Mapping[str, Mapping[str, int]] | None = None,
    blank: str = "exclude",
) -> Cohort:
    """Read a manifest into a cohort; no image is opened.

    Parameters
    ----------
    path : Path
        The CSV file.
    split : str or None
        Rows of this split; None, or a manifest without the column, takes every row.
    columns : mapping of class to (finding column to value), optional
        The task. A film belongs to the class whose columns all hold the given values; films that
        fit no class or several, and films with -1 or (unless `blank` is "negative") a blank in
        one of the columns, are left out and counted. None: no task, all rows, labels -1.
    blank : {"exclude", "negative"}

    Raises
    ------
    ConfigError
        The file does not exist, or the task names a column that the manifest lacks.
    DataError
        It is not a CSV, is empty, lacks a required column, or holds a value that is not allowed.
    """
    table = _read_csv(path)
    name = path.name
    _require(table, ("image", "patient"), name)
    if columns is not None:
        _require_findings(table, columns, name)
    rejected: list[RejectedFilm] = []
    left_out: Counter[str] = Counter()
    taken = _take_split(table, split, name, left_out)
    labels = np.full(len(table), -1, dtype=np.int64)
    if columns is not None:
        labels, reasons = _class_labels(table, columns, blank, name)
        left_out.update(reasons[i] for i in np.flatnonzero(taken & (labels < 0)))
        taken &= labels >= 0
    taken &= _usable_rows(table, taken, name, rejected)
    reports = _reports(table, path, taken, name, rejected)
    index = np.flatnonzero(taken)
    _, patients = np.unique(table["patient"].to_numpy(dtype=str)[index], return_inverse=True)
    rows = table.index.to_numpy(dtype=np.int64)
    return Cohort(
        name=name,
        rows=rows[index],
        paths=tuple(path.parent / table["image"].iloc[i] for i in index),
        patients=patients.astype(np.int64),
        radiology_reports=tuple(reports[i] for i in index),
        labels=labels[index],
        classes=tuple(columns or ()),
        attributes={
            column: tuple(table[column].iloc[i] for i in index)
            for column in ATTRIBUTES
            if column in table
        },
        listed=len(table),
        left_out=dict(left_out),
        rejected=tuple(rejected),
        annotations=_annotations(table, path, index),
    )


def _annotations(
    table: pd.DataFrame, path: Path, index: NDArray[np.int64]
) -> tuple[tuple[Path, ...], ...]:
    """Annotation files of the rows at `index`."""
    if "annotation" not in table:
        return ()
    cells = [str(table["annotation"].iloc[i]).split(";") for i in index]
    return tuple(tuple(path.parent / part.strip() for part in c if part.strip()) for c in cells)


def shared_patients(path: Path, splits: Sequence[str]) -> dict[tuple[str, str], int]:
    """Count the patients that two splits of a manifest share.

    Parameters
    ----------
    path : Path - of the manifest
    splits : sequence of str

    Returns
    -------
    dict of pair of splits to count - pairs that share none are left out

    Raises
    ------
    ConfigError, DataError
        As `read_manifest`; also when the manifest has no column for the split.
    """
    table = _read_csv(path)
    _require(table, ("patient", "split"), path.name)
    rows, patients = table["split"].to_numpy(dtype=str), table["patient"].to_numpy(dtype=str)
    members = {split: set(patients[rows == split]) - {""} for split in splits}
    shared = {
        (a, b): len(members[a] & members[b]) for i, a in enumerate(splits) for b in splits[i + 1 :]
    }
    return {pair: count for pair, count in shared.items() if count}


def _read_csv(path: Path) -> pd.DataFrame:
    """All cells as stripped text; the index is the row that a spreadsheet shows."""
    name = path.name
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = [[cell.strip() for cell in line] for line in csv.reader(stream, strict=True)]
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"cohort.manifest: {name!r} does not exist. Paths are relative to the config file."
        ) from None
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(
            f"{name}: not a UTF-8 CSV table ({type(error).__name__}). Save it as CSV with commas."
        ) from None
    if not any(any(line) for line in lines):
        raise DataError(f"{name}: the file is empty; expected a header and one row a film.")
    header = lines[0]
    for column, count in Counter(filter(None, header)).items():
        if count > 1:
            raise DataError(f"{name}: column {column!r} stands {count} times. Keep one of them.")
    rows = {row: line for row, line in enumerate(lines[1:], start=2) if any(line)}
    if not rows:
        raise DataError(f"{name}: no rows below the header; expected one row a film.")
    for row, line in rows.items():
        if any(line[len(header) :]):
            raise DataError(
                f"{name} row {row}: {len(line)} cells; expected {len(header)} as in the header. "
                "Put text that holds a comma in double quotes."
            )
        rows[row] = (line + [""] * len(header))[: len(header)]
    table = pd.DataFrame(list(rows.values()), index=list(rows), columns=header, dtype=str)
    return table.loc[:, [bool(column) for column in header]]


def _row(table: pd.DataFrame, position: int | np.integer) -> int:
    """Row of the spreadsheet at a position of the table."""
    return int(table.index.to_numpy()[position])


def _require(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    for column in columns:
        if column not in table:
            raise DataError(
                f"{name}: column {column!r} is missing; got {', '.join(table.columns)}. Add it."
            )


def _require_findings(
    table: pd.DataFrame, columns: Mapping[str, Mapping[str, int]], name: str
) -> None:
    for label, cells in columns.items():
        for column in cells:
            if column not in table:
                near = difflib.get_close_matches(column, list(table.columns), n=1, cutoff=0.5)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ConfigError(
                    f"task.classes.{label}: {name} has no column {column!r}; got "
                    f"{', '.join(table.columns)}.{hint}"
                )


def _take_split(
    table: pd.DataFrame, split: str | None, name: str, left_out: Counter[str]
) -> NDArray[np.bool_]:
    taken = np.ones(len(table), dtype=np.bool_)
    if "split" not in table:
        return taken
    cells = table["split"].to_numpy(dtype=str)
    for i in np.flatnonzero(~np.isin(cells, (*_SPLITS, ""))):
        raise DataError(
            f"{name} row {_row(table, i)}: split is {str(cells[i])[:20]!r}; expected one of "
            f"{', '.join(_SPLITS)}."
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


def _class_labels(
    table: pd.DataFrame, columns: Mapping[str, Mapping[str, int]], blank: str, name: str
) -> tuple[NDArray[np.int64], list[str]]:
    """Class of each row, and for rows with -1 the reason why it has none."""
    used = sorted({column for cells in columns.values() for column in cells})
    values: dict[str, list[int | None]] = {}
    for column in used:
        cells = table[column]
        for i in np.flatnonzero(~cells.isin(list(_LABELS)).to_numpy()):
            raise DataError(
                f"{name} row {_row(table, i)}: {column} is {cells.iloc[i][:20]!r}; "
                "expected 1, 0, -1 or blank."
            )
        values[column] = [_LABELS[cell] for cell in cells]
    labels = np.full(len(table), -1, dtype=np.int64)
    reasons = [""] * len(table)
    for index in range(len(table)):
        row = {column: values[column][index] for column in used}
        if blank == "negative":
            row = {column: 0 if value is None else value for column, value in row.items()}
        if any(value is None for value in row.values()):
            reasons[index] = "blank label"
        elif -1 in row.values():
            reasons[index] = "uncertain label"
        else:
            fits = [
                c
                for c, cells in enumerate(columns.values())
                if all(row[column] == value for column, value in cells.items())
            ]
            if len(fits) == 1:
                labels[index] = fits[0]
            else:
                reasons[index] = "no class" if not fits else "several classes"
    return labels, reasons


def _usable_rows(
    table: pd.DataFrame, taken: NDArray[np.bool_], name: str, rejected: list[RejectedFilm]
) -> NDArray[np.bool_]:
    """Rows with an image and a patient, each image once."""
    usable = np.ones(len(table), dtype=np.bool_)
    images = table["image"].to_numpy(dtype=str)
    patients = table["patient"].to_numpy(dtype=str)
    seen: set[str] = set()
    for i in np.flatnonzero(taken):
        reason = message = ""
        if not images[i]:
            reason, message = "no_image", "image is blank; expected a path. Fill it in."
        elif not patients[i]:
            reason = "no_patient"
            message = "patient is blank; expected any stable code, since patients are resampled."
        elif images[i] in seen:
            reason, message = "listed_twice", "the image stands in an earlier row. Remove one."
        if reason:
            usable[i] = False
            row = _row(table, i)
            rejected.append(RejectedFilm(row, reason, f"{name} row {row}: {message}"))
        seen.add(images[i])
    return usable


def _reports(
    table: pd.DataFrame,
    path: Path,
    taken: NDArray[np.bool_],
    name: str,
    rejected: list[RejectedFilm],
) -> list[str]:
    """Report text of each taken row; a report file that cannot be read sets the row aside."""
    texts = [""] * len(table)
    if "report" in table:
        for i in np.flatnonzero(taken):
            texts[i] = table["report"].iloc[i]
    if "report_path" in table:
        for i in np.flatnonzero(taken):
            cell = table["report_path"].iloc[i]
            if texts[i] or not cell:
                continue
            try:
                texts[i] = read_radiology_report(path.parent / cell)
            except DataError as error:
                taken[i] = False
                row = _row(table, i)
                rejected.append(
                    RejectedFilm(row, "report_unreadable", f"{name} row {row}: {error}")
                )
    return texts
