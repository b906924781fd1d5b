"""Image towers of the sizes that are published, with random weights whose attention matters.

With plain random weights every token sees the mean of all, and what a region attends to is hidden;
so queries and keys are scaled up, and class tokens and probes are drawn anew. Times are those of
trained weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch import nn

from ravl_med.encoders.huggingface_tower import HuggingFaceTower

_SIDE = 224
_TEXT = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
         "num_attention_heads": 1}  # fmt: skip
_SHARP, _PLAIN = 0.07, 0.04  # standard deviations of weights


@dataclass(frozen=True, slots=True)
class Tower:
    """An image tower of a known family.

    Attributes
    ----------
    title : str - how tables call it
    build : callable - without arguments, to the tower
    target : float or None - most that an image with 16 regions may cost, in images alone
    """

    title: str
    build: Callable[[], nn.Module]
    target: float | None = None


def build_tower(name: str, seed: int) -> nn.Module:
    """Build a tower of `TOWERS` in evaluation mode.

    Parameters
    ----------
    name : str
    seed : int - of its weights
    """
    torch.manual_seed(seed)
    visual = TOWERS[name].build().eval()
    with torch.no_grad():
        for key, weight in visual.named_parameters():
            if key.endswith(("q_proj.weight", "k_proj.weight", "in_proj_weight", "qkv.weight")):
                weight.mul_(_SHARP / weight.std())
            elif key.endswith(("v_proj.weight", "out_proj.weight", "attn.proj.weight")):
                weight.mul_(max(_PLAIN / float(weight.std()), 1.0))
            elif key.endswith(("class_embedding", "cls_token", "probe", "latent")):
                weight.copy_(torch.randn_like(weight))
    if name == "RN50":
        _settle_norms(visual)
    lay_out: Any = visual.to  # its stubs do not know memory formats
    lay_out(memory_format=torch.channels_last)
    return visual


def _open_clip(name: str, **vision: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from open_clip.model import _build_vision_tower

        config = open_clip.get_model_config(name)
        tower: nn.Module = _build_vision_tower(
            config["embed_dim"], {**config["vision_cfg"], **vision}
        )
        return tower

    return build


def _timm(name: str, pool: str, projection: str, size: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from open_clip.timm_model import TimmModel

        tower: nn.Module = TimmModel(name, size, _SIDE, pool=pool, proj=projection)
        return tower

    return build


def _hugging_face(kind: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                  "num_attention_heads": 12, "patch_size": 16, "image_size": _SIDE}  # fmt: skip
        config: Any = transformers.CLIPConfig if kind == "clip" else transformers.SiglipConfig
        model: Any = transformers.CLIPModel if kind == "clip" else transformers.SiglipModel
        return HuggingFaceTower(model(config(vision_config=vision, text_config=_TEXT)))

    return build


def _settle_norms(visual: nn.Module) -> None:
    """Fill the statistics of the norms, and take away what all images share."""
    coarse = torch.randn(8, 3, 8, 8)
    images = nn.functional.interpolate(coarse, _SIDE, mode="bicubic")
    with torch.no_grad():
        for key, weight in visual.named_parameters():
            if key.endswith("bn3.weight"):
                weight.fill_(0.2)
        visual.train()
        visual(images)
        visual.eval()
        pool: Any = visual.attnpool
        pool.c_proj.bias -= visual(images).mean(dim=0)


TOWERS: dict[str, Tower] = {
    "RN50": Tower("CLIP RN50 (open_clip)", _open_clip("RN50"), 1.4),
    "ViT-B/16": Tower("CLIP ViT-B/16 (open_clip)", _open_clip("ViT-B-16"), 1.3),
    "ViT-B/16 average": Tower(
        "ViT-B/16, average of the patches (open_clip)", _open_clip("ViT-B-16", pool_type="avg")
    ),
    "CoCa ViT-B/32": Tower("CoCa ViT-B/32 (open_clip)", _open_clip("coca_ViT-B-32")),
    "BiomedCLIP": Tower(
        "ViT-B/16 of BiomedCLIP (timm)", _timm("vit_base_patch16_224", "", "linear", 512), 1.3
    ),
    "SigLIP timm": Tower(
        "SigLIP B/16 (timm)", _timm("vit_base_patch16_siglip_224", "map", "none", 768), 1.3
    ),
    "ConvNeXt-B": Tower("ConvNeXt-B (timm)", _timm("convnext_base", "", "linear", 512)),
    "CLIP Hugging Face": Tower("CLIP ViT-B/16 (Hugging Face)", _hugging_face("clip"), 1.3),
    "SigLIP Hugging Face": Tower("SigLIP B/16 (Hugging Face)", _hugging_face("siglip"), 1.3),
}
