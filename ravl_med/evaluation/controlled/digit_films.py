"""Digits in four quadrants, as RaVL plants its rectangle: one holds the digit, three are free.

scikit-learn brings 1,797 small digits along. MNIST, and what is stored like it, is read from the
IDX files in a folder that the user names. Some digits make two films, at two places; they are films
of one patient, so that no digit is in two splits.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ravl_med.errors import ConfigError
from ravl_med.evaluation.controlled.pool_films import SIDE, PoolFilms, deal_splits

__all__ = ["read_bundled_digits", "read_idx_digits"]

_SHARES = (0.3, 0.25)
_PATIENTS = 1797
_FILMS = 2200
_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_MAGIC = {_FILES[0]: 2051, _FILES[1]: 2049}


def read_bundled_digits(seed: int) -> PoolFilms:
    """Return films of the digits that come with scikit-learn (8 x 8 pixels, grey of 0 to 16)."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8) * 255.0 / 16.0).astype(np.uint8)
    return _lay_out(images, labels.astype(np.int64), seed)


def read_idx_digits(folder: Path, seed: int) -> PoolFilms:
    """Return films of some of the digits of MNIST, or of what is stored like it.

    Raises
    ------
    ConfigError
        A file is missing or is not what it should be.
    """
    images, labels = (_read_idx(folder, name) for name in _FILES)
    if images.ndim != 3 or len(images) != len(labels) or len(images) < 100 or labels.max() > 9:
        raise ConfigError(
            f"--mnist: {_FILES[0]} holds {len(images)} images and {_FILES[1]} {len(labels)} labels;"
            " expected as many of both, at least 100, and labels of 0 to 9."
        )
    chosen = np.random.default_rng([seed, 40]).permutation(len(images))[:_PATIENTS]
    return _lay_out(images[chosen], labels[chosen].astype(np.int64), seed)


def _lay_out(images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int) -> PoolFilms:
    """Put each digit into a quadrant of its own film; some digits make two films."""
    rng = np.random.default_rng([seed, 41])
    patients = np.concatenate([np.arange(len(images)), rng.permutation(len(images))])[:_FILMS]
    patients = np.sort(patients).astype(np.int64)
    split = deal_splits(patients, labels[patients], _SHARES, rng)
    pixels = np.zeros((len(patients), SIDE, SIDE), dtype=np.uint8)
    half = SIDE // 2
    for film, patient in zip(pixels, patients, strict=True):
        size = int(rng.uniform(0.34, 0.43) * SIDE)
        gray = Image.fromarray(images[patient])
        digit = np.asarray(gray.resize((size, size), Image.Resampling.BICUBIC))
        x, y = rng.integers(0, 2, 2) * half + rng.integers(2, half - size - 2, 2)
        film[y : y + size, x : x + size] = digit
        film[:] = np.clip(film + rng.normal(6, 4, film.shape), 0, 255)
    return PoolFilms(pixels, labels[patients], patients, split)


def _read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            break
    else:
        raise ConfigError(f"--mnist: the folder has no {name}; expected it, or {name}.gz.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix else path.read_bytes()
        head = np.frombuffer(content[:16], dtype=">u4")
        dimensions = 3 if name == _FILES[0] else 1
        shape = [int(size) for size in head[1 : 1 + dimensions]]
        values = np.frombuffer(content[4 * (1 + dimensions) :], dtype=np.uint8).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError):
        raise ConfigError(f"--mnist: {path.name} is not an IDX file of bytes.") from None
    if int(head[0]) != _MAGIC[name]:
        raise ConfigError(f"--mnist: {path.name} is not an IDX file of bytes.")
    return values
