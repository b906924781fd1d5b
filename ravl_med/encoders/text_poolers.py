"""What text towers of published checkpoints need and open_clip lacks.

An ``open_clip_config.json`` may name them in ``text_cfg``: ``hf_pooler_type: eos_pooler`` and, with
``hf_proj_type: linear``, ``hf_proj_bias: true`` (CXR-CLIP has both).
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.hf_model import register_pooler
from torch import Tensor, nn

__all__ = ["EosPooler", "add_projection_bias"]


@register_pooler
class EosPooler(nn.Module):
    """Takes the last token that is no padding: ``[SEP]`` of a BERT."""

    def forward(self, x: Any, attention_mask: Tensor) -> Tensor:
        """Pool the hidden states (T, L, W) of `x` under a mask (T, L) to (T, W)."""
        last = attention_mask.sum(dim=1) - 1
        pooled: Tensor = x.last_hidden_state[torch.arange(len(last), device=last.device), last]
        return pooled


def add_projection_bias(model: Any) -> None:
    """Give the linear projection of a Hugging Face text tower a bias, in place."""
    plain = model.text.proj
    model.text.proj = nn.Linear(plain.in_features, plain.out_features)
