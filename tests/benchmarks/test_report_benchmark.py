"""The benchmark of reports: what it measures, targets beside it, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ravl_med.errors import ConfigError
from tests.benchmarks.cli import benchmark as app
from tests.benchmarks.reports import benchmark as report_benchmark
from tests.benchmarks.reports.benchmark import (
    PARTS,
    SIZES,
    ReportPlan,
    ReportRow,
    measure_report,
    run_report_benchmark,
)
from tests.benchmarks.reports.made_up_audit import AuditSize
from tests.benchmarks.reports.tables import report_markdown

SMALL = AuditSize(40, 1, classes=3, subgroups=4, clusters=20, shape=(120, 100))
ROW = ReportRow(2_000, 10, 5, 20, 400, 3, 8.25, 6.5, 640.4, 0.56, 4.97, same=True)


def test_a_report_is_written_and_measured() -> None:
    row = measure_report((SMALL, 2))
    assert (row.films, row.correlations, row.classes, row.subgroups) == (40, 1, 3, 4)
    assert row.cpu_seconds > 0
    assert 0 < row.seconds < 60
    assert row.peak_mb > 50
    assert row.pdf_mb > 0.05
    assert row.html_mb > 0.05
    assert row.same


def test_parts_are_kept_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_benchmark, "SIZES", {"usual": (SMALL,), "largest": (SMALL,)})
    done: list[tuple[str, int, int]] = []
    path = run_report_benchmark(
        ReportPlan(("usual",), 1), tmp_path, progress=lambda *told: done.append(told)
    )
    assert path == tmp_path / "report.md"
    parts = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert list(parts) == ["usual"]
    assert parts["usual"]["command"] == "ravl-med benchmark report --parts usual --runs 1"
    (row,) = parts["usual"]["rows"]
    assert row["films"] == 40
    assert row["same"] is True
    assert "## An audit of usual size" in path.read_text()
    assert done == [("write reports", 0, 1), ("write reports", 1, 1)]


def test_every_part_has_sizes_and_the_targets_are_among_them() -> None:
    assert tuple(SIZES) == PARTS
    assert {size.correlations for size in SIZES["usual"]} >= {0, 10, 20}
    assert {size.films for size in SIZES["usual"]} == {2_000}
    (largest,) = SIZES["largest"]
    assert (largest.correlations, largest.subgroups, largest.classes) == (100, 1_000, 60)


@pytest.mark.parametrize(
    ("changes", "met"),
    [
        ({}, "yes"),
        ({"seconds": 15.1}, "no"),
        ({"peak_mb": 1_000.5}, "no"),
        ({"correlations": 20, "pdf_mb": 10.0}, "yes"),
        ({"correlations": 20, "pdf_mb": 10.01}, "no"),
        ({"correlations": 100, "seconds": 99.0}, "–"),
    ],
)
def test_targets_stand_beside_what_was_reached(changes: dict[str, float], met: str) -> None:
    row = asdict(ROW) | changes
    part = {"tool": "t", "machine": "m", "command": "c", "seconds": 1.0, "rows": [row]}
    text = report_markdown({"usual": part})
    (line,) = [line for line in text.splitlines() if line.startswith("| 2,000, ")]
    assert line.endswith(f"| {met} | yes |")
    assert f"{row['seconds']:.1f} (median of 3)" in line


def test_an_unknown_part_and_another_file_are_refused(tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(app, ["report", "--parts", "small", "--out", str(tmp_path)])
    assert made.exit_code == 2
    assert "--parts: expected some of usual, largest" in made.output
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"report\.json in that folder is not one of this"):
        run_report_benchmark(ReportPlan(), tmp_path)
