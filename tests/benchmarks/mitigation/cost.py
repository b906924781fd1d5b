"""What a step of each kind costs, forward and backward, side by side in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from lightning_fabric import Fabric

from ravl_med.mitigation.arms import ARMS
from ravl_med.mitigation.distributed import make_fabric
from tests.benchmarks.discovery.trials import map_in_children
from tests.benchmarks.mitigation.made_up_steps import MadeUpTower
from tests.benchmarks.peak_memory import forget_peak, peak_mb

_ARMS = ("standard", "ravl", "exchange", "counterfactual")
_DELIVERED = "counterfactual"
_GRID = 4


@dataclass(frozen=True, slots=True)
class CostRow:
    """Median seconds of a step, and the median of its ratios to the plain step beside it.

    Attributes
    ----------
    tower : str
    regions : int - of each film
    batch : int - films
    arm, title : str
    seconds : float
    ratio : float
    """

    tower: str
    regions: int
    batch: int
    arm: str
    title: str
    seconds: float
    ratio: float


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """What a step takes, without and with gradient checkpointing.

    Attributes
    ----------
    tower : str
    regions : int - of each film
    batch : int - films
    arm, title : str
    seconds, seconds_checkpointed : float - median
    peak_mb, peak_mb_checkpointed : float - resident memory at most, above that before the first
        step: libraries, weights and films
    """

    tower: str
    regions: int
    batch: int
    arm: str
    title: str
    seconds: float
    seconds_checkpointed: float
    peak_mb: float
    peak_mb_checkpointed: float


def measure_cost(
    fabric: Fabric,
    *,
    repeats: int,
    seed: int,
    towers: Sequence[str] = ("RN50", "quickstart"),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[CostRow]:
    """Time a step of each arm, in turns, on RN50 and on the quickstart tower, 16 regions a film.

    Parameters
    ----------
    fabric : Fabric
    repeats : int - rounds; each has one step of every arm
    seed : int - of films and weights; random films and weights cost what real ones do
    towers : sequence of str - some of "RN50" and "quickstart"
    progress : callable - called with (rounds done, rounds in all)
    """
    rows: list[CostRow] = []
    batches = {"RN50": 16, "quickstart": 64}
    for number, tower in enumerate(towers):
        batch = batches[tower]
        made = MadeUpTower.of(tower, batch, _GRID, fabric, seed)
        steps = {name: made.stepper(name) for name in _ARMS}
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(repeats + 1):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                if turn:  # the first is for caches to fill
                    taken[name].append(time.perf_counter() - start)
            progress(number * (repeats + 1) + turn + 1, len(towers) * (repeats + 1))
        plain = np.array(taken["standard"])
        rows += [
            CostRow(
                tower=tower,
                regions=_GRID * _GRID,
                batch=batch,
                arm=name,
                title=ARMS[name].title,
                seconds=round(float(np.median(seconds)), 4),
                ratio=round(float(np.median(np.array(seconds) / plain)), 3),
            )
            for name, seconds in taken.items()
        ]
    return rows


def measure_memory(
    *,
    repeats: int,
    seed: int,
    towers: Sequence[str] = ("RN50", "ViT-B-16", "convnext_base", "Hugging Face CLIP"),
    batch: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[MemoryRow]:
    """Measure the memory of a step of the delivered arm, each in a process of its own.

    Parameters
    ----------
    repeats : int - steps that are timed, after a first one
    seed : int
    towers : sequence of str - of `TOWERS`
    batch : int - films, with 16 regions each
    progress : callable - called with (processes done, processes in all)
    """
    rows = []
    for number, tower in enumerate(towers):
        taken = []
        for checkpointed in (False, True):
            job = _Job(tower, batch, checkpointed, repeats, seed)
            taken += map_in_children(_take_steps, [job], workers=1, threads=None)
            progress(2 * number + checkpointed + 1, 2 * len(towers))
        (seconds, peak), (seconds_checkpointed, peak_checkpointed) = taken
        rows.append(
            MemoryRow(
                tower=tower,
                regions=_GRID * _GRID,
                batch=batch,
                arm=_DELIVERED,
                title=ARMS[_DELIVERED].title,
                seconds=round(seconds, 4),
                seconds_checkpointed=round(seconds_checkpointed, 4),
                peak_mb=round(peak, 1),
                peak_mb_checkpointed=round(peak_checkpointed, 1),
            )
        )
    return rows


@dataclass(frozen=True, slots=True)
class _Job:
    """Steps that a process of its own makes."""

    tower: str
    batch: int
    checkpointed: bool
    repeats: int
    seed: int


def _take_steps(job: _Job) -> tuple[float, float]:
    """Median seconds of a step, and the peak of memory above that before, in MB."""
    made = MadeUpTower.of(job.tower, job.batch, _GRID, make_fabric(alone=True), job.seed)
    if job.checkpointed:
        made.checkpoint_gradients()
    step, taken = made.stepper(_DELIVERED), []
    before = forget_peak()
    for turn in range(job.repeats + 1):
        start = time.perf_counter()
        step()
        if turn:  # the first is for caches to fill
            taken.append(time.perf_counter() - start)
    return float(np.median(taken)), peak_mb() - before
