"""Model folders: opened like open_clip opens them, offline, and never half."""

import json
import pickle
import shutil
import socket
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from ravl_med.encoders.open_clip import open_model, save_model
from ravl_med.errors import ModelError

CPU = torch.device("cpu")
TEXTS = ["a frontal chest radiograph", "cardiomegaly", "no finding"]


@pytest.fixture
def broken(folder_of, tmp_path) -> Path:
    """A copy of a good folder, to be broken."""
    return Path(shutil.copytree(folder_of("vit_1_layer"), tmp_path / "patient-1234"))


def edit_config(folder: Path, change) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")


def replace_weights(folder: Path, name: str, content: bytes) -> Path:
    (folder / "open_clip_model.safetensors").unlink()
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("tower", ["resnet", "vit", "vit_avg"])
def test_a_saved_folder_opens_here_and_in_open_clip_alike(tower, folder_of, film_of, monkeypatch):
    def no_network(*arguments, **keywords):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "create_connection", no_network)
    folder = folder_of(tower)
    encoder = open_model(folder, CPU)
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    film = film_of(0, 90, 130)

    inputs = encoder.preprocess(film.pixels)
    gray = Image.fromarray(np.rint(film.pixels * 255).astype(np.uint8))

    assert torch.equal(inputs, transform(gray))
    with torch.inference_mode():
        image = model.encode_image(inputs[None], normalize=True)
        text = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(encoder.encode_image(inputs[None]), image)
    torch.testing.assert_close(encoder.encode_text(TEXTS), text)
    whole, regions = encoder.encode_regions(inputs[None], [torch.tensor([[0.0, 0.0, 64.0, 64.0]])])
    assert torch.nn.functional.cosine_similarity(whole, image).item() >= 0.999
    assert torch.nn.functional.cosine_similarity(regions, image).item() >= 0.999
    assert regions.norm(dim=-1).item() == pytest.approx(1, abs=1e-5)


def test_what_is_saved_is_what_was_in_memory(layout_of, model_of, tmp_path):
    layout = layout_of("vit_1_layer")
    model = model_of(layout)
    save_model(model, layout, tmp_path / "model")

    state = open_model(tmp_path / "model", CPU).model.state_dict()

    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_the_info_is_that_of_config_and_weights(encoder_of):
    encoder = encoder_of("resnet")
    info = encoder.info

    assert (info.image_size, info.resize_mode, info.embedding_size) == (64, "squash", 128)
    assert (info.mean, info.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert "ModifiedResNet" in info.architecture
    assert info.parameters == sum(p.numel() for p in encoder.model.parameters())
    assert not encoder.model.training
    assert encoder.geometry(100, 300).to_input(
        np.array([[150, 50, 300, 100]], dtype=np.float32)
    ).tolist() == [[32, 32, 64, 64]]


def test_the_digest_follows_weights_and_config(folder_of, broken):
    same = open_model(broken, CPU).info.digest
    edit_config(broken, lambda config: config["preprocess_cfg"].update(resize_mode="longest"))
    other = open_model(broken, CPU)

    assert same == open_model(folder_of("vit_1_layer"), CPU).info.digest
    assert other.info.digest != same
    assert other.info.resize_mode == "longest"


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(ModelError, match=r"^model.path: no such folder"):
        open_model(tmp_path / "nowhere", CPU)


def test_a_missing_config_is_said(broken):
    (broken / "open_clip_config.json").unlink()

    with pytest.raises(ModelError, match=r"the folder has no open_clip_config\.json"):
        open_model(broken, CPU)


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"{}", b'{"model_cfg": "x"}', b"\xff\xfe", b'{"model_cfg": {}}']
)
def test_a_config_that_is_not_one_is_said(content, broken):
    (broken / "open_clip_config.json").write_bytes(content)

    with pytest.raises(ModelError, match=r"open_clip_config.json is not a config of open_clip"):
        open_model(broken, CPU)


def test_a_config_with_values_of_wrong_type_is_said(broken):
    edit_config(broken, lambda config: config["model_cfg"].update(embed_dim="128"))

    with pytest.raises(ModelError, match="model_cfg holds values of wrong type"):
        open_model(broken, CPU)


def test_a_random_model_is_refused(broken):
    (broken / "open_clip_model.safetensors").unlink()

    with pytest.raises(ModelError, match=r"no weights in the folder.* the model would be random"):
        open_model(broken, CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pth"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_garbage_weights_are_refused_without_naming_the_path(name, content, broken):
    replace_weights(broken, name, content)

    with pytest.raises(ModelError, match="the weights do not open as the model") as caught:
        open_model(broken, CPU)
    assert "patient-1234" not in str(caught.value)


class Payload:
    """Unpickles by writing a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(legacy, broken, tmp_path):
    target = tmp_path / "ran"
    replace_weights(broken, "open_clip_pytorch_model.bin", b"")
    path = broken / "open_clip_pytorch_model.bin"
    if legacy:
        path.write_bytes(pickle.dumps({"weight": Payload(target)}))
    else:
        torch.save({"weight": Payload(target)}, path)

    with pytest.raises(ModelError, match="a state dict that loads with weights_only"):
        open_model(broken, CPU)
    assert not target.exists()
    torch.load(path, weights_only=False) if not legacy else pickle.loads(path.read_bytes())
    assert target.exists()  # the payload is a live one


def test_weights_of_another_architecture_are_refused(broken, folder_of):
    other = (folder_of("resnet") / "open_clip_model.safetensors").read_bytes()
    (broken / "open_clip_model.safetensors").write_bytes(other)

    with pytest.raises(ModelError, match="the weights do not open as the model"):
        open_model(broken, CPU)


def test_a_config_of_other_size_than_the_weights_is_refused(broken):
    edit_config(broken, lambda config: config["model_cfg"]["vision_cfg"].update(layers=2))

    with pytest.raises(ModelError, match="the weights do not open as the model"):
        open_model(broken, CPU)


def test_a_hugging_face_text_tower_that_is_not_there_is_refused(broken):
    edit_config(
        broken, lambda config: config["model_cfg"]["text_cfg"].update(hf_model_name="some/bert")
    )

    with pytest.raises(ModelError, match=r"text tower 'some/bert' .* not in the folder"):
        open_model(broken, CPU)


def test_an_image_tower_that_would_be_fetched_is_refused(broken):
    edit_config(
        broken,
        lambda config: config["model_cfg"]["vision_cfg"].update(timm_model_name="hf-hub:some/vit"),
    )

    with pytest.raises(
        ModelError, match=r"image tower 'hf-hub:some/vit' is one that timm would fetch"
    ):
        open_model(broken, CPU)


def test_an_input_that_is_not_square_is_refused(layout_of, model_of, tmp_path):
    layout = layout_of("vit_1_layer")
    layout["model_cfg"]["vision_cfg"]["image_size"] = [64, 32]
    model = open_clip.CLIP(**layout["model_cfg"])
    save_model(model, layout, tmp_path / "model")

    with pytest.raises(ModelError, match=r"input is 64 x 32 pixels; expected a square"):
        open_model(tmp_path / "model", CPU)
