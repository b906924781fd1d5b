"""Cells of findings read off the radiology reports of a cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.film_labels import FindingCells
from ravl_med.cohort.report_findings import ReportLabeller, ReportReading
from ravl_med.errors import ConfigError, DataError

__all__ = ["NOT_RECOGNISED", "NO_REPORT", "cells_from_reports"]

NO_REPORT, NOT_RECOGNISED = "no report", "report not recognised"


def cells_from_reports(
    texts: Sequence[str],
    taken: NDArray[np.bool_],
    columns: Mapping[str, Mapping[str, int]],
    labeller: ReportLabeller,
    *,
    max_unrecognised: float,
    name: str,
) -> FindingCells:
    """Read the findings that a task names off the reports of N films.

    Parameters
    ----------
    texts : sequence of str, length N - blank where a film has no report
    taken : ndarray of shape (N,), bool - films that are read; the others get no label
    columns : mapping of class to (finding to value) - names of `labeller`, or aliases of them
    labeller : ReportLabeller
    max_unrecognised : float - share of the reports in which nothing may be recognised
    name : str - how messages call the cohort

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
    _require_recognised(list(unusable.values()), int(taken.sum()), max_unrecognised, name)
    return FindingCells(
        {label: [r.cell(finding) for r in readings] for label, finding in findings.items()},
        [_source(reading) for reading in readings],
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
            f"({unread / written:.0%}; labels.max_unrecognised is {most:.0%}); expected English "
            "reports of chest radiographs. Translate or label these films, or set labels.source "
            "to manifest."
        )


def _source(reading: ReportReading) -> str:
    return f"report: {' and '.join(reading.sections)}" if reading.sections else NO_REPORT
