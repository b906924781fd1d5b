"""What the optimiser is given: which parameters decay, and the learning rate of each step."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

__all__ = ["decay_groups", "warm_cosine"]


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trained parameters by their decay: matrices, and biases, norms and scales.

    Parameters
    ----------
    model : nn.Module - what has no gradient is left out
    weight_decay : float - of the matrices
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def warm_cosine(step: int, total: int) -> float:
    """Return the share of the peak: warm-up over a tenth of the steps, then half a cosine to 0."""
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
