"""The films of one task and their regions, as every test of evidence takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["AuditedImages"]


@dataclass(frozen=True, slots=True, eq=False)
class AuditedImages:
    """The audited images and their regions, as evidence needs them.

    Attributes
    ----------
    classes : tuple of str, length C
    labels : ndarray of shape (N,), int64 - class of each image; -1 takes no part in the task
    predictions : ndarray of shape (N,), int64 - class with the highest zero-shot score
    patients : ndarray of shape (N,), int64 - patient of each image, 0 .. P - 1
    sizes : ndarray of shape (N, 2), int64 - height and width of each stored film in pixels
    region_image : ndarray of shape (R,), int64 - image of each region
    region_boxes : ndarray of shape (R, 4), float32 - xyxy in stored pixels, origin at the outer
        corner of the top-left pixel, half-open
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    patients: NDArray[np.int64]
    sizes: NDArray[np.int64]
    region_image: NDArray[np.int64]
    region_boxes: NDArray[np.float32]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the prediction equals the label, shape (N,)."""
        right: NDArray[np.bool_] = self.predictions == self.labels
        return right
