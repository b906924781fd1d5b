"""Effect maps: where on a film the model's answer comes from, for every class at once.

A window slides over each film of a sample in steps of half its side; each time it is filled with
what like places of other films hold, and the logits before minus after are kept. Finer windows
follow where the coarse ones moved something. The drop of the margin of any class is a look-up. It
is taken relative to the same place of other films: covering the lung moves every film, whatever
lies on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.candidates import ANYWHERE, FeatureCluster, places_of
from ravl_med.discovery.effect_features import RegionEffects
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual.interventions import (
    FEWEST_WRONG,
    OVERLAP,
    Donors,
    Windows,
    choose_places,
    hold_regions,
    match_films,
    rows_by_film,
    share_called,
    strongest_beside,
    window_worth,
    wrongly_called,
)
from ravl_med.evidence.counterfactual.model_inputs import (
    ModelInputs,
    class_margin,
    compare_pairs,
    spread_over_patients,
)
from ravl_med.evidence.model_checks import class_scores
from ravl_med.evidence.results import PairedChange
from ravl_med.evidence.statistics import centre_classes, correlation_of
from ravl_med.regions.geometry import box_overlaps, box_shares
from ravl_med.regions.region_set import slide_windows

SMALLEST_WINDOW = 1 / 4
"""Side of a coarse window, as a share of that of the input, at least; fine ones have half of it."""

_STEP = 0.5  # of the side of a window
_REFINED = 1  # coarse windows of a film that finer ones follow
_WRONG = 0.5  # share of the sample that is called wrongly, where there are as many
_AT_ONCE = 16  # films
_EQUAL = 1e-6
_ITSELF = 0.9  # share of the area from which two are the same


@dataclass(frozen=True, slots=True, eq=False)
class EffectMaps:
    """Films before and after each window is filled."""

    films: NDArray[np.int64]  # (n,)
    windows: NDArray[np.float32]  # (W, 4) xyxy in input pixels, the coarse ones first
    coarse: int  # windows that were filled in every film
    logits: NDArray[np.float32]  # (n, C) of the untouched films
    change: NDArray[np.float32]  # (n, W, C) logits before minus after; NaN: not looked at
    side: float = SMALLEST_WINDOW  # of the coarse windows, as a share of that of the input

    def drops(self) -> NDArray[np.float64]:
        """Return by how much each window holds up each class, (n, W, C), in sd of its margin.

        It is the drop of the logit against the log-sum-exp of all others, less the median drop
        of the same place. NaN where a fine window was not looked at.
        """
        before = class_scores(self.logits, 1.0)
        left = self.logits[:, None] - self.change
        after = class_scores(left.reshape(-1, left.shape[2]), 1.0).reshape(left.shape)
        drop = (before[:, None] - after) / np.maximum(before.std(axis=0), 1e-9)
        centred: NDArray[np.float64] = drop - np.apply_along_axis(_median, 0, drop)
        return centred

    def over(self, boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which windows are over each region (k, 4), in input pixels: (k, W).

        Half of the smaller of the two is shared. Where windows are as large as regions, one that is
        the region is alone over it: others fill pieces of it, or say what its neighbour does.
        """
        over: NDArray[np.bool_] = box_shares(boxes, self.windows) >= OVERLAP
        same = box_overlaps(boxes, self.windows) >= _ITSELF
        same &= self.side > SMALLEST_WINDOW
        return np.where(same.any(axis=1, keepdims=True), same, over)

    def margins(
        self, raised: int, opposed: int | None, bare: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the margin of one class against another (n,), its drop (n, W) and the usual (W,).

        In logits. The usual drop of a window is the median over films that are bare, (n,): with a
        feature that half of the films hold in one place, all of its effect would be usual.
        """
        before = class_margin(self.logits, raised, opposed)
        left = self.logits[:, None] - self.change
        after = class_margin(left.reshape(-1, left.shape[2]), raised, opposed)
        drop = before[:, None] - after.reshape(left.shape[:2])
        return before, drop, np.apply_along_axis(_median, 0, drop[bare])

    def undone(self, raised: int) -> NDArray[np.float64]:
        """Return where filling a window takes the decision for a class away, (n, W), 0 or 1."""
        decided = self.logits.argmax(axis=1) == raised
        after = (self.logits[:, None] - np.nan_to_num(self.change)).argmax(axis=2) == raised
        gone: NDArray[np.float64] = (decided[:, None] & ~after).astype(np.float64)
        return gone


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


def window_side(shares: NDArray[np.floating]) -> float:
    """Return the side of a coarse window for regions (R, 4), xyxy in shares of films: a share too.

    Windows are as large as regions, by the median, where these exceed a quarter of the sides: a
    thing that is filled piece by piece stays, each piece as the rest of it looks.
    """
    areas = np.prod(shares[:, 2:] - shares[:, :2], axis=1)
    return max(SMALLEST_WINDOW, math.sqrt(float(np.median(areas))))


def map_effects(
    read: Callable[[int], NDArray[np.float32]],
    fill: Callable[[int, NDArray[np.float32]], NDArray[np.float32]],
    ask: Callable[[Iterator[NDArray[np.float32]]], NDArray[np.float32]],
    films: NDArray[np.int64],
    size: int,
    side: float = SMALLEST_WINDOW,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EffectMaps:
    """Fill window after window of films (n,) and keep what it does to the logits.

    Parameters
    ----------
    read : function - film to the model's input (3, S, S), float32
    fill : function - film and box (4,) to that input with the box filled
    ask : function - such pictures to logits (m, C)
    size : int - side S of the input in pixels
    side : float - of a coarse window, as a share of it
    """
    coarse, fine = (slide_windows(size, size, own, _STEP) for own in (side, side / 2))
    inside = _within(fine, coarse)
    logits, change = [], []
    for start in range(0, len(films), _AT_ONCE):
        progress(start, len(films))
        part = films[start : start + _AT_ONCE].tolist()
        whole = (picture for film in part for picture in (read(film), *_filled(fill, film, coarse)))
        first = ask(whole)
        before, *after = np.split(first.reshape(len(part), 1 + len(coarse), -1), [1], axis=1)
        moved = before - after[0]
        spread = np.ptp(moved, axis=2)  # of the classes: what moves all alike decides nothing
        chosen = np.argsort(-spread, axis=1, kind="stable")[:, :_REFINED]
        rows = [np.flatnonzero(inside[:, own].any(axis=1)) for own in chosen]
        finer = ask(
            picture
            for film, own in zip(part, rows, strict=True)
            for picture in _filled(fill, film, fine[own])
        )
        fine_change = np.full((len(part), len(fine), moved.shape[2]), np.nan, dtype=np.float32)
        film = np.repeat(np.arange(len(part)), [len(own) for own in rows])
        fine_change[film, np.concatenate(rows)] = before[film, 0] - finer
        logits.append(before[:, 0])
        change.append(np.concatenate([moved, fine_change], axis=1))
    progress(len(films), len(films))
    windows = np.concatenate([coarse, fine])
    known = np.concatenate(logits), np.concatenate(change)
    return EffectMaps(films, windows, len(coarse), *known, side)


def most_map_pictures(films: int, side: float = SMALLEST_WINDOW) -> int:
    """Return how many pictures the maps of so many films have the model encode, at most."""
    coarse, fine = (slide_windows(1, 1, own, _STEP) for own in (side, side / 2))
    within = int(_within(fine, coarse).sum(axis=0).max(initial=0))
    return films * (1 + len(coarse) + _REFINED * within)


def _within(fine: NDArray[np.float32], coarse: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each fine window lies in each coarse one, (f, c)."""
    low = (fine[:, None, :2] >= coarse[None, :, :2] - 1e-3).all(axis=2)
    high = (fine[:, None, 2:] <= coarse[None, :, 2:] + 1e-3).all(axis=2)
    return np.logical_and(low, high)


def _filled(
    fill: Callable[[int, NDArray[np.float32]], NDArray[np.float32]],
    film: int,
    windows: NDArray[np.float32],
) -> Iterator[NDArray[np.float32]]:
    """Give a film with each of some windows filled."""
    return (fill(film, window) for window in windows)


def region_effects(
    inputs: ModelInputs, maps: EffectMaps, rows: Sequence[NDArray[np.int64]]
) -> RegionEffects:
    """Return what each region of the mapped films holds up, by the windows over it.

    `rows` are the regions of each mapped film; see `EffectMaps.over`.
    """
    drops = maps.drops()
    found, films = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    none = np.empty((0, drops.shape[2]))  # the mapped films may have no region
    effects, means = [none], [none]
    for at, own in enumerate(rows):
        if not len(own):
            continue
        film = int(maps.films[at])
        boxes = inputs.carry_in(film, inputs.data.region_boxes[own])
        over = maps.over(boxes)
        looked_at = np.where(np.isnan(drops[at]), -np.inf, drops[at])  # (W, C)
        effects.append(
            np.max(np.where(over[:, :, None], looked_at[None], -np.inf), axis=1, initial=-np.inf)
        )
        every = over[:, : maps.coarse]  # filled in every film
        count = np.maximum(every.sum(axis=1, keepdims=True), 1)
        means.append(every @ drops[at, : maps.coarse] / count)
        found.append(own)
        films.append(np.full(len(own), film))
    regions, own_film = np.concatenate(found), np.concatenate(films)
    places = _one_a_place(inputs.data.region_shares()[regions], own_film, maps.side)
    return RegionEffects(regions, own_film, np.concatenate(effects), np.concatenate(means), places)


def _one_a_place(
    shares: NDArray[np.float32], films: NDArray[np.int64], side: float
) -> NDArray[np.int64]:
    """Place of each region (m,); -1 where another one of the film is more like a window there."""
    places = places_of(shares)
    area = np.prod(shares[:, 2:] - shares[:, :2], axis=1)
    unlike = np.abs(np.log(np.maximum(area, 1e-9) / side**2))
    order = np.lexsort((unlike, places, films))
    both = films[order] * (int(places.max(initial=0)) + 1) + places[order]
    first = np.unique(both, return_index=True)[1]
    chosen = np.full(len(places), ANYWHERE)
    chosen[order[first]] = places[order[first]]
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class Exploration:
    """What the maps of the discovery half say of a feature, without another pass of the model."""

    spread: float  # standard deviation of the margin over the mapped films
    # fall of the margin beyond that of films of its class without it; not corrected; None: fewer
    # than `min_pairs` films on either side
    change: PairedChange | None
    wrong_calls: PairedChange | None  # the same on films of other classes, called as the raised one
    called: float  # share of the films of other classes with the feature that are called so
    effect: NDArray[np.float64]  # (n,) logits, of cluster.regions; NaN: the film was not mapped
    located: NDArray[np.float32]  # (n, 4) the window with that effect, stored pixels
    rows: dict[int, NDArray[np.int64]]  # positions in cluster.regions, by mapped film
    places: dict[int, NDArray[np.float32]]  # film to its place with the largest effect, (4,)
    # (n,) of the mapped films, less the mean of their class: whether they have it, and the most
    # that filling its windows does to them, each by its worth
    present: NDArray[np.float64]
    moved: NDArray[np.float64]
    # correlation of having it and the margin, within classes, on films of other classes; None: a
    # thing is a part of its region
    along: float | None
    donors: Donors
    windows: Windows  # the coarse ones


def explore_feature(
    inputs: ModelInputs,
    maps: EffectMaps,
    cluster: FeatureCluster,
    bare: NDArray[np.bool_],  # (N,) films without it, or anything of its claim
    films: NDArray[np.bool_],  # (N,) of the half that was mapped
    margin: NDArray[np.float64],  # (N,) of every film, untouched
    evidence: EvidenceConfig,
) -> Exploration:
    """Look up what filling the places of a feature does to the mapped films.

    Each film with the feature is compared with one of its class without it, at the best of the same
    places. Windows that were filled in every film are compared alone.
    """
    plain = bare[maps.films]
    before, drop, usual = maps.margins(cluster.raised_class, cluster.lowered_class, plain)
    rows = rows_by_film(cluster, inputs.data.region_image, maps.films)
    effect, located = _effects_of_regions(inputs, maps, cluster, rows, drop - usual)
    known, tried = _places_to_try(inputs, maps, cluster, rows, drop, usual)
    labels = inputs.data.labels[maps.films]
    its = np.unique(np.concatenate([np.empty(0, np.int64), *tried.values()]))
    most = (known.worth * (drop - usual)[:, : maps.coarse])[:, its].max(axis=1, initial=-np.inf)
    windows, held = known.boxes, np.array(list(rows), dtype=np.int64)
    spread = float(before.std())
    look_up = _LookUp(
        maps.films,
        drop,
        maps.undone(cluster.raised_class),
        inputs.data.patients,
        evidence.confidence,
        evidence.min_effect * spread,
    )
    own, ordinary = match_films(inputs, held, maps.films[plain])
    first, second = look_up.best(own, tried, own), look_up.best(ordinary, tried, own)
    places = {film: windows[w] for film, w in zip(own.tolist(), first, strict=True)}
    giving, others = match_films(inputs, held, maps.films[plain], margin)
    chosen = look_up.best(giving, tried, giving), look_up.best(others, tried, giving)
    donors = Donors(giving, windows[chosen[0]], others, windows[chosen[1]])
    if len(giving) < evidence.min_pairs:
        donors = _donors_of_half(inputs, cluster, bare, films, margin, known, evidence)
    wrong = held[wrongly_called(inputs.data, cluster)[held]]
    beside = {film: strongest_beside(windows[tried[film]], known) for film in wrong.tolist()}
    return Exploration(
        spread=spread,
        change=look_up.compare((own, first), (ordinary, second), evidence.min_pairs),
        wrong_calls=look_up.compare_places(tried, beside),
        called=share_called(inputs.data, cluster, films),
        effect=effect,
        located=located,
        rows=rows,
        places=places,
        present=centre_classes(cluster.present[maps.films], labels),
        moved=centre_classes(np.where(len(its), most, 0.0), labels),
        along=_along(inputs.data, cluster, films, margin) if maps.side > SMALLEST_WINDOW else None,
        donors=donors,
        windows=known,
    )


def _along(
    data: AuditData, cluster: FeatureCluster, films: NDArray[np.bool_], margin: NDArray[np.float64]
) -> float:
    """How well a feature goes with the margin, within classes, on films of other classes."""
    foreign = films & (data.labels >= 0) & (data.labels != cluster.raised_class)
    own = (values[foreign] for values in (cluster.present, margin))
    return correlation_of(*(centre_classes(values, data.labels[foreign]) for values in own))


def _donors_of_half(
    inputs: ModelInputs,
    cluster: FeatureCluster,
    bare: NDArray[np.bool_],  # (N,)
    films: NDArray[np.bool_],  # (N,) of the half that was mapped
    margin: NDArray[np.float64],  # (N,)
    known: Windows,
    evidence: EvidenceConfig,
) -> Donors:
    """Choose donors among all films of the half, classes in turn, where mapped ones are too few."""
    data, rng = inputs.data, np.random.default_rng([evidence.seed, 8])
    having, without = (
        spread_over_patients(np.flatnonzero(films & (data.labels >= 0) & own), data.patients, rng)
        for own in (cluster.present, bare)
    )
    most = evidence.effect_films
    giving, plain = match_films(inputs, having[:most], without[:most], margin)
    rows = rows_by_film(cluster, data.region_image, giving)
    places = [choose_places(inputs, cluster, own, known)[0] for own in rows.values()]
    boxes = np.reshape(places, (-1, 4)).astype(np.float32)
    return Donors(giving, boxes, plain, boxes)


def _places_to_try(
    inputs: ModelInputs,
    maps: EffectMaps,
    cluster: FeatureCluster,
    rows: dict[int, NDArray[np.int64]],  # positions in cluster.regions, by film
    drop: NDArray[np.float64],  # (n, W)
    usual: NDArray[np.float64],  # (W,)
) -> tuple[Windows, dict[int, NDArray[np.int64]]]:
    """Say what windows are worth, and which are tried on a film by what the others say."""
    windows, held = maps.windows[: maps.coarse], np.array(list(rows), dtype=np.int64)
    hold = [hold_regions(inputs, cluster, own, windows)[2] for own in rows.values()]
    effects = (drop - usual)[np.isin(maps.films, held), : maps.coarse]
    by_film = np.reshape(hold, (-1, maps.coarse)), effects, inputs.data.patients[held]
    worth, without = window_worth(*by_film)
    known = Windows(windows, usual[: maps.coarse], worth)
    tried = {}
    for (film, own), others in zip(rows.items(), without, strict=True):
        places = choose_places(inputs, cluster, own, replace(known, worth=others))
        tried[film] = _window_rows(places, windows)
    return known, tried


Looked = tuple[NDArray[np.int64], NDArray[np.int64]]  # films and a window of each


class _LookUp:
    """What filling windows of mapped films did to one margin."""

    def __init__(
        self,
        films: NDArray[np.int64],  # (n,)
        drop: NDArray[np.float64],  # (n, W)
        undone: NDArray[np.float64],  # (n, W)
        patients: NDArray[np.int64],  # (N,)
        confidence: float,
        least: float,  # logits, see `compare_pairs`
    ) -> None:
        self._row = {film: row for row, film in enumerate(films.tolist())}
        self._drop, self._undone, self._patients = drop, undone, patients
        self._confidence, self._least = confidence, least

    def best(
        self,
        films: NDArray[np.int64],
        tried: Mapping[int, NDArray[np.int64]],
        partners: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return the window of each film (m,) with the largest drop, of those of its partner."""
        found = []
        for film, partner in zip(films.tolist(), partners.tolist(), strict=True):
            windows = tried[partner]
            found.append(windows[self._drop[self._row[film], windows].argmax()])
        return np.array(found, dtype=np.int64)  # of no film too

    def compare(self, looked: Looked, controls: Looked, fewest: int) -> PairedChange | None:
        """Compare windows of films with those of controls; None with too few of them."""
        if len(looked[0]) < fewest:
            return None
        changes, of_controls = self._at(*looked), self._at(*controls)
        patients = self._patients[looked[0]]
        return compare_pairs(changes, of_controls, patients, self._confidence, self._least)

    def compare_places(
        self, tried: Mapping[int, NDArray[np.int64]], beside: Mapping[int, NDArray[np.int64]]
    ) -> PairedChange | None:
        """Compare the best window of each film with the best of as many beside it."""
        films = np.array([film for film, others in beside.items() if len(others)], dtype=np.int64)
        as_many = {film: tried[film][: len(beside[film])] for film in films.tolist()}
        own, other = (self.best(films, windows, films) for windows in (as_many, beside))
        return self.compare((films, own), (films, other), FEWEST_WRONG)

    def _at(
        self, films: NDArray[np.int64], windows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the drop at a window of each film, and whether a decision was undone, (m,)."""
        rows = [self._row[film] for film in films.tolist()]
        return self._drop[rows, windows], self._undone[rows, windows]


def _effects_of_regions(
    inputs: ModelInputs,
    maps: EffectMaps,
    cluster: FeatureCluster,
    rows: dict[int, NDArray[np.int64]],
    drop: NDArray[np.float64],  # (n, W) beyond the usual
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Effect (n,) of each region of the mapped films, and the window that has it, stored pixels."""
    effect = np.full(len(cluster.regions), np.nan)
    located = np.full((len(cluster.regions), 4), np.nan, dtype=np.float32)
    at = {film: row for row, film in enumerate(maps.films.tolist())}
    for film, own in rows.items():
        effect[own], located[own] = effects_over(
            inputs, film, cluster.regions[own], maps.windows, drop[at[film]]
        )
    return effect, located


def effects_over(
    inputs: ModelInputs,
    film: int,
    regions: NDArray[np.int64],  # (k,) of that film
    windows: NDArray[np.float32],  # (W, 4) in input pixels
    drop: NDArray[np.float64],  # (W,) NaN: not filled
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return the largest drop of the windows over each region (k,), and that window (k, 4).

    A window is over a region where half of the smaller of the two is shared; NaN without any. The
    window is in stored pixels.
    """
    boxes = inputs.carry_in(film, inputs.data.region_boxes[regions])
    over = box_shares(boxes, windows) >= OVERLAP
    held = np.where(over & ~np.isnan(drop)[None], np.nan_to_num(drop)[None], -np.inf)
    best = held.argmax(axis=1)
    effect = held[np.arange(len(regions)), best]
    found = np.isfinite(effect)
    located = np.where(found[:, None], inputs.carry_back(film, windows[best]), np.nan)
    return np.where(found, effect, np.nan), located.astype(np.float32)


def _window_rows(places: NDArray[np.float32], windows: NDArray[np.float32]) -> NDArray[np.int64]:
    """Rows (k,) of the windows that are the places, lie over them most, or lie within them."""
    shared = box_shares(places, windows)
    most = shared.max(axis=1, keepdims=True)
    return np.flatnonzero((shared >= most - _EQUAL).any(axis=0))


def _median(column: NDArray[np.float64]) -> float:
    """Median of what was looked at; 0 where that are too few films to say what is usual."""
    seen = column[~np.isnan(column)]
    return float(np.median(seen)) if len(seen) >= 10 else 0.0
