"""Accuracy by hand, and models of which there is nothing to audit."""

import numpy as np
import pytest

from ravl_med.config.audit import GateConfig
from ravl_med.evidence.audit_result import Accuracy
from ravl_med.evidence.effects import check_auditability, measure_accuracy
from ravl_med.evidence.statistics import PatientBootstrap

CLASSES = ("no finding", "cardiomegaly")


def accuracy_of(labels, predictions, classes=2) -> Accuracy:
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    bootstrap = PatientBootstrap(np.arange(len(labels)), 500, seed=0)
    return measure_accuracy(labels, predictions, classes, bootstrap, 0.95)


def test_accuracy_by_hand():
    accuracy = accuracy_of([0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0], classes=3)

    assert accuracy.overall == pytest.approx(4 / 6)
    assert accuracy.by_class[:2] == pytest.approx((3 / 4, 1 / 2))
    assert accuracy.images_by_class == (4, 2, 0)
    assert accuracy.images == 6
    assert accuracy.predicted_share == pytest.approx((4 / 6, 2 / 6, 0))
    assert accuracy.overall_interval.low < 4 / 6 < accuracy.overall_interval.high
    assert accuracy.by_class_interval[0].low < 3 / 4 < accuracy.by_class_interval[0].high
    assert np.isnan(accuracy.by_class[2])  # a class without films
    assert np.isnan(accuracy.by_class_interval[2].low)


def test_a_model_that_tells_the_classes_apart_can_be_audited():
    labels = np.arange(100) % 2

    assert check_auditability(accuracy_of(labels, labels), CLASSES, GateConfig()) == ((), ())


def test_a_class_without_enough_films_cannot_be_audited():
    labels = np.repeat([0, 1], [100, 19])

    (reason,), _ = check_auditability(accuracy_of(labels, labels), CLASSES, GateConfig())

    few = (
        "cardiomegaly: fewer than 20 films, the least an audit needs (gate.min_films). Add films, "
        "or choose another finding."
    )
    assert reason == few
    none = check_auditability(accuracy_of([0] * 50, [0, 1] * 25), CLASSES, GateConfig())
    assert none[0] == (few,)


def test_a_stuck_class_cannot_be_audited_and_a_dead_one_is_a_doubt():
    labels = np.arange(100) % 2
    accuracy = accuracy_of(labels, np.ones(100, int))

    (stuck,), (dead,) = check_auditability(accuracy, CLASSES, GateConfig())

    assert dead.startswith(
        "The model hardly ever calls a film no finding: less than 2 % of the films"
    )
    assert stuck.startswith("The model calls more than 98 % of the films cardiomegaly (gate.")
