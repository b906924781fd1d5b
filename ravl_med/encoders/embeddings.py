"""Embeddings of a cohort: films are read, cut into regions, preprocessed and encoded in batches.

One pass over the films; no film stays in memory longer than its batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med.cohort.film import Film
from ravl_med.cohort.manifest import RejectedFilm
from ravl_med.encoders.base import Encoder
from ravl_med.regions.region_set import RegionKind, RegionSet

__all__ = ["Embeddings", "embed_films"]

ProposeRegions = Callable[[Film], RegionSet]


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Image and region embeddings with the regions they belong to.

    Attributes
    ----------
    films : ndarray of shape (N,), int64 - position in the cohort of each film that was read
    digests : tuple of str, length N - SHA-256 of the pixels
    applied : tuple of str, length N - how stored values became pixels
    sizes : ndarray of shape (N, 2), int64 - height and width of the stored matrix
    image : ndarray of shape (N, D), float32 - unit norm
    region : ndarray of shape (R, D), float32 - unit norm
    region_image : ndarray of shape (R,), int64 - 0 .. N - 1, ascending
    region_boxes : ndarray of shape (R, 4), float32 - xyxy in stored pixels, half-open
    region_kind : ndarray of shape (R,), int64 - position in `kinds`
    kinds : tuple of RegionKind - all that there are
    unseen : int - regions left out because the model does not see them
    problems : mapping of str to int - what was to be a region and is none, by reason
    rejected : tuple of RejectedFilm
    not_finite : tuple of int - cohort indices of films for which the model gives NaN or infinity
    """

    films: NDArray[np.int64]
    digests: tuple[str, ...]
    applied: tuple[str, ...]
    sizes: NDArray[np.int64]
    image: NDArray[np.float32]
    region: NDArray[np.float32]
    region_image: NDArray[np.int64]
    region_boxes: NDArray[np.float32]
    region_kind: NDArray[np.int64]
    kinds: tuple[RegionKind, ...]
    unseen: int
    problems: Mapping[str, int]
    rejected: tuple[RejectedFilm, ...]
    not_finite: tuple[int, ...]


@dataclass(slots=True)
class _Batch:
    """Films that wait to be encoded together."""

    inputs: list[torch.Tensor] = field(default_factory=list)
    boxes: list[torch.Tensor] = field(default_factory=list)


def embed_films(
    encoder: Encoder,
    films: Iterable[Film | RejectedFilm],
    propose: ProposeRegions,
    *,
    min_visible: float,
    batch_size: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Embeddings:
    """Embed films and their regions.

    Parameters
    ----------
    encoder : Encoder
    films : iterable of Film or RejectedFilm - in cohort order
    propose : callable - film to its regions
    min_visible : float - regions of which the model sees a smaller share are left out
    batch_size : int - films encoded at once
    progress : callable - called with the number of films passed so far

    Returns
    -------
    Embeddings - without the films for which the model gives NaN or infinity; they are named
    """
    kept: list[tuple[int, str, str, int, int]] = []
    rejected: list[RejectedFilm] = []
    images: list[NDArray[np.float32]] = []
    regions: list[NDArray[np.float32]] = []
    boxes: list[NDArray[np.float32]] = []
    of_kind: list[int] = []
    kinds: dict[RegionKind, int] = {}
    unseen = 0
    problems: Counter[str] = Counter()
    batch = _Batch()
    for done, film in enumerate(films, start=1):
        progress(done)
        if isinstance(film, RejectedFilm):
            rejected.append(film)
            continue
        height, width = film.pixels.shape
        geometry = encoder.geometry(height, width)
        proposed = propose(film)
        problems.update(proposed.problems)
        share = geometry.visible_share(proposed.boxes)
        visible = proposed.take(np.flatnonzero((share >= min_visible) & (share > 0)).tolist())
        unseen += len(proposed) - len(visible)
        of_kind += [kinds.setdefault(kind, len(kinds)) for kind in visible.kinds]
        kept.append((film.index, film.digest, film.applied, height, width))
        boxes.append(visible.boxes)
        batch.inputs.append(encoder.preprocess(film.pixels))
        batch.boxes.append(torch.from_numpy(geometry.to_input(visible.boxes)))
        if len(batch.inputs) == batch_size:
            _encode(encoder, batch, images, regions)
            batch = _Batch()
    if batch.inputs:
        _encode(encoder, batch, images, regions)
    size = encoder.info.embedding_size
    counts = [len(part) for part in boxes]
    embeddings = Embeddings(
        films=np.array([row[0] for row in kept], dtype=np.int64),
        digests=tuple(row[1] for row in kept),
        applied=tuple(row[2] for row in kept),
        sizes=np.array([row[3:] for row in kept], dtype=np.int64).reshape(-1, 2),
        image=np.concatenate(images) if images else np.empty((0, size), np.float32),
        region=np.concatenate(regions) if regions else np.empty((0, size), np.float32),
        region_image=np.repeat(np.arange(len(kept), dtype=np.int64), counts),
        region_boxes=np.concatenate(boxes) if boxes else np.empty((0, 4), np.float32),
        region_kind=np.array(of_kind, dtype=np.int64),
        kinds=tuple(kinds),
        unseen=unseen,
        problems=dict(problems),
        rejected=tuple(rejected),
        not_finite=(),
    )
    return _only_finite(embeddings)


def _only_finite(embeddings: Embeddings) -> Embeddings:
    """Leave out the films with an embedding that holds NaN or infinity."""
    finite = np.asarray(np.isfinite(embeddings.image).all(axis=1))
    broken = ~np.isfinite(embeddings.region).all(axis=1)
    finite[embeddings.region_image[broken]] = False
    if finite.all():
        return embeddings
    kept, regions = np.flatnonzero(finite), np.flatnonzero(finite[embeddings.region_image])
    position = np.cumsum(finite) - 1
    return replace(
        embeddings,
        films=embeddings.films[kept],
        digests=tuple(embeddings.digests[i] for i in kept),
        applied=tuple(embeddings.applied[i] for i in kept),
        sizes=embeddings.sizes[kept],
        image=embeddings.image[kept],
        region=embeddings.region[regions],
        region_image=position[embeddings.region_image[regions]].astype(np.int64),
        region_boxes=embeddings.region_boxes[regions],
        region_kind=embeddings.region_kind[regions],
        not_finite=tuple(int(i) for i in embeddings.films[~finite]),
    )


def _encode(
    encoder: Encoder,
    batch: _Batch,
    images: list[NDArray[np.float32]],
    regions: list[NDArray[np.float32]],
) -> None:
    image, region = encoder.encode_regions(torch.stack(batch.inputs), batch.boxes)
    images.append(image.float().cpu().numpy())
    regions.append(region.float().cpu().numpy())
