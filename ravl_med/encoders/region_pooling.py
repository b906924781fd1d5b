"""Region embeddings in the space of the text: which way fits an image tower.

CLIP ResNets and towers that end in a map: RoIAlign on the map of the last stage, then the model's
own pooling. ViTs: the model's own pooling over the patches of the region. Both cost one pass of the
image, and the region that is the whole image gives the image embedding itself. Any other image
tower: each region is cut out, resized to the input and encoded as an image. A config may ask for
crops of any tower, and for a pass of the last stage a region where a tower has stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.config.model import RegionPooling
from ravl_med.encoders.conv_pooling import (
    has_feature_map,
    pool_last_stage_regions,
    pool_map_regions,
    pool_resnet_regions,
    split_tower,
)
from ravl_med.encoders.huggingface_tower import HuggingFaceTower
from ravl_med.encoders.vit_pooling import (
    pool_timm_vit_regions,
    pool_vit_regions,
    timm_vit_pooling,
    vit_pooling,
)
from ravl_med.errors import ModelError

Pooling = Callable[[nn.Module, Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]]

CROPS = "crops, each encoded as an image"
_RESNET = "RoIAlign on the last stage, one attention-pool query a region"
_MAP = "RoIAlign on the last stage, then the model's own pooling"
_LAST_STAGE = "RoIAlign before the last stage, which each region then passes by itself"
ONE_BY_ONE = (CROPS, _LAST_STAGE)
"""Poolings that make a pass for each region, so that one more region is not almost free."""
_VIT = {
    "token": "one class token a region, attending to its patches",
    "average": "mean of the patches of a region",
    "attention": "the model's attention pool, asking the patches of a region",
}


def region_pooling_of(visual: nn.Module, how: RegionPooling = "one_pass") -> tuple[str, Pooling]:
    """Return the name and the function of the region pooling of an image tower.

    Parameters
    ----------
    visual : nn.Module - any image tower
    how : {"one_pass", "last_stage", "crops"} - of ``one_pass``, what fits the tower

    Raises
    ------
    ModelError
        The tower has no last stage that is known here.
    """
    if how == "crops":
        return CROPS, pool_crops
    if how == "last_stage":
        if split_tower(visual) is None:
            raise ModelError(
                "model.region_pooling: 'last_stage' is for the stages of a CLIP ResNet, and of "
                f"timm's ConvNeXt, ResNet and Swin; this image tower is {_kind(visual)}. Expected "
                "one_pass or crops."
            )
        return _LAST_STAGE, pool_last_stage_regions
    if isinstance(visual, ModifiedResNet):
        return _RESNET, pool_resnet_regions
    if isinstance(visual, VisionTransformer) and (tokens := vit_pooling(visual)):
        return _VIT[tokens], pool_vit_regions
    if isinstance(visual, HuggingFaceTower):
        return _VIT[visual.pooling], pool_huggingface_regions
    if isinstance(visual, TimmModel):
        trunk: Any = visual.trunk
        if tokens := timm_vit_pooling(trunk):
            return _VIT[tokens], pool_timm_vit_regions
        if has_feature_map(trunk, int(visual.image_size[0])):
            return _MAP, pool_map_regions
    return CROPS, pool_crops


def _kind(visual: nn.Module) -> str:
    """Class of a tower, or of timm's trunk in it."""
    return type(getattr(visual, "trunk", visual)).__name__


def pool_huggingface_regions(
    visual: nn.Module, images: Tensor, boxes: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Embed images and regions with a tower of Hugging Face; as in `pool_crops`, in one pass."""
    assert isinstance(visual, HuggingFaceTower)
    return visual.embed_regions(images, boxes)


def pool_crops(visual: nn.Module, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Embed images and, one by one, the crops of their regions resized to the input.

    Costs one forward pass a region.

    Parameters
    ----------
    visual : nn.Module - any image tower
    images : Tensor of shape (B, 3, S, S)
    boxes : sequence of B tensors of shape (r_i, 4) - xyxy in input pixels

    Returns
    -------
    images : Tensor of shape (B, D), not normalised
    regions : Tensor of shape (sum of r_i, D), not normalised
    """
    whole = embed_images(visual, images)
    pooled = [whole[:0]]  # a batch may hold no region at all
    pooled += [embed_images(visual, crops) for crops in cut_crops(images, boxes)]
    return whole, torch.cat(pooled)


def cut_crops(images: Tensor, boxes: Sequence[Tensor]) -> list[Tensor]:
    """Cut regions out of their images and resize them to the input.

    Returns
    -------
    list of Tensor of shape (r_i, 3, S, S) - of each image that has a region
    """
    size = int(images.shape[-1])
    parts = []
    for image, part in zip(images, boxes, strict=True):
        crops = []
        for x0, y0, x1, y1 in part.tolist():
            left, top = (min(max(int(v), 0), size - 1) for v in (x0, y0))
            right, bottom = max(round(x1), left + 1), max(round(y1), top + 1)
            crop = image[None, :, top:bottom, left:right]
            crops.append(
                functional.interpolate(crop, (size, size), mode="bilinear", align_corners=False)
            )
        if crops:
            parts.append(torch.cat(crops))
    return parts


def embed_images(visual: nn.Module, images: Tensor) -> Tensor:
    """Embed images as (B, D), not normalised; some towers (CoCa's) return their tokens as well."""
    embedded = visual(images)
    pooled: Tensor = embedded[0] if isinstance(embedded, tuple) else embedded
    return pooled
