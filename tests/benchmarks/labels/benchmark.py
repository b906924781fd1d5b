"""Findings read off reports, against reports that people have coded, and against the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ravl_med.errors import ConfigError
from ravl_med.labelling.findings import chest_labeller
from tests.benchmarks.benchmark_file import BenchmarkFile
from tests.benchmarks.labels.coded_reports import read_coded_reports, split_halves
from tests.benchmarks.labels.tables import labels_markdown
from tests.benchmarks.labels.trials import measure_findings, measure_reading

Progress = Callable[[str, int, int], None]

PARTS = ("published", "development", "speed")

HALVES_SEED = 0
"""Of the shuffle that says which reports the phrases were written on, and which are published."""

_LENGTHS, _RUNS = (1_000, 1_000_000, 10_000_000), 2


@dataclass(frozen=True, slots=True)
class LabelsPlan:
    """What is measured.

    Attributes
    ----------
    parts : tuple of str - of `PARTS`
    reports : Path or None - archive of coded reports, or a folder with it
    """

    parts: tuple[str, ...] = PARTS
    reports: Path | None = None

    def command(self, part: str) -> str:
        """Return the command that repeats one part."""
        where = "" if part == "speed" else " --reports FOLDER"
        return f"ravl-med benchmark labels --parts {part}{where}"


def run_labels_benchmark(
    plan: LabelsPlan,
    folder: Path,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> Path:
    """Measure the parts that are asked for; write ``labels.json`` and ``labels.md``.

    Parameters
    ----------
    plan : LabelsPlan
    folder : Path
    progress : callable - called with (stage, done, total)

    Returns
    -------
    Path - of the Markdown

    Raises
    ------
    ConfigError
        A part needs reports that are not named, or the folder cannot be written.
    DataError
        The reports cannot be read.
    """
    if plan.reports is None and set(plan.parts) - {"speed"}:
        raise ConfigError(
            "--reports: expected the archive of coded reports, or a folder with it, for published "
            "and development."
        )
    file = BenchmarkFile(folder, "labels", PARTS, labels_markdown)
    return file.measure(plan.parts, plan.command, lambda part: _measure(part, plan, progress))


def _measure(part: str, plan: LabelsPlan, progress: Progress) -> Sequence[Any]:
    labeller = chest_labeller()
    if plan.reports is None or part == "speed":
        return measure_reading(labeller, _LENGTHS, _RUNS, progress)
    development, published = split_halves(read_coded_reports(plan.reports), HALVES_SEED)
    return measure_findings(development if part == "development" else published, labeller, progress)
