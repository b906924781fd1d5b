"""Candidates that share their regions are one: they are tested as one and shown as one.

Several clusterings hold the same feature many times over. Tested each by itself, its copies would
stand at the top of the list of Benjamini and Hochberg and lift the limit for everything below them,
so that what is shown in the end, each feature once, held more false discoveries than was asked for.
So copies are folded before the test, by what is known where they were found. After it correlations
that are one feature, its complement, or confounded with it are shown beside it.

References
----------
Benjamini, Heller, "False discovery rates for spatial signals", Journal of the American Statistical
Association 102 (2007): the rate over regions that belong together, not over their parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.confirmation import Candidate
from ravl_med.evidence.counterfactual.effect_maps import Exploration
from ravl_med.evidence.results import Confirmation, PairedChange, SpuriousCorrelation
from ravl_med.evidence.statistics import centre_classes, correlation_of
from ravl_med.evidence.subgroups import mantel_haenszel
from ravl_med.evidence.verdict import BY_GRAVITY, rank_correlations
from ravl_med.regions.geometry import box_shares

_SAME = 0.5  # mean share of the smaller of two places that are one
_APART = 0.1  # correlation from which one feature is there where the other is not
_EXCLUSIVE = 0.5  # from which they are hardly ever together
_FILMS = 5  # shared films below which nothing is said
_OVERLAP = 0.5  # of the regions of the smaller cluster

_PLACE = "Its effect lies in the same place as that of {}: they are one feature."
_PART = "It occurs together with {}, which accounts for its gaps: it is part of it."
_COMPLEMENT = (
    "It is the complement of {}: it is there where that feature is not, and lowers what that "
    "raises. Of the two, that one is the thing: it is sharper, and moves films that it is "
)
_PUT_IN, _TAKEN = f"{_COMPLEMENT}put into.", f"{_COMPLEMENT}taken from."

Tested = tuple[Candidate, Confirmation, tuple[int, ...]]  # and clusters that are shown as this one
Entry = TypeVar("Entry")


def fold_candidates(candidates: Sequence[Candidate]) -> list[tuple[Candidate, tuple[int, ...]]]:
    """Fold candidates into stronger ones of the same half, raised class and regions.

    Nothing of the films that they are tested on is looked at. The strongest candidate is kept; one
    is folded into the first kept one with which it shares half of the regions of the smaller.
    """
    folded = _fold(
        sorted(candidates, key=lambda c: (-c.cluster.strength, -c.cluster.performance_gap)),
        lambda c: c,
        lambda c: (c.swapped, c.cluster.raised_class, _of_effects(c)),
    )
    return [
        (candidate, tuple(other.cluster.cluster for other in others))
        for candidate, others in folded
    ]


def fold_tested(tested: Sequence[Tested]) -> list[Tested]:
    """Fold tested candidates into better ones of the same outcome, class and regions.

    With cross-fitting the same feature may stand for itself on either half.
    """
    folded = _fold(
        sorted(tested, key=_by_p),
        lambda entry: entry[0],
        lambda entry: (entry[1].status, entry[0].cluster.raised_class, _of_effects(entry[0])),
    )
    return [
        (candidate, outcome, _joined(candidate, also, others))
        for (candidate, outcome, also), others in folded
    ]


def _of_effects(candidate: Candidate) -> int:
    """Return the number of what effects propose, which they alone fold; -1 for clusters."""
    return candidate.cluster.cluster if candidate.cluster.source == "effects" else -1


def _fold(
    ordered: Sequence[Entry],
    candidate_of: Callable[[Entry], Candidate],
    kind_of: Callable[[Entry], object],
) -> list[tuple[Entry, list[Entry]]]:
    """Walk from the best to the worst; an entry joins the first alike one that was kept."""
    regions = [candidate_of(entry).cluster.regions for entry in ordered]
    inside = np.zeros(max((int(r.max(initial=-1)) for r in regions), default=-1) + 1, np.bool_)
    kept: list[tuple[int, list[Entry]]] = []
    for number, entry in enumerate(ordered):
        own = regions[number]
        inside[own] = True
        for other, joined in kept:
            if kind_of(ordered[other]) != kind_of(entry):
                continue
            theirs = regions[other]
            smaller = max(min(len(own), len(theirs)), 1)
            if np.count_nonzero(inside[theirs]) >= _OVERLAP * smaller:
                joined.append(entry)
                break
        else:
            kept.append((number, []))
        inside[own] = False
    return [(ordered[number], joined) for number, joined in kept]


def _by_p(entry: Tested) -> tuple[float, float]:
    candidate, confirmation, _ = entry
    p = confirmation.p_value
    return (2.0 if np.isnan(p) else p, -candidate.cluster.performance_gap)


def _joined(
    candidate: Candidate, also: tuple[int, ...], others: Sequence[Tested]
) -> tuple[int, ...]:
    """Clusters shown as this one, each once: those it held and those of what joined it."""
    own = candidate.cluster.cluster
    more = [number for other, _, held in others for number in (other.cluster.cluster, *held)]
    return tuple(number for number in dict.fromkeys((*also, *more)) if number != own)


def fold_places(
    explored: Sequence[tuple[int, Exploration]], worth: Sequence[bool], shown: Sequence[int] = ()
) -> list[int]:
    """Fold features of one raised class that have their effect in the same place on mapped films.

    `explored` are the raised class and what the maps say. Features are folded into the one whose
    effect is surest, by its standard error. Returned is, for each, the position of the one that
    stands for it, itself where it stands alone: of those that are folded, the best one by `_fit`.
    Two things may lie in one place, as a coin and the disease under it: where the best one is not
    among those whose gaps are `shown` by other patients, the best of these stands beside it. What
    is not `worth` a test stands alone.
    """
    host = list(range(len(explored)))
    effects = [_surety(one.change) for _, one in explored]
    kept: list[int] = []
    for at in sorted(range(len(explored)), key=lambda i: -effects[i]):
        if not worth[at]:
            continue
        for other in kept:
            if explored[at][0] == explored[other][0] and _places_agree(
                explored[at][1].places, explored[other][1].places
            ):
                host[at] = other
                break
        else:
            kept.append(at)
    for surest in kept:
        group = [at for at, one in enumerate(host) if one == surest]
        fits = {at: (_fit(explored[surest][1], explored[at][1]), effects[at]) for at in group}
        best = max(group, key=fits.__getitem__)  # of equals the first
        host = [best if one == surest else one for one in host]
        if best not in shown and (own := [at for at in group if at in shown]):
            beside = max(own, key=fits.__getitem__)
            host[beside] = beside
    return host


def _surety(change: PairedChange | None) -> float:
    """Return how far an effect is above 0, by the width of its interval."""
    width = math.nan if change is None else change.interval.high - change.interval.low
    if change is None or not width > 0:
        return -math.inf
    return float(change.contrast / width)


def _fit(surest: Exploration, other: Exploration) -> float:
    """How well a feature tells on which films the place of the surest does something.

    What is as large as its region and lies anywhere has no such place: then, how well it tells
    which films of other classes speak for the class.
    """
    boxes = np.reshape(list(surest.places.values()), (-1, 4))
    placed = len(boxes) < _FILMS or box_shares(boxes, boxes).mean() >= _SAME
    if placed or other.along is None:
        return correlation_of(surest.moved, other.present)
    return other.along


def _places_agree(
    first: Mapping[int, NDArray[np.float32]], second: Mapping[int, NDArray[np.float32]]
) -> bool:
    """Whether the places (4,) of two features on shared films share half of the smaller."""
    shared = sorted(first.keys() & second.keys())
    if len(shared) < _FILMS:
        return False
    overlap = [box_shares(first[film][None], second[film][None])[0, 0] for film in shared]
    return float(np.mean(overlap)) >= _SAME


def fold_counting(
    correlations: Sequence[SpuriousCorrelation],
    data: AuditData,
    max_gap: float,
    tested_for: Mapping[int, int] = MappingProxyType({}),
) -> tuple[SpuriousCorrelation, ...]:
    """Rank correlations; of those that count and are one feature, one stays.

    Clusters around a device hold different regions, yet removal finds the device from each of them:
    of those that have their effect in the same place, the one stays that moves other films most,
    but none is hidden by what is less grave: no thing by a sign, no shortcut by what is open.
    Where a device is missing, its place looks alike on all films: that raises what it lowers. Of a
    feature and its complement the side stays that is a thing: it is sharper than the same place
    without it, and moves other films; where one side could be put into none, and the other moves
    none, its own films that it is taken from. What has its gaps from a stronger one of its class
    (below `max_gap` with that held fixed) is part of it. The others no longer count, and name what
    they belong to; so does what one that counts was `tested_for`: cluster to cluster.
    """
    correlations = _count_things(correlations, data, max_gap)
    kept: list[SpuriousCorrelation] = []
    hosts: dict[int, tuple[int, str]] = {}
    for entry in sorted(rank_correlations(correlations), key=lambda c: -_transplant_size(c)):
        if not entry.counts:
            continue
        grave = [c for c in kept if BY_GRAVITY.index(c.kind) <= BY_GRAVITY.index(entry.kind)]
        same = [other for other in grave if _in_one_place(entry, other, data.region_image)]
        opposite = [c for c in correlations if c.counts and _is_complement(entry, c, data, max_gap)]
        if same:
            hosts[entry.cluster.cluster] = same[0].cluster.cluster, _PLACE
        elif opposite:
            plainest = _plainest(opposite)
            reason = _TAKEN if _by_removal((entry, plainest)) else _PUT_IN
            hosts[entry.cluster.cluster] = plainest.cluster.cluster, reason
        elif part := [other for other in grave if _is_part(entry, other, data, max_gap)]:
            hosts[entry.cluster.cluster] = part[0].cluster.cluster, _PART
        else:
            kept.append(entry)
    counting = {c.cluster.cluster for c in correlations if c.counts}
    for cluster, host in tested_for.items():
        if host in counting and cluster not in counting:
            hosts[cluster] = hosts.get(host, (host, _PLACE))[0], _PLACE
    return _rank_beside(correlations, hosts)


def _is_part(
    entry: SpuriousCorrelation, other: SpuriousCorrelation, data: AuditData, max_gap: float
) -> bool:
    """Whether a feature does harm by another of its class: held fixed, that takes most of it."""
    first, second = entry.cluster, other.cluster
    if first.raised_class != second.raised_class:
        return False
    gaps, held = _gaps_with_and_without(entry, second.present, data)
    return bool(np.any((gaps >= max_gap) & ~(held >= np.minimum(max_gap, gaps / 2))))


def _count_things(
    correlations: Sequence[SpuriousCorrelation], data: AuditData, max_gap: float
) -> list[SpuriousCorrelation]:
    """Let a thing count, as one claim of its kind, that is used and whose lack counts.

    The opposite of a sign, as of a clear lung, may be a sign itself: it has to look man-made.
    """
    shown, tested = set(), [(c, c.counterfactual) for c in correlations]
    used = [c for c, one in tested if c.counts or (one and one.used and one.travels)]
    for lack in (c for c in correlations if c.counts):
        things = [c for c in used if _is_complement(lack, c, data, max_gap)]
        plainest = _plainest(things) if things else lack
        man_made = plainest.counterfactual is not None and plainest.counterfactual.is_man_made
        if not plainest.counts and (man_made or lack.kind != "plausible_sign"):
            shown.add(id(plainest))
    return [replace(c, counts=True, reasons=()) if id(c) in shown else c for c in correlations]


def _rank_beside(
    correlations: Sequence[SpuriousCorrelation], hosts: Mapping[int, tuple[int, str]]
) -> tuple[SpuriousCorrelation, ...]:
    """Rank correlations; those with a host no longer count, and name it and the reason."""
    ranked = rank_correlations(
        [replace(c, counts=False) if c.cluster.cluster in hosts else c for c in correlations]
    )
    rank = {c.cluster.cluster: c.rank for c in ranked}

    def name(entry: SpuriousCorrelation) -> SpuriousCorrelation:
        if entry.cluster.cluster not in hosts:
            return entry
        host, reason = hosts[entry.cluster.cluster]
        reasons = (*entry.reasons, reason.format(_listed([rank[host]])))
        return replace(entry, companion_of=rank[host], reasons=reasons)

    return tuple(map(name, ranked))


def _transplant_size(correlation: SpuriousCorrelation) -> float:
    """How far transplant moves the margin, in its standard deviations; 0 where it was not tried."""
    tested = correlation.counterfactual
    if tested is None or tested.transplant is None or not tested.removal.spread > 0:
        return 0.0
    return tested.transplant.contrast / tested.removal.spread


def _is_complement(
    entry: SpuriousCorrelation, other: SpuriousCorrelation, data: AuditData, max_gap: float
) -> bool:
    """Whether a feature is there where another is not, lowers what that raises, and is plainer.

    What keeps `max_gap` and half of its confirmed gaps with the other held fixed is no mere lack,
    unless the two are hardly ever together: then one of them is the other's, and seen too seldom.
    """
    lowers = other.cluster.raised_class in entry.cluster.lowered_classes
    by_removal = _by_removal((entry, other))
    if not lowers or not _salience(entry, by_removal) < _salience(other, by_removal):
        return False
    apart = _apartness(entry, other, data.labels)
    if not apart or apart >= _EXCLUSIVE or not entry.confirmed:
        return apart > 0
    gaps, held = _gaps_with_and_without(entry, other.cluster.present, data)
    return not np.all(held >= np.maximum(max_gap, gaps / 2))  # NaN is not


def _plainest(correlations: Sequence[SpuriousCorrelation]) -> SpuriousCorrelation:
    by_removal = _by_removal(correlations)
    return max(correlations, key=lambda c: _salience(c, by_removal))


def _by_removal(correlations: Sequence[SpuriousCorrelation]) -> bool:
    """Whether one could be put into no film, none is shown to move any, and all could be taken."""
    tested = [c.counterfactual for c in correlations if c.counterfactual is not None]
    unknown = any(one.transplant is None for one in tested) and not any(o.travels for o in tested)
    return unknown and all(one.removal.both is not None for one in tested)


def _salience(correlation: SpuriousCorrelation, by_removal: bool) -> tuple[bool, float]:
    """How far it moves other films, times how often it is sharper where that was measured.

    By the change itself: where the control of a thing is a film of its finding, that moves as well.
    Or how far its removal moves its own. A sign is never the thing: it asks nobody, and would hide
    what has to be decided.
    """
    tested, decides = correlation.counterfactual, correlation.kind != "plausible_sign"
    if tested is None or not tested.removal.spread > 0:
        return decides, 0.0
    change, sharper = tested.transplant, tested.removal.sharper
    if by_removal:
        change = tested.removal.both
    moved = 0.0 if change is None else max(change.change, 0.0) / tested.removal.spread
    return decides, moved * (0.5 if math.isnan(sharper) else sharper)


def name_confounded(
    ranked: Sequence[SpuriousCorrelation], data: AuditData, max_gap: float
) -> tuple[SpuriousCorrelation, ...]:
    """Name, for each confirmed correlation that does not count, the one it is confounded with.

    A bystander that is often on the same films as a used feature shows the same gap. It is
    confounded with a counting correlation when, among films alike in class and in presence of that
    feature, the gap of its raised class or of its opposed classes is below `max_gap`, or when no
    two such films differ in its own presence. Several clusters can share a used device between
    them, so it is also compared with all that count together.
    """
    counting = [c for c in ranked if c.counts]
    groups = [[other] for other in counting] + ([counting] if len(counting) > 1 else [])
    named = []
    for entry in ranked:
        alone = entry.companion_of is None and not entry.counts
        if entry.confirmation.status == "confirmed" and alone:
            for others in groups:
                held = np.any([other.cluster.present for other in others], axis=0)
                gaps = _gaps_held_fixed(entry, held, data)
                if any(not gap >= max_gap for gap in gaps):  # NaN: they cannot be told apart
                    entry = replace(
                        entry,
                        companion_of=others[0].rank,
                        reasons=(*entry.reasons, _sentence([o.rank for o in others], gaps)),
                    )
                    break
        named.append(entry)
    return tuple(named)


def _apartness(a: SpuriousCorrelation, b: SpuriousCorrelation, labels: NDArray[np.int64]) -> float:
    """How far one feature is there rather where the other is not, on films (N,) of one class.

    Signs of two diseases keep apart as well, but not among the films of one disease. Minus the
    correlation of both presences within classes; 0 below three standard errors or `_APART`.
    """
    known = labels >= 0
    within = (centre_classes(c.cluster.present[known], labels[known]) for c in (a, b))
    least = max(_APART, 3.0 / math.sqrt(max(int(known.sum()), 1)))
    apart = -correlation_of(*within)
    return apart if apart >= least else 0.0


def _in_one_place(
    a: SpuriousCorrelation, b: SpuriousCorrelation, region_image: NDArray[np.int64]
) -> bool:
    """Whether the largest effects of two correlations of a class lie together on shared films."""
    if a.cluster.raised_class != b.cluster.raised_class:
        return False
    return _places_agree(*(_effect_places(entry, region_image) for entry in (a, b)))


def _effect_places(
    entry: SpuriousCorrelation, region_image: NDArray[np.int64]
) -> dict[int, NDArray[np.float32]]:
    """Box of the effect of the first region of each film that carries the feature."""
    tested = entry.counterfactual
    if tested is None or tested.removal.located is None:
        return {}
    carries, boxes = tested.removal.carries, tested.removal.located
    found: dict[int, NDArray[np.float32]] = {}
    for position in entry.order[carries[entry.order]][::-1]:  # the first comes last and stays
        found[int(region_image[entry.cluster.regions[position]])] = boxes[position]
    return found


def _gaps_held_fixed(
    entry: SpuriousCorrelation, other: NDArray[np.bool_], data: AuditData
) -> tuple[float, float]:
    """Gap of the raised class and of the opposed classes, with the other feature held fixed."""
    cluster = entry.cluster
    strata = data.labels * 2 + other

    def gap(classes: Sequence[int]) -> float:
        films = np.isin(data.labels, list(classes))
        return mantel_haenszel(cluster.present[films], data.correct[films], strata[films])

    return gap((cluster.raised_class,)), -gap(cluster.opposed_classes)


def _gaps_with_and_without(
    entry: SpuriousCorrelation, other: NDArray[np.bool_], data: AuditData
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both gaps as they are, and with the other feature held fixed, (2,) each."""
    gaps, held = (_gaps_held_fixed(entry, one, data) for one in (np.zeros_like(other), other))
    return np.array(gaps), np.array(held)


def _sentence(ranks: Sequence[int], gaps: Sequence[float]) -> str:
    whose = f"the feature of {_listed(ranks)}"
    if any(math.isnan(value) for value in gaps):
        return (
            f"It cannot be separated from {whose}: on one side, no films have the one without the "
            "other."
        )
    raised, lowered = (
        f"{round(100 * value):+d}".replace("-", "−").replace("+0", "0")
        for value in (gaps[0], -gaps[1])
    )
    return (
        f"It occurs together with {whose}; once that is accounted for, its gaps shrink to {raised} "
        f"points on the raised and {lowered} points on the lowered side."
    )


def _listed(ranks: Sequence[int]) -> str:
    *most, last = map(str, ranks)
    return f"correlations {', '.join(most)} and {last}" if most else f"correlation {last}"
