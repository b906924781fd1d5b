"""Reading of films against the clock."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.benchmark_file import BenchmarkFile
from tests.benchmarks.intake.tables import intake_markdown
from tests.benchmarks.intake.trials import (
    CoresRow,
    SpeedRow,
    measure_cores,
    measure_speed,
    write_films,
)

Progress = Callable[[str, int, int], None]

PARTS = ("speed", "cores")


@dataclass(frozen=True, slots=True)
class IntakePlan:
    """What is measured.

    Attributes
    ----------
    parts : tuple of str - of `PARTS`
    films : int - of each transfer syntax
    repeats : int - how often each is read in a round of the part ``cores``
    rounds : int
    """

    parts: tuple[str, ...] = PARTS
    films: int = 2
    repeats: int = 3
    rounds: int = 9

    def command(self, part: str) -> str:
        """Return the command that repeats one part."""
        return f"ravl-med benchmark intake --parts {part} --rounds {self.rounds}"


def run_intake_benchmark(
    plan: IntakePlan,
    folder: Path,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> Path:
    """Measure the parts that are asked for; write ``intake.json`` and ``intake.md``.

    Parameters
    ----------
    plan : IntakePlan
    folder : Path
    progress : callable - called with (stage, done, total)

    Returns
    -------
    Path - of the Markdown

    Raises
    ------
    ConfigError
        The folder cannot be written.
    """
    file = BenchmarkFile(folder, "intake", PARTS, intake_markdown)
    with tempfile.TemporaryDirectory() as place:
        films = write_films(Path(place), plan.films)

        def rows_of(part: str) -> Sequence[SpeedRow | CoresRow]:
            if part == "speed":
                return measure_speed(films, plan.rounds, progress)
            return measure_cores(films, plan.repeats, plan.rounds, progress)

        return file.measure(plan.parts, plan.command, rows_of)
