"""Equal tiles cover a film once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.regions.region_set import cut_tiles, slide_windows, tile_names, window_names


def test_quadrants_by_hand():
    tiles = cut_tiles(10, 20, 2, 2)

    assert tiles.tolist() == [[0, 0, 10, 5], [10, 0, 20, 5], [0, 5, 10, 10], [10, 5, 20, 10]]
    assert tiles.dtype == np.float32


@given(st.integers(16, 4000), st.integers(16, 4000), st.integers(1, 16), st.integers(1, 16))
def test_tiles_cover_the_film_once_and_are_equal(height, width, rows, columns):
    tiles = cut_tiles(height, width, rows, columns).astype(np.float64)
    sides = tiles[:, 2:] - tiles[:, :2]

    assert len(tiles) == rows * columns
    np.testing.assert_allclose(sides, [[width / columns, height / rows]] * len(tiles), rtol=1e-3)
    grid = tiles.reshape(rows, columns, 4)
    np.testing.assert_array_equal(grid[:, :-1, 2], grid[:, 1:, 0])  # neighbours share their edge
    np.testing.assert_array_equal(grid[:-1, :, 3], grid[1:, :, 1])
    assert tiles[0, :2].tolist() == [0, 0]
    assert tiles[-1, 2:].tolist() == [width, height]


def test_names_stand_in_the_order_of_the_tiles():
    assert tile_names(1, 2) == ("tile row 1 of 1, column 1 of 2", "tile row 1 of 1, column 2 of 2")
    assert tile_names(3, 2)[3] == "tile row 2 of 3, column 2 of 2"
    assert len(set(tile_names(4, 5))) == len(cut_tiles(40, 50, 4, 5))


def test_windows_by_hand():
    windows = slide_windows(100, 200, 0.5, 0.5)

    assert len(windows) == 9
    assert windows[0].tolist() == [0, 0, 100, 50]
    assert windows[1].tolist() == [50, 0, 150, 50]
    assert windows[-1].tolist() == [100, 50, 200, 100]
    assert slide_windows(100, 200, 1.0, 0.5).tolist() == [[0, 0, 200, 100]]


@given(st.integers(16, 4000), st.integers(16, 4000), st.floats(0.05, 1.0), st.floats(0.1, 1.0))
def test_windows_reach_the_borders_and_leave_no_gap(height, width, side, step):
    windows = slide_windows(height, width, side, step).astype(np.float64)

    assert windows.min() == 0
    np.testing.assert_allclose(windows[:, 2].max(), width, rtol=1e-5)
    np.testing.assert_allclose(windows[:, 3].max(), height, rtol=1e-5)
    np.testing.assert_allclose(windows[:, 2] - windows[:, 0], side * width, rtol=1e-3, atol=1e-2)
    lefts = np.unique(windows[:, 0])  # windows of one column begin at the very same place
    assert (np.diff(lefts) <= side * step * width + 1e-2).all()
    assert len(windows) == len(lefts) ** 2 == len(window_names(side, step))


def test_windows_are_named_by_size_and_place():
    assert window_names(0.5, 0.5)[5] == "window of 50 %, row 2 of 3, column 3 of 3"
