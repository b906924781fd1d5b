"""Beyond one machine: what was promised of engines, memory, deaths, and very many films."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from ravl_med.storage.cache import Cache
from tests.benchmarks.benchmark_file import BenchmarkFile
from tests.benchmarks.marked_page import renew_page
from tests.benchmarks.scale.chaos_trials import measure_chaos
from tests.benchmarks.scale.discovery_trials import measure_discovery
from tests.benchmarks.scale.memory_trials import measure_memory
from tests.benchmarks.scale.phantom_audits import phantom_audit
from tests.benchmarks.scale.projection import Assumptions, measure_films, project
from tests.benchmarks.scale.same_trials import measure_sameness
from tests.benchmarks.scale.simulated_films import FilmsPlan
from tests.benchmarks.scale.speed_trials import SMALL_TOWER, measure_speed
from tests.benchmarks.scale.summary import MARKED, scale_summary
from tests.benchmarks.scale.tables import scale_markdown

Progress = Callable[[str, int, int], None]

PARTS = ("same", "speed", "memory", "discovery", "chaos", "projection")
_WITH_RAY = ("same", "speed", "chaos")


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """What is measured.

    Attributes
    ----------
    parts : tuple of str - of `PARTS`
    same_films, chaos_films : int - phantoms, of which 3 in 11 are audited
    speed_films : int - phantoms that are embedded
    towers : tuple of str - that embed them
    rounds : int - of the speed
    memory_films, discovery_films : tuple of int - cohorts, from small to large
    kills : int - of workers and of runs, for each engine
    sample : int - films that the projection is measured on
    assumed : Assumptions - of the projection
    ray : bool - Ray too
    config_file : str - as the command that repeats a part names it
    """

    parts: tuple[str, ...] = PARTS
    same_films: int = 3_300
    chaos_films: int = 3_300
    speed_films: int = 1_024
    towers: tuple[str, ...] = (SMALL_TOWER, "ViT-B-32")
    rounds: int = 3
    memory_films: tuple[int, ...] = (2_000, 200_000)
    discovery_films: tuple[int, ...] = (20_000, 200_000)
    kills: int = 20
    sample: int = 16
    assumed: Assumptions = field(default_factory=Assumptions)
    ray: bool = True
    config_file: str = "configs/quickstart.yaml"

    def command(self, part: str) -> str:
        """Return the command that repeats one part."""
        a = self.assumed
        options = {
            "same": f"--same-films {self.same_films}",
            "speed": f"--speed-films {self.speed_films} --towers {','.join(self.towers)} "
            f"--rounds {self.rounds}",
            "memory": f"--memory-films {_told(self.memory_films)}",
            "discovery": f"--discovery-films {_told(self.discovery_films)}",
            "chaos": f"--chaos-films {self.chaos_films} --kills {self.kills}",
            "projection": f"--sample {self.sample} --cpu-euros {a.cpu_euros:g} --cpu-cores "
            f"{a.cpu_cores} --gpu-euros {a.gpu_euros:g} --gpus {a.gpus} --utilisation "
            f"{a.utilisation:g}",
        }
        ray = " --no-ray" if part in _WITH_RAY and not self.ray else ""
        return f"ravl-med benchmark scale {self.config_file} --parts {part} {options[part]}{ray}"


def _told(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes))


def read_sizes(text: str, option: str) -> tuple[int, ...]:
    """Read numbers of films with commas between them, and return them ascending.

    Parameters
    ----------
    text : str
    option : str - as messages call it

    Raises
    ------
    ConfigError
        It is something else.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() and int(word) > 0 for word in words):
        raise ConfigError(
            f"{option}: expected whole numbers from 1 with commas, such as 2000,200000; got "
            f"{text[:40]!r}."
        )
    return tuple(sorted({int(word) for word in words}))


def run_scale_benchmark(
    config: Config,
    plan: ScalePlan,
    folder: Path,
    *,
    cache: Cache,
    progress: Progress = lambda stage, done, total: None,
) -> Path:
    """Measure the parts that are asked for; write ``scale.json`` and ``scale.md``.

    Both files are written after each part, so that what is done stays when a run is stopped. A
    ``README.md`` with marks beside them shows the summary.

    Parameters
    ----------
    config : Config - of the quickstart
    plan : ScalePlan
    folder : Path
    cache : Cache - of cohorts and quickstart models
    progress : callable - called with (stage, done, total)

    Returns
    -------
    Path - of the Markdown

    Raises
    ------
    ConfigError
        The config is not one of a quickstart model, Ray is asked for and not installed, the folder
        cannot be written, or its ``scale.json`` is not one of this benchmark.
    RavlMedError
        A run of a trial failed.
    """
    file = BenchmarkFile(folder, "scale", PARTS, scale_markdown)
    if plan.ray and set(plan.parts) & set(_WITH_RAY):
        _require_ray()
    table = file.measure(
        plan.parts,
        plan.command,
        lambda part: _measure(part, config, plan, (file, cache), progress),
    )
    try:
        renew_page(folder / "README.md", MARKED, scale_summary(file.read()))
    except OSError as error:
        raise ConfigError(f"--out: cannot be written ({type(error).__name__}).") from None
    return table


def _require_ray() -> None:
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise ConfigError(
            "benchmark scale: Ray is not installed. Install it (pip install 'ravl-med[ray]'), or "
            "leave it out (--no-ray)."
        )


def _measure(
    part: str,
    config: Config,
    plan: ScalePlan,
    kept: tuple[BenchmarkFile, Cache],
    progress: Progress,
) -> Sequence[Any]:
    file, cache = kept
    if part == "same":
        audit = phantom_audit(config, plan.same_films, cache, progress)
        return measure_sameness(audit, progress, ray=plan.ray)
    if part == "speed":
        return measure_speed(plan.speed_films, plan.towers, plan.rounds, progress, ray=plan.ray)
    if part == "memory":
        return measure_memory(config, plan.memory_films, progress)
    if part == "discovery":
        plans = [FilmsPlan(films) for films in plan.discovery_films]
        return measure_discovery(config, plans, progress)
    if part == "chaos":
        audit = phantom_audit(config, plan.chaos_films, cache, progress)
        return measure_chaos(audit, plan.kills, progress, ray=plan.ray)
    searches = file.read().get("discovery", {}).get("rows", [])
    return project(measure_films(config, plan.sample, searches, progress), plan.assumed)
