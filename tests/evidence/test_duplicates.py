"""What is one correlation, and which of them is shown."""

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ravl_med.evidence.confirmation import Candidate
from ravl_med.evidence.duplicates import fold_candidates, fold_places, fold_tested
from ravl_med.evidence.results import (
    AccuracyByPresence,
    Confirmation,
    Interval,
    PairedChange,
    ScoreShift,
)

NOTHING = Interval(math.nan, math.nan)
NO_ARMS = AccuracyByPresence(*(np.empty(0),) * 4, (), (), (), math.nan, NOTHING)
NO_SHIFT = ScoreShift(math.nan, NOTHING, math.nan, NOTHING)
FILMS = np.ones(20, bool)


@pytest.fixture
def tested(cluster_of):
    def make(number, regions, p=0.01, *, status="confirmed", raised=0, gap=1.0):
        cluster = cluster_of(
            FILMS, np.zeros(20, int), FILMS, regions=regions,
            cluster=number, raised_class=raised, performance_gap=gap,
        )  # fmt: skip
        outcome = Confirmation(status, (), 20, 20, p, p, p, p, True, NO_ARMS, NO_SHIFT)
        return Candidate(cluster, FILMS), outcome, ()

    return make


@pytest.fixture
def found(cluster_of):
    def make(number, regions, strength=3.0, *, raised=0, swapped=False, gap=1.0):
        cluster = cluster_of(
            FILMS, np.zeros(20, int), FILMS, regions=regions,
            cluster=number, raised_class=raised, performance_gap=gap, strength=strength,
        )  # fmt: skip
        return Candidate(cluster, FILMS, swapped)

    return make


def kept(candidates: Sequence) -> list[tuple[int, tuple[int, ...]]]:
    return [(c.cluster.cluster, also) for c, also in fold_candidates(candidates)]


def shown(entries: Sequence) -> list[tuple[int, tuple[int, ...]]]:
    return [(c.cluster.cluster, also) for c, _, also in fold_tested(entries)]


def test_half_of_the_smaller_cluster_is_enough(tested):
    large = tested(0, range(10), 0.001)

    assert shown([large, tested(1, [8, 9, 10, 11])]) == [(0, (1,))]
    assert shown([large, tested(1, [9, 10, 11])]) == [(0, ()), (1, ())]
    assert shown([large, tested(1, [])]) == [(0, ()), (1, ())]


def test_the_smaller_p_is_shown_whichever_comes_first(tested):
    large, small = tested(0, range(10), 0.02), tested(1, range(3), 0.001)

    for entries in ([large, small], [small, large]):
        assert shown(entries) == [(1, (0,))]
        ((candidate, outcome, _),) = fold_tested(entries)
        assert candidate is small[0]
        assert outcome is small[1]


@pytest.mark.parametrize(
    "other",
    [{"status": "raised_only"}, {"raised": 1}],
    ids=lambda change: next(iter(change)),
)
def test_another_outcome_or_class_is_another_correlation(tested, other):
    entries = [tested(0, range(10), 0.001), tested(1, range(10), 0.002, **other)]

    assert shown(entries) == [(0, ()), (1, ())]


def test_everything_is_sorted_by_p_then_gap_and_untested_last(tested):
    entries = [
        tested(0, [0], math.nan, status="not_tested"),
        tested(1, [1], 1.0, status="not_confirmed"),
        tested(2, [2], 0.01, gap=0.5),
        tested(3, [3], 0.01, gap=0.8),
        tested(4, [4], 0.001, gap=0.1),
    ]

    assert [number for number, _ in shown(entries)] == [4, 3, 2, 1, 0]


def test_a_chain_is_folded_into_what_is_shown_only(tested):
    """0 shares with 1, 1 with 2, 0 and 2 nothing: 2 is not shown as 0."""
    entries = [
        tested(0, [0, 1, 2, 3], 0.001),
        tested(1, [2, 3, 4, 5], 0.002),
        tested(2, [4, 5, 6, 7], 0.003),
        tested(3, [0, 1, 6, 7], 0.004),  # alike to 0 and to 2: to the better one
    ]

    assert shown(entries) == [(0, (1, 3)), (2, ())]


def test_untested_ones_are_folded_too_and_nothing_is_nothing(tested):
    entries = [tested(k, range(5), math.nan, status="not_tested") for k in range(3)]

    assert shown(entries) == [(0, (1, 2))]
    assert shown([]) == []


def test_what_an_entry_held_goes_along(tested):
    (first, outcome, _), (second, other, _) = tested(0, range(5), 0.001), tested(1, range(5), 0.01)

    assert shown([(first, outcome, (4,)), (second, other, (7, 4))]) == [(0, (4, 1, 7))]


def test_the_strongest_candidate_stands_for_its_copies(found):
    weak, strong = found(0, range(10), 2.0), found(1, range(3), 5.0)

    for candidates in ([weak, strong], [strong, weak]):
        assert kept(candidates) == [(1, (0,))]
    assert kept([]) == []


def test_equals_go_by_their_gap(found):
    assert kept([found(0, range(5), gap=0.5), found(1, range(5), gap=0.9)]) == [(1, (0,))]


@pytest.mark.parametrize(
    "other", [{"raised": 1}, {"swapped": True}], ids=lambda change: next(iter(change))
)
def test_another_class_or_half_is_another_candidate(found, other):
    assert kept([found(0, range(5), 5.0), found(1, range(5), 4.0, **other)]) == [(0, ()), (1, ())]


def test_half_of_the_smaller_candidate_is_enough(found):
    large = found(0, range(10), 5.0)

    assert kept([large, found(1, [8, 9, 10, 11])]) == [(0, (1,))]
    assert kept([large, found(1, [9, 10, 11])]) == [(0, ()), (1, ())]
    assert kept([large, found(1, [])]) == [(0, ()), (1, ())]


def test_what_effects_propose_is_not_folded_by_its_regions(found):
    """A group of strong regions and a place may share regions; effects say which is surer."""
    first, second, third = (found(n, [1, 2, 3], 5.0 - n) for n in range(3))
    first, second = (replace(c, cluster=replace(c.cluster, source="effects"))
                     for c in (first, second))  # fmt: skip

    assert kept([first, second, third]) == [(0, ()), (1, ()), (2, ())]


def test_a_naive_walk_keeps_the_same(found):
    rng = np.random.default_rng(0)
    candidates = [
        found(k, np.sort(rng.choice(40, size=rng.integers(1, 12), replace=False)), float(s))
        for k, s in enumerate(rng.permutation(30))
    ]
    walk: list = []
    for c in sorted(candidates, key=lambda c: -c.cluster.strength):
        own = set(c.cluster.regions.tolist())
        alike = [
            entry for entry in walk
            if len(own & entry[1]) >= 0.5 * min(len(own), len(entry[1]))
        ]  # fmt: skip
        if alike:
            alike[0][2].append(c.cluster.cluster)
        else:
            walk.append((c.cluster.cluster, own, []))

    assert kept(candidates) == [(number, tuple(also)) for number, _, also in walk]
    assert 1 < len(walk) < 30


MOVED = np.array([3.0, 1.0, -1.0, -3.0])  # what the place of the surest does to four films


def explored(
    contrast, x=0.0, films=range(10), width=1.0, present=MOVED, moved=MOVED, along=0.0, step=0.0
):
    """A feature that has its effect, so large, in a box that begins at x on so many films.

    On each film it lies a step further to the right.
    """
    change = contrast and PairedChange(
        20, 20, contrast, NOTHING, 0.0, contrast,
        Interval(contrast - width / 2, contrast + width / 2), 0.1, NOTHING, 0.001,
    )  # fmt: skip
    left = {film: x + step * film for film in films}
    places = {film: np.array([at, 0, at + 10, 10], np.float32) for film, at in left.items()}
    known = {"present": np.array(present), "moved": moved, "along": along}
    return SimpleNamespace(change=change, places=places, **known)


def hosts(*features, raised=None, worth=None, shown=()):
    classes = [0] * len(features) if raised is None else raised
    asked = [True] * len(features) if worth is None else worth
    return fold_places(list(zip(classes, features, strict=True)), asked, shown)


def test_one_class_and_place_is_one_claim_and_the_surest_effect_stands_for_it():
    assert hosts(explored(0.3), explored(0.9, x=2), explored(0.5, x=4)) == [1, 1, 1]
    assert hosts(explored(0.9), explored(0.9, x=2)) == [0, 0]  # equals: the first


def test_an_effect_is_the_surer_the_narrower_its_interval_is():
    assert hosts(explored(0.9, width=3.0), explored(0.5)) == [1, 1]
    assert hosts(explored(0.9, width=1.5), explored(0.5)) == [0, 0]


def test_of_one_claim_the_feature_stands_for_all_that_tells_best_where_its_place_does_something():
    surest = explored(0.9, present=[1, -1, 1, -1])
    better, worse = explored(0.5, present=[1, 1, -1, -1]), explored(0.6, present=[-1, 1, -1, 1])
    assert hosts(surest, worse, better) == [2, 2, 2]
    assert hosts(surest, worse) == [0, 0]
    assert hosts(surest, explored(0.5, present=[2, -2, 2, -2])) == [0, 0]  # as good: the surest
    assert hosts(surest, replace_moved(better)) == [1, 1]  # by what the surest's place does
    assert hosts(explored(0.9, present=[0] * 4), explored(0.5)) == [1, 1]  # it is on all or none


@pytest.mark.parametrize(
    ("gaps", "host"),
    [((), [0, 0, 0, 0]), ((0, 2), [0, 0, 0, 0]), ((2,), [0, 0, 2, 0]), ((2, 3), [0, 0, 0, 3])],
)
def test_what_has_gaps_stands_beside_what_has_none(gaps, host):
    """A coin in the place of a disease: the disease says better where that place does something."""
    surest = explored(0.9, present=[1, 1, -1, -1])
    others = [explored(size, present=[1, -1, 1, 0]) for size in (0.4, 0.5, 0.6)]

    assert hosts(surest, *others, shown=gaps) == host


@pytest.mark.parametrize(("step", "host"), [(1.0, 0), (2.0, 1)])
def test_what_lies_anywhere_is_told_best_by_what_other_classes_are_called(step, host):
    """Over ten films places that lie 1 apart share 0.67 of one another on average, 2 apart 0.45."""
    surest = explored(0.9, step=step, along=0.1)
    other = explored(0.5, step=step, present=[1, -1, 1, -1], along=0.6)

    assert hosts(surest, other) == [host, host]
    parts = (SimpleNamespace(**vars(one) | {"along": None}) for one in (surest, other))
    assert hosts(*parts) == [0, 0]


def replace_moved(feature):
    return SimpleNamespace(**{**vars(feature), "moved": -MOVED})


def test_half_of_the_smaller_place_is_enough():
    assert hosts(explored(0.9), explored(0.3, x=5)) == [0, 0]
    assert hosts(explored(0.9), explored(0.3, x=5.1)) == [0, 1]


@pytest.mark.parametrize(("shared", "host"), [(5, 0), (4, 1)])
def test_a_place_on_fewer_than_five_shared_films_says_nothing(shared, host):
    second = explored(0.3, films=range(10 - shared, 20))

    assert hosts(explored(0.9), second) == [0, host]


def test_another_class_in_the_same_place_is_another_claim():
    assert hosts(explored(0.9), explored(0.3), raised=[0, 1]) == [0, 1]


def test_what_is_not_worth_a_test_stands_alone_and_for_nobody():
    assert hosts(explored(0.9), explored(0.3), worth=[False, True]) == [0, 1]
    assert hosts(explored(0.9), explored(0.3), worth=[True, False]) == [0, 1]


def test_without_a_measured_effect_another_stands_for_it():
    assert hosts(explored(None), explored(0.1)) == [1, 1]
    assert hosts() == []


def test_a_chain_of_places_is_folded_into_what_stands_only():
    """0 shares with 1, 1 with 2, 0 and 2 nothing: 2 stands by itself."""
    assert hosts(explored(0.9), explored(0.5, x=5), explored(0.3, x=10)) == [0, 0, 2]
