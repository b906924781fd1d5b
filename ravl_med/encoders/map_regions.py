"""Regions of image towers that end in a map of features: ConvNeXt, ResNet, Swin of timm.

RoIAlign reads each region off the map of the last stage, in as many cells as the map has, and the
model's own pooling, norm and projection follow, as they do for the image. The region that is the
whole image reads the map itself.

References
----------
He et al., Mask R-CNN, ICCV 2017 (RoIAlign).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

__all__ = ["has_feature_map", "pool_map_regions"]

_REGIONS_AT_ONCE = 256


class _Features(nn.Module):
    """A trunk up to the map that its head pools."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> Any:
        return self.trunk.forward_features(images)


def has_feature_map(trunk: Any, size: int) -> bool:
    """Whether a trunk of timm makes of an input of `size` pixels a map that its own head pools.

    Only shapes are computed: the trunk is run without numbers.
    """
    if not all(hasattr(trunk, name) for name in ("forward_features", "forward_head")):
        return False
    module = _Features(trunk)
    shapes = {
        name: torch.empty_like(value, device="meta")
        for name, value in (*module.named_parameters(), *module.named_buffers())
    }
    try:
        images = torch.empty(1, 3, size, size, device="meta")
        made = torch.func.functional_call(module, shapes, (images,))
    except Exception:  # a step that needs the numbers, or another size; timm raises many types
        return False
    axis = -1 if getattr(trunk, "output_fmt", "NCHW") == "NHWC" else 1
    return isinstance(made, Tensor) and made.ndim == 4 and made.shape[axis] == trunk.num_features


def pool_map_regions(
    visual: nn.Module, images: Tensor, boxes: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Embed images and regions with a timm tower that ends in a map.

    Parameters
    ----------
    visual : TimmModel
    images : Tensor of shape (B, 3, S, S)
    boxes : sequence of B tensors of shape (r_i, 4) - xyxy in input pixels

    Returns
    -------
    images : Tensor of shape (B, D), not normalised
    regions : Tensor of shape (sum of r_i, D), not normalised
    """
    tower: Any = visual
    features = tower.trunk.forward_features(images)
    last = getattr(tower.trunk, "output_fmt", "NCHW") == "NHWC"  # Swin: channels come last

    def pool(maps: Tensor) -> Tensor:
        pooled: Tensor = tower.head(
            tower.trunk.forward_head(maps.permute(0, 2, 3, 1) if last else maps)
        )
        return pooled

    maps = features.permute(0, 3, 1, 2) if last else features
    whole = pool(maps)
    counts = torch.tensor([len(part) for part in boxes], device=images.device)
    if not int(counts.sum()):
        return whole, whole[:0]
    film = torch.repeat_interleave(torch.arange(len(boxes), device=images.device), counts)
    rois = torch.cat([film[:, None].to(maps), torch.cat(list(boxes)).to(maps)], dim=1)
    side = (int(maps.shape[-2]), int(maps.shape[-1]))
    scale = side[1] / images.shape[-1]
    regions = [
        pool(roi_align(maps, part, side, scale, 0, aligned=True))
        for part in torch.split(rois, _REGIONS_AT_ONCE)
    ]
    return whole, torch.cat(regions)
