"""Films and drawings inside of HTML: films as data in the page, boxes and drawings as SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

from PIL import Image

from ravl_med.reporting.layout.drawings import Drawing, Label, Linked, Mark, Path
from ravl_med.reporting.pictures import Box, Picture
from ravl_med.reporting.wording import printable

_BUDGET = 6_500_000  # bytes of all films of a page before they become text, which adds a third
_STEPS = ((768, 82), (640, 80), (512, 78), (400, 74), (300, 66), (220, 50), (150, 40), (90, 30))
_HALO, _BOX = "#10161c", "#ffd84d"


@dataclass(frozen=True, slots=True)
class Film:
    """A picture as it stands in a page: its address, which is all of it, and its size."""

    address: str
    width: int
    height: int


def films_of(pictures: Iterable[Picture], budget: int = _BUDGET) -> Mapping[Picture, Film]:
    """Return pictures as JPEG inside of addresses, as large as the budget of a page lets them be.

    The budget is in bytes, of all together; at the smallest size it may be passed.
    """
    distinct = list(dict.fromkeys(pictures))
    made: list[tuple[bytes, tuple[int, int]]] = []
    for side, quality in _STEPS:
        made = [_jpeg(picture, side, quality) for picture in distinct]
        if sum(len(content) for content, _ in made) <= budget:
            break
    return {
        picture: Film(f"data:image/jpeg;base64,{base64.b64encode(content).decode()}", *size)
        for picture, (content, size) in zip(distinct, made, strict=True)
    }


def _jpeg(picture: Picture, side: int, quality: int) -> tuple[bytes, tuple[int, int]]:
    """Return content and size of a picture whose long side is `side` at most."""
    image = Image.fromarray(picture.pixels if picture.large is None else picture.large)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue(), image.size


def overlay(picture: Picture, width: int, height: int) -> str:
    """Return the boxes of a picture as SVG that lies over it: light lines on dark halos."""

    def outline(box: Box, look: str) -> str:
        x0, y0, x1, y1 = box
        left, top = _length(x0 * width), _length(y0 * height)
        across, down = _length((x1 - x0) * width), _length((y1 - y0) * height)
        return f'<rect x="{left}" y="{top}" width="{across}" height="{down}" {look}/>'

    drawn = "".join(
        outline(box, f'stroke="{colour}" stroke-width="{_length(weight)}"')
        for colour, weight in ((_HALO, 4.4), (_BOX, 2.0))
        for box in picture.boxes
    )
    size = f'viewBox="0 0 {width} {height}" preserveAspectRatio="none"'
    return f'<svg class="boxes" aria-hidden="true" {size}>{drawn}</svg>'


def html_text(raw: str, limit: int = 1500) -> str:
    """Return text as it may stand in an element or an attribute."""
    return escape(printable(raw, limit))


def svg(drawing: Drawing, *, hidden: bool = False, limit: int = 300) -> str:
    """Return a drawing as inline SVG, whose origin is the upper left corner.

    It is hidden from screen readers where what it shows stands beside it.
    """
    # Who hears an image hears nothing of what is in it; links have to be heard.
    role = "group" if any(isinstance(shape, Linked) for shape in drawing.shapes) else "img"
    label = f'role="{role}" aria-label="{html_text(drawing.alt, limit)}"'
    read = 'aria-hidden="true"' if hidden else label
    shapes = "".join(_shape(shape, drawing.height) for shape in drawing.shapes)
    width, height = _length(drawing.width), _length(drawing.height)
    return f'<svg {read} viewBox="0 0 {width} {height}" width="{width}pt">{shapes}</svg>'


def _shape(shape: Path | Mark | Label | Linked, height: float) -> str:
    match shape:
        case Linked(key, alt, _, shapes):
            inner = "".join(_shape(one, height) for one in shapes)
            return f'<a href="#{html_text(key, 40)}" aria-label="{html_text(alt, 200)}">{inner}</a>'
        case Path(points, colour, weight, dash, closed, fill):
            kind = "polygon" if closed else "polyline"
            places = " ".join(f"{_length(x)},{_length(height - y)}" for x, y in points)
            dashes = f' stroke-dasharray="{" ".join(map(_length, dash))}"' if dash else ""
            return (
                f'<{kind} points="{places}" fill="{fill or "none"}" stroke="{colour}" '
                f'stroke-width="{_length(weight)}"{dashes}/>'
            )
        case Mark(x, y, radius, colour, fill, square, weight):
            look = f'fill="{fill}" stroke="{colour}" stroke-width="{_length(weight)}"'
            if square:
                left, top, side = x - radius, height - y - radius, 2 * radius
                return (
                    f'<rect x="{_length(left)}" y="{_length(top)}" width="{_length(side)}" '
                    f'height="{_length(side)}" {look}/>'
                )
            return (
                f'<circle cx="{_length(x)}" cy="{_length(height - y)}" r="{_length(radius)}" '
                f"{look}/>"
            )
        case Label(x, y, text, anchor, colour, size, bold):
            weighty = ' font-weight="bold"' if bold else ""
            return (
                f'<text x="{_length(x)}" y="{_length(height - y)}" text-anchor="{anchor}" '
                f'fill="{colour}" font-size="{_length(size)}"{weighty}>{escape(text)}</text>'
            )


def _length(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
