"""Associations that travel along with a feature that the model uses.

A bystander that is often on the same films as a used feature shows the same gap. With the used
feature held fixed its gap goes away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.ravl import AuditedTask
from ravl_med.evidence.claims import SpuriousCorrelation
from ravl_med.evidence.subgroups import mantel_haenszel
from ravl_med.evidence.verdict import rank_correlations
from ravl_med.regions.geometry import box_overlap

__all__ = ["fold_counting", "name_companions"]

_SAME = 0.5  # mean intersection over union of two places that are one
_FILMS = 5  # shared films below which nothing is said


def name_companions(
    ranked: Sequence[SpuriousCorrelation], task: AuditedTask, max_gap: float
) -> tuple[SpuriousCorrelation, ...]:
    """Name, for each confirmed correlation that does not count, the one that it travels with.

    It travels with a counting correlation when, among films alike in class and in presence of
    that feature, the gap of its raised class or of its opposed classes is below `max_gap`, or when
    no two such films differ in its own presence. Several clusters can share a used device between
    them; so it is also asked of all that count together.

    Parameters
    ----------
    ranked : sequence of SpuriousCorrelation - ranks set
    task : AuditedTask
    max_gap : float - the gap that is tolerated

    Returns
    -------
    tuple of SpuriousCorrelation - in the same order, ``companion_of`` and its reason set
    """
    counting = [c for c in ranked if c.counts]
    groups = [[other] for other in counting] + ([counting] if len(counting) > 1 else [])
    named = []
    for entry in ranked:
        alone = entry.companion_of is None and not entry.counts
        if entry.confirmation.status == "confirmed" and alone:
            for others in groups:
                gaps = _gaps_held_fixed(entry, _any_present(others), task)
                if any(not gap >= max_gap for gap in gaps):  # NaN: they cannot be told apart
                    entry = replace(
                        entry,
                        companion_of=others[0].rank,
                        reasons=(*entry.reasons, _sentence([o.rank for o in others], gaps)),
                    )
                    break
        named.append(entry)
    return tuple(named)


def fold_counting(
    correlations: Sequence[SpuriousCorrelation],
    region_image: NDArray[np.int64],
    task: AuditedTask,
    max_gap: float,
) -> tuple[SpuriousCorrelation, ...]:
    """Rank correlations; of those that count and are one feature, one stays.

    Clusters around a device hold different regions, yet removal finds the device from each of them:
    of those that have their effect in the same place, the one that moves the margin most stays. And
    where a device is missing, its place looks alike on all films: that raises what the device
    lowers. Such a mirror image of shortcuts is known by its gap, which goes away on films alike in
    whether they hold any of them; only one that is not placed as sign or shortcut by itself is
    folded so. The others no longer count by themselves and are named as companions.

    Parameters
    ----------
    correlations : sequence of SpuriousCorrelation
    region_image : ndarray of shape (R,), int64 - image of each region
    task : AuditedTask
    max_gap : float - the gap that is tolerated

    Returns
    -------
    tuple of SpuriousCorrelation - ranked
    """
    kept: list[SpuriousCorrelation] = []
    hosts: dict[int, tuple[list[int], str]] = {}
    for entry in rank_correlations(correlations):
        if not entry.counts:
            continue
        same = [other for other in kept if _in_one_place(entry, other, region_image)]
        opposite = [other for other in kept if _is_opposite(entry, other)]
        if same:
            hosts[entry.cluster.cluster] = [same[0].cluster.cluster], _PLACE
        elif opposite and _is_mirror(entry, opposite, task, max_gap):
            hosts[entry.cluster.cluster] = [other.cluster.cluster for other in opposite], _MIRROR
        else:
            kept.append(entry)
    ranked = rank_correlations(
        [replace(c, counts=False) if c.cluster.cluster in hosts else c for c in correlations]
    )
    rank = {c.cluster.cluster: c.rank for c in ranked}

    def name(entry: SpuriousCorrelation) -> SpuriousCorrelation:
        if entry.cluster.cluster not in hosts:
            return entry
        clusters, reason = hosts[entry.cluster.cluster]
        ranks = sorted(rank[cluster] for cluster in clusters)
        reasons = (*entry.reasons, reason.format(_listed(ranks)))
        return replace(entry, companion_of=ranks[0], reasons=reasons)

    return tuple(map(name, ranked))


_PLACE = "Its effect lies in the same place as that of {}: they are one feature."
_MIRROR = (
    "It is the mirror image of {}: it is there where that feature is not, raises what "
    "that lowers, and has no gap of its own with that held fixed."
)


def _is_opposite(entry: SpuriousCorrelation, other: SpuriousCorrelation) -> bool:
    """Whether what nobody placed raises what a shortcut lowers, on films that rather lack it."""
    if (entry.kind, other.kind) != ("undecided", "shortcut"):
        return False
    ours, theirs = entry.cluster, other.cluster
    swapped = (
        ours.raised_class in theirs.opposed_classes and theirs.raised_class in ours.opposed_classes
    )
    by_chance = ours.present.mean() * theirs.present.mean()
    return swapped and bool(np.mean(ours.present & theirs.present) < by_chance)


def _is_mirror(
    entry: SpuriousCorrelation,
    opposite: Sequence[SpuriousCorrelation],
    task: AuditedTask,
    max_gap: float,
) -> bool:
    """Whether no gap is left on films that are alike in whether they hold any of the shortcuts."""
    gaps = _gaps_held_fixed(entry, _any_present(opposite), task)
    return any(not gap >= max_gap for gap in gaps)


def _any_present(correlations: Sequence[SpuriousCorrelation]) -> NDArray[np.bool_]:
    """Return which films hold any of the features, shape (N,)."""
    held: NDArray[np.bool_] = np.any([c.cluster.present for c in correlations], axis=0)
    return held


def _in_one_place(
    a: SpuriousCorrelation, b: SpuriousCorrelation, region_image: NDArray[np.int64]
) -> bool:
    """Whether the largest effects of two correlations of a class lie together on shared films."""
    if a.cluster.raised_class != b.cluster.raised_class:
        return False
    first, second = (_places(entry, region_image) for entry in (a, b))
    shared = sorted(first.keys() & second.keys())
    if len(shared) < _FILMS:
        return False
    overlap = [box_overlap(first[film], second[film]) for film in shared]
    return float(np.mean(overlap)) >= _SAME


def _places(
    entry: SpuriousCorrelation, region_image: NDArray[np.int64]
) -> dict[int, NDArray[np.float32]]:
    """Place of the largest effect on each film that has a region carrying the feature."""
    tested = entry.counterfactual
    if tested is None or tested.removal.located is None:
        return {}
    carries, located = tested.removal.carries, tested.removal.located
    found: dict[int, NDArray[np.float32]] = {}
    for position in entry.order[::-1]:  # the largest effect comes last and stays
        if carries[position]:
            found[int(region_image[entry.cluster.regions[position]])] = located[position]
    return found


def _gaps_held_fixed(
    entry: SpuriousCorrelation, other: NDArray[np.bool_], task: AuditedTask
) -> tuple[float, float]:
    """Gap of the raised class and of the opposed classes, with the other feature held fixed."""
    cluster = entry.cluster
    strata = task.labels * 2 + other

    def gap(classes: Sequence[int]) -> float:
        films = np.isin(task.labels, list(classes))
        return mantel_haenszel(cluster.present[films], task.correct[films], strata[films])

    return gap((cluster.raised_class,)), -gap(cluster.opposed_classes)


def _sentence(ranks: Sequence[int], gaps: Sequence[float]) -> str:
    whose = f"the feature of {_listed(ranks)}"
    if any(math.isnan(value) for value in gaps):
        return (
            f"It cannot be told apart from {whose}: of one side, no films have the one without the "
            "other."
        )
    raised, lowered = (f"{round(100 * value):+d}" for value in (gaps[0], -gaps[1]))
    return (
        f"It travels with {whose}: with that held fixed, its gaps are {raised} points on the "
        f"raised side and {lowered} on the lowered side."
    )


def _listed(ranks: Sequence[int]) -> str:
    *most, last = map(str, ranks)
    return f"correlations {', '.join(most)} and {last}" if most else f"correlation {last}"
