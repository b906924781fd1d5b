"""Any model that the config names, opened from this machine alone."""

from __future__ import annotations

from pathlib import Path

import torch

from ravl_med.config import ModelConfig, RegionPooling
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.checkpoint import open_checkpoint
from ravl_med.encoders.foreign import CropEncoder, open_factory
from ravl_med.encoders.huggingface import HuggingFaceEncoder, open_huggingface
from ravl_med.encoders.open_clip import OpenClipEncoder, open_model
from ravl_med.errors import ModelError

__all__ = ["open_encoder", "open_folder", "require_folder"]


def open_encoder(config: ModelConfig, folder: Path | None, device: torch.device) -> Encoder:
    """Open the model of a config.

    Parameters
    ----------
    config : ModelConfig
    folder : Path or None - of the model, where it is one: `path`, or the quickstart model's; or a
        checkpoint, where it is not `weights` itself but was fetched from there
    device : torch.device

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
    encoder : Encoder
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
