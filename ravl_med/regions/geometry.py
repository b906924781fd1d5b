"""From stored pixels to the model's input: the mapping of boxes and masks, there and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

ResizeMode = Literal["shortest", "longest", "squash"]


@dataclass(frozen=True, slots=True)
class InputGeometry:
    """Maps the stored matrix of one film onto the square input of a model, and back."""

    height: int  # of the stored matrix, in pixels
    width: int
    size: int  # side of the model's input in pixels
    scale_x: float  # input pixels for each stored pixel
    scale_y: float
    offset_x: float  # input coordinate of the stored origin: negative if cropped, else padded
    offset_y: float
    mirrored: bool = False  # the input is flipped left to right, after scale and offset

    @classmethod
    def of(
        cls, height: int, width: int, size: int, mode: ResizeMode, *, mirrored: bool = False
    ) -> InputGeometry:
        """Return the geometry of open_clip's preprocessing.

        ``shortest`` resizes the shorter side to `size` and cuts out the centre; ``longest`` resizes
        the longer side and pads around; ``squash`` stretches both sides to `size`. `mirrored` flips
        the input left to right at the end.
        """
        if mode == "squash":
            return cls(height, width, size, size / width, size / height, 0.0, 0.0, mirrored)
        resized_h, resized_w = _resized(height, width, size, mode)
        # torchvision crops and pads at whole pixels, rounding half the difference.
        top = -round((resized_h - size) / 2.0) if resized_h >= size else (size - resized_h) // 2
        left = -round((resized_w - size) / 2.0) if resized_w >= size else (size - resized_w) // 2
        scale_x, scale_y = resized_w / width, resized_h / height
        return cls(height, width, size, scale_x, scale_y, float(left), float(top), mirrored)

    def to_input(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map boxes (n, 4), xyxy in stored pixels, to the model's input, clipped to its view.

        A box outside of the view has no extent.
        """
        moved = self._flip(boxes * self._scale() + self._offset())
        return np.clip(moved, 0.0, float(self.size)).astype(np.float32)

    def to_stored(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map boxes (n, 4), xyxy in input pixels, back to stored pixels, clipped to the film.

        A box outside of the film has no extent.
        """
        moved = (self._flip(boxes.astype(np.float64)) - self._offset()) / self._scale()
        limit = np.array([self.width, self.height] * 2, dtype=np.float64)
        return np.clip(moved, 0.0, limit).astype(np.float32)

    def visible_share(self, boxes: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the share of each box's area that the model sees, shape (n,)."""
        # Mirroring keeps what is seen: the input is mirrored onto itself.
        moved = boxes * self._scale() + self._offset()
        seen = np.clip(moved, 0.0, float(self.size))
        area = np.prod(moved[:, 2:] - moved[:, :2], axis=1)
        inside = np.prod(np.maximum(seen[:, 2:] - seen[:, :2], 0.0), axis=1)
        share: NDArray[np.float64] = np.divide(
            inside, area, out=np.zeros_like(area), where=area > 0
        )
        return share

    def mask_to_input(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Map a mask (h, w) of the whole film, at any sampling, to the model's input (size, size).

        Input pixels count that lie half or more in the mask; the padding is False.
        """
        film = np.array([0, 0, self.width, self.height]) * self._scale() + self._offset()
        return self._flip_mask(_stretch(mask, film, (self.size, self.size)))

    def mask_to_stored(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Map a mask (size, size) of the model's input back to stored pixels (height, width).

        Pixels that the model never sees are False.
        """
        seen = (np.array([0, 0, self.size, self.size]) - self._offset()) / self._scale()
        return _stretch(self._flip_mask(mask), seen, (self.height, self.width))

    def _flip(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.mirrored:
            return boxes
        x0, y0, x1, y1 = boxes.T
        return np.stack([self.size - x1, y0, self.size - x0, y1], axis=1)

    def _flip_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.ascontiguousarray(np.fliplr(mask)) if self.mirrored else mask

    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y] * 2, dtype=np.float64)

    def _offset(self) -> NDArray[np.float64]:
        return np.array([self.offset_x, self.offset_y] * 2, dtype=np.float64)


def _resized(height: int, width: int, size: int, mode: ResizeMode) -> tuple[int, int]:
    """Return height and width after the resize, rounded as open_clip and torchvision do."""
    if mode == "shortest":  # torchvision truncates the longer side
        if height <= width:
            return size, int(size * width / height)
        return int(size * height / width), size
    ratio = max(height, width) / size
    return round(height / ratio), round(width / ratio)


def _stretch(
    mask: NDArray[np.bool_], box: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Stretch a mask over an xyxy box of a raster of `shape`; outside the box all is False."""
    (h, w), (height, width) = mask.shape, shape
    x0, y0, x1, y1 = box.tolist()
    # The warp reads four neighbours and skips the rest: average first wherever the box is smaller.
    less_w, less_h = min(w, max(1, round(x1 - x0))), min(h, max(1, round(y1 - y0)))
    cover = cv2.resize(mask.astype(np.float32), (less_w, less_h), interpolation=cv2.INTER_AREA)
    scale_x, scale_y = (x1 - x0) / less_w, (y1 - y0) / less_h
    # Pixel i covers [i, i + 1), whereas the warp has its centre at i.
    place = np.array(
        [[scale_x, 0.0, x0 + scale_x / 2 - 0.5], [0.0, scale_y, y0 + scale_y / 2 - 0.5]]
    )
    warped = cv2.warpAffine(cover, place, (width, height), borderMode=cv2.BORDER_REPLICATE)
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    inside = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
    stretched: NDArray[np.bool_] = (warped >= 0.5) & inside
    return stretched


def box_overlaps(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union of boxes (n, 4) and (m, 4), shape (n, m)."""
    inside, (one, two) = _shared_area(a, b)
    return _ratio(inside, one + two - inside)


def box_shares(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the shared area of boxes (n, 4) and (m, 4) as a share of the smaller, (n, m)."""
    inside, areas = _shared_area(a, b)
    return _ratio(inside, np.minimum(*areas))


def _shared_area(
    a: NDArray[np.floating], b: NDArray[np.floating]
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Return the shared area (n, m), and the areas (n, 1) and (1, m)."""
    one, two = a[:, None].astype(np.float64), b[None].astype(np.float64)
    sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2])
    areas = [np.prod(np.maximum(x[..., 2:] - x[..., :2], 0.0), axis=2) for x in (one, two)]
    return np.prod(np.maximum(sides, 0.0), axis=2), areas


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return ratio


def box_overlap(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the intersection over union of two xyxy boxes."""
    return float(box_overlaps(a[None], b[None])[0, 0])


def common_area(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the area that two xyxy boxes share."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0.0) * max(high, 0.0)


def mask_extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the box around a mask that is not empty, xyxy in its pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
