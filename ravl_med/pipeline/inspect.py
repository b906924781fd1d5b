"""A look at a folder, a manifest or a config before an audit, in counts; no model is opened.

Besides films, reports and findings it counts how frequent each finding is among the films with each
value of an acquisition attribute: a finding that is stated more often on portable films, or at one
site, is a reason for a model to learn the attribute. Findings of few patients are hidden. Nothing
that is printed names a patient; the list of what was set aside names files.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from ravl_med.cohort.archive import ArchiveSurvey, survey_archive
from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import add_header_attributes, number_sites, read_manifest
from ravl_med.cohort.report_table import FilmReport, meaning_of
from ravl_med.cohort.table import ATTRIBUTES, COLUMNS, RejectedFilm, read_table
from ravl_med.config.audit import PrivacyConfig
from ravl_med.config.cohort import CohortConfig
from ravl_med.config.loading import load_config
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.disclosure_control import HIDDEN, hidden_cells, hide_counts
from ravl_med.evidence.effects import NOT_STATED, age_band
from ravl_med.labelling.findings import chest_labeller
from ravl_med.labelling.sections import read_radiology_report
from ravl_med.pipeline.stages import Progress
from ravl_med.regions.film_structures import shows_frontal_chest
from ravl_med.regions.segmenter import built_in_segmenter
from ravl_med.storage.remote import FilePath

Prevalence = Mapping[str, Mapping[str, Mapping[str, tuple[int, int]]]]
"""By attribute, finding and value: films with the finding, and films. Hidden ones are -1."""

_WIDTH = 100
_VALUES_SHOWN = 12  # of an attribute, on one line
_PRESENT = "1"
NO_FINDING = ("normal", "no finding")
_NO_FINDINGS = (*NO_FINDING, "device")
_NO_BREAK = "\u00a0"


def count_prevalence(
    values: Mapping[str, Sequence[str]],
    findings: Mapping[str, Sequence[str]],
    patients: Sequence[Hashable],
    least: int,
) -> dict[str, dict[str, dict[str, tuple[int, int]]]]:
    """Count the films with each finding by value of each attribute.

    `values` and `findings` (cells 1, 0, -1 or blank) have one entry a film, as `patients` has. Only
    attributes with two stated values or more are counted, the most frequent value first. A number
    of films with the finding is -1 where fewer than `least` patients have it, or do not have it, or
    where it would reveal that of another value.
    """
    counted: dict[str, dict[str, dict[str, tuple[int, int]]]] = {}
    for attribute, stated in values.items():
        films = Counter(stated)
        if len(set(films) - {NOT_STATED}) < 2:
            continue
        names = [name for name, _ in films.most_common()]
        counted[attribute] = {
            finding: _by_value(names, stated, cells, patients, least)
            for finding, cells in findings.items()
        }
    return counted


def _by_value(
    names: Sequence[str],
    stated: Sequence[str],
    cells: Sequence[str],
    patients: Sequence[Hashable],
    least: int,
) -> dict[str, tuple[int, int]]:
    """Count one finding by value of one attribute."""
    films = Counter(zip(stated, (cell == _PRESENT for cell in cells), strict=True))
    kinds = set(zip(stated, (cell == _PRESENT for cell in cells), patients, strict=True))
    who = Counter((value, present) for value, present, _ in kinds)
    hidden: frozenset[int] = frozenset()
    for _, present in product(range(2), (True, False)):  # the two rows hide the same values
        hidden |= hidden_cells([who[name, present] for name in names], least, hidden)
    return {
        name: (
            HIDDEN if at in hidden else films[name, True],
            films[name, True] + films[name, False],
        )
        for at, name in enumerate(names)
    }


def prevalence_lines(prevalence: Prevalence, least: int) -> list[str]:
    """Return the counts of `count_prevalence` in lines of at most 100 characters."""
    lines = []
    for attribute, findings in prevalence.items():
        if not findings:
            continue
        lines += ["", f"Findings by {attribute.replace('_', ' ')}: present, of the films with it"]
        hidden = []
        for name, counts in findings.items():
            known = [present for present, _ in counts.values() if present != HIDDEN]
            if any(known):
                lines += _wrapped(f"  {name}:", _listed_shares(counts))
            elif len(known) < len(counts):  # a finding that no film has is said above
                hidden.append(name)
        if hidden:
            lines += _wrapped(f"  hidden, of fewer than {least} patients:", hidden)
    return lines


def _listed_shares(counts: Mapping[str, tuple[int, int]]) -> list[str]:
    shares = [
        f"{value} hidden"
        if present == HIDDEN
        else f"{value} {present} of {films} ({100 * present / films:.0f} %)"
        for value, (present, films) in list(counts.items())[:_VALUES_SHOWN]
    ]
    if len(counts) > _VALUES_SHOWN:
        shares.append(f"and {len(counts) - _VALUES_SHOWN} more")
    return shares


def _wrapped(head: str, items: Sequence[str]) -> list[str]:
    """Join items in lines that end between them, not inside."""
    whole = ", ".join(item.replace(" ", _NO_BREAK) for item in items)
    lines = textwrap.wrap(f"{head} {whole}", _WIDTH, subsequent_indent="      ")
    return [line.replace(_NO_BREAK, " ") for line in lines]


_REASONS = {
    "report": "radiology reports and tables",
    "not_dicom": "neither DICOM, PNG nor JPEG",
    "beside_dicom": "PNG or JPEG beside DICOM films, named by no table: perhaps previews",
    "other_modality": "another modality",
    "other_body_part": "another part of the body",
    "not_frontal": "a lateral or another view",
    "for_processing": "raw films, not for presentation",
    "folder_not_read": "folders that cannot be looked into: no right to, or too deep",
    "name_no_text": "the file's name is not UTF-8 text; rename it",
    "no_frontal_chest": "not by the header, and the pixels show no frontal chest",
    "duplicate_pixels": "the same pixels as an earlier file",
    "no_pixel_data": "no image",
}


@dataclass(frozen=True, slots=True)
class IntakeReport:
    """The result of an inspection."""

    files: int  # or rows of a manifest
    films: int  # that can be audited, with their patients and studies
    patients: int
    studies: int
    rejected: Mapping[str, int]
    by_pixels: int = 0  # films kept by their pixels, where the header did not say
    unnamed: int = 0  # films whose patient is not stated, each of which counts as one
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    applied: Mapping[str, int] = field(default_factory=dict)  # how stored values became pixels
    reports: Mapping[str, int] = field(default_factory=dict)  # films with a report, by source
    findings: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # cells counted
    findings_from: str = ""  # table, manifest, reports, blank, or "reports without a film"
    unrecognised: int = 0  # reports in which nothing was recognised
    prevalence: Prevalence = field(default_factory=dict)
    hidden_below: int = 0  # findings of fewer patients are hidden
    set_aside: tuple[tuple[str, str], ...] = ()  # files, or rows without one, and why

    @property
    def usable(self) -> bool:
        """Whether there is anything to audit: films, or the reports of films elsewhere."""
        return bool(self.films or self.findings)

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        lines = self._kept()
        if self.rejected:
            lines += ["", "Not kept"]
        for reason, count in sorted(self.rejected.items(), key=lambda entry: -entry[1]):
            meaning = _REASONS.get(reason)
            lines.append(f"  {count:6d}  {reason}{f': {meaning}' if meaning else ''}")
        if self.films:
            lines += ["", "Films kept"]
            for name, counts in self.attributes.items():
                lines.append(f"  {name.replace('_', ' ')}: {_listed(counts)}")
            lines.append(f"  pixels: {_listed(self.applied)}")
            lines.append(f"  reports: {_listed(self.reports) or 'none'}")
        by_attribute = prevalence_lines(self.prevalence, self.hidden_below)
        return [*lines, *self._overall(), *by_attribute]

    def summary(self) -> list[str]:
        """Return the report in a few lines."""
        lines = self._kept()
        if self.rejected:
            counts = dict(Counter(self.rejected).most_common())
            lines.append(f"{sum(counts.values())} set aside: {_listed(counts)}.")
        if self.findings:
            others = [name for name in self.findings if name.lower() in _NO_FINDINGS]
            findings = [name for name in self.findings if name not in others]
            lines.append(
                f"Findings, from {self.findings_from}: {', '.join(findings) or 'none'}."
                + (f" Other labels: {', '.join(others)}." if others else "")
            )
        return [*lines, "ravl-med inspect says more."]

    def _kept(self) -> list[str]:
        lines = [
            f"{self.files} files read, {self.films} films kept: {self.patients} patients, "
            f"{self.studies} studies."
        ]
        if self.by_pixels:
            lines.append(f"{self.by_pixels} of them by their pixels; no header or table says.")
        if self.unnamed:
            lines.append(
                f"{self.unnamed} name no patient: each counts as one. A CSV with the columns "
                "image and patient names them."
            )
        return lines

    def _overall(self) -> list[str]:
        if not self.findings:
            return []
        lines = ["", f"Findings, from {self.findings_from}: present, absent, uncertain, not stated"]
        width = max(len(name) for name in self.findings)
        for name, cells in self.findings.items():
            counts = [cells.get(cell, 0) for cell in ("1", "0", "-1", "")]
            numbers = "".join(f"{'hidden' if n == HIDDEN else n:>8}" for n in counts)
            lines.append(f"  {name:<{width}}{numbers}")
        if any(HIDDEN in cells.values() for cells in self.findings.values()):
            lines.append(f"  hidden: fewer than {self.hidden_below} patients, or what reveals them")
        if self.unrecognised:
            lines.append(f"  reports in which nothing is recognised: {self.unrecognised}")
        return lines


def count_attributes(
    films: Sequence[Mapping[str, str]], names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count the values of the attributes that any film states, see `attribute_values`."""
    counted = {name: Counter(values) for name, values in attribute_values(films, names).items()}
    return {
        name: dict(counts.most_common())
        for name, counts in counted.items()
        if set(counts) - {NOT_STATED}
    }


def attribute_values(
    films: Sequence[Mapping[str, str]], names: Sequence[str]
) -> dict[str, list[str]]:
    """Return printable values of attributes film by film: ages in bands, sites by number."""
    printable = {}
    for name in names:
        values = [film.get(name, "") for film in films]
        if name == "site":
            values = number_sites(values)
        if name == "age":
            values = [age_band(value) for value in values]
        printable[name] = [value or NOT_STATED for value in values]
    return printable


def count_findings(
    films: Sequence[Mapping[str, str]],
    names: Sequence[str],
    patients: Sequence[Hashable] = (),
    least: int = 0,
) -> dict[str, dict[str, int]]:
    """Count the cells 1, 0, -1 and blank of findings, the most frequent finding first.

    Cells of fewer than `least` patients are -1, and others that would reveal them.
    """
    cells = {name: [film.get(name, "") for film in films] for name in names}
    stated = {name: Counter(own) for name, own in cells.items() if set(own) - {""}}
    ordered = sorted(stated, key=lambda name: -stated[name]["1"])
    if not least:
        return {name: dict(stated[name]) for name in ordered}
    who = {
        name: Counter(cell for cell, _ in set(zip(cells[name], patients, strict=True)))
        for name in ordered
    }
    return {name: hide_counts(stated[name], who[name], least) for name in ordered}


def _listed(counts: Mapping[str, int]) -> str:
    named = [f"{value}: {count}" for value, count in list(counts.items())[:_VALUES_SHOWN]]
    if len(counts) > _VALUES_SHOWN:
        named.append(f"and {len(counts) - _VALUES_SHOWN} more")
    return ", ".join(named)


_WORKERS = 2
_MIN_CELL = PrivacyConfig().min_cell


@dataclass(frozen=True, slots=True)
class FilmFindings:
    """Findings of N films."""

    cells: tuple[Mapping[str, str], ...]  # finding to 1, 0, -1 or blank, film by film
    names: tuple[str, ...]
    source: str  # table, manifest, reports or blank
    unrecognised: int = 0  # reports in which nothing was recognised


def inspect(
    path: Path, *, tables: Sequence[Path] = (), progress: Progress = lambda stage, done, total: None
) -> IntakeReport:
    """Inspect a folder, with tables of reports, a manifest (CSV), or the cohort of a config (YAML).

    Raises
    ------
    ConfigError, DataError
        The path is none of the three, or something that it names cannot be read.
    """
    if not path.exists():
        raise ConfigError(
            f"{path.name!r}: no such file or folder; expected a folder, a manifest (.csv) or a "
            "config (.yaml)."
        )
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
        FilmReader().reading,
        is_frontal=partial(shows_frontal_chest, built_in_segmenter()),
        workers=_WORKERS,
        tables=tables,
        progress=progress,
    )


def report_archive(survey: ArchiveSurvey) -> IntakeReport:
    """Count the content of a surveyed folder."""
    films = survey.films
    findings = read_findings(survey)
    if not films:  # an archive of reports alone still has findings
        findings = replace(
            _findings_of_texts([text_of(report) for report in survey.sources.reports()]),
            source="reports without a film",
        )
    attributes = [film.found.attributes for film in films]
    patients = [patient_of(survey, at) for at in range(len(films))]
    people = patients if films else [str(at) for at in range(len(findings.cells))]
    return IntakeReport(
        files=survey.files,
        films=len(films),
        patients=len(set(patients)),
        studies=len({film.found.study or str(film.path) for film in films}),
        rejected=dict(survey.rejected),
        by_pixels=survey.by_pixels,
        unnamed=sum(not film.found.patient for film in films),
        attributes=count_attributes(attributes, ATTRIBUTES),
        applied=dict(Counter(film.found.applied for film in films).most_common()),
        reports=dict(Counter(film.report.source for film in films if film.report.source)),
        findings=count_findings(findings.cells, findings.names, people, _MIN_CELL),
        findings_from=findings.source,
        unrecognised=findings.unrecognised,
        set_aside=tuple((str(path), reason) for path, reason in survey.set_aside),
        prevalence=_prevalence(attributes, ATTRIBUTES, findings, patients, _MIN_CELL)
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
    stated = count_findings(findings.cells, findings.names)
    cells = {name: [film.get(name, "") for film in findings.cells] for name in stated}
    return count_prevalence(attribute_values(films, attributes), cells, patients, least)


def read_findings(survey: ArchiveSurvey) -> FilmFindings:
    """Return the findings of a survey's films, from its tables, else from their reports."""
    names = survey.sources.columns
    if names:
        return FilmFindings(tuple(film.report.findings for film in survey.films), names, "table")
    return _findings_of_texts([text_of(film.report) for film in survey.films])


def text_of(report: FilmReport) -> str:
    """Return the text of a report, read from its file if it has one; blank for none."""
    if report.path is None:
        return report.text
    try:
        return read_radiology_report(report.path)
    except DataError:  # the manifest names it, and the audit rejects its row
        return ""


def patient_of(survey: ArchiveSurvey, at: int) -> str:
    """Return the identifier of a film's patient, or in its place that of its study or file."""
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
    """Read the columns of a manifest that hold nothing but labels, in digits or in words."""
    table = read_table(manifest).loc[list(rows)]
    columns = {
        str(name): [meaning[cell.lower()] for cell in table[name]]
        for name in table.columns
        if name not in COLUMNS and (meaning := meaning_of(table[name]))
    }
    cells = tuple(
        dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)
    )
    return FilmFindings(cells, tuple(columns), "manifest" if columns else "")


def _inspect_manifest(
    manifest: FilePath, config: CohortConfig, progress: Progress, min_cell: int = _MIN_CELL
) -> IntakeReport:
    """Read every film that a manifest lists."""
    listed = read_manifest(manifest, split=config.split, roots=config.roots)
    rejected = list(listed.rejected)
    headers: list[Mapping[str, str]] = []
    kept: list[int] = []
    applied: Counter[str] = Counter()
    for done, film in enumerate(FilmReader.of(config).films(listed), start=1):
        progress("read films", done, len(listed))
        if isinstance(film, RejectedFilm):
            rejected.append(film)
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
        rejected=dict(Counter(film.reason for film in rejected)),
        set_aside=tuple((str(film.path or f"row {film.row}"), film.reason) for film in rejected),
        attributes=count_attributes(films, tuple(cohort.attributes)),
        applied=dict(applied.most_common()),
        reports={"manifest": sum(bool(text) for text in cohort.radiology_reports)},
        findings=count_findings(findings.cells, findings.names, cohort.patients.tolist(), min_cell),
        findings_from=findings.source,
        unrecognised=findings.unrecognised,
        prevalence=_prevalence(
            films, tuple(cohort.attributes), findings, cohort.patients.tolist(), min_cell
        ),
        hidden_below=min_cell,
    )
