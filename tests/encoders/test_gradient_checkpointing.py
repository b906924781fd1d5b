"""Gradient checkpointing of every kind of tower: the same gradients, and less is kept for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.timm_model import TimmModel
from tiny_models import FAMILIES, SIZE, scale_attention
from torch import Tensor, nn

from ravl_med.encoders.base import Encoder
from ravl_med.encoders.gradient_checkpointing import checkpoint_gradients, require_checkpointing
from ravl_med.encoders.open_clip import open_model
from ravl_med.errors import ModelError
from ravl_med.mitigation.arms import ImageTower

CPU = torch.device("cpu")
Learned = tuple[float, dict[str, Tensor], int]


def timm_resnet(name: str = "test_resnet") -> nn.Module:
    """A tower of timm with BatchNorm, as CXR-CLIP has one."""
    torch.manual_seed(0)
    visual = {"image_size": SIZE, "timm_model_name": name, "timm_pool": "avg",
              "timm_proj": "linear", "timm_model_pretrained": False}  # fmt: skip
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model: nn.Module = open_clip.CLIP(embed_dim=32, vision_cfg=visual, text_cfg=text)
    scale_attention(model.visual)
    return model


def learn(tower: ImageTower, side: int, *, regions: bool = True) -> Learned:
    """Loss and gradients of three images with two, no and one region, and what is kept for them."""
    tower.train()
    for part in tower.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    boxes = [
        torch.tensor([[0.0, 0.0, side / 2, side / 2], [side / 4, side / 4, side, side]]),
        torch.empty(0, 4),
        torch.tensor([[0.0, 0.0, side, side]]),
    ]
    kept = [0]

    def keep(value: Tensor) -> Tensor:
        kept[0] += value.numel()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        whole, parts, scale = tower(images, boxes if regions else None)
        loss = (whole**3).sum() + scale
        if parts is not None:
            loss = loss + (parts**3).sum()
    loss.backward()
    gradients = {n: p.grad for n, p in tower.named_parameters() if p.grad is not None}
    assert gradients["visual." + next(iter(dict(tower.visual.named_parameters())))].any()
    return float(loss.detach()), gradients, kept[0]


def compare(tower: Callable[[], ImageTower], side: int, *, regions: bool = True) -> None:
    plain = learn(tower(), side, regions=regions)
    switched = tower()
    names = list(switched.state_dict())
    require_checkpointing(switched.visual)
    checkpoint_gradients(switched.visual)
    again = learn(switched, side, regions=regions)
    assert list(switched.state_dict()) == names
    assert again[0] == pytest.approx(plain[0], rel=1e-6)
    assert again[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        torch.testing.assert_close(again[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert again[2] < 0.8 * plain[2]


@pytest.fixture
def tower_of(family_encoder: Callable[[str], Encoder]) -> Callable[..., ImageTower]:
    """A tower of a family, another one at each call."""

    def tower(family: str, how: Any = "one_pass") -> ImageTower:
        return ImageTower(copy.deepcopy(family_encoder(family).model), how)

    return tower


@pytest.mark.parametrize("family", FAMILIES)
def test_images_and_regions_give_the_same_gradients(
    family: str, tower_of: Callable[..., ImageTower], family_encoder: Callable[[str], Encoder]
) -> None:
    compare(lambda: tower_of(family), family_encoder(family).info.image_size)


@pytest.mark.parametrize(
    ("family", "how"),
    [
        ("open_clip_resnet", "last_stage"),
        ("convnext", "last_stage"),
        ("open_clip_resnet", "crops"),
        ("timm_vit", "crops"),
        ("hf_clip", "crops"),
    ],
)
def test_other_ways_of_embedding_regions(
    family: str, how: str, tower_of: Callable[..., ImageTower]
) -> None:
    compare(lambda: tower_of(family, how), 160 if family == "timm_vit" else SIZE)


@pytest.mark.parametrize("how", ["one_pass", "last_stage"])
def test_a_resnet_of_timm(how: Any) -> None:
    compare(lambda: ImageTower(timm_resnet().eval(), how), SIZE)


@pytest.mark.parametrize("family", ["open_clip_vit", "hf_siglip"])
def test_images_alone(family: str, tower_of: Callable[..., ImageTower]) -> None:
    compare(lambda: tower_of(family), SIZE, regions=False)


def test_a_switched_model_is_saved_and_asked_as_before(
    family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    encoder = open_model(family_folder("open_clip_resnet"), CPU)
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    boxes = [torch.tensor([[0.0, 0.0, 32.0, 32.0]])] * 2
    before = encoder.encode_regions(images, boxes)
    checkpoint_gradients(encoder.model.visual)
    encoder.save(tmp_path / "model")
    for one in (encoder, open_model(tmp_path / "model", CPU)):
        for wanted, got in zip(before, one.encode_regions(images, boxes), strict=True):
            torch.testing.assert_close(got, wanted)


def test_to_ask_whether_it_can_leaves_a_tower_as_it_is() -> None:
    model: Any = timm_resnet()
    require_checkpointing(model.visual)
    assert not model.visual.trunk.grad_checkpointing
    checkpoint_gradients(model.visual)
    assert model.visual.trunk.grad_checkpointing


def test_a_tower_without_a_switch_is_named() -> None:
    visual = TimmModel("pit_ti_224", embed_dim=8, image_size=224, pool="", proj="linear",
                       pretrained=False)  # fmt: skip
    for ask in (require_checkpointing, checkpoint_gradients):
        with pytest.raises(
            ModelError,
            match=r"mitigation\.gradient_checkpointing: the image tower PoolingVisionTransformer "
            r"has no switch for it; expected .* Set it to false",
        ):
            ask(visual)
        with pytest.raises(ModelError, match="the image tower Linear has no switch"):
            ask(nn.Linear(2, 2))
