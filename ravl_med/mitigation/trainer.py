"""Fine-tuning of an open_clip model on films and radiology reports.

The objective is the contrastive loss of open_clip over the films and the impressions of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.errors import DataError

__all__ = ["Recipe", "fine_tune"]

Progress = Callable[[int, int], None]
_CROPPED = 0.5  # share of films that are cut to a part in the second half of the training


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is fine-tuned.

    Attributes
    ----------
    epochs, batch_size, seed : int
    learning_rate : float - peak; warm-up over a tenth of the steps, then half a cosine to zero
    weight_decay : float - on matrices, not on biases, norms and the logit scale
    """

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    weight_decay: float = 0.05


def fine_tune(
    model: Any,
    films: Tensor,
    tokens: Tensor,
    recipe: Recipe,
    progress: Progress = lambda done, total: None,
) -> list[float]:
    """Fine-tune a CLIP of open_clip in place; it is in evaluation mode afterwards.

    Parameters
    ----------
    model : nn.Module - a CLIP of open_clip
    films : Tensor of shape (N, S, S), float32 - one channel, repeated to three
    tokens : Tensor of shape (N, L), int64
    recipe : Recipe
    progress : callable - called with (steps done, steps in all)

    Returns
    -------
    list of float - the loss of each step

    Raises
    ------
    DataError
        Fewer films than one batch.
    """
    from open_clip.loss import ClipLoss

    count, size = len(films), recipe.batch_size
    if count < size:
        raise DataError(
            f"fine-tuning: {count} films with a report; expected at least {size}, one batch. Add "
            "films to the fine-tuning split or lower model.quickstart.batch_size."
        )
    generator = torch.Generator().manual_seed(recipe.seed)
    per_epoch = count // size
    total = per_epoch * recipe.epochs
    optimiser = torch.optim.AdamW(_decay_groups(model, recipe.weight_decay), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: recipe.learning_rate * _warm_cosine(step, total)
    )
    objective = ClipLoss()
    losses: list[float] = []
    model.to(memory_format=torch.channels_last)  # a third faster on CPU
    model.train()
    for epoch in range(recipe.epochs):
        # Whole films first: what shows only on a whole film is not learned from parts.
        cropped = _CROPPED if 2 * epoch >= recipe.epochs else 0.0
        order = torch.randperm(count, generator=generator)
        for batch in torch.split(order[: per_epoch * size], size):
            images = _jitter(films[batch], cropped, generator)[:, None].expand(-1, 3, -1, -1)
            images = images.contiguous(memory_format=torch.channels_last)
            seen, read, scale = model(images, tokens[batch])
            loss = objective(seen, read, scale)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            scheduler.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0.0, math.log(100.0))
            losses.append(float(loss.detach()))
            progress(len(losses), total)
    model.eval()
    return losses


def _jitter(films: Tensor, cropped: float, generator: torch.Generator) -> Tensor:
    """Vary exposure and contrast film by film; cut some of them to a random part.

    The crops are those of contrastive pre-training (open_clip's RandomResizedCrop): they teach the
    tower to say of a part what the part shows, which region embeddings live on.
    """
    count = len(films)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    cut = torch.rand(count, generator=generator) < cropped
    side = torch.where(cut, uniform(0.2, 0.8), uniform(0.95, 1.05))
    reach = torch.where(cut, 1.0 - side, torch.full((count,), 0.05)).clamp(min=0.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, 0, 2] = uniform(-1.0, 1.0) * reach
    theta[:, 1, 2] = uniform(-1.0, 1.0) * reach
    grid = functional.affine_grid(theta, [count, 1, *films.shape[-2:]], align_corners=False)
    moved = functional.grid_sample(
        films[:, None], grid, padding_mode="border", align_corners=False
    )[:, 0]
    gain = 1.0 + 0.1 * torch.randn(count, 1, 1, generator=generator)
    offset = 0.1 * torch.randn(count, 1, 1, generator=generator)
    return moved * gain + offset


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _warm_cosine(step: int, total: int) -> float:
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
