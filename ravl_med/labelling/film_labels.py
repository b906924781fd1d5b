"""The class of each film, from a manifest's cells or its reports, and how certain the label is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.cohort import LabelsConfig
from ravl_med.errors import ConfigError, DataError
from ravl_med.labelling.findings import ReportLabeller, ReportReading

STATED, UNCERTAIN, BLANK = "stated", "uncertain", "blank"
"""How certain a label is: all of its cells are 1 or 0; a cell was -1; a cell was blank."""

_OF_UNCERTAIN = {"positive": 1, "negative": 0}


@dataclass(frozen=True, slots=True)
class FindingCells:
    """Cells of N films, before the config's rules for blank and uncertain cells."""

    values: Mapping[str, Sequence[int | None]]  # by finding: 1, 0, -1 uncertain, None blank
    sources: Sequence[str]  # where the cells of a film come from
    unusable: Mapping[int, str]  # films that never get a label, and the reason


@dataclass(frozen=True, slots=True, eq=False)
class FilmLabels:
    """Labels of N films under the config's rules."""

    classes: NDArray[np.int64]  # (N,), -1 for none
    reasons: tuple[str, ...]  # why a film has no class; blank where it has one
    certainty: tuple[str, ...]  # STATED, UNCERTAIN or BLANK
    sources: tuple[str, ...]


def label_films(
    cells: FindingCells, columns: Mapping[str, Mapping[str, int]], labels: LabelsConfig
) -> FilmLabels:
    """Give each film the class whose cells it holds."""
    used = sorted({finding for wanted in columns.values() for finding in wanted})
    classes, reasons, certainty = [], [], []
    for film in range(len(cells.sources)):
        row = {finding: cells.values[finding][film] for finding in used}
        label, reason = _class_of(_read(row, labels), columns)
        if film in cells.unusable:
            label, reason = -1, cells.unusable[film]
        classes.append(label)
        reasons.append(reason)
        certainty.append(_certainty(row))
    return FilmLabels(
        np.array(classes, dtype=np.int64), tuple(reasons), tuple(certainty), tuple(cells.sources)
    )


def _read(row: Mapping[str, int | None], labels: LabelsConfig) -> dict[str, int | None]:
    """Return cells as the config counts them; excluded ones stay -1 or None."""
    blank = 0 if labels.blank == "negative" else None
    uncertain = _OF_UNCERTAIN.get(labels.uncertain, -1)
    return {
        finding: blank if value is None else uncertain if value == -1 else value
        for finding, value in row.items()
    }


def _class_of(
    row: Mapping[str, int | None], columns: Mapping[str, Mapping[str, int]]
) -> tuple[int, str]:
    if any(value is None for value in row.values()):
        return -1, "blank label"
    if -1 in row.values():
        return -1, "uncertain label"
    fits = [
        number
        for number, wanted in enumerate(columns.values())
        if all(row[finding] == value for finding, value in wanted.items())
    ]
    if len(fits) == 1:
        return fits[0], ""
    return -1, "several classes" if fits else "no class"


def _certainty(row: Mapping[str, int | None]) -> str:
    if -1 in row.values():
        return UNCERTAIN
    return BLANK if None in row.values() else STATED


NO_REPORT, NOT_RECOGNISED = "no report", "report not recognised"


def cells_from_reports(
    texts: Sequence[str],
    taken: NDArray[np.bool_],
    columns: Mapping[str, Mapping[str, int]],
    labeller: ReportLabeller,
    *,
    max_unrecognised: float | None,
    name: str,
) -> FindingCells:
    """Read the findings that a task names off the reports of N films, blank where there is none.

    Parameters
    ----------
    taken : ndarray of shape (N,), bool - films to read; the others get no label
    columns : mapping of class to (finding to value) - names of `labeller`, or aliases of them
    max_unrecognised : float or None - share of the reports in which nothing may be recognised;
        None: there may be no report, and nothing in any
    name : str - of the cohort, for messages

    Raises
    ------
    ConfigError
        A class names a finding that the labeller does not know.
    DataError
        None of the films has a report, or nothing is recognised in too many.
    """
    findings = _known(columns, labeller)
    blank = ReportReading({}, (), recognised=False)
    readings = [
        labeller.read(text) if there else blank
        for text, there in zip(texts, taken.tolist(), strict=True)
    ]
    unusable = {}
    for film in np.flatnonzero(taken).tolist():
        if not readings[film].sections:
            unusable[film] = NO_REPORT
        elif not readings[film].recognised:
            unusable[film] = NOT_RECOGNISED
    if max_unrecognised is not None:
        _require_recognised(list(unusable.values()), int(taken.sum()), max_unrecognised, name)
    return FindingCells(
        {label: [r.cell(finding) for r in readings] for label, finding in findings.items()},
        [f"report: {' and '.join(r.sections)}" if r.sections else NO_REPORT for r in readings],
        unusable,
    )


def _known(columns: Mapping[str, Mapping[str, int]], labeller: ReportLabeller) -> dict[str, str]:
    """Map the names that a task uses to findings of the labeller."""
    findings = {}
    for label, wanted in columns.items():
        for name in wanted:
            finding = labeller.finding(name)
            if finding is None:
                near = labeller.nearest(name)
                hint = f" Did you mean {near!r}?" if near else ""
                raise ConfigError(
                    f"task.classes.{label}: {name!r} is no finding that is read off reports; "
                    f"expected some of {', '.join(labeller.findings)}.{hint} Write them under "
                    "'label', or set labels.source to manifest."
                )
            findings[name] = finding
    return findings


def _require_recognised(reasons: Sequence[str], taken: int, most: float, name: str) -> None:
    without, unread = reasons.count(NO_REPORT), reasons.count(NOT_RECOGNISED)
    written = taken - without
    if taken and not written:
        raise DataError(
            f"{name}: labels.source is reports, but none of {taken} films has one; expected text "
            "in the column report, or files in report_path. Add them, or set labels.source to "
            "manifest."
        )
    if unread > most * written:
        raise DataError(
            f"{name}: nothing is recognised in {unread} of {written} reports "
            f"({100 * unread / written:.0f} %; labels.max_unrecognised is {100 * most:g} %); "
            "expected English reports of chest radiographs. Translate or label these films, or "
            "set labels.source to manifest."
        )
