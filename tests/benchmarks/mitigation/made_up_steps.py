"""Films and towers with random content, on which a step of an arm is measured."""

from __future__ import annotations

from collections.abc import Callable
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
from ravl_med.mitigation.fine_tuning_set import FineTuningSet, GrayFilms, RegionTable
from ravl_med.mitigation.quickstart import quickstart_layout
from ravl_med.regions.region_set import cut_tiles

TOWERS = ("RN50", "ViT-B-16", "convnext_base", "Hugging Face CLIP", "quickstart")
"""Kinds of image towers: ResNet and ViT of open_clip, one of timm, one of transformers, and the
small one of the quickstart."""

_CLASSES = 5


@dataclass(frozen=True, slots=True, eq=False)
class MadeUpTower:
    """An image tower with random weights, and films with random content to learn from.

    Attributes
    ----------
    tower : ImageTower
    films : FineTuningSet
    classes : Tensor of shape (C, D), float32 - unit norm
    fabric : Fabric
    seed : int
    """

    tower: ImageTower
    films: FineTuningSet
    classes: torch.Tensor
    fabric: Fabric
    seed: int

    @classmethod
    def of(cls, kind: str, batch: int, grid: int, fabric: Fabric, seed: int) -> MadeUpTower:
        """Make a tower of a kind, and films of its size with so many tiles a side.

        Parameters
        ----------
        kind : str - of `TOWERS`
        batch : int - films
        grid : int - tiles a side
        fabric : Fabric
        seed : int
        """
        torch.manual_seed(seed)
        model, side, size = _model(kind)
        lay_out: Any = model.to  # its stubs do not know memory formats
        tower = ImageTower(lay_out(memory_format=torch.channels_last))
        films = _films(batch, side, grid, size, seed)
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
        films=GrayFilms(gray, np.arange(len(gray)), (0.5,) * 3, (0.25,) * 3),
        reports=reports,
        labels=np.arange(batch, dtype=np.int64) % _CLASSES,
        present=has,
        regions=table,
        spurious=spurious,
        carriers=carriers,
        companions=RegionTable.of(table.boxes[along], film[along], batch),
    )
