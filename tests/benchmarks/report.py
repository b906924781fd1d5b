"""How long a report takes to write, how much memory that takes, and how large it becomes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.report import write_report
from tests.benchmarks.made_up_audit import AuditSize, make_up_audit, make_up_films
from tests.benchmarks.processes import forget_peak, map_in_children, peak_mb
from tests.benchmarks.runner import Page, Part, Progress
from tests.benchmarks.tables import Column, Row, Table, yes_no

SIZES = {
    "usual": (AuditSize(2_000, 10), AuditSize(2_000, 20), AuditSize(2_000, 0)),
    "largest": (AuditSize(2_000, 100, classes=60, subgroups=1_000, clusters=2_000),),
}
"""Audits whose report is written, by part."""

_CONFIG_LINES = 80
_SECONDS, _MEMORY = 15.0, 1_000.0  # targets of 10 correlations; MB
_PAPER = 10.0  # MB, of 20 correlations
_TIMED, _WEIGHED = 10, 20


def measure_sizes(sizes: Sequence[AuditSize], runs: int, progress: Progress) -> Iterator[Row]:
    """Measure one after the other, each in a fresh process on one thread."""
    for at, size in enumerate(sizes):
        progress("write reports", at, len(sizes))
        yield from map_in_children(measure_report, [(size, runs)])
    progress("write reports", len(sizes), len(sizes))


def measure_report(job: tuple[AuditSize, int]) -> Row:
    """Write the report of a made-up audit so many times, into a folder that goes again."""
    size, runs = job
    films = make_up_films(size)
    result = make_up_audit(size)
    details = _details(result)

    def film(index: int) -> NDArray[np.uint8]:
        return films[index % len(films)]

    seconds: list[float] = []
    worked: list[float] = []
    written: set[tuple[bytes, bytes]] = set()
    forget_peak()
    with tempfile.TemporaryDirectory() as name:
        paper, page = Path(name) / "report.pdf", Path(name) / "report.html"
        for _ in range(runs):
            start, begun = time.perf_counter(), time.process_time()
            write_report(result, film, details, Path(name))
            seconds.append(time.perf_counter() - start)
            worked.append(time.process_time() - begun)
            written.add((paper.read_bytes(), page.read_bytes()))
        peak = peak_mb()
        return {
            "films": size.films,
            "correlations": size.correlations,
            "classes": size.classes,
            "subgroups": size.subgroups,
            "clusters": size.clusters,
            "runs": runs,
            "seconds": round(float(np.median(seconds)), 2),
            "cpu_seconds": round(float(np.median(worked)), 2),
            "peak_mb": round(peak, 1),
            "pdf_mb": round(paper.stat().st_size / 1e6, 2),
            "html_mb": round(page.stat().st_size / 1e6, 2),
            "same": len(written) == 1,
        }


def _details(result: AuditResult) -> ReportDetails:
    return ReportDetails(
        date=None,
        config_yaml="key: value\n" * _CONFIG_LINES,
        versions={"numpy": np.__version__},
        digests={"model": result.model.digest, "cohort": "0" * 64},
        seeds={"discovery": 0, "evidence": 0},
        thresholds={"largest tolerated gap": "10 points"},
    )


def _asked(row: Row) -> str | None:
    if row["correlations"] == _TIMED:
        return f"at most {_SECONDS:.0f} s, {_MEMORY:,.0f} MB"
    return f"PDF at most {_PAPER:.0f} MB" if row["correlations"] == _WEIGHED else None


def is_met(row: Row) -> bool | None:
    """Whether a report meets its targets; None where it has none."""
    if row["correlations"] == _TIMED:
        return bool(row["seconds"] <= _SECONDS and row["peak_mb"] <= _MEMORY)
    return bool(row["pdf_mb"] <= _PAPER) if row["correlations"] == _WEIGHED else None


def _met(row: Row) -> str | None:
    met = is_met(row)
    return None if met is None else yes_no(met)


_TABLE = Table(
    Column(
        "films, correlations, classes, subgroups, clusters",
        "{films:,}, {correlations:,}, {classes:,}, {subgroups:,}, {clusters:,}",
    ),
    Column("target", _asked),
    Column("seconds", "{seconds:.1f} (median of {runs})"),
    Column("of them CPU", "{cpu_seconds:.1f}"),
    Column("memory, MB", "{peak_mb:,.0f}"),
    Column("PDF, MB", "{pdf_mb:.2f}"),
    Column("HTML, MB", "{html_mb:.2f}"),
    Column("met", _met),
    Column("the same bytes each time", "{same:yes}"),
)


PAGE = Page(
    "report",
    "Reports: seconds, memory and size of PDF and HTML",
    "Measure how long PDF and HTML take to write, in how much memory, and how large they are.",
    (
        Part(
            "usual",
            "An audit of usual size",
            "PDF and HTML of an audit that is made up, every correlation with all of its evidence; "
            "films of 2,500 x 2,048 pixels are in memory and not read from files. One process on "
            "one thread; memory is all that it holds.",
            [_TABLE],
            lambda setup: measure_sizes(SIZES["usual"], setup.size("runs"), setup.progress),
            {"runs": 3},
        ),
        Part(
            "largest",
            "As much as there can be",
            "Where there is too much, the report shows a part and says how much more there is.",
            [_TABLE],
            lambda setup: measure_sizes(SIZES["largest"], setup.size("runs"), setup.progress),
            {"runs": 3},
        ),
    ),
)
