"""What the answers of a setting are worth against its truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ravl_med.evaluation.baselines import RankedRegions, RegionEvidence
from ravl_med.evaluation.discovery_methods import OURS, Answers, rank_correlation
from ravl_med.evaluation.setting_films import PlacedThing, regions_on
from ravl_med.pipeline.truth import precision_at

_FOUND = 0.6  # precision at 10 from which RaVL calls a discovery right
_TRAVELS = 0.5  # phi of cluster and thing from which a candidate is the planted one
_STRANGER = 0.2  # and up to which it has nothing to do with it


def score_ranking(
    ranked: RankedRegions, things: Sequence[PlacedThing], evidence: RegionEvidence
) -> tuple[float, float, float, bool]:
    """Score a ranked list against the truth, by the planted thing that it shows best.

    Returns
    -------
    precision_10, precision_25, touching_10 : float - missing regions count as misses
    right_class : bool - of the same thing
    """
    first = ranked.regions[:25]
    boxes = evidence.region_boxes[first] if ranked.boxes is None else ranked.boxes[:25]
    film = evidence.region_image[first]
    best = (-1.0, -1.0, -1.0, False)
    for thing in things:
        hits = regions_on(thing, boxes, film).tolist()
        touched = regions_on(thing, boxes, film, touching=True).tolist()
        right = ranked.raised_class == thing.target
        scores = precision_at(hits, 10), precision_at(hits, 25), precision_at(touched, 10), right
        best = max(best, scores)
    return best


def true_cluster_rank(
    members: Sequence[NDArray[np.int64]],
    things: Sequence[PlacedThing],
    evidence: RegionEvidence,
) -> int:
    """Return the place, from 1, of the first cluster that is mostly the thing; 0 without one.

    A cluster is the thing where half of its members touch it.

    Parameters
    ----------
    members : sequence of ndarray of shape (m,), int64 - regions of each cluster, in their order
    """
    if not members or not things:
        return 0
    touched = np.zeros(len(evidence.region), dtype=np.bool_)
    for thing in things:
        touched |= regions_on(thing, evidence.region_boxes, evidence.region_image, touching=True)
    for place, regions in enumerate(members, start=1):
        if len(regions) and touched[regions].mean() >= 0.5:
            return place
    return 0


def members_of(method: str, answers: Answers) -> list[NDArray[np.int64]]:
    """Return the regions (m,) of each cluster that a method lists, in its order."""
    if method == OURS:
        return [c.cluster.regions for c in answers.correlations]
    if method == "pooled":
        return [c.regions for c in answers.examination.discovery.candidates]
    members = answers.ranked[method].members
    return [] if members is None else [members]


def count_tested(answers: Answers, planted: Sequence[PlacedThing]) -> tuple[int, int, int, int]:
    """Count candidates that are the planted thing and strangers to it.

    Parameters
    ----------
    planted : sequence of PlacedThing - none in null settings: all candidates are strangers
    """
    counts = [0, 0, 0, 0]
    for candidate, outcome, _ in answers.examination.tested:
        cluster, confirmed = candidate.cluster, outcome.status == "confirmed"
        travels = [_phi(cluster.present, thing.present) for thing in planted]
        right = any(
            phi >= _TRAVELS and cluster.raised_class == thing.target
            for phi, thing in zip(travels, planted, strict=True)
        )
        if right:
            counts[0] += 1
            counts[1] += confirmed
        elif max(travels, default=0.0) < _STRANGER:
            counts[2] += 1
            counts[3] += confirmed
    return counts[0], counts[1], counts[2], counts[3]


def count_pairs_found(
    evidence: RegionEvidence, answers: Answers, planted: Sequence[PlacedThing]
) -> int:
    """Count planted things of which a correlation that counts names class and place."""
    found = 0
    for thing in planted:
        found += any(
            c.counts
            and c.cluster.raised_class == thing.target
            and score_ranking(rank_correlation(c, evidence), [thing], evidence)[0] >= _FOUND
            for c in answers.correlations
        )
    return found


def _phi(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Phi of two flags (n,), of either sign; 0 where one is constant."""
    if a.all() or b.all() or not a.any() or not b.any():
        return 0.0
    return abs(float(np.corrcoef(a, b)[0, 1]))
