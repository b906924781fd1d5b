"""The `Encoder` protocol, which every model fulfils, and an encoder that computes in bf16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ravl_med.regions.geometry import InputGeometry, ResizeMode


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """Facts about a model, for the report."""

    architecture: str  # towers, as a sentence part
    digest: str  # SHA-256 of weights and config
    image_size: int  # side of the square input in pixels
    resize_mode: ResizeMode
    mean: tuple[float, ...]  # normalisation of the input, by channel
    std: tuple[float, ...]
    region_pooling: str  # how regions are embedded
    embedding_size: int  # D
    parameters: int
    logit_scale: float | None = None  # factor of cosines
    logit_bias: float | None = None  # added to them; None but for models trained by a sigmoid
    digests: Mapping[str, str] = field(default_factory=dict)  # of weights, config, tokenizer
    answers: int = 0  # classes C that the model scores itself; 0: it is scored by cosines


class Encoder(Protocol):
    """A vision-language model with one space for images, regions and texts.

    All embeddings have unit norm. The model is in evaluation mode and keeps no gradient. `model`
    serves mitigation: ``visual`` is the image tower, (B, 3, S, S) to (B, D), and ``logit_scale``
    its parameter; the weights trained in it are those that `save` writes.
    """

    info: EncoderInfo
    device: torch.device
    model: Any

    def preprocess(self, pixels: NDArray[np.float32]) -> Tensor:
        """Turn a film (H, W) of 0 .. 1 into the model's input, float32 of shape (3, S, S)."""
        ...

    def geometry(self, height: int, width: int) -> InputGeometry:
        """Return the mapping of boxes from a stored film of that size to the input."""
        ...

    def encode_image(self, images: Tensor) -> Tensor:
        """Embed inputs (B, 3, S, S) as (B, D)."""
        ...

    def encode_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed inputs (B, 3, S, S) and their regions.

        Parameters
        ----------
        boxes : sequence of B tensors of shape (r_i, 4) - xyxy in input pixels

        Returns
        -------
        images : Tensor of shape (B, D)
        regions : Tensor of shape (sum of r_i, D)
        """
        ...

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as (T, D)."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights under the names that the model's own format gives them."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model, as it is now, into a folder that `open_model_folder` opens."""
        ...


class AnsweringEncoder(Encoder, Protocol):
    """An `Encoder` that scores the C classes of its task itself, in place of cosines."""

    def answer(self, images: Tensor) -> Tensor:
        """Score the classes for inputs (B, 3, S, S): logits (B, C)."""
        ...

    def answer_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Score the classes for regions of inputs alone: logits (sum of r_i, C)."""
        ...


def answering(encoder: Encoder) -> AnsweringEncoder | None:
    """Return an encoder that scores the classes itself as what it is; None for any other."""
    own = getattr(encoder.info, "answers", 0)  # which the user's own code may not know of
    return cast(AnsweringEncoder, encoder) if own else None


def pick_device(name: str) -> torch.device:
    """Return the device for ``auto``, ``cpu``, ``mps`` or ``cuda[:i]``."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def trained_model(encoder: Encoder) -> Any:
    """Return the model that mitigation trains; None where there is none, or none to be saved."""
    return getattr(encoder, "model", None) if hasattr(encoder, "save") else None


def in_precision(encoder: Encoder, precision: str) -> Encoder:
    """Return the encoder itself for ``fp32``, one that computes in bfloat16 for ``bf16``."""
    return HalfPrecisionEncoder(encoder) if precision == "bf16" else encoder


@contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """Let PyTorch compute in so many threads in the context; None changes nothing."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class WrappedEncoder:
    """An `Encoder` around another one, which does all that a subclass does not."""

    def __init__(self, inner: Encoder) -> None:
        self.inner = inner
        self.info: EncoderInfo = inner.info
        self.device: torch.device = inner.device
        self.model: Any = trained_model(inner)

    def preprocess(self, pixels: NDArray[np.float32]) -> Tensor:
        """Turn a film (H, W) of 0 .. 1 into the model's input, float32 of shape (3, S, S)."""
        return self.inner.preprocess(pixels)

    def geometry(self, height: int, width: int) -> InputGeometry:
        """Return the mapping of boxes from a stored film of that size to the input."""
        return self.inner.geometry(height, width)

    def encode_image(self, images: Tensor) -> Tensor:
        """Embed inputs (B, 3, S, S) as (B, D), unit norm."""
        return self.inner.encode_image(images)

    def encode_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed inputs (B, 3, S, S) as (B, D) and their regions as (sum of r_i, D), unit norm."""
        return self.inner.encode_regions(images, boxes)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as (T, D), unit norm."""
        return self.inner.encode_text(texts)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights, where the inner encoder gives them."""
        return self.inner.state_dict()

    def save(self, folder: Path) -> None:
        """Write the model as the inner encoder does."""
        self.inner.save(folder)


class HalfPrecisionEncoder(WrappedEncoder):
    """An `Encoder` that multiplies in bfloat16; its embeddings are float32."""

    def encode_image(self, images: Tensor) -> Tensor:
        """Embed inputs (B, 3, S, S) as (B, D), unit norm."""
        with self._half():
            embedded = super().encode_image(images)
        return functional.normalize(embedded.float(), dim=-1)

    def encode_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed inputs (B, 3, S, S) as (B, D) and their regions as (sum of r_i, D), unit norm."""
        with self._half():
            whole, regions = super().encode_regions(images, boxes)
        return (
            functional.normalize(whole.float(), dim=-1),
            functional.normalize(regions.float(), dim=-1),
        )

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as (T, D), unit norm."""
        with self._half():
            embedded = super().encode_text(texts)
        return functional.normalize(embedded.float(), dim=-1)

    def _half(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16)
