"""A look at a folder, a manifest or a config before an audit; no model is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ravl_med.cohort.acquisition import HEADER_ATTRIBUTES
from ravl_med.cohort.attributes import add_header_attributes
from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.film_archive import ArchiveSurvey, survey_archive
from ravl_med.cohort.manifest import ATTRIBUTES, RejectedFilm, read_manifest
from ravl_med.cohort.manifest_table import read_table
from ravl_med.cohort.radiology_report import read_radiology_report
from ravl_med.cohort.report_findings import chest_labeller
from ravl_med.cohort.report_sources import LABEL_CELLS, FilmReport, holds_labels
from ravl_med.config import CohortConfig, PrivacyConfig, load_config
from ravl_med.errors import ConfigError, DataError
from ravl_med.pipeline.intake_report import (
    IntakeReport,
    attribute_values,
    count_attributes,
    count_findings,
)
from ravl_med.pipeline.prevalence import Prevalence, count_prevalence
from ravl_med.pipeline.stages import Progress
from ravl_med.regions.frontal_view import shows_frontal_chest
from ravl_med.regions.segmenter import built_in_segmenter
from ravl_med.storage.remote_path import FilePath

__all__ = [
    "FilmFindings",
    "inspect",
    "inspect_archive",
    "patient_of",
    "read_findings",
    "report_archive",
    "text_of",
]

_WORKERS = 2
_MIN_CELL = PrivacyConfig().min_cell


@dataclass(frozen=True, slots=True)
class FilmFindings:
    """Findings of N films.

    Attributes
    ----------
    cells : tuple of mapping, length N - finding to 1, 0, -1 or blank
    names : tuple of str
    source : str - ``"table"``, ``"manifest"``, ``"reports"`` or blank
    unrecognised : int - reports in which nothing was recognised
    """

    cells: tuple[Mapping[str, str], ...]
    names: tuple[str, ...]
    source: str
    unrecognised: int = 0


def inspect(
    path: Path,
    *,
    tables: Sequence[Path] = (),
    progress: Progress = lambda stage, done, total: None,
) -> IntakeReport:
    """Say what a folder, a manifest or the cohort of a config holds.

    Parameters
    ----------
    path : Path - a folder, a CSV, or a YAML config
    tables : sequence of Path - of reports, for a folder
    progress : callable - called with (stage, done, total)

    Raises
    ------
    ConfigError, DataError
        The path is none of the three, or what it names cannot be read.
    """
    if path.is_dir():
        return report_archive(inspect_archive(path, tables=tables, progress=progress))
    if path.suffix.lower() in (".yaml", ".yml"):
        config = load_config(path)
        if config.cohort.manifest is None:
            raise ConfigError("the config names no manifest; phantoms need no inspection.")
        return _inspect_manifest(
            config.cohort.manifest, config.cohort, progress, config.privacy.min_cell
        )
    if path.suffix.lower() == ".csv":
        return _inspect_manifest(path, CohortConfig(manifest=path, split=None), progress)
    raise ConfigError(f"{path.name!r}: expected a folder, a manifest (.csv) or a config (.yaml).")


def inspect_archive(
    folder: Path,
    *,
    tables: Sequence[Path] = (),
    progress: Progress = lambda stage, done, total: None,
) -> ArchiveSurvey:
    """Look at every file of a folder, and keep the frontal chest films.

    Raises
    ------
    ConfigError, DataError
        As `survey_archive`.
    """
    return survey_archive(
        folder,
        FilmReader().policy,
        is_frontal=partial(shows_frontal_chest, built_in_segmenter()),
        workers=_WORKERS,
        tables=tables,
        progress=progress,
    )


def report_archive(survey: ArchiveSurvey) -> IntakeReport:
    """Count what a survey of a folder found."""
    films = survey.films
    findings = read_findings(survey)
    if not films:  # an archive of reports alone still tells what they say
        findings = replace(
            _findings_of_texts([text_of(report) for report in survey.sources.reports()]),
            source="reports without a film",
        )
    attributes = [film.found.attributes for film in films]
    patients = [patient_of(survey, at) for at in range(len(films))]
    return IntakeReport(
        files=survey.files,
        films=len(films),
        patients=len(set(patients)),
        studies=len({film.found.study or str(film.path) for film in films}),
        rejected=dict(survey.rejected),
        by_pixels=survey.by_pixels,
        attributes=count_attributes(attributes, HEADER_ATTRIBUTES),
        applied=dict(Counter(film.found.applied for film in films).most_common()),
        reports=dict(Counter(film.report.source for film in films if film.report.source)),
        findings=count_findings(findings.cells, findings.names),
        findings_from=findings.source,
        unrecognised=findings.unrecognised,
        prevalence=_prevalence(attributes, HEADER_ATTRIBUTES, findings, patients, _MIN_CELL)
        if films
        else {},
        hidden_below=_MIN_CELL,
    )


def _prevalence(
    films: Sequence[Mapping[str, str]],
    attributes: Sequence[str],
    findings: FilmFindings,
    patients: Sequence[Hashable],
    least: int,
) -> Prevalence:
    """Count the films with each finding by value of each attribute."""
    told = count_findings(findings.cells, findings.names)
    cells = {name: [film.get(name, "") for film in findings.cells] for name in told}
    return count_prevalence(attribute_values(films, attributes), cells, patients, least)


def read_findings(survey: ArchiveSurvey) -> FilmFindings:
    """Return the findings of a survey's films: those of its tables, else of their reports."""
    names = survey.sources.columns
    if names:
        return FilmFindings(tuple(film.report.findings for film in survey.films), names, "table")
    return _findings_of_texts([text_of(film.report) for film in survey.films])


def text_of(report: FilmReport) -> str:
    """Return the text of a report, read from its file where it lies in one; blank for none."""
    if report.path is None:
        return report.text
    try:
        return read_radiology_report(report.path)
    except DataError:  # the manifest names it, and the audit sets its row aside by name
        return ""


def patient_of(survey: ArchiveSurvey, at: int) -> str:
    """Return the identifier that stands for a film's patient: its study or file where none does."""
    film = survey.films[at]
    return film.found.patient or film.found.study or str(film.path)


def _findings_of_texts(texts: Sequence[str]) -> FilmFindings:
    if not any(texts):
        return FilmFindings(({},) * len(texts), (), "")
    labeller = chest_labeller()
    readings = [labeller.read(text) if text else None for text in texts]
    cells = tuple(
        {
            name: "" if cell is None else str(cell)
            for name in labeller.findings
            if reading is not None
            for cell in (reading.cell(name),)
        }
        for reading in readings
    )
    silent = sum(reading is not None and not reading.recognised for reading in readings)
    return FilmFindings(cells, tuple(labeller.findings), "reports", silent)


def _findings_of_columns(manifest: FilePath, rows: Sequence[int]) -> FilmFindings:
    """Read the columns of a manifest that hold nothing but labels."""
    table = read_table(manifest).loc[list(rows)]
    others = {*ATTRIBUTES, "image", "patient", "study", "split", "frame", "report", "report_path"}
    names = tuple(str(name) for name in table.columns if name not in others)
    names = tuple(name for name in names if holds_labels(table[name].tolist()))
    cells = tuple(
        {name: LABEL_CELLS[value] for name, value in zip(names, line, strict=True)}
        for line in table[list(names)].itertuples(index=False, name=None)
    )
    return FilmFindings(cells, names, "manifest" if names else "")


def _inspect_manifest(
    manifest: FilePath, config: CohortConfig, progress: Progress, min_cell: int = _MIN_CELL
) -> IntakeReport:
    """Read every film that a manifest lists."""
    listed = read_manifest(manifest, split=config.split, roots=config.roots)
    rejected = Counter(film.reason for film in listed.rejected)
    headers: list[Mapping[str, str]] = []
    kept: list[int] = []
    applied: Counter[str] = Counter()
    for done, film in enumerate(FilmReader.of(config).films(listed), start=1):
        progress("read films", done, len(listed))
        if isinstance(film, RejectedFilm):
            rejected[film.reason] += 1
            continue
        kept.append(film.index)
        headers.append(film.attributes)
        applied[film.applied] += 1
    cohort = listed.keep(np.array(kept, dtype=np.int64))
    cohort = add_header_attributes(cohort, headers, config.attributes_from_header)
    films = [
        {name: values[at] for name, values in cohort.attributes.items()}
        for at in range(len(cohort))
    ]
    findings = _findings_of_columns(manifest, cohort.rows.tolist())
    if not findings.names:
        findings = _findings_of_texts(cohort.radiology_reports)
    return IntakeReport(
        files=listed.listed - sum(listed.left_out.values()),
        films=len(cohort),
        patients=len(np.unique(cohort.patients)),
        studies=len(cohort),
        rejected=dict(rejected),
        attributes=count_attributes(films, tuple(cohort.attributes)),
        applied=dict(applied.most_common()),
        reports={"manifest": sum(bool(text) for text in cohort.radiology_reports)},
        findings=count_findings(findings.cells, findings.names),
        findings_from=findings.source,
        unrecognised=findings.unrecognised,
        prevalence=_prevalence(
            films, tuple(cohort.attributes), findings, cohort.patients.tolist(), min_cell
        ),
        hidden_below=min_cell,
    )
