"""Correlations that share their regions are one, and are shown as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.evidence.claims import Confirmation
from ravl_med.evidence.confirmation import Candidate

__all__ = ["fold_duplicates"]

_OVERLAP = 0.5  # of the regions of the smaller cluster

Tested = tuple[Candidate, Confirmation]


def fold_duplicates(
    tested: Sequence[Tested],
) -> list[tuple[Candidate, Confirmation, tuple[int, ...]]]:
    """Fold tested candidates into better ones of the same task, classes and regions.

    A candidate is folded into one with a smaller p that has the same outcome and raised class and
    holds half of its regions, or the other way round.

    Parameters
    ----------
    tested : sequence of (Candidate, Confirmation)

    Returns
    -------
    list of (Candidate, Confirmation, clusters that were folded into it), by p, ascending
    """
    kept: list[tuple[Candidate, Confirmation, list[int]]] = []
    for candidate, confirmation in sorted(tested, key=_strength):
        for other, outcome, also in kept:
            alike = (
                other.task == candidate.task
                and outcome.status == confirmation.status
                and other.cluster.raised_class == candidate.cluster.raised_class
            )
            if alike and _shared(other.cluster, candidate.cluster) >= _OVERLAP:
                also.append(candidate.cluster.cluster)
                break
        else:
            kept.append((candidate, confirmation, []))
    return [(candidate, outcome, tuple(also)) for candidate, outcome, also in kept]


def _strength(entry: Tested) -> tuple[float, float]:
    candidate, confirmation = entry
    p = confirmation.p_value
    return (2.0 if np.isnan(p) else p, -candidate.cluster.performance_gap)


def _shared(a: FeatureCluster, b: FeatureCluster) -> float:
    """Share of the smaller cluster's regions that are in the other too."""
    common = len(np.intersect1d(a.regions, b.regions, assume_unique=True))
    return common / max(min(len(a.regions), len(b.regions)), 1)
