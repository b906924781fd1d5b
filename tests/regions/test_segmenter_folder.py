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
from numpy.typing import NDArray
from torch import Tensor, nn

from ravl_med.errors import ConfigError, ModelError
from ravl_med.regions.anatomy import find_anatomy
from ravl_med.regions.custom_segmenter import FolderSegmenter, open_segmenter, structure_of
from ravl_med.regions.geometry import InputGeometry
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
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is", DeprecationWarning)
        torch.jit.save(torch.jit.script(network), str(path))


def write_folder(folder: Path, network: nn.Module | None = None, **keys: Any) -> Path:
    """Write a folder of our own format; a key that is ... is left out."""
    described: dict[str, Any] = {
        "weights": "model.ts",
        "size": 64,
        "activation": "sigmoid",
        "structures": [None, "right lung", "left lung", "heart"],
    }
    described |= keys
    lines = [f"{k}: {json.dumps(v)}" for k, v in described.items() if v is not ...]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "segmenter.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if network is not None:
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


def assert_refused(folder: Path, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match) as refused:
        open_segmenter(folder, CPU)
    assert str(folder) not in str(refused.value)


def test_a_folder_finds_what_its_network_finds(tmp_path: Path) -> None:
    segmenter = open_segmenter(write_folder(tmp_path, Shades(SHADES)), CPU)
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
    assert_found(open_segmenter(write_folder(tmp_path, Shades(shades), **keys), CPU))


@pytest.mark.parametrize(
    ("given", "activation"),
    [("logits", "sigmoid"), ("logits", "softmax"), ("sigmoid", "none"), ("softmax", "none")],
)
def test_each_activation(tmp_path: Path, given: str, activation: str) -> None:
    folder = write_folder(tmp_path, Shades(SHADES, given), activation=activation)
    assert_found(open_segmenter(folder, CPU))


def test_channels_of_one_structure_are_joined_and_others_are_ignored(tmp_path: Path) -> None:
    names = ["Left_Clavicle", "right upper lobe", "Lung lower lobe right", "LeftLung"]
    segmenter = open_segmenter(write_folder(tmp_path, Shades(SHADES), structures=names), CPU)
    assert segmenter.structures == ("right lung", "left lung")
    assert segmenter.ignored == ("Left_Clavicle",)
    found = segmenter.segment(film())
    assert stored_mask(found, "right lung")[60, [40, 160]].all()  # shades of both of its channels
    assert stored_mask(found, "left lung")[[80, 60], [100, 40]].tolist() == [True, False]


def test_a_frozen_network_opens(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is", DeprecationWarning)
        frozen = torch.jit.freeze(torch.jit.script(Shades(SHADES).eval()))
        torch.jit.save(frozen, str(tmp_path / "model.ts"))
    assert_found(open_segmenter(tmp_path, CPU))


def test_rows_first_or_columns_first(tmp_path: Path) -> None:
    for axes, shape in (("yx", (32, 64)), ("xy", (64, 32))):
        folder = write_folder(
            tmp_path / axes, FirstHalf(shape), axes=axes, size=[32, 64],
            structures=["right lung"], activation="none",
        )  # fmt: skip
        likely = open_segmenter(folder, CPU).segment(film()).likelihoods["right lung"]
        middle = SIDE // 4
        assert likely[middle, -middle] == (axes == "yx")
        assert likely[-middle, middle] == (axes == "xy")


def test_a_film_of_one_grey_has_nothing_where_the_network_gives_no_number(tmp_path: Path) -> None:
    segmenter = open_segmenter(write_folder(tmp_path, Shades(SHADES, "blank")), CPU)
    found = segmenter.segment(np.zeros((50, 70), np.float32))
    assert all((likely == 0.0).all() for likely in found.likelihoods.values())


def test_the_digest_is_of_weights_and_description_alone(tmp_path: Path) -> None:
    first = write_folder(tmp_path / "first", Shades(SHADES))
    digest = open_segmenter(first, CPU).digest
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    moved = tmp_path / "moved"
    shutil.copytree(first, moved)
    assert open_segmenter(moved, CPU).digest == digest
    write_folder(moved, size=96)
    assert open_segmenter(moved, CPU).digest != digest
    write_folder(moved, Shades((0.0, 0.31, 0.6, 0.9)))
    assert open_segmenter(moved, CPU).digest != digest


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
    segmenter = open_segmenter(write_bundle(tmp_path, Shades(SHADES, given)), CPU)
    assert segmenter.description.activation == {"logits": "softmax", "softmax": "none"}[given]
    assert segmenter.ignored == ()
    assert_found(segmenter)


@pytest.mark.parametrize("given", ["logits", "sigmoid"])
def test_a_bundle_of_classes_that_may_overlap(tmp_path: Path, given: str) -> None:
    names = {"0": "heart", "1": "Left Lung", "2": "Right Lung"}
    shades = tuple(2.0 * shade - 1.0 for shade in SHADES[:0:-1])
    image = {"value_range": [-1, 1], "num_channels": 3, "spatial_shape": ["32*n", "*"]}
    folder = write_bundle(tmp_path, Shades(shades, given), metadata(names, image))
    segmenter = open_segmenter(folder, CPU)
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
    segmenter = open_segmenter(tmp_path, CPU)
    assert segmenter.description.size == ((32, 64) if axes == "xy" else (64, 32))
    likely = segmenter.segment(film()).likelihoods["right lung"]
    assert likely[SIDE // 4, -SIDE // 4] == (axes == "yx")


def test_our_own_description_counts_before_the_metadata(tmp_path: Path) -> None:
    write_bundle(tmp_path, Shades(SHADES), {"network_data_format": "unknown"})
    write_folder(tmp_path, weights="models/model.ts")
    segmenter = open_segmenter(tmp_path, CPU)
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
        ({"zzz": 1}, r"unknown key 'zzz'\. Known keys: weights, size, channels, range, mean"),
        ({"size": ...}, r"segmenter\.yaml: size: field required"),
        ({"size": 8}, r"size\.0: input should be greater than or equal to 32; got 8"),
        ({"channels": 2}, r"channels: input should be 1 or 3; got 2"),
        ({"activation": ...}, r"activation: field required"),
        ({"activation": "relu"}, r"activation: input should be 'none', 'sigmoid' or 'softmax'"),
        ({"range": [1, 1]}, r"range must have two different ends"),
        ({"mean": [0.5] * 3}, r"mean has 3 values; expected one a channel, 1"),
        ({"std": 0}, r"std\.0: input should be greater than 0"),
        ({"structures": []}, r"structures: tuple should have at least 1 item"),
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
    segmenter = open_segmenter(write_folder(tmp_path, Shades(SHADES)), CPU)
    segmenter._network.shades = torch.zeros(1, 4, 5, 5)
    with pytest.raises(ModelError, match=r"does not run on an input of shape"):
        segmenter.segment(film())


def test_a_bundle_without_torchscript_says_how_to_export_it(tmp_path: Path) -> None:
    write_bundle(tmp_path, None)
    assert_refused(tmp_path, ModelError, r"the bundle has no file 'models/model\.ts' in the folder")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(b"pickle")
    match = r"a pickle that is not opened.*python -m monai\.bundle ckpt_export network_def "
    assert_refused(tmp_path, ModelError, match)


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
