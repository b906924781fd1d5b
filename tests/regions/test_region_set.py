"""Regions of a film from several sources become one set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.regions.geometry import box_overlap, box_overlaps
from ravl_med.regions.region_set import (
    RegionKind,
    RegionSet,
    combine_regions,
    cut_tiles,
    slide_windows,
)

TILE, WINDOW = RegionKind("tiles", "a tile"), RegionKind("windows", "a window")


def regions(kind: RegionKind, boxes: object) -> RegionSet:
    flat = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    return RegionSet(flat, (kind,) * len(flat))


def test_a_window_that_is_nearly_a_tile_takes_its_place() -> None:
    tiles = regions(TILE, cut_tiles(100, 100, 2, 2))
    windows = regions(WINDOW, [[0, 0, 50, 48], [20, 20, 70, 70]])
    joined = combine_regions([tiles, windows], 0.8)
    assert [kind.source for kind in joined.kinds] == ["windows"] * 2 + ["tiles"] * 3
    assert joined.boxes[0].tolist() == [0, 0, 50, 48]
    assert [0, 0, 50, 50] not in joined.boxes.tolist()
    assert len(combine_regions([tiles, windows], 0.99)) == 6


def test_tiles_and_windows_stay_whole() -> None:
    tiles = regions(TILE, cut_tiles(64, 64, 8, 8))
    assert combine_regions([tiles], 0.1) is tiles
    windows = slide_windows(64, 64, 0.5, 0.1)
    both = combine_regions([tiles, regions(WINDOW, windows)], merge_overlap=0.9)
    assert len(both) == 64 + len(windows)


def test_no_region_at_all() -> None:
    assert len(combine_regions([], 0.8)) == 0
    assert len(combine_regions([regions(TILE, [])] * 2, 0.8)) == 0


@pytest.mark.parametrize(
    ("a", "b", "share"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
        ([0, 0, 10, 10], [5, 0, 15, 10], 1 / 3),
        ([0, 0, 10, 10], [10, 0, 20, 10], 0.0),
        ([0, 0, 10, 10], [30, 30, 40, 40], 0.0),
        ([0, 0, 10, 10], [2, 2, 4, 4], 0.04),
        ([5, 5, 5, 5], [5, 5, 5, 5], 0.0),
    ],
)
def test_overlap_by_hand(a: list[float], b: list[float], share: float) -> None:
    assert box_overlap(np.array(a), np.array(b)) == pytest.approx(share)


BOX = st.tuples(*[st.integers(0, 30)] * 4).map(
    lambda v: [min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]) + 1, max(v[1], v[3]) + 1]
)


@given(st.lists(BOX, min_size=1, max_size=5), st.lists(BOX, min_size=1, max_size=5))
def test_overlaps_are_those_of_pixels(a: list[list[int]], b: list[list[int]]) -> None:
    def paint(box: list[int]) -> np.ndarray:
        mask = np.zeros((32, 32), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        return mask

    got = box_overlaps(np.array(a, np.float32), np.array(b, np.float32))
    for i, one in enumerate(a):
        for j, two in enumerate(b):
            m, n = paint(one), paint(two)
            assert got[i, j] == pytest.approx((m & n).sum() / (m | n).sum())


def test_no_more_than_the_limit_but_the_grid_stays_whole() -> None:
    tiles = regions(TILE, cut_tiles(64, 64, 8, 8))
    things = regions(RegionKind("annotations", "thing"), [[i, 0, i + 1, 1] for i in range(9)])
    joined = combine_regions([tiles, things], 0.8, 5)

    assert [kind.source for kind in joined.kinds] == ["annotations"] * 5 + ["tiles"] * 64
    assert joined.boxes[:5, 0].tolist() == [0, 1, 2, 3, 4]
    assert joined.problems == ("over_limit",) * 4


def test_a_name_with_its_place() -> None:
    assert RegionKind("artifacts", "metal", "left shoulder").text() == "metal, left shoulder"
    assert TILE.text() == "a tile"
