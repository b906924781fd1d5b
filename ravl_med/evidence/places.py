"""Where around its regions a feature is filled in: a grid cuts a device in two.

With half of a device covered the other half is still there, and inpainting even continues it into
the hole: the model goes on seeing it, and a used feature passes for unused. So the regions of a
cluster may be moved by half of their sides. Whether and where to is settled on films of the
discovery half, and the controls of the test obey the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ravl_med.evidence.bench import Bench
from ravl_med.evidence.removal import fill_films

__all__ = ["EXPLORED_FILMS", "SHIFTS", "choose_shifts", "move_shares"]

EXPLORED_FILMS = 8
"""Films of the discovery half on which every shift is tried."""

SHIFTS = 0.5 * np.array([(0, 0), *((x, y) for y in (-1, 0, 1) for x in (-1, 0, 1) if x or y)])
"""Half-steps (9, 2) in x and y, as shares of the sides of a region; the first stays in place."""

_GAIN = 0.25  # by what share a shift has to raise the largest effect in a film, and
_MATTERS = 0.2  # by what share of the standard deviation of the margin over these films


def move_shares(shares: NDArray[np.float64], shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move film-relative boxes, without leaving the film.

    Parameters
    ----------
    shares : ndarray of shape (k, 4), float64 - xyxy as shares of width and height
    shifts : ndarray of shape (s, 2), float64 - in x and y, as shares of the sides of a box

    Returns
    -------
    ndarray of shape (s k, 4), float64 - all boxes by the first shift, then by the second, ...
    """
    sides = shares[:, 2:] - shares[:, :2]
    low = shares[None, :, :2] + shifts[:, None, :] * sides
    low = np.clip(low, 0.0, np.maximum(1.0 - sides, 0.0))
    moved: NDArray[np.float64] = np.concatenate([low, low + sides], axis=2).reshape(-1, 4)
    return moved


def choose_shifts(
    bench: Bench, films: Sequence[int], regions: Mapping[int, NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Choose the shifts that the regions of a cluster are filled with.

    The regions stay where they are; and the one shift is added that raises the largest effect in a
    film most, on average over the films, if it raises it by a quarter and by enough to matter. A
    thing that only touches a device half a step aside would else be given a part of its effect.

    Parameters
    ----------
    bench : Bench
    films : sequence of int - of the discovery half; the first `EXPLORED_FILMS` are looked at
    regions : mapping of film to ndarray of shape (k,), int64

    Returns
    -------
    ndarray of shape (1, 2) or (2, 2), float64 - the first is (0, 0)
    """
    jobs = [
        (film, bench.place(film, move_shares(bench.shares(regions[film]), SHIFTS)))
        for film in films[:EXPLORED_FILMS]
    ]
    if not jobs:
        return SHIFTS[:1]
    filled = fill_films(bench, jobs)
    best = np.array([film.effect.reshape(len(SHIFTS), -1).max(axis=1) for film in filled])
    spread = float(np.std([film.before for film in filled]))
    together = np.maximum(best, best[:, :1]).mean(axis=0)
    chosen = int(together.argmax())
    gain = together[chosen] - together[0]
    if together[chosen] > 0 and gain > max(_GAIN * abs(together[0]), _MATTERS * spread):
        return SHIFTS[[0, chosen]]
    return SHIFTS[:1]
