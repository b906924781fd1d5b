"""What the PDF draws itself: the verdict band, films with boxes, dots with intervals."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image
from reportlab.lib.colors import Color, HexColor, white
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable

from ravl_med.evidence.audit_result import VerdictName
from ravl_med.evidence.claims import Interval
from ravl_med.reporting.figures import Picture
from ravl_med.reporting.pdf_style import INK, MUTED, RULE, SANS, SANS_BOLD, WIDTH, register_fonts
from ravl_med.reporting.wording import VERDICT_LINES, VERDICT_WORDS

__all__ = [
    "ABSENT",
    "PRESENT",
    "Dot",
    "DotAxis",
    "DotRow",
    "FilmFlowable",
    "VerdictBanner",
]

PRESENT = HexColor("#0b5fa5")  # dark and filled: tells itself from ABSENT in grey and by shape
ABSENT = HexColor("#d98200")
BOX = HexColor("#ffd84d")
HALO = HexColor("#10161c")


class FilmFlowable(Flowable):
    """A picture with its boxes as vector lines: light line on a dark halo, seen on any film."""

    def __init__(self, picture: Picture, width: float, height: float, line: float = 1.0) -> None:
        super().__init__()
        rows, columns = picture.pixels.shape
        scale = min(width / columns, height / rows)
        self.width, self.height = columns * scale, rows * scale
        self.picture, self.line = picture, line
        self.hAlign = "CENTER"

    def wrap(self, availWidth: float, availHeight: float) -> tuple[float, float]:
        """Return the size, which is fixed."""
        return self.width, self.height

    def draw(self) -> None:
        """Draw the film in grey JPEG, then its boxes."""
        stream = io.BytesIO()
        Image.fromarray(self.picture.pixels).save(stream, "JPEG", quality=85)
        stream.seek(0)
        canvas: Canvas = self.canv
        canvas.drawImage(ImageReader(stream), 0, 0, self.width, self.height)
        canvas.setLineJoin(1)
        for colour, weight in ((HALO, 2.4 * self.line), (BOX, self.line)):
            canvas.setStrokeColor(colour)
            canvas.setLineWidth(weight)
            self._outline(self.picture.boxes)
        for colour, weight in ((HALO, 2.0 * self.line), (white, 0.8 * self.line)):
            canvas.setStrokeColor(colour)
            canvas.setLineWidth(weight)
            if colour is white:
                canvas.setDash(2, 1.2)
            self._outline(self.picture.located)
        canvas.setDash()

    def _outline(self, boxes: Iterable[tuple[float, float, float, float]]) -> None:
        for x0, y0, x1, y1 in boxes:
            left, right = self._inset(x0, self.width), self._inset(x1, self.width)
            low, high = self._inset(1 - y1, self.height), self._inset(1 - y0, self.height)
            self.canv.rect(left, low, right - left, high - low, stroke=1, fill=0)

    def _inset(self, share: float, length: float) -> float:
        """Place an edge so that its line stays on the film."""
        edge = 1.2 * self.line
        return min(max(share * length, edge), length - edge)


_VERDICT_LOOK: dict[VerdictName, tuple[Color, Color, Color]] = {
    # fill, text, edge: dark, middle, pale and white, so that grey paper tells them apart too
    "fail": (HexColor("#8f260b"), white, HexColor("#8f260b")),
    "review": (HexColor("#f0b440"), INK, HexColor("#b97e08")),
    "pass": (HexColor("#dcefe9"), INK, HexColor("#00795f")),
    "not_auditable": (white, INK, MUTED),
}


class VerdictBanner(Flowable):
    """The verdict as a band: a symbol, the word, what it means, and the draft mark."""

    def __init__(self, verdict: VerdictName) -> None:
        super().__init__()
        register_fonts()
        self.verdict, self.width, self.height = verdict, WIDTH, 58.0

    def wrap(self, availWidth: float, availHeight: float) -> tuple[float, float]:
        """Return the size, which is fixed."""
        return self.width, self.height

    def draw(self) -> None:
        """Draw the band; the dashed edge says that there is no answer."""
        canvas: Canvas = self.canv
        fill, text, edge = _VERDICT_LOOK[self.verdict]
        canvas.setFillColor(fill)
        canvas.setStrokeColor(edge)
        canvas.setLineWidth(1.2)
        if self.verdict == "not_auditable":
            canvas.setDash(4, 3)
        canvas.roundRect(0.6, 0.6, self.width - 1.2, self.height - 1.2, 4, stroke=1, fill=1)
        canvas.setDash()
        self._symbol(canvas, text, edge)
        canvas.setFillColor(text)
        canvas.setFont(SANS_BOLD, 20)
        canvas.drawString(62, 30, VERDICT_WORDS[self.verdict])
        canvas.setFont(SANS, 9.6)
        canvas.drawString(62, 13, VERDICT_LINES[self.verdict])
        canvas.setStrokeColor(text)
        canvas.setLineWidth(0.9)
        canvas.roundRect(self.width - 76, 19, 60, 20, 3, stroke=1, fill=0)
        canvas.setFont(SANS_BOLD, 11)
        canvas.drawCentredString(self.width - 46, 25, "DRAFT")

    def _symbol(self, canvas: Canvas, text: Color, edge: Color) -> None:
        """Draw a cross, a triangle, a tick or a question mark, each a shape of its own."""
        x, y, r = 34.0, self.height / 2, 14.0
        canvas.setStrokeColor(text if self.verdict == "fail" else INK)
        canvas.setLineWidth(3)
        canvas.setLineCap(1)
        canvas.setLineJoin(1)
        if self.verdict == "fail":
            canvas.circle(x, y, r, stroke=1, fill=0)
            canvas.line(x - 5.5, y - 5.5, x + 5.5, y + 5.5)
            canvas.line(x - 5.5, y + 5.5, x + 5.5, y - 5.5)
        elif self.verdict == "review":
            path = canvas.beginPath()
            path.moveTo(x, y + r)
            path.lineTo(x + r, y - r * 0.8)
            path.lineTo(x - r, y - r * 0.8)
            path.close()
            canvas.drawPath(path, stroke=1, fill=0)
            canvas.line(x, y + 4, x, y - 2)
            canvas.line(x, y - 6.6, x, y - 6.7)
        elif self.verdict == "pass":
            canvas.setStrokeColor(edge)
            canvas.circle(x, y, r, stroke=1, fill=0)
            canvas.lines([(x - 6.5, y, x - 1.5, y - 5.5), (x - 1.5, y - 5.5, x + 7, y + 5.5)])
        else:
            canvas.setLineWidth(1.6)
            canvas.circle(x, y, r, stroke=1, fill=0)
            canvas.setFillColor(text)
            canvas.setFont(SANS_BOLD, 17)
            canvas.drawCentredString(x, y - 6, "?")


@dataclass(frozen=True, slots=True)
class Dot:
    """One value with its interval on a scale from 0 to 1; a filled circle or an open square."""

    value: float
    interval: Interval
    colour: Color
    filled: bool


_INSET = 6.0
_THREE_LABELS = 80.0  # a narrower scale names its ends alone


def _at(value: float, width: float) -> float:
    return _INSET + min(max(value, 0.0), 1.0) * (width - 2 * _INSET)


class DotRow(Flowable):
    """A row of a dot-and-interval plot, one line a dot; where there is no data there is no dot."""

    def __init__(self, dots: Sequence[Dot], width: float, height: float = 13.0) -> None:
        super().__init__()
        self.dots, self.width, self.height = dots, width, height

    def wrap(self, availWidth: float, availHeight: float) -> tuple[float, float]:
        """Return the size, which is fixed."""
        return self.width, self.height

    def draw(self) -> None:
        """Draw the scale, the intervals, the dots."""
        canvas: Canvas = self.canv
        canvas.setStrokeColor(RULE)
        canvas.setLineWidth(0.35)
        for tick in (0.0, 0.5, 1.0):
            x = _at(tick, self.width)
            canvas.line(x, 0, x, self.height)
        for at, dot in enumerate(self.dots):
            y = self.height * (1 - (at + 0.5) / len(self.dots))
            if math.isfinite(dot.interval.low) and math.isfinite(dot.interval.high):
                canvas.setStrokeColor(dot.colour)
                canvas.setLineWidth(1.0)
                low, high = _at(dot.interval.low, self.width), _at(dot.interval.high, self.width)
                canvas.line(low, y, high, y)
            if math.isfinite(dot.value):
                _mark(canvas, _at(dot.value, self.width), y, dot.colour, filled=dot.filled)


class DotAxis(Flowable):
    """The scale over the rows, 0 to 100 %, and what the marks mean."""

    def __init__(self, width: float, names: Sequence[tuple[str, Color, bool]] = ()) -> None:
        super().__init__()
        self.names, self.width, self.height = names, width, 20.0 if names else 10.0

    def wrap(self, availWidth: float, availHeight: float) -> tuple[float, float]:
        """Return the size, which is fixed."""
        return self.width, self.height

    def draw(self) -> None:
        """Draw the key above the scale."""
        canvas: Canvas = self.canv
        at = _INSET
        for name, colour, filled in self.names:
            _mark(canvas, at, 14.3, colour, filled=filled)
            canvas.setFillColor(MUTED)
            canvas.setFont(SANS, 6.4)
            canvas.drawString(at + 6, 12, name)
            at += canvas.stringWidth(name, SANS, 6.4) + 16
        canvas.setFillColor(MUTED)
        canvas.setFont(SANS, 6.4)
        canvas.drawString(2, 2, "0 %")
        if self.width >= _THREE_LABELS:
            canvas.drawCentredString(self.width / 2, 2, "50 %")
        canvas.drawRightString(self.width - 2, 2, "100 %")


def _mark(canvas: Canvas, x: float, y: float, colour: Color, *, filled: bool) -> None:
    """Draw a filled circle or an open square."""
    canvas.setStrokeColor(colour)
    canvas.setFillColor(colour if filled else white)
    canvas.setLineWidth(1.0)
    if filled:
        canvas.circle(x, y, 2.2, stroke=1, fill=1)
    else:
        canvas.rect(x - 2.2, y - 2.2, 4.4, 4.4, stroke=1, fill=1)
