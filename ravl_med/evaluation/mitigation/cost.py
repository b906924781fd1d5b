"""What a step of each kind costs, forward and backward, side by side in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric

from ravl_med.config import QuickstartModelConfig
from ravl_med.mitigation.arms import ARMS, ImageTower, Lesson, Weights
from ravl_med.mitigation.fine_tuning_set import FilmStore, FineTuningSet, RegionTable
from ravl_med.mitigation.pseudo_groups import PseudoGroups
from ravl_med.mitigation.quickstart import quickstart_layout
from ravl_med.regions.tiles import cut_tiles

__all__ = ["CostRow", "measure_cost"]

_ARMS = ("standard", "ravl", "exchange", "counterfactual")
_CLASSES = 5


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
    batches, grid = {"RN50": 16, "quickstart": 64}, 4
    for number, tower in enumerate(towers):
        batch = batches[tower]
        steps = _steps(tower, batch, grid, fabric, seed)
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
                regions=grid * grid,
                batch=batch,
                arm=name,
                title=ARMS[name].title,
                seconds=round(float(np.median(seconds)), 4),
                ratio=round(float(np.median(np.array(seconds) / plain)), 3),
            )
            for name, seconds in taken.items()
        ]
    return rows


def _steps(
    tower: str, batch: int, grid: int, fabric: Fabric, seed: int
) -> dict[str, Callable[[], None]]:
    """One step of each arm, on the same films and weights."""
    import open_clip

    torch.manual_seed(seed)
    if tower == "RN50":
        model, side = open_clip.CLIP(**open_clip.get_model_config("RN50")), 224
    else:
        layout = quickstart_layout(QuickstartModelConfig())
        model, side = open_clip.CLIP(**layout["model_cfg"]), 96
    image_tower = ImageTower(model.to(memory_format=torch.channels_last))
    films = _films(batch, side, grid, int(model.text_projection.shape[1]), seed)
    groups = PseudoGroups.cross(films.labels, films.present, tuple(str(c) for c in range(_CLASSES)))
    classes = torch.nn.functional.normalize(torch.randn(_CLASSES, films.reports.shape[1]), dim=1)
    image_tower.train()
    rows = torch.arange(batch)

    def stepper(name: str) -> Callable[[], None]:
        lesson = Lesson(ARMS[name], films, groups, classes, Weights(), fabric)
        generator = torch.Generator().manual_seed(seed)

        def step() -> None:
            loss = lesson.step(image_tower, rows, slice(None), 0, generator)
            fabric.backward(loss)
            image_tower.zero_grad(set_to_none=True)

        return step

    return {name: stepper(name) for name in _ARMS}


def _films(batch: int, side: int, grid: int, size: int, seed: int) -> FineTuningSet:
    """Random films; a third has the feature in two tiles, and in half of its tiles companions."""
    rng = np.random.default_rng(seed)
    boxes = cut_tiles(side, side, grid, grid)
    film = np.repeat(np.arange(batch), len(boxes))
    table = RegionTable.of(np.tile(boxes, (batch, 1)), film, batch)
    has = np.arange(batch) % 3 == 0
    spurious = np.zeros(len(film), dtype=np.bool_)
    spurious[np.flatnonzero(has) * len(boxes)] = True
    spurious[np.flatnonzero(has) * len(boxes) + 1] = True
    carriers = RegionTable.of(table.boxes[spurious], film[spurious], batch)
    along = has[film] & (np.arange(len(film)) % len(boxes) < len(boxes) // 2)
    reports = torch.nn.functional.normalize(torch.randn(batch, size), dim=1)
    gray = rng.integers(0, 256, (batch, side, side), dtype=np.uint8)
    return FineTuningSet(
        films=FilmStore(gray, np.arange(len(gray)), (0.5,) * 3, (0.25,) * 3),
        reports=reports,
        labels=np.arange(batch, dtype=np.int64) % _CLASSES,
        present=has,
        regions=table,
        spurious=spurious,
        carriers=carriers,
        companions=RegionTable.of(table.boxes[along], film[along], batch),
    )
