"""The search on cohorts whose truth is known: calibration, power, speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ravl_med.config.loading import Config
from tests.benchmarks.benchmark_file import BenchmarkFile
from tests.benchmarks.discovery.parts import measure_calibration, measure_power, tabulate_power
from tests.benchmarks.discovery.speed import SPEED_CASES, measure_speed
from tests.benchmarks.discovery.tables import discovery_markdown

Progress = Callable[[str, int, int], None]

PARTS = ("calibration", "power", "table", "speed")
_MANY = 200_000  # regions; the largest case can be left out


@dataclass(frozen=True, slots=True)
class DiscoveryPlan:
    """What is measured.

    Attributes
    ----------
    parts : tuple of str - of `PARTS`
    cohorts : int - of each kind, for calibration and power
    simulations : int - for each cell of the table
    million : bool - time a million regions too
    workers : int - processes; no number but the seconds depends on it
    config_file : str - as the command that repeats a part names it
    """

    parts: tuple[str, ...] = PARTS
    cohorts: int = 200
    simulations: int = 100
    million: bool = True
    workers: int = 2
    config_file: str = "configs/quickstart.yaml"

    def command(self, part: str) -> str:
        """Return the command that repeats one part."""
        words = ["ravl-med benchmark discovery", self.config_file, "--parts", part]
        if part in ("calibration", "power"):
            words += ["--cohorts", str(self.cohorts)]
        if part == "speed" and not self.million:
            words.append("--no-million")
        return " ".join(words)


def run_discovery_benchmark(
    config: Config,
    plan: DiscoveryPlan,
    folder: Path,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> Path:
    """Measure the parts that are asked for; write ``discovery.json`` and ``discovery.md``.

    Both files are written after each part, so that what is done stays when a run is stopped.

    Parameters
    ----------
    config : Config - its sections discovery, evidence and gate
    plan : DiscoveryPlan
    folder : Path
    progress : callable - called with (stage, done, total)

    Returns
    -------
    Path - of the Markdown

    Raises
    ------
    ConfigError
        The folder cannot be written, or its ``discovery.json`` is not one of this benchmark.
    """
    file = BenchmarkFile(folder, "discovery", PARTS, discovery_markdown)
    return file.measure(
        plan.parts, plan.command, lambda part: _measure(part, config, plan, progress)
    )


def _measure(part: str, config: Config, plan: DiscoveryPlan, progress: Progress) -> Sequence[Any]:
    if part == "calibration":
        return measure_calibration(config, plan.cohorts, workers=plan.workers, progress=progress)
    if part == "power":
        return measure_power(config, plan.cohorts, workers=plan.workers, progress=progress)
    if part == "table":
        return tabulate_power(config, plan.simulations, workers=plan.workers, progress=progress)
    cases = [case for case in SPEED_CASES if plan.million or case.films * case.regions <= _MANY]
    return measure_speed(config, cases, progress=progress)
