"""The mitigation on paper: what a radiologist and a regulator read.

Verdict first, then every arm, the delivered model in detail, the trainings, the re-audit, and how
to do it again; see `mitigation_pages`.
"""

from __future__ import annotations

import io
from pathlib import Path

from reportlab.lib.colors import HexColor
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import CondPageBreak, Flowable, KeepTogether, PageBreak
from reportlab.platypus import Table as Ruled

from ravl_med import __version__
from ravl_med.evidence.mitigation_result import MitigationResult, VerdictWord
from ravl_med.reporting import mitigation_figures as figures
from ravl_med.reporting import pdf_style as style
from ravl_med.reporting.mitigation_blocks import (
    Block,
    Cell,
    Chapter,
    CurvePanels,
    Dots,
    Items,
    Lines,
    MitigationDetails,
    Outcome,
    Reproduction,
    Scale,
    Section,
    Signatures,
    Sized,
    Table,
    Text,
    Title,
)
from ravl_med.reporting.mitigation_pages import mitigation_story
from ravl_med.reporting.mitigation_words import OUTCOME_LINES, OUTCOME_WORDS
from ravl_med.reporting.pdf_method import reproducibility_page
from ravl_med.reporting.pdf_style import WIDTH, Heading, gap, paragraph
from ravl_med.reporting.wording import DASH, printable

__all__ = ["MitigationDetails", "write_mitigation_pdf"]

_KEPT_TOGETHER = 14  # rows; a longer table splits over pages
_PADDING = 8.0  # of a cell, left and right together
_PANELS_A_ROW = 3
_ROOM = 330.0  # points; a chapter with less than that before the page ends begins a new one


def write_mitigation_pdf(result: MitigationResult, details: MitigationDetails, path: Path) -> None:
    """Write the report of a mitigation as a PDF.

    Parameters
    ----------
    result : MitigationResult
    details : MitigationDetails
    path : Path - of the PDF; the same input gives the same bytes
    """
    blocks = mitigation_story(result, details)

    def story(_pages: dict[str, int]) -> list[Flowable]:
        made: list[Flowable] = []
        for block in blocks:
            made += _flowables(block)
        return made

    path.write_bytes(_Document.render(story, result.name, result.title, __version__))


class _Document(style.Document):
    """The document of the audit, with a subject of its own."""

    def __init__(
        self, stream: io.BytesIO, run: str, title: str, version: str, total: int = 0
    ) -> None:
        super().__init__(stream, run, title, version, total)
        self.subject = f"Mitigation {printable(run, 80)} (draft)"


def _flowables(block: Block) -> list[Flowable]:
    """Return a block as what the PDF library sets."""
    match block:
        case Title(text, below):
            heading = Heading(text, "verdict", style="title", limit=120)
            return [heading, paragraph(below, "muted", 300), gap(4)]
        case Outcome(verdict):
            return [_Banner(verdict), gap(2)]
        case Chapter(title, key):
            start = PageBreak() if key == "delivered" else CondPageBreak(_ROOM)
            return [style.LeavePageOne(), start, Heading(title, key)]
        case Section(title):
            return [paragraph(title, "h2", 200)]
        case Text(text, role, limit):
            return [paragraph(text, role, limit)]
        case Items(items, limit):
            return [paragraph(text, "item", limit) for text in items]
        case Table():
            return _table(block)
        case CurvePanels(caption):
            return [CondPageBreak(180), paragraph(caption, "h2_loose"), *_panels(block)]
        case Signatures(roles):
            return [_signatures(roles)]
        case Reproduction(tables, config):
            return reproducibility_page(tables, config)


def _table(block: Table) -> list[Flowable]:
    widths = [column.share * WIDTH for column in block.columns]
    rows = [[_cell(value, width, block.limit) for value, width in zip(row, widths, strict=True)]
            for row in block.rows]  # fmt: skip
    if block.headed:
        rows.insert(0, [_head(c, width) for c, width in zip(block.columns, widths, strict=True)])
    made = style.table(
        rows or [[DASH, *[""] * (len(widths) - 1)]],
        widths,
        right=_where(block, "right"),
        mono=_where(block, "mono"),
        header=block.headed,
        limit=block.limit,
        dense=True,
    )
    note = [gap(2.5), paragraph(block.note, "muted")] if block.note else [gap(4)]
    if len(block.rows) <= _KEPT_TOGETHER:
        return [KeepTogether([paragraph(block.caption, "h2"), made, *note])]
    return [CondPageBreak(150), paragraph(block.caption, "h2_loose"), made, *note]


def _where(block: Table, name: str) -> list[int]:
    return [at for at, column in enumerate(block.columns) if getattr(column, name)]


def _head(column: Sized, width: float) -> style.Cell:
    if isinstance(column.head, Scale):
        return _Drawn(figures.scale_figure(width - _PADDING, signed=column.head.signed))
    return column.head


def _cell(value: Cell, width: float, limit: int) -> style.Cell:
    match value:
        case Dots():
            return _Drawn(figures.dot_figure(value, width - _PADDING))
        case Lines(lines, strong):
            first = "cell_bold" if strong else "cell"
            return [
                paragraph(text, first if at == 0 else "cell", limit)
                for at, text in enumerate(lines)
            ]
        case Scale(signed):
            return _Drawn(figures.scale_figure(width - _PADDING, signed=signed))
        case str():
            return value


def _panels(block: CurvePanels) -> list[Flowable]:
    columns = min(_PANELS_A_ROW, max(len(block.panels), 2))
    width = WIDTH / columns - 6
    cells: list[list[Flowable]] = [
        [paragraph(title, "cell_bold", 60), _Drawn(figures.curve_figure(curve, width))]
        for title, curve in block.panels
    ]
    return [style.grid(cells, columns), paragraph(block.note, "muted")]


def _signatures(roles: tuple[str, ...]) -> KeepTogether:
    rows: list[list[style.Cell]] = [["To be signed by", "Name", "Date", "Signature"]]
    rows += [[role, gap(17), "", ""] for role in roles]
    widths = [0.28 * WIDTH, 0.28 * WIDTH, 0.14 * WIDTH, 0.3 * WIDTH]
    made: Ruled = style.table(rows, widths, dense=True)
    return KeepTogether([gap(6), made, gap(5)])


class _Drawn(Flowable):
    """A figure on the page."""

    def __init__(self, figure: figures.Figure) -> None:
        super().__init__()
        style.register_fonts()
        self.figure, self.width, self.height = figure, figure.width, figure.height
        self.hAlign = "LEFT"

    def wrap(self, availWidth: float, availHeight: float) -> tuple[float, float]:
        """Return the size, which is fixed."""
        return self.width, self.height

    def draw(self) -> None:
        """Draw every shape."""
        _draw(self.canv, self.figure)


def _draw(canvas: Canvas, figure: figures.Figure) -> None:
    canvas.setLineCap(1)
    canvas.setLineJoin(1)
    for shape in figure.shapes:
        canvas.setStrokeColor(HexColor(shape.colour))
        match shape:
            case figures.Path(points, _, weight, dash, closed):
                canvas.setLineWidth(weight)
                canvas.setDash(list(dash))
                path = canvas.beginPath()
                path.moveTo(*points[0])
                for point in points[1:]:
                    path.lineTo(*point)
                if closed:
                    path.close()
                canvas.drawPath(path, stroke=1, fill=0)
                canvas.setDash()
            case figures.Mark(x, y, radius, _, fill, square, weight):
                canvas.setLineWidth(weight)
                canvas.setFillColor(HexColor(fill))
                if square:
                    canvas.rect(x - radius, y - radius, 2 * radius, 2 * radius, stroke=1, fill=1)
                else:
                    canvas.circle(x, y, radius, stroke=1, fill=1)
            case figures.Label(x, y, text, anchor, colour, size):
                canvas.setFillColor(HexColor(colour))
                canvas.setFont(style.SANS, size)
                draw = {
                    "start": canvas.drawString,
                    "middle": canvas.drawCentredString,
                    "end": canvas.drawRightString,
                }[anchor]
                draw(x, y, text)


class _Banner(Flowable):
    """The verdict as a band: a symbol, the word, what it means, and the draft mark."""

    def __init__(self, verdict: VerdictWord) -> None:
        super().__init__()
        style.register_fonts()
        self.verdict, self.width, self.height = verdict, WIDTH, 58.0

    def wrap(self, availWidth: float, availHeight: float) -> tuple[float, float]:
        """Return the size, which is fixed."""
        return self.width, self.height

    def draw(self) -> None:
        """Draw the band; the dashed edge says that nothing was done."""
        canvas: Canvas = self.canv
        fill, text, edge = (HexColor(colour) for colour in figures.OUTCOME_LOOK[self.verdict])
        canvas.setFillColor(fill)
        canvas.setStrokeColor(edge)
        canvas.setLineWidth(1.2)
        if self.verdict == "nothing_to_do":
            canvas.setDash(4, 3)
        canvas.roundRect(0.6, 0.6, self.width - 1.2, self.height - 1.2, 4, stroke=1, fill=1)
        canvas.setDash()
        canvas.saveState()
        canvas.translate(17, 12)
        _draw(canvas, figures.outcome_figure(self.verdict))
        canvas.restoreState()
        canvas.setFillColor(text)
        canvas.setFont(style.SANS_BOLD, 20)
        canvas.drawString(62, 30, OUTCOME_WORDS[self.verdict])
        canvas.setFont(style.SANS, 9.6)
        canvas.drawString(62, 13, OUTCOME_LINES[self.verdict])
        canvas.setStrokeColor(text)
        canvas.setLineWidth(0.9)
        canvas.roundRect(self.width - 76, 19, 60, 20, 3, stroke=1, fill=0)
        canvas.setFont(style.SANS_BOLD, 11)
        canvas.drawCentredString(self.width - 46, 25, "DRAFT")
