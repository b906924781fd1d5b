"""Exchange of patients against every exchange there is, counted one by one."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ravl_med.evidence import permutation
from ravl_med.evidence.permutation import AlikePatients, ExchangeTest

ALTERNATIVES = ("greater", "less", "two-sided")
DRAWS = 4_000


def exchange_patients(present, correct, patients, *, strata=None, **asked) -> ExchangeTest:
    return AlikePatients.of(patients, strata).test(present, correct, **asked)


def every_exchange(
    present: np.ndarray, correct: np.ndarray, patients: np.ndarray, strata: np.ndarray
) -> np.ndarray:
    """Hits among films with the feature under each exchange of alike patients, all of them."""
    kinds: dict[tuple[int, int], list[list[int]]] = {}
    for stratum in sorted(set(strata.tolist())):
        for patient in sorted(set(patients.tolist())):
            films = [
                i for i in range(len(present)) if patients[i] == patient and strata[i] == stratum
            ]
            if films:
                kinds.setdefault((stratum, len(films)), []).append(films)
    hits = np.zeros(1, np.int64)
    for alike in kinds.values():
        own = [
            sum(
                int(present[a] and correct[b])
                for giver, taker in zip(order, alike, strict=True)
                for a, b in zip(giver, taker, strict=True)
            )
            for order in itertools.permutations(alike)
        ]
        hits = (hits[:, None] + np.array(own)).ravel()
    return hits


def p_of(hits: np.ndarray, observed: int, alternative: str) -> float:
    upper, lower = (hits >= observed).mean(), (hits <= observed).mean()
    if alternative == "two-sided":
        return min(1.0, 2 * min(upper, lower))
    return float(upper if alternative == "greater" else lower)


def test_one_film_a_patient_is_fishers_test_by_hand():
    """The lady tasting tea: 3 of 4 cups right. (16 + 1) / 70."""
    present = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    correct = np.array([1, 1, 1, 0, 1, 0, 0, 0], bool)

    def test(alternative):
        return exchange_patients(
            present, correct, np.arange(8), alternative=alternative, draws=99, seed=0
        )

    assert test("greater") == ExchangeTest(pytest.approx(17 / 70), True)
    assert test("less") == ExchangeTest(pytest.approx(69 / 70), True)
    assert test("two-sided") == ExchangeTest(pytest.approx(34 / 70), True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=7))
def test_the_exact_p_counts_every_permutation(films):
    present, correct = np.array(films, bool).T
    patients = np.arange(len(films))[::-1]
    hits = every_exchange(present, correct, patients, np.zeros(len(films), np.int64))
    assert len(hits) == math.factorial(len(films))

    for alternative in ALTERNATIVES:
        test = exchange_patients(
            present, correct, patients, alternative=alternative, draws=99, seed=0
        )

        assert test.exact
        expected = p_of(hits, int((present & correct).sum()), alternative)
        assert test.p_value == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([[2] * 6, [3] * 5, [2, 2, 2, 2, 1, 1, 1], [1, 2, 3, 2, 1, 3], [1, 4]]),
    st.integers(1, 2),
    st.integers(0, 2**32 - 1),
)
def test_the_drawn_p_is_that_of_every_exchange_of_whole_patients(counts, classes, seed):
    rng = np.random.default_rng(seed)
    patients = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    present, correct = rng.random((2, len(patients))) < rng.random((2, 1))
    strata = rng.integers(classes, size=len(patients))
    hits = every_exchange(present, correct, patients, strata)

    for alternative in ALTERNATIVES:
        test = exchange_patients(
            present, correct, patients,
            alternative=alternative, draws=DRAWS, seed=seed, strata=strata,
        )  # fmt: skip

        observed = int((present & correct).sum())
        tails = [p_of(hits, observed, side) for side in ALTERNATIVES[:2]]
        spread = math.sqrt(max(tail * (1 - tail) for tail in tails) / DRAWS)
        sides = 2 if alternative == "two-sided" else 1
        expected = p_of(hits, observed, alternative)
        assert abs(test.p_value - expected) <= sides * (5 * spread + 1 / DRAWS)


def test_a_draw_of_one_film_a_patient_is_hypergeometric_as_well():
    """Two classes of different size: exact in each by itself, drawn together."""
    rng = np.random.default_rng(3)
    present, correct = rng.random((2, 30)) < 0.5
    strata = np.repeat([0, 1], [12, 18])
    tables = [
        stats.hypergeom((strata == s).sum(), correct[strata == s].sum(), present[strata == s].sum())
        for s in (0, 1)
    ]
    observed = (present & correct).sum()
    expected = sum(
        tables[0].pmf(a) * tables[1].pmf(b)
        for a in range(13)
        for b in range(19)
        if a + b >= observed
    )

    test = exchange_patients(
        present, correct, np.arange(30), alternative="greater", draws=40_000, seed=1, strata=strata
    )

    assert not test.exact
    assert test.p_value == pytest.approx(expected, abs=0.012)


def test_patients_are_exchanged_inside_their_class_only():
    """Class 0 holds the feature and is easy, class 1 neither; inside either nothing differs."""
    strata = np.repeat([0, 1], 40)
    present = np.concatenate([np.arange(40) % 4 > 0, np.arange(40) % 4 == 0])
    correct = np.concatenate([np.arange(40) // 4 % 10 > 0, np.arange(40) // 4 % 10 == 0])

    def test(**given):
        return exchange_patients(
            present, correct, np.arange(80), alternative="greater", draws=999, seed=0, **given
        ).p_value

    assert test() < 1e-3
    assert test(strata=strata) > 0.4


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize(
    ("present", "correct"),
    [
        ([], []),
        ([1], [1]),
        ([1, 1, 1, 1], [1, 0, 1, 0]),
        ([0, 0, 0, 0], [1, 0, 1, 0]),
        ([1, 0, 1, 0], [1, 1, 1, 1]),
        ([1, 0, 1, 0], [0, 0, 0, 0]),
    ],
)
def test_without_anything_to_exchange_p_is_1(present, correct, alternative):
    test = exchange_patients(
        np.array(present, bool), np.array(correct, bool), np.arange(len(present)) // 2,
        alternative=alternative, draws=99, seed=0,
    )  # fmt: skip

    assert test == ExchangeTest(1.0, True)


@pytest.mark.parametrize("patients", [[0, 0, 0, 0, 0, 0], [0, 1, 1, 2, 2, 2]])
def test_patients_without_an_equal_exchange_nothing(patients):
    """One patient, or patients with one, two and three films."""
    present = np.array([1, 1, 0, 1, 0, 0], bool)

    test = exchange_patients(
        present, present, np.array(patients), alternative="greater", draws=99, seed=0
    )

    assert test == ExchangeTest(1.0, False)


def test_alike_films_of_a_patient_are_no_more_than_one():
    """Four of eight patients with the feature, right throughout: 1 / 70, however many films."""
    patients = np.repeat(np.arange(8), 5)
    trait = patients < 4

    test = exchange_patients(trait, trait, patients, alternative="greater", draws=20_000, seed=0)

    assert not test.exact
    assert test.p_value == pytest.approx(1 / 70, abs=0.004)


@pytest.mark.parametrize("films", [62, 63, 70])
def test_patients_with_very_many_films(films):
    """Six patients; the last film alone tells the patterns of three of them apart."""
    rng = np.random.default_rng(films)
    present, correct = (np.tile(rng.random(films) < 0.5, (6, 1)) for _ in range(2))
    present[:, -1] = [1, 1, 1, 0, 0, 0]
    correct[:, -1] = [1, 1, 0, 1, 0, 0]
    patients = np.repeat(np.arange(6), films)

    test = exchange_patients(
        present.ravel(), correct.ravel(), patients, alternative="greater", draws=20_000, seed=0
    )

    # Two hits or more of three among three of six: (9 + 1) / 20.
    assert test.p_value == pytest.approx(0.5, abs=0.015)


def test_a_drawn_p_is_never_zero():
    patients = np.repeat(np.arange(40), 2)
    trait = patients < 20

    test = exchange_patients(trait, trait, patients, alternative="greater", draws=199, seed=0)

    assert test.p_value == 1 / 200


def test_an_exact_p_may_be_far_below_one_in_the_draws():
    trait = np.arange(60) < 30

    test = exchange_patients(trait, trait, np.arange(60), alternative="greater", draws=99, seed=0)

    assert test.p_value == pytest.approx(1 / math.comb(60, 30), rel=1e-6)


def test_the_same_seed_gives_the_same_p(monkeypatch):
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), rng.integers(1, 4, size=40))
    present, correct = rng.random((2, len(patients))) < 0.5

    def p(seed):
        return exchange_patients(
            present, correct, patients, alternative="greater", draws=2_000, seed=seed
        ).p_value

    one = p((3, 1))
    assert p((3, 1)) == one
    assert p((3, 2)) != one
    monkeypatch.setattr("ravl_med.evidence.permutation._CELLS_AT_ONCE", 1)  # a table at a time
    assert p((3, 1)) == pytest.approx(one, abs=0.05)


def test_patient_traits_do_not_make_a_finding():
    """The feature is a trait, and most patients are right, or wrong, on all of their films."""
    runs, rng = 300, np.random.default_rng(6)
    by_patient = by_film = 0
    for seed in range(runs):
        films = rng.integers(2, 7, size=60)
        patients = np.repeat(np.arange(60), films)
        trait = (rng.random(60) < 0.5)[patients]
        correct = rng.random(len(patients)) < rng.beta(0.2, 0.1, size=60)[patients]

        def rejects(who, seed=seed, trait=trait, correct=correct):
            test = exchange_patients(
                trait, correct, who, alternative="greater", draws=199, seed=seed
            )
            return test.p_value <= 0.05

        by_patient += rejects(patients)
        by_film += rejects(np.arange(len(patients)))

    plausible = stats.binom.ppf(0.999, runs, 0.05)
    assert by_patient <= plausible
    assert by_film > 1.5 * plausible


@pytest.mark.parametrize("at_once", [1, 7, 40, 1_000])
@pytest.mark.parametrize("silent", [0.0, 0.5])
def test_patients_that_are_shuffled_make_the_tables_of_boyett(at_once, silent):
    """Twelve films a patient: nearly every pattern is one of its own."""
    rng = np.random.default_rng(8)
    present, correct = rng.random((2, 150, 12)) < 0.5
    present[rng.random(150) < silent] = False
    shown, made = permutation._patterns(present), permutation._patterns(correct)
    assert len(shown.counts) * len(made.counts) > 5_000

    one, other = np.random.default_rng(3), np.random.default_rng(3)
    tables = permutation._from_tables(shown, made, 40, at_once, one, "boyett")
    shuffled = permutation._from_shuffles(shown, made, 40, at_once, other)

    np.testing.assert_array_equal(shuffled, tables)
    assert one.random() == other.random()  # and took the same numbers


def test_whichever_way_hits_are_drawn_p_is_the_same(monkeypatch):
    rng = np.random.default_rng(5)
    patients = np.repeat(np.arange(200), rng.geometric(1 / 6, size=200))
    present, correct = rng.random((2, len(patients))) < 0.4
    strata = rng.integers(2, size=len(patients))

    def p() -> float:
        return exchange_patients(
            present, correct, patients, alternative="less", draws=499, seed=2, strata=strata
        ).p_value

    shuffled = p()
    monkeypatch.setattr(permutation, "_TABLE_CELLS", 10**9)  # a table, however many its cells
    assert p() == shuffled


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("gap", [0.5, -0.5, 0.15, -0.15, 0.0])
def test_draws_that_cannot_matter_are_left_out(monkeypatch, gap, alternative):
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(2_500), rng.geometric(1 / 4, size=2_500))
    present = (rng.random(2_500) < 0.3)[patients]
    correct = rng.random(len(patients)) < 0.5 + gap * (present - 0.5)
    alike = AlikePatients.of(patients, patients % 2)

    def test() -> ExchangeTest:
        return alike.test(present, correct, alternative=alternative, draws=199, seed=0)

    quick = test()
    drawn = 0

    def draw(*given):
        nonlocal drawn
        drawn += 1
        return honest(*given)

    honest = permutation._draw_hits
    monkeypatch.setattr(permutation, "_draw_hits", draw)
    assert test() == quick
    assert (drawn == 0) == (abs(gap) > 0.1)
    monkeypatch.setattr(permutation, "_CERTAIN", np.inf)
    assert test() == quick


def test_mean_and_variance_under_exchange_are_those_of_the_draws():
    rng = np.random.default_rng(2)
    present, correct = rng.random((2, 40, 5)) < 0.4
    mean, variance, above, below = permutation._spread(present, correct)
    drawn = permutation._draw_hits(present, correct, 40_000, np.random.default_rng(0))
    assert mean == pytest.approx(drawn.mean(), abs=0.05)
    assert variance == pytest.approx(drawn.var(), rel=0.05)
    hits = (present[:, None] & correct).sum(axis=2)
    swap = hits - hits.mean(axis=0) - hits.mean(axis=1, keepdims=True) + hits.mean()
    assert above >= swap.max() - 1e-9
    assert below >= -swap.min() - 1e-9
