"""Raw checkpoints in the manner of CheXzero and CXR-CLIP: the config says what they are."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import (
    CXR_CLIP_KEYS,
    CxrClip,
    build,
    cxr_clip_layout,
    layout_of,
    scale_attention,
)
from torch import nn
from torch.nn import functional

from ravl_med.config.model import ModelConfig
from ravl_med.encoders.local_files import read_weights
from ravl_med.encoders.opening import (
    open_checkpoint,
    open_encoder,
    open_model_folder,
    rename_weights,
)
from ravl_med.errors import ModelError

CPU = torch.device("cpu")
TEXTS = ["cardiomegaly", "no cardiomegaly"]
PREPROCESS = {"mean": (0.398,) * 3, "std": (0.327,) * 3, "resize_mode": "longest"}


@pytest.fixture(scope="module")
def vit(family_folder) -> tuple[Path, dict[str, torch.Tensor]]:
    """Folder and state dict of a tiny ViT under the names of OpenAI's CLIP."""
    folder = family_folder("open_clip_vit")
    return folder, load_file(folder / "open_clip_model.safetensors")


@pytest.fixture
def layout(tmp_path) -> Path:
    path = tmp_path / "layout.json"
    path.write_text(json.dumps(layout_of("open_clip_vit")["model_cfg"]), encoding="utf-8")
    return path


def save(state: dict[str, Any], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def opened(weights: Path, layout: Path, **more: Any):
    config = ModelConfig(weights=weights, layout=layout, **{"preprocess": PREPROCESS, **more})
    return open_encoder(config, None, CPU)


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("best.pt", lambda state: state),
        ("best.safetensors", lambda state: state),
        ("best.tar", lambda state: {"model": state, "epoch": 7, "config": {"lr": 1e-4}}),
        ("best.pth", lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}}),
        ("best.pt", lambda state: {k: v.half() for k, v in state.items()}),
    ],
)
def test_a_state_dict_opens_however_it_lies(name, wrap, vit, layout, tmp_path, film_of):
    folder, state = vit
    wanted = open_model_folder(folder, CPU)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    encoder = opened(save(wrap(state), tmp_path / name), layout)

    precision = {"rtol": 1e-2, "atol": 1e-2} if state is not wrap(state) else {}
    torch.testing.assert_close(
        encoder.encode_image(images), wanted.encode_image(images), **precision
    )
    torch.testing.assert_close(encoder.encode_text(TEXTS), wanted.encode_text(TEXTS), **precision)
    assert encoder.info.resize_mode == "longest"
    assert encoder.info.mean == pytest.approx((0.398,) * 3)
    inputs = encoder.preprocess(np.ones((50, 100), np.float32))
    assert inputs[:, 32].min() == pytest.approx((1 - 0.398) / 0.327, abs=1e-4)
    assert inputs[:, 0].max() == pytest.approx(-0.398 / 0.327, abs=1e-4)  # padded with black


def test_quick_gelu_is_another_activation(vit, layout, tmp_path):
    weights = save(vit[1], tmp_path / "best.pt")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain, quick = (opened(weights, layout, quick_gelu=quick) for quick in (False, True))

    assert plain.info.digest != quick.info.digest
    assert not torch.allclose(plain.encode_image(images), quick.encode_image(images), atol=1e-6)
    kinds = {type(m).__name__ for m in quick.model.modules()}
    assert "QuickGELU" in kinds


def test_a_checkpoint_is_saved_as_a_folder_that_opens(vit, layout, tmp_path):
    encoder = opened(save(vit[1], tmp_path / "best.pt"), layout, quick_gelu=True)

    encoder.save(tmp_path / "folder")

    again = open_model_folder(tmp_path / "folder", CPU)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.encode_image(images), encoder.encode_image(images))
    assert (again.info.mean, again.info.resize_mode) == (encoder.info.mean, "longest")


def test_keys_strip_rename_and_drop(vit, layout, tmp_path):
    state = {f"clip.tower.{k}": v for k, v in vit[1].items()}
    state |= {"clip.tower.visual.extra.weight": torch.ones(2), "loss.scale": torch.ones(1)}
    keys = {"clip.tower.": "", "clip.tower.visual.extra.": None, "loss.": None}

    encoder = opened(save(state, tmp_path / "best.pt"), layout, keys=keys)

    assert encoder.state_dict().keys() == vit[1].keys()


def test_renaming_by_hand():
    state = {name: torch.ones(1) for name in ("a.b.c", "a.d", "e")}

    assert list(rename_weights(state, {"a.": "x.", "a.b.": None})) == ["x.d", "e"]
    with pytest.raises(ModelError, match="no weight begins with 'q'; the names begin with a, e"):
        rename_weights(state, {"q": None})
    with pytest.raises(ModelError, match="two weights would be called 'e'"):
        rename_weights(state, {"a.d": "e"})


def test_a_named_architecture_opens_and_a_wrong_one_names_the_right(tmp_path):
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt")
    weights = save(dict(model.state_dict()), tmp_path / "best.pt")
    images = torch.randn(1, 3, 224, 224)

    encoder = open_checkpoint(ModelConfig(weights=weights, architecture="ViT-S-32-alt"), CPU)
    with torch.inference_mode():
        wanted = model.eval().encode_image(images, normalize=True)

    torch.testing.assert_close(encoder.encode_image(images), wanted)
    with pytest.raises(
        ModelError,
        match=r"the architecture 'ViT-M-32-alt' describes: .* have another shape .* it fits the "
        r"architecture 'ViT-S-32-alt'\.$",
    ):
        open_checkpoint(ModelConfig(weights=weights, architecture="ViT-M-32-alt"), CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("visual.proj"), r"1 weights are missing \(visual.proj\)"),
        (
            lambda s: s.update({"visual.head.weight": torch.ones(2)}),
            r"1 are not expected \(visual.head.weight\).* the nearest architecture is 'ViT-",
        ),
        (
            lambda s: s.update({"visual.proj": torch.ones(64, 16)}),
            r"1 have another shape \(visual.proj 64 x 16 instead of 64 x 32\)",
        ),
        (
            lambda s: s.update({"visual.positional_embedding": torch.ones(50, 64)}),
            r"visual.positional_embedding 50 x 64 instead of 17 x 64",  # never interpolated
        ),
        (
            lambda s: [s.update({f"clip.{k}": s.pop(k)}) for k in list(s)],
            r"its names begin with 'clip\.': map it with model\.keys",
        ),
        (
            lambda s: (
                [s.pop(k) for k in list(s)]
                and s.update({"vision_model.encoder.layers.0.mlp.fc1.bias": torch.ones(1)})
            ),
            "looks like a Hugging Face CLIP or SigLIP: lay it beside its config.json",
        ),
        (
            lambda s: s.update({"visual.proj": torch.full((64, 32), float("nan"))}),
            "hold NaN or infinity",
        ),
    ],
)
def test_weights_that_do_not_fit_are_told_apart(change, message, vit, layout, tmp_path):
    state = dict(vit[1])
    change(state)

    with pytest.raises(ModelError, match=message) as caught:
        opened(save(state, tmp_path / "patient-1.pt"), layout)
    assert "patient-1" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


class Payload:
    """Unpickles by writing a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_with_code_is_refused_in_one_line(legacy, layout, tmp_path):
    target, path = tmp_path / "ran", tmp_path / "best.pt"
    if legacy:
        path.write_bytes(pickle.dumps({"model": Payload(target)}))
    else:
        torch.save({"model": Payload(target)}, path)

    with pytest.raises(ModelError, match="a pickle that would have to run code") as caught:
        opened(path, layout)
    assert not target.exists()
    assert len(str(caught.value).splitlines()) == 1


def test_a_torchscript_program_is_refused(layout, tmp_path):
    path = tmp_path / "best.pt"
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit"):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)

    with pytest.raises(ModelError, match="the file is a TorchScript program; expected a state"):
        opened(path, layout)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file cannot be read"),
        (b"garbage" * 50, "the file cannot be read|a pickle that would"),
    ],
)
@pytest.mark.parametrize("name", ["best.pt", "best.safetensors"])
def test_garbage_is_refused(content, message, name, layout, tmp_path):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ModelError, match=message):
        opened(tmp_path / name, layout)


def test_a_file_without_tensors_and_no_file(layout, tmp_path):
    with pytest.raises(ModelError, match="the file holds no named tensors"):
        opened(save({"epoch": 3, "model": {}}, tmp_path / "best.pt"), layout)
    with pytest.raises(ModelError, match=r"model\.weights: no such file"):
        read_weights(tmp_path / "none.pt", "model.weights")


def test_what_the_config_cannot_say(vit, layout, tmp_path):
    weights = save(vit[1], tmp_path / "best.pt")
    for name, message in {
        "ViT-B32": r"open_clip has no 'ViT-B32'. Did you mean 'ViT-B-32'\?",
        "hf-hub:some/model": "open_clip has no 'hf-hub:some/model'",
    }.items():
        with pytest.raises(ModelError, match=message):
            open_checkpoint(ModelConfig(weights=weights, architecture=name), CPU)
    with pytest.raises(
        ModelError, match=r"size: 70 pixels do not divide into patches of 16; .* such as 64"
    ):
        opened(weights, layout, preprocess={"size": 70})
    with pytest.raises(ModelError, match="positional_embedding 17 x 64 instead of 37 x 64"):
        opened(weights, layout, preprocess={"size": 96})
    layout.write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"model\.layout: the file is not a config of open_clip"):
        opened(weights, layout)
    layout.write_text("[1]", encoding="utf-8")
    with pytest.raises(ModelError, match=r"layout\.json holds a list; expected a JSON object"):
        opened(weights, layout)


@pytest.mark.usefixtures("no_sockets")
def test_cxr_clips_layout_is_described_by_a_file_and_a_mapping(family_folder, tmp_path):
    tower = build("biomedclip", tmp_path / "bert")
    torch.manual_seed(3)
    bert = transformers.BertConfig.from_pretrained(tower)
    model = CxrClip(bert, "test_resnet", 24).eval()
    with torch.no_grad():
        for name, parameter in model.text_encoder.named_parameters():
            if ".attention." in name and name.endswith("weight") and "LayerNorm" not in name:
                parameter.mul_(8.0)
    scale_attention(model.image_encoder)
    weights = save(
        {"model": dict(model.state_dict()), "epoch": 3, "config": {"base": {"seed": 1}}},
        tmp_path / "r50_m.tar",
    )
    description = tmp_path / "cxr_clip.json"
    layout = cxr_clip_layout("test_resnet", 64, 24, 16)
    description.write_text(json.dumps(layout), encoding="utf-8")
    config = ModelConfig(
        weights=weights,
        layout=description,
        text_tower=tower,
        preprocess={"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        keys=CXR_CLIP_KEYS,
    )
    images = torch.randn(3, 3, 64, 64)
    tokens = transformers.BertTokenizer.from_pretrained(tower)(
        TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    with torch.inference_mode():
        image = functional.normalize(model.encode_image(images), dim=-1)
        text = functional.normalize(model.encode_text(tokens), dim=-1)

    encoder = open_checkpoint(config, CPU)

    torch.testing.assert_close(encoder.encode_image(images), image, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(encoder.encode_text(TEXTS), text, rtol=1e-3, atol=1e-4)
    assert "RoIAlign" in encoder.info.region_pooling
    encoder.save(tmp_path / "saved")
    again = open_model_folder(tmp_path / "saved", CPU)
    torch.testing.assert_close(again.encode_text(TEXTS), encoder.encode_text(TEXTS))

    with pytest.raises(ModelError, match=r"model\.text_tower: the text tower .* is a Hugging Face"):
        open_checkpoint(config.model_copy(update={"text_tower": None}), CPU)
    with pytest.raises(ModelError, match=r"model\.text_tower: no such folder"):
        open_checkpoint(config.model_copy(update={"text_tower": tmp_path / "none"}), CPU)
