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

__all__ = ["embeddings_root", "most_regions", "name_parts"]


def embeddings_root(config: Config, cache: Cache) -> Path | None:
    """Return where embeddings are kept; None where they are not.

    Of a model that code makes only that code knows whether it is still the same.
    """
    kept = config.cache.embeddings and config.model.factory is None
    return cache.root / "embeddings" if kept else None


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

    A file counts as the same while its path, size and time of change are; its pixels are not read.
    """
    settings = hashlib.sha256(config.regions.model_dump_json().encode())
    settings.update(config.cohort.model_dump_json(exclude={"workers"}).encode())
    if {"anatomy", "artifacts"} & set(config.regions.sources):
        settings.update(choose_segmenter(config.regions).digest.encode())
    if config.regions.annotations is not None:
        settings.update(_stamp(config.regions.annotations).encode())
    names = []
    part = films_a_part(config.model.batch_size)
    for start in range(0, len(cohort), part):
        hasher = settings.copy()
        for film in range(start, min(start + part, len(cohort))):
            frame = cohort.frames[film] if cohort.frames else None
            own = cohort.annotations[film] if cohort.annotations else ()
            told = [_stamp(path) for path in (cohort.paths[film], *own)]
            hasher.update(f"{frame} {told}\n".encode())
        names.append(hasher.hexdigest()[:32])
    return tuple(names)


def _stamp(path: Path) -> str:
    try:
        state = path.stat()
    except (OSError, ValueError):
        return f"{path} missing"
    return f"{path.absolute()} {state.st_size} {state.st_mtime_ns}"
