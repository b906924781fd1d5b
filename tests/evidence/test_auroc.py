"""AUROC by hand and against scikit-learn; its interval by coverage and by patients."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ravl_med.evidence.statistics import auroc, auroc_interval


def test_four_films_by_hand():
    scores = np.array([0.1, 0.4, 0.35, 0.8])
    positive = np.array([False, False, True, True])
    assert auroc(scores, positive) == 0.75  # three of four pairs
    assert auroc(np.ones(4), positive) == 0.5
    assert np.isnan(auroc(scores, np.ones(4, dtype=bool)))


def test_it_is_that_of_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.3
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def delong(scores, positive):
    """DeLong's variance, written out pair by pair."""
    x, y = scores[positive], scores[~positive]
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    v10, v01 = wins.mean(axis=1), wins.mean(axis=0)
    return v10.var(ddof=1) / len(x) + v01.var(ddof=1) / len(y)


def test_with_one_film_a_patient_it_is_as_wide_as_delongs():
    rng = np.random.default_rng(1)
    positive = np.arange(300) < 100
    scores = rng.normal(size=300) + 0.8 * positive
    interval = auroc_interval(scores, positive, np.arange(300), 0.95)

    wanted = 2 * 1.959964 * np.sqrt(delong(scores, positive))

    assert interval.high - interval.low == pytest.approx(wanted, rel=0.05)
    assert interval.low < auroc(scores, positive) < interval.high


def test_films_of_one_patient_are_no_new_patients():
    rng = np.random.default_rng(2)
    positive = np.arange(80) < 40
    scores = rng.normal(size=80) + 0.8 * positive
    alone = auroc_interval(scores, positive, np.arange(80), 0.95)
    four = auroc_interval(np.repeat(scores, 4), np.repeat(positive, 4),
                          np.repeat(np.arange(80), 4), 0.95)  # fmt: skip
    assert four.low == pytest.approx(alone.low, abs=0.005)
    assert four.high == pytest.approx(alone.high, abs=0.005)
    blind = auroc_interval(np.repeat(scores, 4), np.repeat(positive, 4), np.arange(320), 0.95)
    assert blind.high - blind.low < 0.6 * (four.high - four.low)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    truth = 0.760  # of two normals 1.0 apart: Phi(1 / sqrt(2))
    held = 0
    for _ in range(300):
        patients = np.repeat(np.arange(60), 2)
        positive = np.repeat(rng.random(60) < 0.4, 2)
        own = np.repeat(rng.normal(size=60), 2)
        scores = np.sqrt(0.5) * own + np.sqrt(0.5) * rng.normal(size=120) + 1.0 * positive
        interval = auroc_interval(scores, positive, patients, 0.95)
        held += interval.low <= truth <= interval.high
    assert 0.92 <= held / 300 <= 0.99


@pytest.mark.parametrize("few", [3, 30])
def test_where_no_film_is_wrong_the_interval_has_width(few):
    scores = np.arange(2.0 * few)
    interval = auroc_interval(scores, scores >= few, np.arange(2 * few), 0.95)
    assert interval.high == 1.0
    assert interval.low < {3: 0.75, 30: 0.995}[few]
    assert interval.low > {3: 0.3, 30: 0.88}[few]


def test_one_patient_of_a_kind_says_nothing():
    interval = auroc_interval(np.arange(6.0), np.arange(6) > 3, np.array([0, 1, 2, 3, 4, 4]), 0.95)
    assert np.isnan(interval.low)
    assert np.isnan(interval.high)
