"""Where in or around a region its effect lies: a grid of tiles cuts a device in two.

With half of a device covered the other half is still there, and inpainting even continues it into
the hole: the model goes on seeing it, and a used feature passes for unused. So the regions of a
cluster may be moved by half of their sides. Whether and where to is settled on films of the
discovery half, and the controls of the test obey the same rule.

Most of a tile is not the device. So boxes of a used feature are fitted as well: their sides are
moved, and a strip is worth its area when removing it too costs the model enough of its margin.
Boxes are fitted on the films that they are shown on: they say where to look and what to cut out,
they test nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.evidence.counterfactual.model_inputs import ModelInputs
from ravl_med.evidence.counterfactual.removal import fill_films

_WORTH = 0.5  # a strip stays if it holds half as much effect for its area as the region does
_FIRST, _LAST = 0.25, 0.125  # by what share of the region's sides an edge is moved
_ROUNDS = 6
_LEAST = 2.0  # input pixels that a box keeps
_ASIDE = [(x, y) for y in (-0.5, 0.0, 0.5) for x in (-0.5, 0.0, 0.5) if x or y]
_MOVES = np.array(
    [[edge == side for edge in range(4)] for side in range(4)], dtype=np.float32
)  # one edge at a time


@dataclass(slots=True, eq=False)
class _Fit:
    """A box on its way: in input pixels, with its score; `unit` (4,) are the region's sides."""

    film: int
    box: NDArray[np.float32]
    unit: NDArray[np.float32]
    price: float
    score: float
    step: float = _FIRST

    def moved(self, size: int) -> NDArray[np.float32]:
        """Return the box with one edge moved down, then with one moved up: (8, 4)."""
        moves = self.step * self.unit * _MOVES
        return _legal(np.concatenate([self.box - moves, self.box + moves]), self.box, size)


def most_fit_pictures(regions: int) -> int:
    """Return how many pictures `fit_boxes` has the model encode, at most."""
    return regions * (1 + 2 * (1 + len(_ASIDE)) + _ROUNDS * (1 + 2 * 8 + 3))


def fit_boxes(
    inputs: ModelInputs, films: NDArray[np.int64], boxes: NDArray[np.float32], size: int
) -> NDArray[np.float32]:
    """Grow or shrink boxes (k, 4), xyxy in stored pixels of films (k,), to where the effect lies.

    A box starts where it is or half of its sides aside, wherever removal takes most: on the way
    there, half of a feature is filled and the cut can look like the feature itself, so that no edge
    that is moved alone gets there. The score of a box is its removal effect, the mean
    of both fills, less half of the effect at the start for each area of the start. The edge or the
    edges are moved that raise it most, by a quarter of the sides at the start, then by an eighth,
    until nothing raises it. `size` is the side of the model's input in pixels.
    """
    whose = films.tolist()
    places = [inputs.carry_in(film, box[None])[0] for film, box in zip(whose, boxes, strict=True)]
    starts = [_starts(place, size) for place in places]
    fits = []
    for film, tried, effects in zip(whose, starts, _effects(inputs, whose, starts), strict=True):
        best = int(effects.argmax())
        effect, sides = float(effects[best]), tried[best, 2:] - tried[best, :2]
        price = _WORTH * effect / max(float(np.prod(sides)), 1.0)
        score = effect - price * float(np.prod(sides))
        fits.append(_Fit(film, tried[best], np.concatenate([sides, sides]), price, score))
    for _ in range(_ROUNDS):
        open_ones = [fit for fit in fits if fit.step >= _LAST]
        if open_ones:
            _move(inputs, open_ones, size)
    fitted = [inputs.carry_back(fit.film, fit.box[None])[0] for fit in fits]
    return np.array(fitted, dtype=np.float32).reshape(-1, 4)


def _move(inputs: ModelInputs, fits: Sequence[_Fit], size: int) -> None:
    """Move the edges of each box that raise its score; halve the step where none does."""
    tried = [fit.moved(size) for fit in fits]
    singles = _scores(inputs, fits, tried)
    joint = []
    for fit, boxes, scores in zip(fits, tried, singles, strict=True):
        both = scores.reshape(2, 4)
        better = both.max(axis=0) > fit.score
        chosen = boxes.reshape(2, 4, 4)[both.argmax(axis=0), np.arange(4), np.arange(4)]
        joint.append(_legal(np.where(better, chosen, fit.box)[None], fit.box, size))
    together = _scores(inputs, fits, joint)
    for number, fit in enumerate(fits):
        boxes = np.concatenate([joint[number], tried[number]])
        scores = np.concatenate([together[number], singles[number]])
        best = int(scores.argmax())
        if scores[best] > fit.score:
            fit.box, fit.score = boxes[best], float(scores[best])
        else:
            fit.step /= 2.0


def _starts(place: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return a box, then as it lies half of its sides aside, clipped to the input: (9, 4)."""
    moves = np.array(_ASIDE, dtype=np.float32) * (place[2:] - place[:2])
    return np.concatenate([place[None], _legal(place + np.tile(moves, 2), place, size)])


def _legal(
    boxes: NDArray[np.float32], before: NDArray[np.float32], size: int
) -> NDArray[np.float32]:
    """Clip boxes to the input; one that would vanish stays as it was."""
    clipped = np.clip(boxes, 0.0, float(size)).astype(np.float32)
    thin = np.any(clipped[:, 2:] - clipped[:, :2] < _LEAST, axis=1)
    return np.where(thin[:, None], before, clipped)


def _scores(
    inputs: ModelInputs, fits: Sequence[_Fit], boxes: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float64]]:
    effects = _effects(inputs, [fit.film for fit in fits], boxes)
    return [
        effect - fit.price * np.prod(tried[:, 2:] - tried[:, :2], axis=1)
        for fit, tried, effect in zip(fits, boxes, effects, strict=True)
    ]


def _effects(
    inputs: ModelInputs, films: Sequence[int], boxes: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float64]]:
    jobs = list(zip(films, boxes, strict=True))
    return [filled.effect for filled in fill_films(inputs, jobs)]


EXPLORED_FILMS = 8
"""Films of the discovery half on which every shift is tried."""

SHIFTS = 0.5 * np.array([(0, 0), *((x, y) for y in (-1, 0, 1) for x in (-1, 0, 1) if x or y)])
"""Half-steps (9, 2) in x and y, as shares of the sides of a region; the first stays in place."""

_GAIN = 0.25  # by what share a shift has to raise the largest effect in a film, and
_MATTERS = 0.2  # by what share of the standard deviation of the margin over these films


def move_shares(shares: NDArray[np.float64], shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move film-relative boxes (k, 4) by shifts (s, 2) of their sides, without leaving the film.

    Returns (s k, 4): all boxes by the first shift, then by the second, ...
    """
    sides = shares[:, 2:] - shares[:, :2]
    low = shares[None, :, :2] + shifts[:, None, :] * sides
    low = np.clip(low, 0.0, np.maximum(1.0 - sides, 0.0))
    moved: NDArray[np.float64] = np.concatenate([low, low + sides], axis=2).reshape(-1, 4)
    return moved


def choose_shifts(
    inputs: ModelInputs, films: Sequence[int], regions: Mapping[int, NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Choose the shifts that the regions of a cluster are filled with, (1, 2) or (2, 2).

    The regions stay where they are, (0, 0); and the one shift is added that raises the largest
    effect in a film most, on average over the first `EXPLORED_FILMS` of the discovery half, if it
    raises it by a quarter and by enough to matter. What only touches a device half a step aside
    would else be given a part of its effect.
    """
    jobs = [
        (film, inputs.place(film, move_shares(inputs.shares(regions[film]), SHIFTS)))
        for film in films[:EXPLORED_FILMS]
    ]
    if not jobs:
        return SHIFTS[:1]
    filled = fill_films(inputs, jobs)
    best = np.array([film.effect.reshape(len(SHIFTS), -1).max(axis=1) for film in filled])
    spread = float(np.std([film.before for film in filled]))
    together = np.maximum(best, best[:, :1]).mean(axis=0)
    chosen = int(together.argmax())
    gain = together[chosen] - together[0]
    if together[chosen] > 0 and gain > max(_GAIN * abs(together[0]), _MATTERS * spread):
        return SHIFTS[[0, chosen]]
    return SHIFTS[:1]
