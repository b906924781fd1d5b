"""Small models that write: what is counted, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.benchmarks.answering_models import PARTS, _PassClock

SUMMARY = {part.name: part.blocks[0] for part in PARTS}


def audited(**changed: Any) -> dict[str, Any]:
    row = {
        "verdict": "fail",
        "raised_gap": 0.5,
        "lowered_gap": 0.4,
        "top_kind": "shortcut",
        "top_names_finding": True,
        "precision_at_10": 1.0,
        "shortcuts": 1,
    }
    return {**row, **changed}


def test_every_model_that_learned_it_has_to_fail_and_one_that_did_not_says_nothing() -> None:
    unlearned = audited(lowered_gap=0.2, verdict="pass", top_kind="none", precision_at_10=0.0)
    met = SUMMARY["planted"]([audited(), unlearned])
    assert "both gaps above 30 points: 1 of 2" in met
    assert met.count("met: yes") == 3

    missed = SUMMARY["planted"]([audited(), audited(verdict="review", precision_at_10=0.7)])
    assert "`fail`, of these: 1 of 2 (target: all; met: no)" in missed
    assert "precision@10, mean: 0.85 (target: at least 0.9; met: no)" in missed


def test_a_clean_model_is_accused_by_a_shortcut_or_a_fail() -> None:
    clean = audited(verdict="pass", shortcuts=0)
    assert "with a shortcut: 0 of 1 (target: none; met: yes)" in SUMMARY["clean"]([clean])
    for accused in (audited(verdict="review"), audited(shortcuts=0)):
        assert "with a shortcut: 1 of 2" in SUMMARY["clean"]([clean, accused])
    unknown = audited(verdict="not_auditable", shortcuts=0)
    assert "auditable: 1 of 2" in SUMMARY["clean"]([clean, unknown])


@pytest.mark.parametrize(
    ("verdict", "said", "met"),
    [("not_auditable", True, "yes"), ("not_auditable", False, "no"), ("review", True, "no")],
)
def test_a_model_that_cannot_see_has_to_be_said_to_ignore_the_film(
    verdict: str, said: bool, met: str
) -> None:
    assert f"met: {met}" in SUMMARY["blind"]([{"verdict": verdict, "said": said}])


@pytest.mark.parametrize(
    ("worst", "clean", "overall", "met"),
    [
        (0.40, 0.9, 0.80, "yes"),  # 20 points
        (0.39, 0.9, 0.80, "no"),
        (0.31, 0.4, 0.80, "yes"),  # half of the distance
        (0.40, 0.9, 0.79, "yes"),
        (0.40, 0.9, 0.77, "no"),  # it costs more than 2 points
        (0.19, 0.1, 0.80, "no"),  # the other one is worse: nothing to close
    ],
)
def test_a_repair_is_held_against_both_models(
    worst: float, clean: float, overall: float, met: str
) -> None:
    values = {"before": (0.2, 0.8), "counterfactual": (worst, overall), "clean": (clean, 0.8)}
    rows = [
        {"seed": 3, "arm": arm, "image_worst": low, "image_overall": all_, "verdict": "improved"}
        for arm, (low, all_) in values.items()
    ]
    drawn = SUMMARY["repair"](rows)
    assert drawn.startswith("- seed 3: worst group 20 % before")
    assert f"met: {met}" in drawn


def test_costs_are_a_ratio() -> None:
    rows = [{"ratio": 1.4}, {"ratio": 1.7}]
    assert "mean: 1.55 (target: at most 1.5; met: no)" in SUMMARY["cost"](rows)


def test_a_pass_within_a_pass_counts_once() -> None:
    clock = _PassClock()
    inner = clock.wrap(lambda: sum(range(2_000_000)))
    outer = clock.wrap(lambda: (inner(), inner()))

    inner()
    once = clock.seconds
    outer()

    assert 0 < once < clock.seconds < 10 * once
