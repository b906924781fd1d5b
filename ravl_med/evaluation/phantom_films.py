"""Phantom films, each once without a thing and once with each: the same body, pose and noise.

What lies on a film is drawn from its own seeds, so that a film with a pulse generator differs from
the same film without one in the generator alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ravl_med import __version__
from ravl_med.evaluation.painted_things import Planted
from ravl_med.evaluation.pool_films import SIDE, PoolFilms
from ravl_med.phantoms.cohort import render_film
from ravl_med.phantoms.film import FINDINGS, Phantom
from ravl_med.phantoms.plan import SPLITS, FilmPlan, plan_cohort
from ravl_med.storage.cache import Cache

_FILMS = 2200  # 1000 to fine-tune on, 600 to audit, 600 to test
_LINES = {"tube": "tube", "generator": "lead", "electrode": "wire"}
"""Things of which a line is a part, or that are one: its pixels count beside the boxes."""


@dataclass(frozen=True, slots=True, eq=False)
class PhantomLayer:
    """All films of a seed with one thing, or with none.

    Attributes
    ----------
    planted : Planted - of the same films; without boxes where there is no thing
    """

    films: PoolFilms
    planted: Planted


def phantom_layer(thing: str, seed: int, cache: Cache) -> PhantomLayer:
    """Return the films of a seed with a thing, from the cache or newly rendered.

    Parameters
    ----------
    thing : str - out of `phantom_devices.FEATURES`; blank for none
    """
    recipe = {"version": __version__, "films": _FILMS, "side": SIDE, "seed": seed, "thing": thing}
    folder, _ = cache.folder("evaluation-films", recipe, partial(_write, thing, seed))

    def load(name: str) -> NDArray[Any]:
        values: NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return values

    pixels = load("pixels")
    films = PoolFilms(pixels, load("labels"), load("patients"), load("split"))
    masks = None
    if thing in _LINES:
        masks = np.unpackbits(load("masks"), axis=-1).astype(np.bool_)
    return PhantomLayer(films, Planted(pixels, load("boxes"), load("film"), masks))


def _write(thing: str, seed: int, folder: Path) -> None:
    for name, values in render_layer(thing, seed, _FILMS).items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)


def render_layer(thing: str, seed: int, films: int) -> dict[str, NDArray[Any]]:
    """Render all films of a seed with one thing.

    Parameters
    ----------
    thing : str - blank for none

    Returns
    -------
    dict - the arrays of `PoolFilms` and `Planted`; masks are packed along the last axis
    """
    plans = plan_cohort(films, "generator", FINDINGS[0], 0.0, seed)
    plans = [replace(plan, features=(thing,) if thing else ()) for plan in plans]
    parts = [plans[i : i + 50] for i in range(0, len(plans), 50)]
    work = partial(_render, thing=thing, seed=seed)
    if films < 200:
        done = [work(part) for part in parts]
    else:  # as many as the machine has: a film takes 8 ms
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            done = list(pool.map(work, parts))
    places = np.concatenate([box for _, boxes, _ in done for box in boxes])
    counts = [len(box) for _, boxes, _ in done for box in boxes]
    splits = list(SPLITS)
    return {
        "pixels": np.concatenate([pixels for pixels, _, _ in done]),
        "labels": np.array([FINDINGS.index(plan.finding) for plan in plans], dtype=np.int64),
        "patients": np.array([plan.acquisition.patient - 1 for plan in plans], dtype=np.int64),
        "split": np.array([splits.index(plan.split) for plan in plans], dtype=np.int64),
        "boxes": places.astype(np.float32),
        "film": np.repeat(np.arange(films, dtype=np.int64), counts),
        "masks": np.packbits(np.concatenate([masks for _, _, masks in done]), axis=-1),
    }


def _render(
    plans: Sequence[FilmPlan], *, thing: str, seed: int
) -> tuple[NDArray[np.uint8], list[NDArray[np.float64]], NDArray[np.bool_]]:
    """Pixels, boxes film by film, and masks of some films."""
    pixels = np.empty((len(plans), SIDE, SIDE), dtype=np.uint8)
    masks = np.zeros((len(plans), SIDE, SIDE), dtype=np.bool_)
    boxes = []
    for row, plan in enumerate(plans):
        phantom = render_film(plan, seed=seed, size=SIDE)
        height, width = phantom.pixels.shape
        gray = Image.fromarray(np.rint(phantom.pixels * 255).astype(np.uint8))
        pixels[row] = np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        stretch = np.array([SIDE / width, SIDE / height, SIDE / width, SIDE / height])
        boxes.append(_boxes(phantom, thing) * stretch)
        line = phantom.structures.get(_LINES.get(thing, ""))
        if line is not None:
            mask = Image.fromarray(line)
            masks[row] = np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.NEAREST))
    return pixels, boxes, masks


def _boxes(phantom: Phantom, thing: str) -> NDArray[np.float64]:
    own = [box[1:] for box in phantom.boxes if box[0] == thing != _LINES.get(thing)]
    return np.array(own, dtype=np.float64).reshape(-1, 4)
