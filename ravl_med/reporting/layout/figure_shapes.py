"""What reports draw, as shapes: dots with intervals, their scale, the verdict's symbol.

A figure is drawn once here and then set into a PDF or into HTML, so that both show the same.
Lengths are in points, the origin is the lower left corner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from reportlab.lib.colors import Color

from ravl_med.reporting.layout.blocks import Banner, Tone
from ravl_med.reporting.layout.pdf_style import INK, MUTED, RULE
from ravl_med.reporting.layout.plots import Dot, DotLook, Dots, Scale
from ravl_med.reporting.wording import number, percent

__all__ = [
    "BANNER_LOOK",
    "COLOURS",
    "Figure",
    "Label",
    "Linked",
    "Mark",
    "Path",
    "banner_figure",
    "dot_figure",
    "scale_figure",
]


def _hex(colour: Color) -> str:
    return f"#{colour.hexval()[2:]}"


COLOURS = {
    "ink": _hex(INK),
    "muted": _hex(MUTED),
    "rule": _hex(RULE),
    "main": "#0b5fa5",  # dark and filled: tells itself from "other" in grey and by shape
    "other": "#d98200",
    "white": "#ffffff",
}
"""Colours of figures by what they are for."""

BANNER_LOOK: dict[Tone, tuple[str, str, str]] = {
    # fill, text, edge: pale, middle, dark and white, so that grey paper tells them apart too
    "good": ("#dcefe9", COLOURS["ink"], "#00795f"),
    "caution": ("#f0b440", COLOURS["ink"], "#b97e08"),
    "bad": ("#8f260b", COLOURS["white"], "#8f260b"),
    "open": (COLOURS["white"], COLOURS["ink"], COLOURS["muted"]),
}
"""Fill, text and edge of the band of a verdict."""

_DOT_LOOK: dict[DotLook, tuple[str, bool]] = {
    "main": (COLOURS["main"], True),
    "other": (COLOURS["other"], False),
    "before": (COLOURS["muted"], False),
    "weak": (COLOURS["main"], False),
    "total": (COLOURS["ink"], True),
}
_SHAPES = {True: "filled circle", False: "open square"}
_INSET = 6.0
_SMALL = 6.4
_LETTER = 3.9  # width of a small letter, about
_THREE_LABELS = 80.0  # a narrower scale names its ends alone
_OVER = 2.6  # that a line of reference goes over a row, so that it meets that of the next


@dataclass(frozen=True, slots=True)
class Path:
    """A line through points; a closed one is a polygon, filled where `fill` names a colour."""

    points: tuple[tuple[float, float], ...]
    colour: str
    weight: float
    dash: tuple[float, ...] = ()
    closed: bool = False
    fill: str = ""


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
    colour: str = COLOURS["muted"]
    size: float = _SMALL
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Linked:
    """Shapes that lead to where an entry stands.

    Attributes
    ----------
    key : str - of the `Entry`
    words : str - what the link is called
    box : (x0, y0, x1, y1) - where it can be taken
    shapes : tuple of shapes
    """

    key: str
    words: str
    box: tuple[float, float, float, float]
    shapes: tuple[Path | Mark | Label, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """Shapes in the order in which they are drawn, and the same in words."""

    width: float
    height: float
    shapes: tuple[Path | Mark | Label | Linked, ...]
    words: str


def dot_figure(dots: Dots, width: float) -> Figure:
    """Draw one row of a dot-and-interval plot, the first dot on top.

    Parameters
    ----------
    dots : Dots
    width : float - points
    """
    height = dots.height
    ticks = [
        Path(
            ((_along(tick, width), 0.0), (_along(tick, width), height)),
            COLOURS["muted" if dots.signed and tick == 0.5 else "rule"],
            0.35,
        )
        for tick in (0.0, 0.5, 1.0)
    ]
    shapes: list[Path | Mark | Label] = [*ticks]
    if math.isfinite(dots.reference):
        x = _along((dots.reference + 1.0) / 2.0 if dots.signed else dots.reference, width)
        shapes.append(Path(((x, -_OVER), (x, height + _OVER)), COLOURS["ink"], 0.7))
    for at, dot in enumerate(dots.dots):
        y = height * (1 - (at + 0.5) / len(dots.dots))
        shapes += _dot(dot, width, y, signed=dots.signed)
    write = number if dots.signed else percent
    words = ", ".join(f"{dot.name} {write(dot.value)}" for dot in dots.dots)
    return Figure(width, height, tuple(shapes), words)


def _along(share: float, width: float) -> float:
    return _INSET + min(max(share, 0.0), 1.0) * (width - 2 * _INSET)


def _dot(dot: Dot, width: float, y: float, *, signed: bool) -> Iterator[Path | Mark]:
    """Give an interval and its dot; what is not a number is not drawn."""

    def x(measured: float) -> float:
        return _along((measured + 1.0) / 2.0 if signed else measured, width)

    low, high = dot.interval.low, dot.interval.high
    if math.isfinite(low) and math.isfinite(high):
        yield Path(((x(low), y), (x(high), y)), _DOT_LOOK[dot.look][0], 1.0)
    if math.isfinite(dot.value):
        yield _mark(x(dot.value), y, dot.look)


def _mark(x: float, y: float, look: DotLook) -> Mark:
    colour, filled = _DOT_LOOK[look]
    return Mark(x, y, 2.2, colour, colour if filled else COLOURS["white"], square=not filled)


def scale_figure(scale: Scale, width: float) -> Figure:
    """Draw the head of a column of dots: what the marks mean, and the ends of the scale.

    Parameters
    ----------
    scale : Scale
    width : float - points
    """
    names = ("−100", "0", "+100") if scale.signed else ("0 %", "50 %", "100 %")
    shapes: list[Path | Mark | Label] = []
    at = _INSET
    for name, look in scale.marks:
        shapes += [_mark(at, 14.4, look), Label(at + 5.5, 12.1, name)]
        at += _LETTER * len(name) + 15
    if scale.reference:
        line = Path(((at, 11.2), (at, 18.6)), COLOURS["ink"], 0.7)
        shapes += [line, Label(at + 4.5, 12.1, scale.reference)]
    shapes += [Label(1.5, 2.0, names[0]), Label(width - 1.5, 2.0, names[2], "end")]
    if width >= _THREE_LABELS or scale.signed:
        shapes.append(Label(width / 2, 2.0, names[1], "middle"))
    told = [f"{name}: {_SHAPES[_DOT_LOOK[look][1]]}" for name, look in scale.marks]
    told += [f"{scale.reference}: line"] if scale.reference else []
    words = "; ".join([f"scale from {names[0]} to {names[2]}", *told])
    height = 20.0 if scale.marks or scale.reference else 10.0
    return Figure(width, height, tuple(shapes), words)


def banner_figure(banner: Banner, side: float = 34.0) -> Figure:
    """Draw the symbol of a verdict, each a shape of its own.

    Parameters
    ----------
    banner : Banner
    side : float - points
    """
    x = y = side / 2
    r = 0.41 * side
    fill, text, edge = BANNER_LOOK[banner.tone]
    colour = edge if banner.tone in ("good", "open") else text
    circle = Mark(x, y, r, colour, fill, weight=2.6)
    corners = ((x, y + r), (x + r, y - 0.8 * r), (x - r, y - 0.8 * r))
    triangle = Path(corners, colour, 2.6, closed=True)

    def line(*points: tuple[float, float], weight: float = 2.6) -> Path:
        return Path(tuple((x + across * r, y + up * r) for across, up in points), colour, weight)

    shapes: dict[str, tuple[Path | Mark | Label, ...]] = {
        "tick": (circle, line((-0.45, 0.0), (-0.1, -0.4), (0.5, 0.4))),
        "cross": (circle, line((-0.4, -0.4), (0.4, 0.4)), line((-0.4, 0.4), (0.4, -0.4))),
        "dash": (circle, line((-0.45, 0.0), (0.45, 0.0))),
        "warning": (
            triangle,
            line((0.0, 0.3), (0.0, -0.15)),
            Mark(x, y - 0.48 * r, 0.6, colour, colour, weight=1.4),
        ),
        "level": (
            triangle,
            line((-0.28, -0.1), (0.28, -0.1), weight=2.0),
            line((-0.28, -0.45), (0.28, -0.45), weight=2.0),
        ),
        "question": (
            Mark(x, y, r, COLOURS["ink"], fill, weight=1.6),
            Label(x, y - 6.0, "?", "middle", text, 17.0, bold=True),
        ),
    }
    return Figure(side, side, shapes[banner.symbol], "")
