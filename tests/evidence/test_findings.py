"""AUROC of findings: told apart, by chance, and the wrong way round."""

import math

import numpy as np
import pytest

from ravl_med.config.audit import GateConfig
from ravl_med.evidence.audit_result import DetectableGap, ModelChecks, Sensitivity
from ravl_med.evidence.model_checks import (
    assess_findings,
    class_scores,
    measure_findings,
    prompt_scores,
)
from ravl_med.evidence.verdict import decide_verdict

NAMES = ("cardiomegaly", "effusion", "no finding")


def similarities(strength: float, films: int = 300, seed: int = 0):
    """Cosines in which each class is nearer to its own films by `strength` deviations."""
    rng = np.random.default_rng(seed)
    labels = np.arange(films) % 3
    own = np.eye(3)[labels]
    return 0.2 + 0.02 * (rng.normal(size=(films, 3)) + strength * own), labels


def measured(similarity, labels, **more):
    patients = np.arange(len(labels)) // 2
    return measure_findings(class_scores(similarity, 0.07), labels, patients, NAMES, 0.95, **more)


def test_a_model_that_tells_findings_apart_has_no_fault():
    findings = measured(*similarities(1.5))
    assert [one.films for one in findings] == [100] * 3
    assert all(one.auroc > 0.75 and one.interval.low > 0.7 for one in findings)
    assert not any(one.flipped for one in findings)
    assert assess_findings(findings, 0.55) == ((), ())


def test_a_model_at_chance_is_doubted_and_not_stopped():
    findings = measured(*similarities(0.0))
    stops, doubts = assess_findings(findings, 0.55)
    assert stops == ()
    assert len(doubts) == 1
    assert doubts[0].startswith(
        f"The model does not distinguish {', '.join(NAMES)} from the other classes (AUROC: "
        "cardiomegaly 0."
    )
    assert doubts[0].count("The usual cure") == 1
    assert "must exceed 0.55 (gate.min_auroc)" in doubts[0]
    assert "The usual cure: prompts" in doubts[0]


def test_a_finding_of_one_patient_is_not_told_apart_from_others():
    similarity, labels = similarities(1.5)
    patients = np.where(labels == 2, 0, np.arange(len(labels)) + 1)
    findings = measure_findings(class_scores(similarity, 0.07), labels, patients, NAMES, 0.95)
    assert math.isnan(findings[2].interval.low)
    _, (doubt,) = assess_findings(findings, 0.55)
    assert f"{NAMES[2]} not known, as it is of one patient alone" in doubt
    found = Sensitivity(0.8, 500, 1, (DetectableGap(0.2, 0.2, 1.0),), 30, 30, {})
    checks = ModelChecks(0.55, findings, (), (), (doubt,))
    verdict = decide_verdict([], NAMES, GateConfig(), found, checks=checks)
    gate = next(gate for gate in verdict.gates if gate.name == "gate.min_auroc")
    assert (gate.passed, verdict.name) == (False, "not_auditable")


def test_classes_in_each_others_place_are_stopped():
    similarity, labels = similarities(1.5)
    stops, _ = assess_findings(measured(similarity[:, [1, 0, 2]], labels), 0.55)
    assert [stop.split(" is ")[0] for stop in stops] == ["Class cardiomegaly", "Class effusion"]
    assert "prompts or label columns of two classes stand in each other's place" in stops[0]


def test_a_threshold_of_0_judges_nothing():
    similarity, labels = similarities(1.5)
    assert assess_findings(measured(similarity[:, [1, 0, 2]], labels), 0.0) == ((), ())


def test_chance_is_rarely_called_flipped():
    flipped = 0
    for seed in range(100):
        findings = measured(*similarities(0.0, films=120, seed=seed))
        flipped += any(one.flipped for one in findings)
    assert flipped <= 8


def test_numbers_of_few_patients_stay_out_of_the_reasons():
    findings = measured(*similarities(0.0))
    _, doubts = assess_findings(findings, 0.55, hidden={1})
    assert f"{NAMES[0]} 0." in doubts[0]
    assert f"{NAMES[1]} 0." not in doubts[0]


def test_scores_do_not_saturate():
    similarity = np.array([[0.9, 0.1, 0.1], [0.95, 0.1, 0.1]])
    scores = class_scores(similarity, 0.001)
    assert scores[1, 0] > scores[0, 0]
    assert np.isfinite(scores).all()
    naive = similarity[:, 0] / 0.07 - np.log(np.exp(similarity[:, 1:] / 0.07).sum(axis=1))
    np.testing.assert_allclose(class_scores(similarity, 0.07)[:, 0], naive)
    np.testing.assert_array_equal(class_scores(similarity, None), similarity)


def test_single_prompts_give_the_spread():
    similarity, labels = similarities(1.5)
    rng = np.random.default_rng(5)
    chance = rng.normal(size=(len(labels), 1)) * 0.02 + 0.2
    prompts = [np.hstack([similarity[:, [c]], chance]) for c in range(3)]
    by_prompt = [prompt_scores(prompts[c], similarity, c, 0.07) for c in range(3)]
    findings = measured(similarity, labels, by_prompt=by_prompt)
    for one in findings:
        assert one.highest == pytest.approx(one.auroc)
        assert one.lowest < one.auroc - 0.1
    assert np.isnan(measured(similarity, labels, by_prompt=[b[:, :1] for b in by_prompt])[0].lowest)


def test_a_class_without_films_is_not_judged():
    similarity, labels = similarities(1.5)
    findings = measured(similarity[labels != 2], labels[labels != 2])
    assert np.isnan(findings[2].auroc)
    stops, doubts = assess_findings(findings, 0.55)
    assert (stops, doubts) == ((), ())
