"""Real radiographs that the user names: a folder with ``metadata.csv`` and ``images/``.

The most frequent finding against all others is the task; frontal films alone are taken. There are
few such films, so each patient makes as many as any other, in another exposure and a little aside
each time: the tests exchange patients with as many films as each other. All films of a patient
stay in one split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from ravl_med.cohort.raster import read_raster
from ravl_med.errors import ConfigError, ImageError
from ravl_med.evaluation.controlled.pool_films import SIDE, PoolFilms, deal_splits

__all__ = ["read_radiographs"]

_SHARES = (0.4, 0.15)
_FILMS = 1600
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
    copies = -(-_FILMS // len(names))
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
    return PoolFilms(pixels, labels, patients, deal_splits(patients, labels, _SHARES, rng))


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
