"""A flow of films as boxes and arrows, as shapes; see `figure_shapes`."""

from __future__ import annotations

from collections.abc import Iterator

from ravl_med.reporting.layout.figure_shapes import COLOURS, Figure, Label, Path
from ravl_med.reporting.layout.pdf_style import text_width
from ravl_med.reporting.layout.plots import Flow, FlowBox
from ravl_med.reporting.wording import printable

__all__ = ["flow_figure"]

_STEM, _BOX, _PART = 150.5, 200.0, 142.0  # the middle, and how wide boxes are
_ASIDE, _SIDE = 282.0, 210.5  # left edge and width of what drops out
_TEXT, _LEAD, _AIR = 7.2, 9.6, 4.0
_DROP = 8.0  # between boxes one below the other
_HEAD = 3.2  # half the width of the head of an arrow


def flow_figure(flow: Flow) -> Figure:
    """Draw a flow as boxes and arrows; a line that a box is too narrow for ends in an ellipsis.

    Parameters
    ----------
    flow : Flow
    """
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
        shapes += [*_arrow((_STEM, middle), (_ASIDE, middle)), *_aside(box, top)]
    top -= _DROP + _height(flow.end)
    end = top + _height(flow.end)
    shapes += [*_arrow((_STEM, stem), (_STEM, end)), *_box(flow.end, _STEM - _BOX / 2, top, _BOX)]
    shapes += _parts(flow.parts, top)
    told = [
        f"{box.title} ({'; '.join(box.lines)})" if box.lines else box.title
        for box in (*boxes, *flow.parts)
    ]
    return Figure(_ASIDE + _SIDE, height, tuple(shapes), ". ".join([flow.caption, *told]) + ".")


def _height(box: FlowBox) -> float:
    return 2 * _AIR + _LEAD * (1 + len(box.lines)) - 2.0


def _aside(box: FlowBox, low: float) -> Iterator[Path | Label]:
    yield from _box(box, _ASIDE, low, _SIDE, "muted", (3.0, 2.0))


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
        told = _fitted(line, width - 2 * _AIR - 2, bold=strong)
        colour = COLOURS["ink" if strong else "muted"]
        yield Label(left + _AIR + 1, y, told, colour=colour, size=_TEXT, bold=strong)


def _fitted(text: str, width: float, *, bold: bool) -> str:
    """Return text that is no wider than that."""
    told = whole = printable(text, 200)
    while told and text_width(told, _TEXT, bold=bold) > width:
        whole = whole[:-1].rstrip()
        told = f"{whole}…"
    return told


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
