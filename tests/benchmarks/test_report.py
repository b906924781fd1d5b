"""The benchmark of reports: what it measures, and its targets."""

from __future__ import annotations

import pytest

from tests.benchmarks.made_up_audit import AuditSize
from tests.benchmarks.report import SIZES, is_met, measure_report, measure_sizes

SMALL = AuditSize(40, 1, classes=3, subgroups=4, clusters=20, shape=(120, 100))
ROW = {"correlations": 10, "seconds": 8.25, "peak_mb": 640.4, "pdf_mb": 0.56}


def test_a_report_is_written_and_measured() -> None:
    row = measure_report((SMALL, 2))
    assert (row["films"], row["correlations"], row["classes"], row["subgroups"]) == (40, 1, 3, 4)
    assert row["cpu_seconds"] > 0
    assert 0 < row["seconds"] < 60
    assert row["peak_mb"] > 50
    assert row["pdf_mb"] > 0.05
    assert row["html_mb"] > 0.05
    assert row["same"]


@pytest.mark.slow  # a process that loads everything
def test_each_size_is_measured_in_a_process_of_its_own() -> None:
    done: list[tuple[str, int, int]] = []
    (row,) = measure_sizes((SMALL,), 1, lambda *step: done.append(step))
    assert row["films"] == 40
    assert row["same"]
    assert done == [("write reports", 0, 1), ("write reports", 1, 1)]


def test_every_part_has_sizes_and_the_targets_are_among_them() -> None:
    assert tuple(SIZES) == ("usual", "largest")
    assert {size.correlations for size in SIZES["usual"]} >= {0, 10, 20}
    assert {size.films for size in SIZES["usual"]} == {2_000}
    (largest,) = SIZES["largest"]
    assert (largest.correlations, largest.subgroups, largest.classes) == (100, 1_000, 60)


@pytest.mark.parametrize(
    ("changes", "met"),
    [
        ({}, True),
        ({"seconds": 15.1}, False),
        ({"peak_mb": 1_000.5}, False),
        ({"correlations": 20, "pdf_mb": 10.0}, True),
        ({"correlations": 20, "pdf_mb": 10.01}, False),
        ({"correlations": 100, "seconds": 99.0}, None),
    ],
)
def test_targets_are_those_of_their_size(changes: dict[str, float], met: bool | None) -> None:
    assert is_met(ROW | changes) is met
