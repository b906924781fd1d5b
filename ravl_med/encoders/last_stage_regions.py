"""Regions that pass the last stage one by one: RoIAlign on the map before it.

Each region is read off that map in as many cells as the map has, so that the last stage and the
pooling, their place embeddings and windows among them, take it like the map of an image. The region
that is the whole image reads the map itself. It costs a pass of the last stage a region, and keeps
what lies outside of a region out of that stage; what the stages before have mixed in stays.

References
----------
Zhong et al., RegionCLIP, CVPR 2022 (RoIAlign before the last stage of a CLIP ResNet).
He et al., Mask R-CNN, ICCV 2017 (RoIAlign).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torchvision.ops import roi_align

from ravl_med.encoders.gradient_checkpointing import call_block

__all__ = ["StagedTower", "pool_last_stage_regions", "split_tower"]

_REGIONS_AT_ONCE = 32


@dataclass(frozen=True, slots=True, eq=False)
class StagedTower:
    """An image tower in two parts.

    Attributes
    ----------
    before : callable - images (B, 3, S, S) to maps (B, W, s, s)
    last : callable - maps (n, W, s, s) to embeddings (n, D), not normalised
    """

    before: Callable[[Tensor], Tensor]
    last: Callable[[Tensor], Tensor]


def split_tower(visual: nn.Module) -> StagedTower | None:
    """Split a tower before its last stage; None where it has no stages that are known here.

    Parameters
    ----------
    visual : nn.Module - any image tower
    """
    if isinstance(visual, ModifiedResNet):
        first = (visual.stem, visual.layer1, visual.layer2, visual.layer3)
        return StagedTower(_chain(*first), _chain(visual.layer4, visual.attnpool))
    if not isinstance(visual, TimmModel):
        return None
    trunk: Any = visual.trunk
    end = (trunk.forward_head, visual.head)
    if isinstance(visual.trunk, ConvNeXt):
        first = (trunk.stem, *trunk.stages[:-1])
        return StagedTower(_chain(*first), _chain(trunk.stages[-1], trunk.norm_pre, *end))
    if isinstance(visual.trunk, ResNet):
        stem = (trunk.conv1, trunk.bn1, trunk.act1, trunk.maxpool)
        # Its switch is read by what calls its stages, not by the stages.
        *stages, last = (
            [partial(call_block, trunk.grad_checkpointing, block) for block in stage]
            for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
        )
        return StagedTower(_chain(*stem, *chain.from_iterable(stages)), _chain(*last, *end))
    if isinstance(visual.trunk, SwinTransformer):  # its channels come last
        first = (trunk.patch_embed, *trunk.layers[:-1], _channels_first)
        return StagedTower(
            _chain(*first), _chain(_channels_last, trunk.layers[-1], trunk.norm, *end)
        )
    return None


def pool_last_stage_regions(
    visual: nn.Module, images: Tensor, boxes: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Embed images, and their regions by a pass of the last stage each.

    The regions of one film at a time, and not too many of them, so that memory is bounded and no
    embedding depends on the other films of a batch. A box of less than a pixel reads one pixel, as
    a crop does.

    Parameters
    ----------
    visual : nn.Module - that `split_tower` splits
    images : Tensor of shape (B, 3, S, S)
    boxes : sequence of B tensors of shape (r_i, 4) - xyxy in input pixels

    Returns
    -------
    images : Tensor of shape (B, D), not normalised
    regions : Tensor of shape (sum of r_i, D), not normalised
    """
    tower = split_tower(visual)
    assert tower is not None
    maps = tower.before(images)
    whole = tower.last(maps)
    scale = maps.shape[-1] / images.shape[-1]
    pooled = [whole[:0]]  # a batch may hold no region at all
    for film, own in zip(torch.split(maps, 1), boxes, strict=True):
        places = _at_least_a_pixel(own.to(film.device, torch.float32))
        for part in torch.split(places, _REGIONS_AT_ONCE) if len(own) else ():
            cuts = roi_align(film.float(), [part], maps.shape[-2:], scale, 0, aligned=True)
            pooled.append(tower.last(cuts.to(maps.dtype, memory_format=torch.channels_last)))
    return whole, torch.cat(pooled)


def _at_least_a_pixel(boxes: Tensor) -> Tensor:
    low, high = boxes[:, :2], boxes[:, 2:]
    return torch.cat([low, torch.maximum(high, low + 1.0)], dim=1)


def _chain(*steps: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(values: Tensor) -> Tensor:
        for step in steps:
            values = step(values)
        return values

    return run


def _channels_first(maps: Tensor) -> Tensor:
    return maps.permute(0, 3, 1, 2)


def _channels_last(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1)
