"""open_clip models: a local folder, ``open_clip_config.json`` beside safetensors weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.config import RegionPooling
from ravl_med.encoders.base import EncoderInfo
from ravl_med.encoders.local_files import digest_files, join_digests, read_json, read_weights
from ravl_med.encoders.open_clip_models import (
    build_model,
    build_tokenizer,
    check_layout,
    load_state,
)
from ravl_med.encoders.region_pooling import region_pooling_of
from ravl_med.encoders.text_files import TextFiles, find_text_files, tokenizer_files
from ravl_med.errors import ModelError
from ravl_med.regions.geometry import InputGeometry

__all__ = ["OpenClipEncoder", "open_model", "save_model"]

_CONFIG = "open_clip_config.json"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pth")
_SUBFOLDER = "text_tower"


class OpenClipEncoder:
    """An open_clip model as an `Encoder`.

    Parameters
    ----------
    model : nn.Module - of open_clip, with its weights
    tokenizer : callable - list of str to (T, L)
    layout : mapping - content of ``open_clip_config.json``
    text : TextFiles - of its text tower
    digests : mapping of str to str - of weights and config
    device : torch.device
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        layout: Mapping[str, Any],
        text: TextFiles,
        digests: Mapping[str, str],
        device: torch.device,
    ) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        model.eval()
        model.visual.to(memory_format=torch.channels_last)  # convolutions on CPU: a third faster
        self.model = model.to(device)
        self.device = device
        self._tokenizer, self._layout, self._text = tokenizer, layout, text
        settings = PreprocessCfg(**model.visual.preprocess_cfg)
        self._transform = image_transform_v2(settings, is_train=False)
        pooling, self._pool = region_pooling_of(model.visual)
        size, bias = settings.size, getattr(model, "logit_bias", None)
        parts = {**digests, "tokenizer": _tokenizer_digest(text)}
        self.info = EncoderInfo(
            architecture=_architecture(model, layout),
            digest=join_digests(parts.values()),
            image_size=int(size[0] if isinstance(size, (tuple, list)) else size),
            resize_mode=settings.resize_mode or "shortest",
            mean=tuple(float(v) for v in settings.mean),
            std=tuple(float(v) for v in settings.std),
            region_pooling=pooling,
            embedding_size=int(layout["model_cfg"]["embed_dim"]),
            parameters=sum(p.numel() for p in model.parameters()),
            logit_scale=float(model.logit_scale.detach().exp()),
            logit_bias=None if bias is None else float(bias.detach()),
            digests=parts,
        )

    def pool_regions_by(self, how: RegionPooling) -> None:
        """Choose how regions are embedded, see `region_pooling_of`."""
        pooling, self._pool = region_pooling_of(self.model.visual, how)
        self.info = replace(self.info, region_pooling=pooling)

    def preprocess(self, pixels: NDArray[np.float32]) -> Tensor:
        """Turn a film (H, W) of 0 .. 1 into the model's input, float32 of shape (3, S, S)."""
        gray = np.rint(pixels * 255.0).astype(np.uint8)
        image: Tensor = self._transform(Image.fromarray(gray))
        return image

    def geometry(self, height: int, width: int) -> InputGeometry:
        """Return the path of boxes from a stored film of that size to the input."""
        return InputGeometry.of(height, width, self.info.image_size, self.info.resize_mode)

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        """Embed inputs (B, 3, S, S) as (B, D), unit norm."""
        embedded: Tensor = self.model.encode_image(images.to(self.device), normalize=True)
        return embedded

    @torch.inference_mode()
    def encode_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed inputs (B, 3, S, S) as (B, D) and their regions as (sum of r_i, D), unit norm."""
        whole, regions = self._pool(self.model.visual, images.to(self.device), boxes)
        return functional.normalize(whole, dim=-1), functional.normalize(regions, dim=-1)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as (T, D), unit norm."""
        tokens = self._tokenizer(list(texts)).to(self.device)
        embedded: Tensor = self.model.encode_text(tokens, normalize=True)
        return embedded

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights under the names of open_clip."""
        return dict(self.model.state_dict())

    def save(self, folder: Path) -> None:
        """Write the model, as it is now, into a folder that `open_model` opens."""
        save_model(self.model, dict(self._layout), folder)
        if self._text.config is not None:
            (folder / _SUBFOLDER).mkdir(exist_ok=True)
            shutil.copyfile(self._text.config / "config.json", folder / _SUBFOLDER / "config.json")
        for path in tokenizer_files(self._text.tokenizer) if self._text.tokenizer else ():
            shutil.copyfile(path, folder / path.name)  # where open_clip looks for them too


def open_model(folder: Path, device: torch.device) -> OpenClipEncoder:
    """Open an open_clip folder without touching the network.

    Raises
    ------
    ModelError
        The folder, its config, its weights or a part of its text tower are missing or are not what
        they should be.
    """
    key = "model.path"
    layout = _read_layout(folder)
    weights = _find_weights(folder)
    text = find_text_files(layout["model_cfg"]["text_cfg"], folder, key)
    model = build_model(layout, text, key)
    try:
        state = read_weights(weights, key)
    except ModelError as error:
        raise ModelError(
            f"{key}: the weights do not open as the model that {_CONFIG} describes:"
            f"{str(error).removeprefix(key + ':')}"
        ) from None
    load_state(model, state, key, _CONFIG)
    tokenizer = build_tokenizer(layout, text, key)
    described = [folder / _CONFIG, *([text.config / "config.json"] if text.config else [])]
    digests = {"weights": digest_files((weights,)), "config": digest_files(described)}
    return OpenClipEncoder(model, tokenizer, layout, text, digests, device)


def save_model(model: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """Write a model as a folder that `open_model` and ``open_clip`` (``local-dir:``) open.

    Parameters
    ----------
    model : nn.Module - a CLIP of open_clip
    config : dict - ``{"model_cfg": ..., "preprocess_cfg": ...}``
    folder : Path - is made; must be empty or absent
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / _CONFIG).write_text(text, encoding="utf-8")


def _read_layout(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelError(
            f"model.path: no such folder; expected a folder with {_CONFIG} and weights. Paths are "
            "relative to the config file."
        )
    if not (folder / _CONFIG).is_file():
        raise ModelError(
            f"model.path: the folder has no {_CONFIG}; expected one beside the weights."
        )
    try:
        layout = read_json(folder / _CONFIG, "model.path")
    except ModelError:
        layout = {}
    check_layout(layout, "model.path", _CONFIG)
    return layout


def _find_weights(folder: Path) -> Path:
    """Weights that open_clip would take, by its own order."""
    from open_clip.factory import _find_checkpoint_in_dir

    found = _find_checkpoint_in_dir(folder)
    if found is None:
        raise ModelError(
            f"model.path: no weights in the folder; expected a file of {', '.join(_WEIGHTS)}. "
            "Without them the model would be random."
        )
    return Path(found)


def _architecture(model: Any, layout: Mapping[str, Any]) -> str:
    visual, text = layout["model_cfg"]["vision_cfg"], layout["model_cfg"]["text_cfg"]
    tower = str(visual.get("timm_model_name") or type(model.visual).__name__)
    told = f"open_clip {type(model).__name__}, image tower {tower}"
    if visual.get("layers") is not None:
        told += f", layers {visual['layers']}"
    if text.get("hf_model_name"):
        told += f", text tower {str(text['hf_model_name'])[:80]}"
    return told


def _tokenizer_digest(text: TextFiles) -> str:
    from open_clip.tokenizer import default_bpe

    own = (Path(default_bpe()),)
    return digest_files(tokenizer_files(text.tokenizer) if text.tokenizer else own)
