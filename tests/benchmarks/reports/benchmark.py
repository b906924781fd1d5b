"""How long a report takes to write, how much memory that takes, and how large it becomes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.report import write_report
from tests.benchmarks.benchmark_file import BenchmarkFile
from tests.benchmarks.discovery.trials import map_in_children
from tests.benchmarks.peak_memory import forget_peak, peak_mb
from tests.benchmarks.reports.made_up_audit import AuditSize, make_up_audit, make_up_films
from tests.benchmarks.reports.tables import report_markdown

Progress = Callable[[str, int, int], None]

PARTS = ("usual", "largest")
SIZES = {
    "usual": (AuditSize(2_000, 10), AuditSize(2_000, 20), AuditSize(2_000, 0)),
    "largest": (AuditSize(2_000, 100, classes=60, subgroups=1_000, clusters=2_000),),
}
"""Audits whose report is written, by part."""

_CONFIG_LINES = 80
_RUNS = 3


@dataclass(frozen=True, slots=True)
class ReportRow:
    """The report of one audit, in PDF and HTML.

    Attributes
    ----------
    films, correlations, classes, subgroups, clusters, runs : int
    seconds, cpu_seconds : float - to write both, median over the runs: on the clock, and of work
    peak_mb : float - resident memory of the process at most, whatever it holds
    pdf_mb, html_mb : float - of the files
    same : bool - every run wrote the same bytes
    """

    films: int
    correlations: int
    classes: int
    subgroups: int
    clusters: int
    runs: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    pdf_mb: float
    html_mb: float
    same: bool


@dataclass(frozen=True, slots=True)
class ReportPlan:
    """What is measured: parts of `PARTS`, and how often each report is written."""

    parts: tuple[str, ...] = PARTS
    runs: int = _RUNS

    def command(self, part: str) -> str:
        """Return the command that repeats one part."""
        return f"ravl-med benchmark report --parts {part} --runs {self.runs}"


def run_report_benchmark(
    plan: ReportPlan,
    folder: Path,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> Path:
    """Measure the parts that are asked for; write ``report.json`` and ``report.md``.

    Parameters
    ----------
    plan : ReportPlan
    folder : Path
    progress : callable - called with (stage, done, total)

    Returns
    -------
    Path - of the Markdown

    Raises
    ------
    ConfigError
        The folder cannot be written, or its ``report.json`` is not one of this benchmark.
    """
    file = BenchmarkFile(folder, "report", PARTS, report_markdown)
    return file.measure(
        plan.parts, plan.command, lambda part: _measure_sizes(SIZES[part], plan.runs, progress)
    )


def _measure_sizes(sizes: Sequence[AuditSize], runs: int, progress: Progress) -> list[ReportRow]:
    """Measure one after the other, each in a fresh process on one thread."""
    rows: list[ReportRow] = []
    for at, size in enumerate(sizes):
        progress("write reports", at, len(sizes))
        rows += map_in_children(measure_report, [(size, runs)], workers=1)
    progress("write reports", len(sizes), len(sizes))
    return rows


def measure_report(job: tuple[AuditSize, int]) -> ReportRow:
    """Write the report of a made-up audit into a folder that goes again.

    Parameters
    ----------
    job : tuple of (AuditSize, int) - the audit, and how often it is written
    """
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
        return ReportRow(
            films=size.films,
            correlations=size.correlations,
            classes=size.classes,
            subgroups=size.subgroups,
            clusters=size.clusters,
            runs=runs,
            seconds=round(float(np.median(seconds)), 2),
            cpu_seconds=round(float(np.median(worked)), 2),
            peak_mb=round(peak, 1),
            pdf_mb=round(paper.stat().st_size / 1e6, 2),
            html_mb=round(page.stat().st_size / 1e6, 2),
            same=len(written) == 1,
        )


def _details(result: AuditResult) -> ReportDetails:
    return ReportDetails(
        date=None,
        config_yaml="key: value\n" * _CONFIG_LINES,
        versions={"numpy": np.__version__},
        digests={"model": result.model.digest, "cohort": "0" * 64},
        seeds={"discovery": 0, "evidence": 0},
        thresholds={"largest tolerated gap": "10 points"},
    )
