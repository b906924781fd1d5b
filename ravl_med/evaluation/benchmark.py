"""Runs of the whole tool on cohorts whose truth is known, and the table that the README shows."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ravl_med import __version__
from ravl_med.cache import Cache
from ravl_med.config import Config
from ravl_med.errors import ConfigError
from ravl_med.evaluation.truth import compare_with_truth
from ravl_med.pipeline import Progress, audit

__all__ = ["BenchmarkRow", "run_quickstart_benchmark", "write_benchmark"]


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """One audit of a cohort with known truth.

    Attributes
    ----------
    cohort : str - "planted" or "null"
    tower : str - image tower of the model
    seed : int - of the cohort and of the model
    verdict : str
    accuracy : float - zero-shot, overall
    raised_gap, lowered_gap : float - by true presence of the planted feature
    top_kind, top_names_finding : kind of the first correlation, and whether it names the finding
    precision_at_10, paper_precision_at_10 : float - of the first correlation's regions, by removal
        effect and by similarity to the medoid; NaN without a planted feature
    shortcuts : int - correlations of kind shortcut
    seconds : float - the whole audit, model and cohort included unless they were cached
    """

    cohort: str
    tower: str
    seed: int
    verdict: str
    accuracy: float
    raised_gap: float
    lowered_gap: float
    top_kind: str
    top_names_finding: bool
    precision_at_10: float
    paper_precision_at_10: float
    shortcuts: int
    seconds: float


def run_quickstart_benchmark(
    config: Config,
    seeds: int,
    *,
    key: bytes,
    cache: Cache,
    progress: Progress = lambda stage, done, total: None,
) -> list[BenchmarkRow]:
    """Audit planted and null cohorts, each with its own films and its own model.

    Parameters
    ----------
    config : Config - of a synthetic cohort and a quickstart model
    seeds : int - planted cohorts, and null cohorts, that many of each
    key : bytes
    cache : Cache
    progress : callable

    Raises
    ------
    ConfigError
        The config names a cohort or a model of the user's own.
    """
    synthetic, model = config.cohort.synthetic, config.model.quickstart
    if synthetic is None or model is None:
        raise ConfigError(
            "benchmark: the config must use cohort.synthetic and model.quickstart, whose truth is "
            "known. Try configs/quickstart.yaml."
        )
    rows = []
    for name, strength in (("planted", synthetic.strength), ("null", 0.0)):
        for seed in range(seeds):
            films = synthetic.model_copy(update={"strength": strength, "seed": seed})
            settings = config.model_copy(
                update={
                    "cohort": config.cohort.model_copy(update={"synthetic": films}),
                    "model": config.model.model_copy(
                        update={"quickstart": model.model_copy(update={"seed": seed})}
                    ),
                }
            )
            label = f"{name} {seed + 1} of {seeds}"
            run = audit(
                settings,
                key=key,
                cache=cache,
                progress=_prefixed(progress, label),
            )
            check = compare_with_truth(run)
            planted = strength > 0
            rows.append(
                BenchmarkRow(
                    cohort=name,
                    tower=model.tower,
                    seed=seed,
                    verdict=run.result.verdict.name,
                    accuracy=run.result.accuracy.overall,
                    raised_gap=check.raised_gap,
                    lowered_gap=check.lowered_gap,
                    top_kind=check.kind,
                    top_names_finding=check.names_finding,
                    precision_at_10=check.precision if planted else float("nan"),
                    paper_precision_at_10=check.paper_precision if planted else float("nan"),
                    shortcuts=check.shortcuts,
                    seconds=round(sum(run.timings.values()), 1),
                )
            )
    return rows


def _prefixed(progress: Progress, label: str) -> Progress:
    return lambda stage, done, total: progress(f"{label}: {stage}", done, total)


def write_benchmark(rows: Sequence[BenchmarkRow], folder: Path) -> Path:
    """Write ``quickstart.json`` and ``quickstart.md``; return the table's path.

    Raises
    ------
    ConfigError
        The folder cannot be written.
    """
    machine = {
        "ravl-med": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }
    content = {"machine": machine, "rows": [_without_nan(asdict(row)) for row in rows]}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        (folder / "quickstart.json").write_text(text, encoding="utf-8")
        table = folder / "quickstart.md"
        table.write_text(_markdown(rows, machine), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out: cannot be written ({type(error).__name__}).") from None
    return table


def _markdown(rows: Sequence[BenchmarkRow], machine: Mapping[str, Any]) -> str:
    lines = [
        "| cohort | seed | accuracy | gaps of the planted pair | verdict | first correlation "
        "| precision@10 (paper's order) | shortcuts |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        named = "names the finding" if row.top_names_finding else "names another class"
        precision = (
            f"{row.precision_at_10:.1f} ({row.paper_precision_at_10:.1f})"
            if row.precision_at_10 == row.precision_at_10
            else "–"
        )
        first = "–" if row.top_kind == "none" else f"{row.top_kind.replace('_', ' ')}, {named}"
        lines.append(
            f"| {row.cohort} | {row.seed} | {row.accuracy:.1%} | {100 * row.raised_gap:+.0f} / "
            f"{-100 * row.lowered_gap:+.0f} points | {row.verdict.replace('_', ' ')} | {first} "
            f"| {precision} | {row.shortcuts} |"
        )
    lines += [
        "",
        f"Made by `ravl-med benchmark quickstart` {machine['ravl-med']}, Python "
        f"{machine['python']}, {machine['system']}, {machine['cores']} cores.",
        "",
    ]
    return "\n".join(lines)


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in row.items()}
