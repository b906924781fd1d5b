"""Any model that the config names, opened from this machine alone: folder, checkpoint or code."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ravl_med.config.model import ModelConfig, PreprocessConfig, RegionPooling
from ravl_med.encoders import local_files
from ravl_med.encoders.base import Encoder, WrappedEncoder, trained_model
from ravl_med.encoders.huggingface import HuggingFaceEncoder, open_huggingface
from ravl_med.encoders.open_clip import (
    OpenClipEncoder,
    build_model,
    build_tokenizer,
    check_layout,
    load_state,
    open_model,
)
from ravl_med.encoders.region_pooling import CROPS, cut_crops
from ravl_med.errors import ModelError

_WEIGHTS_KEY = "model.weights"
_NEEDED = ("device", "encode_image", "encode_text", "geometry", "info", "preprocess")


def open_factory(config: ModelConfig, device: torch.device) -> Encoder:
    """Let the user's code make an encoder; one without ``encode_regions`` embeds regions as crops.

    Raises
    ------
    ModelError
        Code is not allowed, is not found, fails, or returns something else.
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
    return encoder if hasattr(encoder, "encode_regions") else CropEncoder(encoder)


class CropEncoder(WrappedEncoder):
    """An `Encoder` around one that only embeds whole images; each region costs a forward pass."""

    def __init__(self, inner: Encoder) -> None:
        super().__init__(inner)
        self.info = replace(inner.info, region_pooling=CROPS)

    def encode_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed inputs (B, 3, S, S) as (B, D) and their regions as (sum of r_i, D), unit norm."""
        whole = self.encode_image(images)
        regions = [whole[:0], *(self.encode_image(part) for part in cut_crops(images, boxes))]
        return whole, torch.cat(regions)


def open_encoder(config: ModelConfig, folder: Path | None, device: torch.device) -> Encoder:
    """Open the model of a config.

    `folder` is the model's folder (`path`, or the quickstart model's), or a checkpoint that was
    fetched from where `weights` points; None for any other.

    Raises
    ------
    ModelError
        See `open_model_folder`, `open_checkpoint` and `open_factory`; or its tower cannot embed
        regions in the way that the config asks for.
    """
    if config.weights is not None and folder is not None:
        config = config.model_copy(update={"weights": folder})
    elif folder is not None:
        return open_model_folder(folder, device, config.region_pooling)
    encoder = (
        open_checkpoint(config, device)
        if config.weights is not None
        else open_factory(config, device)
    )
    return _pooling_by(encoder, config.region_pooling)


def open_model_folder(
    folder: Path, device: torch.device, region_pooling: RegionPooling = "one_pass"
) -> Encoder:
    """Open a folder: open_clip's where it holds ``open_clip_config.json``, else Hugging Face's.

    Raises
    ------
    ModelError
        The folder is of neither kind, or does not open; or its tower cannot embed regions so.
    """
    if (folder / "config.json").is_file() and not (folder / "open_clip_config.json").is_file():
        return _pooling_by(open_huggingface(folder, device), region_pooling)
    return _pooling_by(open_model(folder, device), region_pooling)


def _pooling_by(encoder: Encoder, how: RegionPooling) -> Encoder:
    """Return an encoder that embeds regions in the given way."""
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
    """Return a folder for `open_model_folder`: the model's own, or `place`, where it is written.

    Raises
    ------
    ModelError
        The model cannot be written: code made it, and it has no ``save``.
    """
    if folder is not None and folder.is_dir():
        return folder
    if trained_model(encoder) is None:
        raise ModelError(
            "model.factory: what it returns has no model or no save; mitigation needs both, since "
            "it trains copies of the model. Name a folder or a checkpoint instead."
        )
    encoder.save(place)
    return place


def open_checkpoint(config: ModelConfig, device: torch.device) -> OpenClipEncoder:
    """Open a raw checkpoint: `weights`, with `architecture` or `layout`.

    Raises
    ------
    ModelError
        The architecture is unknown, a file is missing or wrong, or the weights belong to another
        architecture; the nearest is named.
    """
    assert isinstance(config.weights, Path)  # the config demands it; an object is fetched before
    layout, described = _layout(config)
    text = _text_files(config, layout)
    model = build_model(layout, text, _WEIGHTS_KEY)
    state = rename_weights(local_files.read_weights(config.weights, _WEIGHTS_KEY), config.keys)
    load_state(model, state, _WEIGHTS_KEY, described)
    tokenizer = build_tokenizer(layout, text, "model.text_tower")
    files = [path for path in (config.layout,) if path is not None]
    files += [text.config / "config.json"] if text.config else []
    digests = {
        "weights": local_files.digest_files((config.weights,)),
        "config": local_files.join_digests(
            [repr(layout), repr(sorted(config.keys.items())), local_files.digest_files(files)]
        ),
    }
    return OpenClipEncoder(model, tokenizer, layout, text, digests, device)


def rename_weights(
    state: Mapping[str, Tensor], keys: Mapping[str, str | None]
) -> dict[str, Tensor]:
    """Rename weights by the longest prefix of `keys` that fits; None drops them.

    Raises
    ------
    ModelError
        A prefix fits no weight, or two weights get one name.
    """
    ordered = sorted(keys, key=len, reverse=True)
    used, renamed = set(), {}
    for name, value in state.items():
        start = next((key for key in ordered if name.startswith(key)), None)
        new: str | None = name
        if start is not None:
            used.add(start)
            put = keys[start]
            new = None if put is None else put + name.removeprefix(start)
        if new is None:
            continue
        if new in renamed:
            raise ModelError(f"model.keys: two weights would be called {new[:80]!r}; expected one.")
        renamed[new] = value
    unused = [key for key in keys if key not in used]
    if unused:
        begun = sorted({name.split(".")[0] for name in state})
        raise ModelError(
            f"model.keys: no weight begins with {unused[0][:80]!r}; the names begin with "
            f"{', '.join(begun[:8])}."
        )
    return renamed


def _layout(config: ModelConfig) -> tuple[dict[str, Any], str]:
    """Return the content of an open_clip_config.json, and how messages call it."""
    import open_clip

    if config.layout is not None:
        layout = local_files.read_json(config.layout, "model.layout")
        layout = layout if "model_cfg" in layout else {"model_cfg": layout}
        described = "model.layout"
    else:
        name = str(config.architecture)
        known = open_clip.get_model_config(name) if ":" not in name else None
        if known is None:
            raise ModelError(f"model.architecture: open_clip has no {name[:80]!r}{_near(name)}")
        layout, described = {"model_cfg": known}, f"the architecture {name!r}"
    check_layout(layout, "model.layout", "the file")
    model = layout["model_cfg"]
    if config.quick_gelu is not None:
        model["quick_gelu"] = config.quick_gelu
    given = config.preprocess
    if given is not None or "preprocess_cfg" not in layout:
        settings = given or PreprocessConfig()
        if settings.size is not None:
            model["vision_cfg"]["image_size"] = _size(settings.size, model["vision_cfg"])
        layout["preprocess_cfg"] = {
            **settings.model_dump(exclude={"size"}),
            "size": model["vision_cfg"].get("image_size", 224),
        }
    return layout, described


def _size(size: int, vision: Mapping[str, Any]) -> int:
    """Return the side of the input, which must divide into the tower's patches."""
    cells = 32 if isinstance(vision.get("layers"), (list, tuple)) else vision.get("patch_size", 16)
    if "timm_model_name" not in vision and size % int(cells):
        raise ModelError(
            f"model.preprocess.size: {size} pixels do not divide into patches of {cells}; expected "
            f"a multiple, such as {max(1, round(size / int(cells))) * int(cells)}."
        )
    return size


def _near(name: str) -> str:
    import difflib

    import open_clip

    near = difflib.get_close_matches(name, open_clip.list_models(), n=1, cutoff=0.5)
    return f". Did you mean {near[0]!r}?" if near else "; expected a name of its built-in list."


def _text_files(config: ModelConfig, layout: Mapping[str, Any]) -> local_files.TextFiles:
    """Find the text tower's files in the folder that the config names for them."""
    text = layout["model_cfg"]["text_cfg"]
    needed = text.get("hf_model_name") or text.get("hf_tokenizer_name")
    if not needed:
        return local_files.TextFiles()
    if config.text_tower is None:
        raise ModelError(
            f"model.text_tower: the text tower or tokenizer {str(needed)[:80]!r} is a Hugging Face "
            "one; name the folder with its config.json and tokenizer. Nothing is fetched from the "
            "network."
        )
    folder: Path = config.text_tower
    if not folder.is_dir():
        raise ModelError("model.text_tower: no such folder; expected one with config.json.")
    return local_files.find_text_files(text, folder, "model.text_tower")
