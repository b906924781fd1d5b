"""From stored pixels to the model's input: the path of a box through the preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["InputGeometry", "ResizeMode", "box_overlap", "box_overlaps"]

ResizeMode = Literal["shortest", "longest", "squash"]


@dataclass(frozen=True, slots=True)
class InputGeometry:
    """Maps the stored matrix of one film onto the square input of a model.

    Attributes
    ----------
    height, width : int - stored matrix in pixels
    size : int - side of the model's input in pixels
    scale_x, scale_y : float - input pixels for each stored pixel
    offset_x, offset_y : float - input coordinate of the stored origin; negative where the film is
        cropped, positive where it is padded
    """

    height: int
    width: int
    size: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    @classmethod
    def of(cls, height: int, width: int, size: int, mode: ResizeMode) -> InputGeometry:
        """Return the geometry of open_clip's preprocessing.

        ``shortest`` resizes the shorter side to `size` and cuts out the centre; ``longest``
        resizes the longer side and pads around; ``squash`` stretches both sides to `size`.
        """
        if mode == "squash":
            return cls(height, width, size, size / width, size / height, 0.0, 0.0)
        resized_h, resized_w = _resized(height, width, size, mode)
        # torchvision crops and pads at whole pixels, rounding half the difference.
        top = -round((resized_h - size) / 2.0) if resized_h >= size else (size - resized_h) // 2
        left = -round((resized_w - size) / 2.0) if resized_w >= size else (size - resized_w) // 2
        return cls(
            height, width, size, resized_w / width, resized_h / height, float(left), float(top)
        )

    def to_input(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Carry boxes from stored pixels to the model's input, clipped to what the model sees.

        Parameters
        ----------
        boxes : ndarray of shape (n, 4), float32 - xyxy in stored pixels, half-open

        Returns
        -------
        ndarray of shape (n, 4), float32 - xyxy in input pixels; empty boxes have no extent
        """
        moved = boxes * self._scale() + self._offset()
        return np.clip(moved, 0.0, float(self.size)).astype(np.float32)

    def to_stored(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Carry boxes from the model's input back to stored pixels, clipped to the film."""
        moved = (boxes - self._offset()) / self._scale()
        limit = np.array([self.width, self.height, self.width, self.height], dtype=np.float64)
        return np.clip(moved, 0.0, limit).astype(np.float32)

    def visible_share(self, boxes: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the share of each box's area that the model sees, shape (n,)."""
        moved = boxes * self._scale() + self._offset()
        seen = np.clip(moved, 0.0, float(self.size))
        area = np.prod(moved[:, 2:] - moved[:, :2], axis=1)
        inside = np.prod(np.maximum(seen[:, 2:] - seen[:, :2], 0.0), axis=1)
        share: NDArray[np.float64] = np.divide(
            inside, area, out=np.zeros_like(area), where=area > 0
        )
        return share

    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y] * 2, dtype=np.float64)

    def _offset(self) -> NDArray[np.float64]:
        return np.array([self.offset_x, self.offset_y] * 2, dtype=np.float64)


def _resized(height: int, width: int, size: int, mode: ResizeMode) -> tuple[int, int]:
    """Height and width after the resize, as open_clip and torchvision round them."""
    if mode == "shortest":  # torchvision truncates the longer side
        if height <= width:
            return size, int(size * width / height)
        return int(size * height / width), size
    ratio = max(height, width) / size
    return round(height / ratio), round(width / ratio)


def box_overlaps(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union of boxes (n, 4) and (m, 4), shape (n, m)."""
    one, two = a[:, None].astype(np.float64), b[None].astype(np.float64)
    sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2])
    inside = np.prod(np.maximum(sides, 0.0), axis=2)
    area = [np.prod(np.maximum(x[..., 2:] - x[..., :2], 0.0), axis=2) for x in (one, two)]
    union = area[0] + area[1] - inside
    shares: NDArray[np.float64] = np.divide(
        inside, union, out=np.zeros_like(inside), where=union > 0
    )
    return shares


def box_overlap(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the intersection over union of two xyxy boxes."""
    return float(box_overlaps(a[None], b[None])[0, 0])
