"""The image tower of a Hugging Face CLIP, SigLIP or SigLIP 2, and regions of ViTs as patch shares.

A tower that pools by its class token gets one more such token a region: it attends to itself, to
register tokens and to the patches of its region, and nothing attends to it. A tower that averages
its patches averages those of the region. A tower that pools by attention asks the patches of the
region alone. Each patch counts by the share of it that lies in the region; with all patches whole,
each of the three does what the model does with the image.

References
----------
Ding, Wang, Tu, "Open-Vocabulary Universal Image Segmentation with MaskCLIP", ICML 2023 (mask
class tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, eq=False)
class PatchRegions:
    """The regions of B images over the P patches of each."""

    shares: Tensor  # (B, r, P), of each patch in each region; missing regions are whole images
    counts: tuple[int, ...]  # regions of each image

    @classmethod
    def of(
        cls, boxes: Sequence[Tensor], patch: tuple[int, int], grid: tuple[int, int], like: Tensor
    ) -> PatchRegions:
        """Measure B sets of boxes (r_i, 4), xyxy in input pixels, on the patches of an input.

        `patch` is height and width of a patch in pixels, `grid` rows and columns of patches; `like`
        has the type and device of the tokens.
        """
        counts = tuple(len(part) for part in boxes)
        shares = like.new_ones((len(boxes), max(counts, default=0), grid[0] * grid[1]))
        for i, part in enumerate(boxes):
            if len(part):
                shares[i, : len(part)] = _patch_shares(part.to(like), patch, grid)
        return cls(shares, counts)

    def token_mask(self, prefix: int) -> Tensor:
        """Return the additive mask (B, L + r, L + r) that gives each region its own class token.

        L is P plus `prefix`, the tokens before the patches (the class token, then register tokens);
        the last r tokens are those of the regions.
        """
        batch, regions, patches = self.shares.shape
        length = prefix + patches
        mask = self.shares.new_full((batch, length + regions, length + regions), float("-inf"))
        mask[:, :length, :length] = 0.0
        mask[:, length:, 1:prefix] = 0.0
        mask[:, length:, prefix:length] = self.shares.log()
        own = torch.arange(length, length + regions, device=mask.device)
        mask[:, own, own] = 0.0
        return mask

    def average(self, patches: Tensor) -> Tensor:
        """Return the mean over each region of patch tokens (B, P, W), shape (B, r, W)."""
        return (self.shares / self.shares.sum(dim=-1, keepdim=True)) @ patches

    def flatten(self, pooled: Tensor) -> Tensor:
        """Return the rows of (B, r, D) that are regions, shape (sum of r_i, D)."""
        return torch.cat([pooled[i, :count] for i, count in enumerate(self.counts)])


def attend_to_regions(
    attention: nn.MultiheadAttention, query: Tensor, patches: Tensor, regions: PatchRegions
) -> Tensor:
    """Pool patches (B, P, W) by batch-first attention to (B, r, W), once for each region.

    `query` (1, 1, W) is what the model asks the whole image.
    """
    batch, count, _ = regions.shares.shape
    asked = query.expand(batch, count, -1)
    mask = regions.shares.log().repeat_interleave(attention.num_heads, dim=0)
    pooled: Tensor = attention(asked, patches, patches, attn_mask=mask, need_weights=False)[0]
    return pooled


def _patch_shares(boxes: Tensor, patch: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return the share of each patch that lies in each box, shape (r, grid rows * grid columns)."""
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
    shares = (in_y[:, :, None] * in_x[:, None, :]).flatten(1)
    missed = shares.sum(dim=1) == 0  # between patches and border, or without extent: the nearest
    column = ((boxes[:, 0] + boxes[:, 2]) / (2 * patch[1])).long().clamp(0, grid[1] - 1)
    row = ((boxes[:, 1] + boxes[:, 3]) / (2 * patch[0])).long().clamp(0, grid[0] - 1)
    shares[missed, (row * grid[1] + column)[missed]] = 1.0
    return shares


class HuggingFaceTower(nn.Module):
    """Image tower and projection of a model of transformers, (B, 3, S, S) to (B, D)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config.vision_config
        self.vision = model.vision_model
        self.projection = getattr(model, "visual_projection", nn.Identity())
        self.pooling: Literal["token", "attention"] = (
            "token" if model.config.model_type == "clip" else "attention"
        )
        self.naflex = model.config.model_type == "siglip2"
        side = (
            round(config.num_patches**0.5)
            if self.naflex
            else config.image_size // config.patch_size
        )
        self.patch = (int(config.patch_size),) * 2
        self.grid = (int(side),) * 2
        self.image_size = int(side * config.patch_size if self.naflex else config.image_size)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, S, S) as (B, D), not normalised."""
        return self._project(self._pool(self.vision.encoder(inputs_embeds=self._embed(images))[0]))

    def embed_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed images and regions in one pass; see `Pooling`."""
        tokens = self._embed(images)
        regions = PatchRegions.of(boxes, self.patch, self.grid, tokens)
        length, most = tokens.shape[1], max(regions.counts)
        if not most:
            whole = self._project(self._pool(self.vision.encoder(inputs_embeds=tokens)[0]))
            return whole, whole[:0]
        if self.pooling == "token":
            more = torch.cat([tokens, tokens[:, :1].expand(-1, most, -1)], dim=1)
            mask = regions.token_mask(1)[:, None]
            mixed = self.vision.encoder(inputs_embeds=more, attention_mask=mask)[0]
            pooled = self.vision.post_layernorm(mixed[:, length:])
        else:
            mixed = self.vision.encoder(inputs_embeds=tokens)[0]
            pooled = self._ask_probe(self.vision.post_layernorm(mixed), regions)
        whole = self._project(self._pool(mixed[:, :length]))
        return whole, regions.flatten(self._project(pooled))

    def _embed(self, images: Tensor) -> Tensor:
        """Return the tokens before the first block."""
        tokens: Tensor
        if self.naflex:  # its patches are flattened, channels last, before they come in
            side = self.patch[0]
            patches = functional.unfold(images, side, stride=side).transpose(1, 2)
            split = patches.reshape(*patches.shape[:2], 3, side * side)
            flat = split.transpose(-1, -2).flatten(-2)
            shapes = torch.tensor([self.grid], device=images.device).expand(len(images), -1)
            tokens = self.vision.embeddings(flat, shapes)
        else:
            tokens = self.vision.embeddings(images)
        return self.vision.pre_layrnorm(tokens) if self.pooling == "token" else tokens

    def _pool(self, mixed: Tensor) -> Tensor:
        """Pool the image as transformers does."""
        if self.pooling == "token":
            pooled: Tensor = self.vision.post_layernorm(mixed[:, 0])
        else:
            pooled = self.vision.head(self.vision.post_layernorm(mixed))
        return pooled

    def _ask_probe(self, patches: Tensor, regions: PatchRegions) -> Tensor:
        head = self.vision.head
        read = attend_to_regions(head.attention, head.probe, patches, regions)
        pooled: Tensor = read + head.mlp(head.layernorm(read))
        return pooled

    def _project(self, pooled: Tensor) -> Tensor:
        projected: Tensor = self.projection(pooled)
        return projected
