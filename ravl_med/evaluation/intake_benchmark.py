"""Reading of films against the clock."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ravl_med.evaluation.benchmark_file import BenchmarkFile, describe_part
from ravl_med.evaluation.intake_tables import intake_markdown
from ravl_med.evaluation.intake_trials import (
    CoresRow,
    SpeedRow,
    measure_cores,
    measure_speed,
    write_films,
)

__all__ = ["PARTS", "IntakePlan", "run_intake_benchmark"]

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
    content = file.read()
    with tempfile.TemporaryDirectory() as place:
        films = write_films(Path(place), plan.films)
        for part in plan.parts:
            start = time.perf_counter()
            rows: Sequence[SpeedRow | CoresRow] = (
                measure_speed(films, plan.rounds, progress)
                if part == "speed"
                else measure_cores(films, plan.repeats, plan.rounds, progress)
            )
            content[part] = describe_part(plan.command(part), time.perf_counter() - start, rows)
            file.write(content)
    return file.table
