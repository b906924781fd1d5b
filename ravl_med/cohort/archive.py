"""A folder of an archive: each file is identified by its content, films and reports are paired.

Reports come from structured reports of the same study or accession number, from text files named
after an accession number, an identifier or the film's file, and from tables (CSV), which may hold
findings as well, and patient, view, sex and age, which PNG and JPEG films do not state.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.reading_pool import ReadingPool
from ravl_med.cohort.report_table import FilmReport, read_report_table
from ravl_med.cohort.survey import FRONTAL_VIEWS, SurveyedFile
from ravl_med.config.cohort import ReadingConfig
from ravl_med.errors import ConfigError, DataError, ImageError


@dataclass(slots=True)
class ReportSources:
    """All reports of an archive, under the names that films may be found by."""

    structured: dict[str, tuple[str, str]] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)  # by their names
    rows: dict[str, FilmReport] = field(default_factory=dict)
    columns: tuple[str, ...] = ()  # findings that the tables hold
    repeated: set[str] = field(default_factory=set)  # ends of the paths of several films

    def note_paths(self, paths: Sequence[Path]) -> None:
        """Note which ends of paths, with and without suffix, are those of several films."""
        for left in (list(paths), list({path.with_suffix("") for path in paths})):
            length = 1
            while left:
                counts = Counter(_end(path, length) for path in left)
                left = [path for path in left if counts[_end(path, length)] > 1]
                self.repeated.update(_end(path, length) for path in left)
                length += 1

    def add_structured(self, report: SurveyedFile) -> None:
        """Add a structured report; the latest of a study counts."""
        for key in filter(None, (report.study, report.accession)):
            if report.when >= self.structured.get(key, ("", ""))[0]:
                self.structured[key] = (report.when, report.text)

    def add_files(self, paths: Iterable[Path]) -> None:
        """Add text files."""
        for path in paths:
            self.files.setdefault(path.stem, []).append(path)

    def reports(self) -> list[FilmReport]:
        """Return every report once, whether a film belongs to it or not."""
        structured = dict.fromkeys(self.structured.values())  # by study and by accession number
        reports = [FilmReport(text, source="structured report") for _, text in structured]
        paths = (path for named in self.files.values() for path in named)
        reports += [FilmReport(path=path, source="text file") for path in paths]
        rows = {id(row): row for row in self.rows.values() if row.text}  # by every identifier
        return [*reports, *rows.values()]

    def add_table(self, path: Path) -> bool:
        """Add the rows of a table; return whether it holds anything about films."""
        rows, columns = read_report_table(path)
        joined: dict[tuple[int, int], FilmReport] = {}  # one for all keys of a row
        for key, row in rows.items():
            known = self.rows.get(key)
            if known is None:
                self.rows[key] = row
            else:
                self.rows[key] = joined.setdefault((id(known), id(row)), known.beside(row))
        self.columns = tuple(dict.fromkeys((*self.columns, *columns)))
        return bool(rows)

    def find(self, film: SurveyedFile, path: Path) -> FilmReport:
        """Return the report and findings of a film."""
        row = self.row(film, path) or FilmReport()
        if row.text:
            return row
        dated = next((self.structured[n] for n in _identifiers(film) if n in self.structured), None)
        if dated is not None:
            return FilmReport(dated[1], None, "structured report", row.findings)
        file = self._text_file(film, path)
        return row if file is None else FilmReport("", file, "text file", row.findings)

    def row(self, film: SurveyedFile, path: Path) -> FilmReport | None:
        """Return what tables say of a film, and not of its whole study; None for nothing."""
        known, ends = _identifiers(film), self._ends(path)
        names = (*(f"/{name}" for name in (*ends, *known)), *known, *ends)
        return next((self.rows[name] for name in names if name in self.rows), None)

    def _text_file(self, film: SurveyedFile, path: Path) -> Path | None:
        """Return the text file that has an identifier of a film, or the film's path, for a name."""
        named = [self.files[name][0] for name in _identifiers(film) if name in self.files]
        if named:
            return named[0]
        texts = [text for name in {path.name, path.stem} for text in self.files.get(name, ())]
        for end in self._ends(path) if texts else ():
            own = [t for t in texts if f"/{t.with_suffix('').as_posix()}".endswith(f"/{end}")]
            if own:
                return own[0] if len(own) == 1 else None  # two trees, and nothing says which
        return None

    def _ends(self, path: Path) -> list[str]:
        """Return the ends of a film's path that are those of no other film, the longest first."""
        ends = (_end(path, length) for length in range(len(path.parts) - 1, 0, -1))
        names = (name for end in ends for name in (end, end.removesuffix(path.suffix)))
        return [name for name in dict.fromkeys(names) if name not in self.repeated]


def _identifiers(film: SurveyedFile) -> tuple[str, ...]:
    """Return what a header names a film by, the narrowest first."""
    return tuple(filter(None, (film.instance, film.study, film.accession)))


def _end(path: Path, length: int) -> str:
    return "/".join(path.parts[-length:])


Progress = Callable[[str, int, int], None]

_LATERAL = ("L", "LL", "RL", "LAT")
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
    set_aside: list[tuple[Path, str]] = field(default_factory=list)  # those that have a path
    by_pixels: int = 0  # films kept by their pixels, where the header did not say
    sources: ReportSources = field(default_factory=ReportSources)

    def reject(self, path: Path, reason: str) -> None:
        """Note a file that is no film to keep."""
        self.rejected[reason] += 1
        self.set_aside.append((path, reason))


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
        raise ConfigError(f"{folder.name!r} is no folder. Name one with films.")
    survey = ArchiveSurvey(folder)
    if not all(survey.sources.add_table(table) for table in tables):
        raise DataError(
            "--reports: the table has no column that names films (such as accession, study or "
            "image), or neither reports nor findings."
        )
    images = _take_reports(survey, find_files(folder, survey.rejected))
    survey.sources.note_paths(images)
    kept: list[tuple[Path, SurveyedFile]] = []
    seen: set[str] = set()
    with ReadingPool(reading, workers, (folder,)) as pool:
        outcomes = pool.survey((path, None) for path in images)
        for done, (path, found) in enumerate(zip(images, outcomes, strict=True), start=1):
            progress("look at files", done, len(images))
            if isinstance(found, ImageError):
                survey.reject(path, found.reason)
            elif found.kind == "report":
                survey.sources.add_structured(found)
                survey.reject(path, "report")
            elif found.digest in seen:
                survey.reject(path, "duplicate_pixels")
            else:
                row = survey.sources.row(found, path) or FilmReport()
                film = _with_table(found, row.stated)
                reason = _why_not(survey, film, is_frontal)
                if reason:
                    survey.reject(path, reason)
                else:
                    seen.add(film.digest)
                    kept.append((path, replace(film, pixels=None)))
    survey.films = list(_paired(survey, kept))
    return survey


def _paired(
    survey: ArchiveSurvey, kept: Sequence[tuple[Path, SurveyedFile]]
) -> Iterator[ArchiveFilm]:
    """Yield films with their reports; beside DICOM, PNG and JPEG count where a table names them."""
    previews = any(found.has_header for _, found in kept)
    for path, found in kept:
        if previews and not found.has_header and survey.sources.row(found, path) is None:
            survey.reject(path, "beside_dicom")
        else:
            yield ArchiveFilm(path, found, survey.sources.find(found, path))


def _with_table(found: SurveyedFile, stated: Mapping[str, str]) -> SurveyedFile:
    """Add what a table says of a film; its header goes before."""
    said = {name: value for name, value in stated.items() if value}
    patient = said.pop("patient", "")
    if "view" in said:
        said["view"] = _view(said["view"].upper())
    if said.get("sex", "")[:1].upper() in ("F", "M"):
        said["sex"] = said["sex"][0].upper()
    said |= {name: value for name, value in found.attributes.items() if value}
    return replace(found, patient=found.patient or patient, attributes=said)


def _view(text: str) -> str:
    """Return AP, PA or LATERAL for the ways in which tables write them."""
    frontal = re.match(r"(AP|PA)\b", text)
    if frontal is not None:
        return frontal[1]
    return "LATERAL" if text in _LATERAL or "LATERAL" in text else text


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
    for path in texts:
        survey.reject(path, "report")
    others = []
    for path in files:
        if path.suffix.lower() == ".csv":
            try:
                used = survey.sources.add_table(path)
            except DataError:
                used = False
            survey.reject(path, "report" if used else "not_dicom")
        elif path.suffix.lower() != ".txt":
            others.append(path)
    return others


def _why_not(
    survey: ArchiveSurvey, found: SurveyedFile, is_frontal: Callable[[NDArray[np.float32]], bool]
) -> str:
    """Return why a film is not kept; blank where it is."""
    view = "" if found.has_header else found.attributes.get("view", "")
    if found.certain or view in FRONTAL_VIEWS:
        return ""
    if view == "LATERAL":
        return "not_frontal"
    assert found.pixels is not None
    if not is_frontal(found.pixels):
        return "no_frontal_chest"
    survey.by_pixels += 1
    return ""
