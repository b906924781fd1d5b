"""Strata by hand: a difference is of the stratum only when the classes are held apart."""

import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.audit_result import Stratum
from ravl_med.evidence.results import CrossedAttribute, Strata
from ravl_med.evidence.statistics import PatientBootstrap
from ravl_med.evidence.subgroups import (
    attribute_strata,
    cramers_v,
    cross_with_attributes,
    mantel_haenszel,
    measure_subgroups,
)

Axes = dict[str, np.ndarray]


def block(films: int, hits: int) -> list[bool]:
    return [i < hits for i in range(films)]


def films_of_axes(axes: Axes, labels, correct, patients: np.ndarray | None) -> AuditData:
    truth, films = np.asarray(labels, np.int64), np.arange(len(labels))
    return AuditData(
        classes=("a", "b", "c"),
        labels=truth,
        predictions=np.where(np.asarray(correct, bool), truth, truth + 1),
        patients=films if patients is None else patients,
        sizes=np.full((len(truth), 2), 100),
        region_image=films,
        region_boxes=np.zeros((len(truth), 4), np.float32),
        attributes=axes,
    )


def measure(
    axes: Axes,
    labels: Sequence[int] | np.ndarray,
    correct: Sequence[bool] | np.ndarray,
    patients: np.ndarray | None = None,
    *,
    min_films: int = 10,
    draws: int = 400,
    seed: int = 0,
) -> tuple[Stratum, ...]:
    data = films_of_axes(axes, labels, correct, patients)
    evidence = EvidenceConfig.model_construct(min_n=min_films, permutations=draws, seed=seed)
    return measure_subgroups(data, evidence, PatientBootstrap(data.patients, 200, 0))


def cross(
    present: np.ndarray,
    axes: Axes,
    labels: np.ndarray,
    correct: np.ndarray,
    lowered: int | None = 1,
    patients: np.ndarray | None = None,
) -> Strata:
    data = films_of_axes(axes, labels, correct, patients)
    cluster = SimpleNamespace(present=present, raised_class=0, lowered_class=lowered)
    return cross_with_attributes(data, cluster, PatientBootstrap(data.patients, 500, 0), 0.95)


def cells(*table: tuple[str, int, bool, int, int]) -> tuple[Axes, np.ndarray, ...]:
    """Films from rows of (view, class, feature, films, hits)."""
    view = np.repeat([row[0] for row in table], [row[3] for row in table])
    labels = np.repeat([row[1] for row in table], [row[3] for row in table])
    present = np.repeat([row[2] for row in table], [row[3] for row in table])
    correct = np.concatenate([block(row[3], row[4]) for row in table])
    return {"view": view}, labels, present, correct


# Axes


def test_the_known_axes_that_are_there_in_order():
    axes = attribute_strata(
        {
            "age": ("034Y", "81", ""),
            "sex": ("F", "", " "),
            "physician": ("Dr. A", "Dr. B", "Dr. C"),
            "view": ("PA", "AP", "PA"),
        }
    )

    assert list(axes) == ["view", "sex", "age"]  # free columns may hold identities
    assert axes["view"].tolist() == ["PA", "AP", "PA"]
    assert axes["sex"].tolist() == ["F", "not stated", "not stated"]
    assert axes["age"].tolist() == ["18-39", "80+", "not stated"]


def test_nothing_stated_leaves_nothing_to_measure():
    assert attribute_strata({}) == {}
    assert measure({}, [0, 1], [True, False]) == ()
    assert cross(np.array([True, False]), {}, np.array([0, 1]), np.ones(2, bool)).attributes == ()


def test_very_many_sites_are_pooled_beside_the_twelve_largest():
    """Sites 0 .. 29 of 30 .. 1 films and two blanks."""
    sites = [f"site {i:02}" for i in range(30) for _ in range(30 - i)]

    axis = attribute_strata({"site": [*sites, "", ""]})["site"]

    values, counts = np.unique(axis, return_counts=True)
    expected = {f"site {i:02}": 30 - i for i in range(12)}
    expected |= {"other (18 values)": 18 * 19 // 2, "not stated": 2}
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == expected
    rows = measure({"site": axis}, [0] * len(axis), np.arange(len(axis)) % 2 == 0)
    assert [row.value for row in rows[-3:]] == ["site 11", "other (18 values)", "not stated"]


def test_a_value_is_never_pooled_alone():
    axis = attribute_strata({"site": [f"{i:02}" for i in range(13)]})["site"]

    assert len(np.unique(axis)) == 13
    assert "other" not in " ".join(axis)


# Mantel-Haenszel and Cramer


def naive_mantel_haenszel(present, correct, strata) -> float:
    above = below = 0.0
    for value in sorted(set(strata.tolist())):
        with_it = correct[present & (strata == value)]
        without = correct[~present & (strata == value)]
        if len(with_it) and len(without):
            weight = len(with_it) * len(without) / (len(with_it) + len(without))
            above += weight * (with_it.mean() - without.mean())
            below += weight
    return above / below if below else float("nan")


@settings(deadline=None)
@given(
    st.integers(0, 40).flatmap(
        lambda n: st.tuples(
            arrays(bool, n), arrays(bool, n), arrays(np.int64, n, elements=st.integers(0, 4))
        )
    )
)
def test_the_risk_difference_is_the_naive_one(films):
    np.testing.assert_allclose(mantel_haenszel(*films), naive_mantel_haenszel(*films), atol=1e-12)


def test_the_risk_difference_by_hand():
    """Weights 4 * 4 / 8 = 2 and 2 * 6 / 8 = 1.5: (2 * 0.5 + 1.5 * -0.5) / 3.5; c counts nothing."""
    strata = np.repeat(["a", "b", "c"], [8, 8, 3])
    present = np.array([*block(8, 4), *block(8, 2), True, True, True])
    correct = np.array([*block(4, 3), *block(4, 1), *block(2, 0), *block(6, 3), True, True, True])

    assert mantel_haenszel(present, correct, strata) == pytest.approx(0.25 / 3.5)
    assert np.isnan(mantel_haenszel(present[-3:], correct[-3:], strata[-3:]))


def test_cramers_v_by_hand():
    """A table of 3, 1 / 1, 3: chi-squared 2 of 8 films, square root of 1/4."""
    a = np.repeat(["x", "y"], 4)
    b = np.array([0, 0, 0, 1, 0, 1, 1, 1])

    assert cramers_v(a, b) == cramers_v(b, a) == pytest.approx(0.5)
    assert cramers_v(a, a) == pytest.approx(1)
    assert cramers_v(a, np.array([0, 0, 1, 1] * 2)) == 0
    assert cramers_v(a, np.zeros(8)) == cramers_v(a[:0], b[:0]) == 0


# Subgroups


def test_a_stratum_by_hand():
    """AP 12 of 20 right, PA 18 of 20; both classes have half of each."""
    view = np.repeat(["AP", "PA"], 20)
    labels = np.tile([0] * 10 + [1] * 10, 2)
    correct = np.array([*block(10, 4), *block(10, 8), *block(10, 9), *block(10, 9)])
    patients = np.arange(40) // 2

    ap, pa = measure({"view": view}, labels, correct, patients, draws=20_000)

    assert (ap.attribute, ap.value, ap.films, ap.patients) == ("view", "AP", 20, 10)
    assert (ap.accuracy, pa.accuracy) == (0.6, 0.9)
    assert ap.difference == pytest.approx(-0.3)
    assert pa.difference == pytest.approx(0.3)
    assert ap.interval.low < 0.6 < ap.interval.high
    assert not ap.insufficient
    assert not pa.insufficient
    by_patient = correct.reshape(4, 5, 2).sum(axis=2)  # AP 0, AP 1, PA 0, PA 1
    sums = [
        [sum(chosen) for chosen in itertools.combinations([*by_patient[c], *by_patient[c + 2]], 5)]
        for c in (0, 1)
    ]
    swapped = np.add.outer(*sums)  # hits of AP under every exchange
    assert ap.p_value == pa.p_value == pytest.approx(2 * (swapped <= 12).mean(), rel=0.05)


def test_prevalence_does_not_pose_as_performance():
    """The model is right in 90 % of class 0 and 50 % of class 1, in either view."""
    axes, labels, _, correct = cells(
        ("AP", 0, True, 20, 18), ("AP", 1, True, 80, 40),
        ("PA", 0, True, 80, 72), ("PA", 1, True, 20, 10),
    )  # fmt: skip

    ap, pa = measure(axes, labels, correct)

    assert (ap.accuracy, pa.accuracy) == (0.58, 0.82)
    assert ap.difference == pytest.approx(0, abs=1e-12)
    assert pa.difference == pytest.approx(0, abs=1e-12)
    assert ap.p_value > 0.5


def test_a_worse_stratum_is_found():
    axes, labels, _, correct = cells(
        ("AP", 0, True, 60, 30), ("AP", 1, True, 60, 33),
        ("PA", 0, True, 60, 54), ("PA", 1, True, 60, 55),
    )  # fmt: skip

    ap, _ = measure(axes, labels, correct, draws=1_000)

    assert ap.difference == pytest.approx(-(24 + 22) / 120)
    assert ap.p_value == ap.q_value == pytest.approx(2 / 1_001)


def test_two_values_are_one_test_that_both_rows_carry():
    """Three tests: sex, and the sites b and c against the rest; a is the same side as F."""
    rng = np.random.default_rng(3)
    sex = np.repeat(["F", "M"], 60)
    site = np.repeat(["a", "b", "c"], [60, 30, 30])
    labels = np.tile([0, 1], 60)
    correct = rng.random(120) < np.where(site == "b", 0.5, 0.8)

    rows = {row.value: row for row in measure({"sex": sex, "site": site}, labels, correct)}

    assert rows["F"].p_value == rows["M"].p_value == rows["a"].p_value
    assert rows["F"].q_value == rows["M"].q_value == rows["a"].q_value
    p = [rows[value].p_value for value in ("F", "b", "c")]
    q = [rows[value].q_value for value in ("F", "b", "c")]
    np.testing.assert_allclose(q, stats.false_discovery_control(p))
    assert p != q


def test_small_strata_stay_as_rows_without_a_verdict():
    """Lateral has too few films, and too few patients when there are more of them."""
    view = np.repeat(["AP", "LAT", "PA"], [30, 9, 30])
    labels = np.tile([0, 1, 1], 23)
    correct = np.arange(69) % 4 > 0
    patients = np.arange(69)

    rows = measure({"view": view}, labels, correct, patients, min_films=10)
    few = np.where(view == "LAT", 30 + patients % 4, patients)
    again = measure({"view": view}, labels, correct, few, min_films=9)

    for lateral in (rows[1], again[1]):
        assert (lateral.value, lateral.films, lateral.insufficient) == ("LAT", 9, True)
        assert np.isnan([lateral.difference, lateral.p_value, lateral.q_value]).all()
        assert lateral.accuracy == correct[view == "LAT"].mean()
        assert 0 <= lateral.interval.low < lateral.interval.high <= 1
    assert again[1].patients == 4
    assert not rows[0].insufficient
    assert not measure({"view": view}, labels, correct, patients, min_films=9)[1].insufficient


@pytest.mark.parametrize(
    ("view", "labels"),
    [
        (["PA"] * 60, [0, 1] * 30),  # nothing else
        (["PA"] * 55 + ["AP"] * 5, [0, 1] * 30),  # hardly anything else
        (["PA"] * 30 + ["AP"] * 30, [0] * 30 + [1] * 30),  # no class in common
        (["PA"] * 30 + ["AP"] * 30, [0] * 33 + [1] * 27),  # of which AP has three films
    ],
)
def test_without_films_to_compare_with_a_stratum_is_insufficient(view, labels):
    rows = measure({"view": np.array(view)}, labels, np.arange(60) % 3 > 0)

    for row in rows:
        assert row.insufficient
        assert np.isnan([row.difference, row.p_value, row.q_value]).all()
        assert np.isfinite([row.accuracy, row.interval.low, row.interval.high]).all()


def test_films_without_a_class_are_left_out():
    view = np.repeat(["AP", "LAT", "PA"], [30, 5, 30])
    labels = np.array([0, 1, -1] * 10 + [-1] * 5 + [0, 1, -1] * 10)
    correct = np.random.default_rng(0).random(65) < 0.7
    used = labels >= 0

    rows = measure({"view": view}, labels, correct)
    alone = measure({"view": view[used]}, labels[used], correct[used])
    flipped = measure({"view": view}, labels, correct ^ ~used)

    assert [row.films for row in rows] == [20, 0, 20]
    assert rows[1].insufficient
    assert np.isnan([rows[1].accuracy, rows[1].interval.low, rows[1].interval.high]).all()
    for row, other in zip((rows[0], rows[2]), alone, strict=True):
        assert (row.accuracy, row.difference) == (other.accuracy, other.difference)
        assert row.p_value == other.p_value
    assert [row.accuracy for row in flipped][::2] == [row.accuracy for row in rows][::2]


def test_a_perfect_stratum_keeps_width():
    axes, labels, _, correct = cells(("AP", 0, True, 20, 20), ("PA", 0, True, 20, 10))

    ap, _ = measure(axes, labels, correct)

    assert (ap.accuracy, ap.interval.high) == (1, 1)
    assert ap.interval.low < 0.95


def test_the_seed_decides_everything():
    rng = np.random.default_rng(1)
    view, labels = rng.choice(["AP", "PA", "LAT"], 90), rng.integers(0, 2, 90)
    correct, patients = rng.random(90) < 0.7, np.arange(90) // 2

    first, second, other = (
        measure({"view": view}, labels, correct, patients, seed=seed) for seed in (5, 5, 6)
    )

    assert first == second
    assert [row.p_value for row in first] != [row.p_value for row in other]


def test_strata_without_an_effect_are_called_in_five_of_a_hundred():
    """Sixty patients of one to four films, hard and easy ones, with a favoured view each."""
    called = 0
    for seed in range(200):
        rng = np.random.default_rng([29, seed])
        patients = np.repeat(np.arange(60), rng.integers(1, 5, size=60))
        labels = (rng.random(60) < 0.4).astype(np.int64)[patients]
        skill = rng.beta(4, 2, size=60)[patients] - 0.2 * labels
        habit = rng.beta(1, 1, size=60)[patients]
        view = np.where(rng.random(len(patients)) < habit, "AP", "PA")
        correct = rng.random(len(patients)) < skill
        rows = measure({"view": view}, labels, correct, patients, draws=300, seed=seed)
        called += rows[0].p_value <= 0.05

    low, high = stats.binom.ppf([0.001, 0.999], 200, 0.05)
    assert low <= called <= high


# Crossing


def only(strata: Strata) -> CrossedAttribute:
    (crossed,) = strata.attributes
    return crossed


def test_a_gap_that_is_the_stratum_vanishes():
    """Simpson: the feature is mostly AP, and AP is harder; in either view it changes nothing."""
    axes, labels, present, correct = cells(
        ("AP", 0, True, 80, 40), ("AP", 0, False, 20, 10),
        ("PA", 0, True, 20, 18), ("PA", 0, False, 80, 72),
    )  # fmt: skip

    crossed = only(cross(present, axes, labels, correct, lowered=None))

    assert correct[present].mean() - correct[~present].mean() == pytest.approx(-0.24)
    assert [(gap.value, gap.n_present, gap.n_absent) for gap in crossed.raised] == [
        ("AP", 80, 20),
        ("PA", 20, 80),
    ]
    assert [gap.gap for gap in crossed.raised] == pytest.approx([0, 0], abs=1e-12)
    assert crossed.raised_adjusted == pytest.approx(0, abs=1e-12)
    assert not crossed.raised_interval.excludes_zero()
    assert crossed.association == pytest.approx(0.6)
    assert crossed.empty == ()


def test_a_gap_inside_every_stratum_stays():
    """Raised by 0.4 and 0.3 with weights 24 and 24; lowered by 0.5 in both."""
    axes, labels, present, correct = cells(
        ("AP", 0, True, 60, 54), ("AP", 0, False, 40, 20),
        ("PA", 0, True, 40, 36), ("PA", 0, False, 60, 36),
        ("AP", 1, True, 30, 9), ("AP", 1, False, 30, 24),
        ("PA", 1, True, 30, 12), ("PA", 1, False, 30, 27),
    )  # fmt: skip

    strata = cross(present, axes, labels, correct)
    crossed = only(strata)

    assert [gap.gap for gap in crossed.raised] == pytest.approx([0.4, 0.3])
    assert crossed.raised_adjusted == pytest.approx(0.35)
    assert [gap.gap for gap in crossed.lowered] == pytest.approx([-0.5, -0.5])
    assert crossed.lowered_adjusted == pytest.approx(-0.5)
    assert 0.15 < crossed.raised_interval.low < 0.35 < crossed.raised_interval.high < 0.5
    assert -0.7 < crossed.lowered_interval.low < -0.5 < crossed.lowered_interval.high < -0.3
    for gap in (*crossed.raised, *crossed.lowered):
        assert gap.interval.excludes_zero()
        assert gap.interval.low < gap.gap < gap.interval.high
    assert crossed.association == pytest.approx(cramers_v(present, axes["view"]))
    assert strata.label_association == pytest.approx(cramers_v(present, labels))


def test_without_a_lowered_class_only_the_raised_one_is_told():
    axes, labels, present, correct = cells(
        ("AP", 0, True, 10, 9), ("AP", 0, False, 10, 5), ("AP", 1, True, 10, 5)
    )

    crossed = only(cross(present, axes, labels, correct, lowered=None))

    assert crossed.lowered == ()
    assert np.isnan(crossed.lowered_adjusted)
    assert np.isnan([crossed.lowered_interval.low, crossed.lowered_interval.high]).all()
    assert crossed.raised_adjusted == pytest.approx(0.4)
    assert crossed.association == 0  # a single value


def test_empty_arms_are_told_once_a_stratum_and_weigh_nothing():
    axes, labels, present, correct = cells(
        ("AP", 0, True, 20, 20), ("LAT", 0, False, 20, 2), ("LAT", 1, True, 9, 2),
        ("PA", 0, True, 10, 8), ("PA", 0, False, 10, 6),
        ("PA", 1, True, 10, 4), ("PA", 1, False, 10, 6),
    )  # fmt: skip

    crossed = only(cross(present, axes, labels, correct))

    assert crossed.empty == (
        "AP: no film of the raised class without the feature, nor of the lowered class",
        "LAT: no film of the raised class with the feature, nor of the lowered class "
        "without the feature",
    )
    assert crossed.raised_adjusted == pytest.approx(0.2)
    assert crossed.lowered_adjusted == pytest.approx(-0.2)
    for gap in (*crossed.raised[:2], *crossed.lowered[:2]):
        assert np.isnan([gap.gap, gap.interval.low, gap.interval.high]).all()


def test_nothing_to_compare_anywhere_has_no_adjusted_gap():
    axes, labels, present, correct = cells(("AP", 0, True, 10, 8), ("PA", 0, False, 10, 4))

    crossed = only(cross(present, axes, labels, correct, lowered=1))

    assert len(crossed.empty) == 2
    assert np.isnan([crossed.raised_adjusted, crossed.lowered_adjusted]).all()
    assert np.isnan([crossed.raised_interval.low, crossed.raised_interval.high]).all()
    assert crossed.association == 1


def test_films_without_a_class_are_not_crossed():
    axes, labels, present, correct = cells(
        ("AP", 0, True, 20, 15), ("AP", 0, False, 20, 10), ("PA", 1, True, 20, 15),
        ("PA", 1, False, 20, 10), ("AP", -1, True, 90, 0), ("LAT", -1, False, 9, 0),
    )  # fmt: skip
    used = labels >= 0

    strata = cross(present, axes, labels, correct)
    alone = cross(present[used], {"view": axes["view"][used]}, labels[used], correct[used])

    assert strata.label_association == alone.label_association == 0
    assert only(strata).association == only(alone).association == 0
    assert only(strata).raised_adjusted == only(alone).raised_adjusted == 0.25


def test_one_perfect_stratum_has_the_interval_of_its_adjusted_gap():
    """With a single stratum pooling changes nothing, and perfect arms keep width in both."""
    axes, labels, present, correct = cells(("AP", 0, True, 15, 15), ("AP", 0, False, 25, 25))

    crossed = only(cross(present, axes, labels, correct, lowered=None))

    inside, pooled = crossed.raised[0].interval, crossed.raised_interval
    assert crossed.raised_adjusted == crossed.raised[0].gap == 0
    assert inside.low < -0.05 < 0.05 < inside.high
    assert (pooled.low, pooled.high) == pytest.approx((inside.low, inside.high), abs=0.06)


def test_the_films_of_a_patient_count_as_one_look():
    """Every film five times, under one patient: about sqrt(5) times the width of strangers."""
    rng = np.random.default_rng(4)
    view, present = np.repeat(rng.choice(["AP", "PA"], 120), 5), np.repeat(rng.random(120) < 0.5, 5)
    correct, labels = np.repeat(rng.random(120) < 0.6, 5), np.zeros(600, np.int64)

    width = []
    for patients in (np.repeat(np.arange(120), 5), np.arange(600)):
        interval = only(
            cross(present, {"view": view}, labels, correct, None, patients)
        ).raised_interval
        width.append(interval.high - interval.low)

    assert width[0] / width[1] == pytest.approx(np.sqrt(5), rel=0.15)


def test_the_adjusted_interval_covers_the_truth():
    """Eight sites of very different ease; the gap is 0.2 in each of them."""
    covered = []
    for seed in range(200):
        rng = np.random.default_rng([31, seed])
        site = rng.integers(0, 8, size=90)
        patients = np.repeat(np.arange(90), rng.integers(1, 4, size=90))
        site = site[patients]
        present = rng.random(len(patients)) < 0.2 + 0.08 * site
        correct = rng.random(len(patients)) < 0.75 - 0.05 * site + 0.2 * present
        axes = {"site": site.astype(str)}
        labels = np.zeros(len(patients), np.int64)
        interval = only(cross(present, axes, labels, correct, None, patients)).raised_interval
        covered.append(interval.low <= 0.2 <= interval.high)

    assert np.mean(covered) >= 0.91
