"""Simulated cohorts have the properties that they claim."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ravl_med.discovery.ravl import influence_scores, performance_gaps, strongest_regions
from tests.benchmarks.discovery import NULL_PLANS
from tests.benchmarks.simulated_cohorts import (
    CohortPlan,
    Feature,
    SimulatedCohort,
    class_accuracy,
    simulate_cohort,
)

PLAIN = CohortPlan(20_000, (0.25,) * 4, (0.8,) * 4, size=4)


def present(cohort: SimulatedCohort, prototypes: int) -> NDArray[np.bool_]:
    """Which film holds a region of which prototype, (N, prototypes)."""
    found = np.zeros((len(cohort.labels), prototypes), dtype=np.bool_)
    inside = cohort.region_prototype < prototypes
    found[cohort.region_image[inside], cohort.region_prototype[inside]] = True
    return found


def gap_deviates(cohort: SimulatedCohort, with_it: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Gap over its standard error for each prototype and class."""
    correct = cohort.predictions == cohort.labels
    classes = cohort.image_scores.shape[1]
    return performance_gaps(with_it, cohort.labels, correct, classes).standardised_gap


def test_the_same_seed_gives_the_same_cohort() -> None:
    plan = replace(PLAIN, films=50)
    first, again, other = (simulate_cohort(plan, seed) for seed in ((4, 2), (4, 2), (4, 3)))
    for field in fields(SimulatedCohort):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name)), field.name
    assert not np.array_equal(first.embeddings, other.embeddings)
    assert not np.array_equal(first.labels, other.labels)


def test_embeddings_lie_around_their_prototypes() -> None:
    cohort = simulate_cohort(replace(PLAIN, films=100, size=64), 0)
    assert np.linalg.norm(cohort.embeddings, axis=1) == pytest.approx(1.0, abs=1e-5)
    cosine = cohort.embeddings @ cohort.embeddings.T
    same = cohort.region_prototype[:, None] == cohort.region_prototype
    apart = ~np.eye(len(same), dtype=bool)
    assert cosine[same & apart].mean() == pytest.approx(0.5, abs=0.03)
    assert cosine[~same].mean() < 0.2
    assert (cosine[same & apart] < np.quantile(cosine[~same], 0.9)).any()  # they overlap


def test_scores_say_what_is_predicted() -> None:
    cohort = simulate_cohort(replace(PLAIN, films=300), 1)
    assert cohort.image_scores.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert cohort.region_scores.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.array_equal(cohort.image_scores.argmax(axis=1), cohort.predictions)
    assert (cohort.region_image == np.repeat(np.arange(300), 9)).all()


@pytest.mark.parametrize("variant", [name for name in NULL_PLANS if "patient" not in name])
def test_a_null_prediction_has_nothing_to_do_with_the_regions(variant: str) -> None:
    plan = replace(NULL_PLANS[variant], films=20_000, size=4)
    cohort = simulate_cohort(plan, 2)
    deviates = gap_deviates(cohort, present(cohort, plan.prototypes + 1))
    deviates = deviates[np.abs(deviates) > 0]
    assert cohort.raised == -1
    assert cohort.lowered == ()
    assert np.abs(deviates).max() < 4.0  # 25 prototypes x 4 classes
    assert deviates.std() == pytest.approx(1.0, abs=0.25)
    for label, accuracy in enumerate(plan.accuracy):
        here = cohort.labels == label
        right = (cohort.predictions == cohort.labels)[here]
        assert right.mean() == pytest.approx(accuracy, abs=4 * 0.5 / np.sqrt(here.sum()))


def test_region_scores_defeat_the_influence_filter() -> None:
    plan = replace(PLAIN, films=2_000)
    cohort = simulate_cohort(plan, 3)
    with_it = present(cohort, plan.prototypes)
    correct = cohort.predictions == cohort.labels
    table = performance_gaps(with_it, cohort.labels, correct, 4)
    strongest = strongest_regions(cohort.region_image, cohort.region_scores, cohort.predictions)
    leads = cohort.region_prototype[strongest][:, None] == np.arange(plan.prototypes)
    influence = influence_scores(
        with_it, table, cohort.labels, cohort.predictions, leads, strongest >= 0
    )
    loud = np.arange(plan.prototypes) % 3 == 0
    judged = np.isfinite(influence)  # a cluster without a lowered class cannot pass
    assert (influence[loud & judged] >= 0.25).mean() > 0.8
    assert influence[~loud & judged].mean() < 0.25


def test_a_feature_can_go_with_the_label() -> None:
    plan = replace(NULL_PLANS["a feature goes with the label"], films=20_000, size=4)
    cohort = simulate_cohort(plan, 4)
    assert plan.feature is not None
    assert isinstance(plan.feature.prevalence, tuple)
    for label, prevalence in enumerate(plan.feature.prevalence):
        share = cohort.carries[cohort.labels == label].mean()
        assert share == pytest.approx(prevalence, abs=0.03)


def test_classes_can_be_unequal() -> None:
    plan = replace(NULL_PLANS["classes of 70, 15, 10 and 5 %"], films=20_000, size=4)
    shares = np.bincount(simulate_cohort(plan, 5).labels) / plan.films
    assert shares == pytest.approx(plan.shares, abs=0.015)


def test_a_patient_has_traits() -> None:
    plan = replace(NULL_PLANS["2 to 6 films a patient"], films=20_000, size=4)
    cohort = simulate_cohort(plan, 6)
    films = np.bincount(cohort.patients)
    assert set(films[:-1]) == {2, 3, 4, 5, 6}  # the last patient gets what is left
    carrying = np.bincount(cohort.patients, weights=cohort.carries)
    assert (np.isin(carrying, [0, *films]) & ((carrying == 0) | (carrying == films))).all()
    assert cohort.carries.mean() == pytest.approx(0.5, abs=0.03)
    alike = cohort.patients[:-1] == cohort.patients[1:]
    right = cohort.predictions == cohort.labels
    assert right.mean() == pytest.approx(0.8, abs=0.02)
    agree = (right[:-1] & right[1:])[alike].mean()
    assert agree > 0.8**2 + 0.05
    strangers = (right[:-1] & right[1:])[~alike].mean()
    assert strangers == pytest.approx(0.8**2, abs=0.03)
    # Given the patient's luck the feature tells nothing: the gap of all films is noise.
    for label in range(4):
        here = cohort.labels == label
        gap = right[here & cohort.carries].mean() - right[here & ~cohort.carries].mean()
        assert abs(gap) < 4 * 0.4 * 2 / np.sqrt(here.sum() / 3)
    same_class = (cohort.labels[:-1] == cohort.labels[1:])[alike].mean()
    assert 0.6 < same_class < 0.85  # a patient's films mostly, not always, have one class


def test_tiny_prototypes_occur_in_one_to_three_films() -> None:
    plan = replace(NULL_PLANS["tiny clusters"], size=4)
    cohort = simulate_cohort(plan, 7)
    tiny = cohort.region_prototype > plan.prototypes
    films = [
        len(np.unique(cohort.region_image[cohort.region_prototype == kind]))
        for kind in np.unique(cohort.region_prototype[tiny])
    ]
    assert len(films) == plan.tiny
    assert set(films) == {1, 2, 3}


@pytest.mark.parametrize("lowered", ["others", "one"])
def test_a_planted_feature_raises_one_class_and_lowers_others(lowered: str) -> None:
    plan = replace(PLAIN, films=40_000, feature=Feature(0.3, 0.4, lowered))  # type: ignore[arg-type]
    cohort = simulate_cohort(plan, 8)
    assert cohort.carries.mean() == pytest.approx(0.3, abs=0.01)
    assert len(cohort.lowered) == (3 if lowered == "others" else 1)
    assert cohort.raised not in cohort.lowered
    assert np.array_equal(np.unique(cohort.region_image[cohort.is_feature]),
                          np.flatnonzero(cohort.carries))  # fmt: skip
    assert cohort.is_feature.sum() == cohort.carries.sum()  # one region a film
    right = cohort.predictions == cohort.labels
    for label in range(4):
        here = cohort.labels == label
        gap = right[here & cohort.carries].mean() - right[here & ~cohort.carries].mean()
        sign = 1 if label == cohort.raised else -1 if label in cohort.lowered else 0
        assert gap == pytest.approx(0.4 * sign, abs=0.04)
        assert cohort.carries[here].mean() == pytest.approx(0.3, abs=0.02)
    lost = ~right & cohort.carries & (cohort.labels != cohort.raised)
    assert (cohort.predictions[lost] == cohort.raised).all()
    strongest = strongest_regions(cohort.region_image, cohort.region_scores, cohort.predictions)
    assert cohort.is_feature[strongest[~right & cohort.carries]].all()
    assert not cohort.is_feature[strongest[~cohort.carries]].any()


def test_every_class_can_be_raised() -> None:
    plan = CohortPlan(4, (0.5, 0.5), (0.8, 0.8), Feature(0.5, 0.2, "others"), size=2)
    drawn = [simulate_cohort(plan, seed) for seed in range(20)]
    assert {(cohort.raised, cohort.lowered) for cohort in drawn} == {(0, (1,)), (1, (0,))}


def test_half_of_the_gap_lies_above_and_half_below_the_accuracy() -> None:
    feature = Feature(0.5, 0.2, "others")
    without, with_it = class_accuracy((0.8, 0.8), feature, 0, (1,))
    assert without == pytest.approx([0.7, 0.9])
    assert with_it == pytest.approx([0.9, 0.7])
    # 0.8 +- 0.3 leaves 0 .. 1: the middle moves to 0.7. The class that is left alone stays.
    without, with_it = class_accuracy((0.8, 0.8, 0.8), Feature(0.5, 0.6, "one"), 2, (0,))
    assert without == pytest.approx([1.0, 0.8, 0.4])
    assert with_it == pytest.approx([0.4, 0.8, 1.0])
    assert class_accuracy((0.6,), None, -1, ()) == pytest.approx(np.full((2, 1), 0.6))
