"""The regions of a film drawn on it: a box each, by source, and names where there is room.

Colours are told apart with any colour vision, on grey: yellow, as boxes are in the report, and
vermilion and sky blue after Okabe and Ito, made lighter; what covers the whole film is grey.

References
----------
Okabe and Ito, Color Universal Design, 2008.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ravl_med.cohort.laterality import Edge
from ravl_med.config import RegionSource
from ravl_med.regions.region_set import RegionKind, RegionSet
from ravl_med.reporting.wording import font_file, printable

__all__ = [
    "DARK",
    "LOOKS",
    "PLATE",
    "Look",
    "draw_edge",
    "draw_regions",
    "font",
    "place_labels",
    "short_name",
]

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

DARK: Colour = (16, 22, 28)
PLATE = 14
"""Side in pixels of what a letter beside a film lies on."""
_DASH = 4  # pixels
_NAME_LIMIT = 26
_HIDDEN = 0.1  # share of a label that others may hide; more, and it is not written


@dataclass(frozen=True, slots=True)
class Look:
    """How the boxes of a source are drawn.

    Attributes
    ----------
    colour : tuple of int - red, green, blue
    width : int - of the line in pixels
    opacity : float
    dashed : bool
    text : int - size of the label in pixels; 0 for none
    """

    colour: Colour
    width: int = 1
    opacity: float = 1.0
    dashed: bool = False
    text: int = 0


LOOKS: dict[RegionSource, Look] = {
    "annotations": Look((255, 216, 77), width=2, text=11),
    "artifacts": Look((245, 110, 48), width=2, text=11),
    "anatomy": Look((110, 196, 245), text=10),
    "windows": Look((214, 220, 226), opacity=0.5, dashed=True),
    "tiles": Look((170, 180, 188), opacity=0.55),
}
"""By source, the most specific first."""

_SHORT = {
    "right ": "R ",
    "left ": "L ",
    "upper lung zone": "upper",
    "middle lung zone": "middle",
    "lower lung zone": "lower",
    "lung apex": "apex",
    "costophrenic angle": "CPA",
    "hemidiaphragm": "dia.",
    "cardiac silhouette": "heart",
    "mediastinum": "mediast.",
    "trachea and neck": "trachea",
    "upper abdomen": "abdomen",
}


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return a font of the report at a size in pixels."""
    return _font(f"DejaVuSans{'-Bold' if bold else ''}", size)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_file(name)), size)


def short_name(kind: RegionKind) -> str:
    """Return what is written beside a box: the name; of anatomy a short form."""
    name = kind.name
    if kind.source == "anatomy":
        for long, short in _SHORT.items():
            name = name.replace(long, short)
    return printable(name, _NAME_LIMIT)


def draw_edge(pen: ImageDraw.ImageDraw, edge: Edge, film: tuple[int, int]) -> None:
    """Write the side of the patient beside the left edge of a film; nothing where it is unknown.

    Parameters
    ----------
    pen : ImageDraw
    edge : Edge
    film : (x, y) - the middle of its left edge, in pixels
    """
    if not edge:
        return
    right, top = film[0] - 2, film[1] - PLATE // 2
    pen.rounded_rectangle((right - PLATE + 1, top, right, top + PLATE - 1), radius=2, fill=DARK)
    middle = (right - PLATE / 2 + 0.5, top + PLATE / 2)
    pen.text(middle, edge, fill=(255, 255, 255), font=font(11, bold=True), anchor="mm")


def draw_regions(pixels: NDArray[np.uint8], regions: RegionSet) -> Image.Image:
    """Draw the regions of a film on it, the most specific on top.

    Parameters
    ----------
    pixels : ndarray of shape (h, w), uint8
    regions : RegionSet - boxes in pixels of the picture

    Returns
    -------
    Image - RGB, of the same size
    """
    picture = Image.fromarray(pixels).convert("RGB")
    for source in reversed(LOOKS):
        rows = [row for row, kind in enumerate(regions.kinds) if kind.source == source]
        if rows:
            _draw_boxes(picture, regions.boxes[rows], LOOKS[source])
    _write_names(picture, regions)
    return picture


def _draw_boxes(picture: Image.Image, boxes: NDArray[np.float32], look: Look) -> None:
    """Draw boxes, light on dark: a halo around thick lines, a shadow beside thin ones."""
    last = np.array(picture.size * 2) - 1
    edges = [tuple(box) for box in np.clip(np.rint(boxes), 0, last).astype(int).tolist()]
    if look.width > 1:
        pen = ImageDraw.Draw(picture)
        for x0, y0, x1, y1 in edges:
            pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=DARK, width=look.width + 2)
    layer = Image.new("L", picture.size, 0)
    pen = ImageDraw.Draw(layer)
    for edge in edges:
        pen.rectangle(edge, outline=round(255 * look.opacity), width=look.width)
    if look.dashed:
        across, down = np.arange(picture.width), np.arange(picture.height)[:, None]
        on = (across + down) // _DASH % 2 == 0
        layer = Image.fromarray(np.where(on, np.asarray(layer), 0).astype(np.uint8))
    if look.width == 1:
        shadow = np.zeros((picture.height, picture.width), dtype=np.uint8)
        shadow[1:, 1:] = np.asarray(layer)[:-1, :-1] // 2
        picture.paste(DARK, mask=Image.fromarray(shadow))
    picture.paste(look.colour, mask=layer)


def _write_names(picture: Image.Image, regions: RegionSet) -> None:
    """Write the names of the labelled sources where there is room for them."""
    rows = [row for row, kind in enumerate(regions.kinds) if LOOKS[kind.source].text]
    names = [short_name(regions.kinds[row]) for row in rows]
    looks = [LOOKS[regions.kinds[row].source] for row in rows]
    sizes = [
        (int(np.ceil(font(look.text).getlength(name))) + 4, look.text + 4)
        for name, look in zip(names, looks, strict=True)
    ]
    boxes = [(box[0], box[1], box[2], box[3]) for box in regions.boxes[rows].tolist()]
    beside = [look.width > 1 for look in looks]
    pen = ImageDraw.Draw(picture)
    places = place_labels(boxes, sizes, beside, picture.size)
    for name, look, place, (_, height) in zip(names, looks, places, sizes, strict=True):
        if place is not None:
            pen.text(
                (place[0] + 2, place[1] + height // 2),
                name,
                fill=look.colour,
                font=font(look.text),
                anchor="lm",
                stroke_width=2,
                stroke_fill=DARK,
            )


def place_labels(
    boxes: Sequence[Box],
    sizes: Sequence[tuple[int, int]],
    beside: Sequence[bool],
    picture: tuple[int, int],
) -> list[tuple[int, int] | None]:
    """Find room for the labels of boxes: first those beside their boxes, then the small boxes.

    A label keeps off earlier labels, and off boxes that it would seem to name: those that are named
    beside, and those that are smaller than its own.

    Parameters
    ----------
    boxes : sequence of (x0, y0, x1, y1), length r - in pixels of the picture
    sizes : sequence of (width, height), length r - of the labels
    beside : sequence of bool, length r - the label is wanted outside its box, which it would hide
    picture : (width, height)

    Returns
    -------
    list of (x, y) or None, length r - top left corner of each label, inside the picture; None where
        others would hide it or the picture is smaller
    """
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in boxes]
    order = sorted(range(len(boxes)), key=lambda row: (not beside[row], areas[row]))
    placed: list[Box] = []
    corners: list[tuple[int, int] | None] = [None] * len(boxes)
    for row in order:
        width, height = sizes[row]
        if width > picture[0] or height > picture[1]:
            continue
        others = [b for i, b in enumerate(boxes) if beside[i] or areas[i] < areas[row]]
        least = np.inf
        for x, y in _candidates(boxes[row], width, height, outside=beside[row]):
            x, y = min(max(x, 0), picture[0] - width), min(max(y, 0), picture[1] - height)
            label = (x, y, x + width, y + height)
            hidden = sum(_shared(label, other) for other in placed) / (width * height)
            hiding = sum(_shared(label, other) for other in others) / (width * height)
            if hidden <= _HIDDEN and hidden + hiding / 2 < least:
                corners[row], least = (x, y), hidden + hiding / 2
        corner = corners[row]
        if corner is not None:
            placed.append((*corner, corner[0] + width, corner[1] + height))
    return corners


def _candidates(box: Box, width: int, height: int, *, outside: bool) -> list[tuple[int, int]]:
    """Corners that a label may have, the best first."""
    x0, y0, x1, y1 = (round(edge) for edge in box)
    right, bottom = x1 - width, y1 - height
    around = [
        (x0, y0 - height - 1),
        (x0, y1 + 2),
        (x1 + 2, y0),
        (x0 - width - 2, y0),
        (x1 + 2, bottom),
        (x0 - width - 2, bottom),
        (right, y0 - height - 1),
        (right, y1 + 2),
    ]
    within = [
        (round(x0 + 1 + across * (right - x0 - 1)), round(y0 + 1 + down * (bottom - y0 - 1)))
        for down in (0.0, 1.0, 0.5, 0.25, 0.75)
        for across in (0.0, 1.0, 0.5)
    ]
    return around + within if outside else within + around


def _shared(one: Box, other: Box) -> float:
    """Area that two boxes share."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(across, 0.0) * max(down, 0.0)
