"""Region embeddings in the space of the text, tower by tower.

CLIP ResNets: RoIAlign on the map of the last stage, then the encoder's own attention pool with one
query a region; the region that is the whole image gives the image embedding itself. ViTs: one
extra class token a region, which attends to itself and to the patches of its region, and which
nothing attends to; the token of the whole image equals the class token. Any other image tower:
each region is cut out, resized to the input and encoded as an image.

References
----------
Varma et al., RaVL, NeurIPS 2024, section 3.1 (RoIAlign, then the encoder's own pooling).
He et al., Mask R-CNN, ICCV 2017 (RoIAlign).
Ding, Wang, Tu, "Open-Vocabulary Universal Image Segmentation with MaskCLIP", ICML 2023 (mask
class tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

__all__ = ["pool_crops", "pool_resnet_regions", "pool_vit_regions", "region_pooling_of"]

_REGIONS_AT_ONCE = 1024

Pooling = Callable[[nn.Module, Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]]


def region_pooling_of(visual: nn.Module) -> tuple[str, Pooling]:
    """Return the name and the function of the region pooling that fits an image tower."""
    if isinstance(visual, ModifiedResNet):
        return (
            "RoIAlign on the last stage, one attention-pool query a region",
            pool_resnet_regions,
        )
    if isinstance(visual, VisionTransformer) and visual.pool_type == "tok" and not visual.attn_pool:
        return "one class token a region, attending to its patches", pool_vit_regions
    return "crops, each encoded as an image", pool_crops


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

    bare = functional.linear(cells, torch.cat([p.weight for p in _projections(pool)]))
    placed = functional.linear(place, torch.cat([p.weight for p in _projections(pool)]))
    query, key, value = bare.chunk(3, dim=-1)
    place_query, place_key, place_value = placed.chunk(3, dim=-1)
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


def pool_vit_regions(
    visual: nn.Module, images: Tensor, boxes: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Embed images and regions with a ViT that pools by its class token.

    Attention of a region's token to a patch is weighted by the share of the patch that lies in
    the region; patches outside get none.

    Parameters and returns as in `pool_resnet_regions`.
    """
    assert isinstance(visual, VisionTransformer)
    tokens = visual._embeds(images)  # (B, 1 + P, W), class token first
    batch, length, _ = tokens.shape
    counts = [len(part) for part in boxes]
    most = max(counts)
    queries = tokens[:, :1].expand(-1, most, -1)
    mask = torch.full((batch, length + most, length + most), float("-inf"), device=images.device)
    mask[:, :length, :length] = 0.0
    rows = torch.arange(most, device=images.device) + length
    mask[:, rows, rows] = 0.0
    for i, part in enumerate(boxes):
        share = _patch_shares(part.to(images), visual.patch_size, visual.grid_size)
        mask[i, length : length + len(part), 1:length] = share.log()
    heads = visual.transformer.resblocks[0].attn.num_heads
    mixed = visual.transformer(
        torch.cat([tokens, queries], dim=1), attn_mask=mask.repeat_interleave(heads, dim=0)
    )
    pooled = visual.ln_post(torch.cat([mixed[:, :1], mixed[:, length:]], dim=1))
    if visual.proj is not None:
        pooled = pooled @ visual.proj
    regions = torch.cat([pooled[i, 1 : 1 + n] for i, n in enumerate(counts)])
    return pooled[:, 0], regions


def _patch_shares(boxes: Tensor, patch: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Share of each patch that lies inside each box, shape (r, grid rows * grid columns)."""
    # Patches keep their size where they do not fill the image; the rest of it is not seen.
    edges_y, edges_x = (
        torch.arange(n + 1, device=boxes.device) * side for n, side in zip(grid, patch, strict=True)
    )
    in_x = (
        torch.minimum(boxes[:, 2:3], edges_x[1:]) - torch.maximum(boxes[:, 0:1], edges_x[:-1])
    ).clamp(min=0) / patch[1]
    in_y = (
        torch.minimum(boxes[:, 3:4], edges_y[1:]) - torch.maximum(boxes[:, 1:2], edges_y[:-1])
    ).clamp(min=0) / patch[0]
    return (in_y[:, :, None] * in_x[:, None, :]).flatten(1)


def pool_crops(visual: nn.Module, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Embed images and, one by one, the crops of their regions resized to the input.

    Parameters and returns as in `pool_resnet_regions`. Costs one forward pass a region.
    """
    size = int(images.shape[-1])
    whole = _encode(visual, images)
    pooled = [whole[:0]]  # a batch may hold no region at all
    for image, part in zip(images, boxes, strict=True):
        crops = []
        for x0, y0, x1, y1 in part.tolist():
            left, top = int(x0), int(y0)
            right, bottom = max(round(x1), left + 1), max(round(y1), top + 1)
            crop = image[None, :, top:bottom, left:right]
            crops.append(
                functional.interpolate(crop, (size, size), mode="bilinear", align_corners=False)
            )
        if crops:
            pooled.append(_encode(visual, torch.cat(crops)))
    return whole, torch.cat(pooled)


def _encode(visual: nn.Module, images: Tensor) -> Tensor:
    """Embed images; some towers (CoCa's) return their tokens as well."""
    embedded = visual(images)
    pooled: Tensor = embedded[0] if isinstance(embedded, tuple) else embedded
    return pooled
