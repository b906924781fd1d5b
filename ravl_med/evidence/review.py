"""Decisions of a reviewer: how they are read, and what they make of the verdict.

Statistics name what has to be looked at; a radiologist decides whether it is the disease. Decisions
stand in a CSV, a row for each correlation, with a reason, a name and a date. Each is bound to the
very regions that were looked at: it does not hold for another model, or for other films.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import cast, get_args

from ravl_med.config.audit import GateConfig
from ravl_med.errors import DataError
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.confounders import with_confounders
from ravl_med.evidence.results import Decision, ReviewDecision
from ravl_med.evidence.verdict import (
    decide_verdict,
    open_correlations,
    points_for_reviewer,
    with_leaks,
    with_protocol,
)
from ravl_med.storage.bounded_reading import read_regular

COLUMNS = ("correlation", "decision", "until", "reason", "name", "date")
"""Columns of ``review.csv`` that are read; it may hold others."""

_WHERE = "review.csv"


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """One row of ``review.csv``; an acceptance holds up to and including its last day."""

    correlation: str  # SpuriousCorrelation.correlation_id
    decision: Decision
    until: date | None
    reason: str
    name: str
    date: date


def read_decisions(path: Path) -> tuple[RecordedDecision, ...]:
    """Read ``review.csv``; rows without a decision are still open.

    Raises
    ------
    DataError
        It cannot be read, a column is missing, a decision is none of the three, a reason, name or
        date is missing, an acceptance has no end, or a correlation is decided twice.
    """
    try:
        text = read_regular(path).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        rows = list(enumerate(reader, start=2)) if not missing else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{_WHERE} cannot be read ({type(error).__name__}).") from None
    if missing:
        raise DataError(f"{_WHERE}: the column {missing[0]!r} is missing; expected {COLUMNS}.")
    decisions: dict[str, RecordedDecision] = {}
    for number, row in rows:
        cells = {name: (row[name] or "").strip() for name in COLUMNS}
        if not cells["decision"]:
            continue
        decision = _read_row(cells, f"{_WHERE} row {number}")
        if decision.correlation in decisions:
            raise DataError(f"{_WHERE} row {number}: this correlation was decided in a row above.")
        decisions[decision.correlation] = decision
    return tuple(decisions.values())


def _read_row(cells: Mapping[str, str], where: str) -> RecordedDecision:
    known = get_args(Decision)
    decision = cells["decision"].lower()
    if decision not in known:
        raise DataError(
            f"{where}: decision is {cells['decision'][:40]!r}; expected {', '.join(known)}, or "
            "nothing."
        )
    for name in ("correlation", "reason", "name", "date"):
        if not cells[name]:
            raise DataError(f"{where}: {name} is blank; a decision needs one.")
    until = _read_date(cells["until"], where, "until") if cells["until"] else None
    if decision == "accepted" and until is None:
        raise DataError(f"{where}: until is blank; an acceptance holds until a date.")
    made = _read_date(cells["date"], where, "date")
    return RecordedDecision(
        cells["correlation"], cast(Decision, decision), until, cells["reason"], cells["name"], made
    )


def _read_date(text: str, where: str, column: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise DataError(
            f"{where}: {column} is {text[:20]!r}; expected a date such as 2026-11-25."
        ) from None


def decisions_for(
    result: AuditResult, decisions: Sequence[RecordedDecision], gate: GateConfig
) -> tuple[RecordedDecision, ...]:
    """Return those of some decisions that are on correlations of this result."""
    asked = {one.correlation_id(result) for one in points_for_reviewer(result.correlations, gate)}
    return tuple(decision for decision in decisions if decision.correlation in asked)


def apply_decisions(
    result: AuditResult, decisions: Sequence[RecordedDecision], gate: GateConfig, today: date
) -> AuditResult:
    """Return the result with its rulings and the verdict that follows from them.

    An acceptance holds or has expired `today`. Where the audit stopped before it could judge, there
    is nothing to decide.

    Raises
    ------
    DataError
        A decision is of no correlation that may be decided on: another run's, or one below the
        gate.
    """
    if result.sensitivity is None:
        return replace(result, to_decide=())
    asked = {
        one.correlation_id(result): one for one in points_for_reviewer(result.correlations, gate)
    }
    unknown = [d.correlation for d in decisions if d.correlation not in asked]
    if unknown:
        raise DataError(
            f"{_WHERE}: correlation {unknown[0][:20]!r} is not one of this run that can be decided "
            "on. Take the review.csv of this run; decisions on another model do not carry over."
        )
    rulings = tuple(_rule(one, asked[one.correlation].rank, today) for one in decisions)
    verdict = decide_verdict(
        result.correlations,
        result.task.classes,
        gate,
        result.sensitivity,
        checks=result.sanity,
        black_box=result.task.scores == "table",
        rulings=rulings,
        styles=result.dependence.findings if result.dependence else (),
    )
    if result.discovery is not None:
        verdict = with_protocol(verdict, result.discovery.protocol, len(result.correlations))
    verdict = with_confounders(verdict, result.confounders or ())
    verdict = with_leaks(verdict, result.cohort.leaks, gate)
    to_decide = tuple(one.rank for one in open_correlations(result.correlations, gate))
    return replace(result, verdict=verdict, rulings=rulings, to_decide=to_decide)


def _rule(row: RecordedDecision, rank: int, today: date) -> ReviewDecision:
    expired = row.decision == "accepted" and (row.until is None or today > row.until)
    return ReviewDecision(
        rank=rank,
        decision=row.decision,
        until=row.until.isoformat() if row.until else "",
        reason=row.reason,
        name=row.name,
        date=row.date.isoformat(),
        in_force=not expired,
    )
