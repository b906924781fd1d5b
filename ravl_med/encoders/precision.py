"""An encoder in another precision: bf16 where the device is faster at it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ravl_med.encoders.base import Encoder, EncoderInfo
from ravl_med.regions.geometry import InputGeometry

__all__ = ["HalfPrecisionEncoder", "in_precision", "using_threads"]


def in_precision(encoder: Encoder, precision: str) -> Encoder:
    """Return the encoder itself for ``fp32``, one that computes in bfloat16 for ``bf16``."""
    return HalfPrecisionEncoder(encoder) if precision == "bf16" else encoder


@contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """Let PyTorch compute in so many threads for a while; None leaves it as it is."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class HalfPrecisionEncoder:
    """An `Encoder` whose products are made in bfloat16; embeddings come out as float32.

    Parameters
    ----------
    inner : Encoder
    """

    def __init__(self, inner: Encoder) -> None:
        self.inner = inner
        self.info: EncoderInfo = inner.info
        self.device: torch.device = inner.device
        self.model: Any = getattr(inner, "model", None)

    def preprocess(self, pixels: NDArray[np.float32]) -> Tensor:
        """Turn a film (H, W) of 0 .. 1 into the model's input, float32 of shape (3, S, S)."""
        return self.inner.preprocess(pixels)

    def geometry(self, height: int, width: int) -> InputGeometry:
        """Return the path of boxes from a stored film of that size to the input."""
        return self.inner.geometry(height, width)

    def encode_image(self, images: Tensor) -> Tensor:
        """Embed inputs (B, 3, S, S) as (B, D), unit norm."""
        with self._half():
            embedded = self.inner.encode_image(images)
        return functional.normalize(embedded.float(), dim=-1)

    def encode_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed inputs (B, 3, S, S) as (B, D) and their regions as (sum of r_i, D), unit norm."""
        with self._half():
            whole, regions = self.inner.encode_regions(images, boxes)
        return (
            functional.normalize(whole.float(), dim=-1),
            functional.normalize(regions.float(), dim=-1),
        )

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as (T, D), unit norm."""
        with self._half():
            embedded = self.inner.encode_text(texts)
        return functional.normalize(embedded.float(), dim=-1)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights, which stay as they are."""
        return self.inner.state_dict()

    def save(self, folder: Path) -> None:
        """Write the model as the inner encoder does."""
        self.inner.save(folder)

    def _half(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16)
