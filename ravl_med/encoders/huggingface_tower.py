"""The image tower of a Hugging Face CLIP, SigLIP or SigLIP 2, with its regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.encoders.patch_regions import PatchRegions, attend_to_regions

__all__ = ["HuggingFaceTower"]


class HuggingFaceTower(nn.Module):
    """Image tower and projection, (B, 3, S, S) to (B, D).

    Parameters
    ----------
    model : nn.Module - a CLIPModel, SiglipModel or Siglip2Model of transformers
    """

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
        """Embed images (B, 3, S, S) and regions in one pass.

        Parameters
        ----------
        images : Tensor of shape (B, 3, S, S)
        boxes : sequence of B tensors of shape (r_i, 4) - xyxy in input pixels

        Returns
        -------
        images : Tensor of shape (B, D), not normalised
        regions : Tensor of shape (sum of r_i, D), not normalised
        """
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
