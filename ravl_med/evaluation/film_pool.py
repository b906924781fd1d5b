"""Films of one domain and seed, without any thing on them, and what can plant things there.

A pool is made once for each domain and seed and shared by all settings that are drawn from it;
films lie in the cache and are mapped, not read. Every film is a square of `SIDE` pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.errors import ConfigError
from ravl_med.evaluation.painted_things import (
    GLOBAL,
    PAINTED,
    RECTANGLES,
    Planted,
    brighten,
    paint_films,
)
from ravl_med.evaluation.phantom_films import phantom_layer
from ravl_med.evaluation.pool_films import (
    PoolFilms,
    read_bundled_digits,
    read_idx_digits,
    read_radiographs,
    set_aside,
)
from ravl_med.evaluation.settings import Domain
from ravl_med.storage.cache import Cache

_DIGIT = "{}."
_PRETRAINED_ON = 0.3  # share of the patients to fine-tune on
_CLASSES: Mapping[Domain, Mapping[str, tuple[str, ...]]] = {
    "phantoms": {
        "cardiomegaly": ("Cardiomegaly.", "The heart is enlarged."),
        "pleural effusion": ("Pleural effusion.", "Blunted costophrenic angle with effusion."),
        "pneumothorax": ("Pneumothorax.", "Pneumothorax with a visible pleural line."),
        "consolidation": ("Consolidation.", "Focal airspace consolidation."),
        "no finding": ("No acute cardiopulmonary abnormality.", "Normal chest radiograph."),
    },
    "radiographs": {
        "present": ("The finding is present.", "Finding present."),
        "absent": ("The finding is absent.", "No finding of that kind."),
    },
}
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, slots=True)
class FilmSources:
    """Folders that the user names; None where there is none.

    Attributes
    ----------
    radiographs : Path or None - with metadata.csv and images/
    mnist : Path or None - with the IDX files of MNIST, or of what is stored like it
    """

    radiographs: Path | None = None
    mnist: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FilmPool:
    """Films of a domain and what can be planted on them.

    Attributes
    ----------
    prompts : mapping of class to texts - in the order of the labels
    layer : callable or None - name of a rendered thing to all films with it, where there are any
    """

    domain: Domain
    seed: int
    prompts: Mapping[str, tuple[str, ...]]
    films: PoolFilms
    layer: Callable[[str], Planted] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.prompts)

    @property
    def digest(self) -> str:
        """SHA-256 of pixels, labels and splits."""
        digest = hashlib.sha256()
        for part in (self.films.pixels, self.films.labels, self.films.split):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def plant(
        self, thing: str, rows: NDArray[np.int64], films: NDArray[np.uint8], turn: int
    ) -> Planted:
        """Plant a thing on films of the pool.

        Parameters
        ----------
        rows : ndarray of shape (n,), int64 - films of the pool
        films : ndarray of shape (n, S, S), uint8 - those films as they are by now
        turn : int - which of several things on one film this is

        Returns
        -------
        Planted - boxes and masks of the n films
        """
        if thing == GLOBAL:
            return brighten(films)
        if thing in PAINTED or thing in RECTANGLES:
            seeds = np.stack([np.full(len(rows), self.seed), np.full(len(rows), turn), rows], 1)
            return paint_films(thing, films, seeds)
        if self.layer is None:
            raise ConfigError(f"benchmark: {thing!r} cannot be planted on {self.domain}.")
        return _overlay(self.films.pixels, self.layer(thing), rows, films)


def open_pool(domain: Domain, seed: int, cache: Cache, sources: FilmSources) -> FilmPool:
    """Return the films of a domain, making them when the cache lacks them.

    Raises
    ------
    ConfigError
        The domain needs a folder that was not named, or that holds something else.
    """
    if domain == "phantoms":

        def layer(thing: str) -> Planted:
            return phantom_layer(thing, seed, cache).planted

        films = phantom_layer("", seed, cache).films
        return FilmPool(domain, seed, _CLASSES[domain], _set_aside(films, seed), layer)
    if domain == "radiographs":
        if sources.radiographs is None:
            raise ConfigError("--films: radiographs need a folder with metadata.csv and images/.")
        # Too few patients to spare any: these models start from the seed.
        films = read_radiographs(sources.radiographs, seed)
        return FilmPool(domain, seed, _CLASSES[domain], films)
    prompts = {
        str(d): (_DIGIT.format(name.capitalize()), f"The digit {name}.")
        for d, name in enumerate(_NUMBERS)
    }
    if domain == "digits":
        return FilmPool(domain, seed, prompts, _set_aside(read_bundled_digits(seed), seed))
    if sources.mnist is None:
        raise ConfigError("--mnist: name the folder with the IDX files of MNIST.")
    return FilmPool(domain, seed, prompts, _set_aside(read_idx_digits(sources.mnist, seed), seed))


def _set_aside(films: PoolFilms, seed: int) -> PoolFilms:
    return set_aside(films, _PRETRAINED_ON, np.random.default_rng([seed, 45]))


def _overlay(
    plain: NDArray[np.uint8], layer: Planted, rows: NDArray[np.int64], films: NDArray[np.uint8]
) -> Planted:
    """Put a rendered thing on films: what it changed on the plain film is changed here too."""
    change = layer.pixels[rows].astype(np.int16) - plain[rows]
    pixels = np.clip(films.astype(np.int16) + change, 0, 255).astype(np.uint8)
    order = np.argsort(layer.film, kind="stable")
    starts = np.searchsorted(layer.film[order], rows)
    ends = np.searchsorted(layer.film[order], rows, side="right")
    taken = [order[a:b] for a, b in zip(starts, ends, strict=True)]
    film = np.repeat(np.arange(len(rows), dtype=np.int64), [len(part) for part in taken])
    boxes = layer.boxes[np.concatenate(taken).astype(np.int64)] if taken else layer.boxes[:0]
    masks = None if layer.masks is None else layer.masks[rows]
    return Planted(pixels, boxes, film, masks)
