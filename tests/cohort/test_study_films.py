"""One film of each study."""

from __future__ import annotations

import numpy as np

from ravl_med.cohort.manifest import one_film_a_study


def test_frontal_before_lateral_before_none_then_the_first() -> None:
    chosen = one_film_a_study(
        ["a", "a", "a", "b", "b", "b", "c", "c"],
        ["1", "1", "2", "1", "1", "1", "1", "1"],
        ["LATERAL", "pa ", "LL", "AP", "AP", "", "PA", "AP"],
        np.array([True] * 6 + [False, True]),
    )
    assert chosen.tolist() == [False, True, True, True, False, False, False, True]


def test_no_film_is_taken_of_none() -> None:
    assert not one_film_a_study(["a"], ["1"], [""], np.array([False])).any()
