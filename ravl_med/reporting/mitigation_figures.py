"""What a mitigation report draws, as shapes: dots with intervals, learning curves, the symbol.

A figure is drawn once here and then set into a PDF or into HTML, so that both show the same.
Lengths are in points, the origin is the lower left corner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from reportlab.lib.colors import Color

from ravl_med.evidence.claims import Interval
from ravl_med.evidence.mitigation_result import LearningCurve, VerdictWord
from ravl_med.reporting.mitigation_blocks import Dots
from ravl_med.reporting.mitigation_words import epochs_words
from ravl_med.reporting.pdf_shapes import PRESENT
from ravl_med.reporting.pdf_style import INK, MUTED, RULE
from ravl_med.reporting.wording import number, percent

__all__ = [
    "OUTCOME_LOOK",
    "Figure",
    "Label",
    "Mark",
    "Path",
    "curve_figure",
    "dot_figure",
    "outcome_figure",
    "scale_figure",
]


def _hex(colour: Color) -> str:
    return f"#{colour.hexval()[2:]}"


_INK, _MUTED, _RULE, _AFTER = map(_hex, (INK, MUTED, RULE, PRESENT))
_WHITE = "#ffffff"
_INSET = 6.0
_SMALL = 6.4
_MANY_LABELS = 80.0  # a narrower scale names its ends alone

OUTCOME_LOOK: dict[VerdictWord, tuple[str, str, str]] = {
    # fill, text, edge: pale, middle, dark and white, so that grey paper tells them apart too
    "improved": ("#dcefe9", _INK, "#00795f"),
    "no_change": ("#f0b440", _INK, "#b97e08"),
    "worse": ("#8f260b", _WHITE, "#8f260b"),
    "nothing_to_do": (_WHITE, _INK, _MUTED),
}


@dataclass(frozen=True, slots=True)
class Path:
    """A line through points; a closed one is a polygon without filling."""

    points: tuple[tuple[float, float], ...]
    colour: str
    weight: float
    dash: tuple[float, ...] = ()
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A circle, or a square with the same half side; filled with `fill`."""

    x: float
    y: float
    radius: float
    colour: str
    fill: str
    square: bool = False
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Label:
    """Text whose anchor is on its base line."""

    x: float
    y: float
    text: str
    anchor: Literal["start", "middle", "end"] = "start"
    colour: str = _MUTED
    size: float = _SMALL


@dataclass(frozen=True, slots=True)
class Figure:
    """Shapes in the order in which they are drawn, and the same in words."""

    width: float
    height: float
    shapes: tuple[Path | Mark | Label, ...]
    words: str


def dot_figure(dots: Dots, width: float, height: float = 15.0) -> Figure:
    """Draw one row of a dot-and-interval plot, before above after.

    Parameters
    ----------
    dots : Dots
    width, height : float - points
    """
    ticks = [
        Path(
            ((_along(tick, width), 0.0), (_along(tick, width), height)),
            _MUTED if dots.signed and tick == 0.5 else _RULE,
            0.35,
        )
        for tick in (0.0, 0.5, 1.0)
    ]
    before = _dot(
        dots.before, dots.before_interval, width, 0.72 * height, after=False, signed=dots.signed
    )
    after = _dot(
        dots.after, dots.after_interval, width, 0.28 * height, after=True, signed=dots.signed
    )
    write = number if dots.signed else percent
    words = f"before {write(dots.before)}, after {write(dots.after)}"
    return Figure(width, height, (*ticks, *before, *after), words)


def _along(share: float, width: float) -> float:
    return _INSET + min(max(share, 0.0), 1.0) * (width - 2 * _INSET)


def _dot(
    value: float, interval: Interval, width: float, y: float, *, after: bool, signed: bool
) -> Iterator[Path | Mark]:
    """Give an interval and its dot; what is not a number is not drawn."""
    colour = _AFTER if after else _MUTED

    def x(measured: float) -> float:
        return _along((measured + 1.0) / 2.0 if signed else measured, width)

    if math.isfinite(interval.low) and math.isfinite(interval.high):
        yield Path(((x(interval.low), y), (x(interval.high), y)), colour, 1.0)
    if math.isfinite(value):
        yield _mark(x(value), y, after=after)


def _mark(x: float, y: float, *, after: bool) -> Mark:
    if after:
        return Mark(x, y, 2.2, _AFTER, _AFTER)
    return Mark(x, y, 2.1, _MUTED, _WHITE, square=True)


def scale_figure(width: float, *, signed: bool) -> Figure:
    """Draw the head of a column of dots: what the marks mean, and the ends of the scale."""
    unit = " %" if not signed else ""
    names = ("−100", "0", "+100") if signed else (f"0{unit}", f"50{unit}", f"100{unit}")
    shapes: list[Path | Mark | Label] = [
        _mark(_INSET, 14.6, after=False),
        Label(_INSET + 5, 12.2, "before"),
        _mark(_INSET + 37, 14.6, after=True),
        Label(_INSET + 42, 12.2, "after"),
        Label(1.0, 2.0, names[0]),
        Label(width - 1.0, 2.0, names[2], "end"),
    ]
    if width >= _MANY_LABELS or signed:
        shapes.append(Label(width / 2, 2.0, names[1], "middle"))
    words = f"scale from {names[0]} to {names[2]}, open square before, filled circle after"
    return Figure(width, 20.0, tuple(shapes), words)


def curve_figure(curve: LearningCurve, width: float, height: float = 112.0) -> Figure:
    """Draw the loss above and the accuracies on the selection films below, over the epochs.

    Parameters
    ----------
    curve : LearningCurve - what is not a number is left out
    width, height : float - points
    """
    left, right, low, middle = 36.0, width - 6.0, 18.0, 0.56 * height
    epochs = max(len(curve.losses), len(curve.worst_group), 1)
    loss_box = (left, middle + 6.0, right, height - 11.0)
    accuracy_box = (left, low, right, middle - 6.0)
    finite = [loss for loss in curve.losses if math.isfinite(loss)]
    shapes: list[Path | Mark | Label] = [*_frame(loss_box), *_frame(accuracy_box)]
    shapes += [
        Label(left - 3, loss_box[1] + 1, number(min(finite), 2) if finite else "", "end"),
        Label(left - 3, loss_box[3] - 5, number(max(finite), 2) if finite else "no loss", "end"),
        Label(left - 3, accuracy_box[1] + 1, "0 %", "end"),
        Label(left - 3, accuracy_box[3] - 5, "100 %", "end"),
        Label(left, 8.0, "1"),
        Label((left + right) / 2, 8.0, "epoch", "middle"),
        Label(right, 8.0, str(epochs), "end"),
    ]
    span = (min(finite), max(finite)) if finite else (0.0, 1.0)
    shapes += _curve(curve.losses, span, loss_box, epochs, _INK, 1.2)
    shapes += _curve(curve.overall, (0.0, 1.0), accuracy_box, epochs, _MUTED, 0.9, (3.0, 2.0))
    shapes += _curve(curve.worst_group, (0.0, 1.0), accuracy_box, epochs, _AFTER, 1.5)
    shapes += _kept(curve, accuracy_box, height, epochs)
    words = f"Learning curve, epoch {epochs_words(curve)} kept; the numbers are in the table below"
    return Figure(width, height, tuple(shapes), words)


Box = tuple[float, float, float, float]


def _frame(box: Box) -> list[Path]:
    left, low, right, high = box
    return [Path(((left, high), (left, low), (right, low)), _RULE, 0.6)]


def _place(epoch: int, epochs: int, box: Box) -> float:
    return box[0] + (box[2] - box[0]) * (epoch / (epochs - 1) if epochs > 1 else 0.5)


def _curve(
    values: Sequence[float],
    span: tuple[float, float],
    box: Box,
    epochs: int,
    colour: str,
    weight: float,
    dash: tuple[float, ...] = (),
) -> list[Path | Mark]:
    """Lines through the finite values, a dot where one stands alone."""
    low, high = span
    size = high - low or 1.0
    runs: list[list[tuple[float, float]]] = [[]]
    for epoch, value in enumerate(values):
        if not math.isfinite(value):
            runs.append([])
            continue
        share = (value - low) / size if high > low else 0.5
        runs[-1].append((_place(epoch, epochs, box), box[1] + share * (box[3] - box[1])))
    made: list[Path | Mark] = []
    for run in runs:
        if len(run) > 1:
            made.append(Path(tuple(run), colour, weight, dash))
        elif run:
            made.append(Mark(*run[0], 1.2, colour, colour))
    return made


def _kept(
    curve: LearningCurve, box: Box, height: float, epochs: int
) -> Iterator[Path | Mark | Label]:
    """Mark the epoch that was kept, in words too."""
    if not 0 <= curve.best < epochs:
        return
    x = _place(curve.best, epochs, box)
    yield Path(((x, box[1]), (x, height - 9.0)), _INK, 0.7, (1.0, 1.6))
    edge = x > (box[0] + box[2]) / 2
    anchor: Literal["start", "end"] = "end" if edge else "start"
    yield Label(x, height - 6.5, f"kept: epoch {curve.best + 1}", anchor, _INK)
    if curve.best < len(curve.worst_group) and math.isfinite(curve.worst_group[curve.best]):
        y = box[1] + curve.worst_group[curve.best] * (box[3] - box[1])
        yield Mark(x, y, 2.2, _AFTER, _AFTER)


def outcome_figure(verdict: VerdictWord, side: float = 34.0) -> Figure:
    """Draw a tick, a triangle, a cross or a dash, each a shape of its own.

    Parameters
    ----------
    verdict : {"improved", "no_change", "worse", "nothing_to_do"}
    side : float - points
    """
    x = y = side / 2
    r = 0.41 * side
    fill, text, edge = OUTCOME_LOOK[verdict]
    colour = {"improved": edge, "no_change": text, "worse": text, "nothing_to_do": edge}[verdict]
    circle = Mark(x, y, r, colour, fill, weight=2.6)
    shapes: tuple[Path | Mark, ...]
    if verdict == "improved":
        tick = ((x - 0.45 * r, y), (x - 0.1 * r, y - 0.4 * r), (x + 0.5 * r, y + 0.4 * r))
        shapes = (circle, Path(tick, colour, 2.6))
    elif verdict == "worse":
        d = 0.4 * r
        cross = (((x - d, y - d), (x + d, y + d)), ((x - d, y + d), (x + d, y - d)))
        shapes = (circle, *(Path(line, colour, 2.6) for line in cross))
    elif verdict == "no_change":
        corners = ((x, y + r), (x + r, y - 0.8 * r), (x - r, y - 0.8 * r))
        level = (((x - 0.28 * r, y - 0.1 * r), (x + 0.28 * r, y - 0.1 * r)),
                 ((x - 0.28 * r, y - 0.45 * r), (x + 0.28 * r, y - 0.45 * r)))  # fmt: skip
        shapes = (
            Path(corners, colour, 2.4, closed=True),
            *(Path(line, colour, 2.0) for line in level),
        )
    else:
        shapes = (circle, Path(((x - 0.45 * r, y), (x + 0.45 * r, y)), colour, 2.6))
    return Figure(side, side, shapes, "")
