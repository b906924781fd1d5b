"""How well findings are read off reports, against the codes that people gave them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.labelling.findings import ReportLabeller, ReportReading
from tests.benchmarks.labels.coded_reports import CODED_FINDINGS, CodedReport

Progress = Callable[[str, int, int], None]
Policy = Mapping[str | None, bool | None]

_DRAWS, _SEED = 2000, 0
_JOINED = {"consolidation or opacity": ("consolidation", "lung opacity")}
_OF_STATE: Policy = {"present": True, "absent": False, None: False}
_EXCLUDE: Policy = {**_OF_STATE, "uncertain": None}
_NEGATIVE: Policy = {**_OF_STATE, "uncertain": False}
_POSITIVE: Policy = {**_OF_STATE, "uncertain": True}
_LINE = "No focal consolidation, pleural effusion or pneumothorax is seen. The heart is enlarged. "


@dataclass(frozen=True, slots=True)
class FindingScore:
    """How well one finding is read.

    Precision, recall, F1 and its interval (95 %, bootstrap of the reports) are those under the
    policy ``exclude``: reports that leave the finding open are not counted. A finding that a report
    does not mention counts as absent, as a coder leaves it out.

    Attributes
    ----------
    finding : str
    reports : int - coded ones with a text
    coded : int - in which the finding is coded
    uncertain : int - that leave the finding open
    precision, recall, f1, low, high : float
    f1_negative, f1_positive : float - all reports, those left open counted as absent, as present
    without_text, not_indexed, not_recognised : int - reports that are not counted, and those (they
        are) in which nothing is recognised
    """

    finding: str
    reports: int
    coded: int
    uncertain: int
    precision: float
    recall: float
    f1: float
    low: float
    high: float
    f1_negative: float
    f1_positive: float
    without_text: int
    not_indexed: int
    not_recognised: int


@dataclass(frozen=True, slots=True)
class ReadingTime:
    """Seconds to read one report of a length, best of several runs."""

    characters: int
    seconds: float


def measure_findings(
    reports: Sequence[CodedReport], labeller: ReportLabeller, progress: Progress
) -> list[FindingScore]:
    """Read reports and compare each finding with the codes.

    Parameters
    ----------
    reports : sequence of CodedReport
    labeller : ReportLabeller
    progress : callable - called with (stage, done, total)
    """
    counted = [report for report in reports if report.indexed and report.text]
    readings = []
    for done, report in enumerate(counted, start=1):
        readings.append(labeller.read(report.text))
        if done % 500 == 0 or done == len(counted):
            progress("read reports", done, len(counted))
    return [
        _score(
            finding,
            np.array([report.shows(finding) for report in counted], dtype=np.bool_),
            [_state(reading, finding) for reading in readings],
            (
                sum(not report.text for report in reports),
                sum(bool(report.text) and not report.indexed for report in reports),
                sum(not reading.recognised for reading in readings),
            ),
        )
        for finding in CODED_FINDINGS
    ]


def measure_reading(
    labeller: ReportLabeller, lengths: Sequence[int], runs: int, progress: Progress
) -> list[ReadingTime]:
    """Time the reading of one report of each length.

    Parameters
    ----------
    labeller : ReportLabeller
    lengths : sequence of int - characters
    runs : int - the shortest time of them counts
    progress : callable
    """
    rows = []
    for done, length in enumerate(lengths, start=1):
        text = (_LINE * (length // len(_LINE) + 1))[:length]
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            labeller.read(text)
            seconds.append(time.perf_counter() - start)
        rows.append(ReadingTime(length, min(seconds)))
        progress("time the reading", done, len(lengths))
    return rows


def _state(reading: ReportReading, finding: str) -> str | None:
    """Return the strongest state of the findings that are scored as one."""
    states = [reading.states.get(name) for name in _JOINED.get(finding, (finding,))]
    return next((s for s in ("present", "uncertain", "absent") if s in states), None)


def _score(
    finding: str,
    coded: NDArray[np.bool_],
    states: Sequence[str | None],
    not_counted: tuple[int, int, int],
) -> FindingScore:
    hits = _outcomes(coded, states, _EXCLUDE)
    true, false, missed = hits.sum(axis=0).tolist()
    draws = np.random.default_rng(_SEED).multinomial(
        len(hits), np.full(len(hits), 1 / max(len(hits), 1)), size=_DRAWS
    )
    drawn = _f1(draws @ hits)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist() if len(drawn) else (math.nan, math.nan)
    return FindingScore(
        finding,
        len(coded),
        int(coded.sum()),
        states.count("uncertain"),
        true / (true + false) if true + false else math.nan,
        true / (true + missed) if true + missed else math.nan,
        float(_f1(hits.sum(axis=0))),
        low,
        high,
        float(_f1(_outcomes(coded, states, _NEGATIVE).sum(axis=0))),
        float(_f1(_outcomes(coded, states, _POSITIVE).sum(axis=0))),
        *not_counted,
    )


def _outcomes(
    coded: NDArray[np.bool_], states: Sequence[str | None], policy: Policy
) -> NDArray[np.int64]:
    """Return true positive, false positive, false negative of each report that counts, (N, 3)."""
    rows = [
        (said and truth, said and not truth, truth and not said)
        for truth, said in zip(coded.tolist(), (policy[s] for s in states), strict=True)
        if said is not None
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of counts (..., 3); NaN where there is nothing to find and nothing was found."""
    true, false, missed = np.moveaxis(counts.astype(np.float64), -1, 0)
    total = 2 * true + false + missed
    score: NDArray[np.float64] = np.divide(
        2 * true, total, out=np.full_like(total, np.nan), where=total > 0
    )
    return score
