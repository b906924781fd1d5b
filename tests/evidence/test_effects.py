"""Two arms by hand: accuracy, gaps, margins, and what is not known."""

import math

import numpy as np
import pytest

from ravl_med.discovery.ravl import performance_gaps
from ravl_med.evidence.effects import measure_by_presence, measure_margin_shift
from ravl_med.evidence.statistics import PatientBootstrap

# (class, feature, films, hits)
FILMS = (
    (0, True, 40, 36), (0, False, 60, 30), (1, True, 40, 10), (1, False, 40, 30),
    (2, True, 20, 8), (2, False, 60, 36), (3, False, 10, 10),
)  # fmt: skip
CLASSES = ("a", "b", "c", "d")


@pytest.fixture
def arms_of(films_of, cluster_of, data_of):
    def measure(groups, classes=CLASSES, rows=None, patients=None, draws=2_000, **changes):
        films = films_of(*groups)
        cluster = cluster_of(*films, classes=len(classes), **changes)
        task = data_of(*films[1:], classes)
        rows = np.arange(len(films[0])) if rows is None else rows
        table = performance_gaps(
            cluster.present[rows, None], task.labels[rows], task.correct[rows], len(classes)
        )
        who = np.arange(len(rows)) if patients is None else patients
        bootstrap = PatientBootstrap(who, draws, 0)
        return measure_by_presence(task, cluster, rows, table, bootstrap, 0.95)

    return measure


def test_accuracy_with_and_without_the_feature_by_hand(arms_of):
    arms = arms_of(FILMS)

    assert arms.n_present.tolist() == [40, 40, 20, 0]
    assert arms.n_absent.tolist() == [60, 40, 60, 10]
    np.testing.assert_allclose(arms.accuracy_present, [0.9, 0.25, 0.4, np.nan])
    np.testing.assert_allclose(arms.accuracy_absent, [0.5, 0.75, 0.6, 1])
    np.testing.assert_allclose(arms.gap, [0.4, -0.5, -0.2, np.nan])
    for c in range(3):
        for interval, value in (
            (arms.present_interval[c], arms.accuracy_present[c]),
            (arms.absent_interval[c], arms.accuracy_absent[c]),
            (arms.gap_interval[c], arms.gap[c]),
        ):
            assert interval.low < value < interval.high
    assert arms.gap_interval[0].low > 0 > arms.gap_interval[1].high
    # Wald: 1.96 sqrt(0.9 * 0.1 / 40 + 0.5 * 0.5 / 60) to either side, somewhat wider here.
    width = arms.gap_interval[0].high - arms.gap_interval[0].low
    assert width == pytest.approx(2 * 1.96 * math.sqrt(0.09 / 40 + 0.25 / 60), rel=0.15)


def test_an_empty_arm_has_no_interval(arms_of):
    arms = arms_of(FILMS)

    assert math.isnan(arms.present_interval[3].low)
    assert math.isnan(arms.gap_interval[3].high)
    assert arms.absent_interval[3].low > 0.5
    assert arms.absent_interval[3].high == 1


def test_opposed_classes_are_pooled_by_hand(arms_of):
    """Weights 40 * 40 / 80 = 20 and 20 * 60 / 80 = 15."""
    arms = arms_of(FILMS, opposed_classes=(1, 2))

    assert arms.opposed_gap == pytest.approx((20 * -0.5 + 15 * -0.2) / 35)
    assert arms.opposed_interval.low < arms.opposed_gap < arms.opposed_interval.high < 0
    one = arms_of(FILMS, opposed_classes=(1,))
    assert one.opposed_gap == pytest.approx(-0.5)
    assert one.opposed_interval == one.gap_interval[1]
    beside = arms_of(FILMS, opposed_classes=(1, 3))  # class 3 has no film with the feature
    assert (beside.opposed_gap, beside.opposed_interval) == (one.opposed_gap, one.opposed_interval)


def test_the_pooled_interval_has_the_weights_of_the_pooled_gap(arms_of):
    """5 * 195 / 200 = 4.875 for a gap of -0.8, 100 * 100 / 200 = 50 for none."""
    groups = ((0, True, 5, 1), (0, False, 195, 195), (1, True, 100, 70), (1, False, 100, 70))

    arms = arms_of(groups, "ab", opposed_classes=(0, 1))

    assert arms.opposed_gap == pytest.approx(4.875 * -0.8 / 54.875)
    middle = (arms.opposed_interval.low + arms.opposed_interval.high) / 2
    assert middle == pytest.approx(arms.opposed_gap, abs=0.03)


@pytest.mark.parametrize("opposed", [(), (3,)])
def test_without_an_opposed_class_nothing_is_pooled(arms_of, opposed):
    arms = arms_of(FILMS, opposed_classes=opposed)

    assert math.isnan(arms.opposed_gap)
    assert math.isnan(arms.opposed_interval.low)


def test_only_the_films_that_are_asked_for_are_measured(arms_of):
    """The first 100 films are those of class 0."""
    arms = arms_of(FILMS, rows=np.arange(100), opposed_classes=(1,))

    assert arms.n_present.tolist() == [40, 0, 0, 0]
    assert arms.gap[0] == pytest.approx(0.4)
    assert math.isnan(arms.opposed_gap)


def test_no_film_at_all(arms_of):
    arms = arms_of(FILMS, rows=np.empty(0, np.int64), opposed_classes=(1, 2))

    assert arms.n_absent.tolist() == [0] * 4
    intervals = (*arms.present_interval, *arms.absent_interval, *arms.gap_interval)
    assert np.isnan([(i.low, i.high) for i in (*intervals, arms.opposed_interval)]).all()


def test_intervals_are_of_patients(arms_of):
    """Ten films a patient, all alike: sqrt(10) times the width."""
    films = ((0, True, 200, 100), (0, False, 200, 100))

    by_film, by_patient = (
        arms_of(films, "ab", patients=who).gap_interval[0]
        for who in (np.arange(400), np.arange(400) // 10)
    )

    ratio = (by_patient.high - by_patient.low) / (by_film.high - by_film.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.15)


class TestShift:
    """Margins of class 0 over class 1, in logits; over class 2 they are the negative."""

    LABELS = np.repeat([0, 0, 1, 1, 2], [3, 2, 2, 4, 3])
    PRESENT = np.repeat([True, False, True, False, True], [3, 2, 2, 4, 3])
    MARGIN = np.array([3, 4, 5, 1, 2, 0, -1, -2, -3, -2, -5, 99, 99, 99])

    @pytest.fixture
    def shift_of(self, cluster_of, data_of):
        def measure(labels=self.LABELS, margin=self.MARGIN, rows=None, **changes):
            logits = np.column_stack([margin, np.zeros(14), 2 * margin])
            scores = np.exp(logits - logits.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
            task = data_of(labels, labels >= 0, ("a", "b", "c"), image_scores=scores)
            chosen = {"raised_class": 0, "lowered_classes": (1, 2), **changes}
            cluster = cluster_of(self.PRESENT, labels, task.correct, classes=3, **chosen)
            rows = np.flatnonzero(labels >= 0) if rows is None else rows
            bootstrap = PatientBootstrap(np.arange(len(rows)), 1_000, 0)
            return measure_margin_shift(task, cluster, rows, bootstrap, 0.95)

        return measure

    def test_by_hand(self, shift_of):
        shift = shift_of()

        assert shift.raised == pytest.approx(4 - 1.5)
        assert shift.lowered == pytest.approx(-0.5 - -3)
        assert shift.raised_interval.low < shift.raised < shift.raised_interval.high
        assert shift.lowered_interval.low < shift.lowered < shift.lowered_interval.high

    def test_the_first_lowered_class_is_the_other_one(self, shift_of):
        shift = shift_of(lowered_classes=(2, 1))

        assert shift.raised == pytest.approx(-2.5)  # the logit of class 2 is twice that of class 0
        assert math.isnan(shift.lowered)  # all of its films hold the feature

    def test_without_a_lowered_class_there_is_no_margin(self, shift_of):
        shift = shift_of(lowered_classes=())

        assert np.isnan([shift.raised, shift.lowered]).all()
        assert np.isnan([shift.raised_interval.low, shift.lowered_interval.low]).all()

    def test_an_empty_arm_leaves_the_other_side(self, shift_of):
        labels = self.LABELS.copy()
        labels[:3] = -1  # no film of class 0 with the feature

        shift = shift_of(labels)

        assert math.isnan(shift.raised)
        assert math.isnan(shift.raised_interval.high)
        assert shift.lowered == pytest.approx(2.5)

    def test_no_film_at_all(self, shift_of):
        shift = shift_of(rows=np.empty(0, np.int64))

        assert np.isnan([shift.raised, shift.lowered]).all()

    def test_a_score_of_zero_stays_finite(self, cluster_of, data_of):
        scores = np.tile([1.0, 0.0], (8, 1)).astype(np.float32)
        labels, present = np.repeat([0, 1], 4), np.arange(8) % 2 == 0
        task = data_of(labels, labels == 0, image_scores=scores)
        cluster = cluster_of(present, labels, task.correct, raised_class=0, lowered_classes=(1,))

        shift = measure_margin_shift(
            task, cluster, np.arange(8), PatientBootstrap(np.arange(8), 200, 0), 0.95
        )

        assert (shift.raised, shift.lowered) == (0, 0)


def test_arms_do_not_look_at_where_it_was_found(arms_of):
    """The gaps of the cluster itself are of other films."""
    arms = arms_of(FILMS, accuracy_present=np.zeros(4), n_present=np.zeros(4, np.int64))

    np.testing.assert_allclose(arms.gap[:3], [0.4, -0.5, -0.2])


def test_a_feature_in_every_film_has_no_gap(arms_of):
    arms = arms_of(((0, True, 30, 20), (1, True, 30, 10)), "ab")

    assert np.isnan(arms.gap).all()
    assert all(math.isnan(interval.low) for interval in arms.gap_interval)
    assert arms.present_interval[0].low < 2 / 3 < arms.present_interval[0].high


def test_a_cluster_can_be_measured_on_any_half(films_of, cluster_of, data_of):
    """The same cluster, once on the films it was found on and once on the others."""
    films = films_of(*FILMS, *((c, not here, n, hits) for c, here, n, hits in FILMS))
    first = np.arange(len(films[0])) < 270
    cluster = cluster_of(*films, classes=4, films=first)
    task = data_of(*films[1:], CLASSES)

    gaps = []
    for half in (first, ~first):
        rows = np.flatnonzero(half)
        table = performance_gaps(
            cluster.present[rows, None], task.labels[rows], task.correct[rows], 4
        )
        bootstrap = PatientBootstrap(np.arange(len(rows)), 200, 0)
        gaps.append(measure_by_presence(task, cluster, rows, table, bootstrap, 0.95).gap)

    np.testing.assert_allclose(gaps[0], cluster.gap)
    np.testing.assert_allclose(gaps[1], -gaps[0])
