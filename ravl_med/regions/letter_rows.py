"""Text on films without OCR: rows of small things that stand out alike, and what a segmenter finds.

It cannot read, so that every row of letters is text that nobody has allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ravl_med.regions.film_structures import read_structures
from ravl_med.regions.segmentation import Segmenter
from ravl_med.regions.text_search import TextArea, View

__all__ = ["LetterRows"]

_REACH = (9, 25, 61)  # pixels: widest stroke that stands out from what is around it
_CONTRAST, _NOISE = 24.0, 8.0  # gray levels, and deviations of the film's noise, at least
_LOW, _HIGH = 5, 0.08  # height of a letter: pixels, and share of the film's longer side
_FILLED = (0.12, 0.95)  # share of its box that a letter covers
_WIDE, _NARROW = 4.0, 0.08  # of its height; letters that touch are one thing
_ENDS = 0.6  # of its height that is added at both ends of a row, where a letter was lost
_ALIKE, _LEVEL, _GAP = 1.6, 0.6, 1.2  # ratio of heights, overlap in height, gap in heights
_LETTERS = 4  # in a row, at least; fewer things side by side are often ribs
_MOST = 4000  # things of a film that are looked at


class LetterRows:
    """Finds rows of letters by their shape.

    Parameters
    ----------
    segmenter : Segmenter or None - whose burned-in text is taken as well
    """

    reads = False
    method = "rows of letters by their shape, no OCR"

    def __init__(self, segmenter: Segmenter | None = None) -> None:
        self._segmenter = segmenter

    def find(self, film: NDArray[np.uint8], views: Sequence[View] = ()) -> tuple[TextArea, ...]:
        """Find the text on a film (H, W), uint8; its parts are not looked at by themselves."""
        boxes = [*_rows(film), *(box[[1, 0, 3, 2]] for box in _rows(film.T))]
        if self._segmenter is not None:
            height, width = film.shape
            seen = read_structures(self._segmenter, film.astype(np.float32) / np.float32(255.0))
            boxes += [
                np.array(one.box) * (width, height, width, height)
                for one in seen.artifacts
                if one.kind == "text"
            ]
        return tuple(TextArea(_corners(box), allowed=False) for box in boxes)


def _corners(box: NDArray[np.float64]) -> NDArray[np.float64]:
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64)


def _rows(film: NDArray[np.uint8]) -> Iterator[NDArray[np.float64]]:
    """Yield the boxes, xyxy, of rows of letters that run from left to right."""
    gray = np.ascontiguousarray(film)
    noise = float(np.median(np.abs(cv2.Laplacian(gray, cv2.CV_32F)))) / 4.0
    least = max(_CONTRAST, _NOISE * noise)
    for reach in _REACH:
        stroke = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
        for kind in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):
            ink = cv2.morphologyEx(gray, kind, stroke) >= least
            yield from _joined(_letters(ink.astype(np.uint8)))


def _letters(ink: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the boxes (n, 4), xyxy, of connected things of the shape of a letter."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    left, top, wide, high, area = stats[1:].T.astype(np.float64)
    filled = area / (wide * high)
    fits = (
        (high >= _LOW)
        & (high <= _HIGH * max(ink.shape))
        & (wide <= _WIDE * high)
        & (wide >= _NARROW * high)
        & (filled >= _FILLED[0])
        & (filled <= _FILLED[1])
    )
    boxes: NDArray[np.float64] = np.stack([left, top, left + wide, top + high], axis=1)[fits]
    return boxes[:_MOST]


def _joined(boxes: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield the boxes around letters (n, 4) that stand in a row."""
    if len(boxes) < _LETTERS:
        return
    x0, y0, x1, y1 = boxes.T
    high = y1 - y0
    lower, higher = np.minimum(high[:, None], high), np.maximum(high[:, None], high)
    level = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    gap = np.maximum(x0[:, None], x0) - np.minimum(x1[:, None], x1)
    near = (higher <= _ALIKE * lower) & (level >= _LEVEL * lower) & (gap <= _GAP * lower)
    one, other = np.nonzero(near)
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=near.shape)
    count, row = connected_components(graph, directed=False)
    for number in range(count):
        part = boxes[row == number]
        if len(part) >= _LETTERS:
            box = np.concatenate([part[:, :2].min(axis=0), part[:, 2:].max(axis=0)])
            more = _ENDS * (box[3] - box[1])
            yield box + np.array([-more, 0.0, more, 0.0])
