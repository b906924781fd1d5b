"""Films of a split as `film_keeping` has left them in files, joined into one split."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from ravl_med.cohort.film import reject_duplicate
from ravl_med.cohort.manifest import Cohort, RejectedFilm
from ravl_med.encoders.base import Encoder
from ravl_med.mitigation.film_shards import FilmShards

__all__ = ["ARRAYS", "GRAY", "KeptFilms", "is_whole", "join_files"]

ARRAYS = ".safetensors"
"""Ending of the files with what is known of films; the second of the two of a unit."""

GRAY = ".gray"
"""Ending of the files with their gray levels."""

_JOINED: dict[str, NDArray[Any]] = {
    "position": np.empty(0, np.int64),
    "digest": np.empty((0, 32), np.uint8),
    "size": np.empty((0, 2), np.int64),
    "count": np.empty(0, np.int64),
    "box": np.empty((0, 4), np.float32),
    "input_box": np.empty((0, 4), np.float32),
}


@dataclass(frozen=True, slots=True, eq=False)
class KeptFilms:
    """N films of a split as they lie in files, with R regions.

    Attributes
    ----------
    files : tuple of Path - what is known of the films
    taken : tuple of ndarray of bool - films of each file that are among the N
    shards : FilmShards - gray levels of all films in the files
    rows : ndarray of shape (N,), int64 - those of the shards that are the N films
    positions : ndarray of shape (N,), int64 - in the cohort
    digests : tuple of str, length N - SHA-256 of the pixels
    sizes : ndarray of shape (N, 2), int64 - height and width of the stored matrix
    counts : ndarray of shape (N,), int64 - regions of each film
    boxes, input_boxes : ndarray of shape (R, 4), float32 - xyxy in stored and in input pixels
    rejected : tuple of RejectedFilm - those that could not be read, are there twice, or of which
        the model says NaN or infinity
    """

    files: tuple[Path, ...]
    taken: tuple[NDArray[np.bool_], ...]
    shards: FilmShards
    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
    digests: tuple[str, ...]
    sizes: NDArray[np.int64]
    counts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    input_boxes: NDArray[np.float32]
    rejected: tuple[RejectedFilm, ...]

    def region_parts(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield the embeddings (r, D) of some regions at a time, and which of the R they are."""
        start = 0
        for path, taken in zip(self.files, self.taken, strict=True):
            with safe_open(path, framework="numpy") as stored:
                regions = stored.get_tensor("region")[np.repeat(taken, stored.get_tensor("count"))]
            yield slice(start, start + len(regions)), regions
            start += len(regions)

    def images(self) -> NDArray[np.float32]:
        """Read the embeddings of all films, (N, D)."""
        parts = []
        for path, taken in zip(self.files, self.taken, strict=True):
            with safe_open(path, framework="numpy") as stored:
                parts.append(stored.get_tensor("image")[taken])
        images: NDArray[np.float32] = np.concatenate(parts)
        return images


def is_whole(path: Path, encoder: Encoder) -> bool:
    """Whether both files of a unit are there as they were written."""
    try:
        with safe_open(path, framework="numpy") as stored:
            films, regions = len(stored.get_tensor("position")), stored.get_tensor("count").sum()
            size = encoder.info.embedding_size
            alike = stored.get_slice("region").get_shape() == [int(regions), size]
        gray = path.with_suffix(GRAY).stat().st_size
    except Exception:  # not there; safetensors raises a type of its own for what is damaged
        return False
    return alike and gray == films * encoder.info.image_size**2


def join_files(cohort: Cohort, paths: Sequence[Path], side: int) -> KeptFilms:
    """Join files as one run would have read them: each digest is let through once."""
    seen: set[bytes] = set()
    taken: list[NDArray[np.bool_]] = []
    kept: dict[str, list[NDArray[Any]]] = {name: [like] for name, like in _JOINED.items()}
    rejected: list[RejectedFilm] = []
    for path in paths:
        with safe_open(path, framework="numpy") as stored:
            arrays = {name: stored.get_tensor(name) for name in (*kept, "finite")}
            told = json.loads(stored.metadata()["rejected"])
        rejected += [RejectedFilm(int(row), reason, text) for row, reason, text in told]
        own = np.ones(len(arrays["position"]), dtype=np.bool_)
        for at, position in enumerate(arrays["position"].tolist()):
            key = arrays["digest"][at].tobytes()
            if key in seen:
                rejected.append(reject_duplicate(cohort, position))
            elif not arrays["finite"][at]:
                rejected.append(_not_finite(cohort, position))
            own[at] = key not in seen and arrays["finite"][at]
            seen.add(key)
        of_region = np.repeat(own, arrays["count"])
        for name in kept:
            kept[name].append(arrays[name][of_region if name.endswith("box") else own])
        taken.append(own)
    joined = {name: np.concatenate(parts) for name, parts in kept.items()}
    gray = [path.with_suffix(GRAY) for path in paths]
    return KeptFilms(
        files=tuple(paths),
        taken=tuple(taken),
        shards=FilmShards(gray, [len(own) for own in taken], side),
        rows=np.flatnonzero(np.concatenate([np.empty(0, np.bool_), *taken])),
        positions=joined["position"],
        digests=tuple(digest.tobytes().hex() for digest in joined["digest"]),
        sizes=joined["size"],
        counts=joined["count"],
        boxes=joined["box"],
        input_boxes=joined["input_box"],
        rejected=tuple(rejected),
    )


def _not_finite(cohort: Cohort, position: int) -> RejectedFilm:
    row = int(cohort.rows[position])
    told = f"{cohort.name} row {row}: the model gives NaN or infinity for this film."
    return RejectedFilm(row, "not_finite", told)
