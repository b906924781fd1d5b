"""``review.csv``: what a reviewer is asked to decide, row by row, ready to be filled in."""

from __future__ import annotations

import csv
from pathlib import Path

from ravl_med.config import GateConfig
from ravl_med.evidence.adjudication import correlation_id
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.verdict import points_to_decide
from ravl_med.reporting.wording import KIND_WORDS, printable

__all__ = ["REVIEW", "earlier_rows", "write_review"]

REVIEW = "review.csv"

_COLUMNS = (
    "correlation", "rank", "raised_class", "kind", "description",
    "decision", "until", "reason", "name", "date",
)  # fmt: skip
_DECIDED = ("decision", "until", "reason", "name", "date")

Row = dict[str, str]


def earlier_rows(folder: Path) -> list[Row]:
    """Return the rows that reviewers have filled in, in the review of an earlier run there."""
    try:
        with (folder / REVIEW).open(newline="", encoding="utf-8-sig") as stream:
            rows = [{key: row.get(key) or "" for key in _COLUMNS} for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    return [row for row in rows if any(row[key].strip() for key in _DECIDED)]


def write_review(path: Path, result: AuditResult, gate: GateConfig, earlier: list[Row]) -> None:
    """Write the correlations that may be decided on; what was filled in before is kept.

    Rows of an earlier run that fit none of this one follow, without a decision on anything here.
    """
    filled = {row["correlation"]: row for row in earlier}
    rows = []
    for one in points_to_decide(result.correlations, gate):
        name = correlation_id(result, one)
        row = {
            "correlation": name,
            "rank": str(one.rank),
            "raised_class": _cell(result.task.classes[one.cluster.raised_class]),
            "kind": KIND_WORDS[one.kind],
            "description": _cell(result.descriptions.get(one.cluster.cluster, "")),
        }
        before = filled.pop(name, {})
        rows.append(row | {key: before.get(key, "") for key in _DECIDED})
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if filled:
        kept = path.with_name("review.earlier.csv")
        with kept.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(filled.values())


def _cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    plain = printable(text, 200)
    return f"'{plain}" if plain[:1] in ("=", "+", "-", "@") else plain
