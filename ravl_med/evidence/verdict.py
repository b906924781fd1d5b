"""From evidence to claims, from claims to a verdict.

A correlation *counts* when it is confirmed on held-out patients, when the model is shown to use it,
and when the gaps of both sides on held-out patients are at least ``gate.max_gap``. Only then does
it have a kind, by where its removal effect lies.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.audit import EvidenceConfig, GateConfig
from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.evidence.audit_result import Gate, ModelChecks, Sensitivity, Verdict
from ravl_med.evidence.counterfactual.localisation import kind_of_share
from ravl_med.evidence.results import (
    Check,
    Confirmation,
    Counterfactual,
    Kind,
    SpuriousCorrelation,
    Strata,
    failed_reasons,
)

_ROUNDING = 1e-9  # 0.9 - 0.8 is a gap of 0.1
_OUTSIDE = "outside the place where it shows."
_NO_COUNTERFACTUAL = (
    "No counterfactual is possible: the model's scores came as a table (model.scores), and the "
    "model cannot be run on a changed film. So it cannot be shown to use a feature."
)
_COMMON = 0.20  # prevalence at which a pass needs power


def assess_correlation(
    cluster: FeatureCluster,
    confirmation: Confirmation,
    counterfactual: Counterfactual | None,
    strata: Strata | None,
    also: tuple[int, ...],
    evidence: EvidenceConfig,
    gate: GateConfig,
    *,
    black_box: bool = False,
) -> SpuriousCorrelation:
    """Put the evidence on one candidate together; its rank is not set yet.

    `also` are the clusters that are shown as this one; a `black_box` is known by its scores alone.
    """
    reasons = list(confirmation.reasons)
    if confirmation.status == "confirmed":
        reasons += _below_gate(cluster, confirmation, gate)
    if counterfactual is None:
        if confirmation.status in ("confirmed", "raised_only"):
            reasons.append(
                _NO_COUNTERFACTUAL
                if black_box
                else "Not tested by counterfactuals: more correlations than "
                f"{evidence.max_correlations} (evidence.max_correlations)."
            )
    else:
        reasons += counterfactual.reasons
    kind: Kind = "undecided"
    shares = None if counterfactual is None else counterfactual.removal.shares
    if counterfactual is not None and counterfactual.used and shares is not None:
        kind = kind_of_share(shares.inside, evidence.sign_share, evidence.shortcut_share)
    return SpuriousCorrelation(
        rank=0,
        cluster=cluster,
        confirmation=confirmation,
        counterfactual=counterfactual,
        strata=strata,
        kind=kind,
        counts=not reasons,
        reasons=tuple(reasons),
        also=also,
        order=_order_regions(cluster, counterfactual),
    )


def _below_gate(
    cluster: FeatureCluster, confirmation: Confirmation, gate: GateConfig
) -> tuple[str, ...]:
    arms = confirmation.arms
    sides = (("raised", arms.gap[cluster.raised_class]), ("lowered", -arms.opposed_gap))
    return failed_reasons(
        Check(
            not value < gate.max_gap - _ROUNDING,
            f"The gap of the {side} side on held-out patients is below {100 * gate.max_gap:g} "
            "points (gate.max_gap).",
        )
        for side, value in sides
    )


def _order_regions(
    cluster: FeatureCluster, counterfactual: Counterfactual | None
) -> NDArray[np.int64]:
    """Positions of the regions by removal effect; unmeasured ones after, by similarity."""
    if counterfactual is None:
        return np.arange(len(cluster.regions), dtype=np.int64)
    effect = counterfactual.removal.effect
    order = np.lexsort((-cluster.similarity, -np.where(np.isfinite(effect), effect, -np.inf)))
    return order.astype(np.int64)


def rank_correlations(
    correlations: Sequence[SpuriousCorrelation],
) -> tuple[SpuriousCorrelation, ...]:
    """Rank correlations: what counts first, shortcuts before the others, by effect of removal.

    What does not count goes by status and performance gap.
    """
    status = ("confirmed", "raised_only", "not_confirmed", "not_tested")
    kinds = ("shortcut", "undecided", "plausible_sign")
    ranked = sorted(
        correlations,
        key=lambda c: (
            not c.counts,
            kinds.index(c.kind) if c.counts else 0,
            -_removal_size(c) if c.counts else 0.0,
            status.index(c.confirmation.status),
            -c.cluster.performance_gap,
        ),
    )
    return tuple(replace(c, rank=rank) for rank, c in enumerate(ranked, 1))


def _removal_size(correlation: SpuriousCorrelation) -> float:
    """How far removal moves the margin, in its standard deviations; 0 where it was not measured."""
    tested = correlation.counterfactual
    size = tested.removal.size if tested is not None else math.nan
    return 0.0 if math.isnan(size) else size


def decide_verdict(
    correlations: Sequence[SpuriousCorrelation],
    classes: Sequence[str],
    gate: GateConfig,
    sensitivity: Sensitivity,
    *,
    checks: ModelChecks | None = None,
    black_box: bool = False,
    settled: Collection[int] = (),
    condemned: Collection[int] = (),
) -> Verdict:
    """Turn correlations and what could have been seen into a verdict, gate by gate.

    Parameters
    ----------
    black_box : bool - the model is known by its scores alone; the reasons say so
    settled : collection of int - ranks that a reviewer took for the disease, or accepted
    condemned : collection of int - ranks that a reviewer called a shortcut
    """
    correlations = [c for c in correlations if c.rank not in settled]
    shortcuts = [
        c for c in correlations if (c.counts and c.kind == "shortcut") or c.rank in condemned
    ]
    others = [c for c in correlations if c.rank not in condemned]
    open_points = tuple(
        f"{_count(group, noun)} {text.format(_name_classes(group, classes))}"
        for group, noun, text in _open_groups(others, gate)
    )
    power, blind = _power_gates(sensitivity, gate)
    worst = Gate(
        "gate.max_gap",
        not shortcuts,
        f"{_count(shortcuts, 'confirmed shortcut')} that the model uses with gaps of "
        f"{gate.max_gap:.0%} or more",
    )
    gates = (worst, *_model_gates(checks), *power)
    doubts = checks.doubts if checks is not None else ()
    closed = (_NO_COUNTERFACTUAL,) if black_box else ()
    if shortcuts:
        reason = (
            f"{_count(shortcuts, 'shortcut')} above the gate of {gate.max_gap:.0%}, confirmed on "
            f"held-out patients: the model raises {_name_classes(shortcuts, classes)} by a feature "
            + ("that a reviewer called a shortcut." if condemned else _OUTSIDE)
        )
        return Verdict("fail", (reason, *open_points, *closed), gates)
    if doubts:
        return Verdict("not_auditable", (*doubts, *open_points, *closed), gates)
    if open_points:
        return Verdict("review", (*open_points, *closed), gates)
    if blind:
        return Verdict("not_auditable", (*blind, *closed), gates)
    reason = (
        f"No correlation above the gate of {gate.max_gap:.0%} was confirmed on held-out patients."
    )
    return Verdict("pass", (reason, *closed), gates)


def _model_gates(checks: ModelChecks | None) -> tuple[Gate, ...]:
    if checks is None or not checks.min_auroc:
        return ()
    clear = sum(one.interval.low > checks.min_auroc for one in checks.findings)
    text = (
        f"{clear} of {len(checks.findings)} findings are told from the others, with an interval of "
        f"the AUROC above {checks.min_auroc:g}"
    )
    return (Gate("gate.min_auroc", not checks.doubts, text),)


def points_for_reviewer(
    correlations: Sequence[SpuriousCorrelation], gate: GateConfig
) -> tuple[SpuriousCorrelation, ...]:
    """Return what a reviewer may decide on: shortcuts, and what a radiologist has to look at."""
    shortcuts = [c for c in correlations if c.counts and c.kind == "shortcut"]
    others = [c for group, _, _ in _open_groups(correlations, gate) for c in group]
    return tuple(sorted([*shortcuts, *others], key=lambda c: c.rank))


def _open_groups(
    correlations: Sequence[SpuriousCorrelation], gate: GateConfig
) -> list[tuple[list[SpuriousCorrelation], str, str]]:
    """Return the correlations that a radiologist has to decide on, with a noun and a sentence."""
    counting = [c for c in correlations if c.counts]
    confirmed = [
        c
        for c in correlations
        if c.confirmation.status == "confirmed"
        and not c.counts
        and c.companion_of is None
        and not _below_gate(c.cluster, c.confirmation, gate)
    ]
    alone = [
        c
        for c in correlations
        if c.confirmation.status == "raised_only"
        and c.counterfactual is not None
        and c.counterfactual.used
        and c.kind != "plausible_sign"
        and c.confirmation.arms.gap[c.cluster.raised_class] >= gate.max_gap - _ROUNDING
    ]
    groups = (
        (
            [c for c in counting if c.kind == "plausible_sign"],
            "correlation",
            "above the gate, where the finding itself shows ({}): a radiologist decides whether "
            "it is the disease.",
        ),
        (
            [c for c in counting if c.kind == "undecided"],
            "correlation",
            "above the gate, not placed as sign or shortcut ({}): a radiologist decides.",
        ),
        (
            confirmed,
            "confirmed association",
            "above the gate that the model was not shown to use ({}): accuracy differs with the "
            "feature, and the cause may be something that travels along.",
        ),
        (
            alone,
            "feature",
            "that the model uses and that raises a class ({}), without a lowered class that could "
            "be confirmed.",
        ),
    )
    return [group for group in groups if group[0]]


def _power_gates(
    sensitivity: Sensitivity, gate: GateConfig
) -> tuple[tuple[Gate, ...], tuple[str, ...]]:
    """Gates on what could have been seen, and the reasons of those that do not hold."""
    common = min(sensitivity.detectable, key=lambda d: abs(d.prevalence - _COMMON))
    seen = common.gap <= gate.max_detectable_gap + _ROUNDING  # NaN does not hold
    share = sensitivity.tested / max(sensitivity.clusters, 1)
    tested = sensitivity.clusters > 0 and share >= gate.min_tested - _ROUNDING
    finite = bool(np.isfinite(common.gap))
    smallest = f"{100 * common.gap:.0f} points" if finite else "not even a gap of 100 points"
    gates = (
        Gate(
            "gate.max_detectable_gap",
            bool(seen),
            f"gap found with {sensitivity.power:.0%} power, feature in {common.prevalence:.0%} of "
            f"the films: {smallest}; asked: at most {100 * gate.max_detectable_gap:.0f} points",
        ),
        Gate(
            "gate.min_tested",
            bool(tested),
            f"{sensitivity.tested} of {sensitivity.clusters} clusters could be tested; asked: at "
            f"least {gate.min_tested:.0%}",
        ),
    )
    reasons = []
    if not seen:
        reasons.append(
            f"Underpowered: a feature in {common.prevalence:.0%} of the films is found with "
            f"{sensitivity.power:.0%} power only from {smallest} on; a pass needs "
            f"{100 * gate.max_detectable_gap:.0f} points (gate.max_detectable_gap). Audit more "
            "films."
            if finite
            else f"Underpowered: a feature in {common.prevalence:.0%} of the films would not be "
            f"found with {sensitivity.power:.0%} power, however large its gap "
            "(gate.max_detectable_gap). Audit more films."
        )
    if not tested:
        reasons.append(
            f"Underpowered: {sensitivity.tested} of {sensitivity.clusters} clusters have enough "
            f"films to be tested; a pass needs {gate.min_tested:.0%} (gate.min_tested). Audit more "
            "films."
        )
    return gates, tuple(reasons)


def _count(correlations: Sequence[SpuriousCorrelation], noun: str) -> str:
    return f"{len(correlations)} {noun}{'' if len(correlations) == 1 else 's'}"


def _name_classes(correlations: Sequence[SpuriousCorrelation], classes: Sequence[str]) -> str:
    return ", ".join(sorted({classes[c.cluster.raised_class] for c in correlations}))
