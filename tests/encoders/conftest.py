"""Tiny CLIP models with random weights, made once and saved as folders."""

import copy
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from tiny_models import build
from torch import nn
from torch.nn import functional

from ravl_med.cohort.film import Film
from ravl_med.config.model import QuickstartModelConfig
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.open_clip import OpenClipEncoder, open_model, save_model
from ravl_med.encoders.opening import open_model_folder
from ravl_med.mitigation.quickstart import quickstart_layout

SIZE = 64


def small_layout(tower: str) -> dict[str, Any]:
    kind = "resnet" if tower == "resnet" else "vit"
    layout = quickstart_layout(QuickstartModelConfig(tower=kind, image_size=SIZE))
    layout["model_cfg"]["text_cfg"] |= {"width": 32, "layers": 1}
    if tower == "vit_1_layer":
        layout["model_cfg"]["vision_cfg"]["layers"] = 1
    if tower == "vit_avg":
        layout["model_cfg"]["vision_cfg"]["pool_type"] = "avg"
    return layout


def random_model(layout: dict[str, Any], seed: int = 0) -> nn.Module:
    """A CLIP whose attention and residual branches matter, which plain random weights hide."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**copy.deepcopy(layout["model_cfg"]))
    with torch.no_grad():
        for name, parameter in model.visual.named_parameters():
            if name.endswith("attn.in_proj_weight"):
                parameter.mul_(5.0)
            elif name.endswith("class_embedding"):
                parameter.mul_(20.0)
            elif name.endswith("bn3.weight"):
                parameter.fill_(1.0)
            elif name.endswith(("attnpool.q_proj.weight", "attnpool.k_proj.weight")):
                parameter.mul_(3.0)
        model.train()
        noise = functional.interpolate(torch.randn(80, 3, 8, 8), SIZE, mode="bicubic")
        for part in noise.split(8):  # statistics of batch norm
            model.visual(part)
        model.eval()
        if hasattr(model.visual, "attnpool"):  # what all images share says nothing
            model.visual.attnpool.c_proj.bias -= model.visual(noise[:16]).mean(dim=0)
    return model


@pytest.fixture(scope="session")
def layout_of() -> Callable[[str], dict[str, Any]]:
    return small_layout


@pytest.fixture(scope="session")
def model_of() -> Callable[[dict[str, Any]], nn.Module]:
    return random_model


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(tower: str) -> Path:
        if tower not in made:
            made[tower] = tmp_path_factory.mktemp(tower) / "model"
            layout = small_layout(tower)
            save_model(random_model(layout), layout, made[tower])
        return made[tower]

    return folder


@pytest.fixture(scope="session")
def encoder_of(folder_of: Callable[[str], Path]) -> Callable[[str], OpenClipEncoder]:
    opened: dict[str, OpenClipEncoder] = {}

    def encoder(tower: str) -> OpenClipEncoder:
        if tower not in opened:
            opened[tower] = open_model(folder_of(tower), torch.device("cpu"))
        return opened[tower]

    return encoder


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model of a family, built once."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = build(family, tmp_path_factory.mktemp(family) / "model")
        return made[family]

    return folder


@pytest.fixture(scope="session")
def family_encoder(family_folder: Callable[[str], Path]) -> Callable[[str], Encoder]:
    opened: dict[str, Encoder] = {}

    def encoder(family: str) -> Encoder:
        if family not in opened:
            opened[family] = open_model_folder(family_folder(family), torch.device("cpu"))
        return opened[family]

    return encoder


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid every socket."""

    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.fixture(scope="session")
def film_of() -> Callable[[int, int, int], Film]:
    def film(index: int, height: int, width: int) -> Film:
        rng = np.random.default_rng(index)
        coarse = np.kron(rng.random((8, 8)), np.ones((height // 8 + 1, width // 8 + 1)))
        pixels = np.clip(coarse[:height, :width] + 0.1 * rng.random((height, width)), 0, 1)
        return Film(index, pixels.astype(np.float32), f"digest {index}", "as stored")

    return film
