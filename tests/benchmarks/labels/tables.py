"""The Markdown of the benchmark of labels: what was asked beside what was reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.benchmarks.benchmark_file import tell_met, tell_parts

Row = Mapping[str, Any]

TARGET_F1 = 0.90
_SECONDS = {10_000_000: 60.0}


def labels_markdown(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of the parts that were measured.

    Parameters
    ----------
    parts : mapping of part to its content in ``labels.json``
    """
    tell = {
        "published": lambda rows: _findings("Reports that nobody developed on", rows),
        "development": lambda rows: _findings("Reports that the phrases were written on", rows),
        "speed": _speed,
    }
    return tell_parts("Labels read off radiology reports", parts, tell)


def macro_f1(rows: list[Row], key: str = "f1") -> float:
    """Return the mean F1 over the findings.

    Parameters
    ----------
    rows : list of mapping - of `FindingScore`
    key : str - ``"f1"``, ``"f1_negative"`` or ``"f1_positive"``
    """
    return sum(row[key] or 0.0 for row in rows) / len(rows)


def _findings(title: str, rows: list[Row]) -> list[str]:
    first = rows[0]
    lines = [
        f"## {title}",
        "",
        f"{first['reports']:,} reports; truth: the MeSH codes that people gave them. Not counted: "
        f"{first['without_text']} without findings and impression, {first['not_indexed']} without "
        f"codes. Nothing recognised: {first['not_recognised']}. Precision, recall and F1: reports "
        "that leave the finding open are not counted (`labels.uncertain: exclude`); a finding that "
        "is not mentioned is absent. Beside them F1 over all reports, the open ones counted as "
        "absent and as present.",
        "",
        f"| finding | coded | left open | precision | recall | F1 (95 % interval) | F1 at least "
        f"{TARGET_F1:.2f} | F1, open is absent | F1, open is present |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['finding']} | {row['coded']} | {row['uncertain']} "
            f"| {_share(row['precision'])} | {_share(row['recall'])} | {_share(row['f1'])} "
            f"({_share(row['low'])} to {_share(row['high'])}) | {_met(row['f1'])} "
            f"| {_share(row['f1_negative'])} | {_share(row['f1_positive'])} |"
        )
    mean = macro_f1(rows)
    lines.append(
        f"| **macro F1** | | | | | **{mean:.3f}** | {_met(mean)} "
        f"| {macro_f1(rows, 'f1_negative'):.3f} | {macro_f1(rows, 'f1_positive'):.3f} |"
    )
    return lines


def _speed(rows: list[Row]) -> list[str]:
    lines = [
        "## Reading one report",
        "",
        "| characters | target | seconds | met | microseconds a character |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        target = _SECONDS.get(row["characters"])
        asked = f"at most {target:.0f} s" if target else "–"
        met = tell_met(row["seconds"] <= target) if target else "–"
        lines.append(
            f"| {row['characters']:,} | {asked} | {row['seconds']:.4f} | {met} "
            f"| {1e6 * row['seconds'] / row['characters']:.2f} |"
        )
    return lines


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _met(value: float | None) -> str:
    return tell_met(value is not None and value >= TARGET_F1)
