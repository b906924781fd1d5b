"""What the image processor of a Hugging Face folder does with a film, and with boxes on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ravl_med.encoders.huggingface_tower import HuggingFaceTower
from ravl_med.encoders.local_files import no_network
from ravl_med.errors import ModelError
from ravl_med.regions.geometry import InputGeometry, ResizeMode

__all__ = ["FilmProcessor", "read_processor"]

_NAMES = ("preprocessor_config.json", "processor_config.json")
_EXPECTED = (
    "expected a resize to height and width, or of the shortest edge with a crop of the centre"
)


@dataclass(frozen=True, slots=True)
class FilmProcessor:
    """A film's way to the input of a model.

    Attributes
    ----------
    processor : callable - image processor of transformers
    resized : int - side in pixels to which `mode` resizes
    size : int - side of the square that is cut out of it
    mode : {"shortest", "squash"}
    whole : bool - whether this class resizes, since the processor would keep the film's proportions
    """

    processor: Any
    resized: int
    size: int
    mode: ResizeMode
    whole: bool = False

    def __call__(self, pixels: NDArray[np.float32]) -> Tensor:
        """Turn a film (H, W) of 0 .. 1 into the model's input, float32 of shape (3, S, S)."""
        image = Image.fromarray(np.rint(pixels * 255.0).astype(np.uint8)).convert("RGB")
        if not self.whole:
            values: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"]
            return values[0].float()
        resample = Image.Resampling(int(self.processor.resample))
        level = np.asarray(image.resize((self.size, self.size), resample), dtype=np.float32) / 255.0
        mean, std = (np.array(v, dtype=np.float32) for v in (self.mean, self.std))
        return torch.from_numpy(((level - mean) / std).transpose(2, 0, 1).copy())

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the normalisation, by channel."""
        return tuple(float(v) for v in self.processor.image_mean)

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the normalisation, by channel."""
        return tuple(float(v) for v in self.processor.image_std)

    def geometry(self, height: int, width: int) -> InputGeometry:
        """Return the path of boxes from a stored film of that size to the input."""
        side_y = side_x = self.resized
        if self.mode == "shortest":  # transformers truncates the longer side
            if height <= width:
                side_x = int(self.resized * width / height)
            else:
                side_y = int(self.resized * height / width)
        return InputGeometry(
            height,
            width,
            self.size,
            side_x / width,
            side_y / height,
            -float((side_x - self.size) // 2),
            -float((side_y - self.size) // 2),
        )


def read_processor(folder: Path, tower: HuggingFaceTower, key: str) -> FilmProcessor:
    """Read the image processor of a folder.

    Parameters
    ----------
    folder : Path
    tower : HuggingFaceTower - that reads what the processor makes
    key : str - of the config that led here, for the messages

    Raises
    ------
    ModelError
        There is none, it asks for code of its own, or it does something that boxes cannot follow.
    """
    import transformers

    if not any((folder / name).is_file() for name in _NAMES):
        raise ModelError(
            f"{key}: the folder has no preprocessor_config.json, which says how the model wants "
            "its images. Lay the one that was published with the model beside config.json."
        )
    try:
        with no_network():
            kind: Any = transformers.AutoImageProcessor
            processor = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many types here
        raise ModelError(
            f"{key}: preprocessor_config.json names no image processor that transformers has "
            f"({type(error).__name__}); expected the file as it was published, without code of its "
            "own."
        ) from None
    if tower.naflex:
        return FilmProcessor(processor, tower.image_size, tower.image_size, "squash", whole=True)
    made = _measure(processor, key)
    if made.size != tower.image_size:
        raise ModelError(
            f"{key}: preprocessor_config.json makes images of {made.size} pixels, the image tower "
            f"reads {tower.image_size}. Correct size and crop_size there."
        )
    return made


def _measure(processor: Any, key: str) -> FilmProcessor:
    """Read off a processor how it resizes and cuts."""
    size, crop = processor.size or {}, getattr(processor, "crop_size", None) or {}
    cuts, pads = (bool(getattr(processor, name, False)) for name in ("do_center_crop", "do_pad"))
    height, width, shortest = (_entry(size, name) for name in ("height", "width", "shortest_edge"))
    mode: ResizeMode = "squash" if height and height == width else "shortest"
    resized = height if mode == "squash" else shortest
    final = (_entry(crop, "height"), _entry(crop, "width")) if cuts else (height, width)
    plain = processor.do_resize and processor.do_rescale and processor.do_normalize and not pads
    if not plain or not resized or not final[0] or final[0] != final[1]:
        raise ModelError(
            f"{key}: preprocessor_config.json does with images what boxes of regions cannot follow "
            f"(size {_told(size)}, crop {_told(crop) if cuts else 'none'}); {_EXPECTED}, rescale "
            "and normalisation, no padding."
        )
    if final[0] > resized:
        raise ModelError(
            f"{key}: preprocessor_config.json cuts {final[0]} pixels out of {resized}; {_EXPECTED}."
        )
    return FilmProcessor(processor, resized, final[0], mode)


def _entry(size: Any, name: str) -> int:
    value = size.get(name) if isinstance(size, dict) else getattr(size, name, None)
    return int(value) if value else 0


def _told(size: Any) -> str:
    names = ("shortest_edge", "longest_edge", "height", "width")
    known = {name: _entry(size, name) for name in names if _entry(size, name)}
    return ", ".join(f"{name} {value}" for name, value in known.items()) or "none"
