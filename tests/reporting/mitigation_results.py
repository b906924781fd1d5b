"""Plausible mitigations, made by hand: one that improved, one that diverged, one without work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ravl_med.evidence.audit_result import Gate
from ravl_med.evidence.mitigation_result import (
    ArmOutcome,
    ArmRole,
    Change,
    FeatureGap,
    LearningCurve,
    MitigatedCorrelation,
    MitigationResult,
    MitigationVerdict,
    Reaudit,
    SplitSummary,
)
from ravl_med.evidence.results import Interval
from ravl_med.reporting.audit.history import MitigationDetails

NAN = float("nan")
NOTHING = Interval(NAN, NAN)
CLASSES = ("cardiomegaly", "no finding", "pleural effusion", "pneumothorax", "pneumonia")
FILMS = 412


def change(before: float, after: float, half: float = 0.04, films: int = FILMS) -> Change:
    """A change whose interval is `half` to each side; of the difference 0.8 of that."""
    if after != after:
        return Change(before, after, NOTHING, NAN, NOTHING, 0)
    apart = 0.8 * half
    low = 0.0 if before >= 0 else -1.0
    moved = after - before
    return Change(
        before,
        after,
        Interval(max(after - half, low), min(after + half, 1.0)),
        moved,
        Interval(moved - apart, moved + apart) if moved else Interval(0.0, 0.0),
        films,
    )


def curve(epochs: int, best: int, top: float, stopped: Any = "early") -> LearningCurve:
    steps = [epoch / max(epochs - 1, 1) for epoch in range(epochs)]
    losses = [1.9 - 1.3 * s**0.5 for s in steps]
    if stopped == "diverged":
        losses[-2:] = [7.25, NAN]
    return LearningCurve(
        losses=tuple(losses),
        worst_group=tuple(0.11 + (top - 0.11) * s * (1.8 - 0.8 * s) for s in steps),
        overall=tuple(0.62 + 0.2 * s for s in steps),
        best=best,
        stopped=stopped,
        steps=22 * epochs,
        seconds=41.5 * epochs,
    )


AUDITED = {
    "image_overall": 0.684,
    "image_worst": 0.061,
    "region_overall": 0.552,
    "region_worst": 0.103,
    "auroc": 0.871,
    "calibration": 0.142,
}
CLASS_BEFORE = (0.571, 0.688, 0.713, 0.734, 0.702)
CLASS_AFTER = (0.744, 0.792, 0.701, 0.763, 0.655)
GROUP_BEFORE = (0.12, 0.98, 0.87, 0.061, 0.74, 0.66, 0.76, 0.69, 0.72, 0.65)
GROUP_AFTER = (0.71, 0.78, 0.81, 0.76, 0.72, 0.65, 0.77, 0.75, 0.61, 0.74)
SUBGROUPS = {
    ("view", "AP"): (0.611, 0.702, 0.06, 140),
    ("view", "PA"): (0.721, 0.77, 0.05, 272),
    ("sex", "F"): (0.69, 0.689, 0.05, 201),
    ("sex", "M"): (0.679, 0.79, 0.05, 211),
    ("manufacturer", "Maker B"): (0.7, 0.662, 0.03, 95),
}


def arm(
    name: str,
    title: str,
    gain: float,
    *,
    role: ArmRole = "tower",
    published: bool = True,
    delivered: bool = False,
    learned: LearningCurve | None = None,
) -> ArmOutcome:
    """An arm that makes `gain` (0 to 1) of the way to the delivered one; 0 is the audited model."""
    names = [f"{c}, {side} the feature" for c in CLASSES for side in ("without", "with")]
    region = NAN if role == "head" else 1.0

    def on(before: float, after: float, half: float = 0.04, films: int = FILMS) -> Change:
        return change(before, before + gain * (after - before), half, films)

    return ArmOutcome(
        name=name,
        title=title,
        role=role,
        published=published,
        delivered=delivered,
        image_overall=on(0.684, 0.731),
        image_worst=on(0.061, 0.607, 0.08),
        region_overall=change(0.552, region * (0.552 + 0.08 * gain)),
        region_worst=change(0.103, region * (0.103 + 0.35 * gain)),
        auroc=on(0.871, 0.918, 0.02),
        calibration=on(0.142, 0.151, 0.03),
        classes={
            c: on(b, a, 0.045, 70 + 5 * i)
            for i, (c, b, a) in enumerate(zip(CLASSES, CLASS_BEFORE, CLASS_AFTER, strict=True))
        },
        groups={
            n: on(b, a, 0.07, 30 + i)
            for i, (n, b, a) in enumerate(zip(names, GROUP_BEFORE, GROUP_AFTER, strict=True))
        },
        subgroups={key: on(*values) for key, values in SUBGROUPS.items()},
        gaps=(
            FeatureGap("cardiomegaly", "raised", on(0.86, 0.07, 0.09, 70)),
            FeatureGap("no finding", "lowered", on(-0.809, -0.05, 0.1, 75)),
            FeatureGap("pneumonia", "raised", on(-0.07, 0.13, 0.12, 90)),
        ),
        curve=learned,
    )


def arms() -> tuple[ArmOutcome, ...]:
    return (
        arm("before", "audited model", 0.0, role="before"),
        arm("dfr", "DFR (last layer retrained)", 0.6, role="head"),
        arm("projection", "projection of the class texts", 0.2, role="head"),
        arm("standard", "standard fine-tuning", 0.1, learned=curve(24, 18, 0.2, "budget")),
        arm("vl_gdro", "VL-GDRO", -0.1, learned=curve(6, 0, 0.15, "diverged")),
        arm("ravl", "RaVL", 0.7, learned=curve(30, 24, 0.5)),
        arm(
            "counterfactual",
            "RaVL with counterfactual regions",
            1.0,
            published=False,
            delivered=True,
            learned=curve(38, 32, 0.63),
        ),
    )


def improved() -> MitigationResult:
    """Seven arms; the delivered one is better, but some classes, groups and subgroups fell."""
    return MitigationResult(
        name="sample-mitigation",
        title="Mitigation of a vision-language model",
        verdict=MitigationVerdict(
            "improved",
            (
                "The worst group rose by 54.6 points; its interval lies above zero.",
                "The shortcut was not found again on the final test.",
            ),
            (
                Gate("worst_group", True, "+54.6 points (+48.2 to +61.0); above 0 is asked"),
                Gate("mitigation.max_fall", True, "overall +4.7 points; a fall of 1 is tolerated"),
                Gate("shortcut_gone", True, "0 shortcuts found again; none is tolerated"),
                Gate("nothing_new", True, "no other shortcut appeared; none is tolerated"),
            ),
        ),
        audited_digest="ab12" * 16,
        new_digest="cd34" * 16,
        audit_reused=True,
        mitigated=(
            MitigatedCorrelation(1, "shortcut", False, "cardiomegaly", "no finding", 311, 402, 188),
            MitigatedCorrelation(4, "plausible_sign", True, "pneumonia", None, 96, 131, 40),
        ),
        companion_regions=1234,
        splits=(
            SplitSummary("discovery", 450, 220, dict.fromkeys(CLASSES, 90)),
            SplitSummary("confirmation", 448, 219, dict.fromkeys(CLASSES, 89)),
            SplitSummary("fine-tuning", 1630, 800, dict.fromkeys(CLASSES, 326)),
            SplitSummary("final test", FILMS, 205, dict.fromkeys(CLASSES, 82)),
        ),
        selection_groups={
            "cardiomegaly, without the feature": 61,
            "cardiomegaly, with the feature": 102,
            "no finding, with the feature + pneumonia, with the feature": 17,
        },
        arms=arms(),
        reaudit=Reaudit(
            "review",
            ("1 feature that the model uses could not be classified as a sign or a shortcut.",),
            (),
            ("Correlation 3: raises pneumothorax, undecided, gap +14.2 points",),
            "A feature in 20 % of the films with a gap of 24 points or more would have been found "
            "with 80 % probability.",
        ),
        notes=("Selection films were labelled from reports.",),
    )


def failed() -> MitigationResult:
    """The delivered arm fell, and the shortcut is still there."""
    fallen = arm("ravl", "RaVL", -0.05, delivered=True, learned=curve(3, 0, 0.12, "diverged"))
    return replace(
        improved(),
        verdict=MitigationVerdict(
            "worse",
            ("The worst group fell by 2.7 points.",),
            (Gate("worst_group", False, "−2.7 points (−9.1 to +3.7); above 0 is asked"),),
        ),
        arms=(arms()[0], fallen),
        audit_reused=False,
        reaudit=Reaudit(
            "fail", ("1 shortcut.",), ("raises cardiomegaly, gap +84.1 points",), (), "Little."
        ),
        notes=(),
    )


def idle() -> MitigationResult:
    """The audit gave no shortcut: nothing was trained."""
    return MitigationResult(
        name="sample-mitigation",
        title="Mitigation of a vision-language model",
        verdict=MitigationVerdict(
            "nothing_to_do", ("The audit found no confirmed shortcut above the gate.",)
        ),
        audited_digest="ab12" * 16,
        new_digest="",
        audit_reused=False,
        mitigated=(),
        companion_regions=1234,
        splits=(SplitSummary("discovery", 450, 220, dict.fromkeys(CLASSES, 90)),),
        selection_groups={},
        arms=(),
        reaudit=None,
        notes=(),
    )


def details() -> MitigationDetails:
    return MitigationDetails(
        date="2025-03-01",
        config_yaml="name: sample-mitigation\nmitigation:\n  arm: counterfactual\n" + "a: 1\n" * 40,
        versions={"ravl-med": "0.1.0", "torch": "2.6.0"},
        digests={"fine-tuning cohort": "ef56" * 16, "config": "0a1b" * 16},
        seeds={"mitigation": 3, "evidence": 7},
        recipe={
            "optimiser": "AdamW, peak 5e-05, weight decay 0.2",
            "budget": "at most 100 epochs of 128 films, stops after 5 epochs without gain",
        },
    )
