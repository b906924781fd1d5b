"""Encoders against what was promised: faithful regions, their cost, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from ravl_med.storage.cache import Cache
from tests.benchmarks.benchmark_file import BenchmarkFile
from tests.benchmarks.encoders.accuracy import measure_accuracy
from tests.benchmarks.encoders.embedding_trials import measure_memory, measure_throughput
from tests.benchmarks.encoders.poolings import PoolingSizes, measure_poolings
from tests.benchmarks.encoders.tables import encoders_markdown
from tests.benchmarks.encoders.trials import measure_cost, measure_faith

Progress = Callable[[str, int, int], None]

PARTS = ("faithful", "cost", "poolings", "accuracy", "films", "memory")

_SEED = 0
_BATCHES = 4  # of films that are read from files


@dataclass(frozen=True, slots=True)
class EncodersPlan:
    """What is measured.

    Attributes
    ----------
    parts : tuple of str - of `PARTS`
    images : int - whose regions are compared, at least 2
    batch : int - images that are timed together
    rounds : int - of the cost
    films : int - phantoms whose windows are asked, at most
    config_file : str - as a command shows it
    """

    parts: tuple[str, ...] = PARTS
    images: int = 8
    batch: int = 4
    rounds: int = 7
    films: int = 300
    config_file: str = "configs/quickstart.yaml"

    def command(self, part: str) -> str:
        """Return the command that repeats one part."""
        options = {
            "faithful": f"--images {self.images}",
            "cost": f"--batch {self.batch} --rounds {self.rounds}",
            "poolings": f"--films {self.films} --images {self.images} --batch {self.batch} "
            f"--rounds {self.rounds}",
            "accuracy": f"--films {self.films}",
            "films": f"--batch {self.batch} --rounds {self.rounds}",
            "memory": f"--batch {self.batch}",
        }
        config = f" {self.config_file}" if part in ("accuracy", "poolings") else ""
        return f"ravl-med benchmark encoders{config} --parts {part} {options[part]}"


def run_encoders_benchmark(
    config: Config,
    plan: EncodersPlan,
    folder: Path,
    *,
    cache: Cache,
    progress: Progress = lambda stage, done, total: None,
) -> Path:
    """Measure the parts that are asked for; write ``encoders.json`` and ``encoders.md``.

    Parameters
    ----------
    config : Config - of the quickstart
    plan : EncodersPlan
    folder : Path
    cache : Cache - of cohorts and quickstart models
    progress : callable - called with (stage, done, total)

    Returns
    -------
    Path - of the Markdown

    Raises
    ------
    ConfigError
        The config is not one of a quickstart model, or the folder cannot be written.
    """
    if config.cohort.synthetic is None or config.model.quickstart is None:
        raise ConfigError(
            "benchmark encoders: expected a config with cohort.synthetic and model.quickstart, "
            "such as configs/quickstart.yaml."
        )
    file = BenchmarkFile(folder, "encoders", PARTS, encoders_markdown)
    return file.measure(
        plan.parts, plan.command, lambda part: _measure(part, config, plan, cache, progress)
    )


def _measure(
    part: str, config: Config, plan: EncodersPlan, cache: Cache, progress: Progress
) -> Sequence[Any]:
    if part == "faithful":
        return measure_faith(plan.images, _SEED, progress)
    if part == "cost":
        return measure_cost(plan.batch, plan.rounds, _SEED, progress)
    if part == "poolings":
        sizes = PoolingSizes(plan.films, plan.images, plan.batch, plan.rounds)
        return measure_poolings(config, sizes, _SEED, cache, progress)
    if part == "films":
        return measure_throughput(_BATCHES * plan.batch, plan.batch, plan.rounds, progress)
    if part == "memory":
        return measure_memory(_BATCHES * plan.batch, plan.batch, progress)
    return measure_accuracy(config, plan.films, cache, progress)
