"""How things look, by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ravl_med.regions.looks import TEXTURES, Look, describe_looks, measure_textures, read_look


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


def test_textures_are_those_of_each_region_whichever_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    films = rng.normal(size=(3, 3, 96, 96)).astype(np.float32)
    films[1, :, 40:50, 60:70] += 5.0
    asked: list[int] = []

    def read(film: int) -> np.ndarray:
        asked.append(film)
        return np.asarray(films[film])

    which = np.array([2, 1, 0, 1, 1])
    boxes = np.array([[8, 8, 24, 24], [56, 36, 72, 52], [0, 0, 16, 16], [0, 80, 16, 96],
                      [80, 0, 80, 0]], np.float32)  # fmt: skip
    every = measure_textures(read, which, boxes)

    assert every.shape == (5, TEXTURES)
    assert np.isfinite(every).all()
    assert asked == [0, 1, 2]
    for row in range(5):
        alone = measure_textures(read, which[row : row + 1], boxes[row : row + 1])
        np.testing.assert_allclose(every[row], alone[0], rtol=1e-3, atol=1e-3)
    assert measure_textures(read, which[:0], boxes[:0]).shape == (0, TEXTURES)


def test_textures_by_hand() -> None:
    film = np.full((3, 96, 96), 0.5, np.float32)
    (flat,) = measure_textures(lambda _: film, np.array([0]), np.array([[16, 16, 32, 32]]))
    np.testing.assert_allclose(flat, [0.5, *np.zeros(TEXTURES - 1)], atol=0.03)
    bright, dark = film.copy(), film.copy()
    yy, xx = np.mgrid[:96, :96]
    disc = (yy - 24) ** 2 + (xx - 24) ** 2 <= 5.7**2  # radius of scale 4: its strongest answer
    bright[:, disc], dark[:, disc] = 1.5, -0.5

    def blobs(film: np.ndarray) -> np.ndarray:
        box = np.array([[16, 16, 32, 32]], np.float32)
        return measure_textures(lambda _: film, np.array([0]), box)[0, 2:8].reshape(3, 2)

    assert (blobs(dark)[2, 0], blobs(bright)[2, 1]) == (
        pytest.approx(-blobs(bright)[2, 1], abs=1e-3),
        pytest.approx(-blobs(dark)[2, 0], abs=1e-3),
    )
    assert -blobs(bright)[2, 1] > 0.8  # a bright blob is a strong minimum
    assert blobs(bright)[2, 0] < 0.6
