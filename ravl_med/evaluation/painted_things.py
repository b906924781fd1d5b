"""Things that are painted on finished films: subtle and large, at a fixed place and wandering.

They complete the devices that the phantoms are rendered with, and are all that can be planted on
real radiographs. The rectangle is that of RaVL's digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Gray = NDArray[np.uint8]
Box = tuple[float, float, float, float]
Paint = Callable[[Gray, np.random.Generator], tuple[Gray, Box]]

GLOBAL = "brightness"
"""Planted on the whole film; it has no place."""


@dataclass(frozen=True, slots=True, eq=False)
class Planted:
    """Films with a thing on them, and where it lies.

    Attributes
    ----------
    pixels : ndarray of shape (n, S, S), uint8
    boxes : ndarray of shape (M, 4), float32 - xyxy in pixels, half-open; one or more a film
    film : ndarray of shape (M,), int64 - 0 .. n - 1, ascending
    masks : ndarray of shape (n, S, S), bool, or None - of the lines that belong to it
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    film: NDArray[np.int64]
    masks: NDArray[np.bool_] | None = None


def paint_films(thing: str, films: NDArray[np.uint8], seeds: NDArray[np.int64]) -> Planted:
    """Paint a thing on films.

    Parameters
    ----------
    thing : str - of `PAINTED`
    films : ndarray of shape (n, S, S), uint8 - left as they are
    seeds : ndarray of shape (n, k), int64 - what place and look of each film are drawn from
    """
    painted, boxes = np.empty_like(films), []
    for row, film in enumerate(films):
        painted[row], box = _PAINTS[thing](film, np.random.default_rng(seeds[row].tolist()))
        boxes.append(box)
    places = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Planted(painted, places, np.arange(len(films), dtype=np.int64))


def brighten(films: NDArray[np.uint8]) -> Planted:
    """Lift the brightness of films (n, S, S), uint8, all over; there is no place to be found."""
    lifted = np.clip(films.astype(np.float32) * 0.85 + 38.0, 0, 255).astype(np.uint8)
    return Planted(lifted, np.empty((0, 4), np.float32), np.empty(0, np.int64))


def _button(
    film: Gray, middle: tuple[float, float], radius: float, contrast: float
) -> tuple[Gray, Box]:
    """Add a round button with a soft edge and four holes; sizes are shares of the side."""
    side = len(film)
    x, y, reach = middle[0] * side, middle[1] * side, radius * side
    down, across = np.mgrid[:side, :side] + 0.5
    away = np.hypot(across - x, down - y)
    shape = np.clip(reach - away + 0.5, 0, 1)
    for turn in np.arange(4) * np.pi / 2 + np.pi / 4:
        hole = np.hypot(across - x - 0.42 * reach * np.cos(turn),
                        down - y - 0.42 * reach * np.sin(turn))  # fmt: skip
        shape -= 0.7 * np.clip(0.2 * reach - hole + 0.5, 0, 1) * (shape > 0)
    lifted = film + contrast * shape.clip(0) * (255.0 - film)
    box = (x - reach, y - reach, x + reach, y + reach)
    return np.clip(lifted, 0, 255).astype(np.uint8), box


def _wandering(film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
    middle = rng.uniform(0.14, 0.86), rng.uniform(0.14, 0.86)
    return _button(film, middle, rng.uniform(0.055, 0.07), 0.8)


def _faint(film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
    middle = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8)
    return _button(film, middle, rng.uniform(0.05, 0.065), 0.4)


def _in_lung(film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
    middle = 0.30 + rng.normal(0, 0.012), 0.42 + rng.normal(0, 0.012)
    return _button(film, middle, rng.uniform(0.055, 0.065), 0.6)


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


def _clip(film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
    """Lay a bent metal clip over the lower third, larger than a tile and at any angle."""
    side = len(film)
    x, y = rng.uniform(0.2, 0.8) * side, rng.uniform(0.62, 0.86) * side
    long, wide = rng.uniform(0.09, 0.11) * side, 0.035 * side
    turn = rng.uniform(0, np.pi)
    along = np.array([np.cos(turn), np.sin(turn)])
    beside = np.array([-along[1], along[0]])
    corners = np.array([-along * long - beside * wide, along * long - beside * wide,
                        along * long + beside * wide, -along * long + beside * wide])  # fmt: skip
    path = corners + np.array([x, y])
    sheet = Image.new("L", (4 * side, 4 * side))
    line = [(4 * px, 4 * py) for px, py in [*path, path[0]]]
    ImageDraw.Draw(sheet).line(line, fill=255, width=round(0.07 * side), joint="curve")
    density = np.asarray(sheet.resize((side, side), Image.Resampling.BOX), dtype=np.float32) / 255
    lifted = film + 0.9 * density * (255.0 - film)
    low, high = path.min(axis=0) - 1, path.max(axis=0) + 1
    low, high = low.clip(0, side), high.clip(0, side)
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return np.clip(lifted, 0, 255).astype(np.uint8), box


def _rectangle(tone: int, blur: float) -> Paint:
    """Fill most of the quadrant that `rng` draws; digits give the free quadrants themselves."""

    def paint(film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
        half = len(film) // 2
        quadrant = _free_quadrant(film, rng)
        wide, high = (int(v) for v in rng.uniform(0.45, 0.65, 2) * half)
        x = (quadrant % 2) * half + int(rng.integers(2, half - wide - 2))
        y = (quadrant // 2) * half + int(rng.integers(2, half - high - 2))
        sheet = np.zeros(film.shape, dtype=np.uint8)
        sheet[y : y + high, x : x + wide] = tone
        if blur:
            soft = Image.fromarray(sheet).filter(ImageFilter.GaussianBlur(blur))
            sheet = np.asarray(soft)
        return np.maximum(film, sheet), (x, y, x + wide, y + high)

    return paint


def _free_quadrant(film: Gray, rng: np.random.Generator) -> int:
    """Draw one of the three quadrants that hold no digit: all but the one with most ink."""
    half = len(film) // 2
    ink = [int(film[y : y + half, x : x + half].sum()) for y in (0, half) for x in (0, half)]
    free = [number for number in range(4) if number != int(np.argmax(ink))]
    return free[int(rng.integers(3))]


_PAINTS: Mapping[str, Paint] = {
    "button": _wandering,
    "faint button": _faint,
    "fixed button": _in_lung,
    "letter": _letter,
    "clip": _clip,
    "rectangle": _rectangle(150, 0.0),
    "faint rectangle": _rectangle(60, 2.0),
}
RECTANGLES = ("rectangle", "faint rectangle")
PAINTED = tuple(name for name in _PAINTS if name not in RECTANGLES)
"""A button that wanders over the film, the same in a fainter tone, one at a fixed place in a lung,
a boxed letter in a corner, a large metal clip over the lower third."""
