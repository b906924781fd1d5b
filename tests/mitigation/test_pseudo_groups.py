"""Pseudo-groups by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.mitigation.spurious_regions import PseudoGroups, sampling_weights, select_by_groups

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, -1])
PRESENT = np.array([True, True, True, False, False, False, True, True])


def groups() -> PseudoGroups:
    return PseudoGroups.cross(LABELS, PRESENT, ("a", "b"))


def test_class_by_presence() -> None:
    assert groups().names == (
        "a, without the feature", "a, with the feature",
        "b, without the feature", "b, with the feature",
    )  # fmt: skip
    assert groups().of_film.tolist() == [1, 1, 1, 0, 2, 2, 3, -1]
    assert groups().sizes().tolist() == [1, 3, 2, 1]


def test_small_groups_are_joined() -> None:
    pooled = groups().pooled(2)
    assert pooled.of_film.tolist() == [1, 1, 1, 0, 2, 2, 0, -1]
    assert pooled.names[0] == "a, without the feature + b, with the feature"
    used = pooled.used()
    assert used.sizes().tolist() == [2, 3, 2]
    assert len(used.names) == 3
    assert groups().pooled(1) is not None
    assert groups().pooled(1).of_film.tolist() == groups().of_film.tolist()


def test_a_pool_that_is_still_small_joins_the_smallest_other_group() -> None:
    pooled = groups().pooled(3).used()  # 1 + 1 + 2 = 4 films in the pool
    assert sorted(pooled.sizes().tolist()) == [3, 4]
    labels = np.repeat([0, 0, 1], [1, 9, 5])
    present = np.arange(15) == 0
    pooled = PseudoGroups.cross(labels, present, ("a", "b")).pooled(3).used()
    assert sorted(pooled.sizes().tolist()) == [6, 9]  # the single film went to b, not to a


def test_groups_are_drawn_alike() -> None:
    weights = sampling_weights(groups())
    assert weights.sum() == pytest.approx(1.0)
    known = groups().of_film
    shares = [weights[known == g].sum() for g in range(4)]
    assert shares == pytest.approx([shares[0]] * 4)
    assert weights[-1] == pytest.approx(weights[:-1].mean())
    nobody = PseudoGroups.cross(np.full(3, -1), np.zeros(3, dtype=bool), ("a", "b"))
    assert sampling_weights(nobody).tolist() == pytest.approx([1 / 3] * 3)


def test_the_worst_group_decides() -> None:
    correct = np.array([True, True, False, True, True, False, True, False])
    chosen = select_by_groups(groups(), correct)
    assert chosen.worst_group == pytest.approx(0.5)
    assert chosen.overall == pytest.approx(5 / 7)  # the film without a class takes no part
    assert np.isnan(
        PseudoGroups.cross(LABELS[:4], PRESENT[:4], ("a", "b")).accuracy(correct[:4])[2]
    )


def test_a_group_without_films_is_not_joined_and_a_single_film_counts() -> None:
    mixed = PseudoGroups.cross(
        np.array([0, 0, 0, 1, 1]), np.array([True, True, True, True, False]), ("a", "b")
    )
    assert mixed.pooled(2).names == (
        "a, without the feature", "a, with the feature",
        "b, without the feature + b, with the feature", "b, with the feature",
    )  # fmt: skip
    assert mixed.accuracy(np.array([True, True, False, True, False])).tolist() == pytest.approx(
        [np.nan, 2 / 3, 0.0, 1.0], nan_ok=True
    )


def test_a_pool_joins_a_group_that_is_just_large_enough() -> None:
    labels = np.repeat([0, 0, 1], [1, 3, 5])
    pooled = PseudoGroups.cross(labels, np.arange(9) == 0, ("a", "b")).pooled(3).used()
    assert sorted(pooled.sizes().tolist()) == [4, 5]


@given(
    st.lists(st.tuples(st.integers(-1, 2), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 12),
)
def test_no_pooled_group_is_small_but_where_all_films_are_few(
    films: list[tuple[int, bool]], least: int
) -> None:
    labels, present = (np.array(column) for column in zip(*films, strict=True))
    plain = PseudoGroups.cross(labels, present, ("a", "b", "c"))
    joined = plain.pooled(least).used()
    known = int((labels >= 0).sum())
    assert joined.sizes().sum() == known
    assert ((joined.of_film < 0) == (labels < 0)).all()
    assert len(joined.names) == len(joined.sizes())
    if known >= least:
        assert (joined.sizes() >= least).all()
    else:
        assert len(joined.names) == (known > 0)
    for group in range(len(plain.names)):  # groups are joined, never cut
        assert len(set(joined.of_film[plain.of_film == group])) <= 1
