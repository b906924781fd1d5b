"""The whole tool on phantom cohorts whose truth is known.

Planted cohorts have to fail, null cohorts must not; the regions of the first correlation have to
lie on the planted feature, whatever the tower and the tiles; and a bystander that travels with the
feature must not be called used.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from ravl_med.config.loading import Config
from ravl_med.pipeline.stages import Progress
from ravl_med.storage.cache import Cache
from tests.benchmarks.benchmark_file import BenchmarkFile, describe_part
from tests.benchmarks.quickstart.phantom_things import ThingRow, weigh_things
from tests.benchmarks.quickstart.tables import quickstart_markdown
from tests.benchmarks.quickstart.trials import (
    AuditRow,
    Tower,
    Trial,
    audit_phantoms,
    phantom_settings,
)

PARTS = ("planted", "null", "localisation", "bystander")
_BYSTANDER = "marker"
_TOWERS: tuple[Tower, ...] = ("resnet", "vit")
_TILES = ((4, 4), (6, 6))


@dataclass(frozen=True, slots=True)
class QuickstartPlan:
    """What is measured.

    Attributes
    ----------
    parts : tuple of str - of `PARTS`
    seeds : int - planted cohorts, each with its own films and model; cohorts with a bystander
    nulls : int - null cohorts, each with its own films and model
    located : int - planted cohorts for each tower and tiling
    config_file : str - as the command that repeats a part names it
    """

    parts: tuple[str, ...] = PARTS
    seeds: int = 5
    nulls: int = 20
    located: int = 1
    config_file: str = "configs/quickstart.yaml"

    def command(self, part: str) -> str:
        """Return the command that repeats one part."""
        count = {"null": f"--nulls {self.nulls}", "localisation": f"--located {self.located}"}
        return (
            f"ravl-med benchmark quickstart {self.config_file} --parts {part} "
            f"{count.get(part, f'--seeds {self.seeds}')}"
        )


def plan_trials(part: str, plan: QuickstartPlan, config: Config) -> list[Trial]:
    """Return the audits of a part.

    Raises
    ------
    ConfigError
        The config names a cohort or a model of the user's own.
    """
    tiles = config.regions.tiles
    tower: Tower = config.model.quickstart.tower if config.model.quickstart else "resnet"
    trials = {
        "planted": [Trial(True, seed, tower, tiles) for seed in range(plan.seeds)],
        "null": [Trial(False, seed, tower, tiles) for seed in range(plan.nulls)],
        "localisation": [
            Trial(True, seed, kind, grid)
            for kind, grid, seed in product(_TOWERS, _TILES, range(plan.located))
        ],
        "bystander": [Trial(True, seed, tower, tiles, _BYSTANDER) for seed in range(plan.seeds)],
    }[part]
    for trial in trials[:1]:
        phantom_settings(config, trial)  # refused before anything is run
    return trials


def run_quickstart_benchmark(
    config: Config,
    plan: QuickstartPlan,
    folder: Path,
    *,
    key: bytes,
    cache: Cache,
    progress: Progress = lambda stage, done, total: None,
) -> Path:
    """Audit phantom cohorts; write ``quickstart.json`` and ``quickstart.md`` after each of them.

    Parameters
    ----------
    config : Config - of a synthetic cohort and a quickstart model
    plan : QuickstartPlan
    folder : Path
    key : bytes - secret of the pseudonyms
    cache : Cache - of films and models; with it, what is stopped goes on quickly
    progress : callable - called with (stage, done, total)

    Returns
    -------
    Path - of the Markdown

    Raises
    ------
    ConfigError
        The config names a cohort or a model of the user's own; the folder cannot be written, or
        its ``quickstart.json`` is not one of this benchmark.
    """
    file = BenchmarkFile(folder, "quickstart", PARTS, quickstart_markdown)
    content = file.read()
    planned = {part: plan_trials(part, plan, config) for part in plan.parts}
    for part, trials in planned.items():
        start = time.perf_counter()
        rows: list[AuditRow | ThingRow] = []
        for trial in trials:
            row, run = audit_phantoms(config, trial, key=key, cache=cache, progress=progress)
            rows += weigh_things(run, trial.seed, cache) if part == "bystander" else [row]
            content[part] = describe_part(plan.command(part), time.perf_counter() - start, rows)
            file.write(content)
    return file.table
