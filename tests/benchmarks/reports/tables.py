"""The Markdown of the benchmark of reports: what was asked beside what was reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.benchmarks.benchmark_file import tell_met, tell_parts

Row = Mapping[str, Any]

_SECONDS, _MEMORY = 15.0, 1_000.0  # of 10 correlations
_PAPER = 10.0  # MB, of 20 correlations
_TIMED, _WEIGHED = 10, 20


def report_markdown(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of the parts that were measured.

    Parameters
    ----------
    parts : mapping of part to its content in ``report.json``
    """
    tell = {"usual": _usual, "largest": _largest}
    return tell_parts("Reports: seconds, memory and size of PDF and HTML", parts, tell)


def _usual(rows: list[Row]) -> list[str]:
    return [
        "## An audit of usual size",
        "",
        "PDF and HTML of an audit that is made up, every correlation with all of its evidence; "
        "films of 2,500 x 2,048 pixels are in memory and not read from files. One process on one "
        "thread; memory is all that it holds.",
        "",
        *_table(rows),
    ]


def _largest(rows: list[Row]) -> list[str]:
    return [
        "## As much as there can be",
        "",
        "Of what is too much the report shows a part and says how much more there is.",
        "",
        *_table(rows),
    ]


def _table(rows: list[Row]) -> list[str]:
    return [
        "| films, correlations, classes, subgroups, clusters | target | seconds | of them CPU "
        "| memory, MB | PDF, MB | HTML, MB | met | the same bytes each time |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(_line, rows),
    ]


def _line(row: Row) -> str:
    names = ("films", "correlations", "classes", "subgroups", "clusters")
    target, met = "–", "–"
    if row["correlations"] == _TIMED:
        target = f"at most {_SECONDS:.0f} s, {_MEMORY:,.0f} MB"
        met = tell_met(row["seconds"] <= _SECONDS and row["peak_mb"] <= _MEMORY)
    elif row["correlations"] == _WEIGHED:
        target = f"PDF at most {_PAPER:.0f} MB"
        met = tell_met(row["pdf_mb"] <= _PAPER)
    return (
        f"| {', '.join(f'{row[name]:,}' for name in names)} | {target} | {row['seconds']:.1f} "
        f"(median of {row['runs']}) | {row['cpu_seconds']:.1f} | {row['peak_mb']:,.0f} "
        f"| {row['pdf_mb']:.2f} "
        f"| {row['html_mb']:.2f} | {met} | {tell_met(row['same'])} |"
    )
