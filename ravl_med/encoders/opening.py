"""Any model that the config names, opened from this machine alone.

Encoders that the user's own code makes, and encoders that only embed whole images.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ravl_med.config.model import ModelConfig, RegionPooling
from ravl_med.encoders.base import Encoder, EncoderInfo
from ravl_med.encoders.checkpoint import open_checkpoint
from ravl_med.encoders.huggingface import HuggingFaceEncoder, open_huggingface
from ravl_med.encoders.open_clip import OpenClipEncoder, open_model
from ravl_med.encoders.region_pooling import CROPS, cut_crops
from ravl_med.errors import ModelError
from ravl_med.regions.geometry import InputGeometry

_NEEDED = ("device", "encode_image", "encode_text", "geometry", "info", "preprocess")


def open_factory(config: ModelConfig, device: torch.device) -> Encoder:
    """Let the user's code make an encoder.

    Parameters
    ----------
    config : ModelConfig - with `factory`, and `allow_code` set
    device : torch.device - handed to the function, which returns an `Encoder`

    Raises
    ------
    ModelError
        Code is not allowed, is not found, fails, or returns something else. An encoder without
        ``encode_regions`` embeds regions as crops.
    """
    name = str(config.factory)
    if not config.allow_code:
        raise ModelError(
            f"model.factory: {name[:80]!r} is code; set model.allow_code to true if you trust it."
        )
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"model.factory: {name[:80]!r} is not found ({type(error).__name__}); expected "
            "package.module:function of an installed package, or of one on PYTHONPATH."
        ) from None
    try:
        encoder = make(device)
    except Exception as error:  # whatever the user's code raises
        raise ModelError(
            f"model.factory: {name[:80]!r} failed ({type(error).__name__}). Call it by itself to "
            "see why; it is given the device."
        ) from None
    missing = [part for part in _NEEDED if not hasattr(encoder, part)]
    if missing:
        raise ModelError(
            f"model.factory: what {name[:80]!r} returns has no {', '.join(missing)}; expected an "
            "Encoder as ravl_med.encoders.base describes it."
        )
    found: Encoder = encoder if hasattr(encoder, "encode_regions") else CropEncoder(encoder)
    return found


class CropEncoder:
    """An encoder that only embeds whole images, with regions as crops of the input.

    Costs one forward pass a region.

    Parameters
    ----------
    inner : object - an `Encoder` but for ``encode_regions``
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.info: EncoderInfo = replace(inner.info, region_pooling=CROPS)
        self.device: torch.device = inner.device
        self.model = getattr(inner, "model", None)

    def preprocess(self, pixels: NDArray[np.float32]) -> Tensor:
        """Turn a film (H, W) of 0 .. 1 into the model's input, float32 of shape (3, S, S)."""
        image: Tensor = self.inner.preprocess(pixels)
        return image

    def geometry(self, height: int, width: int) -> InputGeometry:
        """Return the path of boxes from a stored film of that size to the input."""
        path: InputGeometry = self.inner.geometry(height, width)
        return path

    def encode_image(self, images: Tensor) -> Tensor:
        """Embed inputs (B, 3, S, S) as (B, D), unit norm."""
        embedded: Tensor = self.inner.encode_image(images)
        return embedded

    def encode_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed inputs (B, 3, S, S) as (B, D) and their regions as (sum of r_i, D), unit norm."""
        whole = self.encode_image(images)
        regions = [whole[:0], *(self.encode_image(part) for part in cut_crops(images, boxes))]
        return whole, torch.cat(regions)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as (T, D), unit norm."""
        embedded: Tensor = self.inner.encode_text(texts)
        return embedded

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights, where the inner encoder gives them."""
        return dict(self.inner.state_dict())

    def save(self, folder: Path) -> None:
        """Write the model as the inner encoder does."""
        self.inner.save(folder)


def open_encoder(config: ModelConfig, folder: Path | None, device: torch.device) -> Encoder:
    """Open the model of a config.

    Parameters
    ----------
    folder : Path or None - of the model, where it is one: `path`, or the quickstart model's; or a
        checkpoint, where it is not `weights` itself but was fetched from there

    Raises
    ------
    ModelError
        See `open_folder`, `open_checkpoint` and `open_factory`; or its tower embeds no regions in
        the way that the config asks for.
    """
    if config.weights is not None and folder is not None:
        config = config.model_copy(update={"weights": folder})
    elif folder is not None:
        return open_folder(folder, device, config.region_pooling)
    encoder = (
        open_checkpoint(config, device)
        if config.weights is not None
        else open_factory(config, device)
    )
    return _pooling_by(encoder, config.region_pooling)


def open_folder(
    folder: Path, device: torch.device, region_pooling: RegionPooling = "one_pass"
) -> Encoder:
    """Open a folder: open_clip's where it holds ``open_clip_config.json``, else Hugging Face's.

    Raises
    ------
    ModelError
        The folder is of neither kind, or does not open; or its tower embeds no regions in that way.
    """
    if (folder / "config.json").is_file() and not (folder / "open_clip_config.json").is_file():
        return _pooling_by(open_huggingface(folder, device), region_pooling)
    return _pooling_by(open_model(folder, device), region_pooling)


def _pooling_by(encoder: Encoder, how: RegionPooling) -> Encoder:
    """Return an encoder that embeds regions in that way."""
    if how == "one_pass":
        return encoder
    if isinstance(encoder, (OpenClipEncoder, HuggingFaceEncoder)):
        encoder.pool_regions_by(how)
        return encoder
    if how == "crops":
        return encoder if isinstance(encoder, CropEncoder) else CropEncoder(encoder)
    raise ModelError(
        f"model.region_pooling: {how!r} is for models that are opened from files; what "
        "model.factory returns embeds regions in its own way, or as crops. Expected one_pass or "
        "crops."
    )


def require_folder(encoder: Encoder, folder: Path | None, place: Path) -> Path:
    """Return a folder that `open_folder` opens: the model's own, or one that is written.

    Parameters
    ----------
    folder : Path or None - of the model
    place : Path - where to write a model that is no folder

    Raises
    ------
    ModelError
        The model cannot be written: code made it, and it has no ``save``.
    """
    if folder is not None and folder.is_dir():
        return folder
    if getattr(encoder, "model", None) is None or not hasattr(encoder, "save"):
        raise ModelError(
            "model.factory: what it returns has no model or no save; mitigation needs both, since "
            "it trains copies of the model. Name a folder or a checkpoint instead."
        )
    encoder.save(place)
    return place
