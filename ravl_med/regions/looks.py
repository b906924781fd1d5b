"""How a thing on a film looks, in words that need no name: tone, form and size; and in numbers.

A name has to be earned (see `film_structures`); what has none is described by what anybody can see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude, gaussian_laplace, label

Tone = Literal["bright", "dark"]
Form = Literal["round", "long and thin", "in pieces", ""]

_FAINT = 10.0  # gray levels between a thing and what is around it
_TAIL = 0.03  # of the pixels of a box, that stand for its brightest and darkest
_SHARP = 0.5  # of the strongest contrast, from which a pixel belongs to a thing
_ROUND, _THIN = 0.72, 0.28  # of the circle around a thing; of its length
_ONE = 0.6  # share of the pixels that the largest piece holds, if the thing is one
_SMALLEST = 3  # pixels, of a box
_COMMON = 0.5  # share of the looks from which a word stands for all
_AROUND = 1.5  # sides of what is described, in those of a region: a thing may lie on its border
_BLOBS = np.array([1, 2, 4]) / 96  # scales of blobs, as shares of a picture's side
_STRENGTHS = (50, 90, 98)  # percentiles of edges
_MARGIN = 4.0  # of a filter, in its scales

TEXTURES = 12
"""Numbers that `measure_textures` gives a region."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a thing looks."""

    tone: Tone
    form: Form  # blank: no plain one
    length: float  # share of the film's width; NaN in pieces


def read_look(picture: NDArray[np.uint8], box: Sequence[float]) -> Look | None:
    """Return the look of what stands out in a box, xyxy as shares, of a picture (S, S)."""
    side = len(picture)
    x0, y0 = (max(int(edge * side), 0) for edge in box[:2])
    x1, y1 = (
        max(round(edge * side), low + _SMALLEST)
        for edge, low in zip(box[2:], (x0, y0), strict=True)
    )
    left, top = max(x0 - (x1 - x0) // 2, 0), max(y0 - (y1 - y0) // 2, 0)
    around = picture[top : y1 + (y1 - y0) // 2, left : x1 + (x1 - x0) // 2].astype(np.float32)
    inner = np.zeros(around.shape, dtype=np.bool_)
    inner[y0 - top : y1 - top, x0 - left : x1 - left] = True
    if not inner.any() or inner.all():
        return None
    relief = around - np.float32(np.median(around[~inner]))
    low, high = np.quantile(relief[inner], [_TAIL, 1.0 - _TAIL])
    tone: Tone = "bright" if high >= -low else "dark"
    relief, strength = (relief, high) if tone == "bright" else (-relief, -low)
    if strength < _FAINT:
        return None
    parts, _ = label((relief > _SHARP * strength) & inner, structure=np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    if sizes.max() < _ONE * sizes.sum():
        return Look(tone, "in pieces", float("nan"))
    largest = (parts == 1 + int(sizes.argmax())).astype(np.uint8)
    contours, _ = cv2.findContours(largest, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = np.concatenate(contours)
    _, sides, _ = cv2.minAreaRect(points)
    longer, shorter = max(sides) + 1.0, min(sides) + 1.0
    _, radius = cv2.minEnclosingCircle(points)
    filled = float(sizes.max()) / (np.pi * (radius + 0.5) ** 2)
    form: Form = (
        "long and thin" if shorter <= _THIN * longer else "round" if filled >= _ROUND else ""
    )
    return Look(tone, form, float(longer) / side)


def describe_looks(looks: Sequence[Look | None], widths_mm: Sequence[float]) -> str:
    """Say what most of some looks share, such as ``bright, round, 12 mm``; blank where none do.

    `widths_mm` are those of the films, 0 where the file does not state the size of a pixel; then
    sizes are shares of the film's width.
    """
    seen = [(look, wide) for look, wide in zip(looks, widths_mm, strict=True) if look is not None]
    if len(seen) <= _COMMON * len(looks):
        return ""
    words: list[str] = []
    for values in ([look.tone for look, _ in seen], [look.form for look, _ in seen]):
        most, count = Counter(values).most_common(1)[0]
        if most and count > _COMMON * len(looks):
            words.append(most)
    if not words:
        return ""
    lengths = np.array([look.length for look, _ in seen])
    if np.isfinite(lengths).mean() > _COMMON:
        widths = np.array([wide for _, wide in seen])
        known = np.isfinite(lengths) & (widths > 0)
        if known.sum() > _COMMON * len(seen):
            words.append(f"{np.median((lengths * widths)[known]):.0f} mm")
        else:
            words.append(f"{100.0 * np.nanmedian(lengths):.0f} % of the film's width")
    return ", ".join(words)


def measure_textures(
    read: Callable[[int], NDArray[np.float32]],
    films: NDArray[np.int64],
    boxes: NDArray[np.floating],
) -> NDArray[np.float32]:
    """Measure tone, blobs and edges of regions (n,) of films, xyxy (n, 4) of what is read.

    Mean and standard deviation; the strongest bright and dark blob of three scales, by the
    normalised Laplacian of Gaussian (Lindeberg, 1998); percentiles of the gradient; fine detail.
    All but the mean are square roots that keep their sign. A model that has hardly learned a thing
    embeds it next to nowhere; this is how it looks, whatever a model makes of it.

    Parameters
    ----------
    read : function - film to its picture (3, S, S)

    Returns
    -------
    ndarray of shape (n, `TEXTURES`), float32 - in units of the pictures
    """
    found = np.empty((len(films), TEXTURES), dtype=np.float32)
    order = np.argsort(films, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(films[order])) + 1):
        if len(rows):
            found[rows] = _textures_of(read(int(films[rows[0]])).mean(axis=0), boxes[rows])
    return found


def _textures_of(picture: NDArray[np.float32], boxes: NDArray[np.floating]) -> NDArray[np.float32]:
    """Measure regions (k, 4) of one picture (S, S): (k, T)."""
    side = len(picture)
    middles, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * _AROUND / 2
    low = np.clip(np.floor(middles - sides), 0, side - 2).astype(int)
    high = np.clip(np.ceil(middles + sides), low + 2, side).astype(int)
    scales = np.maximum(_BLOBS * side, 1.0)
    reach = int(np.ceil(_MARGIN * scales.max()))
    left, top = np.maximum(low.min(axis=0) - reach, 0)
    right, bottom = high.max(axis=0) + reach
    part = picture[top:bottom, left:right].astype(np.float32)
    blobs = [s * s * gaussian_laplace(part, s, mode="nearest", truncate=_MARGIN) for s in scales]
    edges = gaussian_gradient_magnitude(part, 1.0, mode="nearest")
    fine = part - gaussian_filter(part, 2.0, mode="nearest")
    found = np.empty((len(boxes), TEXTURES), dtype=np.float32)
    for own, (x0, y0), (x1, y1) in zip(found, low - (left, top), high - (left, top), strict=True):
        here = slice(y0, y1), slice(x0, x1)
        spots = [end(blob[here]) for blob in blobs for end in (np.max, np.min)]
        strengths = np.percentile(edges[here], _STRENGTHS)
        detail = np.sqrt(np.square(fine[here]).mean())
        own[:] = [part[here].mean(), part[here].std(), *spots, *strengths, detail]
    found[:, 1:] = np.sign(found[:, 1:]) * np.sqrt(np.abs(found[:, 1:]))
    return found
