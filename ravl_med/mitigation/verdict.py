"""Whether a mitigation has made the model better, by gates that were fixed before the run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ravl_med.evidence.audit_result import AuditResult, Gate
from ravl_med.evidence.disclosure_control import hide_small_cells
from ravl_med.evidence.mitigation_result import (
    ArmOutcome,
    Change,
    FeatureGap,
    MitigationVerdict,
    Reaudit,
    VerdictWord,
)
from ravl_med.evidence.results import ConfirmedFeature, SpuriousCorrelation
from ravl_med.evidence.subgroups import cramers_v
from ravl_med.evidence.verdict import is_void

_IN_STEPS = "Rates of few films are shown in steps; the criteria were decided by the exact ones."
_SAME = 0.3  # phi of two features' presence from which they are one


def nothing_to_mitigate(audit_verdict: str, confirmed: int) -> MitigationVerdict:
    """Return the outcome where no confirmed shortcut is there to be mitigated."""
    reason = f"The audit ({audit_verdict.replace('_', ' ')}) has no confirmed shortcut"
    if confirmed:
        reason += (
            f"; {confirmed} other confirmed correlations are left alone unless mitigation.force "
            "names their ranks"
        )
    return MitigationVerdict("nothing_to_do", (f"{reason}. The model was not changed.",))


def decide_mitigation_verdict(
    arm: ArmOutcome, shown: ArmOutcome, reaudit: Reaudit, max_fall: float, max_gap: float
) -> MitigationVerdict:
    """Decide by the delivered arm, in sentences that hold no more of it than is `shown`.

    ``improved`` needs every gate; ``worse`` is a worst group or an overall accuracy that fell by
    more than chance and tolerance (mitigation.max_fall) allow, or a new shortcut; anything else is
    ``no_change``. A gap up to `max_gap` (gate.max_gap) is tolerated.
    """
    worst, overall = arm.image_worst, arm.image_overall
    pairs = zip(arm.gaps, shown.gaps, strict=True)
    known = [(one, seen) for one, seen in pairs if not math.isnan(one.gap.difference)]
    left = [(one, seen) for one, seen in known if _remains(one.gap, max_gap)]
    unknown = "" if reaudit.searched else "not known, as the audit of the new model is no test"
    gates = (
        Gate(
            "worst group",
            worst.difference_interval.low > 0,
            f"{_difference(shown.image_worst)}; required: an interval above 0",
        ),
        Gate(
            "overall accuracy (mitigation.max_fall)",
            overall.difference >= -max_fall,
            f"{_difference(shown.image_overall)}; required: not below −{100 * max_fall:g} points",
        ),
        Gate(
            "gap with the feature (gate.max_gap)",
            bool(known) and not left,
            f"{_describe_gaps(known, left)}; required: at most half of it, and an interval that "
            f"reaches {100 * max_gap:g} points",
        ),
        Gate(
            "shortcut gone in the re-audit",
            reaudit.searched and not reaudit.remaining,
            "; ".join(reaudit.remaining)
            or unknown
            or "the audit of the new model does not find it",
        ),
        Gate(
            "nothing new in the re-audit",
            reaudit.searched and not reaudit.appeared,
            "; ".join(reaudit.appeared) or unknown or "no other shortcut was confirmed",
        ),
    )
    name = _name(gates, worst, overall, reaudit, max_fall)
    reasons = _reasons(name, shown.image_worst, shown.image_overall, gates)
    if (shown.image_worst, shown.image_overall) != (worst, overall):
        reasons += (_IN_STEPS,)
    return MitigationVerdict(name, reasons, gates)


def _describe_gaps(
    known: Sequence[tuple[FeatureGap, FeatureGap]], left: Sequence[tuple[FeatureGap, FeatureGap]]
) -> str:
    """Describe the gaps, each with what is shown of it, that are left; else the largest."""
    described = left or sorted(known, key=lambda pair: -abs(pair[0].gap.after))[:1]
    lines = "; ".join(
        f"{one.class_name} {_points(one.gap.before)} before, {_points(one.gap.after)} after "
        f"({_points(one.gap.interval.low)} to {_points(one.gap.interval.high)})"
        if math.isfinite(one.gap.after)
        else f"{one.class_name} hidden, of few patients"
        for _, one in described
    )
    counted = f"{len(left)} of {len(known)} left" if left else f"the largest of {len(known)}"
    return f"{counted}: {lines}" if known else "none could be measured"


def _remains(gap: Change, max_gap: float) -> bool:
    """Whether more than half of the gap is left, or it surely lies beyond the gate."""
    beyond = gap.interval.low > max_gap or gap.interval.high < -max_gap  # turned round counts too
    return beyond or abs(gap.after) > max(abs(gap.before) / 2, max_gap)


def _name(
    gates: tuple[Gate, ...], worst: Change, overall: Change, reaudit: Reaudit, max_fall: float
) -> VerdictWord:
    if all(gate.passed for gate in gates):
        return "improved"
    fell = worst.fell_surely() or overall.difference_interval.high < -max_fall
    return "worse" if fell or reaudit.appeared else "no_change"


def _reasons(
    name: VerdictWord, worst: Change, overall: Change, gates: tuple[Gate, ...]
) -> tuple[str, ...]:
    opening = {
        "improved": "On patients not used for training, the new model does better where the "
        "audited one failed, and its audit does not find the shortcut.",
        "no_change": "The new model is not shown to be better by every criterion.",
        "worse": "The new model must not replace the audited one.",
        "nothing_to_do": "",
    }[name]
    return (
        opening,
        f"Worst group {_values(worst)}.",
        f"Overall accuracy {_values(overall)}.",
        *(f"Not met: {gate.name} – {gate.text}." for gate in gates if not gate.passed),
    )


def _values(change: Change) -> str:
    before, after = 100 * change.before, 100 * change.after
    return f"{before:.1f} % before, {after:.1f} % after, {_difference(change)}"


def _difference(change: Change) -> str:
    low, high = change.difference_interval.low, change.difference_interval.high
    return f"difference {_points(change.difference)} points ({_points(low)} to {_points(high)})"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def compare_reaudit(
    again: AuditResult,  # of the new model on the final test
    known: Sequence[ConfirmedFeature],  # (F,) of the audit of the old model
    mitigated: Sequence[ConfirmedFeature],  # those of them that were mitigated
    present: NDArray[np.bool_],  # (N, F) the known features on the films of `again`
    least: int = 0,  # patients, of fewer of whom nothing is shown
) -> Reaudit:
    """Say what of the old correlations is left, and what is new, no more exactly than is shown.

    A correlation of the new model is an old one when it raises the same class and its films are
    those of the old feature (phi of at least 0.3).
    """
    classes = again.task.classes
    repaired = {feature.rank for feature in mitigated}
    remaining, appeared = [], []
    shown = hide_small_cells(again, least).correlations
    for correlation, seen in zip(again.correlations, shown, strict=True):
        if not correlation.counts:
            continue
        same = _same_feature(correlation, known, present)
        line = _describe(seen, classes)
        if same is not None and same.rank in repaired:
            remaining.append(line)
        elif correlation.kind == "shortcut" and same is None:
            appeared.append(line)
    return Reaudit(
        verdict=again.verdict.name,
        reasons=again.verdict.reasons,
        remaining=tuple(remaining),
        appeared=tuple(appeared),
        detectable=_detectable(again),
        searched=again.discovery is not None and not is_void(again.verdict),
    )


def _same_feature(
    correlation: SpuriousCorrelation, known: Sequence[ConfirmedFeature], present: NDArray[np.bool_]
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


def _describe(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> str:
    cluster, arms = correlation.cluster, correlation.confirmation.arms
    raised = cluster.raised_class
    low, high = arms.gap_interval[raised].low, arms.gap_interval[raised].high
    by = f" by {100 * arms.gap[raised]:+.0f} points ({100 * low:+.0f} to {100 * high:+.0f})"
    return (
        f"{correlation.kind.replace('_', ' ')} {correlation.rank}: raises {classes[raised]}"
        f"{by if math.isfinite(arms.gap[raised]) else ', of few patients'}"
    )


def _detectable(again: AuditResult) -> str:
    sensitivity = again.sensitivity
    if sensitivity is None:
        return "what these films could have shown was not measured, since the audit stopped before"
    gaps = [
        f"{100 * d.gap:.0f} points for a feature in {100 * d.prevalence:.0f} % of the films"
        for d in sensitivity.detectable
        if np.isfinite(d.gap)
    ]
    if not gaps:
        return "these films are too few to detect any gap with the required power"
    return f"smallest gap found with {100 * sensitivity.power:.0f} % power: {', '.join(gaps)}"
