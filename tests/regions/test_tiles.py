"""Equal tiles cover a film once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.regions.tiles import cut_tiles, tile_names


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
