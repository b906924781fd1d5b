"""What a segmenter of the user's own takes and gives: ``segmenter.yaml``, or a MONAI bundle.

Both are read as plain values: no config is instantiated.

References
----------
MONAI bundle specification, https://docs.monai.io/en/stable/mb_specification.html.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from ravl_med.config import parse_yaml
from ravl_med.config.base import Section
from ravl_med.config.explanation import explain_problems
from ravl_med.errors import ConfigError, ModelError
from ravl_med.regions.segmentation import SIDE
from ravl_med.regions.structure_names import plain_name

__all__ = [
    "BACKGROUND",
    "BUNDLE_WEIGHTS",
    "METADATA",
    "OWN",
    "SegmenterDescription",
    "read_bundle",
    "read_description",
]

OWN, METADATA, BUNDLE_WEIGHTS = "segmenter.yaml", "configs/metadata.json", "models/model.ts"
"""Files of a folder: the description of one's own, and those of a MONAI bundle."""

BACKGROUND = "background"
"""Name of a channel that is none of the structures."""

Side = Annotated[int, Field(ge=32, le=4096)]
Deviation = Annotated[float, Field(gt=0.0)]
Activation = Literal["none", "sigmoid", "softmax"]


class SegmenterDescription(Section):
    """What the network of a folder takes and gives; the content of ``segmenter.yaml``."""

    weights: str = Field(min_length=1, description="TorchScript file inside of the folder")
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
        It is not one, with one line a problem.
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
    """Read what the metadata of a MONAI bundle says of a 2-D network.

    Raises
    ------
    ModelError
        It says too little, or what no 2-D segmenter has.
    """
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        image = metadata["network_data_format"]["inputs"]["image"]
        pred = metadata["network_data_format"]["outputs"]["pred"]
        names = {int(channel): str(name) for channel, name in pred["channel_def"].items()}
        shape, channels = list(image["spatial_shape"]), image["num_channels"]
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
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
    plain = [plain_name(names[channel]) for channel in sorted(names)]
    exclusive = len(names) > 1 and (BACKGROUND in plain or pred.get("format") == "labels")
    data = {
        "weights": BUNDLE_WEIGHTS,
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
    """Whether films of a bundle come from MONAI's LoadImage, whose first axis is x, unturned."""
    for suffix in ("json", "yaml", "yml"):
        path = folder / "configs" / f"inference.{suffix}"
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            turned = re.search(r"reverse_indexing|swap_ij|Transpose|Rot90|Rotate90", text)
            return bool(re.search(r"\bLoadImage(d|D|Dict)?\b", text)) and not turned
    return False


def _problems(error: ValidationError, file: str, keys: Mapping[str, str]) -> str:
    lines = explain_problems(error, SegmenterDescription, keys)
    return "\n".join(f"regions.segmenter: {file}: {line}" for line in lines)
