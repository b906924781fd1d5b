"""A map of feature clusters, as shapes.

Looks differ by shape, by fill and by how dark they are, so that grey paper and colour-blind eyes
tell them apart. Numbers stand beside their marks, on white, and cover nothing that has a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ravl_med.regions.geometry import common_area
from ravl_med.reporting.layout import drawings
from ravl_med.reporting.layout.blocks import ClusterPlot, Spot, SpotLook
from ravl_med.reporting.layout.pdf_style import WIDTH, text_width
from ravl_med.reporting.wording import plural

_LOOKS: dict[SpotLook, tuple[str, str, str, float]] = {
    # form, fill, edge, weight of the edge
    "shortcut": ("diamond", "#8f260b", drawings.COLOURS["ink"], 0.6),
    "sign": ("triangle", "#00795f", drawings.COLOURS["ink"], 0.6),
    "undecided": ("square", "#f0b440", drawings.COLOURS["ink"], 1.0),
    "confirmed": ("circle", drawings.COLOURS["white"], drawings.COLOURS["main"], 2.2),
    "candidate": ("circle", drawings.COLOURS["white"], drawings.COLOURS["ink"], 0.9),
    "other": ("circle", "#e3e8ec", "#98a4ae", 0.4),
}
_FORMS = {  # corners of the same area as the circle of radius 1
    "diamond": [(0.0, 1.253), (1.253, 0.0), (0.0, -1.253), (-1.253, 0.0)],
    "triangle": [(0.0, 1.555), (1.347, -0.778), (-1.347, -0.778)],
    "square": [(0.886, 0.886), (0.886, -0.886), (-0.886, -0.886), (-0.886, 0.886)],
}
_LOWEST, _HIGHEST = 170.0, 250.0  # the map
_INSET = 20.0  # from its edge to the centre of a mark
_POINT = 1e-9  # what spans less is one point
_COVERED = 0.2  # share of the map that all marks together may take
_LEAST, _LEAST_FOUND, _MOST = 1.4, 3.4, 13.0  # radius
_NUMBER, _TALL = 7.4, 9.6  # size of a number, height of its label
_AWAY, _TURNS, _RINGS = 3.0, 16, 40  # where a label is tried: from the mark, around it, farther out
_LEGEND, _NAME = 132.0, 7.0  # width of the legend, size of its names
_PLACES = (("lower", "middle", "upper"), ("left", "centre", "right"))


def draw_clusters(plot: ClusterPlot, width: float = WIDTH) -> drawings.Drawing:
    """Draw the map with its legend on the right; no two numbers overlap."""
    across = width - _LEGEND
    frame = (0.5, 0.5, across, 0.5 + _height(plot.spots, across))
    marks = _marks(plot.spots, frame)
    shapes: list[drawings.Shape | drawings.Linked] = [
        _rectangle(frame, drawings.COLOURS["white"], drawings.COLOURS["rule"], 0.7)
    ]
    shapes += [_form(spot.look, x, y, radius) for spot, x, y, radius in marks if not spot.number]
    shapes += _numbered([mark for mark in marks if mark[0].number], frame)
    shapes += _legend(plot, marks, frame, across + 12.0)
    texts = [f"{spot.alt}, {_place(x, y, frame)}" for spot, x, y, _ in marks if spot.number]
    drawn = f"{plural(len(marks), 'cluster')} drawn"
    if marks:
        drawn += f", the largest of {plural(max(mark[0].size for mark in marks), 'region')}"
    alt = ". ".join([plot.caption, drawn, *texts[::-1]]) + "."
    return drawings.Drawing(width, frame[3] + 0.5, tuple(shapes), alt)


Placed = tuple[Spot, float, float, float]
"""A spot with its centre and its radius, in points."""


def _spans(spots: Sequence[Spot]) -> tuple[float, float]:
    if not spots:
        return 0.0, 0.0
    across, up = [spot.x for spot in spots], [spot.y for spot in spots]
    return max(across) - min(across), max(up) - min(up)


def _height(spots: Sequence[Spot], width: float) -> float:
    """Return the height that the clusters need at full width, within bounds; low without a find."""
    if not any(spot.number for spot in spots):
        return _LOWEST
    across, up = _spans(spots)
    if across <= _POINT:
        return _HIGHEST if up > _POINT else _LOWEST
    needed = 2 * _INSET + (width - 2 * _INSET) * up / across
    return min(max(needed, _LOWEST), _HIGHEST)


def _marks(spots: Sequence[Spot], frame: drawings.Box) -> list[Placed]:
    """Place spots in the frame, one scale for both directions; the largest lie at the bottom."""
    left, low, right, high = frame
    width, height = right - left - 2 * _INSET, high - low - 2 * _INSET
    across, up = _spans(spots)
    scales = [room / span for room, span in ((width, across), (height, up)) if span > _POINT]
    scale = min(scales, default=0.0)
    middle = [
        (max(values) + min(values)) / 2 if values else 0.0
        for values in ([spot.x for spot in spots], [spot.y for spot in spots])
    ]
    sizes = [spot.size for spot in spots]
    room = _COVERED * (right - left) * (high - low)
    area = min(room / max(sum(sizes), 1), math.pi * _MOST**2 / max(max(sizes, default=1), 1))
    placed = []
    for spot in sorted(spots, key=lambda one: -one.size):
        least = _LEAST if spot.look == "other" else _LEAST_FOUND
        radius = max(math.sqrt(area * spot.size / math.pi), least)
        x = (left + right) / 2 + scale * (spot.x - middle[0])
        y = (low + high) / 2 + scale * (spot.y - middle[1])
        placed.append((spot, x, y, radius))
    order = list(_LOOKS)
    return sorted(placed, key=lambda mark: -order.index(mark[0].look))


def _form(look: SpotLook, x: float, y: float, radius: float) -> drawings.Path | drawings.Mark:
    form, fill, edge, weight = _LOOKS[look]
    if form == "circle":
        return drawings.Mark(x, y, radius, edge, fill, weight=weight)
    corners = tuple((x + radius * across, y + radius * up) for across, up in _FORMS[form])
    return drawings.Path(corners, edge, weight, closed=True, fill=fill)


def _rectangle(box: drawings.Box, fill: str, edge: str, weight: float) -> drawings.Path:
    left, low, right, high = box
    corners = ((left, low), (right, low), (right, high), (left, high))
    return drawings.Path(corners, edge, weight, closed=True, fill=fill)


def _extent(mark: Placed) -> drawings.Box:
    spot, x, y, radius = mark
    form, _, _, weight = _LOOKS[spot.look]
    reach = radius * max((c[0] for c in _FORMS.get(form, [])), default=1.0) + weight / 2
    top = radius * max((c[1] for c in _FORMS.get(form, [])), default=1.0) + weight / 2
    return x - reach, y - reach, x + reach, y + max(reach, top)


def _free(mark: Placed, frame: drawings.Box, taken: Sequence[drawings.Box]) -> drawings.Box:
    """Return where the number of a mark fits: the nearest place around it that is free."""
    spot, x, y, _ = mark
    left, low, right, high = _extent(mark)
    half = text_width(spot.number, _NUMBER, bold=True) / 2 + 2.2
    tall = _TALL / 2
    box = (x - half, y - tall, x + half, y + tall)
    for ring in range(_RINGS):
        reach = _AWAY + 5.0 * ring
        for turn in range(_TURNS):
            angle = math.pi / 4 + 2 * math.pi * turn / _TURNS
            across, up = math.cos(angle), math.sin(angle)
            at = x + across * ((right - left) / 2 + half + reach - _AWAY)
            over = y + up * ((high - low) / 2 + tall + reach - _AWAY)
            box = (at - half, over - tall, at + half, over + tall)
            if _inside(box, frame) and not any(common_area(box, other) for other in taken):
                return box
    return box


def _inside(box: drawings.Box, frame: drawings.Box) -> bool:
    inner = (frame[0] + 1, frame[1] + 1, frame[2] - 1, frame[3] - 1)
    return all(a >= b for a, b in zip(box[:2], inner[:2], strict=True)) and all(
        a <= b for a, b in zip(box[2:], inner[2:], strict=True)
    )


def _numbered(marks: Sequence[Placed], frame: drawings.Box) -> list[drawings.Linked]:
    """Return marks with numbers; the foremost, which comes last, chooses a place first."""
    own = [_extent(mark) for mark in marks]
    labels: list[drawings.Box] = []
    for mark in reversed(marks):
        labels.append(_free(mark, frame, [*own, *labels]))
    return [_linked(mark, label) for mark, label in zip(marks, reversed(labels), strict=True)]


def _linked(mark: Placed, label: drawings.Box) -> drawings.Linked:
    """Return a mark with its number on white, and a line between them."""
    spot, x, y, radius = mark
    middle = ((label[0] + label[2]) / 2, (label[1] + label[3]) / 2)
    edge = _LOOKS[spot.look][2]
    number = drawings.Label(
        middle[0],
        label[1] + 2.2,
        spot.number,
        "middle",
        drawings.COLOURS["ink"],
        _NUMBER,
        bold=True,
    )
    shapes = (
        drawings.Path(((x, y), middle), drawings.COLOURS["ink"], 0.6),
        _form(spot.look, x, y, radius),
        _rectangle(label, drawings.COLOURS["white"], edge, 0.5),
        number,
    )
    extent = _extent(mark)
    box = (
        min(extent[0], label[0]),
        min(extent[1], label[1]),
        max(extent[2], label[2]),
        max(extent[3], label[3]),
    )
    return drawings.Linked(spot.key, spot.alt, box, shapes)


def _legend(
    plot: ClusterPlot, marks: Sequence[Placed], frame: drawings.Box, left: float
) -> Iterator[drawings.Shape]:
    """Give marks and their names, one below the other, and what the largest area stands for."""
    y = frame[3] - 12.0
    for name, look in plot.legend:
        yield _form(look, left + 4.0, y + 2.4, 3.4)
        yield drawings.Label(left + 13.0, y, name, size=_NAME, colour=drawings.COLOURS["ink"])
        y -= 13.0
    if marks:
        size, radius = max((spot.size, radius) for spot, _, _, radius in marks)
        yield _form("other", left + _MOST, y - _MOST, radius)
        yield drawings.Label(
            left + 2 * _MOST + 4.0, y - _MOST - 2.4, plural(size, "region"), size=_NAME
        )


def _place(x: float, y: float, frame: drawings.Box) -> str:
    """Say in words where in the frame something lies."""
    left, low, right, high = frame
    row = _PLACES[0][min(int(3 * (y - low) / (high - low)), 2)]
    column = _PLACES[1][min(int(3 * (x - left) / (right - left)), 2)]
    return f"{row} {column}"
