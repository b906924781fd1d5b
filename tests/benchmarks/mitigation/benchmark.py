"""``ravl-med benchmark mitigation``: every arm on planted phantoms, and what a step costs."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ravl_med.config.loading import Config
from ravl_med.mitigation.distributed import Processes, make_fabric
from ravl_med.pipeline.mitigation_setup import WorkFolder
from ravl_med.pipeline.stages import Progress
from ravl_med.storage.cache import Cache
from tests.benchmarks.benchmark_file import BenchmarkFile, describe_part
from tests.benchmarks.mitigation.cost import measure_cost, measure_memory
from tests.benchmarks.mitigation.tables import mitigation_markdown
from tests.benchmarks.mitigation.trials import ArmRow, measure_arms

PARTS = ("arms", "cost")

_MEMORY_SHARE = 5  # a step of a large tower takes seconds, and its memory hardly varies


@dataclass(frozen=True, slots=True)
class MitigationPlan:
    """What is measured.

    Attributes
    ----------
    parts : tuple of str - some of `PARTS`
    seeds : tuple of int - planted cohorts, each with its own films and model
    repeats : int - rounds of the cost
    config_file : str - how the command names the config
    """

    parts: tuple[str, ...]
    seeds: tuple[int, ...]
    repeats: int
    config_file: str

    def command(self, part: str) -> str:
        """Return the command that repeats a part."""
        more = {
            "arms": f"--seeds {','.join(map(str, self.seeds))}",
            "cost": f"--repeats {self.repeats}",
        }
        return f"ravl-med benchmark mitigation {self.config_file} --parts {part} {more[part]}"


def run_mitigation_benchmark(
    config: Config,
    plan: MitigationPlan,
    folder: Path,
    *,
    key: bytes,
    cache: Cache,
    progress: Progress = lambda stage, done, total: None,
) -> Path:
    """Measure; write ``mitigation.json`` and ``mitigation.md`` after each cohort.

    Parameters
    ----------
    config : Config - of a synthetic cohort and a quickstart model
    plan : MitigationPlan
    folder : Path
    key : bytes - secret of the pseudonyms
    cache : Cache - of films and models
    progress : callable - called with (stage, done, total)

    Returns
    -------
    Path - of the Markdown

    Raises
    ------
    ConfigError
        The config names a cohort or a model of the user's own; the folder cannot be written, or
        its ``mitigation.json`` is not one of this benchmark.
    """
    file = BenchmarkFile(folder, "mitigation", PARTS, mitigation_markdown)
    content = file.read()
    processes = Processes(make_fabric(alone=True))
    if "arms" in plan.parts:
        start = time.perf_counter()
        rows: list[ArmRow] = []
        for seed in plan.seeds:
            work = cache.root / "mitigations" / f"benchmark-{seed}"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(mode=0o700, parents=True)
            folders = WorkFolder(work)
            rows += measure_arms(
                config, seed, folders, key=key, cache=cache, processes=processes, progress=progress
            )
            shutil.rmtree(work, ignore_errors=True)
            content["arms"] = _described(plan, "arms", start, rows)
            file.write(content)
    if "cost" in plan.parts:
        start = time.perf_counter()
        costs = measure_cost(
            processes.fabric,
            repeats=plan.repeats,
            seed=0,
            progress=lambda done, total: progress("time the steps", done, total),
        )
        memory = measure_memory(
            repeats=max(1, plan.repeats // _MEMORY_SHARE),
            seed=0,
            progress=lambda done, total: progress("memory of the steps", done, total),
        )
        content["cost"] = _described(plan, "cost", start, [*costs, *memory])
        file.write(content)
    return file.table


def _described(plan: MitigationPlan, part: str, start: float, rows: Any) -> dict[str, Any]:
    return describe_part(plan.command(part), time.perf_counter() - start, rows)
