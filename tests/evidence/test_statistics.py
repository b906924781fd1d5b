"""Intervals: whole patients are drawn, and no arm is certain."""

import numpy as np
import pytest

from ravl_med.evidence.statistics import PatientBootstrap, percentile_interval


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
