"""Pictures without a region, and pictures with a foreign one.

All of it happens at the resolution of the model, on its preprocessed input. Two fills that share no
assumption stand beside each other: interpolation carries the border of a box across it and invents
nothing; mirroring shows tissue of the same film, from the other side of the body. An effect that
only one of them shows is an effect of the fill.

References
----------
Perez, Gangnet, Blake, "Poisson image editing", SIGGRAPH 2003: a patch is carried over less the
difference at its border, which is interpolated inwards. Bertalmio, Bertozzi, Sapiro,
"Navier-Stokes, fluid dynamics, and image and video inpainting", CVPR 2001.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]  # (3, S, S) input of the model; what is returned is a copy
Mask = NDArray[np.bool_]  # (S, S)

_RADIUS = 3
_DEPTH = 65535.0


def fill_interpolated(image: Image, box: NDArray[np.float32]) -> Image:
    """Fill every pixel that a box (4,), xyxy, touches by interpolation from its border.

    Across and down, values go straight from one side of the box to the other; the two are mixed by
    how near each pixel is to their sides. It invents nothing: no value lies outside of those at the
    border. Where a side of the box is a side of the image the opposite one stands for it; a box
    that is the whole image takes the median of the image, channel by channel.
    """
    x0, y0, x1, y1 = _pixels(box[None], image.shape[1:])[0].tolist()
    sides = _borders(image, (x0, y0, x1, y1))
    filled = image.copy()
    across = _between(sides[0], sides[1], x1 - x0)
    down = _between(sides[2], sides[3], y1 - y0)
    if across is not None and down is not None:
        weight = _nearness(y1 - y0, x1 - x0)
        patch = across * weight + down.transpose(0, 2, 1) * (1 - weight)
    elif across is not None:
        patch = across
    elif down is not None:
        patch = down.transpose(0, 2, 1)
    else:
        patch = _median(image)[:, None, None]
    filled[:, y0:y1, x0:x1] = patch
    return filled


def transplant_box(target: Image, source: Image, box: NDArray[np.float32]) -> Image:
    """Put what a box (4,), xyxy, holds in one film into the same place of another.

    The two differ along the border of the box; the difference is interpolated across it and taken
    off, so that no seam is left. A box that is the whole image is taken as it is, plus the
    median of the difference.
    """
    x0, y0, x1, y1 = _pixels(box[None], target.shape[1:])[0].tolist()
    offset = fill_interpolated(target - source, box)
    moved = target.copy()
    moved[:, y0:y1, x0:x1] = source[:, y0:y1, x0:x1] + offset[:, y0:y1, x0:x1]
    return moved


def fill_mirrored(image: Image, box: NDArray[np.float32]) -> Image:
    """Fill a box (4,), xyxy, with the mirror image of the same place on the other side.

    It is set in as `transplant_box` does. A box that reaches the middle is filled from beside it,
    where the mirror image would show a part of itself; one that leaves no room beside it has no
    other side, and is interpolated.
    """
    x0, _, x1, _ = _pixels(box[None], image.shape[1:])[0].tolist()
    width = image.shape[2]
    step, left, right = x1 - x0 + 1, x0, width - x1  # a line of the border belongs to the patch
    if 2 * x1 < width or 2 * x0 > width:
        source = image[:, :, ::-1]
    elif max(left, right) < step:
        return fill_interpolated(image, box)
    else:
        source = np.roll(image, step if left >= right else -step, axis=2)
    return transplant_box(image, source, box)


def fill_mask(image: Image, inside: Mask) -> Image:
    """Fill a mask (S, S) by continuing its surroundings into it.

    Navier-Stokes stays within the values of the film; Telea, the other method of OpenCV, leaves
    them on 32-bit floats (-1.0 to 2.0 from values of 0 to 1, OpenCV 5.0). Each channel is stretched
    to 16 bits, so no band shows; channels that differ by scale and offset alone, as those of a film
    do, are computed once. A mask that is the whole image has no surroundings and takes the median.
    """
    filled = image.copy()
    if inside.all():
        filled[:] = _median(image)[:, None, None]
        return filled
    levels = painted = np.empty((0, 0), np.uint16)
    for channel in range(len(image)):
        low, high = float(image[channel].min()), float(image[channel].max())
        scale = (high - low) / _DEPTH or 1.0
        own = np.rint((image[channel] - low) / scale).astype(np.uint16)
        if own.shape != levels.shape or np.abs(own.astype(np.int32) - levels).max() > 1:
            levels = own
            painted = _inpaint(levels, inside)
        filled[channel, inside] = painted[inside] * np.float32(scale) + np.float32(low)
    return filled


def _pixels(boxes: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Whole pixels that boxes touch, at least one each, inside the image: (k, 4) xyxy."""
    height, width = shape
    limits = np.array([width, height], dtype=np.int64)
    low = np.floor(boxes[:, :2] + 1e-3).astype(np.int64)
    low = np.minimum(np.maximum(low, 0), limits - 1)  # np.clip is three times slower on so few
    high = np.ceil(boxes[:, 2:] - 1e-3).astype(np.int64)
    high = np.minimum(np.maximum(high, low + 1), limits)
    return np.concatenate([low, high], axis=1)


def _borders(image: Image, box: tuple[int, int, int, int]) -> list[NDArray[np.float32] | None]:
    """Lines (3, n) of pixels left, right, above and below a box, smoothed; None off the image."""
    x0, y0, x1, y1 = box
    height, width = image.shape[1:]
    lines = [
        image[:, y0:y1, x0 - 1] if x0 > 0 else None,
        image[:, y0:y1, x1] if x1 < width else None,
        image[:, y0 - 1, x0:x1] if y0 > 0 else None,
        image[:, y1, x0:x1] if y1 < height else None,
    ]
    return [None if line is None else _smoothed(line) for line in lines]


def _smoothed(line: NDArray[np.float32]) -> NDArray[np.float32]:
    """Binomial mean of three neighbours along a line (3, n), so that grain makes no streaks."""
    mean = line * np.float32(0.5)
    quarter = line * np.float32(0.25)
    mean[:, 1:] += quarter[:, :-1]
    mean[:, :-1] += quarter[:, 1:]
    mean[:, 0] += quarter[:, 0]
    mean[:, -1] += quarter[:, -1]
    return mean


def _between(
    first: NDArray[np.float32] | None, last: NDArray[np.float32] | None, steps: int
) -> NDArray[np.float32] | None:
    """Values (3, n, steps) on straight lines between two sides (3, n); one stands for a missing."""
    first, last = (first if first is not None else last), (last if last is not None else first)
    if first is None or last is None:
        return None
    return first[:, :, None] + (last - first)[:, :, None] * _steps(steps)


@lru_cache(maxsize=64)
def _steps(count: int) -> NDArray[np.float32]:
    """Places of so many pixels between two others, as shares of the way, (count,)."""
    return ((np.arange(count) + 1) / (count + 1)).astype(np.float32)


@lru_cache(maxsize=64)
def _nearness(height: int, width: int) -> NDArray[np.float32]:
    """How much nearer each pixel of a box is to its left or right side than above or below."""
    down, across = (np.minimum(n := np.arange(side) + 1, side + 1 - n) for side in (height, width))
    near: NDArray[np.float32] = (down[:, None] / (across + down[:, None])).astype(np.float32)
    return near


def _median(image: Image) -> Image:
    """Median of an image, channel by channel, (3,)."""
    median: Image = np.median(image.reshape(len(image), -1), axis=1).astype(np.float32)
    return median


def _inpaint(levels: NDArray[np.uint16], inside: Mask) -> NDArray[np.uint16]:
    painted: Any = cv2.inpaint(levels, inside.astype(np.uint8), _RADIUS, cv2.INPAINT_NS)
    return np.asarray(painted, dtype=np.uint16)
