"""The table writer: cells, targets beside what was reached, and the statistics by hand."""

from __future__ import annotations

import math

import pytest

from tests.benchmarks.tables import (
    Column,
    Table,
    Target,
    draw_table,
    exact_interval,
    fill,
    mean_with_interval,
)

ROW = {"name": "a_b", "films": 12_000, "ratio": 1.234, "same": True, "gap": -0.257, "none": None,
       "mb": 1_630.0, "inner": {"rate": 2.5}}  # fmt: skip


@pytest.mark.parametrize(
    ("template", "cell"),
    [
        ("{films:,}, {ratio:.2f} x", "12,000, 1.23 x"),
        ("{name:words}", "a b"),
        ("{same:yes}", "yes"),
        ("{gap:points}", "-26 points"),
        ("{gap:signed}", "-26"),
        ("{mb:GB}", "1.63 GB"),
        ("{none:.2f} ({ratio:.1f})", "– (1.2)"),
        ("{inner[rate]:.1f}", "2.5"),
    ],
)
def test_templates_fill_cells(template: str, cell: str) -> None:
    assert fill(template, ROW) == cell


@pytest.mark.parametrize(
    ("value", "least", "cells", "met"),
    [
        (1.7, True, ["at least 1.7 x", "1.70", "yes"], True),
        (1.69, True, ["at least 1.7 x", "1.69", "no"], False),
        (1.7, False, ["at most 1.7 x", "1.70", "yes"], True),
        (1.71, False, ["at most 1.7 x", "1.71", "no"], False),
        (None, True, ["at least 1.7 x", "–", "no"], False),
    ],
)
def test_a_target_stands_beside_what_was_reached(
    value: float | None, least: bool, cells: list[str], met: bool
) -> None:
    target = Target("gain", 1.7, "{limit:g} x", least=least)
    row = {"gain": value}
    assert target.met(row) is met
    columns = target.beside("reached", "{gain:.2f}")
    assert [column.heading for column in columns] == ["target", "reached", "met"]
    assert [column.of(row) for column in columns] == cells


def test_some_rows_have_no_target() -> None:
    target = Target("seconds", lambda row: {1024: 0.4}.get(row["side"]), "{limit} s")
    rows = [{"side": 1024, "seconds": 0.5}, {"side": 512, "seconds": 0.5}]
    assert [target.met(row) for row in rows] == [False, None]
    drawn = Table(Column("side", "{side}"), target.beside("seconds", "{seconds}"))(rows)
    assert drawn.splitlines()[2:] == [
        "| 1024 | at most 0.4 s | 0.5 | no |",
        "| 512 | – | 0.5 | – |",
    ]


def test_columns_of_numbers_stand_on_the_right() -> None:
    lines = [("a", "1,000", "-2.5 %", "–"), ("b", "9", "3 %", "4.00 s")]
    assert draw_table(("", "n", "share", "took"), lines).splitlines() == [
        "|  | n | share | took |",
        "|---|---:|---:|---:|",
        "| a | 1,000 | -2.5 % | – |",
        "| b | 9 | 3 % | 4.00 s |",
    ]
    assert draw_table(("a", "b"), []) == "| a | b |\n|---|---|"


def test_means_and_intervals_by_hand() -> None:
    # t(0.975, 1) = 12.706; standard error 0.1.
    assert mean_with_interval([0.2, 0.4, None]) == pytest.approx(
        (0.3, 0.3 - 1.2706, 0.3 + 1.2706), abs=1e-4
    )
    assert math.isnan(mean_with_interval([0.5])[1])
    assert math.isnan(mean_with_interval([None])[0])


def test_the_exact_interval_by_the_book() -> None:
    low, high = exact_interval(0, 20)
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 20))
