"""The drawing board of the phantom: body coordinates in, film pixels out.

Body coordinates are half film sides: x grows to the image's right (the patient's left), y grows
downwards, the origin is the middle of the chest and depth grows towards the breast bone. Sharp
shapes are drawn at twice the film's resolution and averaged; smooth fields live on a lattice of
about 64 points a side and are enlarged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.float32]

OVERSAMPLING = 2
LATTICE = 64


@dataclass(frozen=True, slots=True)
class Pose:
    """How the body lies on one film."""

    x: float  # middle of the chest, in half film sides from the middle of the film
    y: float
    scale: float  # magnification of the body
    tilt: float  # rotation in the plane of the film, radians
    turn: float  # about the body's long axis, radians; moves the front against the spine


@lru_cache(maxsize=32)
def _basis(steps: int) -> NDArray[np.float64]:
    """Return Catmull-Rom weights (steps, 4)."""
    t = np.linspace(0.0, 1.0, steps, endpoint=False)[:, None]
    powers = np.concatenate([t**0, t, t**2, t**3], axis=1)
    matrix = 0.5 * np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1.0]])
    return np.asarray(powers @ matrix)


def curve(points: object, steps: int = 8, *, closed: bool = False) -> NDArray[np.float64]:
    """Run a smooth curve (m, 2) through points (n, 2), with `steps` pieces between two points."""
    knots = np.asarray(points, dtype=np.float64)
    if closed:
        padded = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        first, last = 2 * knots[0] - knots[1], 2 * knots[-1] - knots[-2]
        padded = np.concatenate([first[None], knots, last[None]])
    windows = np.stack([padded[i : len(padded) - 3 + i] for i in range(4)])  # (4, pieces, 2)
    path = np.einsum("sk,kpc->psc", _basis(steps), windows).reshape(-1, 2)
    return path if closed else np.concatenate([path, knots[-1:]])


class Layer:
    """One sheet to draw on, in film pixels; shapes on a sheet replace each other."""

    def __init__(self, height: int, width: int) -> None:
        self._shape = (height, width)
        self._image = Image.new("L", (width * OVERSAMPLING, height * OVERSAMPLING))
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, points: NDArray[np.float64], value: int = 255) -> None:
        """Fill a polygon of shape (n, 2), film pixels."""
        self.polygons(points[None], value)

    def line(self, points: NDArray[np.float64], thickness: float, value: int = 255) -> None:
        """Draw a polyline of shape (n, 2) with a thickness in film pixels."""
        self.lines(points[None], thickness, value)

    def polygons(self, shapes: NDArray[np.float64], value: int = 255) -> None:
        """Fill polygons of shape (p, n, 2), film pixels."""
        for flat in (shapes * OVERSAMPLING).reshape(len(shapes), -1).tolist():
            self._draw.polygon(flat, fill=value)

    def lines(self, paths: NDArray[np.float64], thickness: float, value: int = 255) -> None:
        """Draw polylines of shape (p, n, 2) with one thickness in film pixels."""
        stroke = max(1, round(thickness * OVERSAMPLING))
        joint = "curve" if stroke > 6 and paths.shape[1] > 2 else None
        for flat in (paths * OVERSAMPLING).reshape(len(paths), -1).tolist():
            self._draw.line(flat, value, stroke, joint)

    def disc(self, centre: NDArray[np.float64], radius: float, value: int = 255) -> None:
        """Fill a disc; centre of shape (2,) and radius in film pixels."""
        x, y = (centre * OVERSAMPLING).tolist()
        r = max(radius * OVERSAMPLING, 0.5)
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=value)

    def text(
        self, corner: tuple[float, float], text: str, height: float, weight: float = 0.0
    ) -> tuple[float, float, float, float]:
        """Draw text by its upper left corner and return its box xyxy, in film pixels."""
        font = _font(round(height * OVERSAMPLING))
        stroke = round(weight * OVERSAMPLING)
        x0, y0, x1, y1 = font.getbbox(text, stroke_width=stroke)
        x, y = corner[0] * OVERSAMPLING - x0, corner[1] * OVERSAMPLING - y0
        self._draw.text((x, y), text, fill=255, font=font, stroke_width=stroke)
        wide, tall = (x1 - x0) / OVERSAMPLING, (y1 - y0) / OVERSAMPLING
        return corner[0], corner[1], corner[0] + wide, corner[1] + tall

    def array(self) -> Floats:
        """Average down to the film: (H, W), float32 in [0, 1]."""
        small = self._image.reduce(OVERSAMPLING)
        share: Floats = np.multiply(np.asarray(small), np.float32(1 / 255), dtype=np.float32)
        return share

    def soft(self, blur: float) -> Floats:
        """Average down and blur by a deviation in film pixels: (H, W), float32 in [0, 1]."""
        half = self._image.reduce(2 * OVERSAMPLING).filter(ImageFilter.GaussianBlur(blur / 2))
        height, width = self._shape
        full = half.resize((width, height), Image.Resampling.BICUBIC)
        share: Floats = np.multiply(np.asarray(full), np.float32(1 / 255), dtype=np.float32)
        return share


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(max(size, 6)))


def text_extent(text: str, height: float) -> tuple[float, float]:
    """Return width and height of a text in film pixels."""
    x0, y0, x1, y1 = _font(round(height * OVERSAMPLING)).getbbox(text)
    return (x1 - x0) / OVERSAMPLING, (y1 - y0) / OVERSAMPLING


class Canvas:
    """A film with a body posed on it; half of the nominal `size` is the body unit."""

    def __init__(self, height: int, width: int, size: int, pose: Pose) -> None:
        self.height, self.width, self.pose = height, width, pose
        self.unit = size / 2.0
        self._lattice_shape = (
            max(8, round(LATTICE * height / size)),
            max(8, round(LATTICE * width / size)),
        )

    def layer(self) -> Layer:
        """Return an empty sheet."""
        return Layer(self.height, self.width)

    def place(
        self, points: object, depth: float | NDArray[np.float64] = 0.0
    ) -> NDArray[np.float64]:
        """Map body points (n, 2) at some depth to film pixels (n, 2)."""
        p = np.asarray(points, dtype=np.float64)
        pose = self.pose
        x, y = p[..., 0] + np.sin(pose.turn) * depth, p[..., 1]
        cos, sin = np.cos(pose.tilt) * pose.scale, np.sin(pose.tilt) * pose.scale
        return np.stack(
            [
                self.width / 2 + self.unit * (cos * x - sin * y + pose.x),
                self.height / 2 + self.unit * (sin * x + cos * y + pose.y),
            ],
            axis=-1,
        )

    def pixels(self, length: float) -> float:
        """Return a length in body units as film pixels."""
        return length * self.unit * self.pose.scale

    def lattice(self) -> tuple[Floats, Floats]:
        """Return the body coordinates x and y of the coarse lattice, each (h, w), float32."""
        h, w = self._lattice_shape
        pose = self.pose
        col = ((np.arange(w) + 0.5) / w - 0.5) * self.width / self.unit - pose.x
        row = ((np.arange(h) + 0.5) / h - 0.5) * self.height / self.unit - pose.y
        cos, sin = np.cos(pose.tilt) / pose.scale, np.sin(pose.tilt) / pose.scale
        x = (cos * col)[None, :] + (sin * row)[:, None]
        y = (cos * row)[:, None] - (sin * col)[None, :]
        return x.astype(np.float32), y.astype(np.float32)

    def grain(self, rng: np.random.Generator, blur: float, *, fine: bool = False) -> Floats:
        """Return a smooth random field (H, W) of unit deviation; `blur` in lattice points."""
        h, w = (2 * n if fine else n for n in self._lattice_shape)
        field = gaussian_filter(rng.standard_normal((h, w), dtype=np.float32), blur, truncate=2.5)
        return self.enlarge(field / field.std())

    def shrink(self, field: Floats) -> Floats:
        """Average a film (H, W) down to the lattice."""
        h, w = self._lattice_shape
        image = Image.fromarray(field).resize((w, h), Image.Resampling.BOX)
        return np.asarray(image, dtype=np.float32)

    def enlarge(self, field: Floats) -> Floats:
        """Interpolate a lattice field (h, w) to the film."""
        image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
        size = (self.width, self.height)
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
