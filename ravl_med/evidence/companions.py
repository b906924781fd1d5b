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

__all__ = ["name_companions"]


def name_companions(
    ranked: Sequence[SpuriousCorrelation], task: AuditedTask, max_gap: float
) -> tuple[SpuriousCorrelation, ...]:
    """Name, for each confirmed correlation that does not count, the one that it travels with.

    It travels with a counting correlation when, among films alike in class and in presence of
    that feature, the gap of its raised class or of its opposed classes is below `max_gap`, or when
    no two such films differ in its own presence.

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
    named = []
    for entry in ranked:
        if entry.confirmation.status == "confirmed" and not entry.counts:
            for other in counting:
                gaps = _gaps_held_fixed(entry, other.cluster.present, task)
                if any(not gap >= max_gap for gap in gaps):  # NaN: they cannot be told apart
                    entry = replace(
                        entry,
                        companion_of=other.rank,
                        reasons=(*entry.reasons, _sentence(other.rank, gaps)),
                    )
                    break
        named.append(entry)
    return tuple(named)


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


def _sentence(rank: int, gaps: tuple[float, float]) -> str:
    if any(math.isnan(value) for value in gaps):
        return (
            f"It cannot be told apart from the feature of correlation {rank}: of one side, no "
            "films have the one without the other."
        )
    raised, lowered = (f"{round(100 * value):+d}" for value in (gaps[0], -gaps[1]))
    return (
        f"It travels with the feature of correlation {rank}: with that held fixed, its gaps are "
        f"{raised} points on the raised side and {lowered} on the lowered side."
    )
