"""What travels with a feature is found class by class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ravl_med.mitigation.spurious_regions import find_co_occurring

FILMS = 600


def films(
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_], np.random.Generator]:
    """Classes; a feature that is mostly on films of class 0; six clusters without any order."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, FILMS)
    present = rng.random(FILMS) < np.where(labels == 0, 0.9, 0.2)
    return labels, present, rng.random((FILMS, 6)) < 0.4, rng


@pytest.mark.parametrize("seed", range(5))
def test_what_goes_with_the_feature_is_found_and_what_goes_with_the_class_is_not(seed: int) -> None:
    labels, present, holds, rng = films(seed)
    holds[:, 1] = present & (rng.random(FILMS) < 0.8)  # a lead
    holds[:, 3] = rng.random(FILMS) < np.where(labels == 0, 0.9, 0.1)  # the finding
    holds[:, 4] = present  # the feature's own
    holds[:, 5] &= ~present  # what it hides
    assert find_co_occurring(holds, present, labels, 0.15).tolist() == [1, 4]
    assert find_co_occurring(holds, present, labels, 0.9).tolist() == [4]
    assert find_co_occurring(holds, present, labels, 1.0).tolist() == []


def test_few_clusters_are_taken_where_nothing_travels_along() -> None:
    taken = 0
    for seed in range(200):
        labels, present, holds, _ = films(seed)
        taken += len(find_co_occurring(holds, present, labels, 0.0)) > 0
    assert taken <= 20  # 5 % of 200, all clusters together


@pytest.mark.parametrize("case", ["all", "none", "one with each class", "no class"])
def test_without_films_to_compare_nothing_is_taken(case: str) -> None:
    labels, present, holds, _ = films(0)
    holds[:, 0] = present
    if case == "all":
        present[:] = True
    elif case == "none":
        present[:] = False
    elif case == "one with each class":
        present = labels == 0
        holds[:, 0] = present
    else:
        labels[:] = -1
    assert len(find_co_occurring(holds, present, labels, 0.1)) == 0


@given(st.integers(0, 10_000))
def test_the_rise_is_that_of_the_naive_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 3, 300)
    present = rng.random(300) < 0.5
    holds = rng.random((300, 2)) < np.where(present, 0.9, 0.2)[:, None]
    rise = weight = 0.0
    for label in (0, 1, 2):
        here = labels == label
        having, bare = (here & present).sum(), (here & ~present).sum()
        share = having * bare / here.sum()
        rise += share * (holds[here & present, 0].mean() - holds[here & ~present, 0].mean())
        weight += share
    rise /= weight
    assert 0 in find_co_occurring(holds, present, labels, rise - 1e-9)
    assert 0 not in find_co_occurring(holds, present, labels, rise + 1e-9)
