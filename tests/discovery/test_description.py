"""Clusters in words."""

from __future__ import annotations

import numpy as np
import pytest

from ravl_med.discovery.candidates import describe_regions


def at(*places: tuple[float, float]) -> np.ndarray:
    """Small boxes around middles, as shares of the film."""
    middles = np.array(places)
    return np.concatenate([middles - 0.01, middles + 0.01], axis=1)


def test_names_and_place_by_hand() -> None:
    names = [("pulse generator",)] * 11 + [("lead", "lead")]
    shares = at(*[(0.9, 0.1)] * 9, *[(0.5, 0.9)] * 3)
    assert describe_regions(names, shares) == (
        "92 % pulse generator; 75 % in the upper right of the picture"
    )


@pytest.mark.parametrize(
    ("place", "word"),
    [
        ((0.1, 0.1), "upper left"),
        ((0.5, 0.1), "upper middle"),
        ((0.5, 0.5), "centre"),
        ((0.1, 0.5), "middle left"),
        ((0.99, 0.99), "lower right"),
        ((1.0, 1.0), "lower right"),
    ],
)
def test_places(place: tuple[float, float], word: str) -> None:
    assert describe_regions([()], at(place)) == f"100 % in the {word} of the picture"


def test_sides_are_the_patients_where_every_film_states_them() -> None:
    shares = at((0.9, 0.1), (0.1, 0.1), (0.9, 0.1))
    names: list[tuple[str, ...]] = [()] * 3
    assert describe_regions(names, shares, edges=("R", "L", "R")) == (
        "100 % in the upper third at the patient's left"
    )
    assert describe_regions(names, shares, edges=("R", "", "R")) == (
        "67 % in the upper right of the picture"
    )
    low = at((0.5, 0.9))
    assert describe_regions([()], low, edges="L") == "100 % in the lower third near the midline"
    assert describe_regions([()], at((0.5, 0.5)), edges="R") == "100 % in the centre of the picture"


def test_what_is_seldom_is_not_told() -> None:
    names = [("a",), ("a",), ("b",), ("b",), ("c",), (), (), ()]
    thirds = [(x, y) for x in (0.1, 0.5, 0.9) for y in (0.1, 0.5, 0.9)][:8]
    assert describe_regions(names, at(*thirds)) == "25 % a; 25 % b; all over the picture"
    assert describe_regions([], np.empty((0, 4))) == ""


def test_a_region_may_hold_several_things_and_anatomy_tells_the_place() -> None:
    names = [("pulse generator", "pacing lead")] * 3 + [("pacing lead",)]
    places = ["left shoulder"] * 3 + [""]
    assert describe_regions(names, at(*[(0.9, 0.1)] * 4), places) == (
        "100 % pacing lead; 75 % pulse generator; 75 % left shoulder"
    )


def test_anatomy_that_is_seldom_leaves_the_place_on_the_film() -> None:
    places = ["left hilum", "", "", "", ""]
    assert describe_regions([()] * 5, at(*[(0.5, 0.5)] * 5), places) == (
        "100 % in the centre of the picture"
    )
