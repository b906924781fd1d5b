"""A folder of an archive: each file is identified by its content, films and reports are paired.

Reports come from structured reports of the same study or accession number, from text files named
after an accession number, an identifier or the film's file, and from tables (CSV) with a column
that names the film or the examination. Tables may hold findings as well.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import TextIOWrapper
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.reading_pool import ReadingPool
from ravl_med.cohort.survey import SurveyedFile
from ravl_med.config.cohort import ReadingConfig
from ravl_med.errors import ConfigError, DataError, ImageError
from ravl_med.storage.bounded_reading import open_regular

_WORDS = {
    **dict.fromkeys(("yes", "y", "true", "positive", "pos", "present"), "1"),
    **dict.fromkeys(("no", "n", "false", "negative", "neg", "absent"), "0"),
    **dict.fromkeys(("uncertain", "possible", "equivocal"), "-1"),
    **dict.fromkeys(("unknown", "not stated", "n/a", ""), ""),
}
"""Cells of a label column in words; a manifest has 1, 0 and -1."""
_NO_FINDINGS = frozenset({"portable", "sex", "view", "site", "split"})

LABEL_CELLS = {"1": "1", "1.0": "1", "0": "0", "0.0": "0", "-1": "-1", "-1.0": "-1", "": ""}
"""How a finding's cells may be written, and how a manifest writes them."""

_KEYS = (
    "accession", "accession_number", "accessionnumber", "study", "study_id", "study_uid",
    "studyinstanceuid", "study_instance_uid", "image", "image_id", "dicom_id", "file", "filename",
    "file_name", "path", "sopinstanceuid", "sop_instance_uid", "uid",
)  # fmt: skip
_TEXTS = ("report", "report_text", "radiology_report", "text", "findings", "impression")
_LARGEST = 200_000_000  # bytes of a table


@dataclass(frozen=True, slots=True)
class FilmReport:
    """The report of one film, and the findings that a table states for it."""

    text: str = ""  # blank where the report is a file, or there is none
    path: Path | None = None  # of a text file
    source: str = ""  # "structured report", "text file", "table" or blank
    findings: Mapping[str, str] = field(default_factory=dict)  # cells 1, 0, -1 or blank of a table


@dataclass(slots=True)
class ReportSources:
    """All reports of an archive, under the names that films may be found by."""

    structured: dict[str, tuple[str, str]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    rows: dict[str, FilmReport] = field(default_factory=dict)
    columns: tuple[str, ...] = ()  # findings that the tables hold

    def add_structured(self, report: SurveyedFile) -> None:
        """Add a structured report; the latest of a study counts."""
        for key in filter(None, (report.study, report.accession)):
            if report.when >= self.structured.get(key, ("", ""))[0]:
                self.structured[key] = (report.when, report.text)

    def add_files(self, paths: Iterable[Path]) -> None:
        """Add text files."""
        for path in paths:
            self.files.setdefault(path.stem, path)

    def reports(self) -> list[FilmReport]:
        """Return every report once, whether a film belongs to it or not."""
        structured = dict.fromkeys(self.structured.values())  # by study and by accession number
        reports = [FilmReport(text, source="structured report") for _, text in structured]
        reports += [FilmReport(path=path, source="text file") for path in self.files.values()]
        rows = {id(row): row for row in self.rows.values() if row.text}  # by every identifier
        return [*reports, *rows.values()]

    def add_table(self, path: Path) -> bool:
        """Add the rows of a table; return whether it holds anything about films."""
        rows, columns = read_report_table(path)
        for key, row in rows.items():
            self.rows.setdefault(key, row)
        self.columns = tuple(dict.fromkeys((*self.columns, *columns)))
        return bool(rows)

    def find(self, film: SurveyedFile, path: Path) -> FilmReport:
        """Return the report and findings of a film."""
        names = [film.accession, film.study, film.instance, path.name, path.stem]
        names = [name for name in dict.fromkeys(names) if name]
        row = next((self.rows[name] for name in names if name in self.rows), FilmReport())
        if row.text:
            return row
        dated = next((self.structured[name] for name in names if name in self.structured), None)
        if dated is not None:
            return FilmReport(dated[1], None, "structured report", row.findings)
        file = next((self.files[name] for name in names if name in self.files), None)
        if file is not None:
            return FilmReport("", file, "text file", row.findings)
        return row


def read_report_table(path: Path) -> tuple[dict[str, FilmReport], tuple[str, ...]]:
    """Read a CSV of reports or findings.

    Returns
    -------
    rows : dict of key to FilmReport - empty where the table has no column of keys, or neither
        reports nor findings; a key that is a path counts by its last part
    findings : tuple of str - columns whose cells are 1, 0, -1 or blank, or yes, no and the like

    Raises
    ------
    DataError
        The file is no CSV. The message does not name it.
    """
    lines = _lines(path)
    header = [cell.strip() for cell in lines[0]] if lines else []
    lower = [name.lower().replace(" ", "_") for name in header]
    keys = [at for at, name in enumerate(lower) if name in _KEYS]
    texts = [at for at, name in enumerate(lower) if name in _TEXTS]
    if not keys or {"image", "patient"} <= set(lower):  # a manifest is no table of reports
        return {}, ()
    findings = {
        at: meaning
        for at, name in enumerate(header)
        if name and at not in (*keys, *texts) and lower[at] not in _NO_FINDINGS
        if (meaning := _meaning_of(_column(lines[1:], at)))
    }
    rows: dict[str, FilmReport] = {}
    for line in lines[1:] if texts or findings else ():
        cells = [cell.strip() for cell in line] + [""] * (len(header) - len(line))
        text = _joined(header, cells, texts)
        labels = {header[at]: known[cells[at].lower()] for at, known in findings.items()}
        found = FilmReport(text, None, "table" if text else "", labels)
        for at in keys:
            name = cells[at].replace("\\", "/").rsplit("/", 1)[-1]
            if name:
                rows.setdefault(name, found)
    return rows, tuple(header[at] for at in findings) if rows else ()


def _lines(path: Path) -> list[list[str]]:
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError("a table is over 200 MB; expected reports of an archive.")
        with TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as stream:
            return [line for line in csv.reader(stream, strict=True) if any(line)]
    except FileNotFoundError:
        raise ConfigError(f"--reports {path.name[:80]}: no such file.") from None
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(f"a table is no UTF-8 CSV ({type(error).__name__}).") from None


def _meaning_of(cells: Iterable[str]) -> Mapping[str, str]:
    """Return what the cells of a column of labels mean; empty for any other column."""
    found = {cell.lower() for cell in cells}
    if holds_labels(found):
        return LABEL_CELLS
    stated = {_WORDS.get(cell, "?") for cell in found}
    return _WORDS if "1" in stated and "?" not in stated else {}


def holds_labels(cells: Iterable[str]) -> bool:
    """Return whether the cells of a column are 1, 0, -1 or blank, and one of them is 1."""
    found = set(cells)
    return found <= LABEL_CELLS.keys() and bool(found & {"1", "1.0"})


def _column(lines: Sequence[Sequence[str]], at: int) -> Iterable[str]:
    return (line[at].strip() if at < len(line) else "" for line in lines)


def _joined(header: Sequence[str], cells: Sequence[str], texts: Sequence[int]) -> str:
    """Join the report columns of a row; findings and impression keep their headings."""
    parts = [
        f"{header[at].upper()}: {cells[at]}" if len(texts) > 1 else cells[at]
        for at in texts
        if cells[at]
    ]
    return "\n".join(parts)


Progress = Callable[[str, int, int], None]

_WRITTEN = ("manifest.csv", "audit.yaml", "relevance.yaml")  # by ``ravl-med init``, at the top


@dataclass(frozen=True, slots=True, eq=False)
class ArchiveFilm:
    """A film to keep: its file, its header, its report."""

    path: Path
    found: SurveyedFile
    report: FilmReport


@dataclass(slots=True)
class ArchiveSurvey:
    """The content of a folder."""

    folder: Path
    files: int = 0  # looked at
    films: list[ArchiveFilm] = field(default_factory=list)  # to keep, in the order of their paths
    rejected: Counter[str] = field(default_factory=Counter)  # other files, by reason
    by_pixels: int = 0  # films kept by their pixels, where the header did not say
    sources: ReportSources = field(default_factory=ReportSources)


def survey_archive(
    folder: Path,
    reading: ReadingConfig,
    *,
    is_frontal: Callable[[NDArray[np.float32]], bool],
    workers: int = 2,
    tables: Sequence[Path] = (),
    progress: Progress = lambda stage, done, total: None,
) -> ArchiveSurvey:
    """Look at every file of a folder, whatever its name.

    Parameters
    ----------
    is_frontal : callable - whether pixels show a frontal chest film, where the header does not say
    workers : int - processes, at least 1
    tables : sequence of Path - of reports or findings, besides those in the folder

    Raises
    ------
    ConfigError
        The folder does not exist.
    DataError
        A named table cannot be read, or holds nothing about films.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder.name!r} is no folder. Name one with DICOM files.")
    survey = ArchiveSurvey(folder)
    if not all(survey.sources.add_table(table) for table in tables):
        raise DataError(
            "--reports: the table has no column that names films (such as accession, study or "
            "image), or neither reports nor findings."
        )
    images = _take_reports(survey, find_files(folder, survey.rejected))
    kept: list[tuple[Path, SurveyedFile]] = []
    seen: set[str] = set()
    with ReadingPool(reading, workers, (folder,)) as pool:
        outcomes = pool.survey((path, None) for path in images)
        for done, (path, found) in enumerate(zip(images, outcomes, strict=True), start=1):
            progress("look at files", done, len(images))
            if isinstance(found, ImageError):
                survey.rejected[found.reason] += 1
            elif found.kind == "report":
                survey.sources.add_structured(found)
                survey.rejected["report"] += 1
            elif found.digest in seen:
                survey.rejected["duplicate_pixels"] += 1
            elif _keep(survey, found, is_frontal):
                seen.add(found.digest)
                kept.append((path, replace(found, pixels=None)))
    survey.films = [ArchiveFilm(p, f, survey.sources.find(f, p)) for p, f in kept]
    return survey


def find_files(folder: Path, unread: Counter[str] | None = None) -> list[Path]:
    """Return the files below a folder, in order, without links, hidden files and DICOMDIRs.

    What cannot be looked into, and names that no table can hold, are counted in `unread`.
    """
    unread = Counter() if unread is None else unread
    return [
        path
        for path in _walk(folder, unread)
        if path.name.upper() != "DICOMDIR" and not (path.parent == folder and path.name in _WRITTEN)
    ]


def _walk(folder: Path, unread: Counter[str]) -> Iterator[Path]:
    """Yield the files below a folder; any depth is walked without recursion."""
    left = [iter(_entries(folder, unread))]
    while left:
        entry = next(left[-1], None)
        if entry is None:
            left.pop()
        elif entry.name.startswith(".") or entry.is_symlink():
            continue
        elif entry.is_dir(follow_symlinks=False):
            left.append(iter(_entries(entry.path, unread)))
        elif entry.is_file(follow_symlinks=False):
            if entry.name.isprintable() or _is_text(entry.name):
                yield Path(entry.path)
            else:
                unread["name_no_text"] += 1


def _entries(folder: Path | str, unread: Counter[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError:  # no right to look into it, or a path beyond what the system takes
        unread["folder_not_read"] += 1
        return []


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # bytes of another encoding
        return False
    return True


def _take_reports(survey: ArchiveSurvey, files: Sequence[Path]) -> list[Path]:
    """Take text files and tables out of the files, and return the others."""
    survey.files = len(files)
    texts = [path for path in files if path.suffix.lower() == ".txt"]
    survey.sources.add_files(texts)
    if texts:
        survey.rejected["report"] += len(texts)
    others = []
    for path in files:
        if path.suffix.lower() == ".csv":
            try:
                used = survey.sources.add_table(path)
            except DataError:
                used = False
            survey.rejected["report" if used else "not_dicom"] += 1
        elif path.suffix.lower() != ".txt":
            others.append(path)
    return others


def _keep(
    survey: ArchiveSurvey, found: SurveyedFile, is_frontal: Callable[[NDArray[np.float32]], bool]
) -> bool:
    if found.certain:
        return True
    assert found.pixels is not None
    if not is_frontal(found.pixels):
        survey.rejected["no_frontal_chest"] += 1
        return False
    survey.by_pixels += 1
    return True
