"""What is planted on films: shapes of any size and tone, marks with a place of their own, styles.

A shape lies at a named place of a chest film, anywhere on it, or beside the object of a film of
digits or garments, in a quadrant that is free. A style changes the whole film and has no place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Gray = NDArray[np.uint8]
Box = tuple[float, ...]
"""Four numbers, xyxy in pixels; none for what has no place."""

SHAPES = ("disc", "ring", "staple", "cross", "mesh")
ROUND = ("disc", "ring")
"""As a finding could be: these are laid over the anatomy of one."""
LETTERS = ("letter",)
"""Marks with a place of their own: a boxed letter in an upper corner."""
RECTANGLE = "rectangle"
"""As RaVL lays it beside a digit, as large as most of a quadrant."""
STYLES = ("gamma 0.6", "gamma 1.6", "bright", "collimated")

ANYWHERE, BESIDE = "anywhere", "beside"
PLACES: Mapping[str, tuple[float, float]] = {  # x and y as shares of the film's sides
    "right lung": (0.30, 0.42),
    "left lower lung": (0.70, 0.58),
    "heart": (0.55, 0.62),
    "shoulder": (0.15, 0.12),
    "armpit": (0.90, 0.45),
    "abdomen": (0.45, 0.90),
}
OUTSIDE = ("shoulder", "armpit", "abdomen")
"""Places where no finding of the domains shows."""

_AROUND = 0.03  # standard deviation of a place, as a share of the side
_RADII, _CONTRASTS, _TONES = (0.045, 0.085), (0.35, 1.0), (245.0, 230.0, 15.0)
_BESIDE_RADII, _RECTANGLES = (0.08, 0.11), (0.25, 0.9)  # an object is larger than a coin


@dataclass(frozen=True, slots=True)
class Mark:
    """What is planted: of `SHAPES`, `LETTERS`, `STYLES`, a rectangle, or a device of phantoms.

    Attributes
    ----------
    place : str - of `PLACES`, `ANYWHERE` or `BESIDE`; blank for what has its own, or none
    radius : float - share of the film's side; 0 where the shape has a size of its own
    contrast : float - share of the way to the tone
    tone : float - gray of 0 to 255
    """

    shape: str
    place: str = ""
    radius: float = 0.0
    contrast: float = 1.0
    tone: float = 245.0

    def label(self) -> str:
        """Return how pages and progress call it."""
        sized = f", {200 * self.radius:.0f} % wide" if self.radius else ""
        return f"{self.shape}{f', {self.place}' if self.place else ''}{sized}"


def draw_mark(rng: np.random.Generator, places: tuple[str, ...]) -> Mark:
    """Draw shape, place, size and contrast of a mark; what lies over anatomy is round and bright.

    Sizes and contrasts are rounded, so that a mark is known by what is printed of it.
    """
    place = str(rng.choice(places))
    free = place in (*OUTSIDE, ANYWHERE, BESIDE)
    return Mark(
        str(rng.choice(SHAPES if free else ROUND)),
        place,
        round(float(rng.uniform(*(_BESIDE_RADII if place == BESIDE else _RADII))), 3),
        round(float(rng.uniform(*_CONTRASTS)), 2),
        float(rng.choice(_TONES)) if free and place != BESIDE else _TONES[0],
    )


def draw_rectangle(rng: np.random.Generator) -> Mark:
    """Draw the contrast of a rectangle beside an object, from faint to clear."""
    return Mark(RECTANGLE, BESIDE, contrast=round(float(rng.uniform(*_RECTANGLES)), 2))


def paint(mark: Mark, film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
    """Paint a mark on a film (S, S), uint8, which stays as it is; return it and the box.

    Place, size and turn vary from film to film as `rng` draws them.
    """
    if mark.shape in STYLES:
        return _restyle(mark.shape, film), ()
    if mark.shape in LETTERS:
        return _letter(film, rng)
    if mark.shape == RECTANGLE:
        return _rectangle(mark, film, rng)
    side = len(film)
    if mark.place == ANYWHERE:
        x, y = rng.uniform(0.15, 0.85, 2) * side
    elif mark.place == BESIDE:
        half, quadrant = side / 2, _free_quadrant(film, rng)
        away = rng.uniform(1.15 * mark.radius, 0.5 - 1.15 * mark.radius, 2) * side
        x, y = away + half * np.array([quadrant % 2, quadrant // 2])
    else:
        x, y = (np.array(PLACES[mark.place]) + rng.normal(0, _AROUND, 2)) * side
    reach = mark.radius * rng.uniform(0.9, 1.1) * side
    density = mark.contrast * _density(mark.shape, side, (x, y), reach, rng)
    mixed = film + density * (mark.tone - film)
    box = (x - reach, y - reach, x + reach, y + reach)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8), box


def _density(
    shape: str, side: int, middle: tuple[float, float], reach: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """How much of each pixel (S, S) a shape covers, 0 to 1."""
    down, across = np.mgrid[:side, :side] + 0.5
    dx, dy = across - middle[0], down - middle[1]
    away = np.hypot(dx, dy)
    covered: NDArray[np.float64]
    if shape == "disc":
        covered = np.clip(reach - away + 0.5, 0, 1)
    elif shape == "ring":
        covered = np.clip(1.5 - np.abs(away - 0.8 * reach) / (0.16 * reach + 0.5), 0, 1)
    elif shape == "cross":
        thin = 0.28 * reach
        arms = ((abs(dx) < thin) & (abs(dy) < reach)) | ((abs(dy) < thin) & (abs(dx) < reach))
        covered = cv2.GaussianBlur(arms.astype(np.float64), (3, 3), 0)
    elif shape == "mesh":
        step = max(2, round(0.5 * reach))
        squares = (np.floor(across / step) + np.floor(down / step)) % 2 == 0
        covered = ((abs(dx) < reach) & (abs(dy) < reach) & squares).astype(np.float64)
    else:  # a staple at any angle
        turn = rng.uniform(0, np.pi)
        along = np.array([np.cos(turn), np.sin(turn)])
        beside = np.array([-along[1], along[0]])
        centre = np.array(middle)
        ends = [centre + a * reach * along + b * 0.6 * reach * beside
                for a, b in ((-1, 1), (-1, 0), (1, 0), (1, 1))]  # fmt: skip
        sheet = np.zeros((4 * side, 4 * side), np.uint8)
        path = np.rint(4 * np.array(ends)).astype(np.int32)
        cv2.polylines(sheet, [path], False, 255, max(4, round(1.1 * reach)))
        small = cv2.resize(sheet, (side, side), interpolation=cv2.INTER_AREA)
        covered = small.astype(np.float64) / 255.0
    return covered


def _letter(film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
    """Burn a boxed letter into an upper corner."""
    side = len(film)
    size = round(0.125 * side)
    left = rng.uniform(0.02, 0.12) if rng.random() < 0.5 else rng.uniform(0.75, 0.85)
    x, y = round(left * side), round(rng.uniform(0.02, 0.14) * side)
    image = Image.fromarray(film)
    pen = ImageDraw.Draw(image)
    pen.rectangle((x, y, x + size - 1, y + size - 1), fill=0, outline=255, width=1)
    font = ImageFont.load_default(size=round(0.85 * size))
    pen.text((x + size / 2, y + size / 2), "P", fill=255, font=font, anchor="mm")
    return np.asarray(image), (x, y, x + size, y + size)


def _rectangle(mark: Mark, film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
    """Fill most of a quadrant that is free."""
    half = len(film) // 2
    quadrant = _free_quadrant(film, rng)
    wide, high = (int(v) for v in rng.uniform(0.45, 0.65, 2) * half)
    x = (quadrant % 2) * half + int(rng.integers(2, half - wide - 2))
    y = (quadrant // 2) * half + int(rng.integers(2, half - high - 2))
    filled = film.copy()
    own = filled[y : y + high, x : x + wide].astype(np.float64)
    lifted = own + mark.contrast * (mark.tone - own)
    filled[y : y + high, x : x + wide] = np.maximum(np.rint(lifted), own).astype(np.uint8)
    return filled, (x, y, x + wide, y + high)


def _free_quadrant(film: Gray, rng: np.random.Generator) -> int:
    """Draw one of the three quadrants that hold no object: all but the one with most ink."""
    half = len(film) // 2
    ink = [int(film[y : y + half, x : x + half].sum()) for y in (0, half) for x in (0, half)]
    free = [number for number in range(4) if number != int(np.argmax(ink))]
    return free[int(rng.integers(3))]


def _restyle(style: str, film: Gray) -> Gray:
    gray = film / 255.0
    if style.startswith("gamma"):
        gray = gray ** float(style.split()[1])
    elif style == "bright":
        gray = 0.85 * gray + 0.13
    else:  # collimated
        edge = round(0.09 * len(film))
        inner = gray[edge:-edge, edge:-edge].copy()
        gray[:] = gray.min()
        gray[edge:-edge, edge:-edge] = inner
    return np.clip(np.rint(255 * gray), 0, 255).astype(np.uint8)
