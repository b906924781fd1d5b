"""What the PDF draws itself: drawings, films with boxes, the verdict band, fields to fill in."""

from __future__ import annotations

import io
from collections.abc import Iterable

from PIL import Image
from reportlab.lib.colors import HexColor, white
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable

from ravl_med.reporting.layout import drawings
from ravl_med.reporting.layout.blocks import Banner
from ravl_med.reporting.layout.pdf_style import (
    INK,
    MUTED,
    SANS,
    SANS_BOLD,
    WIDTH,
    SignatureField,
    register_fonts,
)
from ravl_med.reporting.layout.pdf_tags import tagged
from ravl_med.reporting.pictures import Picture

BOX = HexColor("#ffd84d")
HALO = HexColor("#10161c")
FIELD = HexColor("#eef3f7")
_TYPED = 9  # size of what is filled in
_HINT = 5.4
_PLATE = 7.4  # side of what a letter beside a film lies on


class _Fixed(Flowable):
    """What has a size of its own, wherever it is set."""

    def wrap(self, availWidth: float, availHeight: float) -> tuple[float, float]:
        """Return the size, which is fixed."""
        return self.width, self.height


class FilmFlowable(_Fixed):
    """A picture with its boxes as vector lines: light line on a dark halo, seen on any film.

    The side of the patient at its left edge is written beside it, so that no pixel is hidden.
    """

    def __init__(
        self, picture: Picture, width: float, height: float, line: float = 1.0, alt: str = ""
    ) -> None:
        super().__init__()
        self.alt = alt
        rows, columns = picture.pixels.shape
        self.beside = (_PLATE + 1.6) * line if picture.edge else 0.0
        scale = min((width - self.beside) / columns, height / rows)
        self.across, self.height = columns * scale, rows * scale
        self.width = self.beside + self.across
        self.picture, self.line = picture, line
        self.hAlign = "CENTER"

    def draw(self) -> None:
        """Draw the letter, the film in grey JPEG, then its boxes."""
        with tagged(self.canv, "Figure", self.alt):
            self._draw()

    def _draw(self) -> None:
        stream = io.BytesIO()
        Image.fromarray(self.picture.pixels).save(stream, "JPEG", quality=85)
        stream.seek(0)
        canvas: Canvas = self.canv
        if self.picture.edge:
            self._letter(canvas)
        canvas.drawImage(ImageReader(stream), self.beside, 0, self.across, self.height)
        canvas.setLineJoin(1)
        for colour, weight in ((HALO, 2.4 * self.line), (BOX, self.line)):
            canvas.setStrokeColor(colour)
            canvas.setLineWidth(weight)
            self._outline(self.picture.boxes)

    def _letter(self, canvas: Canvas) -> None:
        """Write the side of the patient on a dark plate, half-way up."""
        side, low = _PLATE * self.line, (self.height - _PLATE * self.line) / 2
        canvas.setFillColor(HALO)
        canvas.roundRect(0, low, side, side, 0.16 * side, stroke=0, fill=1)
        canvas.setFillColor(white)
        canvas.setFont(SANS_BOLD, 0.86 * side)
        canvas.drawCentredString(side / 2, low + 0.19 * side, self.picture.edge)

    def _outline(self, boxes: Iterable[tuple[float, float, float, float]]) -> None:
        for x0, y0, x1, y1 in boxes:
            left, right = self._inset(x0, self.across), self._inset(x1, self.across)
            low, high = self._inset(1 - y1, self.height), self._inset(1 - y0, self.height)
            self.canv.rect(self.beside + left, low, right - left, high - low, stroke=1, fill=0)

    def _inset(self, share: float, length: float) -> float:
        """Place an edge so that its line stays on the film."""
        edge = 1.2 * self.line
        return min(max(share * length, edge), length - edge)


class DrawingFlowable(_Fixed):
    """A drawing on the page."""

    def __init__(self, drawing: drawings.Drawing) -> None:
        super().__init__()
        register_fonts()
        self.drawing, self.width, self.height = drawing, drawing.width, drawing.height
        self.hAlign = "LEFT"

    def draw(self) -> None:
        """Draw every shape."""
        with tagged(self.canv, "Figure", self.drawing.alt):
            _draw(self.canv, self.drawing)


def _draw(canvas: Canvas, drawing: drawings.Drawing) -> None:
    canvas.setLineCap(1)
    canvas.setLineJoin(1)
    for shape in drawing.shapes:
        if isinstance(shape, drawings.Linked):
            _draw_all(canvas, shape.shapes)
            canvas.linkRect("", shape.key, shape.box, relative=1, thickness=0)
        else:
            _draw_all(canvas, (shape,))


def _draw_path(canvas: Canvas, shape: drawings.Path) -> None:
    canvas.setLineWidth(shape.weight)
    canvas.setDash(list(shape.dash))
    path = canvas.beginPath()
    path.moveTo(*shape.points[0])
    for point in shape.points[1:]:
        path.lineTo(*point)
    if shape.closed:
        path.close()
    if shape.fill:
        canvas.setFillColor(HexColor(shape.fill))
    canvas.drawPath(path, stroke=1, fill=int(bool(shape.fill)))
    canvas.setDash()


def _draw_all(canvas: Canvas, shapes: Iterable[drawings.Shape]) -> None:
    for shape in shapes:
        canvas.setStrokeColor(HexColor(shape.colour))
        match shape:
            case drawings.Path():
                _draw_path(canvas, shape)
            case drawings.Mark(x, y, radius, _, fill, square, weight):
                canvas.setLineWidth(weight)
                canvas.setFillColor(HexColor(fill))
                if square:
                    canvas.rect(x - radius, y - radius, 2 * radius, 2 * radius, stroke=1, fill=1)
                else:
                    canvas.circle(x, y, radius, stroke=1, fill=1)
            case drawings.Label(x, y, text, anchor, colour, size, bold):
                canvas.setFillColor(HexColor(colour))
                canvas.setFont(SANS_BOLD if bold else SANS, size)
                draw = {
                    "start": canvas.drawString,
                    "middle": canvas.drawCentredString,
                    "end": canvas.drawRightString,
                }[anchor]
                draw(x, y, text)


class FieldFlowable(_Fixed):
    """A text field that can be filled in on a screen, and written on where it is printed.

    The name is unique in the document; screen readers read out the tooltip.
    """

    def __init__(
        self,
        name: str,
        tooltip: str,
        width: float,
        height: float,
        *,
        limit: int = 100,
        lines: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.tooltip, self.width, self.height = name, tooltip, width, height
        self.limit, self.lines = limit, lines

    def draw(self) -> None:
        """Lay the field over the page, empty."""
        self.canv.acroForm.textfield(
            name=self.name,
            tooltip=self.tooltip,
            relative=True,
            width=round(self.width),
            height=round(self.height),
            maxlen=self.limit,
            fieldFlags="multiline" if self.lines else "",
            fontName="Helvetica",  # of what is typed; the library takes no embedded font there
            fontSize=_TYPED,
            textColor=INK,
            fillColor=FIELD,
            borderColor=None,
            borderWidth=0,
        )


class ChoiceFlowable(_Fixed):
    """A button; of those with one name a single one can be taken, on a screen or with a pen."""

    def __init__(self, name: str, value: str, tooltip: str, side: float) -> None:
        super().__init__()
        self.name, self.value, self.tooltip = name, value, tooltip
        self.width = self.height = side
        self.hAlign = "LEFT"

    def draw(self) -> None:
        """Lay the button over the page, not taken."""
        self.canv.acroForm.radio(
            name=self.name,
            value=self.value,
            tooltip=self.tooltip,
            relative=True,
            size=round(self.width),
            fieldFlags="radio",  # a second click takes it back
            fillColor=FIELD,
            borderColor=MUTED,
            textColor=INK,
            borderWidth=1,
        )


class SignatureFlowable(_Fixed):
    """Where a field for an electronic signature will lie, which the document adds at its end."""

    def __init__(self, name: str, tooltip: str, width: float, height: float) -> None:
        super().__init__()
        self.name, self.tooltip, self.width, self.height = name, tooltip, width, height

    def draw(self) -> None:
        """Draw the place, to be signed on paper too."""
        canvas: Canvas = self.canv
        canvas.setFillColor(FIELD)
        canvas.rect(0, 0, self.width, self.height, stroke=0, fill=1)
        canvas.setFillColor(MUTED)
        canvas.setFont(SANS, _HINT)
        canvas.drawString(3, 3, "signature field")
        left, low = canvas.absolutePosition(0, 0)
        box = (left, low, left + self.width, low + self.height)
        field = SignatureField(self.name, self.tooltip, canvas.getPageNumber(), box)
        document = self._doctemplate  # type: ignore[attr-defined]  # the document that is built
        document.signature_fields.append(field)


class BannerFlowable(_Fixed):
    """The verdict as a band: a symbol, the word, what it means, and the draft mark."""

    def __init__(self, banner: Banner) -> None:
        super().__init__()
        register_fonts()
        self.banner, self.width, self.height = banner, WIDTH, 58.0

    def draw(self) -> None:
        """Draw the band; the dashed edge says that there is no answer."""
        with tagged(self.canv, "P"):
            self._draw()

    def _draw(self) -> None:
        canvas: Canvas = self.canv
        fill, text, edge = (HexColor(colour) for colour in drawings.BANNER_LOOK[self.banner.tone])
        canvas.setFillColor(fill)
        canvas.setStrokeColor(edge)
        canvas.setLineWidth(1.2)
        if self.banner.tone == "open":
            canvas.setDash(4, 3)
        canvas.roundRect(0.6, 0.6, self.width - 1.2, self.height - 1.2, 4, stroke=1, fill=1)
        canvas.setDash()
        canvas.saveState()
        canvas.translate(17, 12)
        _draw(canvas, drawings.draw_symbol(self.banner))
        canvas.restoreState()
        canvas.setFillColor(text)
        canvas.setFont(SANS_BOLD, 20)
        canvas.drawString(62, 30, self.banner.title)
        room = self.width - 62 - 84  # beside the status
        size = 9.6 * min(1.0, room / stringWidth(self.banner.line, SANS, 9.6))
        canvas.setFont(SANS, size)
        canvas.drawString(62, 13, self.banner.line)
        canvas.setStrokeColor(text)
        canvas.setLineWidth(0.9)
        canvas.roundRect(self.width - 76, 19, 60, 20, 3, stroke=1, fill=0)
        canvas.setFont(SANS_BOLD, 11)
        canvas.drawCentredString(self.width - 46, 25, self.banner.status)
