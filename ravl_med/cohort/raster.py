"""PNG and JPEG films."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ravl_med.cohort.reading_policy import DEFAULT_POLICY, ReadingPolicy
from ravl_med.errors import ImageError

__all__ = ["read_raster"]


def read_raster(
    path: Path, policy: ReadingPolicy = DEFAULT_POLICY
) -> tuple[NDArray[np.float32], str]:
    """Read one PNG or JPEG film as grayscale; colour is averaged by luma, alpha is dropped.

    Parameters
    ----------
    path : Path
    policy : ReadingPolicy
        Its limit of pixels; a film beyond it is refused before decoding.

    Returns
    -------
    pixels : ndarray of shape (H, W), float32
        0 to 1 of the full range of the stored depth (8 or 16 bit), stored matrix.
    applied : str

    Raises
    ------
    ImageError
        With a reason code: ``too_large``, ``undecodable``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # size is judged below, odd chunks are not read
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                return _gray(image, policy.limits.max_pixels)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("undecodable", "not a PNG or JPEG image.") from None
    except Image.DecompressionBombError:
        raise ImageError("too_large", "more pixels than Pillow opens; make it smaller.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(
            "undecodable", f"the image cannot be decoded ({type(error).__name__}); truncated?"
        ) from None


def _gray(image: Image.Image, max_pixels: int) -> tuple[NDArray[np.float32], str]:
    if image.width * image.height > max_pixels:
        raise ImageError(
            "too_large",
            f"{image.height} x {image.width} pixels; expected at most {max_pixels} "
            "(cohort.max_pixels).",
        )
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float32)
        return np.clip(values / 65535.0, 0.0, 1.0).astype(np.float32), "16-bit"
    mode = image.mode
    gray = np.asarray(image.convert("RGB").convert("L"), dtype=np.float32)
    return gray / np.float32(255.0), "8-bit" if mode == "L" else f"8-bit from {mode}"
