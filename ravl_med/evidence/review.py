"""Decisions of a reviewer: how they are read, and what they make of the verdict.

Statistics name what has to be looked at; a radiologist decides whether it is the disease. Decisions
stand in a CSV, a row for each correlation, with a reason, a name and a date. Each is bound to the
very regions that were looked at: it does not hold for another model, or for other films.

=============  ===================================================================================
disease        it is the finding, or a sign of it
shortcut       it is none
accepted       it is a shortcut that is tolerated until a date
chance         the regions have nothing in common; it settles only what is not shown to be used
cannot tell    looked at, and still open
same as No. N  it is the feature of another row, and follows the decision there
=============  ===================================================================================
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import cast, get_args

from ravl_med.config.audit import GateConfig
from ravl_med.errors import ConfigError, DataError
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
from ravl_med.storage.bounded_reading import TableError, read_regular, read_rows

COLUMNS = ("correlation", "decision", "until", "reason", "name", "date")
"""Columns of ``review.csv`` that are read; it may hold others."""

SAME = re.compile(r"same(?:\s+as)?\s*(?:no\.?|nr\.?|#)?\s*(\d{1,6})\.?", re.IGNORECASE)
"""A decision that follows the row of another number."""

_WHERE = "review.csv"
_EXPECTED = "disease, accepted, shortcut, chance, cannot tell, same as No. 1, or nothing"


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """One row of ``review.csv``; an acceptance holds up to and including its last day."""

    correlation: str  # SpuriousCorrelation.correlation_id
    decision: Decision
    until: date | None
    reason: str
    name: str
    date: date
    row: int = 0  # of the file; 0: of none


def read_decisions(path: Path) -> tuple[RecordedDecision, ...]:
    """Read ``review.csv``, also as spreadsheets save it; rows without a decision are still open.

    Raises
    ------
    ConfigError
        There is no such file, which ``gate.accepted`` names.
    DataError
        It cannot be read, a column is missing, a decision is none that is known, a reason, name or
        date is missing, an acceptance has no end, or a correlation or number stands in two rows.
    """
    if not path.exists():
        raise ConfigError(
            f"gate.accepted: {path.name!r} does not exist. Paths are relative to the config file."
        )
    return parse_decisions(read_review_rows(path))


def parse_decisions(rows: Sequence[tuple[int, Mapping[str, str]]]) -> tuple[RecordedDecision, ...]:
    """Return what numbered rows of a ``review.csv`` decide; a DataError as `read_decisions`."""
    decisions: dict[str, RecordedDecision] = {}
    following: dict[str, tuple[int, Mapping[str, str]]] = {}
    for number, cells in rows:
        where = f"{_WHERE} row {number}"
        name = cells["correlation"]
        if not cells["decision"]:
            continue
        if name in decisions or name in following:
            raise DataError(f"{where}: this correlation was decided in a row above.")
        if SAME.fullmatch(cells["decision"]):
            following[name] = number, cells
        else:
            decisions[name] = _read_row(cells, number)
    for name, (number, row) in following.items():
        first = _followed(row, rows, number)
        if first in decisions:
            decisions[name] = _follow(row, decisions[first], number)
    return tuple(sorted(decisions.values(), key=lambda one: one.row))


def read_review_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a ``review.csv`` with their numbers, the header being row 1.

    Columns may be separated by commas, semicolons or tabs, and named in capitals or not.

    Raises
    ------
    DataError
        It cannot be read, or a column is missing.
    """
    try:
        text = _decoded(read_regular(path))
        first = text.lstrip().partition("\n")[0]
        separator = max(",;\t", key=first.count)
        reader = read_rows(io.StringIO(text, newline=""), separator)
        head = [name.strip().lower() for name in next(reader, [])]
        lines = list(enumerate(reader, start=2))
    except TableError as error:
        raise DataError(f"{_WHERE} {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{_WHERE} cannot be read ({type(error).__name__}).") from None
    missing = [name for name in COLUMNS if name not in head]
    if missing:
        raise DataError(
            f"{_WHERE}: the column {missing[0]!r} is missing; expected {', '.join(COLUMNS)}, "
            "separated by commas, semicolons or tabs."
        )
    rows = []
    for number, line in lines:
        cells = dict.fromkeys(("rank", *COLUMNS), "")
        cells |= {name: cell.strip() for name, cell in zip(head, line, strict=False)}
        cells["correlation"] = bare_id(cells["correlation"])
        if any(cells.values()):
            rows.append((number, cells))
    _require_single_ranks(rows)
    return rows


def bare_id(name: str) -> str:
    """Return a correlation's ID without the letter that keeps a spreadsheet from counting it."""
    return name.strip().lower().removeprefix("c-")


def _decoded(content: bytes) -> str:
    """Decode UTF-8, UTF-16 with its mark, or what Windows calls ANSI."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def _require_single_ranks(rows: Sequence[tuple[int, Mapping[str, str]]]) -> None:
    ranks = Counter(cells["rank"] for _, cells in rows if cells["rank"])
    twice = [(number, cells) for number, cells in rows if ranks[cells["rank"]] > 1]
    decided = [(number, cells) for number, cells in twice if cells["decision"]]
    if len(decided) > 1:
        number, cells = decided[1]
        raise DataError(
            f"{_WHERE} row {number}: No. {cells['rank'][:20]} stands in row {decided[0][0]} too; "
            "expected one row for each number. Remove one of both."
        )


def _read_row(cells: Mapping[str, str], number: int) -> RecordedDecision:
    where = f"{_WHERE} row {number}"
    known = get_args(Decision)
    decision = re.sub(r"[\s_]+", "_", cells["decision"].lower())
    if decision not in known:
        raise DataError(f"{where}: decision is {cells['decision'][:40]!r}; expected {_EXPECTED}.")
    for name in ("correlation", "reason", "name", "date"):
        if not cells[name]:
            raise DataError(f"{where}: {name} is blank; a decision needs one.")
    until = read_date(cells["until"], where, "until") if cells["until"] else None
    if decision == "accepted" and until is None:
        raise DataError(f"{where}: until is blank; an acceptance holds until a date.")
    return RecordedDecision(
        cells["correlation"],
        cast(Decision, decision),
        until,
        cells["reason"],
        cells["name"],
        read_date(cells["date"], where, "date"),
        number,
    )


def _followed(
    cells: Mapping[str, str], rows: Sequence[tuple[int, Mapping[str, str]]], number: int
) -> str:
    """Return the correlation that a row follows, from number to number."""
    by_rank = {one["rank"].lstrip("0"): one for _, one in rows if one["rank"]}
    passed = {cells["correlation"]}
    while found := SAME.fullmatch(cells["decision"]):
        rank = found.group(1).lstrip("0")
        if rank not in by_rank:
            raise DataError(
                f"{_WHERE} row {number}: {cells['decision'][:40]!r}, but no row has this number; "
                f"expected one of {', '.join(by_rank) or 'none: the column rank is missing'}."
            )
        cells = by_rank[rank]
        if cells["correlation"] in passed:
            raise DataError(
                f"{_WHERE} row {number}: rows that are the same as each other lead to no decision. "
                "Decide one of them."
            )
        passed.add(cells["correlation"])
    return cells["correlation"]


def _follow(cells: Mapping[str, str], first: RecordedDecision, number: int) -> RecordedDecision:
    """Return the decision of a row that follows another; name and date may be left to that one."""
    where = f"{_WHERE} row {number}"
    named = SAME.fullmatch(cells["decision"])
    said = cells["reason"] or first.reason
    return replace(
        first,
        correlation=cells["correlation"],
        reason=f"Same as No. {named.group(1) if named else ''}: {said}",
        name=cells["name"] or first.name,
        date=read_date(cells["date"], where, "date") if cells["date"] else first.date,
        row=number,
    )


_YEAR_FIRST = re.compile(r"(\d{4})[-./](\d{1,2})[-./](\d{1,2})")
_YEAR_LAST = re.compile(r"(\d{1,2})([-./])(\d{1,2})\2(\d{4})")


def read_date(text: str, where: str, column: str) -> date:
    """Read a date as ISO, or as spreadsheets of a country write it, where it can be but one.

    Raises
    ------
    DataError
        It is none, or 03/04/2026, which may be in March or in April.
    """
    plain = text.strip().removesuffix(" 00:00").removesuffix(" 00:00:00")
    try:
        if found := _YEAR_FIRST.fullmatch(plain):
            return date(*map(int, found.groups()))
        if found := _YEAR_LAST.fullmatch(plain):
            one, sign, other, year = found.groups()
            first, second = int(one), int(other)
            if sign == "." or first > 12 or first == second:
                return date(int(year), second, first)
            if second > 12:
                return date(int(year), first, second)
            raise DataError(
                f"{where}: {column} is {text[:20]!r}, which may be day or month first; expected "
                "a date such as 2026-11-25."
            )
    except ValueError:
        pass
    raise DataError(f"{where}: {column} is {text[:20]!r}; expected a date such as 2026-11-25.")


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Return Cohen's kappa of two readers' decisions, in the same order; 1 is full agreement.

    NaN where there is nothing to compare, or both say one and the same word of everything.

    References
    ----------
    Cohen, A coefficient of agreement for nominal scales, Educ. Psychol. Meas. 20 (1960).
    """
    count = len(first)
    if not count:
        return math.nan
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / count
    one, other = Counter(first), Counter(second)
    expected = sum(one[decision] * other[decision] for decision in one) / count**2
    return (observed - expected) / (1.0 - expected) if expected < 1.0 else math.nan


def apply_earlier(
    result: AuditResult, decisions: Sequence[RecordedDecision], gate: GateConfig, today: date
) -> AuditResult:
    """Apply what was decided on an earlier audit, and say how much of it is not on this one."""
    asked = {one.correlation_id(result) for one in points_for_reviewer(result.correlations, gate)}
    held = [decision for decision in decisions if decision.correlation in asked]
    applied = apply_decisions(result, held, gate, today)
    if len(held) == len(decisions):
        return applied
    lost = (
        f"{len(decisions) - len(held)} of {len(decisions)} decisions of gate.accepted do not hold: "
        "they are on what this audit did not find again for the same model on the same films."
    )
    verdict = replace(applied.verdict, reasons=(*applied.verdict.reasons, lost))
    return replace(applied, verdict=verdict)


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
    unknown = [d for d in decisions if d.correlation not in asked]
    if unknown:
        raise DataError(
            f"{_WHERE}{f' row {unknown[0].row}' if unknown[0].row else ''}: correlation "
            f"{unknown[0].correlation[:20]!r} is not one of this run that can be decided on. Take "
            "the review.csv of this run; decisions on another model do not carry over."
        )
    rulings = tuple(_rule(one, asked[one.correlation].rank, today) for one in decisions)
    counting = {one.rank for one in asked.values() if one.counts}
    settling = tuple(one for one in rulings if not one.in_force or one.settles(counting))
    verdict = decide_verdict(
        result.correlations,
        result.task.classes,
        gate,
        result.sensitivity,
        checks=result.sanity,
        black_box=result.task.scores == "table",
        rulings=settling,
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
