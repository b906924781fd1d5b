"""The manifest: a CSV with one row a film, read into a `Cohort`.

Columns: ``image`` (path of a DICOM, PNG, JPEG or NIfTI file), ``patient``, ``report`` or
``report_path``, one column for each finding (1 present, 0 absent, -1 uncertain, blank not stated;
or yes, no and the like), and optionally ``view``, ``sex``, ``age``, ``site``, ``manufacturer``,
``split`` (``finetune``, ``validation`` or ``test``), ``frame`` (of a multi-frame file, or slice of
a volume, from 1), ``study`` (films of one examination share a code), and ``annotation`` (files with
the film's regions, separated by semicolons). Finding columns are not needed where labels are read
off the reports. Paths are relative to the manifest, or URLs. Rows are counted as a spreadsheet
shows them: the header is row 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ravl_med.cohort.table import (
    ATTRIBUTES,
    OUTSIDE,
    SPLITS,
    ManifestFiles,
    RejectedFilm,
    cells_of_columns,
    file_of,
    intern_texts,
    read_table,
    require_columns,
    require_findings,
    row_number,
    rows_with_outside_paths,
    take_split,
    usable_rows,
)
from ravl_med.config.cohort import LabelsConfig
from ravl_med.errors import ConfigError, DataError
from ravl_med.labelling.film_labels import FilmLabels, FindingCells, cells_from_reports, label_films
from ravl_med.labelling.findings import chest_labeller
from ravl_med.labelling.sections import read_radiology_report
from ravl_med.storage.files import for_each
from ravl_med.storage.remote import FilePath

_PREFERRED = ("PA", "AP", "")
"""Views in the order in which they are taken; any other, such as a lateral one, comes last."""


def one_film_a_study(
    patients: Sequence[str], studies: Sequence[str], views: Sequence[str], taken: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Choose one film (N,) of each study among those taken: PA, then AP, then others in order."""
    best: dict[tuple[str, str], tuple[int, int]] = {}
    for film in np.flatnonzero(taken).tolist():
        study = patients[film], studies[film]
        view = views[film].strip().upper()
        rank = _PREFERRED.index(view) if view in _PREFERRED else len(_PREFERRED)
        best[study] = min(best.get(study, (rank, film)), (rank, film))
    chosen = np.zeros(len(taken), dtype=np.bool_)
    chosen[[film for _, film in best.values()]] = True
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Films with their patients, radiology reports, labels and acquisition attributes.

    Attributes
    ----------
    name : str - the manifest's file name, for messages
    rows : ndarray of shape (N,), int64 - row of the manifest
    paths : ManifestFiles, length N - never printed
    patients : ndarray of shape (N,), int64 - patient number, 0 .. P - 1
    radiology_reports : tuple of str, length N - blank where there is none
    labels : ndarray of shape (N,), int64 - class of each film; -1 without a task
    attributes : mapping of str to tuple of str, length N - blank where not stated
    listed : int - rows of the manifest
    left_out : mapping of str to int - rows that the split or the task does not take, by reason
    rejected : tuple of RejectedFilm - films that could not be read
    annotations : tuple of tuple of Path or RemotePath, length N - files with regions of each film;
        empty where the manifest has no such column
    frames : tuple of int or None, length N - frame of the file, the first is 1, None where the
        manifest names none; empty where it has no such column
    label_sources : tuple of str, length N - ``"manifest"``, or the sections of the report that were
        read, as ``"report: findings and impression"``; empty without a task
    label_certainty : tuple of str, length N - ``"stated"``, ``"uncertain"`` or ``"blank"``: whether
        the config had to decide what the label's cells count as; empty without a task
    elsewhere : mapping of str to ndarray of shape (N,), bool - by place (``split finetune``, the
        model's own list): films that stand there too, or whose patient does; without those of none
    not_compared : int - films of other splits whose pixels were not looked for among these
    """

    name: str
    rows: NDArray[np.int64]
    paths: ManifestFiles
    patients: NDArray[np.int64]
    radiology_reports: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]]
    listed: int
    left_out: Mapping[str, int]
    rejected: tuple[RejectedFilm, ...] = ()
    annotations: tuple[tuple[FilePath, ...], ...] = ()
    frames: tuple[int | None, ...] = ()
    label_sources: tuple[str, ...] = ()
    label_certainty: tuple[str, ...] = ()
    elsewhere: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    not_compared: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, index: NDArray[np.int64], rejected: Sequence[RejectedFilm] = ()) -> Cohort:
        """Return the cohort with only the films at `index`, and more rejected ones noted."""
        _, patients = np.unique(self.patients[index], return_inverse=True)
        return replace(
            self,
            rows=self.rows[index],
            paths=self.paths.take(index.tolist()),
            patients=patients.astype(np.int64),
            radiology_reports=tuple(self.radiology_reports[i] for i in index),
            labels=self.labels[index],
            attributes={k: tuple(v[i] for i in index) for k, v in self.attributes.items()},
            rejected=(*self.rejected, *rejected),
            annotations=tuple(self.annotations[i] for i in index) if self.annotations else (),
            frames=tuple(self.frames[i] for i in index) if self.frames else (),
            label_sources=_of_films(self.label_sources, index),
            label_certainty=_of_films(self.label_certainty, index),
            elsewhere={place: films[index] for place, films in self.elsewhere.items()},
        )


def read_manifest(
    path: FilePath,
    *,
    split: str | None,
    columns: Mapping[str, Mapping[str, int]] | None = None,
    labels: LabelsConfig | None = None,
    unit: str = "image",
    roots: Sequence[FilePath] = (),
    trained_on: Path | None = None,
) -> Cohort:
    """Read a manifest into a cohort; no image is opened.

    Parameters
    ----------
    split : str or None - None takes every row
    columns : mapping of class to (finding to value), optional - the task; a film belongs to the
        class whose findings all have the given values. Films that fit no class or several, or
        have an uncertain or blank finding that `labels` excludes, are counted by reason
    unit : {"image", "study"} - take every film, or one of each study
    roots : sequence of Path or RemotePath - folders besides the manifest's own that files may lie
        in; a row that leads elsewhere is rejected. Links of images are followed when they are read
    trained_on : Path or None - CSV with ``patient`` or ``image`` of what the model was fitted on

    Raises
    ------
    ConfigError
        The file does not exist, or the task names a finding that the manifest has no column for,
        or that is read off no report.
    DataError
        It is not a CSV, is empty, lacks a required column, or holds a value that is not allowed; or
        nothing is recognised in too many reports.
    StorageError
        It, or its reports, lie in a storage that does not answer.
    """
    table = read_table(path)
    allowed = (path.parent, *roots)
    rows = _Rows(path, table, np.ones(len(table), dtype=np.bool_), allowed)
    require_columns(
        table, ("image", "patient", *(("study",) if unit == "study" else ())), rows.name
    )
    labels = labels or LabelsConfig()
    labelled: FilmLabels | None = None
    if columns is not None and labels.source == "manifest":
        require_findings(table, columns, rows.name)
    rows.taken = take_split(table, split, rows.name, rows.left_out)
    if columns is None or labels.source == "reports":
        texts = _readable(rows, unit)
        if columns is not None:
            most = labels.max_unrecognised
            cells = cells_from_reports(
                texts, rows.taken, columns, chest_labeller(), max_unrecognised=most, name=rows.name
            )
            labelled = _label(rows, cells, columns, labels)
    else:
        labelled = _label(rows, cells_of_columns(table, columns, rows.name), columns, labels)
        texts = _readable(rows, unit)
    if unit == "study":
        _take_studies(rows)
    cohort = _cohort(rows, texts, labelled, tuple(columns or ()))
    return replace(cohort, elsewhere=_elsewhere(rows, split, trained_on))


def splits_beside(path: FilePath, split: str | None) -> tuple[str, ...]:
    """Return the other splits that a manifest has rows of, what models are fitted on first."""
    table = read_table(path)
    if split is None or "split" not in table:
        return ()
    held = set(table["split"])
    return tuple(name for name in SPLITS if name != split and name in held)


def list_split(path: FilePath, split: str | None, roots: Sequence[FilePath] = ()) -> Cohort:
    """List the films of a split without labels and reports; what cannot be used is left out."""
    table = read_table(path)
    rows = _Rows(path, table, np.ones(len(table), dtype=np.bool_), (path.parent, *roots))
    rows.taken = take_split(table, split, rows.name, rows.left_out)
    _set_aside(rows, "image")
    return _cohort(rows, [""] * len(table), None, ())


@dataclass(slots=True)
class _Rows:
    """The rows of a manifest while it is read: those still taken, left out and rejected."""

    path: FilePath
    table: pd.DataFrame
    taken: NDArray[np.bool_]
    roots: tuple[FilePath, ...]
    left_out: Counter[str] = field(default_factory=Counter)
    rejected: list[RejectedFilm] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    def file_of(self, cell: str) -> FilePath:
        return file_of(cell, self.path.parent, self.roots)


def _readable(rows: _Rows, unit: str) -> list[str]:
    """Set aside the rows that lack something every film needs; return the report of each row."""
    _set_aside(rows, unit)
    return _reports(rows)


def _set_aside(rows: _Rows, unit: str) -> None:
    rows.taken &= usable_rows(rows.table, rows.taken, rows.name, rows.rejected, unit)
    for i in rows_with_outside_paths(rows.table, rows.taken, rows.path.parent, rows.roots):
        rows.taken[i], row = False, row_number(rows.table, i)
        message = f"{rows.name} row {row}: {OUTSIDE}"
        rows.rejected.append(RejectedFilm(row, "outside_root", message))


def _label(
    rows: _Rows, cells: FindingCells, columns: Mapping[str, Mapping[str, int]], labels: LabelsConfig
) -> FilmLabels:
    labelled = label_films(cells, columns, labels)
    without = np.flatnonzero(rows.taken & (labelled.classes < 0))
    rows.left_out.update(labelled.reasons[i] for i in without.tolist())
    rows.taken &= labelled.classes >= 0
    return labelled


def _take_studies(rows: _Rows) -> None:
    table = rows.table
    views = table["view"].tolist() if "view" in table else [""] * len(table)
    chosen = one_film_a_study(table["patient"].tolist(), table["study"].tolist(), views, rows.taken)
    more = int((rows.taken & ~chosen).sum())
    if more:
        rows.left_out["another film of the study"] = more
    rows.taken = chosen


def _cohort(
    rows: _Rows, texts: Sequence[str], labelled: FilmLabels | None, classes: tuple[str, ...]
) -> Cohort:
    table, index = rows.table, np.flatnonzero(rows.taken)
    _, patients = np.unique(table["patient"].to_numpy(dtype=str)[index], return_inverse=True)
    unlabelled = np.full(len(table), -1, dtype=np.int64)
    return Cohort(
        name=rows.name,
        rows=table.index.to_numpy(dtype=np.int64)[index],
        paths=ManifestFiles(table["image"].iloc[index], rows.path.parent, rows.roots),
        patients=patients.astype(np.int64),
        radiology_reports=tuple(texts[i] for i in index.tolist()),
        labels=(labelled.classes if labelled else unlabelled)[index],
        classes=classes,
        attributes={
            column: _of_films(
                intern_texts(cell.replace("\0", " ") for cell in table[column]), index
            )
            for column in ATTRIBUTES
            if column in table
        },
        listed=len(table),
        left_out=dict(rows.left_out),
        rejected=tuple(rows.rejected),
        annotations=_annotations(rows, index),
        frames=_frames(table, index, rows.name),
        label_sources=_of_films(labelled.sources, index) if labelled else (),
        label_certainty=_of_films(labelled.certainty, index) if labelled else (),
    )


def _of_films(values: Sequence[str], index: NDArray[np.int64]) -> tuple[str, ...]:
    """Return the values at `index`, or none where there are none at all."""
    return tuple(values[i] for i in index) if values else ()


def _frames(table: pd.DataFrame, index: NDArray[np.int64], name: str) -> tuple[int | None, ...]:
    """Return the frames of the rows at `index`; None where a cell is blank."""
    if "frame" not in table:
        return ()
    frames: list[int | None] = []
    for i in index:
        cell = str(table["frame"].iloc[i])
        if cell and not (cell.isascii() and cell.isdecimal() and int(cell[:9]) > 0):
            raise DataError(
                f"{name} row {row_number(table, i)}: frame is {cell[:20]!r}; expected a number "
                "from 1, or blank."
            )
        frames.append(int(cell[:9]) if cell else None)
    return tuple(frames)


def _annotations(rows: _Rows, index: NDArray[np.int64]) -> tuple[tuple[FilePath, ...], ...]:
    """Return the annotation files of the rows at `index`."""
    if "annotation" not in rows.table:
        return ()
    cells = [str(rows.table["annotation"].iloc[i]).split(";") for i in index]
    return tuple(tuple(rows.file_of(part.strip()) for part in c if part.strip()) for c in cells)


def _elsewhere(
    rows: _Rows, split: str | None, trained_on: Path | None
) -> dict[str, NDArray[np.bool_]]:
    """Return which taken films stand in another split or in a list, they or their patient."""
    table, taken = rows.table, rows.taken
    there: dict[str, pd.DataFrame] = {}
    if "split" in table:
        others = [name for name in SPLITS if name != split] if split else [SPLITS[0]]
        there |= {f"split {name}": table[table["split"] == name] for name in others}
    if trained_on is not None:
        there["model.trained_on"] = _read_training_list(trained_on)
    found = {}
    for place, films in there.items():
        known = np.zeros(int(taken.sum()), dtype=np.bool_)
        for column in ("patient", "image"):
            if column in films:
                values = films.loc[films[column] != "", column]
                known |= table.loc[taken, column].isin(values).to_numpy()
        if known.any():
            found[place] = known
    return found


def _read_training_list(path: Path) -> pd.DataFrame:
    try:
        table = read_table(path)
    except (ConfigError, DataError) as error:
        raise ConfigError(str(error).replace("cohort.manifest", "model.trained_on")) from None
    if not {"patient", "image"} & set(table.columns):
        raise ConfigError(
            f"model.trained_on: {path.name!r} has neither column 'patient' nor 'image'; expected "
            "one of them, with cells as in the manifest."
        )
    return table


def shared_patients(path: FilePath, splits: Sequence[str]) -> dict[tuple[str, str], int]:
    """Count the patients that pairs of splits share; pairs that share none are left out.

    Raises
    ------
    ConfigError, DataError
        As `read_manifest`; also where the manifest has no column for the split.
    """
    table = read_table(path)
    require_columns(table, ("patient", "split"), path.name)
    rows, patients = table["split"].to_numpy(dtype=str), table["patient"].to_numpy(dtype=str)
    members = {split: set(patients[rows == split]) - {""} for split in splits}
    shared = {
        (a, b): len(members[a] & members[b]) for i, a in enumerate(splits) for b in splits[i + 1 :]
    }
    return {pair: count for pair, count in shared.items() if count}


def _reports(rows: _Rows) -> list[str]:
    """Return the report text of each taken row; an unreadable report file rejects the row."""
    table = rows.table
    texts = [""] * len(table)
    if "report" in table:
        for i in np.flatnonzero(rows.taken):
            texts[i] = table["report"].iloc[i]
    if "report_path" not in table:
        return texts
    cells = table["report_path"]
    asked = [i for i in np.flatnonzero(rows.taken).tolist() if cells.iloc[i] and not texts[i]]
    read = for_each(_try_report, (rows.file_of(cells.iloc[i]) for i in asked))
    for at, text in zip(asked, read, strict=True):
        if isinstance(text, DataError):
            rows.taken[at], row = False, row_number(table, at)
            message = f"{rows.name} row {row}: {text}"
            rows.rejected.append(RejectedFilm(row, "report_unreadable", message))
        else:
            texts[at] = text
    return texts


def _try_report(file: FilePath) -> str | DataError:
    try:
        return read_radiology_report(file)
    except DataError as error:
        return error


def add_header_attributes(
    cohort: Cohort, headers: Sequence[Mapping[str, str]], from_header: bool | None
) -> Cohort:
    """Return the cohort with the attributes that the headers of its films (N,) state.

    `from_header` is None for attributes that the manifest has no column for, True for blank cells
    as well, False for none. Institutions are numbered, since their names must not be printed.
    """
    if from_header is False or len(headers) != len(cohort):
        return cohort
    attributes = dict(cohort.attributes)
    for name in ATTRIBUTES:
        stated = [header.get(name, "") for header in headers]
        if name == "site":
            stated = number_sites(stated)
        before = attributes.get(name)
        if not any(stated) or (before is not None and from_header is None):
            continue
        if before is None:
            attributes[name] = tuple(stated)
        else:
            attributes[name] = tuple(a or b for a, b in zip(before, stated, strict=True))
    return replace(cohort, attributes=attributes)


def number_sites(names: Sequence[str]) -> list[str]:
    """Return ``site 1``, ``site 2`` ... in the order of first appearance; blank stays blank."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(filter(None, names)), 1)}
    return [f"site {numbers[name]}" if name else "" for name in names]
