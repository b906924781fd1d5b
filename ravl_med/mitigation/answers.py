"""What a tower says of many films: logits, and the class of the best-matching region."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ravl_med.mitigation.fine_tuning_set import FilmStore, RegionTable
from ravl_med.mitigation.proof import Answered

__all__ = ["ask_films", "ask_films_and_regions", "best_region_class"]

_FILMS_AT_ONCE = 64


def ask_films(
    tower: nn.Module,
    films: FilmStore,
    rows: NDArray[np.int64],
    classes: Tensor,
    temperature: float,
    share: tuple[int, int] = (0, 1),
) -> NDArray[np.float32]:
    """Return the zero-shot logits (n, C) of films.

    Parameters
    ----------
    tower : nn.Module - an `ImageTower`; it is asked in evaluation mode
    films : FilmStore
    rows : ndarray of shape (n,), int64
    classes : Tensor of shape (C, D), float32 - unit norm
    temperature : float - tau
    share : tuple of int - number of this process, from 0, and of all; it asks every so many batches
        of films, and the others' logits are 0
    """
    tower.eval()
    device = next(tower.parameters()).device
    logits = np.zeros((len(rows), len(classes)), np.float32)
    first, step = share[0] * _FILMS_AT_ONCE, share[1] * _FILMS_AT_ONCE
    with torch.inference_mode():
        for start in range(first, len(rows), step):
            part = slice(start, start + _FILMS_AT_ONCE)
            seen, _, _ = tower(films.inputs(films.read(rows[part])).to(device))
            logits[part] = (seen.float().cpu() @ classes.T / temperature).numpy()
    return logits


def ask_films_and_regions(
    tower: nn.Module,
    films: FilmStore,
    regions: RegionTable,
    classes: Tensor,
    temperature: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Answered:
    """Return logits and the best-matching region's class of all films.

    Parameters
    ----------
    tower : nn.Module - an `ImageTower`; it is asked in evaluation mode
    films : FilmStore - N films
    regions : RegionTable - of these films
    classes : Tensor of shape (C, D), float32 - unit norm
    temperature : float - tau
    progress : callable - called with (films done, films in all)
    """
    tower.eval()
    device = next(tower.parameters()).device
    logits, best = [np.empty((0, len(classes)), np.float32)], [np.empty(0, np.int64)]
    with torch.inference_mode():
        for start in range(0, len(films), _FILMS_AT_ONCE):
            rows = np.arange(start, min(start + _FILMS_AT_ONCE, len(films)))
            index, film = regions.take(rows)
            counts = np.bincount(film, minlength=len(rows)).tolist()
            boxes = torch.split(torch.from_numpy(regions.boxes[index]).to(device), counts)
            seen, parts, _ = tower(films.inputs(films.read(rows)).to(device), list(boxes))
            logits.append((seen.float().cpu() @ classes.T / temperature).numpy())
            similarity = (parts.float().cpu() @ classes.T).numpy()
            best.append(best_region_class(similarity, film, logits[-1]))
            progress(int(rows[-1]) + 1, len(films))
    return Answered(np.concatenate(logits), np.concatenate(best))


def best_region_class(
    similarity: NDArray[np.float32], film: NDArray[np.int64], fallback: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return the class of the best-matching region of each film, (n,).

    Parameters
    ----------
    similarity : ndarray of shape (R, C)
    film : ndarray of shape (R,), int64 - 0 .. n - 1
    fallback : ndarray of shape (n, C) - decides for films without a region
    """
    best = np.full(fallback.shape, -np.inf, dtype=np.float32)
    np.maximum.at(best, film, similarity)
    bare = ~np.isfinite(best[:, 0])
    best[bare] = fallback[bare]
    chosen: NDArray[np.int64] = best.argmax(axis=1).astype(np.int64)
    return chosen
