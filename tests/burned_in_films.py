"""Phantom films with words burned in, whose ink is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ravl_med.phantoms.anatomy import draw_body
from ravl_med.phantoms.film import FINDINGS, render_phantom

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif")
NAMES = (
    "DOE JOHN", "Meier, Anna", "12.03.1955", "ID 4711-0815", "St. Mary Hosp", "QZX12VWK",
    "SMITH^JANE", "14:32:07",
)  # fmt: skip


@dataclass(frozen=True)
class Burned:
    """Words on a film: letters so many pixels high, how they stand out, and their ink (H, W)."""

    height: int
    contrast: float
    turned: int
    ink: NDArray[np.bool_]


def phantom_film(number: int, size: int, devices: tuple[str, ...] = ()) -> NDArray[np.uint8]:
    """A chest phantom of about this size; above 768 pixels enlarged, with noise of its own."""
    body = draw_body((7, number), female=bool(number % 2), age=40 + number % 40, enlarged=False)
    finding = FINDINGS[number % len(FINDINGS)]
    seeds = ((7, number, 1), (7, number, 2))
    film = render_phantom(body, finding, devices, seeds=seeds, size=min(size, 768))
    pixels = film.pixels * 255.0
    if size > 768:
        pixels = cv2.resize(pixels, None, fx=size / 768, fy=size / 768)
        pixels = pixels + np.random.default_rng(number).normal(0.0, 2.0, pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def burn(
    film: NDArray[np.uint8],
    text: str,
    place: tuple[int, int],
    size: int,
    change: int = 255,
    turned: int = 0,
    font: str = "DejaVuSans",
) -> tuple[NDArray[np.uint8], Burned]:
    """Write words with their corner at x, y; `change` gray levels are added, or taken away."""
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    pen = ImageFont.truetype(str(fonts / f"{font}.ttf"), size)
    left, top, right, bottom = pen.getbbox(text)
    sheet = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2), 0)
    ImageDraw.Draw(sheet).text((1 - left, 1 - top), text, 255, font=pen)
    height = pen.getbbox("H")[3] - pen.getbbox("H")[1]
    ink = np.asarray(sheet.rotate(turned, expand=True, resample=Image.Resampling.BICUBIC)) / 255.0
    x, y = place
    down, across = ink.shape
    if x < 0 or y < 0 or y + down > film.shape[0] or x + across > film.shape[1]:
        raise ValueError("the words do not fit")
    burned = film.astype(np.float64)
    part = burned[y : y + down, x : x + across]
    burned[y : y + down, x : x + across] = (1 - ink) * part + ink * np.clip(part + change, 0, 255)
    whole = np.zeros(film.shape, dtype=np.bool_)
    whole[y : y + down, x : x + across] = ink > 0.4
    made = np.rint(burned).astype(np.uint8)
    contrast = float(np.median(np.abs(made[whole].astype(int) - film[whole])))
    return made, Burned(int(height), contrast, turned, whole)


def burn_anywhere(
    film: NDArray[np.uint8], rng: np.random.Generator, size: int, taken: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], Burned] | None:
    """Write a name where it fits and nothing was written; None where there is no such place."""
    for _ in range(20):
        change = int(rng.choice([25, 50, 100, 255])) * (-1 if rng.random() < 0.3 else 1)
        turned = int(rng.choice([0, 0, 0, 90, 270, 10]))
        corner = rng.random() < 0.5
        far = [max(length - 4, 5) for length in film.shape[::-1]]
        place = tuple(int(rng.choice([4, f // 2]) if corner else rng.integers(4, f)) for f in far)
        text, font = str(rng.choice(NAMES)), str(rng.choice(FONTS))
        try:
            made, burned = burn(film, text, (place[0], place[1]), size, change, turned, font)
        except ValueError:
            continue
        near = cv2.dilate(burned.ink.astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
        if not (near & taken).any():
            return made, burned
    return None
