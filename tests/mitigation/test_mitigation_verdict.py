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
    verdict = decide_mitigation_verdict(arm, arm, reaudit, max_fall=0.01, max_gap=0.10)
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
    ended = replace(CLEAN, searched=False)
    both = {"shortcut gone in the re-audit", "nothing new in the re-audit"}
    assert judge(outcome(), ended) == ("no_change", both)
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
        arm = outcome(gaps=gaps)
        verdict = decide_mitigation_verdict(arm, arm, CLEAN, max_fall=0.01, max_gap=0.10)
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


def test_what_is_decided_by_is_said_no_more_exactly_than_it_is_shown() -> None:
    nan = float("nan")
    exact = outcome(image_worst=change(0.123, 0.617), image_overall=change(0.456, 0.789))
    coarse = replace(
        exact,
        image_worst=change(0.25, 0.75),
        image_overall=change(0.5, 0.75),
        gaps=tuple(replace(gap, gap=change(nan, nan)) for gap in exact.gaps),
    )

    verdict = decide_mitigation_verdict(exact, coarse, CLEAN, max_fall=0.01, max_gap=0.10)

    assert verdict.name == "improved"
    said = " ".join((*verdict.reasons, *(gate.text for gate in verdict.gates)))
    assert "25.0 % before, 75.0 % after" in said
    assert verdict.reasons[-1].startswith("Rates of few films are shown in steps; ")
    same = decide_mitigation_verdict(exact, exact, CLEAN, max_fall=0.01, max_gap=0.10)
    assert "in steps" not in " ".join(same.reasons)
    assert "the largest of 2: a hidden, of few patients; " in said
    for number in ("12.3", "61.7", "45.6", "78.9", "80.0", "nan"):
        assert number not in said
