"""Hits, precision, and the truth in words."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ravl_med.pipeline.truth import TruthCheck, is_hit, precision_at
from ravl_med.regions.geometry import box_overlap

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("box", "hit"),
    [
        ((2, 2, 4, 4), True),  # inside
        ((9, 0, 11, 2), True),  # half of the smaller one
        ((9.1, 0, 11.1, 2), False),  # a little less
        ((-5, -5, 20, 20), True),  # around
        ((10, 0, 12, 2), False),  # side by side
        ((9, 9, 13, 13), False),  # a corner
    ],
)
def test_a_hit_is_half_of_the_smaller_box(box: tuple[float, ...], hit: bool) -> None:
    region = np.array([0.0, 0.0, 10.0, 10.0])
    assert is_hit(region, np.array(box)) is hit
    assert is_hit(np.array(box), region) is hit


@pytest.mark.parametrize(
    ("box", "overlap"),
    [
        ((0, 0, 10, 10), 1.0),
        ((5, 0, 15, 10), 1 / 3),
        ((0, 0, 5, 4), 0.2),
        ((10, 0, 20, 10), 0.0),
        ((3, 3, 3, 3), 0.0),
    ],
)
def test_overlap_by_hand(box: tuple[float, ...], overlap: float) -> None:
    region = np.array([0.0, 0.0, 10.0, 10.0])
    assert box_overlap(region, np.array(box)) == pytest.approx(overlap)
    assert box_overlap(np.array(box), region) == pytest.approx(overlap)


def test_precision_counts_missing_regions_as_misses() -> None:
    assert precision_at([True, False, True, True], 4) == 0.75
    assert precision_at([True, True], 10) == 0.2
    assert precision_at([], 10) == 0.0


def check(**changes: object) -> TruthCheck:
    values: dict[str, object] = {
        "feature": "generator",
        "finding": "cardiomegaly",
        "strength": 0.95,
        "raised_gap": 0.84,
        "lowered_gap": 0.87,
        "precision": 0.9,
        "tile_precision": 0.8,
        "paper_precision": 0.1,
        "overlap": 0.3,
        "located_overlap": 0.6,
        "names_finding": True,
        "kind": "shortcut",
        "shortcuts": 1,
    }
    return TruthCheck(**{**values, **changes})  # type: ignore[arg-type]


def test_the_check_reads_as_a_sentence() -> None:
    planted, found = check().lines()
    assert "+84 points with it on cardiomegaly, -87 on the most lowered class" in planted
    assert "names cardiomegaly; of its top 10 regions 90 % hit the generator (10 %" in found
    assert check(strength=0.0, shortcuts=0).lines() == [
        "nothing was planted; correlations of kind shortcut: 0"
    ]
    assert "none hit" in check(precision=math.nan, kind="none").lines()[1]
