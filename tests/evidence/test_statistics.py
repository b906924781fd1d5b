"""Intervals: whole patients are drawn, and no arm is certain."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ravl_med.evidence.statistics import (
    PatientBootstrap,
    mean_interval,
    mean_test,
    percentile_interval,
    share_interval,
)


def width(draws: np.ndarray) -> float:
    interval = percentile_interval(draws, 0.95)
    return interval.high - interval.low


def test_the_films_of_a_patient_move_together():
    """Two patients of one and three films: the mean is 0, 1 or 3/4, as 1, 1 and 2 draws in 4."""
    bootstrap = PatientBootstrap(np.array([0, 1, 1, 1]), 20_000, seed=0)

    draws = bootstrap.mean(np.array([0.0, 1.0, 1.0, 1.0]))

    values, counts = np.unique(draws, return_counts=True)
    assert values.tolist() == [0, 0.75, 1]
    np.testing.assert_allclose(counts / 20_000, [0.25, 0.5, 0.25], atol=0.02)


def test_values_that_are_not_known_are_left_out_of_the_mean():
    bootstrap = PatientBootstrap(np.array([0, 1]), 4_000, seed=0)

    draws = bootstrap.mean(np.array([np.nan, 3.0]))

    assert np.nanmin(draws) == np.nanmax(draws) == 3
    assert np.isnan(draws).mean() == pytest.approx(0.25, abs=0.03)  # only the first was drawn
    assert np.isnan(bootstrap.mean(np.array([np.nan, np.nan]))).all()


def test_a_proportion_carries_one_success_and_one_failure():
    patients = np.arange(60)
    hit = patients < 45
    member = np.column_stack([np.ones(60, bool), patients < 30])

    draws = PatientBootstrap(patients, 20_000, seed=0).proportions(member, hit)

    assert draws.shape == (20_000, 2)
    assert draws[:, 0].mean() == pytest.approx(46 / 62, abs=0.01)
    assert ((draws >= 0) & (draws <= 1)).all()


def test_totals_are_of_whole_patients_and_share_their_draws():
    """Four patients; two of them are alike, and come up as often as two that are not."""
    patients = np.array([0, 0, 1, 2, 3])
    values = np.array([[1.0, 0], [2, 1], [5, 0], [5, 0], [0, 0]])

    totals = PatientBootstrap(patients, 20_000, seed=0).totals(values)

    assert totals.shape == (20_000, 2)
    first = totals[:, 1]  # how often patient 0 was drawn: 3 in the other column each time
    alike = (totals[:, 0] - 3 * first) / 5
    assert set(np.unique(alike).tolist()) == {0, 1, 2, 3, 4}
    assert (first + alike).max() == 4
    for drawn, share in ((first, 0.25), (alike, 0.5)):
        assert drawn.mean() == pytest.approx(4 * share, abs=0.03)
        assert drawn.var() == pytest.approx(4 * share * (1 - share), rel=0.05)


def test_the_same_seed_draws_the_same_totals():
    patients = np.arange(30) // 2
    values = np.arange(60.0).reshape(30, 2)
    one = PatientBootstrap(patients, 300, seed=3).totals(values)
    again = PatientBootstrap(patients, 300, seed=3).totals(values)
    other = PatientBootstrap(patients, 300, seed=4).totals(values)

    np.testing.assert_array_equal(again, one)
    assert (other != one).any()


def test_very_many_patients_are_drawn_by_groups_to_the_same_width(monkeypatch):
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(6_000), 2)
    values = np.repeat(rng.normal(size=6_000), 2)  # one value a patient
    grouped = PatientBootstrap(patients, 2_000, seed=0).mean(values)
    monkeypatch.setattr("ravl_med.evidence.statistics._UNITS", 6_000)
    whole = PatientBootstrap(patients, 2_000, seed=0).mean(values)

    assert grouped.mean() == pytest.approx(values.mean(), abs=0.002)
    assert grouped.std() == pytest.approx(whole.std(), rel=0.08)
    assert whole.std() == pytest.approx(1 / np.sqrt(6_000), rel=0.08)


def test_an_arm_in_which_every_film_is_right_still_has_width():
    patients = np.arange(20)

    draws = PatientBootstrap(patients, 4_000, seed=0).proportions(
        np.ones((20, 1), bool), np.ones(20, bool)
    )
    interval = percentile_interval(draws[:, 0], 0.95)

    assert interval.high == 1
    assert 0.7 < interval.low < 0.95


def test_an_arm_without_films_knows_nothing():
    draws = PatientBootstrap(np.arange(5), 4_000, seed=0).proportions(
        np.zeros((5, 1), bool), np.ones(5, bool)
    )

    assert percentile_interval(draws[:, 0], 0.95).low == 0
    assert percentile_interval(draws[:, 0], 0.95).high == 1


def test_films_of_one_patient_count_less_than_films_of_many():
    """100 films, right or wrong five at a time: sqrt(5) times the width of independent films."""
    hit = np.repeat(np.arange(20) % 2 == 0, 5)
    member = np.ones((100, 1), bool)

    by_patient = PatientBootstrap(np.repeat(np.arange(20), 5), 4_000, 0).proportions(member, hit)
    by_film = PatientBootstrap(np.arange(100), 4_000, 0).proportions(member, hit)

    ratio = width(by_patient[:, 0]) / width(by_film[:, 0])
    assert ratio == pytest.approx(np.sqrt(5), rel=0.15)


def test_the_same_seed_draws_the_same_means():
    patients = np.arange(30)
    values = np.linspace(0, 1, 30)
    one = PatientBootstrap(patients, 500, seed=3).mean(values)
    again = PatientBootstrap(patients, 500, seed=3).mean(values)
    other = PatientBootstrap(patients, 500, seed=4).mean(values)

    np.testing.assert_array_equal(again, one)
    assert (other != one).any()


@pytest.mark.parametrize(("level_in", "level_out"), [(0.8, 0.8), (0.55, 0.85), (0.9, 0.6)])
def test_the_interval_of_a_gap_covers_the_truth(level_in, level_out):
    """Patients of one to four films; half of them hold the feature, and each has its own level."""
    rng = np.random.default_rng([17, round(100 * level_in)])
    covered = []
    for _ in range(300):
        films = rng.integers(1, 5, size=70)
        patients = np.repeat(np.arange(70), films)
        feature = (rng.random(70) < 0.5)[patients]
        mean = np.where(feature, level_in, level_out)
        own = rng.normal(0, 0.08, size=70)[patients]
        hit = rng.random(len(patients)) < mean + np.clip(own, -0.1, 0.1)
        member = np.column_stack([feature, ~feature])
        draws = PatientBootstrap(patients, 500, int(rng.integers(1 << 30))).proportions(member, hit)
        interval = percentile_interval(draws[:, 0] - draws[:, 1], 0.95)
        covered.append(interval.low <= level_in - level_out <= interval.high)

    assert np.mean(covered) >= 0.93


def test_percentiles_and_bonferroni_by_hand():
    draws = np.concatenate([np.arange(1001.0), [np.nan, np.inf]])

    plain, four = percentile_interval(draws, 0.9), percentile_interval(draws, 0.9, comparisons=4)

    assert (plain.low, plain.high) == pytest.approx((50, 950))
    assert (four.low, four.high) == pytest.approx((12.5, 987.5))
    assert percentile_interval(draws, 0.9, comparisons=0).low == pytest.approx(50)


def test_without_a_known_draw_there_are_no_bounds():
    interval = percentile_interval(np.array([np.nan]), 0.95)

    assert np.isnan([interval.low, interval.high]).all()
    assert not interval.excludes_zero()


class TestShareInterval:
    def test_films_that_differ_have_that_of_their_mean(self):
        values, patients = np.array([1.0, 0.0, -1.0, 1.0, 1.0]), np.arange(5)
        assert share_interval(values, patients, 0.95) == mean_interval(values, patients, 0.95)

    @pytest.mark.parametrize("count", [2, 6, 40])
    @pytest.mark.parametrize("films", [1, 3])
    def test_patients_that_agree_leave_open_what_chance_does(self, count, films):
        patients = np.repeat(np.arange(count), films)
        exact = stats.binomtest(count, count).proportion_ci(0.95, method="exact")
        none = stats.binomtest(0, count).proportion_ci(0.95, method="exact")

        every = share_interval(np.ones(len(patients)), patients, 0.95)
        nothing = share_interval(np.zeros(len(patients)), patients, 0.95)

        assert (every.low, every.high) == (pytest.approx(exact.low), 1.0)
        assert (nothing.low, nothing.high) == pytest.approx((-none.high, none.high))

    def test_one_patient_says_nothing(self):
        interval = share_interval(np.ones(3), np.zeros(3, int), 0.95)
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)


class TestMeanInterval:
    def test_one_film_a_patient_is_the_interval_of_students_t(self):
        values = np.array([1.0, 2.0, 4.0, 9.0])

        interval = mean_interval(values, np.arange(4), 0.95)

        error = values.std(ddof=1) / 2
        assert interval.low == pytest.approx(4 - 3.18245 * error, abs=1e-4)
        assert interval.high == pytest.approx(4 + 3.18245 * error, abs=1e-4)

    @given(st.lists(st.floats(-9, 9), min_size=3, max_size=20), st.floats(0.6, 0.99))
    def test_it_is_scipys_where_each_film_is_a_patient(self, values, confidence):
        values = np.array([*values, 10.0])

        interval = mean_interval(
            values, np.random.default_rng(0).permutation(len(values)), confidence
        )

        wanted = stats.ttest_1samp(values, 0).confidence_interval(confidence)
        assert (interval.low, interval.high) == pytest.approx((wanted.low, wanted.high))

    def test_the_films_of_a_patient_move_together(self):
        """A mean by films, its error from the sums of patients."""
        values, patients = np.array([1.0, 2.0, 3.0, 6.0]), np.array([7, 7, 3, 9])

        interval = mean_interval(values, patients, 0.95)

        sums, share = np.array([(1 - 3) + (2 - 3), 3 - 3, 6 - 3]), np.array([0.5, 0.25, 0.25])
        error = np.sqrt((sums**2 / (1 - share)).sum()) / 4
        reach = stats.t.isf(0.025, 1 / (share**2).sum() - 1) * error
        assert (interval.low, interval.high) == pytest.approx((3 - reach, 3 + reach))
        twice = mean_interval(np.repeat(values, 5), np.repeat(patients, 5), 0.95)
        assert (twice.low, twice.high) == pytest.approx((interval.low, interval.high))

    def test_fewer_than_two_patients_say_nothing(self):
        for films in (0, 1, 3):
            interval = mean_interval(np.arange(float(films)), np.zeros(films, int), 0.95)
            assert np.isnan([interval.low, interval.high]).all()

    def test_values_that_do_not_vary_have_no_width(self):
        interval = mean_interval(np.full(5, 0.25), np.arange(5), 0.95)

        assert (interval.low, interval.high) == (0.25, 0.25)

    @pytest.mark.parametrize("confidence", [0.9, 0.995])
    def test_it_misses_the_truth_as_often_as_it_says(self, confidence):
        """Twenty patients of one to four films, far out in the tails as well."""
        rng = np.random.default_rng(0)
        missed = []
        for _ in range(4000):
            values, patients = films_of_patients(rng)
            interval = mean_interval(values, patients, confidence)
            missed.append(not interval.low <= 0 <= interval.high)

        assert 0.6 * (1 - confidence) < np.mean(missed) < 1.3 * (1 - confidence)


def films_of_patients(rng, most=4):
    """One to so many films of each of twenty patients, whose mean is 0 in truth."""
    patients = np.repeat(np.arange(20), rng.integers(1, most + 1, 20))
    return rng.normal(size=20)[patients] + rng.normal(size=len(patients)), patients


class TestMeanTest:
    @given(
        st.lists(st.floats(-5, 5), min_size=2, max_size=20).filter(lambda v: np.std(v) > 0.01),
        st.floats(-5, 5),
    )
    def test_of_one_film_a_patient_it_is_the_one_sided_test_of_student(self, values, least):
        values = np.array(values)

        p = mean_test(values, np.random.default_rng(0).permutation(len(values)), least)

        assert p == pytest.approx(
            stats.ttest_1samp(values, least, alternative="greater").pvalue, rel=1e-6
        )

    def test_the_films_of_a_patient_move_together(self):
        values, patients = np.array([1.0, 2.0, 3.0, 6.0]), np.array([7, 7, 3, 9])

        p = mean_test(values, patients, 0.5)

        sums, share = np.array([(1 - 3) + (2 - 3), 3 - 3, 6 - 3]), np.array([0.5, 0.25, 0.25])
        error = np.sqrt((sums**2 / (1 - share)).sum()) / 4
        assert p == pytest.approx(stats.t.sf((3 - 0.5) / error, 1 / (share**2).sum() - 1))
        assert mean_test(np.repeat(values, 5), np.repeat(patients, 5), 0.5) == pytest.approx(p)

    @pytest.mark.parametrize("confidence", [0.5, 0.9, 0.999])
    def test_it_ends_where_the_interval_ends(self, confidence):
        values, patients = films_of_patients(np.random.default_rng(0))
        interval = mean_interval(values, patients, confidence)

        tails = [mean_test(values, patients, end) for end in (interval.low, interval.high)]

        assert tails == pytest.approx([(1 - confidence) / 2, (1 + confidence) / 2])

    @pytest.mark.parametrize(("least", "p"), [(0.2, 0.0), (0.25, 1.0), (0.3, 1.0)])
    def test_values_that_do_not_vary_are_what_they_are(self, least, p):
        assert mean_test(np.full(5, 0.25), np.arange(5), least) == p

    @pytest.mark.parametrize("films", [0, 1, 3])
    def test_one_patient_shows_nothing(self, films):
        assert mean_test(np.full(films, 9.0), np.zeros(films, int), 0.0) == 1.0

    @pytest.mark.parametrize(
        ("level", "most", "times"),
        [(0.05, 1, 1.2), (0.0025, 1, 1.6), (0.05, 4, 1.3), (0.0025, 4, 2)],
    )
    def test_it_is_wrong_as_often_as_it_says(self, level, most, times):
        """Of patients with unequal numbers of films it is a little too bold, far out most so."""
        rng = np.random.default_rng(1)
        called = [mean_test(*films_of_patients(rng, most), 0.0) <= level for _ in range(12_000)]

        assert 0.6 * level < np.mean(called) < times * level

    def test_a_mean_below_the_least_is_called_less_often(self):
        rng = np.random.default_rng(2)
        called = [mean_test(*films_of_patients(rng), 0.2) <= 0.05 for _ in range(2000)]

        assert np.mean(called) < 0.03
