"""A model's config is checked before anything is built from it: one line, and no memory taken."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from ravl_med.encoders import model_config
from ravl_med.encoders.open_clip import check_layout
from ravl_med.encoders.opening import open_model_folder
from ravl_med.errors import ModelError

CPU = torch.device("cpu")
OPEN_CLIP, CONFIG = "open_clip_config.json", "config.json"
IMAGES, TOKENS = "preprocessor_config.json", "tokenizer_config.json"


def changed(folder: Path, name: str, place: str, value: Any) -> None:
    """Set a value at a place such as ``model_cfg.embed_dim`` of a JSON file."""
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    *above, last = place.split(".")
    part = content
    for key in above:
        part = part.setdefault(key, {}) or part[key]
    part[last] = value
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("family", "name", "place", "value"),
    [
        ("open_clip_vit", OPEN_CLIP, "model_cfg.vision_cfg.layers", 10**6),
        ("open_clip_vit", OPEN_CLIP, "model_cfg.vision_cfg.layers", [10**5] * 4),
        ("open_clip_vit", OPEN_CLIP, "model_cfg.vision_cfg.layers", True),
        ("open_clip_vit", OPEN_CLIP, "model_cfg.vision_cfg.width", -1),
        ("open_clip_vit", OPEN_CLIP, "model_cfg.text_cfg.vocab_size", 1e3),
        ("open_clip_vit", OPEN_CLIP, "model_cfg.text_cfg.context_length", "77"),
        ("open_clip_vit", OPEN_CLIP, "model_cfg.text_cfg.tokenizer_kwargs", {"bpe_path": "x"}),
        ("open_clip_vit", OPEN_CLIP, "model_cfg.text_cfg.tokenizer_kwargs", 3),
        ("open_clip_vit", OPEN_CLIP, "model_cfg.text_cfg.tokenizer_kwargs", {"clean": "eval"}),
        ("open_clip_vit", OPEN_CLIP, "preprocess_cfg.mean", ["a", 0, 0]),
        ("open_clip_vit", OPEN_CLIP, "preprocess_cfg.std", [0.0, 1.0, 1.0]),
        ("open_clip_vit", OPEN_CLIP, "preprocess_cfg.std", [float("nan"), 1.0, 1.0]),
        ("open_clip_vit", OPEN_CLIP, "preprocess_cfg.interpolation", "lanczos"),
        ("open_clip_vit", OPEN_CLIP, "preprocess_cfg.resize_mode", 7),
        ("open_clip_vit", OPEN_CLIP, "preprocess_cfg.mode", "L"),
        ("hf_clip", CONFIG, "vision_config.num_hidden_layers", 10**7),
        ("hf_clip", CONFIG, "text_config.hidden_size", "64"),
        ("hf_clip", CONFIG, "text_config_dict.num_hidden_layers", 10**7),
        ("hf_clip", CONFIG, "projection_dim", None),
        ("hf_clip", IMAGES, "image_mean", "grey"),
        ("hf_clip", IMAGES, "image_std", [0, 0, 0]),
        ("hf_clip", IMAGES, "resample", 99),
        ("hf_clip", IMAGES, "rescale_factor", "x"),
        ("hf_clip", IMAGES, "size", {"height": 10**9, "width": 10**9}),
        ("hf_clip", IMAGES, "do_resize", "maybe"),
        ("hf_clip", TOKENS, "pad_token", 5),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line(
    family: str, name: str, place: str, value: Any, family_folder, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(family_folder(family), tmp_path / "model"))
    changed(folder, name, place, value)
    with pytest.raises(ModelError) as refused:
        open_model_folder(folder, CPU)
    line = str(refused.value)
    assert f": {name}: " in line
    assert ".".join(place.split(".")[-2:]) in line
    assert "\n" not in line


@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_architecture_of_open_clip_is_taken(name: str) -> None:
    check_layout({"model_cfg": open_clip.get_model_config(name)}, "model.architecture", name)


def test_a_text_tower_of_a_million_layers(family_folder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(family_folder("biomedclip"), tmp_path / "model"))
    tower = next(path for path in folder.rglob("config.json"))
    changed(tower.parent, CONFIG, "num_hidden_layers", 10**6)
    with pytest.raises(ModelError, match=r"num_hidden_layers is 1000000; expected at most 512"):
        open_model_folder(folder, CPU)


@pytest.mark.parametrize("family", ["open_clip_vit", "hf_clip", "timm_vit", "biomedclip"])
def test_a_model_that_memory_does_not_hold_is_not_built(
    family: str, family_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_config, "machine_memory", lambda: 1000)
    with pytest.raises(ModelError, match=r"describes [\d,]+ parameters, which take 0\.\d GB"):
        open_model_folder(family_folder(family), CPU)


@pytest.mark.parametrize("counted", [True, False])
def test_a_text_tower_beside_one_of_timm_is_counted(
    counted: bool, family_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(family_folder("biomedclip"), tmp_path / "model"))
    tower = next(path for path in folder.rglob("config.json"))
    changed(tower.parent, CONFIG, "vocab_size", 2**32)
    if not counted:  # a tower of timm that asks for values while it is built

        def create(*given: Any, **options: Any) -> Any:
            return torch.zeros(1).item()

        monkeypatch.setattr("open_clip.timm_model.timm.create_model", create)
    with pytest.raises(ModelError, match=r"describes [\d,]{12,} parameters"):
        open_model_folder(folder, CPU)


@pytest.mark.timeout(60)
def test_a_config_that_is_a_pipe_or_deep_is_said(family_folder, tmp_path: Path) -> None:

    folder = Path(shutil.copytree(family_folder("hf_clip"), tmp_path / "model"))
    (folder / IMAGES).write_bytes(b"[" * 100_000)
    with pytest.raises(ModelError, match=r"preprocessor_config\.json cannot be read"):
        open_model_folder(folder, CPU)
    (folder / IMAGES).unlink()
    (folder / CONFIG).unlink()
    os.mkfifo(folder / CONFIG)
    with pytest.raises(ModelError):
        open_model_folder(folder, CPU)
