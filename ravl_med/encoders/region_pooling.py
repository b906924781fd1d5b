"""Region embeddings in the space of the text: which way fits an image tower, and that of ViTs.

CLIP ResNets and towers that end in a map: RoIAlign on the map of the last stage, then the model's
own pooling. ViTs of open_clip (CoCa's too) and timm: the model's own pooling over the patches of
the region. Both cost one pass of the image, and the region that is the whole image gives the image
embedding itself. Any other image tower: each region is cut out, resized to the input and encoded as
an image. A config may ask for crops of any tower, or for a pass of the last stage a region.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
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
from ravl_med.encoders.gradient_checkpointing import call_block
from ravl_med.encoders.huggingface_tower import HuggingFaceTower, PatchRegions
from ravl_med.errors import ModelError

Pooling = Callable[[nn.Module, Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]]
"""Image tower, images (B, 3, S, S) and B sets of boxes (r_i, 4), xyxy in input pixels, to
embeddings of images (B, D) and regions (sum of r_i, D), not normalised."""

CROPS = "crops, each encoded as an image"
_RESNET = "RoIAlign on the last stage, one attention-pooling query per region"
_MAP = "RoIAlign on the last stage, then the model's own pooling"
_LAST_STAGE = "RoIAlign before the last stage, which each region then passes by itself"
ONE_BY_ONE = (CROPS, _LAST_STAGE)
"""Poolings with a pass for each region, so that one more region is not almost free."""
_VIT = {
    "token": "one class token a region, attending to its patches",
    "average": "mean of the patches of a region",
    "attention": "the model's attention pool, asking the patches of a region",
}


def region_pooling_of(visual: nn.Module, how: RegionPooling = "one_pass") -> tuple[str, Pooling]:
    """Return the name and the function of the region pooling of an image tower.

    ``one_pass`` takes the pooling that fits the tower.

    Raises
    ------
    ModelError
        The tower has no last stage that is known here.
    """
    if how == "crops":
        return CROPS, pool_crops
    if how == "last_stage":
        if split_tower(visual) is None:
            kind = type(getattr(visual, "trunk", visual)).__name__
            raise ModelError(
                "model.region_pooling: 'last_stage' is for the stages of a CLIP ResNet, and of "
                f"timm's ConvNeXt, ResNet and Swin; this image tower is {kind}. Expected "
                "one_pass or crops."
            )
        return _LAST_STAGE, pool_last_stage_regions
    return _pooling_that_fits(visual)


def _pooling_that_fits(visual: nn.Module) -> tuple[str, Pooling]:
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


def pool_huggingface_regions(
    visual: nn.Module, images: Tensor, boxes: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Embed images and regions with a tower of Hugging Face."""
    assert isinstance(visual, HuggingFaceTower)
    return visual.embed_regions(images, boxes)


def pool_crops(visual: nn.Module, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Embed images and, by one pass each, the crops of their regions resized to the input."""
    whole = embed_images(visual, images)
    pooled = [whole[:0]]  # a batch may hold no region at all
    pooled += [embed_images(visual, crops) for crops in cut_crops(images, boxes)]
    return whole, torch.cat(pooled)


def cut_crops(images: Tensor, boxes: Sequence[Tensor]) -> list[Tensor]:
    """Cut regions out and resize them to the input: (r_i, 3, S, S) of each image with a region."""
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


def vit_pooling(visual: VisionTransformer) -> str | None:
    """Return how a ViT of open_clip pools: ``token``, ``average``, ``attention``, or None."""
    if visual.attn_pool is not None:  # CoCa: the first query is the image
        simple = visual.attn_pool_contrastive is None and visual.pool_type == "tok"
        return "attention" if simple else None
    return {"tok": "token", "avg": "average"}.get(visual.pool_type)


def pool_vit_regions(
    visual: nn.Module, images: Tensor, boxes: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Embed images and regions with a ViT of open_clip."""
    assert isinstance(visual, VisionTransformer)
    tokens = visual._embeds(images)  # (B, 1 + P, W), class token first
    regions = PatchRegions.of(boxes, visual.patch_size, visual.grid_size, tokens)
    length, most = tokens.shape[1], max(regions.counts)
    if vit_pooling(visual) == "average":
        mixed = visual.transformer(tokens)
        own = regions.average(mixed[:, 1:] if visual.final_ln_after_pool else
                              visual.ln_post(mixed)[:, 1:])  # fmt: skip
        pooled = visual.ln_post(own) if visual.final_ln_after_pool else own
    else:
        queries = tokens[:, :1].expand(-1, most, -1)
        mask = regions.token_mask(1) if most else None
        mixed = _mix(visual.transformer, torch.cat([tokens, queries], dim=1), mask)
        if visual.attn_pool is None:
            pooled = visual.ln_post(mixed[:, length:])
        else:
            pooled = _ask_first_query(visual, mixed, length, regions)
    whole = visual._pool(mixed[:, :length])[0]
    both = torch.cat([whole[:, None], pooled], dim=1)
    if visual.proj is not None:
        both = both @ visual.proj
    return both[:, 0], regions.flatten(both[:, 1:])


def _mix(transformer: Any, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Run tokens (B, L, W) through the blocks of open_clip under a mask (B, L, L)."""
    if mask is None or type(transformer.resblocks[0]) is not ResidualAttentionBlock:
        heads = transformer.resblocks[0].attn.num_heads
        wide = None if mask is None else mask.repeat_interleave(heads, dim=0)
        mixed: Tensor = transformer(tokens, attn_mask=wide)
        return mixed
    for block in transformer.resblocks:
        tokens = call_block(transformer.grad_checkpointing, _mix_once, block, tokens, mask)
    return tokens


def _mix_once(block: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    """Run tokens (B, L, W) through a block of open_clip under a mask (B, L, L)."""
    # Its own attention wants a mask a head, which costs half of the pass again.
    attended = _attend(block.attn, block.ln_1(tokens), mask[:, None])
    tokens = tokens + block.ls_1(attended)
    mixed: Tensor = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
    return mixed


def _attend(attention: nn.MultiheadAttention, tokens: Tensor, mask: Tensor) -> Tensor:
    """Let tokens (B, L, W) attend to each other under a mask (B, 1, L, L) of all heads."""
    batch, length, width = tokens.shape
    assert attention.in_proj_weight is not None
    projected = functional.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (
        part.reshape(batch, length, attention.num_heads, -1).transpose(1, 2)
        for part in projected.chunk(3, dim=-1)
    )
    read = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    out: Tensor = attention.out_proj(read.transpose(1, 2).reshape(batch, length, width))
    return out


def _ask_first_query(
    visual: VisionTransformer, mixed: Tensor, length: int, regions: PatchRegions
) -> Tensor:
    """Pool the regions of a CoCa: its first query asks a region's class token and patches."""
    batch, count, _ = regions.shares.shape
    pool = visual.attn_pool
    if not count:
        return mixed[:, :0, :1].expand(-1, -1, pool.query.shape[1])
    keys = pool.ln_k(mixed[:, 1:])  # (B, P + r, W): the image's own class token is left out
    own = torch.eye(count, device=mixed.device, dtype=mixed.dtype).log().expand(batch, -1, -1)
    mask = torch.cat([regions.shares.log(), own], dim=2)
    asked = pool.ln_q(pool.query)[:1].expand(batch, count, -1)
    pooled = pool.attn(
        asked,
        keys,
        keys,
        attn_mask=mask.repeat_interleave(pool.attn.num_heads, dim=0),
        need_weights=False,
    )[0]
    normed: Tensor = visual.ln_post(pooled)
    return normed


def timm_vit_pooling(trunk: nn.Module) -> str | None:
    """Return how a ViT of timm pools: ``token``, ``average``, ``attention``, or None."""
    from timm.layers.attention_pool import AttentionPoolLatent
    from timm.layers.patch_embed import PatchEmbed
    from timm.models import vision_transformer as timm_vit

    vit: Any = trunk
    if type(vit) is not timm_vit.VisionTransformer or type(vit.patch_embed) is not PatchEmbed:
        return None
    if "attn_mask" not in inspect.signature(vit.blocks[0].forward).parameters:
        return None
    if isinstance(vit.attn_pool, AttentionPoolLatent):
        plain = vit.attn_pool.pos_embed is None and vit.attn_pool.latent_len == 1
        return "attention" if plain else None
    if vit.attn_pool is None and vit.global_pool == "token":
        return "token"
    averages = vit.attn_pool is None and vit.global_pool == "avg" and not vit.pool_include_prefix
    return "average" if averages else None


def pool_timm_vit_regions(
    visual: nn.Module, images: Tensor, boxes: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Embed images and regions with a ViT of timm inside a TimmModel."""
    tower: Any = visual
    trunk = tower.trunk
    tokens = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(images))))
    patch = trunk.patch_embed.patch_size
    grid = (images.shape[-2] // patch[0], images.shape[-1] // patch[1])
    prefix, length = trunk.num_prefix_tokens, tokens.shape[1]
    regions = PatchRegions.of(boxes, patch, grid, tokens)
    how, most = timm_vit_pooling(trunk), max(regions.counts)
    mask = None
    if trunk.has_class_token and how != "average" and most:
        tokens = torch.cat([tokens, tokens[:, :1].expand(-1, most, -1)], dim=1)
        mask = regions.token_mask(prefix)[:, None]
    for block in trunk.blocks:
        tokens = call_block(trunk.grad_checkpointing, block, tokens, attn_mask=mask)
    tokens = trunk.norm(tokens)
    patches = tokens[:, prefix:length]
    if how == "token":
        pooled = tokens[:, length:]
    elif how == "average":
        pooled = regions.average(patches)
    else:
        pooled = _ask_latent(trunk, tokens, length, regions)
    whole = trunk.pool(tokens[:, :length])
    both = trunk.head(trunk.fc_norm(torch.cat([whole[:, None], pooled], dim=1)))
    both = tower.head(both)
    return both[:, 0], regions.flatten(both[:, 1:])


def _ask_latent(trunk: Any, tokens: Tensor, length: int, regions: PatchRegions) -> Tensor:
    """Pool regions by the latent query of timm's attention pool (SigLIP's head)."""
    pool, prefix = trunk.attn_pool, trunk.num_prefix_tokens
    batch, count, _ = regions.shares.shape
    if not count:
        return tokens[:, :0]
    keys, mask = tokens[:, prefix:length], regions.shares.log()
    if trunk.pool_include_prefix and prefix:
        first = 1 if trunk.has_class_token else 0  # a region has a class token of its own
        keys = torch.cat([tokens[:, first:prefix], keys], dim=1)
        mask = functional.pad(mask, (prefix - first, 0))
        if first:
            own = torch.eye(count, device=tokens.device, dtype=tokens.dtype).log()
            keys = torch.cat([keys, tokens[:, length:]], dim=1)
            mask = torch.cat([mask, own.expand(batch, -1, -1)], dim=2)

    def split(part: Tensor) -> Tensor:  # (B, h, tokens, W / h)
        parted: Tensor = part.reshape(batch, -1, pool.num_heads, pool.head_dim).transpose(1, 2)
        return parted

    asked = pool.q_norm(split(pool.q(pool.latent.expand(batch, count, -1))))
    key, value = (split(part) for part in pool.kv(keys).chunk(2, dim=-1))
    read = functional.scaled_dot_product_attention(
        asked, pool.k_norm(key), value, attn_mask=mask[:, None]
    )
    pooled = pool.proj_drop(pool.proj(read.transpose(1, 2).flatten(2)))
    if pool.mlp is not None:
        pooled = pooled + pool.mlp(pool.norm(pooled))
    answered: Tensor = pooled
    return answered
