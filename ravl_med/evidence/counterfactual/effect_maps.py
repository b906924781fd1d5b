"""Effect maps: where on a film the model's answer comes from, for every class at once.

A window slides over each film of a sample in steps of half its side; each time it is filled by
interpolation from its border, and the logits before minus after are kept. Finer windows follow
where the coarse ones moved something. The drop of the margin of any class is a look-up. It is taken
relative to the same place of other films: covering the lung moves every film, whatever lies on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.candidates import RegionEffects
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual.fills import fill_interpolated
from ravl_med.evidence.counterfactual.model_inputs import ModelInputs, spread_over_patients
from ravl_med.evidence.model_checks import class_scores
from ravl_med.regions.region_set import slide_windows

_COARSE, _FINE = 1 / 4, 1 / 8  # sides of a window, as a share of those of the input
_STEP = 0.5  # of the side of a window
_REFINED = 2  # coarse windows of a film that finer ones follow, at most
_WRONG = 0.5  # share of the sample that is called wrongly, where there are as many
_OVERLAP = 0.5  # of the smaller of window and region


@dataclass(frozen=True, slots=True, eq=False)
class EffectMaps:
    """Films before and after each window is filled."""

    films: NDArray[np.int64]  # (n,)
    windows: NDArray[np.float32]  # (W, 4) xyxy in input pixels, the coarse ones first
    logits: NDArray[np.float32]  # (n, C) of the untouched films
    change: NDArray[np.float32]  # (n, W, C) logits before minus after; NaN: not looked at

    def drops(self) -> NDArray[np.float64]:
        """Return by how much each window holds up each class, (n, W, C), in sd of its margin.

        It is the drop of the logit against the log-sum-exp of all others, less the median drop
        of the same place. NaN where a fine window was not looked at.
        """
        before = class_scores(self.logits, 1.0)
        left = self.logits[:, None] - self.change
        after = class_scores(left.reshape(-1, left.shape[2]), 1.0).reshape(left.shape)
        drop = (before[:, None] - after) / np.maximum(before.std(axis=0), 1e-9)
        usual = np.apply_along_axis(_median, 0, drop)
        centred: NDArray[np.float64] = drop - usual
        return centred


def sample_for_maps(
    data: AuditData, films: NDArray[np.bool_], count: int, seed: int
) -> NDArray[np.int64]:
    """Choose films to map, at most so many: half of them called wrongly, spread over patients.

    `films` (N,) are those to choose from. Wrongly called films come from all predicted classes
    alike, since a feature that raises a class shows in what is called so wrongly.
    """
    rng = np.random.default_rng([seed, 7])
    known = films & (data.labels >= 0)
    wrong = _by_turns(data.predictions, data.patients, known & ~data.correct, rng)
    right = _by_turns(data.labels, data.patients, known & data.correct, rng)
    share = max(round(_WRONG * count), count - len(right))
    chosen = np.concatenate([wrong[:share], right[: count - min(share, len(wrong))]])
    return np.sort(chosen)


def _by_turns(
    classes: NDArray[np.int64],
    patients: NDArray[np.int64],
    films: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Films in an order in which classes take turns, and patients within each class."""
    turn, order = [], []
    for label in np.unique(classes[films]):
        own = spread_over_patients(np.flatnonzero(films & (classes == label)), patients, rng)
        order.append(own)
        turn.append(np.arange(len(own)))
    if not order:
        return np.empty(0, np.int64)
    return np.concatenate(order)[np.argsort(np.concatenate(turn), kind="stable")]


def map_effects(
    read: Callable[[int], NDArray[np.float32]],
    ask: Callable[[Iterator[NDArray[np.float32]]], NDArray[np.float32]],
    films: NDArray[np.int64],
    size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EffectMaps:
    """Fill window after window of films (n,) and keep what it does to the logits.

    Parameters
    ----------
    read : function - film to the model's input (3, S, S), float32
    ask : function - such pictures to logits (m, C)
    size : int - side S of the input in pixels
    """
    coarse, fine = (slide_windows(size, size, side, _STEP) for side in (_COARSE, _FINE))
    inside = _within(fine, coarse)
    logits, change = [], []
    for done, film in enumerate(films.tolist()):
        progress(done, len(films))
        picture = read(film)
        first = ask(_filled(picture, coarse, untouched=True))
        moved = first[0] - first[1:]
        fine_change = np.full((len(fine), moved.shape[1]), np.nan, dtype=np.float32)
        spread = np.ptp(moved, axis=1)  # of the classes: what moves all alike decides nothing
        chosen = inside[:, np.argsort(-spread, kind="stable")[:_REFINED]].any(axis=1)
        rows = np.flatnonzero(chosen)
        fine_change[rows] = first[0] - ask(_filled(picture, fine[rows]))
        logits.append(first[0])
        change.append(np.concatenate([moved, fine_change]))
    progress(len(films), len(films))
    return EffectMaps(films, np.concatenate([coarse, fine]), np.stack(logits), np.stack(change))


def _within(fine: NDArray[np.float32], coarse: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each fine window lies in each coarse one, (f, c)."""
    low = (fine[:, None, :2] >= coarse[None, :, :2] - 1e-3).all(axis=2)
    high = (fine[:, None, 2:] <= coarse[None, :, 2:] + 1e-3).all(axis=2)
    return np.logical_and(low, high)


def _filled(
    picture: NDArray[np.float32], windows: NDArray[np.float32], *, untouched: bool = False
) -> Iterator[NDArray[np.float32]]:
    """Give a picture with each window filled; itself first where it is wanted."""
    if untouched:
        yield picture
    for window in windows:
        yield fill_interpolated(picture, window)


def region_effects(
    inputs: ModelInputs, maps: EffectMaps, rows: Sequence[NDArray[np.int64]]
) -> RegionEffects:
    """Return what each region of the mapped films holds up: the most of the windows over it.

    `rows` are the regions of each mapped film. A window is over a region where half of the smaller
    of the two is shared.
    """
    drops = maps.drops()
    found, films, effects = [], [], []
    for at, own in enumerate(rows):
        if not len(own):
            continue
        film = int(maps.films[at])
        boxes = inputs.carry_in(film, inputs.data.region_boxes[own])
        over = _overlap(boxes, maps.windows) >= _OVERLAP
        looked_at = np.where(np.isnan(drops[at]), -np.inf, drops[at])  # (W, C)
        effects.append(
            np.max(np.where(over[:, :, None], looked_at[None], -np.inf), axis=1, initial=-np.inf)
        )
        found.append(own)
        films.append(np.full(len(own), film))
    return RegionEffects(
        np.concatenate(found).astype(np.int64),
        np.concatenate(films).astype(np.int64),
        np.concatenate(effects),
    )


def _overlap(boxes: NDArray[np.float32], windows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shared area of boxes (k, 4) and windows (W, 4), as a share of the smaller, (k, W)."""
    low = np.maximum(boxes[:, None, :2], windows[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], windows[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=2)
    areas = [np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, windows)]
    smaller = np.maximum(np.minimum(areas[0][:, None], areas[1][None]), 1e-9)
    overlap: NDArray[np.float64] = (shared / smaller).astype(np.float64)
    return overlap


def _median(column: NDArray[np.float64]) -> float:
    """Median of what was looked at; 0 where that are too few films to say what is usual."""
    seen = column[~np.isnan(column)]
    return float(np.median(seen)) if len(seen) >= 10 else 0.0
