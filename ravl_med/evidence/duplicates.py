"""Candidates that share their regions are one: they are tested as one and shown as one.

Several clusterings hold the same feature many times over. Tested each by itself, its copies would
stand at the top of the list of Benjamini and Hochberg and lift the limit for everything below them,
so that what is shown in the end, each thing once, held more false discoveries than was asked for.
So copies are folded before the test, by what is known where they were found.

References
----------
Benjamini, Heller, "False discovery rates for spatial signals", Journal of the American Statistical
Association 102 (2007): the rate over regions that belong together, not over their parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from ravl_med.evidence.claims import Confirmation
from ravl_med.evidence.confirmation import Candidate

__all__ = ["fold_candidates", "fold_tested"]

_OVERLAP = 0.5  # of the regions of the smaller cluster

Tested = tuple[Candidate, Confirmation, tuple[int, ...]]
Entry = TypeVar("Entry")


def fold_candidates(candidates: Sequence[Candidate]) -> list[tuple[Candidate, tuple[int, ...]]]:
    """Fold candidates into stronger ones of the same task, half, raised class and regions.

    Nothing of the films that they are tested on is looked at. The strongest candidate is kept; one
    is folded into the first kept one with which it shares half of the regions of the smaller.

    Parameters
    ----------
    candidates : sequence of Candidate

    Returns
    -------
    list of (Candidate, clusters that were folded into it), the strongest first
    """
    folded = _fold(
        sorted(candidates, key=lambda c: (-c.cluster.strength, -c.cluster.performance_gap)),
        lambda c: c,
        lambda c: (c.task, c.swapped, c.cluster.raised_class),
    )
    return [
        (candidate, tuple(other.cluster.cluster for other in others))
        for candidate, others in folded
    ]


def fold_tested(tested: Sequence[Tested]) -> list[Tested]:
    """Fold tested candidates into better ones of the same outcome, class and regions.

    With cross-fitting the same feature may stand for itself on either half.

    Parameters
    ----------
    tested : sequence of (Candidate, Confirmation, clusters that were folded into it)

    Returns
    -------
    list of the same, by p, ascending
    """
    folded = _fold(
        sorted(tested, key=_by_p),
        lambda entry: entry[0],
        lambda entry: (entry[0].task, entry[1].status, entry[0].cluster.raised_class),
    )
    return [
        (candidate, outcome, _joined(candidate, also, others))
        for (candidate, outcome, also), others in folded
    ]


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
