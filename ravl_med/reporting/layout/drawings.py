"""What reports draw, as shapes: dots with intervals, symbols, flows of films, learning curves.

A drawing is made once here and then set into a PDF or into HTML, so that both show the same.
Lengths are in points, the origin is the lower left corner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from reportlab.lib.colors import Color

from ravl_med.evidence.mitigation_result import LearningCurve
from ravl_med.reporting.layout.blocks import Banner, Dot, DotLook, Dots, Flow, FlowBox, Scale, Tone
from ravl_med.reporting.layout.pdf_style import INK, MUTED, RULE, text_width
from ravl_med.reporting.wording import number, percent, printable


def _hex(colour: Color) -> str:
    return f"#{colour.hexval()[2:]}"


COLOURS = {
    "ink": _hex(INK),
    "muted": _hex(MUTED),
    "rule": _hex(RULE),
    "main": "#0b5fa5",  # dark and filled: differs from "other" in grey and by shape
    "other": "#b87000",
    "white": "#ffffff",
}
"""Colours of figures by what they are for."""

BANNER_LOOK: dict[Tone, tuple[str, str, str]] = {
    # fill, text, edge: pale, middle, dark and white, so that they differ on grey paper too
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


Box = tuple[float, float, float, float]


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


Shape = Path | Mark | Label


@dataclass(frozen=True, slots=True)
class Linked:
    """Shapes that lead to the `Entry` of a key."""

    key: str
    alt: str  # what the link is called
    box: Box  # where it can be taken: x0, y0, x1, y1
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Shapes in the order in which they are drawn, and the same in words."""

    width: float
    height: float
    shapes: tuple[Shape | Linked, ...]
    alt: str


def draw_dots(dots: Dots, width: float, height: float) -> Drawing:
    """Draw one row of a dot-and-interval plot, the first dot on top."""
    ticks = [
        Path(
            ((_along(tick, width), 0.0), (_along(tick, width), height)),
            COLOURS["muted" if dots.signed and tick == 0.5 else "rule"],
            0.35,
        )
        for tick in (0.0, 0.5, 1.0)
    ]
    shapes: list[Shape] = [*ticks]
    if math.isfinite(dots.reference):
        x = _along((dots.reference + 1.0) / 2.0 if dots.signed else dots.reference, width)
        shapes.append(Path(((x, -_OVER), (x, height + _OVER)), COLOURS["ink"], 0.7))
    for at, dot in enumerate(dots.dots):
        y = height * (1 - (at + 0.5) / len(dots.dots))
        shapes += _dot(dot, width, y, signed=dots.signed)
    write = number if dots.signed else percent
    alt = ", ".join(f"{dot.name} {write(dot.value)}" for dot in dots.dots)
    return Drawing(width, height, tuple(shapes), alt)


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


def draw_scale(scale: Scale, width: float) -> Drawing:
    """Draw the head of a column of dots: what the marks mean, and the ends of the scale."""
    names = ("−100", "0", "+100") if scale.signed else ("0 %", "50 %", "100 %")
    shapes: list[Shape] = []
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
    parts = [f"{name}: {_SHAPES[_DOT_LOOK[look][1]]}" for name, look in scale.marks]
    parts += [f"{scale.reference}: line"] if scale.reference else []
    alt = "; ".join([f"scale from {names[0]} to {names[2]}", *parts])
    height = 20.0 if scale.marks or scale.reference else 10.0
    return Drawing(width, height, tuple(shapes), alt)


def draw_symbol(banner: Banner, side: float = 34.0) -> Drawing:
    """Draw the symbol of a verdict, each a shape of its own."""
    x = y = side / 2
    r = 0.41 * side
    fill, text, edge = BANNER_LOOK[banner.tone]
    colour = edge if banner.tone in ("good", "open") else text
    circle = Mark(x, y, r, colour, fill, weight=2.6)
    corners = ((x, y + r), (x + r, y - 0.8 * r), (x - r, y - 0.8 * r))
    triangle = Path(corners, colour, 2.6, closed=True)

    def line(*points: tuple[float, float], weight: float = 2.6) -> Path:
        return Path(tuple((x + across * r, y + up * r) for across, up in points), colour, weight)

    shapes: dict[str, tuple[Shape, ...]] = {
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
    return Drawing(side, side, shapes[banner.symbol], "")


_STEM, _BOX, _PART = 150.5, 200.0, 142.0  # the middle, and how wide boxes are
_ASIDE, _SIDE = 282.0, 210.5  # left edge and width of what drops out
_TEXT, _LEAD, _AIR = 7.2, 9.6, 4.0
_DROP = 8.0  # between boxes one below the other
_HEAD = 3.2  # half the width of the head of an arrow


def draw_flow(flow: Flow) -> Drawing:
    """Draw a flow as boxes and arrows; a line that a box is too narrow for ends in an ellipsis."""
    boxes = (flow.start, *flow.left_out, flow.end)
    height = sum(_height(box) + _DROP for box in boxes) - _DROP
    if flow.parts:
        height += 2 * _DROP + max(map(_height, flow.parts))
    height += 1.0  # half a line above and below
    top = height - 0.5 - _height(flow.start)
    shapes = list(_box(flow.start, _STEM - _BOX / 2, top, _BOX))
    stem = top
    for box in flow.left_out:
        top -= _DROP + _height(box)
        middle = top + _height(box) / 2
        shapes += [
            *_arrow((_STEM, middle), (_ASIDE, middle)),
            *_box(box, _ASIDE, top, _SIDE, "muted", (3.0, 2.0)),
        ]
    top -= _DROP + _height(flow.end)
    end = top + _height(flow.end)
    shapes += [*_arrow((_STEM, stem), (_STEM, end)), *_box(flow.end, _STEM - _BOX / 2, top, _BOX)]
    shapes += _parts(flow.parts, top)
    texts = [
        f"{box.title} ({'; '.join(box.lines)})" if box.lines else box.title
        for box in (*boxes, *flow.parts)
    ]
    return Drawing(_ASIDE + _SIDE, height, tuple(shapes), ". ".join([flow.caption, *texts]) + ".")


def _height(box: FlowBox) -> float:
    return 2 * _AIR + _LEAD * (1 + len(box.lines)) - 2.0


def _box(
    box: FlowBox,
    left: float,
    low: float,
    width: float,
    edge: str = "ink",
    dash: tuple[float, ...] = (),
) -> Iterator[Path | Label]:
    """Give a box with its text; a dashed edge is around what drops out."""
    high, right = low + _height(box), left + width
    corners = ((left, low), (right, low), (right, high), (left, high))
    yield Path(corners, COLOURS[edge], 0.9, dash, closed=True, fill=COLOURS["white"])
    for at, line in enumerate((box.title, *box.lines)):
        strong, y = at == 0, high - _AIR - _LEAD * (at + 1) + 3.2
        text = _fitted(line, width - 2 * _AIR - 2, bold=strong)
        colour = COLOURS["ink" if strong else "muted"]
        yield Label(left + _AIR + 1, y, text, colour=colour, size=_TEXT, bold=strong)


def _fitted(text: str, width: float, *, bold: bool) -> str:
    """Return text that is no wider than that."""
    fitted = whole = printable(text, 200)
    while fitted and text_width(fitted, _TEXT, bold=bold) > width:
        whole = whole[:-1].rstrip()
        fitted = f"{whole}…"
    return fitted


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> Iterator[Path]:
    """Give a straight arrow, to the right or down."""
    (x, y), ink = end, COLOURS["ink"]
    yield Path((start, end), ink, 0.9)
    down = start[0] == end[0]
    back = (
        [(-_HEAD, 2 * _HEAD), (_HEAD, 2 * _HEAD)]
        if down
        else [(-2 * _HEAD, _HEAD), (-2 * _HEAD, -_HEAD)]
    )
    corners = (end, *((x + across, y + up) for across, up in back))
    yield Path(corners, ink, 0.4, closed=True, fill=ink)


def _parts(parts: tuple[FlowBox, ...], low: float) -> Iterator[Path | Label]:
    """Give what the end, whose lower edge is at `low`, is divided into."""
    if not parts:
        return
    fork, high = low - _DROP + 2, low - 2 * _DROP
    lefts = (_STEM - 8 - _PART, _STEM + 8)
    middles = [left + _PART / 2 for left in lefts]
    yield Path(((_STEM, low), (_STEM, fork)), COLOURS["ink"], 0.9)
    yield Path(((middles[0], fork), (middles[1], fork)), COLOURS["ink"], 0.9)
    for part, left, middle in zip(parts, lefts, middles, strict=True):
        yield from _arrow((middle, fork), (middle, high))
        yield from _box(part, left, high - _height(part), _PART)


_INK, _MUTED, _RULE, _AFTER = (COLOURS[name] for name in ("ink", "muted", "rule", "main"))


def draw_curve(curve: LearningCurve, width: float, height: float = 112.0) -> Drawing:
    """Draw the loss above and the accuracies on the selection films below, over the epochs."""
    left, right, low, middle = 36.0, width - 6.0, 18.0, 0.56 * height
    epochs = max(len(curve.losses), len(curve.worst_group), 1)
    loss_box = (left, middle + 6.0, right, height - 11.0)
    accuracy_box = (left, low, right, middle - 6.0)
    finite = [loss for loss in curve.losses if math.isfinite(loss)]
    shapes: list[Shape] = [*_frame(loss_box), *_frame(accuracy_box)]
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
    alt = f"Learning curve, epoch {epochs_text(curve)} kept; the numbers are in the table below"
    return Drawing(width, height, tuple(shapes), alt)


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


def _kept(curve: LearningCurve, box: Box, height: float, epochs: int) -> Iterator[Shape]:
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


def epochs_text(curve: LearningCurve) -> str:
    """Return the epoch that was kept, counted from 1, of how many."""
    kept = str(curve.best + 1) if 0 <= curve.best < len(curve.losses) else "none"
    return f"{kept} of {len(curve.losses)}"
