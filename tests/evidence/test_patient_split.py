"""Two halves: nobody on both, alike in classes and films."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravl_med.evidence.confirmation import count_untested, split_patients


@st.composite
def cohorts(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    patients, most = draw(st.integers(1, 80)), draw(st.integers(1, 5))
    who = rng.permutation(np.repeat(np.arange(patients), rng.integers(1, most + 1, size=patients)))
    own = rng.integers(-1, draw(st.integers(1, 4)), size=patients)[who]
    other = rng.integers(-1, 3, size=len(who))
    labels = np.where(rng.random(len(who)) < draw(st.sampled_from([0, 0.3])), other, own)
    return who, labels, draw(st.sampled_from([0.2, 0.5, 0.7])), draw(st.integers(0, 1000))


@settings(max_examples=200, deadline=None)
@given(cohorts())
def test_nobody_is_on_both_halves_and_the_halves_are_alike(cohort):
    patients, labels, share, seed = cohort
    count = int(patients.max()) + 1

    half = split_patients(patients, labels, share, seed)

    for patient in range(count):
        assert len(set(half[patients == patient].tolist())) == 1
    taken = np.array([half[patients == p][0] for p in range(count)])
    assert abs(taken.sum() - share * count) < 1 + 1e-9
    # The class with most films of a patient, the smallest in a tie; and the number of films.
    names = np.unique(labels)
    kinds = [
        (max(names, key=lambda y, p=p: ((labels[patients == p] == y).sum(), -y)),
         int((patients == p).sum()))
        for p in range(count)
    ]  # fmt: skip
    for kind in set(kinds):
        group = np.array([k == kind for k in kinds])
        assert abs(taken[group].sum() - share * group.sum()) < 1 + 1e-9
    for name in names:
        group = np.array([k[0] == name for k in kinds])
        assert abs(taken[group].sum() - share * group.sum()) < 1 + 1e-9
    np.testing.assert_array_equal(split_patients(patients, labels, share, seed), half)


def test_another_seed_deals_other_patients():
    patients, labels = np.arange(60), np.arange(60) % 2

    halves = {split_patients(patients, labels, 0.5, seed).tobytes() for seed in range(5)}

    assert len(halves) == 5


def test_every_patient_comes_up_as_often_as_the_share_says():
    """Among alike patients and for a single one, over seeds."""
    patients, labels = np.array([0, 1, 2, 2, 3]), np.array([0, 0, 1, 1, 0])

    taken = np.mean([split_patients(patients, labels, 0.3, seed) for seed in range(1500)], axis=0)

    np.testing.assert_allclose(taken, 0.3, atol=0.05)
    assert taken[2] == taken[3]


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_one_patient_is_on_one_half(share):
    halves = [split_patients(np.zeros(7, np.int64), np.arange(7) % 2, share, s) for s in range(40)]

    assert all(len(set(half.tolist())) == 1 for half in halves)
    assert {0.01: 0, 0.5: 20, 0.99: 40}[share] == pytest.approx(
        sum(half[0] for half in halves), abs=8
    )


def test_no_film_is_on_no_half():
    assert split_patients(np.empty(0, np.int64), np.empty(0, np.int64), 0.5, 0).shape == (0,)


def test_clusters_that_no_test_can_reach_are_counted_by_reason(data_of):
    """12 films of either class, six on each half; two films are asked for in the smaller arm."""
    labels = np.repeat([0, 1], 12)
    half = np.tile([True, False], 12)
    number = np.tile(np.repeat(np.arange(6), 2), 2)  # 0 .. 5 within class and half

    def films(zero, one=None, on=half | ~half):
        """The first so many films of each class and half."""
        return (number < np.where(labels == 0, zero, zero if one is None else one)) & on

    reachable = [films(2), films(3), films(4), films(2, 4)]
    present = np.column_stack(
        [
            *reachable,
            films(6),  # in every film
            films(0),  # in no film
            films(1),  # too few with it
            films(3, 1),  # too few with it in one class of two
            films(3, on=half),  # nowhere on the other half
            films(5),  # too few without it
            films(3, 6) | films(6, 0),  # class 0 throughout, class 1 throughout
        ]
    )

    untested = count_untested(data_of(labels, labels == 0), present, half, 2)

    few = "films {} the feature in all but one class, on a half"
    assert untested == {
        "in every film": 2,
        "in no film": 1,
        f"fewer than 2 {few.format('with')}": 3,
        f"fewer than 2 {few.format('without')}": 1,
    }
    assert count_untested(data_of(labels, labels == 0), present[:, :4], half, 2) == {}


def test_two_classes_of_three_are_enough(data_of):
    labels = np.repeat([0, 1, 2], 8)
    half = np.tile([True, False], 12)
    present = np.column_stack([np.arange(24) % 8 < 4] * 2)
    present[labels == 2, 0] = False
    present[labels > 0, 1] = False

    untested = count_untested(data_of(labels, labels == 0, ("a", "b", "c")), present, half, 2)

    assert untested == {"fewer than 2 films with the feature in all but one class, on a half": 1}


def test_films_without_a_label_do_not_reach_a_cluster(data_of):
    labels = np.repeat([0, 1], 8)
    half = np.tile([True, False], 8)
    present = (np.arange(16) % 8 < 4)[:, None]
    hidden = np.where(present[:, 0] & (labels == 1), -1, labels)

    assert count_untested(data_of(labels, labels == 0), present, half, 2) == {}
    assert sum(count_untested(data_of(hidden, labels == 0), present, half, 2).values()) == 1
    nobody = count_untested(data_of(labels - 5, labels == 0), present, half, 2)
    assert nobody == {"in no film": 1}
