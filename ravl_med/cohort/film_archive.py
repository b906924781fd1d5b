"""A folder of an archive: every file told by its content, films and reports brought together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.reading_policy import ReadingPolicy
from ravl_med.cohort.reading_pool import ReadingPool
from ravl_med.cohort.report_sources import FilmReport, ReportSources
from ravl_med.cohort.survey import SurveyedFile
from ravl_med.errors import ConfigError, DataError, ImageError

__all__ = ["ArchiveFilm", "ArchiveSurvey", "find_files", "survey_archive"]

Progress = Callable[[str, int, int], None]

_WRITTEN = ("manifest.csv", "audit.yaml", "relevance.yaml")  # by ``ravl-med init``, at the top


@dataclass(frozen=True, slots=True, eq=False)
class ArchiveFilm:
    """A film that is kept: its file, what its header states, its report."""

    path: Path
    found: SurveyedFile
    report: FilmReport


@dataclass(slots=True)
class ArchiveSurvey:
    """What a folder holds.

    Attributes
    ----------
    folder : Path
    files : int - looked at
    films : list of ArchiveFilm - kept, in the order of their paths
    rejected : Counter of str - files that are no film to keep, by reason
    by_pixels : int - films that were kept by their pixels, the header being silent
    sources : ReportSources
    """

    folder: Path
    files: int = 0
    films: list[ArchiveFilm] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    by_pixels: int = 0
    sources: ReportSources = field(default_factory=ReportSources)


def survey_archive(
    folder: Path,
    policy: ReadingPolicy,
    *,
    is_frontal: Callable[[NDArray[np.float32]], bool],
    workers: int = 2,
    tables: Sequence[Path] = (),
    progress: Progress = lambda stage, done, total: None,
) -> ArchiveSurvey:
    """Look at every file of a folder, whatever it is called.

    Parameters
    ----------
    folder : Path
    policy : ReadingPolicy
    is_frontal : callable - tells of pixels whether they show a frontal chest film; asked where the
        header does not say
    workers : int - processes, at least 1
    tables : sequence of Path - of reports or findings, besides those in the folder
    progress : callable - called with (stage, done, total)

    Raises
    ------
    ConfigError
        The folder does not exist.
    DataError
        A table that was named cannot be read, or holds nothing of films.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder.name!r} is no folder. Name one with DICOM files.")
    survey = ArchiveSurvey(folder)
    for table in tables:
        if not survey.sources.add_table(table):
            raise DataError(
                "--reports: the table has no column that names films (such as accession, study or "
                "image), or neither reports nor findings."
            )
    images = _take_reports(survey, find_files(folder))
    kept: list[tuple[Path, SurveyedFile]] = []
    seen: set[str] = set()
    with ReadingPool(policy, workers, (folder,)) as pool:
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


def find_files(folder: Path) -> list[Path]:
    """Return the files below a folder, in order; links, hidden files, DICOMDIRs are passed by."""
    return [
        path
        for path in _walk(folder)
        if path.name.upper() != "DICOMDIR" and not (path.parent == folder and path.name in _WRITTEN)
    ]


def _walk(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # no right to look into it
        return
    for path in entries:
        if path.name.startswith(".") or path.is_symlink():
            continue
        if path.is_dir():
            yield from _walk(path)
        elif path.is_file():
            yield path


def _take_reports(survey: ArchiveSurvey, files: Sequence[Path]) -> list[Path]:
    """Take text files and tables out of the files; return the others."""
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
