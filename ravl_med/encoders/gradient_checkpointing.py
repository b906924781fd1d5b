"""Gradient checkpointing: less memory in training, for a second forward pass on the way back.

The parts of a tower keep only their inputs, and the rest is computed again for the gradients.
Towers with a switch of their own are switched; the ResNets of open_clip, whose switch does nothing,
are wrapped block by block. The pooling of regions uses the same parts.

References
----------
Chen, Xu, Zhang, Guestrin, "Training deep nets with sublinear memory cost", arXiv 1604.06174 (2016).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from open_clip.modified_resnet import Bottleneck, ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ravl_med.encoders.huggingface_tower import HuggingFaceTower
from ravl_med.errors import ModelError

_KINDS = ("activation", "gradient")


def checkpoint_gradients(visual: nn.Module) -> None:
    """Let a tower, or a whole model that writes, keep only the inputs of its parts in training.

    BatchNorm that is not frozen updates its statistics in each forward pass, and so in the second
    one too: a caller of ``backward`` has to restore them.

    Raises
    ------
    ModelError
        The tower has no switch for it.
    """
    if isinstance(visual, ModifiedResNet):
        _checkpoint_resnet(visual)
    elif isinstance(visual, VisionTransformer):
        visual.set_grad_checkpointing(True)
    elif not _switch(visual, on=True):
        raise _no_switch(visual)


def require_checkpointing(visual: nn.Module) -> None:
    """Refuse an image tower that `checkpoint_gradients` cannot switch (ModelError)."""
    if isinstance(visual, (ModifiedResNet, VisionTransformer)):
        return
    if not _switch(visual, on=True):
        raise _no_switch(visual)
    _switch(visual, on=False)


def call_block(
    checkpointed: bool, block: Callable[..., Tensor], *given: Any, **more: Any
) -> Tensor:
    """Call a part of a tower, with checkpointed gradients where the tower is switched to that."""
    if not (checkpointed and torch.is_grad_enabled()):
        return block(*given, **more)
    made: Tensor = checkpoint(block, *given, use_reentrant=False, **more)
    return made


def _checkpoint_resnet(visual: ModifiedResNet) -> None:
    """Wrap stem and blocks where they are called, as attributes that add no weight."""
    parts: list[Any] = [part for part in visual.modules() if isinstance(part, Bottleneck)]
    for part in parts:
        part.forward = partial(call_block, True, part.forward)
    tower: Any = visual
    tower.stem = partial(call_block, True, visual.stem)


def _switch(visual: nn.Module, *, on: bool) -> bool:
    """Turn the switch of a library's own tower; return whether it exists and had an effect."""
    tower: Any = visual
    if isinstance(visual, TimmModel):
        with suppress(Exception):  # many say no by an assertion, others have no such function
            tower.trunk.set_grad_checkpointing(on)
        return any(getattr(part, "grad_checkpointing", not on) is on for part in visual.modules())
    inner = tower.vision if isinstance(visual, HuggingFaceTower) else tower
    # Renamed in transformers 5.24: the old name warns there, and is to go in 6.
    names = [f"{kind}_checkpointing_{'enable' if on else 'disable'}" for kind in _KINDS]
    name = next((name for name in names if hasattr(inner, name)), None)
    if name is not None:
        getattr(inner, name)(*([{"use_reentrant": False}] if on else []))
    return name is not None


def _no_switch(visual: nn.Module) -> ModelError:
    kind = type(getattr(visual, "trunk", visual)).__name__
    return ModelError(
        f"mitigation.gradient_checkpointing: the image tower {kind} has no switch for it; expected "
        "a ResNet or ViT of open_clip, a tower of timm that can, or a model of Hugging "
        "Face. Set it to false, and lower mitigation.batch_size where memory is short."
    )
