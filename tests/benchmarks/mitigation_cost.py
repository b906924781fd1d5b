"""What a step of each arm costs, forward and backward: seconds side by side, and memory.

Films and towers have random content and weights, which cost what real ones do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from ravl_med.config.mitigation import MitigationConfig
from ravl_med.config.model import QuickstartModelConfig
from ravl_med.encoders.gradient_checkpointing import checkpoint_gradients
from ravl_med.encoders.huggingface import HuggingFaceModel
from ravl_med.mitigation.arms import ARMS, ImageTower, Objective
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.fine_tuning_set import FineTuningSet, GrayFilms, RegionTable
from ravl_med.mitigation.quickstart import quickstart_layout
from ravl_med.regions.region_set import cut_tiles
from tests.benchmarks.processes import forget_peak, map_in_children, peak_mb
from tests.benchmarks.runner import Progress
from tests.benchmarks.tables import Row

TOWERS = ("RN50", "ViT-B-16", "convnext_base", "Hugging Face CLIP", "quickstart")
"""Kinds of image towers: ResNet and ViT of open_clip, one of timm, one of transformers, and the
small one of the quickstart."""

_ARMS = ("standard", "ravl", "exchange", "counterfactual")
_DELIVERED = "counterfactual"
_BATCHES = {"RN50": 16, "quickstart": 64}
_GRID = 4
_CLASSES = 5


def measure_cost(
    fabric: Fabric,
    *,
    repeats: int,
    seed: int,
    progress: Progress,
    towers: Sequence[str] = tuple(_BATCHES),
) -> Iterator[Row]:
    """Time a step of each arm, in turns, 16 regions a film; the ratio is that to a plain step."""
    for number, tower in enumerate(towers):
        made = _RandomTower.of(tower, _BATCHES[tower], fabric, seed)
        steps = {name: made.stepper(name) for name in _ARMS}
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(repeats + 1):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                if turn:  # the first is for caches to fill
                    taken[name].append(time.perf_counter() - start)
            done = number * (repeats + 1) + turn + 1
            progress("time the steps", done, len(towers) * (repeats + 1))
        plain = np.array(taken["standard"])
        for name, seconds in taken.items():
            yield {
                "tower": tower,
                "regions": _GRID * _GRID,
                "batch": _BATCHES[tower],
                "arm": name,
                "title": ARMS[name].title,
                "seconds": round(float(np.median(seconds)), 4),
                "ratio": round(float(np.median(np.array(seconds) / plain)), 3),
            }


def measure_memory(
    *,
    repeats: int,
    seed: int,
    progress: Progress,
    towers: Sequence[str] = TOWERS[:-1],
    batch: int = 16,
) -> Iterator[Row]:
    """Measure a step of the delivered arm, without and with gradient checkpointing.

    Each has a process of its own. The peak is that above libraries, weights and films.
    """
    for number, tower in enumerate(towers):
        taken = []
        for checkpointed in (False, True):
            job = _Job(tower, batch, checkpointed, repeats, seed)
            taken += map_in_children(_take_steps, [job], threads=None)
            done = 2 * number + checkpointed + 1
            progress("memory of the steps", done, 2 * len(towers))
        (seconds, peak), (seconds_checkpointed, peak_checkpointed) = taken
        yield {
            "tower": tower,
            "regions": _GRID * _GRID,
            "batch": batch,
            "arm": _DELIVERED,
            "title": ARMS[_DELIVERED].title,
            "seconds": round(seconds, 4),
            "seconds_checkpointed": round(seconds_checkpointed, 4),
            "peak_mb": round(peak, 1),
            "peak_mb_checkpointed": round(peak_checkpointed, 1),
        }


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
    made = _RandomTower.of(job.tower, job.batch, make_fabric(alone=True), job.seed)
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


@dataclass(frozen=True, slots=True, eq=False)
class _RandomTower:
    """An image tower with random weights, and films with random content to learn from."""

    tower: ImageTower
    films: FineTuningSet
    classes: torch.Tensor  # (C, D), float32, unit norm
    fabric: Fabric
    seed: int

    @classmethod
    def of(cls, kind: str, batch: int, fabric: Fabric, seed: int) -> _RandomTower:
        """Make a tower of `TOWERS`, and so many films of its size."""
        torch.manual_seed(seed)
        model, side, size = _model(kind)
        lay_out: Any = model.to  # its stubs do not know memory formats
        tower = ImageTower(lay_out(memory_format=torch.channels_last))
        films = _films(batch, side, size, seed)
        classes = torch.nn.functional.normalize(torch.randn(_CLASSES, size), dim=1)
        tower.train()
        return cls(tower, films, classes, fabric, seed)

    def checkpoint_gradients(self) -> None:
        """Switch gradient checkpointing on, for good."""
        checkpoint_gradients(self.tower.visual)

    def stepper(self, arm: str) -> Callable[[], None]:
        """Return what makes a step of an arm, forward and backward, without the optimiser."""
        films, count = self.films, len(self.films)
        objective = Objective(ARMS[arm], films, self.classes, MitigationConfig(), self.fabric)
        generator, rows = torch.Generator().manual_seed(self.seed), torch.arange(count)

        def step() -> None:
            loss = objective.step(self.tower, rows, slice(None), 0, generator)
            self.fabric.backward(loss)
            self.tower.zero_grad(set_to_none=True)

        return step


def _model(kind: str) -> tuple[nn.Module, int, int]:
    """Model with random weights, side of its input, and size of its embeddings."""
    import open_clip

    if kind == "Hugging Face CLIP":
        import transformers

        config = transformers.CLIPConfig(
            vision_config={"patch_size": 16}, text_config={"num_hidden_layers": 1}
        )
        return (
            HuggingFaceModel(transformers.CLIPModel(config)),
            224,
            int(config.projection_dim or 0),
        )
    if kind == "quickstart":
        layout: Any = quickstart_layout(QuickstartModelConfig())["model_cfg"]
    else:
        layout = open_clip.get_model_config(kind)
        if "timm_model_name" in layout["vision_cfg"]:
            layout["vision_cfg"]["timm_model_pretrained"] = False
    model: nn.Module = open_clip.CLIP(**layout)
    return model, int(layout["vision_cfg"]["image_size"]), int(layout["embed_dim"])


def _films(batch: int, side: int, size: int, seed: int) -> FineTuningSet:
    """Random films; a third has the feature in two tiles, and in half of its tiles companions."""
    rng = np.random.default_rng(seed)
    boxes = cut_tiles(side, side, _GRID, _GRID)
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
        films=GrayFilms(gray, np.arange(len(gray)), (0.5,) * 3, (0.25,) * 3),
        reports=reports,
        labels=np.arange(batch, dtype=np.int64) % _CLASSES,
        present=has,
        regions=table,
        spurious=spurious,
        carriers=carriers,
        companions=RegionTable.of(table.boxes[along], film[along], batch),
    )
