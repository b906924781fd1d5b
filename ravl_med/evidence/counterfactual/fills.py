"""Pictures without a region, and pictures with a foreign one.

All of it happens at the resolution of the model, on its preprocessed input. Two fills that share no
assumption stand beside each other: the median of the surroundings is flat and leaves an edge,
inpainting continues what is around and leaves none. An effect that only one of them shows is an
effect of the fill.

References
----------
Bertalmio, Bertozzi, Sapiro, "Navier-Stokes, fluid dynamics, and image and video inpainting",
CVPR 2001.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]  # (3, S, S) input of the model; what is returned is a copy
Mask = NDArray[np.bool_]  # (S, S)

_RADIUS = 3
_DEPTH = 65535.0


def fill_median(image: Image, box: NDArray[np.float32]) -> Image:
    """Fill every pixel that a box (4,), xyxy, touches with the median of its surroundings.

    The surroundings are a ring around the box, a quarter of its sides wide, at least 2 pixels. A
    box that is the whole image takes the median of the image, channel by channel.
    """
    inside = _cover(box[None], image.shape[1:])
    filled = image.copy()
    filled[:, inside] = _surrounding_median(image, inside, box[None])[:, None]
    return filled


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
    patch = _median(image, np.zeros(image.shape[1:], np.bool_))[:, None, None]
    if across is not None and down is not None:
        near_x, near_y = (_distance(n) for n in (x1 - x0, y1 - y0))
        weight = near_y[:, None] / (near_x[None, :] + near_y[:, None])
        patch = across * weight + down.transpose(0, 2, 1) * (1 - weight)
    elif across is not None:
        patch = across
    elif down is not None:
        patch = down.transpose(0, 2, 1)
    filled[:, y0:y1, x0:x1] = patch
    return filled


def fill_inpaint(image: Image, box: NDArray[np.float32]) -> Image:
    """Fill every pixel that a box (4,), xyxy, touches by continuing its surroundings into it.

    On real films both methods of OpenCV let the fronts meet on the diagonals of the box;
    Navier-Stokes carries ribs and the border of the heart farther and stays within the values of
    the film, Telea ends in brighter rays, and on 32-bit floats it leaves the range of the image
    (-1.0 to 2.0 from values of 0 to 1, OpenCV 5.0). Each channel is stretched to 16 bits, so no
    band shows; channels that differ by scale and offset alone, as those of a film do, are computed
    once. A box that is the whole image has no surroundings and takes the median.
    """
    return fill_mask_inpaint(image, _cover(box[None], image.shape[1:]))


def fill_mask_median(image: Image, inside: Mask) -> Image:
    """Fill a mask (S, S) with the median of a ring of 3 pixels around it, channel by channel."""
    ring = cv2.dilate(inside.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool) & ~inside
    filled = image.copy()
    filled[:, inside] = _median(image, ring)[:, None]
    return filled


def fill_mask_inpaint(image: Image, inside: Mask) -> Image:
    """Fill a mask (S, S) by continuing its surroundings into it, as `fill_inpaint` does."""
    if inside.all():
        return fill_mask_median(image, inside)
    filled = image.copy()
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


def fill_contrast(image: Image, box: NDArray[np.float32]) -> float:
    """Return how strongly `fill_median` changes a box: root mean square over its pixels."""
    inside = _cover(box[None], image.shape[1:])
    value = _surrounding_median(image, inside, box[None])
    change = image[:, inside].astype(np.float64) - value[:, None]
    return float(np.sqrt(np.mean(change**2)))


def transplant_patches(
    target: Image,
    source: Image,
    target_boxes: NDArray[np.float32],
    source_boxes: NDArray[np.float32],
) -> Image:
    """Transplant boxes (k, 4), xyxy, of one image into another, each to its new place.

    Boxes that touch are transplanted as one patch, so there is no seam between them. A patch is
    resized to its place, shifted so that the median of its surroundings is that of the new
    surroundings, and faded in over a sixth of the side of a box (cosine ramp); no hard edge is
    left. At the border of the image nothing is faded.
    """
    shape = target.shape[1:]
    blended = target.copy()
    _, patch = cv2.connectedComponents(_cover(target_boxes, shape).astype(np.uint8))
    home = np.array([patch[y0, x0] for x0, y0, _, _ in _pixels(target_boxes, shape)])
    for number in range(1, int(patch.max(initial=0)) + 1):
        new, old = target_boxes[home == number], source_boxes[home == number]
        inside, cut = _cover(new, shape), _cover(old, source.shape[1:])
        shift = _surrounding_median(target, inside, new) - _surrounding_median(source, cut, old)
        moved = target.copy()
        for there, here in zip(_pixels(new, shape), _pixels(old, source.shape[1:]), strict=True):
            x0, y0, x1, y1 = there
            moved[:, y0:y1, x0:x1] = _resize(source[:, here[1] : here[3], here[0] : here[2]], there)
        moved[:, inside] += shift[:, None]
        ramp = max(1.0, float(np.median((new[:, 2:] - new[:, :2]).min(axis=1))) / 6.0)
        depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        weight = 0.5 - 0.5 * np.cos(np.pi * np.clip((depth - 0.5) / ramp, 0.0, 1.0))
        mixed = target + weight.astype(np.float32) * (moved - target)
        blended[:, inside] = mixed[:, inside]
    return blended


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
    wide = np.pad(line, ((0, 0), (1, 1)), mode="edge")
    mean: NDArray[np.float32] = (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]) / np.float32(4)
    return mean


def _between(
    first: NDArray[np.float32] | None, last: NDArray[np.float32] | None, steps: int
) -> NDArray[np.float32] | None:
    """Values (3, n, steps) on straight lines between two sides (3, n); one stands for a missing."""
    first, last = (first if first is not None else last), (last if last is not None else first)
    if first is None or last is None:
        return None
    place = ((np.arange(steps) + 1) / (steps + 1)).astype(np.float32)
    return first[:, :, None] * (1 - place) + last[:, :, None] * place


def _distance(pixels: int) -> NDArray[np.float32]:
    """Distance of each of so many pixels in a row to the nearer end, in pixels."""
    place = np.arange(pixels) + 1
    return np.minimum(place, pixels + 1 - place).astype(np.float32)


def _cover(boxes: NDArray[np.float32], shape: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape, dtype=np.bool_)
    for x0, y0, x1, y1 in _pixels(boxes, shape):
        mask[y0:y1, x0:x1] = True
    return mask


def _surrounding_median(image: Image, inside: Mask, boxes: NDArray[np.float32]) -> Image:
    """Lower median of the ring around boxes, (3,); of the image where there is no ring."""
    pixels = _pixels(boxes, inside.shape)
    ring = np.zeros_like(inside)
    for x0, y0, x1, y1 in pixels:
        pad_x, pad_y = max(2, (x1 - x0) // 4), max(2, (y1 - y0) // 4)
        ring[max(y0 - pad_y, 0) : y1 + pad_y, max(x0 - pad_x, 0) : x1 + pad_x] = True
    return _median(image, ring & ~inside)


def _median(image: Image, ring: Mask) -> Image:
    """Lower median of some pixels, (3,); of the image where there are none."""
    values = image[:, ring] if ring.any() else image.reshape(len(image), -1)
    middle = (values.shape[1] - 1) // 2
    median: Image = np.partition(values, middle, axis=1)[:, middle]
    return median


def _inpaint(levels: NDArray[np.uint16], inside: Mask) -> NDArray[np.uint16]:
    painted: Any = cv2.inpaint(levels, inside.astype(np.uint8), _RADIUS, cv2.INPAINT_NS)
    return np.asarray(painted, dtype=np.uint16)


def _resize(patch: Image, box: NDArray[np.int64]) -> Image:
    size = (int(box[2] - box[0]), int(box[3] - box[1]))
    resized: Image = np.stack(
        [cv2.resize(channel, size, interpolation=cv2.INTER_LINEAR) for channel in patch]
    ).astype(np.float32)
    return resized
