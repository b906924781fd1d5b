"""How a thing on a film looks, in words that need no name: tone, form and size.

A name has to be earned (see `film_structures`); what has none is described by what anybody can see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

Tone = Literal["bright", "dark"]
Form = Literal["round", "long and thin", "in pieces", ""]

_FAINT = 10.0  # gray levels between a thing and what is around it
_TAIL = 0.03  # of the pixels of a box, that stand for its brightest and darkest
_SHARP = 0.5  # of the strongest contrast, from which a pixel belongs to a thing
_ROUND, _THIN = 0.72, 0.28  # of the circle around a thing; of its length
_ONE = 0.6  # share of the pixels that the largest piece holds, if the thing is one
_SMALLEST = 3  # pixels, of a box
_COMMON = 0.5  # share of the looks from which a word stands for all


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
