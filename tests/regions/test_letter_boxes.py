"""Boxes of letters fitted to what stands out."""

from __future__ import annotations

import numpy as np
import pytest

from ravl_med.regions.film_structures import refine_box

SIDE = 200


def film(ink: float, ground: float = 0.3) -> np.ndarray:
    pixels = np.full((SIDE, SIDE), ground, np.float32)
    pixels[50:70, 40:52] = ink
    return pixels


def shares(*box: float) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (edge / SIDE for edge in box)
    return x0, y0, x1, y1


@pytest.mark.parametrize("ink", [1.0, 0.0, 0.4])
@pytest.mark.parametrize("box", [(38, 47, 54, 73), (41, 52, 51, 68), (36, 48, 50, 68)])
def test_a_box_that_is_a_little_off_is_fitted(ink: float, box: tuple[float, ...]) -> None:
    assert refine_box(film(ink), shares(*box)) == pytest.approx(shares(40, 50, 52, 70))


def test_letters_in_a_row_are_one_box() -> None:
    pixels = film(1.0)
    pixels[50:70, 55:65] = 1.0
    assert refine_box(pixels, shares(38, 49, 66, 72)) == pytest.approx(shares(40, 50, 65, 70))


@pytest.mark.parametrize(
    ("pixels", "box"),
    [
        (film(0.3), (38, 47, 54, 73)),  # nothing there
        (film(0.32), (38, 47, 54, 73)),  # too faint
        (film(1.0), (100, 100, 120, 120)),  # elsewhere
        (film(1.0), (20, 20, 120, 120)),  # of another size
        (film(1.0), (0, 0, SIDE, SIDE)),  # no surroundings
        (film(1.0), (41, 51, 42, 52)),  # a speck
    ],
)
def test_a_box_stays_where_nothing_fits(pixels: np.ndarray, box: tuple[float, ...]) -> None:
    assert refine_box(pixels, shares(*box)) == shares(*box)


def test_a_large_thing_beside_the_letter_is_left_out() -> None:
    pixels = film(1.0)
    pixels[40:90, 54:120] = 1.0  # bone beside it
    assert refine_box(pixels, shares(38, 48, 54, 72)) == pytest.approx(shares(40, 50, 52, 70))


@pytest.mark.parametrize("corner", [(0, 0), (188, 180)])
def test_at_the_border_of_the_film(corner: tuple[int, int]) -> None:
    x, y = corner
    pixels = np.full((SIDE, SIDE), 0.3, np.float32)
    pixels[y : y + 20, x : x + 12] = 1.0
    found = refine_box(pixels, shares(max(x - 2, 0), y + 1, min(x + 13, SIDE), min(y + 21, SIDE)))
    assert found == pytest.approx(shares(x, y, x + 12, y + 20))


def test_of_a_solid_thing_halo_and_wire_are_no_part() -> None:
    pixels = np.full((SIDE, SIDE), 0.3, np.float32)
    pixels[47:65, 47:65] = 0.5  # its halo, less than half as bright as itself
    pixels[50:62, 50:62] = 1.0
    pixels[62:120, 55:57] = 1.0  # its wire
    box = shares(46, 46, 66, 66)
    assert refine_box(pixels, box, solid=True) == pytest.approx(shares(50, 50, 62, 62))
    assert refine_box(pixels, box) != pytest.approx(shares(50, 50, 62, 62))
