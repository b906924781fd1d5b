"""open_clip models from a local folder: ``open_clip_config.json`` beside safetensors weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.encoders.base import EncoderInfo
from ravl_med.encoders.region_pooling import region_pooling_of
from ravl_med.errors import ModelError
from ravl_med.regions.geometry import InputGeometry

__all__ = ["OpenClipEncoder", "open_model", "save_model"]

_WEIGHTS = ("*.safetensors", "*.bin", "*.pth")


class OpenClipEncoder:
    """An open_clip model as an `Encoder`.

    Parameters
    ----------
    model : nn.Module - a CLIP of open_clip, in evaluation mode
    transform : callable - PIL image to (3, S, S), the model's own preprocessing
    tokenizer : callable - list of str to (T, L)
    config : dict - content of ``open_clip_config.json``
    digest : str - of weights and config
    device : torch.device
    """

    def __init__(
        self,
        model: Any,
        transform: Any,
        tokenizer: Any,
        config: dict[str, Any],
        digest: str,
        device: torch.device,
    ) -> None:
        self.model = model.to(device)
        self.device = device
        self._transform = transform
        self._tokenizer = tokenizer
        pooling, self._pool = region_pooling_of(model.visual)
        preprocess = model.visual.preprocess_cfg
        size = preprocess["size"]
        self.info = EncoderInfo(
            architecture=_architecture(model, config),
            digest=digest,
            image_size=int(size[0] if isinstance(size, (tuple, list)) else size),
            resize_mode=preprocess.get("resize_mode") or "shortest",
            mean=tuple(float(v) for v in preprocess["mean"]),
            std=tuple(float(v) for v in preprocess["std"]),
            region_pooling=pooling,
            embedding_size=int(config["model_cfg"]["embed_dim"]),
            parameters=sum(p.numel() for p in model.parameters()),
        )

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


def open_model(folder: Path, device: torch.device) -> OpenClipEncoder:
    """Open an open_clip folder without touching the network.

    Raises
    ------
    ModelError
        The folder, its config or its weights are missing or are not what they should be, or a
        tower would have to be fetched.
    """
    import open_clip

    config = _read_config(folder)
    weights = _find_weights(folder)
    _refuse_remote_parts(config)
    name = f"local-dir:{folder}"
    try:
        model, transform = open_clip.create_model_from_pretrained(
            name, device="cpu", weights_only=True
        )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # torch, safetensors and open_clip raise many types here
        raise ModelError(
            f"model.path: the weights do not open as the model that open_clip_config.json "
            f"describes ({type(error).__name__}); expected a safetensors file, or a state dict "
            "that loads with weights_only, saved from this architecture."
        ) from None
    model.eval()
    model.visual.to(memory_format=torch.channels_last)  # convolutions on CPU: a third faster
    _require_square(model.visual.preprocess_cfg["size"])
    return OpenClipEncoder(model, transform, tokenizer, config, _digest(folder, weights), device)


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
    (folder / "open_clip_config.json").write_text(text, encoding="utf-8")


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelError(
            "model.path: no such folder; expected a folder with open_clip_config.json and "
            "weights. Paths are relative to the config file."
        )
    try:
        config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
        embedding = config["model_cfg"]["embed_dim"]
        visual, text = config["model_cfg"]["vision_cfg"], config["model_cfg"]["text_cfg"]
    except FileNotFoundError:
        raise ModelError(
            "model.path: the folder has no open_clip_config.json; expected one beside the weights."
        ) from None
    except (ValueError, KeyError, TypeError, OSError):
        raise ModelError(
            "model.path: open_clip_config.json is not a config of open_clip; expected JSON with "
            "model_cfg.embed_dim, model_cfg.vision_cfg and model_cfg.text_cfg."
        ) from None
    if not (isinstance(embedding, int) and isinstance(visual, dict) and isinstance(text, dict)):
        raise ModelError("model.path: open_clip_config.json: model_cfg holds values of wrong type.")
    return dict(config)


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


def _refuse_remote_parts(config: dict[str, Any]) -> None:
    if "hf_model_name" in config["model_cfg"]["text_cfg"]:
        raise ModelError(
            "model.path: the text tower is a Hugging Face model "
            f"({str(config['model_cfg']['text_cfg']['hf_model_name'])[:80]!r}), whose config "
            "open_clip would fetch from the network; expected a text tower of open_clip."
        )
    tower = str(config["model_cfg"]["vision_cfg"].get("timm_model_name") or "")
    if ":" in tower:  # timm's schemas: hf-hub:, local-dir:
        raise ModelError(
            f"model.path: the image tower {tower[:80]!r} is one that timm would fetch from "
            "elsewhere; expected the plain name of an architecture."
        )


def _require_square(size: Any) -> None:
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height != width:
        raise ModelError(
            f"model.path: the model's input is {height} x {width} pixels; expected a square."
        )


def _architecture(model: Any, config: dict[str, Any]) -> str:
    visual = config["model_cfg"]["vision_cfg"]
    tower = str(visual.get("timm_model_name") or type(model.visual).__name__)
    return f"open_clip {type(model).__name__}, image tower {tower}, layers {visual.get('layers')}"


def _digest(folder: Path, weights: Path) -> str:
    hasher = hashlib.sha256()
    for path in (folder / "open_clip_config.json", weights):
        with path.open("rb") as stream:
            hasher.update(hashlib.file_digest(stream, "sha256").digest())
    return hasher.hexdigest()
