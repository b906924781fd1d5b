"""A model that is an object in memory, as an `Encoder`.

What open_clip or Hugging Face made, with its tokenizer or processor, is embedded as if it had come
from a folder. Anything else needs two methods, ``encode_image`` and ``encode_text``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from ravl_med.encoders.base import Encoder, EncoderInfo
from ravl_med.encoders.local_files import TextFiles
from ravl_med.encoders.open_clip import Layout, OpenClipEncoder
from ravl_med.encoders.opening import CropEncoder
from ravl_med.errors import ModelError
from ravl_med.regions.geometry import InputGeometry

_METHODS = ("encode_image", "encode_text")
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_PROBED = 4  # inputs whose answers stand for a model without weights


def encoder_of(model: Any, device: torch.device) -> Encoder:
    """Return an object as an `Encoder`.

    It is one already; or it has ``encode_image``, (B, 3, S, S) float32 to (B, D), and
    ``encode_text``, a list of str to (T, D), of tensors or arrays. It may have ``image_size`` (S,
    default 224), ``mean`` and ``std`` of the channels (default CLIP's, films being 0 to 1), and
    ``feature_map``, (B, 3, S, S) to (B, D, h, w) in the space of the embeddings, of which regions
    are means; without it each region costs a forward pass. open_clip's come as (model, tokenizer).

    Raises
    ------
    ModelError
        It is no such object.
    """
    if all(hasattr(model, name) for name in ("info", "preprocess", "geometry", "device")):
        found: Encoder = model if hasattr(model, "encode_regions") else CropEncoder(model)
        return found
    tokenizer = None
    if isinstance(model, (tuple, list)) and len(model) == 2:
        model, tokenizer = model
    if hasattr(getattr(model, "visual", None), "preprocess_cfg"):  # as open_clip makes them
        return _of_open_clip(model, tokenizer, device)
    missing = [name for name in _METHODS if not callable(getattr(model, name, None))]
    if missing:
        raise ModelError(
            f"model: {type(model).__name__} has no {' and no '.join(missing)}; expected a folder, "
            "(model, processor) of Hugging Face, (model, tokenizer) of open_clip, or an object "
            "with both methods."
        )
    made = ObjectEncoder(model, tokenizer, device)
    return made if made.has_map else CropEncoder(made)


def _of_open_clip(model: Any, tokenizer: Any, device: torch.device) -> Encoder:
    """Return a model of open_clip as from its folder: its preprocessing, its region pooling."""
    if not callable(tokenizer):
        raise ModelError(
            f"model: {type(model).__name__} came without its tokenizer; expected (model, "
            "tokenizer), as open_clip.get_tokenizer returns it."
        )
    size = model.visual.preprocess_cfg["size"]
    side = int(size[0] if isinstance(size, (tuple, list)) else size)
    model.eval().to(device)
    with torch.no_grad():
        answer = model.encode_image(torch.zeros((1, 3, side, side), device=device))
    parts: Layout = {"embed_dim": answer.shape[1], "vision_cfg": {}, "text_cfg": {}}
    digests = {"weights": _digest(dict(model.state_dict()), answer)}
    return _InMemory(model, tokenizer, {"model_cfg": parts}, TextFiles(), digests, device)


def save_huggingface(model: Any, folder: Path) -> bool:
    """Write (model, processor) of Hugging Face into a folder; False for anything else.

    Raises
    ------
    ModelError
        The processor is missing.
    """
    pair = isinstance(model, (tuple, list)) and len(model) == 2
    first, processor = model if pair else (model, None)
    if not hasattr(first, "save_pretrained") or not hasattr(first, "config"):
        return False
    if processor is None or not hasattr(processor, "save_pretrained"):
        raise ModelError(
            f"model: {type(first).__name__} came without its processor; expected (model, "
            "processor), as films have to be resized and texts cut into tokens as it was trained."
        )
    first.save_pretrained(folder)
    processor.save_pretrained(folder)
    return True


class _InMemory(OpenClipEncoder):
    """A model of open_clip whose layout is not known."""

    def save(self, folder: Path) -> None:
        """Refuse, see `refuse_to_save`."""
        refuse_to_save()


def refuse_to_save() -> Never:
    """Refuse to write an object into a folder: nobody knows how to open it again (ModelError)."""
    raise ModelError(
        "model: an object in memory cannot be written into a folder; mitigation needs a folder or "
        "a checkpoint."
    )


class ObjectEncoder:
    """An `Encoder` around an object with ``encode_image`` and ``encode_text``."""

    def __init__(self, model: Any, tokenizer: Any, device: torch.device) -> None:
        self.model, self.device, self._tokenizer = model, device, tokenizer
        if isinstance(model, torch.nn.Module):
            model.eval().to(device)
        visual = getattr(model, "visual", None)
        size = getattr(model, "image_size", getattr(visual, "image_size", 224))
        self._size = int(size[0] if isinstance(size, (tuple, list)) else size)
        self._mean, self._std = (
            tuple(map(float, getattr(model, name, None) or getattr(visual, of, None) or usual))
            for name, of, usual in (
                ("mean", "image_mean", _CLIP_MEAN),
                ("std", "image_std", _CLIP_STD),
            )
        )
        self.has_map = callable(getattr(model, "feature_map", None))
        probe = torch.rand((_PROBED, 3, self._size, self._size), generator=torch.Generator())
        answer = self.encode_image(probe)
        weights = self.state_dict()
        self.info = EncoderInfo(
            architecture=type(model).__name__,
            digest=_digest(weights, answer),
            image_size=self._size,
            resize_mode="squash",
            mean=self._mean,
            std=self._std,
            region_pooling="mean of the object's feature map over the region",
            embedding_size=int(answer.shape[1]),
            parameters=sum(value.numel() for value in weights.values()),
        )

    def preprocess(self, pixels: NDArray[np.float32]) -> Tensor:
        """Turn a film (H, W) of 0 .. 1 into the model's input, float32 of shape (3, S, S)."""
        film = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))[None, None]
        size = (self._size, self._size)
        small = functional.interpolate(film, size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(one)[:, None, None] for one in (self._mean, self._std))
        return (small[0].expand(3, -1, -1) - mean) / std

    def geometry(self, height: int, width: int) -> InputGeometry:
        """Return the mapping of boxes from a stored film of that size to the input."""
        return InputGeometry.of(height, width, self._size, "squash")

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Embed inputs (B, 3, S, S) as (B, D), unit norm."""
        return self._unit(self.model.encode_image(images.to(self.device)), len(images))

    @torch.no_grad()
    def encode_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed inputs (B, 3, S, S) as (B, D) and their regions as (sum of r_i, D), unit norm."""
        maps = torch.as_tensor(self.model.feature_map(images.to(self.device))).float()
        scale = maps.shape[-1] / self._size
        own = [one.to(maps.device, torch.float32) for one in boxes]
        regions = roi_align(maps, own, 1, scale, 2, aligned=True).flatten(1)
        return self.encode_image(images), functional.normalize(regions, dim=-1)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as (T, D), unit norm."""
        given: Any = list(texts)
        if self._tokenizer is not None:
            given = self._tokenizer(given).to(self.device)
        return self._unit(self.model.encode_text(given), len(texts))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights; none of an object that is no module."""
        return dict(self.model.state_dict()) if isinstance(self.model, torch.nn.Module) else {}

    def save(self, folder: Path) -> None:
        """Refuse, see `refuse_to_save`."""
        refuse_to_save()

    def _unit(self, embedded: Any, count: int) -> Tensor:
        found = torch.as_tensor(embedded).float()
        if found.ndim != 2 or len(found) != count:
            raise ModelError(
                f"model: {type(self.model).__name__} embedded {count} inputs as an array of shape "
                f"{tuple(found.shape)}; expected ({count}, D)."
            )
        return functional.normalize(found, dim=-1)


def _digest(weights: dict[str, Tensor], answer: Tensor) -> str:
    """Return the SHA-256 of a model's weights, or of its answers where it has none to show."""
    digest = hashlib.sha256()
    for name, value in weights.items() or {"answer": answer}.items():
        digest.update(name.encode())
        digest.update(
            value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()
