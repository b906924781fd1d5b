"""Interventions: whether the margin falls when a feature is removed, and rises when it is put in.

Places are windows of the effect maps that lie over the regions of a feature, or a region itself
where it is larger; of many windows those are tried that did most on the discovery half. Which of
them is looked at is chosen by its effect, and choosing and testing on the same film is circular: on
pure noise the best of nine places drops by more than a standard deviation. So the control makes the
same choice. It is a film of the same class without the feature, filled at the same places; its best
of k stands against the best of k of the feature. It is not matched by the margin: where a feature
lies on the sign of a finding, films of its margin have that sign, and lose as much by it.

In a transplant the place of a film with the feature goes into a film of another class; as a
control, the place of a film without it does, chosen in the same way, of about the same margin: a
feature travels where it moves films more than the finding itself would.

References
----------
Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Transactions on Aerospace and
Electronic Systems 52 (2016), for the matching: `scipy.optimize.linear_sum_assignment`. DerSimonian
and Laird, "Meta-analysis in clinical trials", Controlled Clinical Trials 7 (1986), for the windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual.fills import pixel_boxes, transplant_box
from ravl_med.evidence.counterfactual.model_inputs import (
    ModelInputs,
    compare_pairs,
    spread_over_patients,
)
from ravl_med.evidence.results import PairedChange
from ravl_med.regions.geometry import box_shares

PLACES = 3
"""Places of a film that are tried for a feature."""

OVERLAP = 0.5
"""Share of the smaller of window and region from which the one is over the other."""

FEWEST_WRONG = 5
"""Wrong calls from which is said what undoes them."""

_POOL = 8  # films that each control is chosen from, on average
_OTHER_CLASS = 0.5  # standard deviations of the margin that a control of another class costs
_OTHER_FRAME = 20.0  # the same, for the whole side of the input that is padding in one film alone
_FORBIDDEN = 1e3
_TIE = 1e-6  # puts pairs of one frame in order; far less than frames differ by
_BESIDE = 0.05  # of a window may lie over a place
_FINE = 2.0  # pixels of the input; what a Gaussian of this width takes away is fine detail
_ROUNDING = 1e-6
_LARGER = 1.001  # than a window, beyond rounding
_TINY = 1e-30  # where nothing is divided by nothing; a similarity has no unit


@dataclass(frozen=True, slots=True, eq=False)
class FilledFilm:
    """A film before and after each of its k places is filled as like places are."""

    film: int
    boxes: NDArray[np.float32]  # (k, 4) xyxy in input pixels
    before: float  # margin
    decided: bool  # for the raised class
    after: NDArray[np.float64]  # (k,) margin
    decided_after: NDArray[np.bool_]  # (k,)

    @property
    def effect(self) -> NDArray[np.float64]:
        """Removal effect of each place, shape (k,): positive where it speaks for the class."""
        effect: NDArray[np.float64] = self.before - self.after
        return effect

    @property
    def best(self) -> int:
        """Position of the place with the largest removal effect."""
        return int(np.argmax(self.effect))


def fill_films(
    inputs: ModelInputs, jobs: Sequence[tuple[int, NDArray[np.float32]]]
) -> list[FilledFilm]:
    """Fill boxes (k, 4), in input pixels, one at a time and measure the margin after each."""
    before = inputs.untouched(np.array([film for film, _ in jobs], dtype=np.int64))
    after = inputs.margins(inputs.like.fill(film, box) for film, boxes in jobs for box in boxes)
    ends = np.cumsum([len(boxes) for _, boxes in jobs])[:-1]
    margins, decided = np.split(after.margin, ends), np.split(after.decided, ends)
    return [
        FilledFilm(
            film,
            boxes,
            float(before.margin[at]),
            bool(before.decided[at]),
            margins[at],
            decided[at],
        )
        for at, (film, boxes) in enumerate(jobs)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Windows of the effect maps, and what the discovery half says of filling each of them."""

    boxes: NDArray[np.float32]  # (W, 4) of the model's input
    usual: NDArray[np.float64]  # (W,) logits, drop of the margin in films without the feature
    worth: NDArray[np.float64]  # (W,) effect where it holds the feature, as a share of the largest


def rows_by_film(
    cluster: FeatureCluster, region_image: NDArray[np.int64], films: NDArray[np.int64]
) -> dict[int, NDArray[np.int64]]:
    """Return the positions in `cluster.regions` of the regions on each film (n,)."""
    film = region_image[cluster.regions]
    order = np.argsort(film, kind="stable")
    ends = (np.searchsorted(film[order], films, side=side) for side in ("left", "right"))
    return {
        int(one): order[low:high] for one, low, high in zip(films, *ends, strict=True) if high > low
    }


def choose_places(
    inputs: ModelInputs,
    cluster: FeatureCluster,
    rows: NDArray[np.int64],  # positions in `cluster.regions`, of one film
    windows: Windows,
) -> NDArray[np.float32]:
    """Choose the places of a film where a feature would lie, most likely first: (k, 4).

    A window counts by how much of the feature's regions it holds, each by its similarity, and by
    its worth: a region may be larger than the thing in it. A region that is larger than a window is
    a place itself: no window would cover it. What holds nothing is no place, unless the model sees
    none of the regions.
    """
    large, size, held = hold_regions(inputs, cluster, rows, windows.boxes)
    score = np.concatenate([size, held * windows.worth])
    places = np.concatenate([large, windows.boxes])
    likely = np.argsort(-score, kind="stable")[:PLACES]
    return places[likely[: max(1, int((score[likely] > 0).sum()))]]


def hold_regions(
    inputs: ModelInputs,
    cluster: FeatureCluster,
    rows: NDArray[np.int64],  # positions in `cluster.regions`, of one film
    windows: NDArray[np.float32],  # (W, 4) of the model's input
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Share a film's regions of a feature out over windows, by area and similarity.

    A window holds what it is over: one that reaches a region with a corner may lie on something
    else. A region that no window is over is held by those that are nearest to it. Returned are the
    boxes of regions that are larger than a window (k, 4), how much each of them holds (k,), and how
    much of the others each window holds (W,).
    """
    film = int(inputs.data.region_image[cluster.regions[rows[0]]])
    boxes = inputs.carry_in(film, inputs.data.region_boxes[cluster.regions[rows]])
    weight = np.maximum(cluster.similarity[rows], 1e-6)
    window = np.prod(windows[0, 2:] - windows[0, :2])
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / window
    large = area > _LARGER
    shares = box_shares(boxes, windows)
    over = shares >= np.minimum(shares.max(axis=1, keepdims=True), OVERLAP) - _ROUNDING
    held = (weight * area * ~large) @ (shares * over)  # none of them is larger than a window
    return boxes[large], (weight * area)[large], held


def window_worth(
    held: NDArray[np.float64],  # (n, W) how much of a feature each window of a film holds
    drop: NDArray[np.float64],  # (n, W) beyond the usual
    patients: NDArray[np.int64],  # (n,)
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimate what filling a window does where it holds a feature, as a share of the largest.

    By least squares through the origin, shrunk towards all windows by how far they differ beyond
    chance (DerSimonian and Laird): where a feature lies anywhere, they do not. (W,) of all films,
    and (n, W) without the patient of each film.
    """
    who = np.unique(patients, return_inverse=True)[1]
    by_patient = np.zeros((2, int(who.max(initial=-1)) + 1, held.shape[1]))
    for sums, values in zip(by_patient, (held**2, held * drop), strict=True):
        np.add.at(sums, who, values)
    size, total = by_patient.sum(axis=1)
    every, windows = max(float(size.sum()), _TINY), int((size > 0).sum())
    effect, mean = total / np.maximum(size, _TINY), float(total.sum()) / every
    left = ((drop - held * effect)[held > 0] ** 2).sum()
    noise = float(left) / max(int((held > 0).sum()) - windows, 1)
    apart = float((size * (effect - mean) ** 2).sum()) - (windows - 1) * noise
    between = max(0.0, apart / max(every - float((size**2).sum()) / every, _TINY))

    def share(size: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
        shrunk = (between * total + noise * mean) / np.maximum(between * size + noise, _TINY)
        largest = shrunk.max(axis=-1, keepdims=True)
        kept: NDArray[np.float64] = np.maximum(shrunk, 0.0) / np.maximum(largest, _TINY)
        return np.where(largest > 0, kept, 1.0)

    return share(size, total), share(*(by_patient.sum(axis=1, keepdims=True) - by_patient)[:, who])


def match_films(
    inputs: ModelInputs,
    films: NDArray[np.int64],
    pool: NDArray[np.int64],
    margin: NDArray[np.float64] | None = None,  # (N,) of every film, untouched
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair films with films of a pool, each once, with about the same margin if given: both (m,).

    A control is of another patient. Of the same class and the same frame (what of the input is
    film, and what is padding) is better than of another. The sum of all differences is smallest.
    """
    data = inputs.data
    if not len(films) or not len(pool):
        return films[:0], pool[:0]
    cost = np.zeros((len(films), len(pool)))
    if margin is not None:
        spread = max(float(margin[np.concatenate([films, pool])].std()), 1e-9)
        cost += np.abs(margin[films][:, None] - margin[pool][None]) / spread
    cost += _OTHER_CLASS * (data.labels[films][:, None] != data.labels[pool][None])
    cost += _OTHER_FRAME * _frames_apart(inputs, films, pool)
    cost += _FORBIDDEN * (data.patients[films][:, None] == data.patients[pool][None])
    first, second = linear_sum_assignment(cost)
    allowed = cost[first, second] < _FORBIDDEN
    return films[first[allowed]], pool[second[allowed]]


def _frames_apart(
    inputs: ModelInputs, films: NDArray[np.int64], others: NDArray[np.int64]
) -> NDArray[np.float64]:
    """How far the frames of films lie apart, (n, m), as a share of the side of the input."""
    frames = [np.stack([inputs.frame(film) for film in own.tolist()]) for own in (films, others)]
    size = max(float(np.concatenate(frames).max()), 1.0)
    apart: NDArray[np.float64] = np.abs(frames[0][:, None] - frames[1][None]).sum(axis=2) / size
    return apart


def wrongly_called(data: AuditData, cluster: FeatureCluster) -> NDArray[np.bool_]:
    """Whether a film of another class is called as the raised one, (N,)."""
    raised = cluster.raised_class
    called: NDArray[np.bool_] = (data.labels != raised) & (data.predictions == raised)
    return called


def strongest_beside(places: NDArray[np.float32], windows: Windows) -> NDArray[np.int64]:
    """Choose as many windows beside the places (k, 4) of a film: rows, at most k.

    They are the control of a wrong call: those that hold up the call most in films without the
    feature, since its own places were chosen by what filling them does. A film without the feature
    that is called the same is none: it is called so by the finding, which may show in that place.
    """
    beside = np.flatnonzero(box_shares(places, windows.boxes).max(axis=0) < _BESIDE)
    return beside[np.argsort(-windows.usual[beside], kind="stable")][: len(places)]


def share_called(data: AuditData, cluster: FeatureCluster, films: NDArray[np.bool_]) -> float:
    """Share of the films of other classes with the feature that are called as the raised one."""
    foreign = films & cluster.present & (data.labels >= 0) & (data.labels != cluster.raised_class)
    return float(wrongly_called(data, cluster)[foreign].mean()) if foreign.any() else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class FilmPairs:
    """Films with a feature, their controls, and the places that are filled in both."""

    films: NDArray[np.int64]  # (n,)
    controls: NDArray[np.int64]  # (n,)
    places: list[NDArray[np.float32]]  # n times (k, 4) in input pixels


def pair_films(
    inputs: ModelInputs,
    cluster: FeatureCluster,
    bare: NDArray[np.bool_],  # (N,) films without it, or anything of its claim
    films: NDArray[np.bool_],  # (N,) of the half that tests
    windows: Windows,
    most: int,
    rng: np.random.Generator,
) -> FilmPairs:
    """Sample films with a feature, spread over patients, and match controls without it.

    Films of the raised class and all others take turns. They are not chosen by what the model calls
    them: what is chosen for a high margin falls by itself, whatever is filled.
    """
    data = inputs.data
    known = films & (data.labels >= 0)
    own = data.labels == cluster.raised_class
    kinds = (~own, own)
    parts = [
        spread_over_patients(np.flatnonzero(known & cluster.present & kind), data.patients, rng)
        for kind in kinds
    ]
    turn = np.concatenate([np.arange(len(part)) for part in parts])
    chosen = np.concatenate(parts)[np.argsort(turn, kind="stable")][:most]
    free = spread_over_patients(np.flatnonzero(known & bare), data.patients, rng)
    matched, controls = match_films(inputs, chosen, free[: _POOL * most])
    rows = rows_by_film(cluster, data.region_image, matched)
    places = [choose_places(inputs, cluster, rows[film], windows) for film in matched.tolist()]
    return FilmPairs(matched, controls, places)


@dataclass(frozen=True, slots=True, eq=False)
class FilledPairs:
    """Pairs after their best places were filled in two ways; columns: typical, replaced."""

    filled: list[FilledFilm]  # the films with the feature, all their places
    drop: NDArray[np.float64]  # (n, 2) of the margin of the films
    undone: NDArray[np.float64]  # (n, 2) 1 where the decision for the raised class goes
    control_drop: NDArray[np.float64]  # (n, 2)
    control_undone: NDArray[np.float64]  # (n, 2)
    imbalance: float  # mean margin of the films less that of the controls, untouched
    # (n,) 1 where the best place holds finer detail than that of the control, 0.5 where as fine
    sharper: NDArray[np.float64]


def fill_pairs(
    inputs: ModelInputs,
    pairs: FilmPairs,
    bare: NDArray[np.bool_],  # (N,) films without the feature
) -> FilledPairs:
    """Fill the places of films and controls as like places are, the best one from a bare film too.

    Where the feature is that a thing is missing, bare films have the thing, and a patch of them
    puts it in; the most ordinary of any films does not, and both have to agree.
    """
    n = len(pairs.films)
    both = [*pairs.films.tolist(), *pairs.controls.tolist()]
    filled = fill_films(inputs, list(zip(both, [*pairs.places, *pairs.places], strict=True)))
    replaced = inputs.margins(
        inputs.like.replace(film.film, film.boxes[film.best], bare) for film in filled
    )
    before, decided = np.array([f.before for f in filled]), np.array([f.decided for f in filled])
    after = np.column_stack([[f.after[f.best] for f in filled], replaced.margin])
    held = np.column_stack([[f.decided_after[f.best] for f in filled], replaced.decided])
    drop = before[:, None] - after
    undone = (decided[:, None] & ~held).astype(np.float64)
    imbalance = float(before[:n].mean() - before[n:].mean())
    detail = np.array([_fine_detail(inputs.read(f.film), f.boxes[f.best]) for f in filled])
    sharper = 0.5 + 0.5 * np.sign(detail[:n] - detail[n:])
    return FilledPairs(filled[:n], drop[:n], undone[:n], drop[n:], undone[n:], imbalance, sharper)


def _fine_detail(picture: NDArray[np.float32], box: NDArray[np.float32]) -> float:
    """Root mean square of fine detail, as man-made edges have it, in a box of a film (3, S, S)."""
    x0, y0, x1, y1 = pixel_boxes(box[None], picture.shape[1:])[0].tolist()
    around = int(4 * _FINE)
    top, left = max(y0 - around, 0), max(x0 - around, 0)
    crop = picture[:, top : y1 + around, left : x1 + around]
    fine = crop - gaussian_filter(crop, (0.0, _FINE, _FINE), mode="nearest")
    inside = fine[:, y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float64)
    return float(np.sqrt(np.square(inside).mean()))


def compare_wrong_calls(
    inputs: ModelInputs,
    cluster: FeatureCluster,
    windows: Windows,
    films: NDArray[np.bool_],  # (N,) of the half that tests
    evidence: EvidenceConfig,
    least: float,  # logits, see `compare_pairs`
    rng: np.random.Generator,
) -> PairedChange | None:
    """Compare the best place of wrong calls with a feature with the best of as many beside it.

    Decisions are the calls that filling undoes. None with fewer than `FEWEST_WRONG`.
    """
    data = inputs.data
    wrong = films & (data.labels >= 0) & cluster.present & wrongly_called(data, cluster)
    chosen = spread_over_patients(np.flatnonzero(wrong), data.patients, rng)
    rows = rows_by_film(cluster, data.region_image, chosen[: evidence.max_pairs // 2])
    own, others = [], []
    for film, regions in rows.items():
        places = choose_places(inputs, cluster, regions, windows)
        beside = windows.boxes[strongest_beside(places, windows)]
        if len(beside):
            own.append((film, places[: len(beside)]))
            others.append((film, beside))
    if len(own) < FEWEST_WRONG:
        return None
    filled = fill_films(inputs, [*own, *others])
    drop = np.array([film.effect[film.best] for film in filled])
    undone = np.array(
        [float(film.decided and not film.decided_after[film.best]) for film in filled]
    )
    patients, n = data.patients[[film for film, _ in own]], len(own)
    changes, of_others = (drop[:n], undone[:n]), (drop[n:], undone[n:])
    return compare_pairs(changes, of_others, patients, evidence.confidence, least)


@dataclass(frozen=True, slots=True, eq=False)
class Donors:
    """Places of m films with a feature, and of m ordinary ones, that are put into other films."""

    films: NDArray[np.int64]  # (m,) with the feature
    boxes: NDArray[np.float32]  # (m, 4) the place with the largest effect, in input pixels
    ordinary: NDArray[np.int64]  # (m,) without it
    ordinary_boxes: NDArray[np.float32]  # (m, 4) the best of the same places there


def compare_transplants(
    inputs: ModelInputs,
    cluster: FeatureCluster,
    donors: Donors,
    films: NDArray[np.bool_],  # (N,) of the half that tests, without anything of its claim
    evidence: EvidenceConfig,
    least: float,  # logits, see `compare_pairs`
    rng: np.random.Generator,
) -> PairedChange | None:
    """Test whether a feature raises the margin of films of other classes that it is put into.

    Donors are of the discovery half and targets of the other, so no patient gives and takes. No
    film is used twice: the interval then covers how donors differ as well as how targets do. Donor
    and target are paired at random among those of the same frame, so that a place is the same
    place, and the border of a film is not carried into another. None with fewer than `min_pairs`.
    Decisions are those that become the raised class.
    """
    data = inputs.data
    aims = films & (data.labels >= 0) & (data.labels != cluster.raised_class)
    targets = spread_over_patients(np.flatnonzero(aims), data.patients, rng)
    if min(len(targets), len(donors.films)) < evidence.min_pairs:
        return None
    pool = targets[: _POOL * len(donors.films)]
    apart = np.round(_frames_apart(inputs, donors.films, pool), 2)
    cost = apart + _TIE * (np.arange(len(pool)) + rng.random(apart.shape))  # patients first
    rows, chosen = linear_sum_assignment(cost)
    targets = pool[chosen]

    def pictures() -> Iterator[NDArray[np.float32]]:
        for target, row in zip(targets.tolist(), rows.tolist(), strict=True):
            picture = inputs.read(target)
            yield transplant_box(picture, inputs.read(int(donors.films[row])), donors.boxes[row])
            ordinary = inputs.read(int(donors.ordinary[row]))
            yield transplant_box(picture, ordinary, donors.ordinary_boxes[row])

    before, answers = inputs.untouched(targets), inputs.margins(pictures())
    rise = answers.margin.reshape(-1, 2).T - before.margin
    gained = (answers.decided.reshape(-1, 2).T & ~before.decided).astype(np.float64)
    return compare_pairs(
        (rise[0], gained[0]),
        (rise[1], gained[1]),
        data.patients[targets],
        evidence.confidence,
        least,
    )
