"""Tables that several reports have: facts, gates, two models side by side, reproduction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ravl_med.evidence.audit_result import Gate
from ravl_med.evidence.results import Interval
from ravl_med.reporting.layout.blocks import Cell, Column, Dot, DotLook, Dots, Scale, Table
from ravl_med.reporting.wording import accuracy_text, estimate, gate_mark, printable

_GATES_SHOWN = 20
_LOOKS: tuple[DotLook, DotLook] = ("before", "main")  # of the first model, of the second


def shortened(
    rows: Sequence[tuple[Cell, ...]], shown: int, columns: int, mark: str = "…"
) -> list[tuple[Cell, ...]]:
    """Return the first rows of many, and a last one that says how many more there are."""
    rest = len(rows) - shown
    more = [*([mark] if mark else []), f"and {rest} more"]
    last: list[tuple[Cell, ...]] = [(*more, *[""] * (columns - len(more)))] if rest > 0 else []
    return [*rows[:shown], *last]


def fact_table(
    caption: str, facts: Sequence[tuple[str, ...]], *, dense: bool = True, limit: int = 120
) -> Table:
    """Return names and values, or several pairs of them side by side, without heads."""
    columns = [Column("", "wide" if at % 2 else "label") for at in range(len(facts[0]))]
    return Table(caption, columns, facts, headed=False, limit=limit, dense=dense)


def gate_table(gates: Sequence[Gate]) -> Table:
    """Return every gate by name: whether it held, and what was found beside what is asked."""
    rows: list[tuple[Cell, ...]]
    rows = [(gate_mark(gate), printable(gate.name, 60), gate.text) for gate in gates]
    return Table(
        caption="Criteria set before the run",
        columns=(
            Column("Outcome", "status"),
            Column("Gate", "code"),
            Column("Found and required", "wide"),
        ),
        rows=shortened(rows, _GATES_SHOWN, 3),
        headed=False,
    )


def reproduction_tables(tables: Mapping[str, Mapping[str, str]]) -> list[Table]:
    """Return what it takes to do it again as tables of names and values."""
    return [
        Table(
            title,
            (Column("", "label"), Column("", "code")),
            [(printable(name, 60), printable(value, 140)) for name, value in entries.items()],
            headed=False,
        )
        for title, entries in tables.items()
    ]


def paired_columns(
    head: str, names: Mapping[str, str], unit: str = "", *, films: bool = True, signed: bool = False
) -> list[Column]:
    """Return the columns of `paired_row`.

    The names map two models, and their difference, to the heads of their columns, which the unit
    of the two models follows.
    """
    (first, one), (second, two), (_, difference) = names.items()
    scale = Scale(((first, _LOOKS[0]), (second, _LOOKS[1])), signed)
    counts = [Column("Films", "number")] if films else []
    measures = [Column(one_head, "interval") for one_head in (one + unit, two + unit, difference)]
    return [Column(head, "wide"), *counts, *measures, Column(scale, "plot")]


def paired_row(
    name: Cell,
    films: str | None,
    values: tuple[tuple[str, float, Interval], tuple[str, float, Interval]],
    difference: str,
    *,
    signed: bool,
) -> tuple[Cell, ...]:
    """Return a measure of two models on the same films: both values, their difference, dots.

    A signed measure is a gap in accuracy; any other is an accuracy.
    """
    write = estimate if signed else accuracy_text
    dots = tuple(Dot(*value, look) for value, look in zip(values, _LOOKS, strict=True))
    texts = [write(value, interval) for _, value, interval in values]
    counts = [] if films is None else [films]
    return (name, *counts, *texts, difference, Dots(dots, signed))
