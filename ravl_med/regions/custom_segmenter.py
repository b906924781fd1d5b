"""A segmentation model of the user's own: weights, and a description or a MONAI bundle.

``segmenter.yaml`` or, where that is missing, the metadata of a MONAI bundle says what the network
takes and gives. Both are read as plain values: no config is instantiated, nothing is unpickled by
Python, nothing is fetched. The names of structures in other models are known here.

References
----------
MONAI bundle specification, https://docs.monai.io/en/stable/mb_specification.html. Lian et al.,
ChestX-Det, 2021 (the PSPNet of torchxrayvision); Seibold et al., CXAS, 2023.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator, model_validator
from torch import Tensor, nn

from ravl_med.config.base import Section, explain_problems
from ravl_med.config.loading import parse_yaml
from ravl_med.errors import ConfigError, ModelError
from ravl_med.regions.film_structures import ARTIFACT_NAMES
from ravl_med.regions.segmentation_network import (
    build_network,
    load_scripted,
    load_weights,
    network_of_bundle,
)
from ravl_med.regions.segmenter import SIDE, STRUCTURES, Segmentation
from ravl_med.storage.bounded_reading import open_regular, parse_json, read_regular

_LUNG = (
    "{0} lung", "lung {0}", "{0} lung field", "{0} upper lobe", "{0} middle lobe", "{0} lower lobe",
    "{0} upper lung lobe", "{0} middle lung lobe", "{0} lower lung lobe", "lung upper lobe {0}",
    "lung middle lobe {0}", "lung lower lobe {0}", "{0} upper zone lung", "{0} mid zone lung",
    "{0} apical zone lung", "{0} lung base", "{0} upper lung zone", "{0} mid lung zone",
    "{0} middle lung zone", "{0} lower lung zone",
)  # fmt: skip
_VERTEBRAE = [
    f"vertebrae {part}{number}"
    for part, count in (("C", 7), ("T", 12), ("L", 5))
    for number in range(1, count + 1)
]
_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "right lung": (*(name.format("right") for name in _LUNG), "r lung", "lung r"),
    "left lung": (*(name.format("left") for name in _LUNG), "l lung", "lung l"),
    "heart": (
        "cardiac silhouette", "cardiac shadow", "heart shadow", "heart myocardium",
        "heart atrium left", "heart atrium right", "heart ventricle left", "heart ventricle right",
    ),
    "mediastinum": (
        "mediastinal silhouette", "cardiomediastinum", "upper mediastinum", "lower mediastinum",
        "anterior mediastinum", "middle mediastinum", "posterior mediastinum",
    ),
    # Models of films draw the diaphragm as all that lies below its domes.
    "abdomen": (
        "upper abdomen", "facies diaphragmatica", "diaphragm", "hemidiaphragm",
        "left hemidiaphragm", "right hemidiaphragm", "hemidiaphragm left", "hemidiaphragm right",
        "subdiaphragm", "sub diaphragm", "liver", "stomach",
    ),
    "spine": (
        "spinal column", "vertebral column", "vertebra", "vertebrae", "cervical spine",
        "thoracic spine", "lumbar spine", *_VERTEBRAE,
    ),
    "body": ("body outline", "body contour"),
    "airway": (
        "airways", "trachea", "tracheal bifurcation", "carina", "weasand", "bronchi",
        "main bronchi", "trachea and bronchi", "trachea and main bronchi",
    ),
    "generator": ("pacemaker", "pacemaker generator", "icd", "cardiac device"),
    "lead": ("leads", "pacemaker lead", "pacemaker leads", "pacemaker wire", "pacing leads"),
    "tube": (
        "tubes", "catheter", "endotracheal tube", "ett", "nasogastric tube", "ngt",
        "ng tube", "enteric tube", "chest tube", "tracheostomy tube", "drain", "cvc", "picc",
        "central venous catheter", "swan ganz catheter",
    ),
    "electrode": ("electrodes", "ecg electrode", "ecg electrodes", "ekg electrode"),
    "wire": ("wires", "ecg wire", "ecg lead", "ecg leads", "ekg lead"),
    "marker": ("side marker", "markers"),
    "text": ("texts", "letters"),
    "metal": (
        "clip", "clips", "surgical clip", "surgical clips", "sternal wire", "sternal wires",
        "prosthesis", "jewellery", "jewelry",
    ),
    "compact": ("foreign object", "foreign body", "implant", "device", "support device"),
    "line": ("lines", "tubes and lines", "lines and tubes", "tube line or wire"),
    "border": ("collimation", "collimator", "collimation border"),
}  # fmt: skip


def plain_structure_name(name: str) -> str:
    """Return a name in lower case: 'Left_Lung', 'left-lung' and 'LeftLung' are the same."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.findall(r"\w+", spaced.replace("_", " ").casefold()))


_STRUCTURE_OF: Mapping[str, str] = {
    **{plain_structure_name(name): kind for kind, name in ARTIFACT_NAMES.items()},
    **{plain_structure_name(name): kind for kind, names in _SYNONYMS.items() for name in names},
    **{plain_structure_name(kind): kind for kind in STRUCTURES},
}


def structure_of(name: str | None) -> str | None:
    """Return the one of `STRUCTURES` that a channel's name means; None for any other."""
    return _STRUCTURE_OF.get(plain_structure_name(name)) if name else None


OWN, METADATA, BUNDLE_SCRIPT = "segmenter.yaml", "configs/metadata.json", "models/model.ts"
"""Files of a folder: our own description, and those of a MONAI bundle."""

_BUNDLE_WEIGHTS = ("models/model.safetensors", "models/model.pt")

BACKGROUND = "background"
"""Name of a channel for everything else."""

Side = Annotated[int, Field(ge=32, le=4096)]
Deviation = Annotated[float, Field(gt=0.0)]
Activation = Literal["none", "sigmoid", "softmax"]


class SegmenterDescription(Section):
    """The input and output of a folder's network; the content of ``segmenter.yaml``."""

    weights: str = Field(
        min_length=1,
        description="file inside of the folder: weights of network, or else TorchScript",
    )
    network: dict[str, Any] | None = Field(
        None, description="network of MONAI that is built: its name, and plain arguments"
    )
    size: tuple[Side, Side] = Field(
        description="rows and columns of the input in pixels, or one number for both; films are "
        "squashed to it"
    )
    channels: Literal[1, 3] = Field(1, description="of the input; 3 are the film three times")
    value_range: tuple[float, float] = Field(
        (0.0, 1.0),
        alias="range",
        description="what 0 and 1 become, of which 1 is dense; [1, 0] inverts",
    )
    mean: tuple[float, ...] | None = Field(
        None, description="of each channel, subtracted after the range"
    )
    std: tuple[Deviation, ...] | None = Field(
        None, description="of each channel, divided by after the mean"
    )
    activation: Activation = Field(description="what makes likelihoods of the output")
    structures: tuple[str | None, ...] = Field(
        min_length=1, description="names of the output channels in order; null is ignored"
    )
    axes: Literal["yx", "xy"] = Field(
        "yx", description="whether the network sees rows first or, as MONAI loads, columns first"
    )

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _single(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (int, float)) else value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        path = Path(self.weights)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("weights must be a file inside of the folder, relative to it")
        if self.value_range[0] == self.value_range[1]:
            raise ValueError("range must have two different ends")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.channels:
                raise ValueError(
                    f"{name} has {len(values)} values; expected one a channel, {self.channels}"
                )
        if self.activation == "softmax" and len(self.structures) < 2:
            raise ValueError(
                "softmax of one channel is 1 everywhere; name the background as null, or say "
                "sigmoid"
            )
        return self


def read_description(path: Path) -> SegmenterDescription:
    """Read ``segmenter.yaml``.

    Raises
    ------
    ConfigError
        It is invalid, with one line a problem.
    """
    data = parse_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(
            f"regions.segmenter: {OWN}: expected a mapping of keys, got "
            f"{'nothing' if data is None else type(data).__name__}."
        )
    try:
        return SegmenterDescription.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_problems(error, OWN, {})) from None


def read_bundle(folder: Path) -> SegmenterDescription:
    """Read the description of a 2-D network from the metadata of a MONAI bundle.

    Raises
    ------
    ModelError
        It says too little, or something that fits no 2-D segmenter.
    """
    try:
        metadata = parse_json(read_regular(folder / METADATA))
        image = metadata["network_data_format"]["inputs"]["image"]
        pred = metadata["network_data_format"]["outputs"]["pred"]
        names = {int(channel): str(name) for channel, name in pred["channel_def"].items()}
        shape, channels = list(image["spatial_shape"]), image["num_channels"]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError):
        raise ModelError(
            f"regions.segmenter: {METADATA} is not metadata of a segmentation bundle; expected "
            "JSON with network_data_format.inputs.image (num_channels, spatial_shape) and "
            "network_data_format.outputs.pred (channel_def)."
        ) from None
    if sorted(names) != list(range(len(names))):
        raise ModelError(
            f"regions.segmenter: {METADATA}: outputs.pred.channel_def names the channels "
            f"{sorted(names)[:20]}; expected all from 0 on."
        )
    # A side may be an expression such as '16*n' or '*'; a power of 2 fits nearly all of them.
    sides = [SIDE if isinstance(side, str) else side for side in shape]
    axes = "xy" if _loads_columns_first(folder) else "yx"
    plain = [plain_structure_name(names[channel]) for channel in sorted(names)]
    exclusive = len(names) > 1 and (BACKGROUND in plain or pred.get("format") == "labels")
    network = network_of_bundle(folder)
    plain_weights = [name for name in _BUNDLE_WEIGHTS if network and (folder / name).is_file()]
    data = {
        "weights": plain_weights[0] if plain_weights else BUNDLE_SCRIPT,
        "network": network if plain_weights else None,
        "size": sides[::-1] if axes == "xy" else sides,
        "channels": channels,
        "range": image.get("value_range") or (0.0, 1.0),
        "activation": "softmax" if exclusive else "sigmoid",
        "structures": [names[channel] for channel in sorted(names)],
        "axes": axes,
    }
    try:
        return SegmenterDescription.model_validate(data)
    except ValidationError as error:
        keys = {
            "size": "inputs.image.spatial_shape",
            "channels": "inputs.image.num_channels",
            "range": "inputs.image.value_range",
            "structures": "outputs.pred.channel_def",
        }
        raise ModelError(_problems(error, METADATA, keys)) from None


def _loads_columns_first(folder: Path) -> bool:
    """Return whether a bundle loads films by MONAI's LoadImage, whose first axis is x, unturned."""
    for suffix in ("json", "yaml", "yml"):
        path = folder / "configs" / f"inference.{suffix}"
        if path.is_file():
            text = read_regular(path).decode("utf-8", errors="replace")
            turned = re.search(r"reverse_indexing|swap_ij|Transpose|Rot90|Rotate90", text)
            return bool(re.search(r"\bLoadImage(d|D|Dict)?\b", text)) and not turned
    return False


def _problems(error: ValidationError, file: str, keys: Mapping[str, str]) -> str:
    lines = explain_problems(error, SegmenterDescription, keys)
    return "\n".join(f"regions.segmenter: {file}: {line}" for line in lines)


Floats = NDArray[np.float32]

_CLOSE = 1e-2  # rounding of a network that works in half precision


class FolderSegmenter:
    """A segmentation model of the user's own, as a `Segmenter`.

    The network takes (1, channels, h, w), float32, and gives (1, K, any, any). `ignored` are names
    of channels that mean no known structure, apart from the background.
    """

    def __init__(
        self,
        network: nn.Module,
        description: SegmenterDescription,
        digest: str,
        device: torch.device,
    ) -> None:
        meant = [structure_of(name) for name in description.structures]
        self._channels = {
            kind: [channel for channel, found in enumerate(meant) if found == kind]
            for kind in STRUCTURES
            if kind in meant
        }
        self._network, self._device = network, device
        self.description = description
        self.structures: tuple[str, ...] = tuple(self._channels)
        self.ignored = tuple(
            name
            for name, kind in zip(description.structures, meant, strict=True)
            if name is not None and kind is None and plain_structure_name(name) != BACKGROUND
        )
        self.digest = digest

    @torch.inference_mode()
    def segment(self, pixels: Floats) -> Segmentation:
        """Segment a film (H, W), float32 in [0, 1]; bright is dense.

        The maximum of the channels of one structure counts. NaN, which a network may give on a film
        of one grey, counts as not found.

        Raises
        ------
        ModelError
            The network does not run.
        """
        output = _forward(self._network, self.description, pixels, self._device)[0].float()
        if self.description.activation == "softmax":
            output = output.softmax(dim=0)
        likelihoods = {}
        for kind, channels in self._channels.items():
            likely = output[channels].amax(dim=0)
            if self.description.activation == "sigmoid":  # monotone: the maximum may come first
                likely = likely.sigmoid()
            plane = likely.nan_to_num(nan=0.0, posinf=1.0, neginf=0.0).cpu().numpy()
            upright = plane.T if self.description.axes == "xy" else plane
            squashed = _squash(np.ascontiguousarray(upright), SIDE, SIDE)
            likelihoods[kind] = np.clip(squashed, 0.0, 1.0)
        return Segmentation(likelihoods)


def open_segmenter(folder: Path, device: torch.device, allow_code: bool = False) -> FolderSegmenter:
    """Open a segmentation model of the user's own.

    The folder has ``segmenter.yaml`` and weights, or is a MONAI bundle with
    ``configs/metadata.json``, ``network_def`` in ``configs/inference.json`` and weights. Weights
    may be TorchScript, a program, if code is allowed.

    Raises
    ------
    ConfigError
        ``segmenter.yaml`` is invalid.
    ModelError
        The folder, its metadata or its weights are missing or wrong, it is a program that is not
        allowed or does what no network needs, no channel is a lung, or the network's output does
        not fit its description.
    """
    if not folder.is_dir():
        raise ModelError(
            f"regions.segmenter: no such folder; expected one with {OWN}, or a MONAI bundle. "
            "Paths are relative to the config file."
        )
    own = (folder / OWN).is_file()
    if not own and not (folder / METADATA).is_file():
        raise ModelError(
            f"regions.segmenter: the folder has neither {OWN} nor {METADATA}; expected one of "
            "them, which says what the network takes and gives."
        )
    description = read_description(folder / OWN) if own else read_bundle(folder)
    source = f"{OWN}: structures" if own else f"{METADATA}: outputs.pred.channel_def"
    _require_lung(description, source)
    path = _find_weights(folder, description.weights, own)
    network: nn.Module
    if description.network is not None:
        network = build_network(description.network, f"{OWN}: network" if own else "network_def")
        load_weights(network, path, description.weights)
        network = network.to(device)
    elif allow_code:
        network = load_scripted(path, description.weights, device)
    else:
        raise ModelError(
            f"regions.segmenter: {description.weights[:80]!r} is TorchScript, a program that could "
            "read and write your files; set regions.allow_code to true if you trust it. Or lay "
            f"weights there and name the network in {OWN}, so that no code is run."
        )
    height, width = description.size
    ramp = np.tile(np.linspace(0.0, 1.0, width, dtype=np.float32), (height, 1))
    output = _forward(network, description, ramp, device)
    _check_shape(output, description, source)
    description = _settle_activation(output[0].float(), description, own)
    return FolderSegmenter(network, description, _digest(path, description), device)


def _require_lung(description: SegmenterDescription, source: str) -> None:
    if {"right lung", "left lung"} & {structure_of(name) for name in description.structures}:
        return
    there = [repr(name[:40]) for name in description.structures if name is not None]
    listed = ", ".join(there[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
    raise ModelError(
        f"regions.segmenter: {source}: no lung among {listed or 'no names'}; all anatomy hangs on "
        "the lungs. Expected 'right lung' or 'left lung', of the patient, and any of "
        f"{', '.join(STRUCTURES)}, or the names that the PSPNet of torchxrayvision or CXAS has for "
        "them. Both lungs in one channel have no sides and cannot be used."
    )


def _find_weights(folder: Path, weights: str, own: bool) -> Path:
    path = folder / weights
    if path.is_file():
        return path
    if own:
        where = f"{OWN}: weights: no file {weights[:80]!r} in the folder; expected weights of "
        where += "network, or a TorchScript file."
    else:
        where = f"the bundle has neither {' nor '.join(_BUNDLE_WEIGHTS)} with a plain network_def "
        where += f"in configs/inference.json, nor {BUNDLE_SCRIPT}; expected one of them."
    raise ModelError(f"regions.segmenter: {where}")


@torch.inference_mode()
def _forward(
    network: nn.Module, description: SegmenterDescription, pixels: Floats, device: torch.device
) -> Tensor:
    """Run a network on a film (H, W), float32 in [0, 1]."""
    low, high = description.value_range
    image = torch.from_numpy(_squash(pixels, *description.size)) * (high - low) + low
    if description.axes == "xy":
        image = image.T
    films = image.repeat(1, description.channels, 1, 1)
    if description.mean is not None:
        films = films - torch.tensor(description.mean).reshape(1, -1, 1, 1)
    if description.std is not None:
        films = films / torch.tensor(description.std).reshape(1, -1, 1, 1)
    try:
        output: Tensor = network(films.contiguous().to(device))
    except Exception as error:  # TorchScript's messages hold the paths of whoever exported it
        raise ModelError(
            f"regions.segmenter: the network does not run on an input of shape "
            f"{tuple(films.shape)}, float32, on {device.type} ({type(error).__name__}); expected "
            "one that takes it. Check size and channels, or export it for this input."
        ) from None
    return output


def _check_shape(output: Any, description: SegmenterDescription, source: str) -> None:
    """Refuse an output that does not have one plane for each name."""
    names = len(description.structures)
    if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != 1:
        got = (
            f"a tensor of shape {tuple(output.shape)}"
            if isinstance(output, Tensor)
            else f"a {type(output).__name__}"
        )
        raise ModelError(
            f"regions.segmenter: the network gives {got}; expected one tensor of shape "
            f"(1, {names}, height, width). Export a network that gives its map alone."
        )
    if output.shape[1] != names:
        raise ModelError(
            f"regions.segmenter: {source} has {names} names, and the network gives "
            f"{output.shape[1]} channels; expected a name for each, or null, in order."
        )
    if not bool(torch.isfinite(output).all()):
        raise ModelError(
            "regions.segmenter: the network gives values that are not numbers for a grey ramp; "
            "check range, mean and std, or export it in float32."
        )


def _settle_activation(
    output: Tensor, description: SegmenterDescription, own: bool
) -> SegmenterDescription:
    """Refuse an impossible activation; find out that of a bundle, whose metadata lack it."""
    low, high = float(output.min()), float(output.max())
    likely = low >= -_CLOSE and high <= 1.0 + _CLOSE
    activation = description.activation
    if activation == "none":
        if likely:
            return description
        raise ModelError(
            f"regions.segmenter: {OWN}: activation is none, and the network gives values from "
            f"{low:.3g} to {high:.3g}; expected 0 to 1. Say sigmoid, or softmax where one of the "
            "channels is the background."
        )
    if activation == "softmax":
        likely = likely and bool(((output.sum(dim=0) - 1.0).abs() <= _CLOSE).all())
    if not likely:
        return description
    if own:
        raise ModelError(
            f"regions.segmenter: {OWN}: activation is {activation}, and the network gives "
            "likelihoods already, which would flatten them; expected logits. Say none."
        )
    return description.model_copy(update={"activation": "none"})


def _squash(image: Floats, height: int, width: int) -> Floats:
    """Resize an image (H, W): shrink by area, enlarge linearly, each axis as it needs."""
    low = (min(width, image.shape[1]), min(height, image.shape[0]))
    shrunk = cv2.resize(image, low, interpolation=cv2.INTER_AREA)
    return np.asarray(
        cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32
    )


def _digest(path: Path, description: SegmenterDescription) -> str:
    """Return the SHA-256 of the weights and of everything that the description says."""
    with open_regular(path) as stream:
        hasher = hashlib.sha256(hashlib.file_digest(stream, "sha256").digest())
    hasher.update(description.model_dump_json(exclude={"weights"}).encode())
    return hasher.hexdigest()
