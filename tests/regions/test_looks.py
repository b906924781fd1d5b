"""How things look, by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ravl_med.regions.looks import Look, describe_looks, read_look


def picture() -> np.ndarray:
    return np.full((512, 512), 100, np.uint8)


def test_a_disc_is_bright_and_round_and_as_wide_as_it_is() -> None:
    film = cv2.circle(picture(), (200, 300), 20, 220, -1)
    look = read_look(film, (170 / 512, 270 / 512, 230 / 512, 330 / 512))

    assert look is not None
    assert (look.tone, look.form) == ("bright", "round")
    assert look.length == pytest.approx(41 / 512, abs=0.006)


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda film: cv2.line(film, (180, 280), (220, 320), 20, 3), ("dark", "long and thin")),
        (lambda film: cv2.rectangle(film, (190, 280), (215, 320), 200, -1), ("bright", "")),
        (
            lambda film: [cv2.circle(film, (x, 300), 4, 200, -1) for x in (180, 200, 220)],
            ("bright", "in pieces"),
        ),
    ],
)
def test_other_forms(draw, expected: tuple[str, str]) -> None:
    film = picture()
    draw(film)
    look = read_look(film, (170 / 512, 270 / 512, 230 / 512, 330 / 512))

    assert look is not None
    assert (look.tone, look.form) == expected


def test_where_nothing_stands_out_there_is_no_look() -> None:
    assert read_look(picture(), (0.3, 0.3, 0.5, 0.5)) is None
    assert read_look(picture(), (0.0, 0.0, 1.0, 1.0)) is None
    assert read_look(picture(), (0.5, 0.5, 0.5, 0.5)) is None


def test_looks_in_words() -> None:
    coin, other = Look("bright", "round", 0.05), Look("dark", "", 0.2)

    assert describe_looks([coin, coin, other], [350.0, 350.0, 0.0]) == "bright, round, 18 mm"
    assert describe_looks([coin] * 3, [0.0] * 3) == "bright, round, 5 % of the film's width"
    assert describe_looks([coin, None, None], [1.0] * 3) == ""
    assert describe_looks([Look("bright", "in pieces", float("nan"))], [1.0]) == "bright, in pieces"
    assert describe_looks([], []) == ""
