"""Where the removal effect of a feature lies: in an artifact, in relevant anatomy, or elsewhere.

A region is taken apart into what of it is artifact, what is anatomy in which the raised class
shows, and the rest. Each part is removed by itself, and the effect of the region is shared out by
what the parts cost the model. By area alone a lead, which covers a twentieth of a box over the
heart, would pass for the heart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from ravl_med.evidence.bench import Bench
from ravl_med.evidence.claims import EffectShares
from ravl_med.evidence.fills import fill_mask_inpaint, fill_mask_median
from ravl_med.evidence.relevance import RelevantPlaces
from ravl_med.regions.film_structures import NOTHING, FilmStructures

__all__ = ["MOST_REGIONS", "StructureReader", "most_share_pictures", "share_effect"]

StructureReader = Callable[[int], FilmStructures]
Mask = NDArray[np.bool_]

MOST_REGIONS = 32
"""Regions that are taken apart, those with the largest effects."""

_PARTS = 3
_MARGIN = 0.03  # of a film's side: an enlarged heart shows at its border
_HALO = 0.015  # of a film's side: a blurred rim of a device is the device
_WHOLE = 0.97  # share of a box from which one part is all of it
_TELLING = 0.1  # of a region's effect that its parts have to hold together


def most_share_pictures(regions: int) -> int:
    """Return how many pictures `share_effect` asks the model about, at most."""
    return min(regions, MOST_REGIONS) * (1 + 2 * _PARTS)


def share_effect(
    bench: Bench,
    places: RelevantPlaces,
    structures: StructureReader | None,
    films: NDArray[np.int64],
    boxes: NDArray[np.float32],
    effect: NDArray[np.float64],
) -> EffectShares:
    """Share out the removal effect of regions.

    Parameters
    ----------
    bench : Bench
    places : RelevantPlaces - where the raised class shows
    structures : callable or None - film to what lies on it; None: nothing is known
    films : ndarray of shape (k,), int64 - of each region
    boxes : ndarray of shape (k, 4), float32 - xyxy in stored pixels
    effect : ndarray of shape (k,), float64

    Returns
    -------
    EffectShares - NaN where no region has an effect, and where the anatomy was found on fewer than
        half of the films
    """
    order = np.argsort(-np.where(np.isfinite(effect), effect, -np.inf), kind="stable")
    chosen = [int(row) for row in order[:MOST_REGIONS] if effect[row] > 0]
    told: list[tuple[int, int, list[Mask]]] = []
    unknown = 0
    for row in chosen:
        film = int(films[row])
        parts = _take_apart(
            bench, places, structures(film) if structures else NOTHING, film, boxes[row]
        )
        if parts is None:
            unknown += 1
        else:
            told.append((row, film, parts))
    if not told or unknown > len(chosen) / 2:
        return EffectShares(float("nan"), float("nan"), len(told), unknown)
    shares = _weigh(bench, told, effect)
    weights = np.array([effect[row] for row, _, _ in told])
    inside, artifact, _ = (weights[:, None] * shares).sum(axis=0) / weights.sum()
    return EffectShares(float(inside), float(artifact), len(told), unknown)


def _take_apart(
    bench: Bench,
    places: RelevantPlaces,
    film: FilmStructures,
    index: int,
    box: NDArray[np.float32],
) -> list[Mask] | None:
    """Masks (S, S) of the input: relevant, artifact, elsewhere; None where it cannot be said."""
    sides = bench.images.sizes[index][[1, 0, 1, 0]]
    x0, y0, x1, y1 = np.asarray(box / sides, dtype=np.float64)
    relevant = np.zeros(film.foreign.shape, dtype=np.bool_)
    if places.anatomy:
        found = film.region(places.anatomy)
        if found is None and not (places.boxes or places.artifacts):
            return None
        if found is not None:
            relevant |= _grow(found, _MARGIN)
    for place in places.boxes:
        relevant |= _box_mask(relevant.shape, place)
    foreign = _grow(film.foreign, _HALO)
    if places.artifacts:
        relevant, foreign = relevant | foreign, np.zeros_like(foreign)
    region = bench.carry_mask(index, _box_mask(relevant.shape, (x0, y0, x1, y1)))
    inner = bench.carry_mask(index, relevant)
    device = bench.carry_mask(index, foreign)
    return [region & inner & ~device, region & device, region & ~inner & ~device]


def _weigh(
    bench: Bench, told: list[tuple[int, int, list[Mask]]], effect: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shares (k, 3) of each region's effect, from what each part costs the model."""
    areas = np.array([[part.sum() for part in parts] for _, _, parts in told], dtype=np.float64)
    by_area: NDArray[np.float64] = areas / np.maximum(areas.sum(axis=1, keepdims=True), 1.0)
    asked = [number for number, shares in enumerate(by_area) if shares.max() < _WHOLE]

    def pictures() -> Iterator[NDArray[np.float32]]:
        for number in asked:
            _, film, parts = told[number]
            picture = bench.read(film)
            yield picture
            for part in parts:
                if part.any():
                    yield fill_mask_median(picture, part)
                    yield fill_mask_inpaint(picture, part)
                else:
                    yield picture
                    yield picture

    answers = bench.ask(pictures()).margin.reshape(len(asked), 1 + 2 * _PARTS)
    after = answers[:, 1:].reshape(len(asked), _PARTS, 2).mean(axis=2)
    shares = by_area
    for number, own in zip(asked, np.maximum(answers[:, :1] - after, 0.0), strict=True):
        # Parts that do nothing one by one say nothing; the area is all that is left to go by.
        if own.sum() > _TELLING * effect[told[number][0]]:
            shares[number] = own / own.sum()
    return shares


def _grow(mask: Mask, share: float) -> Mask:
    size = 2 * max(1, round(share * len(mask))) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel) > 0)


def _box_mask(shape: tuple[int, ...], box: tuple[float, ...]) -> Mask:
    """Mask of a box in shares of the film, at least one pixel."""
    height, width = shape
    x0, y0 = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    mask = np.zeros(shape, dtype=np.bool_)
    mask[y0 : max(y0 + 1, round(box[3] * height)), x0 : max(x0 + 1, round(box[2] * width))] = True
    return mask
