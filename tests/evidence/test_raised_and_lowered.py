"""Both sides of a candidate, by hand and against the exchange of patients."""

import math

import numpy as np
import pytest
from scipy import stats

from ravl_med.evidence.confirmation import RaisedLoweredFilms, raised_and_lowered_test
from ravl_med.evidence.permutation import AlikePatients


def fisher(hits_with: int, films_with: int, hits: int, films: int) -> float:
    """Chance of so many hits or more among the films with the feature."""
    return float(stats.hypergeom(films, hits, films_with).sf(hits_with - 1))


def stouffer(*p: float) -> float:
    normal = stats.norm
    return float(normal.sf(sum(normal.isf(value) for value in p) / math.sqrt(len(p))))


def test_lowered_classes_are_tested_together_each_by_itself(films_of, cluster_of, data_of):
    """Two lowered classes: hits are counted over both, exchanged inside either."""
    found = ((0, True, 9, 9), (0, False, 9, 0), (1, True, 9, 0), (1, False, 9, 9),
             (2, True, 9, 0), (2, False, 9, 9))  # fmt: skip
    tested = ((0, True, 9, 7), (0, False, 9, 4), (1, True, 4, 1), (1, False, 8, 5),
              (2, True, 6, 2), (2, False, 7, 3))  # fmt: skip
    films = films_of(*found, *tested)
    half = np.arange(len(films[0])) < 54
    cluster = cluster_of(*films, classes=3, films=half)
    assert cluster.opposed_classes == (1, 2)
    data = data_of(*films[1:], ("a", "b", "c"))

    side = raised_and_lowered_test(data, cluster, ~half, 5, 40_000, (1,))

    tables = stats.hypergeom(12, 6, 4), stats.hypergeom(13, 5, 6)
    lowered = sum(
        tables[0].pmf(a) * tables[1].pmf(b) for a in range(5) for b in range(7) if a + b <= 3
    )
    assert side.p_lowered == pytest.approx(lowered, abs=0.01)
    assert side.p_raised == pytest.approx(fisher(7, 9, 11, 18))
    assert side.p_value == pytest.approx(stouffer(side.p_raised, side.p_lowered))
    assert not side.exact


def test_a_patient_with_films_of_both_classes_is_taken_into_one_side(cluster_of, data_of):
    """Patient 90 has two films of the raised class and one of the lowered, 91 one of either, 92
    one and three."""
    labels = np.array([0] * 12 + [1] * 12 + [0, 0, 1] + [0, 1] + [0, 1, 1, 1])
    patients = np.array([*range(24), *[90] * 3, *[91] * 2, *[92] * 4])
    rng = np.random.default_rng(2)
    present, correct = rng.random((2, len(labels))) < 0.5
    cluster = cluster_of(present, labels, correct, raised_class=0, opposed_classes=(1,))
    data = data_of(labels, correct, patients=patients)

    side = raised_and_lowered_test(data, cluster, np.ones(len(labels), bool), 1, 999, (5,))

    for p, rows, alternative, seed in (
        (side.p_raised, [*range(12), 24, 25, 27], "greater", (5, 0)),
        (side.p_lowered, [*range(12, 24), 30, 31, 32], "less", (5, 1)),
    ):
        test = AlikePatients.of(patients[rows]).test(
            present[rows], correct[rows], alternative=alternative, draws=999, seed=seed
        )
        assert p == test.p_value
        assert 0 < p < 1


def test_films_outside_the_test_and_of_other_classes_do_not_matter(cluster_of, data_of):
    rng = np.random.default_rng(2)
    labels, patients = np.arange(90) % 3, np.arange(90)
    present, correct = rng.random((2, 90)) < 0.5
    films = patients < 60
    cluster = cluster_of(present, labels, correct, classes=3, raised_class=0, opposed_classes=(1,))
    noise = ~films | (labels == 2)

    first, second = (
        raised_and_lowered_test(data_of(labels, hits, "abc"), cluster, films, 5, 99, (0,))
        for hits in (correct, correct ^ noise)
    )

    assert first == second


def test_a_p_below_every_number_does_not_meet_one_of_1(films_of, cluster_of, data_of):
    """Raised class right throughout (p 1), lowered turned round on 4,000 films (p underflows)."""
    tested = ((0, True, 2000, 2000), (0, False, 2000, 2000), (1, True, 2000, 0),
              (1, False, 2000, 2000))  # fmt: skip
    films = films_of(*tested)
    cluster = cluster_of(*films, raised_class=0, opposed_classes=(1,))

    side = raised_and_lowered_test(data_of(*films[1:]), cluster, np.ones(8000, bool), 5, 99, (0,))

    assert (side.p_raised, side.p_lowered) == (1, 0)
    assert side.p_value == 1


def test_films_that_were_parted_once_serve_every_candidate_of_these_classes(cluster_of, data_of):
    rng = np.random.default_rng(4)
    labels, patients = rng.integers(3, size=300), rng.integers(90, size=300)
    films = patients < 60
    parted = RaisedLoweredFilms.of(0, (1, 2), labels, patients, films)
    for seed in range(3):
        present, correct = rng.random((2, 300)) < 0.5
        cluster = cluster_of(
            present, labels, correct, classes=3, raised_class=0, opposed_classes=(1, 2)
        )
        data = data_of(labels, correct, "abc", patients=patients)
        alone = raised_and_lowered_test(data, cluster, films, 5, 99, (seed,))
        assert parted.test(present, correct, 5, 99, (seed,)) == alone
        assert not alone.exact


def test_opposed_classes_without_films_are_told_from_none(cluster_of, data_of):
    labels, patients = np.zeros(40, np.int64), np.arange(40)
    films = np.ones(40, bool)
    flags = np.arange(40) % 2 == 0
    none = RaisedLoweredFilms.of(0, (), labels, patients, films).test(flags, ~flags, 5, 99, (0,))
    empty = RaisedLoweredFilms.of(0, (1,), labels, patients, films).test(flags, ~flags, 5, 99, (0,))
    assert none.untested == ("no lowered class has enough films on the half it was chosen on",)
    assert empty.untested[0].startswith("the lowered side has fewer than 5 films")
    assert none.p_value == none.p_raised == empty.p_raised
