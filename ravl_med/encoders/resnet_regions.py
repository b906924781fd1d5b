"""Regions of CLIP ResNets: RoIAlign on the last map, then the encoder's own attention pool.

Queries, keys and values are projected once, on the map, and each region asks with one query; the
region that is the whole image gives the image embedding itself.

References
----------
Varma et al., RaVL, NeurIPS 2024, section 3.1 (RoIAlign, then the encoder's own pooling).
He et al., Mask R-CNN, ICCV 2017 (RoIAlign).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

__all__ = ["pool_resnet_regions"]

_REGIONS_AT_ONCE = 1024


def pool_resnet_regions(
    visual: nn.Module, images: Tensor, boxes: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Embed images and regions with a CLIP ResNet.

    Parameters
    ----------
    visual : ModifiedResNet
    images : Tensor of shape (B, 3, S, S)
    boxes : sequence of B tensors of shape (r_i, 4) - xyxy in input pixels

    Returns
    -------
    images : Tensor of shape (B, D), not normalised
    regions : Tensor of shape (sum of r_i, D), not normalised
    """
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
        for part in torch.split(rois, _REGIONS_AT_ONCE)
    ]
    return torch.cat(parts).flatten(2).transpose(1, 2).to(boxes.dtype)


def _attend(pool: AttentionPool2d, features: Tensor, weights: Tensor) -> Tensor:
    """Pool regions by attention, one query a region.

    A region attends to what RoIAlign reads of keys and values that keep their place on the film,
    and to the mean of what it reads. All of it is linear up to the softmax, so queries, keys and
    values are projected once, on the map; no region has a map of its own.

    Parameters
    ----------
    pool : AttentionPool2d
    features : Tensor of shape (B, W, S, S)
    weights : Tensor of shape (B, r, s, S * S) - what each of s samples of a region reads

    Returns
    -------
    Tensor of shape (B, r, D)
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
