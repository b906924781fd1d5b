"""Whether a mitigation has made the model better, by gates that were fixed before the run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ravl_med.evidence.audit_result import Gate
from ravl_med.evidence.mitigation_result import (
    ArmOutcome,
    Change,
    FeatureGap,
    MitigationVerdict,
    Reaudit,
    VerdictWord,
)

__all__ = ["judge_mitigation", "nothing_to_mitigate"]


def nothing_to_mitigate(audit_verdict: str, confirmed: int) -> MitigationVerdict:
    """Return the outcome where no confirmed shortcut is there to be mitigated."""
    told = f"The audit ({audit_verdict.replace('_', ' ')}) has no confirmed shortcut"
    if confirmed:
        told += (
            f"; {confirmed} other confirmed correlations are left alone unless mitigation.force "
            "names their ranks"
        )
    return MitigationVerdict("nothing_to_do", (f"{told}. The model was not changed.",))


def judge_mitigation(
    arm: ArmOutcome, reaudit: Reaudit, max_fall: float, max_gap: float
) -> MitigationVerdict:
    """Judge the delivered arm.

    ``improved`` needs every gate; ``worse`` is a worst group or an overall accuracy that fell by
    more than chance and tolerance allow, or a new shortcut; anything else is ``no_change``.

    Parameters
    ----------
    arm : ArmOutcome
    reaudit : Reaudit
    max_fall : float - tolerated fall of the overall accuracy (mitigation.max_fall)
    max_gap : float - gap that is tolerated (gate.max_gap)
    """
    worst, overall = arm.image_worst, arm.image_overall
    known = [gap for gap in arm.gaps if not math.isnan(gap.gap.difference)]
    left = [gap for gap in known if _remains(gap.gap, max_gap)]
    gates = (
        Gate(
            "worst group",
            worst.difference_interval.low > 0,
            f"{_difference(worst)}; asked: an interval above 0",
        ),
        Gate(
            "overall accuracy (mitigation.max_fall)",
            overall.difference >= -max_fall,
            f"{_difference(overall)}; asked: not below −{100 * max_fall:g} points",
        ),
        Gate(
            "gap with the feature (gate.max_gap)",
            bool(known) and not left,
            f"{_gaps_told(known, left)}; asked: at most half of it, and an interval that reaches "
            f"{100 * max_gap:g} points",
        ),
        Gate(
            "shortcut gone in the re-audit",
            not reaudit.remaining,
            "; ".join(reaudit.remaining) or "the audit of the new model does not find it",
        ),
        Gate(
            "nothing new in the re-audit",
            not reaudit.appeared,
            "; ".join(reaudit.appeared) or "no other shortcut was confirmed",
        ),
    )
    name = _word(gates, worst, overall, reaudit, max_fall)
    return MitigationVerdict(name, _reasons(name, worst, overall, gates), gates)


def _gaps_told(known: Sequence[FeatureGap], left: Sequence[FeatureGap]) -> str:
    """Tell of the gaps that are left; where none is, of the largest."""
    shown = left or sorted(known, key=lambda gap: -abs(gap.gap.after))[:1]
    told = "; ".join(
        f"{gap.class_name} {_points(gap.gap.before)} before, {_points(gap.gap.after)} after "
        f"({_points(gap.gap.interval.low)} to {_points(gap.gap.interval.high)})"
        for gap in shown
    )
    counted = f"{len(left)} of {len(known)} left" if left else f"the largest of {len(known)}"
    return f"{counted}: {told}" if known else "none could be measured"


def _remains(gap: Change, max_gap: float) -> bool:
    """Whether more than half of the gap is left, or it surely lies beyond the gate."""
    beyond = gap.interval.low > max_gap or gap.interval.high < -max_gap  # turned round counts too
    return beyond or abs(gap.after) > max(abs(gap.before) / 2, max_gap)


def _word(
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
        "improved": "On patients that nobody touched, the new model does better where the audited "
        "one failed, and its audit does not find the shortcut.",
        "no_change": "The new model is not shown to be better in everything that was asked.",
        "worse": "The new model must not replace the audited one.",
        "nothing_to_do": "",
    }[name]
    return (
        opening,
        f"Worst group {_told(worst)}.",
        f"Overall accuracy {_told(overall)}.",
        *(f"Not met: {gate.name} – {gate.text}." for gate in gates if not gate.passed),
    )


def _told(change: Change) -> str:
    before, after = 100 * change.before, 100 * change.after
    return f"{before:.1f} % before, {after:.1f} % after, {_difference(change)}"


def _difference(change: Change) -> str:
    low, high = change.difference_interval.low, change.difference_interval.high
    return f"difference {_points(change.difference)} points ({_points(low)} to {_points(high)})"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")
