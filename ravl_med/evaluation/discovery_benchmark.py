"""The search on cohorts whose truth is known: calibration, power, speed, and where they are kept.

Parts can be run one at a time; those that are not run keep their earlier numbers. Each carries what
it was measured with.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ravl_med import __version__
from ravl_med.config import Config
from ravl_med.errors import ConfigError
from ravl_med.evaluation.discovery_parts import (
    measure_calibration,
    measure_power,
    tabulate_power,
)
from ravl_med.evaluation.discovery_speed import SPEED_CASES, measure_speed
from ravl_med.evaluation.discovery_tables import discovery_markdown

__all__ = ["PARTS", "DiscoveryPlan", "plan_parts", "run_discovery_benchmark"]

Progress = Callable[[str, int, int], None]

PARTS = ("calibration", "power", "table", "speed")
_MANY = 200_000  # regions; the largest case can be left out
_JSON = "discovery.json"
_MARKDOWN = "discovery.md"


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


def plan_parts(text: str) -> tuple[str, ...]:
    """Read a comma-separated list of parts, in the order in which they are run.

    Raises
    ------
    ConfigError
        A part is unknown, or none is named.
    """
    named = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in named if word not in PARTS]
    if unknown or not named:
        got = repr(unknown[0]) if unknown else "none"
        raise ConfigError(f"--parts: expected some of {', '.join(PARTS)}, with commas; got {got}.")
    return tuple(part for part in PARTS if part in named)


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
    content = _earlier(folder / _JSON)
    for part in plan.parts:
        start = time.perf_counter()
        rows = _measure(part, config, plan, progress)
        content[part] = {
            "tool": f"ravl-med {__version__}",
            "machine": _describe_machine(),
            "command": plan.command(part),
            "seconds": round(time.perf_counter() - start, 1),
            "rows": [_without_nan(asdict(row)) for row in rows],
        }
        _write(folder, {name: content[name] for name in PARTS if name in content})
    return folder / _MARKDOWN


def _measure(part: str, config: Config, plan: DiscoveryPlan, progress: Progress) -> Sequence[Any]:
    if part == "calibration":
        return measure_calibration(config, plan.cohorts, workers=plan.workers, progress=progress)
    if part == "power":
        return measure_power(config, plan.cohorts, workers=plan.workers, progress=progress)
    if part == "table":
        return tabulate_power(config, plan.simulations, workers=plan.workers, progress=progress)
    cases = [case for case in SPEED_CASES if plan.million or case.films * case.regions <= _MANY]
    return measure_speed(config, cases, progress=progress)


def _earlier(path: Path) -> dict[str, Any]:
    """Parts that an earlier run left."""
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
        whole = all(
            name in PARTS and isinstance(part["rows"], list) for name, part in parts.items()
        )
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"--out: {path.name} cannot be read ({type(error).__name__}).") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ConfigError(
            f"--out: the {path.name} in that folder is not one of this benchmark. Move it away or "
            "name another folder."
        )
    return dict(parts)


def _write(folder: Path, parts: Mapping[str, Any]) -> None:
    text = json.dumps({"parts": parts}, indent=2, allow_nan=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _JSON).write_text(text, encoding="utf-8")
        (folder / _MARKDOWN).write_text(discovery_markdown(parts), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out: cannot be written ({type(error).__name__}).") from None


def _describe_machine() -> str:
    words = [f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    words += [f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} cores"]
    return ", ".join([*words, *_processor()])


def _processor() -> list[str]:
    """Name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.startswith("model name")][:1]


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
