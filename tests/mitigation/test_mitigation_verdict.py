"""Improved, no change, worse: each gate by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ravl_med.evidence.mitigation_result import ArmOutcome, Change, FeatureGap, Reaudit
from ravl_med.evidence.results import Interval
from ravl_med.mitigation.verdict import decide_mitigation_verdict, nothing_to_mitigate


def change(before: float, after: float, half: float = 0.02) -> Change:
    difference = after - before
    return Change(
        before,
        after,
        Interval(after - half, after + half),
        difference,
        Interval(difference - half, difference + half),
        100,
    )


def outcome(**more: object) -> ArmOutcome:
    same = change(0.5, 0.5)
    values: dict[str, object] = {
        "name": "counterfactual",
        "title": "ours",
        "role": "tower",
        "published": False,
        "delivered": True,
        "image_overall": change(0.7, 0.8),
        "image_worst": change(0.1, 0.6),
        "region_overall": same,
        "region_worst": same,
        "auroc": same,
        "calibration": same,
        "classes": {},
        "groups": {},
        "subgroups": {},
        "gaps": (
            FeatureGap("a", "raised", change(0.8, 0.05, 0.1)),
            FeatureGap("b", "lowered", change(-0.8, -0.02, 0.1)),
        ),
        "curve": None,
        **more,
    }
    return ArmOutcome(**values)  # type: ignore[arg-type]


CLEAN = Reaudit("review", (), (), (), "")


def judge(arm: ArmOutcome, reaudit: Reaudit = CLEAN) -> tuple[str, set[str]]:
    verdict = decide_mitigation_verdict(arm, reaudit, max_fall=0.01, max_gap=0.10)
    return verdict.name, {gate.name.split(" (")[0] for gate in verdict.gates if not gate.passed}


def test_all_gates_held_is_improved() -> None:
    assert judge(outcome()) == ("improved", set())


@pytest.mark.parametrize(
    ("arm", "name", "gate"),
    [
        (outcome(image_worst=change(0.1, 0.11)), "no_change", "worst group"),
        (outcome(image_worst=change(0.5, 0.4)), "worse", "worst group"),
        (outcome(image_overall=change(0.8, 0.78)), "no_change", "overall accuracy"),
        (outcome(image_overall=change(0.8, 0.7)), "worse", "overall accuracy"),
        (
            outcome(gaps=(FeatureGap("a", "raised", change(0.8, 0.45, 0.4)),)),
            "no_change",
            "gap with the feature",
        ),
        (
            outcome(gaps=(FeatureGap("b", "lowered", change(-0.8, -0.3, 0.1)),)),
            "no_change",
            "gap with the feature",
        ),
    ],
)
def test_one_gate_at_a_time(arm: ArmOutcome, name: str, gate: str) -> None:
    assert judge(arm) == (name, {gate})


def test_what_the_re_audit_finds() -> None:
    left = replace(CLEAN, remaining=("shortcut 1",))
    assert judge(outcome(), left) == ("no_change", {"shortcut gone in the re-audit"})
    new = replace(CLEAN, appeared=("shortcut 2",))
    assert judge(outcome(), new) == ("worse", {"nothing new in the re-audit"})


def test_a_gap_that_turned_round_is_a_gap() -> None:
    gaps = (FeatureGap("a", "raised", change(0.8, -0.3, 0.1)),)
    assert judge(outcome(gaps=gaps)) == ("no_change", {"gap with the feature"})
    gaps = (FeatureGap("a", "raised", change(0.8, -0.15, 0.1)),)  # reaches 10 points
    assert judge(outcome(gaps=gaps))[0] == "improved"


def test_nothing_to_do_names_what_is_left_alone() -> None:
    assert (
        nothing_to_mitigate("not_auditable", 0)
        .reasons[0]
        .startswith("The audit (not auditable) has no confirmed shortcut. ")
    )
    assert "2 other confirmed correlations" in nothing_to_mitigate("review", 2).reasons[0]


def test_gaps_that_are_left_are_told_and_else_the_largest() -> None:
    def told(*gaps: FeatureGap) -> str:
        verdict = decide_mitigation_verdict(outcome(gaps=gaps), CLEAN, max_fall=0.01, max_gap=0.10)
        return next(gate.text for gate in verdict.gates if gate.name.startswith("gap"))

    small = FeatureGap("a", "raised", change(0.8, 0.02, 0.1))
    larger = FeatureGap("b", "lowered", change(-0.8, -0.05, 0.1))
    left = FeatureGap("c", "raised", change(0.8, 0.6, 0.1))
    assert told(small, larger).startswith("the largest of 2: b −80.0 before, −5.0 after (")
    assert told(small, larger, left).startswith("1 of 3 left: c +80.0 before, +60.0 after (")
    nan = float("nan")
    unknown = FeatureGap("a", "raised", change(nan, nan))
    assert told(unknown).startswith("none could be measured; ")
    assert judge(outcome(gaps=(unknown,)))[1] == {"gap with the feature"}
