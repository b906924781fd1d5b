"""The audit of the new model, read against what the audit of the old one had confirmed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ravl_med.evidence.claims import ConfirmedFeature, SpuriousCorrelation
from ravl_med.evidence.mitigation_result import Reaudit
from ravl_med.evidence.subgroups import cramers_v
from ravl_med.reporting.files.audit_run import Audit

__all__ = ["compare_reaudit"]

_SAME = 0.3  # phi of two features' presence from which they are one


def compare_reaudit(
    again: Audit,
    known: Sequence[ConfirmedFeature],
    mitigated: Sequence[ConfirmedFeature],
    present: NDArray[np.bool_],
) -> Reaudit:
    """Tell what of the old correlations is left, and what is new.

    A correlation of the new model is an old one when it raises the same class and its films are
    those of the old feature (phi of at least 0.3).

    Parameters
    ----------
    again : Audit - of the new model on the final test
    known : sequence of ConfirmedFeature, length F - of the audit of the old model
    mitigated : sequence of ConfirmedFeature - those of them that were mitigated
    present : ndarray of shape (N, F), bool - the known features on the films of `again`
    """
    classes = again.result.task.classes
    repaired = {feature.rank for feature in mitigated}
    remaining, appeared = [], []
    for correlation in again.result.correlations:
        if not correlation.counts:
            continue
        same = _same_feature(correlation, known, present)
        told = _told(correlation, classes)
        if same is not None and same.rank in repaired:
            remaining.append(told)
        elif correlation.kind == "shortcut" and same is None:
            appeared.append(told)
    return Reaudit(
        verdict=again.result.verdict.name,
        reasons=again.result.verdict.reasons,
        remaining=tuple(remaining),
        appeared=tuple(appeared),
        detectable=_detectable(again),
    )


def _same_feature(
    correlation: SpuriousCorrelation,
    known: Sequence[ConfirmedFeature],
    present: NDArray[np.bool_],
) -> ConfirmedFeature | None:
    there = correlation.cluster.present
    if len(there) != len(present):  # the new model could not read a film that the old one read
        return None
    for number, feature in enumerate(known):
        if feature.detector.raised_class != correlation.cluster.raised_class:
            continue
        if cramers_v(there, present[:, number]) >= _SAME:
            return feature
    return None


def _told(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> str:
    cluster, arms = correlation.cluster, correlation.confirmation.arms
    raised = cluster.raised_class
    low, high = arms.gap_interval[raised].low, arms.gap_interval[raised].high
    return (
        f"{correlation.kind.replace('_', ' ')} {correlation.rank}: raises {classes[raised]} by "
        f"{100 * arms.gap[raised]:+.0f} points ({100 * low:+.0f} to {100 * high:+.0f})"
    )


def _detectable(again: Audit) -> str:
    sensitivity = again.result.sensitivity
    if sensitivity is None:
        return "what these films could have shown was not measured, since the audit stopped before"
    told = [
        f"{100 * d.gap:.0f} points for a feature in {d.prevalence:.0%} of the films"
        for d in sensitivity.detectable
        if np.isfinite(d.gap)
    ]
    if not told:
        return "these films could not have shown any gap with the asked power"
    return f"smallest gap found with {sensitivity.power:.0%} power: {', '.join(told)}"
