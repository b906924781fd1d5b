"""What the films of every domain have in common: pixels, classes, patients and splits.

Digits in four quadrants, as RaVL plants its rectangle: one holds the digit, three are free.

scikit-learn brings 1,797 small digits along. MNIST, and what is stored like it, is read from the
IDX files in a folder that the user names. Some digits make two films, at two places; they are films
of one patient, so that no digit is in two splits.

Real radiographs that the user names: a folder with ``metadata.csv`` and ``images/``.

The most frequent finding against all others is the task; frontal films alone are taken. There are
few such films, so each patient makes as many as any other, in another exposure and a little aside
each time: the tests exchange patients with as many films as each other. All films of a patient
stay in one split.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from ravl_med.cohort.image_file import read_raster
from ravl_med.errors import ConfigError, ImageError

SIDE = 96
"""Side of a film in pixels."""

FINETUNE, VALIDATION, TEST, PRETRAIN = 0, 1, 2, 3
"""Splits: to fine-tune on, to audit, for the final test of a mitigation, and to pre-train on."""


@dataclass(frozen=True, slots=True, eq=False)
class PoolFilms:
    """N films without a thing.

    Attributes
    ----------
    pixels : ndarray of shape (N, SIDE, SIDE), uint8
    labels : ndarray of shape (N,), int64
    patients : ndarray of shape (N,), int64 - a patient has films of one class, in one split
    split : ndarray of shape (N,), int64 - `FINETUNE`, `VALIDATION`, `TEST` or `PRETRAIN`
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]
    split: NDArray[np.int64]

    def rows(self, split: int) -> NDArray[np.int64]:
        """Return the films of a split."""
        return np.flatnonzero(self.split == split).astype(np.int64)


def deal_splits(
    patients: NDArray[np.int64],
    labels: NDArray[np.int64],
    shares: tuple[float, float],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Deal whole patients out to the splits, class by class.

    Parameters
    ----------
    patients, labels : ndarray of shape (N,), int64
    shares : tuple of float - of the patients of each class to audit and to test; the rest is to
        fine-tune on

    Returns
    -------
    ndarray of shape (N,), int64
    """
    known, first = np.unique(patients, return_index=True)
    dealt = np.full(int(known.max()) + 1, FINETUNE, dtype=np.int64)
    for label in np.unique(labels):
        own = rng.permutation(known[labels[first] == label])
        audited = round(shares[0] * len(own))
        dealt[own[:audited]] = VALIDATION
        dealt[own[audited : audited + round(shares[1] * len(own))]] = TEST
    split: NDArray[np.int64] = dealt[patients]
    return split


def set_aside(films: PoolFilms, share: float, rng: np.random.Generator) -> PoolFilms:
    """Set a share of the patients to fine-tune on aside, to pre-train on."""
    rows = films.rows(FINETUNE)
    dealt = deal_splits(films.patients[rows], films.labels[rows], (share, 0.0), rng)
    split = films.split.copy()
    split[rows[dealt == VALIDATION]] = PRETRAIN
    return replace(films, split=split)


_DIGIT_SHARES = (0.3, 0.25)
_PATIENTS = 1797
_DIGIT_FILMS = 2200
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
    patients = np.concatenate([np.arange(len(images)), rng.permutation(len(images))])[:_DIGIT_FILMS]
    patients = np.sort(patients).astype(np.int64)
    split = deal_splits(patients, labels[patients], _DIGIT_SHARES, rng)
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


_RADIOGRAPH_SHARES = (0.4, 0.15)
_RADIOGRAPH_FILMS = 1600
_LEAST = 20  # patients of each class
_COLUMNS = ("patientid", "finding", "filename")
_FRONTAL = ("PA", "AP")
_GROWN = 1.14  # films are kept this much larger, so that they can be moved


def read_radiographs(folder: Path, seed: int) -> PoolFilms:
    """Return films of the radiographs in a folder.

    Parameters
    ----------
    folder : Path - ``metadata.csv`` with the columns patientid, finding, filename and, if there is
        one, view; the files lie in ``images/``
    seed : int - of splits and exposures

    Raises
    ------
    ConfigError
        The table is missing or lacks a column; too few patients of either class can be read.
    """
    table = _read_table(folder)
    kinds = table["finding"].str.split(",").str[0].str.strip()
    present = kinds == kinds.mode()[0]
    label_of = dict(zip(table["patientid"], (~present).astype(int), strict=True))
    kept: list[NDArray[np.uint8]] = []
    owners: list[str] = []
    for name, owner in zip(table["filename"], table["patientid"], strict=True):
        film = _read_film(folder / "images" / Path(name).name)
        if film is not None:
            kept.append(film)
            owners.append(owner)
    names, of_film = np.unique(owners, return_inverse=True)
    label = np.array([label_of[name] for name in names], dtype=np.int64)
    if len(np.bincount(label, minlength=2)) != 2 or np.bincount(label, minlength=2).min() < _LEAST:
        raise ConfigError(
            f"--films: frontal films of {int((label == 0).sum())} patients with the most frequent "
            f"finding and of {int((label == 1).sum())} others can be read; expected {_LEAST} each."
        )
    rng = np.random.default_rng([seed, 42])
    copies = -(-_RADIOGRAPH_FILMS // len(names))
    patients = np.repeat(np.arange(len(names), dtype=np.int64), copies)
    own = [np.flatnonzero(of_film == patient) for patient in range(len(names))]
    turns = np.tile(np.arange(copies), len(names))
    pixels = np.stack(
        [
            _expose(kept[own[patient][turn % len(own[patient])]], rng)
            for patient, turn in zip(patients, turns, strict=True)
        ]
    )
    labels = label[patients]
    return PoolFilms(
        pixels, labels, patients, deal_splits(patients, labels, _RADIOGRAPH_SHARES, rng)
    )


def _read_table(folder: Path) -> pd.DataFrame:
    path = folder / "metadata.csv"
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise ConfigError("--films: the folder has no metadata.csv.") from None
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise ConfigError(
            f"--films: metadata.csv cannot be read ({type(error).__name__})."
        ) from None
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise ConfigError(
            f"--films: metadata.csv has no column {missing[0]!r}; expected {', '.join(_COLUMNS)}."
        )
    if "view" in table:
        table = table[table["view"].str.startswith(_FRONTAL)]
    table = table[(table["finding"] != "") & (table["filename"] != "")]
    if table.empty:
        raise ConfigError("--films: metadata.csv lists no frontal film with a finding.")
    return table.reset_index(drop=True)


def _read_film(path: Path) -> NDArray[np.uint8] | None:
    """Film squashed to a square that is a little larger than `SIDE`; None where unreadable."""
    try:
        pixels, _ = read_raster(path)
    except ImageError:
        return None
    side = round(_GROWN * SIDE)
    gray = Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    squashed: NDArray[np.uint8] = np.asarray(gray.resize((side, side), Image.Resampling.BICUBIC))
    return squashed


def _expose(film: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Cut a square of `SIDE` out of a film and expose it anew."""
    room = len(film) - SIDE
    y, x = rng.integers(0, room + 1, 2)
    cut = film[y : y + SIDE, x : x + SIDE].astype(np.float32)
    exposed = cut * rng.uniform(0.88, 1.06) + rng.uniform(0, 10) + rng.normal(0, 2.0, cut.shape)
    gray: NDArray[np.uint8] = np.clip(exposed, 0, 255).astype(np.uint8)
    return gray
