"""A model of the user's own finds on a film what its folder says it finds."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets.unet import UNet
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from ravl_med.config.cohort import RegionsConfig
from ravl_med.errors import ConfigError, ModelError
from ravl_med.regions.anatomy import find_anatomy
from ravl_med.regions.custom_segmenter import (
    FolderSegmenter,
    _forward,
    open_segmenter,
    structure_of,
)
from ravl_med.regions.geometry import InputGeometry
from ravl_med.regions.proposal import choose_segmenter
from ravl_med.regions.segmenter import SIDE, STRUCTURES, Segmentation, Segmenter

CPU = torch.device("cpu")
SHADES = (0.0, 0.3, 0.6, 0.9)  # of nothing, right lung, left lung, heart
PSPNET = (
    "Left Clavicle", "Right Clavicle", "Left Scapula", "Right Scapula", "Left Lung", "Right Lung",
    "Left Hilus Pulmonis", "Right Hilus Pulmonis", "Heart", "Aorta", "Facies Diaphragmatica",
    "Mediastinum", "Weasand", "Spine",
)  # fmt: skip


class Shades(nn.Module):
    """Gives a channel a shade, with logits of +9 on it and at most -11 elsewhere."""

    def __init__(self, shades: tuple[float, ...], kind: str = "logits") -> None:
        super().__init__()
        self.register_buffer("shades", torch.tensor(shades).reshape(1, -1, 1, 1))
        self.kind = kind

    def forward(self, films: Tensor) -> Tensor:
        span = self.shades.max() - self.shades.min()
        logits = 100.0 * (0.09 - (films.mean(1, keepdim=True) - self.shades).abs() / span * 0.9)
        if self.kind == "sigmoid":
            return logits.sigmoid()
        if self.kind == "softmax":
            return logits.softmax(1)
        if self.kind == "blank":  # not a number where a film has one grey
            return logits * (films.std() / films.std())
        return logits


class FirstHalf(nn.Module):
    """Marks the first half of the first axis, of inputs of one shape alone."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.first, self.second = shape

    def forward(self, films: Tensor) -> Tensor:
        if films.shape[2] != self.first or films.shape[3] != self.second:
            raise ValueError("another shape")
        marked = torch.zeros_like(films[:, :1])
        marked[:, :, : self.first // 2] = 1.0
        return marked


class Odd(nn.Module):
    """Answers in a way that is no map."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, films: Tensor) -> Tensor:
        if self.kind == "classes":
            return films.mean((2, 3)).repeat(1, 2)
        if self.kind == "nan":
            return (films / 0.0).repeat(1, 2, 1, 1)
        return films[:, :1].repeat(1, 2, 1, 1)


class Pair(nn.Module):
    def forward(self, films: Tensor) -> tuple[Tensor, Tensor]:
        return films, films


def save(network: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is")
        torch.jit.save(torch.jit.script(network), str(path))


def write_folder(
    folder: Path, network: nn.Module | dict[str, Any] | None = None, **keys: Any
) -> Path:
    """Write a folder of our own format; a key that is ... is left out."""
    described: dict[str, Any] = {
        "weights": "model.ts",
        "size": 64,
        "activation": "sigmoid",
        "structures": [None, "right lung", "left lung", "heart"],
    }
    described |= keys
    if isinstance(network, dict):
        described["network"] = network
    lines = [f"{k}: {json.dumps(v)}" for k, v in described.items() if v is not ...]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "segmenter.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if isinstance(network, nn.Module):
        save(network, folder / "model.ts")
    return folder


def metadata(
    names: Mapping[str, str], image: Mapping[str, Any] | None = None, **pred: Any
) -> dict[str, Any]:
    inputs = {"num_channels": 1, "spatial_shape": [64, 64], "value_range": [0, 1]}
    outputs = {"format": "segmentation", "num_channels": len(names), "channel_def": dict(names)}
    return {
        "version": "0.1.0",
        "network_data_format": {
            "inputs": {"image": {**inputs, **(image or {})}},
            "outputs": {"pred": {**outputs, **pred}},
        },
    }


CHANNELS = {"0": "background", "1": "right_lung", "2": "left_lung", "3": "heart"}


def write_bundle(folder: Path, network: nn.Module | None, described: Any = None) -> Path:
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    text = json.dumps(metadata(CHANNELS) if described is None else described)
    (folder / "configs" / "metadata.json").write_text(text, encoding="utf-8")
    if network is not None:
        save(network, folder / "models" / "model.ts")
    return folder


def film(height: int = 120, width: int = 200) -> NDArray[np.float32]:
    """Two lungs with a heart between them, in the shades that the networks know."""
    pixels = np.zeros((height, width), np.float32)
    rows = slice(height // 6, 5 * height // 6)
    pixels[rows, width // 10 : 4 * width // 10] = SHADES[1]
    pixels[rows, 6 * width // 10 : 9 * width // 10] = SHADES[2]
    pixels[height // 2 : 5 * height // 6, 4 * width // 10 : 6 * width // 10] = SHADES[3]
    return pixels


def stored_mask(found: Segmentation, name: str) -> NDArray[np.bool_]:
    """Where a structure lies, in pixels of the film."""
    height, width = film().shape
    return InputGeometry.of(height, width, SIDE, "squash").mask_to_stored(found.mask(name))


def assert_found(segmenter: Segmenter) -> None:
    """The film's structures are where they are, in its own pixels."""
    pixels = film()
    found = segmenter.segment(pixels)
    assert segmenter.structures == ("right lung", "left lung", "heart")
    assert set(found.likelihoods) == set(segmenter.structures)
    for likely in found.likelihoods.values():
        assert likely.shape == (SIDE, SIDE)
        assert likely.dtype == np.float32
        assert np.isfinite(likely).all()
        assert likely.min() >= 0.0
        assert likely.max() <= 1.0
    for name, shade in zip(segmenter.structures, SHADES[1:], strict=True):
        mask, truth = stored_mask(found, name), pixels == np.float32(shade)
        assert (mask & truth).sum() / (mask | truth).sum() > 0.75, name  # mixed shades at edges


def assert_refused(
    folder: Path, kind: type[Exception], match: str, allow_code: bool = True
) -> None:
    with pytest.raises(kind, match=match) as refused:
        open_segmenter(folder, CPU, allow_code)
    assert str(folder) not in str(refused.value)


def test_a_folder_finds_what_its_network_finds(tmp_path: Path) -> None:
    segmenter = open_segmenter(write_folder(tmp_path, Shades(SHADES)), CPU, allow_code=True)
    assert_found(segmenter)
    anatomy = find_anatomy(segmenter.segment(film()))
    assert {"right lung", "left lung", "left upper lung zone", "cardiac silhouette"} <= set(anatomy)


@pytest.mark.parametrize(
    "keys",
    [
        {"range": [-1024, 1024]},
        {"range": [1, 0]},
        {"channels": 3, "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]},
        {"mean": 0.4},
        {"std": [0.5]},
        {"size": [48, 160]},
        {"axes": "xy", "size": [48, 96]},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_the_network_sees_what_the_description_says(tmp_path: Path, keys: dict[str, Any]) -> None:
    low, high = keys.get("range", (0.0, 1.0))
    mean, std = np.mean(keys.get("mean", 0.0)), np.mean(keys.get("std", 1.0))
    shades = tuple(float((low + shade * (high - low) - mean) / std) for shade in SHADES)
    assert_found(
        open_segmenter(write_folder(tmp_path, Shades(shades), **keys), CPU, allow_code=True)
    )


@pytest.mark.parametrize(
    ("given", "activation"),
    [("logits", "sigmoid"), ("logits", "softmax"), ("sigmoid", "none"), ("softmax", "none")],
)
def test_each_activation(tmp_path: Path, given: str, activation: str) -> None:
    folder = write_folder(tmp_path, Shades(SHADES, given), activation=activation)
    assert_found(open_segmenter(folder, CPU, allow_code=True))


def test_channels_of_one_structure_are_joined_and_others_are_ignored(tmp_path: Path) -> None:
    names = ["Left_Clavicle", "right upper lobe", "Lung lower lobe right", "LeftLung"]
    segmenter = open_segmenter(
        write_folder(tmp_path, Shades(SHADES), structures=names), CPU, allow_code=True
    )
    assert segmenter.structures == ("right lung", "left lung")
    assert segmenter.ignored == ("Left_Clavicle",)
    found = segmenter.segment(film())
    assert stored_mask(found, "right lung")[60, [40, 160]].all()  # shades of both of its channels
    assert stored_mask(found, "left lung")[[80, 60], [100, 40]].tolist() == [True, False]


def test_a_frozen_network_opens(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is")
        frozen = torch.jit.freeze(torch.jit.script(Shades(SHADES).eval()))
        torch.jit.save(frozen, str(tmp_path / "model.ts"))
    assert_found(open_segmenter(tmp_path, CPU, allow_code=True))


def test_rows_first_or_columns_first(tmp_path: Path) -> None:
    for axes, shape in (("yx", (32, 64)), ("xy", (64, 32))):
        folder = write_folder(
            tmp_path / axes, FirstHalf(shape), axes=axes, size=[32, 64],
            structures=["right lung"], activation="none",
        )  # fmt: skip
        likely = (
            open_segmenter(folder, CPU, allow_code=True).segment(film()).likelihoods["right lung"]
        )
        middle = SIDE // 4
        assert likely[middle, -middle] == (axes == "yx")
        assert likely[-middle, middle] == (axes == "xy")


def test_a_film_of_one_grey_has_nothing_where_the_network_gives_no_number(tmp_path: Path) -> None:
    segmenter = open_segmenter(
        write_folder(tmp_path, Shades(SHADES, "blank")), CPU, allow_code=True
    )
    found = segmenter.segment(np.zeros((50, 70), np.float32))
    assert all((likely == 0.0).all() for likely in found.likelihoods.values())


def test_the_digest_is_of_weights_and_description_alone(tmp_path: Path) -> None:
    first = write_folder(tmp_path / "first", Shades(SHADES))
    digest = open_segmenter(first, CPU, allow_code=True).digest
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    moved = tmp_path / "moved"
    shutil.copytree(first, moved)
    assert open_segmenter(moved, CPU, allow_code=True).digest == digest
    write_folder(moved, size=96)
    assert open_segmenter(moved, CPU, allow_code=True).digest != digest
    write_folder(moved, Shades((0.0, 0.31, 0.6, 0.9)))
    assert open_segmenter(moved, CPU, allow_code=True).digest != digest


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("RIGHT LUNG", "right lung"),
        ("lung_upper_lobe_left", "left lung"),
        ("cardiac silhouette", "heart"),
        ("diaphragm", "abdomen"),
        ("Vertebrae T7", "spine"),
        ("trachea", "airway"),
        ("burned-in text", "text"),
        ("Pulse generator", "generator"),
        ("lungs", None),
        ("left lung nodule", None),
        ("background", None),
        ("", None),
        (None, None),
    ],
)
def test_names_of_other_models(name: str | None, kind: str | None) -> None:
    assert structure_of(name) == kind


def test_names_of_our_own_and_of_pspnet() -> None:
    assert [structure_of(name) for name in STRUCTURES] == list(STRUCTURES)
    assert {name: structure_of(name) for name in PSPNET if structure_of(name)} == {
        "Left Lung": "left lung",
        "Right Lung": "right lung",
        "Heart": "heart",
        "Facies Diaphragmatica": "abdomen",
        "Mediastinum": "mediastinum",
        "Weasand": "airway",
        "Spine": "spine",
    }


# Bundles


@pytest.mark.parametrize("given", ["logits", "softmax"])
def test_a_bundle_of_exclusive_classes(tmp_path: Path, given: str) -> None:
    segmenter = open_segmenter(write_bundle(tmp_path, Shades(SHADES, given)), CPU, allow_code=True)
    assert segmenter.description.activation == {"logits": "softmax", "softmax": "none"}[given]
    assert segmenter.ignored == ()
    assert_found(segmenter)


@pytest.mark.parametrize("given", ["logits", "sigmoid"])
def test_a_bundle_of_classes_that_may_overlap(tmp_path: Path, given: str) -> None:
    names = {"0": "heart", "1": "Left Lung", "2": "Right Lung"}
    shades = tuple(2.0 * shade - 1.0 for shade in SHADES[:0:-1])
    image = {"value_range": [-1, 1], "num_channels": 3, "spatial_shape": ["32*n", "*"]}
    folder = write_bundle(tmp_path, Shades(shades, given), metadata(names, image))
    segmenter = open_segmenter(folder, CPU, allow_code=True)
    assert segmenter.description.activation == {"logits": "sigmoid", "sigmoid": "none"}[given]
    assert segmenter.description.size == (SIDE, SIDE)
    assert_found(segmenter)


@pytest.mark.parametrize(
    ("loading", "axes"),
    [
        ({"_target_": "LoadImaged", "keys": "image"}, "xy"),
        ({"_target_": "LoadImaged", "keys": "image", "reverse_indexing": True}, "yx"),
        ({"_target_": "LoadFilm"}, "yx"),
        (None, "yx"),
    ],
    ids=["x first", "reversed", "own", "none"],
)
def test_a_bundle_sees_films_as_its_loader_turns_them(
    tmp_path: Path, loading: dict[str, Any] | None, axes: str
) -> None:
    names = {"0": "right lung"}
    described = metadata(names, {"spatial_shape": [64, 32], "value_range": []})
    write_bundle(tmp_path, FirstHalf((64, 32)), described)
    if loading is not None:
        text = json.dumps({"preprocessing": {"_target_": "Compose", "transforms": [loading]}})
        (tmp_path / "configs" / "inference.json").write_text(text, encoding="utf-8")
    segmenter = open_segmenter(tmp_path, CPU, allow_code=True)
    assert segmenter.description.size == ((32, 64) if axes == "xy" else (64, 32))
    likely = segmenter.segment(film()).likelihoods["right lung"]
    assert likely[SIDE // 4, -SIDE // 4] == (axes == "yx")


def test_our_own_description_counts_before_the_metadata(tmp_path: Path) -> None:
    write_bundle(tmp_path, Shades(SHADES), {"network_data_format": "unknown"})
    write_folder(tmp_path, weights="models/model.ts")
    segmenter = open_segmenter(tmp_path, CPU, allow_code=True)
    assert isinstance(segmenter, FolderSegmenter)
    assert_found(segmenter)


# What is refused


def test_no_folder_and_a_folder_of_something_else(tmp_path: Path) -> None:
    assert_refused(tmp_path / "absent", ModelError, r"segmenter: no such folder; expected one with")
    assert_refused(tmp_path, ModelError, r"neither segmenter\.yaml nor configs/metadata\.json")


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"wieghts": "model.ts"}, r"unknown key 'wieghts'\. Did you mean 'weights'\?"),
        ({"zzz": 1}, r"unknown key 'zzz'\. Known keys: weights, network, size, channels, range"),
        ({"size": ...}, r"segmenter\.yaml: size: field required"),
        ({"size": 8}, r"size\.0: input should be greater than or equal to 32; got 8"),
        ({"channels": 2}, r"channels: input should be 1 or 3; got 2"),
        ({"activation": ...}, r"activation: field required"),
        ({"activation": "relu"}, r"activation: input should be 'none', 'sigmoid' or 'softmax'"),
        ({"range": [1, 1]}, r"range must have two different ends"),
        ({"mean": [0.5] * 3}, r"mean has 3 values; expected one a channel, 1"),
        ({"std": 0}, r"std\.0: input should be greater than 0"),
        ({"structures": []}, r"structures: the list should have at least 1 item"),
        ({"structures": ["lung"], "activation": "softmax"}, r"softmax of one channel is 1 every"),
        ({"weights": "../model.ts"}, r"weights must be a file inside of the folder"),
        ({"weights": "/model.ts"}, r"weights must be a file inside of the folder"),
        ({"axes": "zyx"}, r"axes: input should be 'yx' or 'xy'"),
    ],
)
def test_a_description_that_is_none(tmp_path: Path, keys: dict[str, Any], match: str) -> None:
    assert_refused(write_folder(tmp_path, **keys), ConfigError, match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("- 1\n", r"segmenter\.yaml: expected a mapping of keys, got list"),
        ("", r"expected a mapping of keys, got nothing"),
        ("a: [", r"config 'segmenter\.yaml' line \d+, column \d+: not valid YAML"),
    ],
)
def test_a_description_that_is_no_mapping(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "segmenter.yaml").write_text(text, encoding="utf-8")
    assert_refused(tmp_path, ConfigError, match)


def test_no_lung_names_what_is_there_and_what_is_known(tmp_path: Path) -> None:
    match = r"structures: no lung among 'heart', 'lungs'; .*'left lung'.*mediastinum.*PSPNet"
    assert_refused(write_folder(tmp_path, structures=["heart", "lungs"]), ModelError, match)
    names = {str(channel): f"rib {channel}" for channel in range(30)}
    write_bundle(tmp_path / "bundle", None, metadata(names))
    match = r"channel_def: no lung among 'rib 0', .*'rib 19' and 10 more; "
    assert_refused(tmp_path / "bundle", ModelError, match)


def test_weights_that_are_none(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert_refused(tmp_path, ModelError, r"weights: no file 'model\.ts' in the folder")
    match = r"'model\.ts' does not open as TorchScript \(\w+\); .*torch\.jit\.save"
    (tmp_path / "model.ts").write_bytes(b"something else")
    assert_refused(tmp_path, ModelError, match)
    torch.save(Shades(SHADES).state_dict(), tmp_path / "model.ts")
    assert_refused(tmp_path, ModelError, match)


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (Shades(SHADES[:3]), r"structures has 4 names, and the network gives 3 channels"),
        (FirstHalf((32, 32)), r"does not run on an input of shape \(1, 1, 64, 64\).* on cpu"),
        (Pair(), r"gives a tuple; expected one tensor of shape \(1, 4, height, width\)"),
        (Odd("classes"), r"gives a tensor of shape \(1, 2\); expected one tensor"),
    ],
    ids=["channels", "size", "pair", "classes"],
)
def test_an_output_that_does_not_fit(tmp_path: Path, network: nn.Module, match: str) -> None:
    assert_refused(write_folder(tmp_path, network), ModelError, match)


@pytest.mark.parametrize(
    ("network", "activation", "match"),
    [
        (Odd("nan"), "sigmoid", r"values that are not numbers for a grey ramp"),
        (Shades((0.0, 1.0)), "none", r"activation is none, and the network gives values from -"),
        (Shades((0.0, 1.0), "sigmoid"), "sigmoid", r"activation is sigmoid, .*likelihoods already"),
        (Shades((0.0, 1.0), "softmax"), "softmax", r"activation is softmax, .*Say none"),
    ],
    ids=["nan", "none", "sigmoid", "softmax"],
)
def test_an_activation_that_cannot_be(
    tmp_path: Path, network: nn.Module, activation: str, match: str
) -> None:
    keys = {"structures": ["left lung", "right lung"], "activation": activation}
    assert_refused(write_folder(tmp_path, network, **keys), ModelError, match)


def test_a_network_that_fails_on_a_film_later(tmp_path: Path) -> None:
    segmenter = open_segmenter(write_folder(tmp_path, Shades(SHADES)), CPU, allow_code=True)
    segmenter._network.shades = torch.zeros(1, 4, 5, 5)
    with pytest.raises(ModelError, match=r"does not run on an input of shape"):
        segmenter.segment(film())


def test_a_bundle_without_weights(tmp_path: Path) -> None:
    write_bundle(tmp_path, None)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(b"pickle")
    match = r"the bundle has neither models/model\.safetensors nor models/model\.pt with a plain"
    assert_refused(tmp_path, ModelError, match)
    write_network_def(tmp_path)
    assert_refused(
        tmp_path, ModelError, r"'models/model\.pt' cannot be read \(\w+\); expected safe"
    )


# Networks by name, and programs

UNET = {"in_channels": 1, "out_channels": 4, "channels": [4, 8], "strides": [2]}


def write_network_def(folder: Path, **arguments: Any) -> None:
    network = {"_target_": "monai.networks.nets.UNet", **UNET, "spatial_dims": "@dims", **arguments}
    text = json.dumps({"dims": 2, "network_def": network})
    (folder / "configs" / "inference.json").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("kind", ["own", "bundle"])
def test_a_network_of_monai_runs_no_code(tmp_path: Path, kind: str) -> None:
    network = UNet(spatial_dims=2, **UNET)
    if kind == "own":
        described = {"name": "UNet", **UNET}
        write_folder(tmp_path, described, weights="model.safetensors", size=SIDE)
        save_file(network.state_dict(), tmp_path / "model.safetensors")
    else:
        write_bundle(tmp_path, None, metadata(CHANNELS, {"spatial_shape": [SIDE, SIDE]}))
        write_network_def(tmp_path)
        (tmp_path / "models").mkdir()
        torch.save({"model": network.state_dict()}, tmp_path / "models" / "model.pt")
    segmenter = open_segmenter(tmp_path, CPU)
    found = segmenter.segment(film()).likelihoods
    with torch.inference_mode():
        expected = _forward(network.eval(), segmenter.description, film(), CPU)[0]
    expected = expected.sigmoid() if kind == "own" else expected.softmax(dim=0)
    np.testing.assert_allclose(found["heart"], expected[3].numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "os.system"}, r"network: name is 'os\.system'; expected one of AttentionUnet, "),
        ({"chanels": [4]}, r"network: UNet has no argument 'chanels'; expected some of spatial"),
        (
            {"channels": [4, 10**9]},
            r"network: channels is \[4, 1000000000\]; expected names, truth",
        ),
        ({"spatial_dims": 3}, r"spatial_dims is 3; expected 2, since films are planes"),
        ({"act": "$__import__('os')"}, r"network: act is .*; expected names, truth values"),
        ({"strides": []}, r"MONAI does not build this UNet \(ValueError\)"),
        ({"channels": [16_000, 16_000]}, r"has [\d,]+ parameters; expected at most 1,000,000,000"),
        ({"out_channels": 3}, r"weights of 'model\.safetensors' are not those of the network that"),
    ],
    ids=["name", "argument", "number", "volume", "code", "build", "size", "weights"],
)
def test_a_network_that_is_not_built(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    described = {"name": "UNet", **UNET} | changes
    write_folder(tmp_path, network=described, weights="model.safetensors")
    save_file(UNet(spatial_dims=2, **UNET).state_dict(), tmp_path / "model.safetensors")
    assert_refused(tmp_path, ModelError, match, allow_code=False)


class Thief(nn.Module):
    """Reads a file of the user and writes another, when it is run."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place = str(place)

    def forward(self, films: Tensor) -> Tensor:
        torch.save(torch.from_file(self.place, False, 8, dtype=torch.uint8), self.place + ".out")
        return films.repeat(1, 4, 1, 1)


class Intruder(Thief):
    """Writes as soon as it is opened."""

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.place, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.place = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), self.place + ".out")

    def forward(self, films: Tensor) -> Tensor:
        return films.repeat(1, 4, 1, 1)


@pytest.mark.parametrize("kind", [Thief, Intruder])
def test_a_program_that_reads_or_writes_files_is_never_run(
    tmp_path: Path, kind: type[Thief]
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"password")
    write_folder(tmp_path, kind(secret))
    assert_refused(tmp_path, ModelError, r"'model\.ts' names '(save|from_file)'.*; refused")
    assert not (tmp_path / "secret.out").exists()


def test_a_program_needs_consent(tmp_path: Path) -> None:
    write_folder(tmp_path, Shades(SHADES))
    match = r"is TorchScript, a program .*; set regions\.allow_code to true if you trust it"
    assert_refused(tmp_path, ModelError, match, allow_code=False)
    with pytest.raises(ModelError, match=match):
        choose_segmenter(RegionsConfig(segmenter=tmp_path))
    assert choose_segmenter(RegionsConfig(segmenter=tmp_path, allow_code=True)).structures


@pytest.mark.parametrize(
    ("described", "match"),
    [
        ([], r"metadata\.json is not metadata of a segmentation bundle"),
        ({"network_data_format": {}}, r"expected JSON with network_data_format\.inputs\.image"),
        (metadata({"a": "left lung"}), r"is not metadata of a segmentation bundle"),
        (metadata({"1": "left lung"}), r"channel_def names the channels \[1\]; expected all from"),
        (
            metadata(CHANNELS, {"spatial_shape": [96, 96, 96]}),
            r"json: inputs\.image\.spatial_shape: .*at most 2 items.*; got \[96, 96, 96\]",
        ),
        (metadata(CHANNELS, {"num_channels": 4}), r"inputs\.image\.num_channels: .*1 or 3; got"),
        (
            metadata(CHANNELS, {"value_range": [0]}),
            r"inputs\.image\.value_range\.1: field required",
        ),
    ],
)
def test_metadata_that_do_not_fit(tmp_path: Path, described: Any, match: str) -> None:
    assert_refused(write_bundle(tmp_path, None, described), ModelError, match)


def test_metadata_that_are_no_json(tmp_path: Path) -> None:
    write_bundle(tmp_path, None)
    (tmp_path / "configs" / "metadata.json").write_text("{", encoding="utf-8")
    assert_refused(tmp_path, ModelError, r"metadata\.json is not metadata of a segmentation bundle")
