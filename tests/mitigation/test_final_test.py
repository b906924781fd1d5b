"""The final test: measures by hand, paired intervals, and rank statistics against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ravl_med.evidence.mitigation_result import ArmOutcome, LearningCurve
from ravl_med.evidence.statistics import PatientBootstrap
from ravl_med.mitigation.final_test import (
    FinalTest,
    Predictions,
    area_under_curve,
    calibration_error,
)

CLASSES = ("a", "b")


def logits_of(predictions: NDArray[np.int64], classes: int = 2) -> NDArray[np.float32]:
    return (4.0 * np.eye(classes)[predictions]).astype(np.float32)


def final_test(labels: NDArray[np.int64], present: NDArray[np.bool_], **more: object) -> FinalTest:
    patients = np.arange(len(labels), dtype=np.int64)
    values: dict[str, object] = {
        "labels": labels,
        "classes": CLASSES,
        "present": present[:, None],
        "sides": ((0, 1),),
        "axes": {"view": np.where(patients % 2 == 0, "AP", "PA")},
        "bootstrap": PatientBootstrap(patients, 2000, 0),
        "confidence": 0.95,
        "min_group": 10,
        "min_films": 10,
        **more,
    }
    return FinalTest(**values)  # type: ignore[arg-type]


@pytest.fixture
def planted() -> tuple[FinalTest, Predictions, Predictions]:
    """The audited model says a exactly where the feature is; the other is right but for a fifth."""
    labels = np.repeat([0, 1], 100).astype(np.int64)
    present = np.tile([True, False], 100)
    before = np.where(present, 0, 1).astype(np.int64)
    wrong = np.arange(200) % 5 == 0
    after = np.where(wrong, 1 - labels, labels).astype(np.int64)
    return (
        final_test(labels, present),
        Predictions(logits_of(before), before),
        Predictions(logits_of(after), after),
    )


def test_measures_by_hand(planted: tuple[FinalTest, Predictions, Predictions]) -> None:
    final, before, after = planted
    told = final.measure(before, after)
    assert (told["image_overall"].before, told["image_overall"].after) == (0.5, 0.8)
    assert (told["image_worst"].before, told["image_worst"].after) == (0.0, 0.8)
    assert told["region_worst"].after == 0.8
    assert told["image_worst"].difference_interval.low > 0.5
    raised, lowered = told["gaps"]
    assert (raised.class_name, raised.side, raised.gap.before) == ("a", "raised", 1.0)
    assert (lowered.class_name, lowered.side, lowered.gap.before) == ("b", "lowered", -1.0)
    assert raised.gap.after == pytest.approx(0.0)
    assert abs(raised.gap.difference + 1.0) < 1e-9
    assert set(told["groups"]) == {
        "a, without the feature", "a, with the feature",
        "b, without the feature", "b, with the feature",
    }  # fmt: skip
    assert told["groups"]["a, without the feature"].films == 50
    assert set(told["subgroups"]) == {("view", "AP"), ("view", "PA")}
    assert told["classes"]["a"].before == 0.5


def test_a_model_against_itself_has_no_difference(
    planted: tuple[FinalTest, Predictions, Predictions],
) -> None:
    final, before, _ = planted
    told = final.measure(before, before)
    for name in ("image_overall", "image_worst", "region_worst", "auroc", "calibration"):
        change = told[name]
        assert change.difference == 0.0
        assert (change.difference_interval.low, change.difference_interval.high) == (0.0, 0.0)


def test_pairing_makes_the_interval_narrow(
    planted: tuple[FinalTest, Predictions, Predictions],
) -> None:
    """Two models that differ on ten films in two hundred differ by little, and surely."""
    final, _, after = planted
    better = after.logits.argmax(axis=1).copy()
    better[:50:5] = final.labels[:50:5]
    change = final.measure(after, Predictions(logits_of(better), better))["image_overall"]
    assert change.difference == pytest.approx(0.05)
    assert 0.0 < change.difference_interval.low < 0.05 < change.difference_interval.high
    assert change.difference_interval.high - change.difference_interval.low < 0.08
    assert change.interval.high - change.interval.low > 0.09


def test_a_head_has_no_regions(planted: tuple[FinalTest, Predictions, Predictions]) -> None:
    final, before, after = planted
    told = final.measure(before, Predictions(after.logits, None))
    assert np.isnan(told["region_worst"].after)
    assert told["region_worst"].films == 0


def test_small_groups_are_joined_for_the_worst_and_not_told() -> None:
    labels = np.repeat([0, 1], [60, 60]).astype(np.int64)
    present = np.zeros(120, dtype=bool)
    present[:3] = True  # three films of a with the feature, all wrong
    right = labels.copy()
    right[:3] = 1
    answered = Predictions(logits_of(right), right)
    told = final_test(labels, present).measure(answered, answered)
    assert "a, with the feature" not in told["groups"]
    assert told["image_worst"].after == pytest.approx(57 / 60)  # joined with another group
    assert told["gaps"][0].gap.films == 60
    assert told["gaps"][1].gap.films == 0  # class b has no film with it
    assert np.isnan(told["gaps"][1].gap.interval.low)


def test_the_area_is_that_of_scikit_learn_ties_and_weights_included() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 12, 300).astype(np.float32)
    positive = rng.random(300) < 0.3 + 0.03 * scores
    patients = rng.integers(0, 90, 300)
    patients = np.unique(patients, return_inverse=True)[1].astype(np.int64)
    area, draws = area_under_curve(scores, positive, PatientBootstrap(patients, 100, 4))
    assert area == pytest.approx(roc_auc_score(positive, scores))
    counts = int(patients.max()) + 1
    drawn = np.random.default_rng([4, 5]).multinomial(counts, np.full(counts, 1 / counts), size=50)
    for draw in (0, 17, 49):
        weights = drawn[draw][patients]
        kept = weights > 0
        wanted = roc_auc_score(positive[kept], scores[kept], sample_weight=weights[kept])
        assert draws[draw] == pytest.approx(wanted)


def test_calibration_by_hand() -> None:
    # Eight films at 0.75 of which six are right: no error. Then none is right: 0.75.
    logits = np.tile(np.log([0.75, 0.25]).astype(np.float32), (8, 1))
    labels = np.array([0] * 6 + [1] * 2, dtype=np.int64)
    bootstrap = PatientBootstrap(np.arange(8, dtype=np.int64), 2000, 0)
    error, draws = calibration_error(logits, labels, bootstrap)
    assert error == pytest.approx(0.0, abs=1e-6)
    assert draws.max() > 0.2
    error, draws = calibration_error(logits, np.ones(8, dtype=np.int64), bootstrap)
    assert error == pytest.approx(0.75)
    assert draws == pytest.approx(0.75)


def test_few_patients_are_judged_by_and_not_told() -> None:
    """Class a with the feature is of eight patients; the next smallest group would tell them."""
    labels = np.repeat([0, 1], 100).astype(np.int64)
    present = np.concatenate([np.arange(100) < 8, np.arange(100) < 30])
    final = final_test(labels, present, hidden_below=11)
    groups = final.groups().names
    sizes = dict(zip(groups, final.groups().sizes().tolist(), strict=True))
    hidden = final.hidden()
    assert {name for name in groups if name in hidden} == {
        name for name, size in sizes.items() if size in (8, 30)
    }
    assert not hidden & {*CLASSES, ("view", "AP"), ("view", "PA")}
    answer = Predictions(logits_of(labels), labels)
    told = final.measure(answer, answer)
    assert told["classes"].keys() == set(CLASSES)
    gaps = {gap.side: gap.gap for gap in told["gaps"]}
    assert (gaps["raised"].films, gaps["lowered"].films) == (0, 100)
    assert np.isnan(gaps["raised"].difference)
    assert not final_test(labels, present).hidden()


def test_what_is_shown_of_an_arm_gives_away_no_small_number() -> None:
    """Of class b with the feature 3 of 40 are wrong: as many as 1 or 10 would be."""
    labels = np.repeat([0, 1], 100).astype(np.int64)
    present = np.arange(200) % 5 < 2
    final = final_test(labels, present, hidden_below=11)
    right = Predictions(logits_of(labels), labels)
    shown = []
    for wrong in (1, 3, 10):
        answers = labels.copy()
        answers[np.flatnonzero(present & (labels == 1))[:wrong]] = 0
        none = LearningCurve((1.0,), (1 - wrong / 40,), (1 - wrong / 200,), 0, "early", 1, 1.0)
        arm = ArmOutcome(
            "a", "A", "tower", False, True, curve=none,
            **final.measure(right, Predictions(logits_of(answers), answers)),
        )  # fmt: skip
        told = final.shown(arm)
        changes = (told.image_overall, told.classes["b"], told.groups["b, with the feature"])
        shown.append([*(c.after for c in changes), told.curve.overall[0]])
        exact = arm.groups["b, with the feature"]
        assert changes[2].interval.low <= exact.interval.low
        assert changes[2].interval.high >= exact.interval.high
    assert shown[0] == shown[1] == shown[2]
    assert shown[0][2] == pytest.approx(2.5 / 3)
    plain = final_test(labels, present)
    assert plain.shown(arm) is arm
