"""Where the effect of a feature lies: its box, and how much of it is artifact or relevant anatomy.

Boxes of a used feature are fitted: a strip is worth its area when removing it costs the model
enough of its margin. Fitted boxes say where to look; they test nothing.

A clean model uses the enlarged heart for cardiomegaly, and no statistic clears it. What can is the
place of the effect. A table names, finding by finding, the anatomy in which the disease shows. A
region is taken apart into artifact, relevant anatomy and the rest; each part is removed by itself,
and the effect is shared out by what the parts cost the model. By area alone a lead over the heart
would pass for the heart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ravl_med.config.loading import parse_yaml
from ravl_med.errors import ConfigError
from ravl_med.evidence.counterfactual.fills import fill_mask
from ravl_med.evidence.counterfactual.interventions import fill_films
from ravl_med.evidence.counterfactual.model_inputs import ModelInputs
from ravl_med.evidence.results import EffectShares, Interval
from ravl_med.evidence.statistics import mean_interval
from ravl_med.regions.anatomy import ANATOMICAL_REGIONS, anatomical_names
from ravl_med.regions.film_structures import NOTHING, FilmStructures

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
    return regions * (2 + len(_ASIDE) + _ROUNDS * (1 + 8 + 2))


def fit_boxes(
    inputs: ModelInputs, films: NDArray[np.int64], boxes: NDArray[np.float32], size: int
) -> NDArray[np.float32]:
    """Grow or shrink boxes (k, 4), xyxy in stored pixels of films (k,), to where the effect lies.

    A box starts where it is or half of its sides aside, wherever removal takes most: on the way
    there, half of a feature is filled and the cut can look like the feature itself, so that no edge
    that is moved alone gets there. The score of a box is its removal effect less half of the effect
    at the start for each area of the start. The edge or the edges are moved that raise it most, by
    a quarter of the sides at the start, then by an eighth, until nothing raises it. `size` is the
    side of the model's input in pixels.
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


Box = tuple[float, float, float, float]

_FLAGS = ("artifacts", "edges")
_KEYS = ("anatomy", "boxes", *_FLAGS, "also", "source")


@dataclass(frozen=True, slots=True)
class RelevantPlaces:
    """Where one finding shows."""

    anatomy: tuple[str, ...] = ()  # out of `ANATOMICAL_REGIONS`
    boxes: tuple[Box, ...] = ()  # shares of width and height of the film as it is shown
    artifacts: bool = False  # the finding is itself a device
    edges: bool = False  # the finding has sharp edges of its own, as a fracture and a device have
    lowered: tuple[str, ...] = ()  # anatomy where the classes show that it is told from


@dataclass(frozen=True, slots=True)
class RelevanceTable:
    """Where findings show."""

    places: Mapping[str, RelevantPlaces]

    def find(self, finding: str, lowered: Sequence[str] = ()) -> RelevantPlaces | None:
        """Return the places of a finding, or None when the table does not know it.

        Its score is held against those of the `lowered` classes, whose lack speaks for it where
        they show. One that shows wherever it does, as "no finding", has no such place.
        """
        own = self.places.get(_plain(finding))
        if own is None:
            return None
        others = [self.places.get(_plain(name), own).anatomy for name in lowered]
        names = [name for one in others if not set(own.anatomy) <= set(one) for name in one]
        return replace(own, lowered=tuple(dict.fromkeys(names)))


def read_relevance(path: Path) -> RelevanceTable:
    """Read a relevance table.

    Raises
    ------
    ConfigError
        The file is not a table of findings with known anatomy, or with boxes of four shares in
        rising order.
    """
    data = parse_yaml(path, "evidence.relevance")
    where = f"evidence.relevance {path.name!r}"
    findings = data.get("findings") if isinstance(data, dict) else None
    if not isinstance(findings, dict) or not findings:
        raise ConfigError(f"{where}: expected a mapping 'findings' of finding to its places.")
    places: dict[str, RelevantPlaces] = {}
    for name, entry in findings.items():
        parsed = _places(entry, f"{where}: {name}")
        for alias in (name, *_names(entry, "also", f"{where}: {name}")):
            places[_plain(alias)] = parsed
    return RelevanceTable(places)


def _plain(name: Any) -> str:
    return " ".join(str(name).replace("_", " ").lower().split())


def _places(entry: Any, where: str) -> RelevantPlaces:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: expected a mapping with 'anatomy' or 'boxes'.")
    if extra := sorted(set(entry) - set(_KEYS)):
        raise ConfigError(f"{where}: unknown key {extra[0]!r}; known: {', '.join(_KEYS)}.")
    anatomy: list[str] = []
    for name in _names(entry, "anatomy", where):
        known = anatomical_names(str(name))
        if not known:
            raise ConfigError(
                f"{where}: anatomy {name!r} is not known; expected one of "
                f"{', '.join(ANATOMICAL_REGIONS)}, or a plural for both sides."
            )
        anatomy += known
    boxes = tuple(_box(box, where) for box in _names(entry, "boxes", where))
    artifacts, edges = (entry.get(flag) or False for flag in _FLAGS)
    for flag, value in zip(_FLAGS, (artifacts, edges), strict=True):
        if not isinstance(value, bool):
            raise ConfigError(f"{where}: {flag!r} is {value!r}; expected true or false.")
    # Without a place every effect would lie outside, and every correlation would be a shortcut.
    if not (anatomy or boxes or artifacts):
        raise ConfigError(f"{where}: expected 'anatomy', 'boxes' or 'artifacts', not empty.")
    return RelevantPlaces(tuple(dict.fromkeys(anatomy)), boxes, artifacts, artifacts or edges)


def _names(entry: Mapping[str, Any], key: str, where: str) -> list[Any]:
    names = entry.get(key) or []
    if not isinstance(names, list):
        raise ConfigError(f"{where}: {key!r} is {names!r}; expected a list.")
    return names


def _box(value: Any, where: str) -> Box:
    try:
        x0, y0, x1, y1 = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: a box is {value!r}; expected [x0, y0, x1, y1].") from None
    if not (0.0 <= x0 < x1 <= 1.0 and 0.0 <= y0 < y1 <= 1.0):
        raise ConfigError(f"{where}: a box is {value!r}; expected shares 0 <= x0 < x1 <= 1.")
    return x0, y0, x1, y1


StructureReader = Callable[[int], FilmStructures]
Mask = NDArray[np.bool_]

MOST_REGIONS = 32
"""Regions that are taken apart, those with the largest effects."""

_PARTS = 4
_MARGIN = 0.03  # of a film's side: an enlarged heart shows at its border
_HALO = 0.015  # of a film's side: a blurred rim of a device is the device
_WHOLE = 0.97  # share of a box from which one part is all of it
_LEAST_SHARE = 0.1  # of a region's effect that its parts have to hold together


def most_share_pictures(regions: int) -> int:
    """Return how many pictures `share_effect` has the model encode, at most."""
    return min(regions, MOST_REGIONS) * (1 + _PARTS)


def share_effect(
    inputs: ModelInputs,
    places: RelevantPlaces,
    structures: StructureReader | None,  # None: nothing is known of what lies on a film
    films: NDArray[np.int64],  # (k,) of each region
    boxes: NDArray[np.float32],  # (k, 4) xyxy in stored pixels
    effect: NDArray[np.float64],  # (k,)
    confidence: float,
) -> EffectShares:
    """Share out the removal effect of regions over the places where the raised class shows.

    NaN where no region has an effect, and where the anatomy was found on fewer than half of the
    films.
    """
    order = np.argsort(-np.where(np.isfinite(effect), effect, -np.inf), kind="stable")
    chosen = [int(row) for row in order[:MOST_REGIONS] if effect[row] > 0]
    apart: list[tuple[int, int, list[Mask]]] = []
    for row in chosen:
        film = int(films[row])
        seen = structures(film) if structures else NOTHING
        parts = _take_apart(inputs, places, seen, film, boxes[row])
        if parts is not None:
            apart.append((row, film, parts))
    unknown = len(chosen) - len(apart)
    if not apart or unknown > len(chosen) / 2:
        nothing = float("nan")
        return EffectShares(nothing, Interval(nothing, nothing), nothing, len(apart), unknown)
    shares = _shares_by_removal(inputs, apart, effect)
    weights = np.array([effect[row] for row, _, _ in apart])
    weights /= weights.mean()
    inside, artifact, lowered, _ = (weights[:, None] * shares).mean(axis=0).tolist()
    # Of a mean of ratios with a known denominator; the weights sum to what they are.
    about = mean_interval(
        inside + weights * (shares[:, 0] - inside),
        inputs.data.patients[[film for _, film, _ in apart]],
        confidence,
    )
    return EffectShares(inside, about, artifact, len(apart), unknown, lowered, places.edges)


def _take_apart(
    inputs: ModelInputs,
    places: RelevantPlaces,
    film: FilmStructures,
    index: int,
    box: NDArray[np.float32],
) -> list[Mask] | None:
    """Masks (S, S): relevant, artifact, of lowered classes, elsewhere; None: it cannot be said."""
    sides = inputs.data.sizes[index][[1, 0, 1, 0]]
    x0, y0, x1, y1 = np.asarray(box / sides, dtype=np.float64)
    found = film.region(places.anatomy), film.region(places.lowered)
    if places.anatomy and found[0] is None and not (places.boxes or places.artifacts):
        return None
    relevant, lowered = (
        np.zeros_like(film.foreign) if one is None else grow_mask(one, _MARGIN) for one in found
    )
    for place in places.boxes:
        relevant |= box_mask(relevant.shape, place)
    foreign = grow_mask(film.foreign, _HALO)
    if places.artifacts:
        relevant, foreign = relevant | foreign, np.zeros_like(foreign)
    region = inputs.carry_mask(index, box_mask(relevant.shape, (x0, y0, x1, y1)))
    inner, outer = inputs.carry_mask(index, relevant), inputs.carry_mask(index, lowered)
    device = inputs.carry_mask(index, foreign)
    bare, rest = region & ~device, region & ~device & ~inner
    return [bare & inner, region & device, rest & outer, rest & ~outer]


def _shares_by_removal(
    inputs: ModelInputs, apart: list[tuple[int, int, list[Mask]]], effect: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shares (k, 4) of each region's effect, from what each part costs the model."""
    areas = np.array([[part.sum() for part in parts] for _, _, parts in apart], dtype=np.float64)
    by_area: NDArray[np.float64] = areas / np.maximum(areas.sum(axis=1, keepdims=True), 1.0)
    mixed = [number for number, shares in enumerate(by_area) if shares.max() < _WHOLE]

    def pictures() -> Iterator[NDArray[np.float32]]:
        for number in mixed:
            _, film, parts = apart[number]
            picture = inputs.read(film)
            yield picture
            for part in parts:
                yield fill_mask(picture, part) if part.any() else picture

    answers = inputs.margins(pictures()).margin.reshape(len(mixed), 1 + _PARTS)
    shares = by_area
    for number, own in zip(mixed, np.maximum(answers[:, :1] - answers[:, 1:], 0.0), strict=True):
        # Parts that do nothing one by one say nothing; the area is all that is left to go by.
        if own.sum() > _LEAST_SHARE * effect[apart[number][0]]:
            shares[number] = own / own.sum()
    return shares


def grow_mask(mask: Mask, share: float) -> Mask:
    """Grow a mask (h, w) by a share of its side, all round."""
    size = 2 * max(1, round(share * len(mask))) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel) > 0)


def box_mask(shape: tuple[int, ...], box: tuple[float, ...]) -> Mask:
    """Mask of a box in shares of the film, at least one pixel."""
    height, width = shape
    x0, y0 = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    mask = np.zeros(shape, dtype=np.bool_)
    mask[y0 : max(y0 + 1, round(box[3] * height)), x0 : max(x0 + 1, round(box[2] * width))] = True
    return mask
