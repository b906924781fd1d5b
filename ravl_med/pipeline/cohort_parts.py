"""The parts of a cohort that embeddings are made and kept by."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ravl_med.cache import Cache
from ravl_med.cohort.manifest import Cohort
from ravl_med.config import Config, RegionsConfig
from ravl_med.encoders.stored_films import films_a_part
from ravl_med.regions.proposal import choose_segmenter
from ravl_med.regions.tiles import window_names
from ravl_med.storage.files import for_each, stamp
from ravl_med.storage.remote_path import FilePath

__all__ = ["embeddings_root", "most_regions", "name_parts", "shared_root"]

_KIND = "embeddings"


def embeddings_root(config: Config, cache: Cache) -> Path | None:
    """Return where embeddings are kept; None where they are not.

    Of a model that code makes only that code knows whether it is still the same.
    """
    kept = config.cache.embeddings and config.model.factory is None
    return cache.root / _KIND if kept else None


def shared_root(config: Config) -> FilePath | None:
    """Return where embeddings are put that other machines take; None where they are not."""
    kept = config.cache.shared is not None and config.model.factory is None
    return config.cache.shared / _KIND if kept and config.cache.shared is not None else None


def most_regions(config: RegionsConfig) -> int:
    """Return how many regions a film can have."""
    tiles = config.tiles[0] * config.tiles[1]
    most = tiles if "tiles" in config.sources else 0
    if "windows" in config.sources:
        windows = config.windows
        most += sum(len(window_names(side, windows.step)) for side in windows.sides)
    if set(config.sources) - {"tiles", "windows"}:
        most += config.max_per_image
    return max(most, tiles)  # a film without any region takes tiles


def name_parts(config: Config, cohort: Cohort) -> tuple[str, ...]:
    """Name the parts of a cohort by its files, and by how they are read and cut into regions.

    A file counts as the same while its path, size and time of change are, or its entity tag where
    it is an object; its pixels are not read.

    Raises
    ------
    ConfigError, StorageError
        Films lie in a storage that denies access, or does not answer.
    """
    settings = hashlib.sha256(config.regions.model_dump_json().encode())
    settings.update(config.cohort.model_dump_json(exclude={"workers"}).encode())
    if {"anatomy", "artifacts"} & set(config.regions.sources):
        settings.update(choose_segmenter(config.regions).digest.encode())
    if config.regions.annotations is not None:
        settings.update(stamp(config.regions.annotations).encode())
    own = cohort.annotations or ((),) * len(cohort)
    files = zip(cohort.paths, own, strict=True)
    stamps = for_each(stamp, (file for film, more in files for file in (film, *more)))
    names = []
    part = films_a_part(config.model.batch_size)
    for start in range(0, len(cohort), part):
        hasher = settings.copy()
        for film in range(start, min(start + part, len(cohort))):
            frame = cohort.frames[film] if cohort.frames else None
            told = [next(stamps) for _ in range(1 + len(own[film]))]
            hasher.update(f"{frame} {told}\n".encode())
        names.append(hasher.hexdigest()[:32])
    return tuple(names)
