"""Regions of image towers that end in a map: CLIP ResNets, and timm's ConvNeXt, ResNet and Swin.

RoIAlign reads each region off a map, in as many cells as the map has, so the rest of the tower
takes it like the map of an image. It reads the last map, which the model's own pooling follows; or
the map before the last stage, which each region then passes by itself, so that the surroundings
stay out of that stage. The region that is the whole image reads the map itself.

References
----------
Varma et al., RaVL, NeurIPS 2024, section 3.1 (RoIAlign, then the encoder's own pooling).
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
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.timm_model import TimmModel
from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

from ravl_med.encoders.gradient_checkpointing import call_block

_LAST_STAGE_REGIONS_AT_ONCE = 32
_MAP_REGIONS_AT_ONCE = 256
_ATTENTION_REGIONS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class StagedTower:
    """An image tower in two parts."""

    before: Callable[[Tensor], Tensor]  # images (B, 3, S, S) to maps (B, W, s, s)
    last: Callable[[Tensor], Tensor]  # maps (n, W, s, s) to embeddings (n, D), not normalised


def split_tower(visual: nn.Module) -> StagedTower | None:
    """Split an image tower before its last stage; None where it has no known stages."""
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
    """Embed images, and their regions by a pass of the last stage each; see `Pooling`.

    A pass takes regions of one film, and a limited number, so that memory is bounded and no
    embedding depends on the other films of a batch. A box of less than a pixel reads one pixel, as
    a crop does.
    """
    tower = split_tower(visual)
    assert tower is not None
    maps = tower.before(images)
    whole = tower.last(maps)
    scale = maps.shape[-1] / images.shape[-1]
    pooled = [whole[:0]]  # a batch may hold no region at all
    for film, own in zip(torch.split(maps, 1), boxes, strict=True):
        places = _at_least_a_pixel(own.to(film.device, torch.float32))
        for part in torch.split(places, _LAST_STAGE_REGIONS_AT_ONCE) if len(own) else ():
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


_channels_first = partial(torch.permute, dims=(0, 3, 1, 2))
_channels_last = partial(torch.permute, dims=(0, 2, 3, 1))


class _Features(nn.Module):
    """A trunk up to the map that its head pools."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> Any:
        return self.trunk.forward_features(images)


def has_feature_map(trunk: Any, size: int) -> bool:
    """Return whether a timm trunk turns inputs of `size` pixels into a map that its head pools.

    Only shapes are computed: the trunk runs without numbers.
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
    """Embed images and regions with a timm tower that ends in a map; see `Pooling`."""
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
        for part in torch.split(rois, _MAP_REGIONS_AT_ONCE)
    ]
    return whole, torch.cat(regions)


def pool_resnet_regions(
    visual: nn.Module, images: Tensor, boxes: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Embed images and regions with a CLIP ResNet, by its attention pool; see `Pooling`."""
    assert isinstance(visual, ModifiedResNet)
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
    pool = visual.attnpool
    side = int(features.shape[-1])
    counts = [len(part) for part in boxes]
    if not sum(counts):
        return pool(features), pool(features)[:0]
    weights = _sampling_weights(torch.cat(list(boxes)).to(images), side, images.shape[-1])
    rows = torch.split(weights, counts)
    padded = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)  # (B, r, s s, S S)
    pooled = _attend(pool, features, padded)
    return pool(features), torch.cat([pooled[i, :n] for i, n in enumerate(counts)])


def _sampling_weights(boxes: Tensor, side: int, size: int) -> Tensor:
    """Return what RoIAlign reads of a map for each box: (R, side^2 samples, side^2 cells)."""
    # RoIAlign is linear, so its answers to maps with a single 1 say all of it.
    single = torch.eye(side * side, device=boxes.device).reshape(1, side * side, side, side)
    rois = functional.pad(boxes.float(), (1, 0))
    parts = [
        roi_align(single, part, (side, side), side / size, 0, aligned=True)
        for part in torch.split(rois, _ATTENTION_REGIONS_AT_ONCE)
    ]
    return torch.cat(parts).flatten(2).transpose(1, 2).to(boxes.dtype)


def _attend(pool: AttentionPool2d, features: Tensor, weights: Tensor) -> Tensor:
    """Pool features (B, W, S, S) by attention, one query a region, to (B, r, D).

    `weights` (B, r, s, S * S) are what each of s samples of a region reads. A region attends to
    what RoIAlign reads of keys and values that keep their place on the film, and to the mean of
    that. All of it is linear up to the softmax, so queries, keys and values are projected once, on
    the map, and no region has a map of its own.
    """
    cells = features.flatten(2).transpose(1, 2)  # (B, S S, W)
    place = pool.positional_embedding.to(features.dtype)
    heads, batch, width = pool.num_heads, len(cells), cells.shape[-1]

    def split(tokens: Tensor) -> Tensor:  # (B, h, tokens, W / h)
        return tokens.reshape(batch, -1, heads, width // heads).transpose(1, 2)

    query, key, value = (functional.linear(cells, p.weight) for p in _projections(pool))
    place_query, place_key, place_value = (
        functional.linear(part, p.weight)
        for part, p in zip((place[:1], place, place), _projections(pool), strict=True)
    )
    q_bias, k_bias, v_bias = (p.bias for p in _projections(pool))

    mean = weights.mean(dim=2)  # (B, r, S S)
    asked = split(mean @ query + place_query[0] + q_bias)
    mean_key = split(mean @ key + place_key[0] + k_bias)
    mean_value = split(mean @ value + place_value[0] + v_bias)
    # A constant a sample reads is weighted by how much of the sample lies on the map.
    keys, values = split(key + place_key[1:] + k_bias), split(value + place_value[1:] + v_bias)

    scale = (width // heads) ** -0.5
    on_cells = (asked @ keys.transpose(2, 3)) * scale  # (B, h, r, S S)
    on_samples = torch.einsum("bhrc,brsc->bhrs", on_cells, weights)
    on_mean = (asked * mean_key).sum(dim=-1, keepdim=True) * scale
    share = torch.cat([on_mean, on_samples], dim=-1).softmax(dim=-1)
    read = torch.einsum("bhrs,brsc->bhrc", share[..., 1:], weights)
    mixed = share[..., :1] * mean_value + read @ values
    out: Tensor = pool.c_proj(mixed.transpose(1, 2).flatten(2))
    return out


def _projections(pool: AttentionPool2d) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    return pool.q_proj, pool.k_proj, pool.v_proj
