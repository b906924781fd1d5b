"""Markdown tables of the pages: a target beside what was reached, and whether it was met.

A cell is a template over the fields of a row, such as ``"{films:,}, {classes}"``, or a function of
the row. What is not known (None) is shown as a dash. Columns of numbers stand on the right.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

Row = Mapping[str, Any]
Cell = str | Callable[[Row], str | None]

DASH = "–"
_NUMBER = re.compile(rf"{DASH}|(at (most|least) )?[+-]?[\d,.]+( ?(%|s|x|MB|GB|points|films/s))?")


def yes_no(held: bool) -> str:
    """Say whether something holds."""
    return "yes" if held else "no"


_SPECS: Mapping[str, Callable[[Any], str]] = {
    "yes": yes_no,
    "words": lambda value: str(value).replace("_", " "),
    "points": lambda share: f"{100 * share:.0f} points",
    "signed": lambda share: f"{100 * share:+.0f}",
    "GB": lambda megabytes: f"{megabytes / 1000:.2f} GB",
}
"""Formats beyond those of Python."""


class _Template(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return DASH
        own = _SPECS.get(format_spec)
        return str(super().format_field(value, format_spec)) if own is None else own(value)


def fill(template: str, row: Row) -> str:
    """Put the fields of a row into a template."""
    return str(_Template().vformat(template, (), row))


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, and the cell of each row."""

    heading: str
    cell: Cell

    def of(self, row: Row) -> str:
        """Return the cell of a row."""
        filled = fill(self.cell, row) if isinstance(self.cell, str) else self.cell(row)
        return DASH if filled is None else filled


@dataclass(frozen=True, slots=True)
class Target:
    """A value of a row that has to be at most, or at least, so much.

    Attributes
    ----------
    value : str or callable - a field of the row, or a function of it
    limit : float or callable - a function returns None for rows without a target
    text : str - template of the limit, which is its field ``limit``
    least : bool - at least; otherwise at most
    """

    value: str | Callable[[Row], float]
    limit: float | Callable[[Row], float | None]
    text: str = "{limit:g}"
    least: bool = False

    def limit_of(self, row: Row) -> float | None:
        """Return the limit of a row, None where it has no target."""
        return self.limit(row) if callable(self.limit) else self.limit

    def met(self, row: Row) -> bool | None:
        """Return whether a row meets its target, None where it has none."""
        limit = self.limit_of(row)
        if limit is None:
            return None
        value = self.value(row) if callable(self.value) else row[self.value]
        if value is None:
            return False
        return bool(value >= limit if self.least else value <= limit)

    def asked(self, heading: str = "target") -> Column:
        """Return the column of the target."""
        side = "at least" if self.least else "at most"

        def cell(row: Row) -> str | None:
            limit = self.limit_of(row)
            return None if limit is None else f"{side} {fill(self.text, {**row, 'limit': limit})}"

        return Column(heading, cell)

    def judged(self, heading: str = "met") -> Column:
        """Return the column that says whether the target was met."""

        def cell(row: Row) -> str | None:
            met = self.met(row)
            return None if met is None else yes_no(met)

        return Column(heading, cell)

    def beside(
        self, reached: str, cell: Cell, asked: str = "target", met: str = "met"
    ) -> tuple[Column, Column, Column]:
        """Return target, what was reached and whether that meets it, as three columns."""
        return self.asked(asked), Column(reached, cell), self.judged(met)


class Table:
    """A table with a line for each row."""

    def __init__(self, *columns: Column | Sequence[Column]) -> None:
        self.columns = [
            one for entry in columns for one in ([entry] if isinstance(entry, Column) else entry)
        ]

    def __call__(self, rows: Sequence[Row]) -> str:
        """Draw the table."""
        return draw_table(
            [column.heading for column in self.columns],
            [[column.of(row) for column in self.columns] for row in rows],
        )


def draw_table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Draw cells as a Markdown table; a column in which every cell is a number stands right."""
    cells = [list(line) for line in lines]
    rules = [
        "---:" if cells and all(_NUMBER.fullmatch(line[at]) for line in cells) else "---"
        for at in range(len(headings))
    ]
    drawn = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([f"| {' | '.join(headings)} |", f"|{'|'.join(rules)}|", *drawn])


def bullets(lines: Iterable[str]) -> str:
    """Draw lines as a list."""
    return "\n".join(f"- {line}" for line in lines)


def exact_interval(count: int, total: int) -> tuple[float, float]:
    """Return the exact (Clopper-Pearson) 95 % interval of a share."""
    interval = stats.binomtest(count, total).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def mean_with_interval(values: Iterable[float | None]) -> tuple[float, float, float]:
    """Return the mean of what is known with its 95 % t interval; NaN where there is none."""
    known = np.array([v for v in values if v is not None], dtype=np.float64)
    if len(known) == 0:
        return (math.nan,) * 3
    mean = float(known.mean())
    if len(known) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(known) - 1) * stats.sem(known))
    return mean, mean - half, mean + half
