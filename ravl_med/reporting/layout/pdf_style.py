"""How the PDF looks: palette, fonts, grid, the building blocks of every page, and the document.

References
----------
ISO 32000-2:2020, 12.7.5.5 (signature fields), 14.3.3 (document information dictionary) and 14.4
(file identifiers).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib.colors import HexColor
from reportlab.lib.enums import TA_CENTER, TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.pdfdoc import (
    PDFArray,
    PDFDictionary,
    PDFDocument,
    PDFInfo,
    PDFName,
    PDFStream,
    PDFString,
)
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    ActionFlowable,
    BaseDocTemplate,
    Flowable,
    Frame,
    PageTemplate,
    Paragraph,
    Spacer,
    Table,
    TableStyle,
)

from ravl_med.reporting.layout.blocks import Status
from ravl_med.reporting.layout.pdf_tags import StructureTree, TaggedCanvas, TaggedTable, tagged
from ravl_med.reporting.wording import DASH, font_file, printable


@dataclass(frozen=True, slots=True)
class SignatureField:
    """Where somebody may sign; box (x0, y0, x1, y1) in points from the lower left corner."""

    name: str  # unique in the document
    tooltip: str  # who signs there
    page: int  # from 1
    box: tuple[float, float, float, float]


@cache
def can_sign() -> bool:
    """Return whether pyHanko is installed."""
    return find_spec("pyhanko") is not None and find_spec("pyhanko.sign") is not None


def add_signature_fields(document: bytes, fields: Sequence[SignatureField]) -> bytes:
    """Return a PDF with empty signature fields, for those who sign it later with their own tool.

    pyHanko adds them as an incremental update; it signs nothing here. The same input gives the same
    bytes.
    """
    if not fields:
        return document
    from pyhanko.pdf_utils.generic import ArrayObject, ByteStringObject
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
    from pyhanko.sign.fields import SigFieldSpec, append_signature_field

    writer = IncrementalPdfFileWriter(io.BytesIO(document))
    for place in fields:
        spec = SigFieldSpec(
            place.name,
            place.page - 1,
            tuple(map(round, place.box)),
            readable_field_name=place.tooltip,
        )
        append_signature_field(writer, spec)
    # Left to itself it writes a random identifier and the time of day. The standard proposes a
    # digest of the content for the one, and the other is the business of who signs.
    changed = ByteStringObject(hashlib.sha256(document).digest()[:16])
    writer._document_id = ArrayObject([writer._document_id[0], changed])
    writer._update_meta = lambda: None
    stream = io.BytesIO()
    writer.write(stream)
    return stream.getvalue()


def _attachment(document: Any, name: str, content: bytes) -> Any:
    """Return a reference to a file that lies inside of a PDF (ISO 32000-2, 7.11.4)."""
    kept = PDFStream(PDFDictionary({"Type": PDFName("EmbeddedFile")}), content, filters=[])
    entries = {
        "Type": PDFName("Filespec"),
        "F": PDFString(name),
        "UF": PDFString(name),
        "EF": PDFDictionary({"F": document.Reference(kept)}),
    }
    return document.Reference(PDFDictionary(entries))


class PropertiesInfo(PDFInfo):
    """An information dictionary with entries of our own, named in ASCII, beside the standard.

    reportlab writes the standard ones alone; a reader that looks for its own, such as the model
    card of the Coalition for Health AI, finds them there.
    """

    def __init__(self, info: PDFInfo, properties: Mapping[str, str]) -> None:
        super().__init__()
        self.__dict__.update(info.__dict__)
        self.properties = dict(properties)

    def digest(self, md5object: hashlib._Hash) -> None:
        """Let the file's ID depend on the further entries too."""
        super().digest(md5object)
        for name, text in self.properties.items():
            md5object.update(f"{name}={text}".encode())

    def format(self, document: PDFDocument) -> bytes:
        """Return the dictionary as it stands in the file."""
        standard: bytes = super().format(document)
        added = PDFDictionary({name: PDFString(text) for name, text in self.properties.items()})
        further: bytes = added.format(document)
        # Two dictionaries, `<< a >>` and `<< b >>`, become one.
        return standard.removesuffix(b">>") + further.removeprefix(b"<<")


MARGIN = 18 * mm
WIDTH, HEIGHT = A4[0] - 2 * MARGIN, A4[1] - 36 * mm  # of what stands on a page
INK = HexColor("#1b2733")
MUTED = HexColor("#5a6772")
RULE = HexColor("#ccd4da")

SANS, SANS_BOLD, MONO = "RavlMed-Sans", "RavlMed-Sans-Bold", "RavlMed-Mono"


class _Font(TTFont):
    """A font that measures each word once; paragraphs ask for the same ones again and again."""

    @lru_cache(maxsize=2**15)  # noqa: B019 - fonts stay registered as long as the process
    def stringWidth(self, text: str, size: float, encoding: str = "utf8") -> float:  # noqa: N802
        """Return the width of text in points."""
        width: float = super().stringWidth(text, size, encoding)
        return width


@cache
def register_fonts() -> None:
    """Make the embedded fonts known to reportlab, once a process."""
    files = {SANS: "DejaVuSans", SANS_BOLD: "DejaVuSans-Bold", MONO: "DejaVuSansMono"}
    for name, file in files.items():
        pdfmetrics.registerFont(_Font(name, str(font_file(file))))
    # Paragraph looks up bold and italic of a family even where no markup asks for them.
    pdfmetrics.registerFontFamily(SANS, SANS, SANS_BOLD, SANS, SANS_BOLD)
    pdfmetrics.registerFontFamily(SANS_BOLD, SANS_BOLD, SANS_BOLD, SANS_BOLD, SANS_BOLD)
    pdfmetrics.registerFontFamily(MONO, MONO, MONO, MONO, MONO)


@cache
def _styles() -> dict[str, ParagraphStyle]:
    """Paragraph styles by role; sizes step by a quarter."""
    register_fonts()

    def style(name: str, size: float, lead: float, **more: Any) -> ParagraphStyle:
        look: dict[str, Any] = {
            "fontName": SANS,
            "textColor": INK,
            "splitLongWords": 1,
            "bulletFontName": SANS,
        } | more
        return ParagraphStyle(name, fontSize=size, leading=lead, **look)

    made = [
        style("title", 19, 24, fontName=SANS_BOLD, spaceAfter=3),
        # Space before: of a chapter that begins in the middle of a page.
        style("h1", 13.5, 18, fontName=SANS_BOLD, spaceBefore=22, spaceAfter=5),
        # Not kept with what follows, which would move all of it to the next page.
        style("h2", 9, 13, fontName=SANS_BOLD, spaceBefore=9, spaceAfter=2.5),
        style("body", 8.8, 13, spaceAfter=4),
        style("lead", 9.6, 14.4, spaceAfter=5),
        style("muted", 7.6, 10.8, textColor=MUTED, spaceAfter=3),
        style("item", 8.8, 13, spaceAfter=3, leftIndent=10, bulletIndent=0),
        style("cell", 7.5, 10),
        style("cell_bold", 7.5, 10, fontName=SANS_BOLD),
        style("cell_indented", 7.5, 10, leftIndent=9),
        style("cell_right", 7.5, 10, alignment=TA_RIGHT),
        style("cell_mono", 6.8, 9.4, fontName=MONO),
        style("head", 7, 9, fontName=SANS_BOLD, textColor=MUTED),
        style("head_right", 7, 9, fontName=SANS_BOLD, textColor=MUTED, alignment=TA_RIGHT),
        style("caption", 7.4, 9.0, textColor=MUTED, alignment=TA_CENTER),
        style("note", 7.0, 8.8, textColor=MUTED),
    ]
    return {entry.name: entry for entry in made}


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return the width of text in points."""
    register_fonts()
    return pdfmetrics.stringWidth(text, SANS_BOLD if bold else SANS, size)


class _Text(Paragraph):
    """A paragraph that is broken into lines once a width; a table asks four times."""

    def wrap(self, availWidth: float, availHeight: float) -> tuple[float, float]:
        """Return width and height, in points."""
        if getattr(self, "blPara", None) is None or self.width != availWidth:
            super().wrap(availWidth, availHeight)
        return self.width, self.height

    def draw(self) -> None:
        """Draw it as a part of the structure."""
        with tagged(self.canv, self.style.name):
            super().draw()

    def split(self, availWidth: float, availHeight: float) -> list[Any]:
        """Return its parts on two pages, each to be broken into lines by itself."""
        parts: list[Any] = super().split(availWidth, availHeight)
        for part in parts:
            if part is not self:
                part.blPara = None
        return parts


class Heading(_Text):
    """A heading that enters the outline and whose page is remembered under `key`."""

    def __init__(
        self, text: str, key: str, level: int = 0, *, style: str = "h1", limit: int = 200
    ) -> None:
        self.title, self.key, self.level = printable(text, limit) or DASH, key, level
        super().__init__(escape(self.title), _styles()[style])


def paragraph(text: str, style: str = "body", limit: int = 1500) -> Paragraph:
    """Return a paragraph of plain text: made printable, cut at `limit`, escaped."""
    bullet = "•" if style == "item" else None
    return _Text(escape(printable(text, limit)), _styles()[style], bulletText=bullet)


def gap(height: float) -> Spacer:
    """Return vertical white space in points."""
    return Spacer(1, height)


_TABLE_FONT = ("FONTNAME", (0, 0), (-1, -1), SANS)  # else Helvetica, which is not embedded

Cell = str | Flowable | list[Flowable]


def table(
    rows: Sequence[Sequence[Cell]],
    widths: Sequence[float],
    *,
    right: Sequence[int] = (),
    mono: Sequence[int] = (),
    header: bool = True,
    limit: int = 120,
    dense: bool = False,
) -> Table:
    """Return a ruled table; strings become escaped paragraphs, the header repeats on each page."""
    air = 1.2 if dense else 2.6

    def cell(value: Cell, row: int, column: int) -> Cell:
        if not isinstance(value, str):
            return value
        side = "_right" if column in right else ""
        style = f"head{side}" if header and row == 0 else f"cell{side}"
        if style == "cell" and column in mono:
            style = "cell_mono"
        return paragraph(value, style, limit)

    cells = [[cell(v, r, c) for c, v in enumerate(row)] for r, row in enumerate(rows)]
    look: list[Any] = [
        _TABLE_FONT,
        ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
        ("LINEBELOW", (0, 0), (-1, -1), 0.35, RULE),
        ("LEFTPADDING", (0, 0), (-1, -1), 2),
        ("RIGHTPADDING", (0, 0), (-1, -1), 6),
        ("TOPPADDING", (0, 0), (-1, -1), air),
        ("BOTTOMPADDING", (0, 0), (-1, -1), air),
    ]
    if header:
        look += [("LINEBELOW", (0, 0), (-1, 0), 0.8, INK), ("VALIGN", (0, 0), (-1, 0), "BOTTOM")]
    made = TaggedTable(
        cells, colWidths=list(widths), repeatRows=int(header), style=TableStyle(look)
    )
    made.hAlign = "LEFT"
    return made


def grid(cells: Sequence[list[Flowable]], columns: int, note: Flowable | None = None) -> Table:
    """Return pictures with their captions in rows of `columns`, without rules.

    A note stands under the last row, and never on the next page without it.
    """
    rows = [list(cells[at : at + columns]) for at in range(0, len(cells), columns)]
    rows[-1] += [[] for _ in range(columns - len(rows[-1]))]
    look: list[Any] = [
        _TABLE_FONT,
        ("VALIGN", (0, 0), (-1, -1), "BOTTOM"),
        ("ALIGN", (0, 0), (-1, -1), "CENTER"),
        ("LEFTPADDING", (0, 0), (-1, -1), 2),
        ("RIGHTPADDING", (0, 0), (-1, -1), 2),
        ("TOPPADDING", (0, 0), (-1, -1), 2),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
    ]
    if note is not None:
        rows.append([[note], *([] for _ in range(columns - 1))])
        look += [("SPAN", (0, -1), (-1, -1)), ("NOSPLIT", (0, -2), (-1, -1))]
    return Table(rows, colWidths=[WIDTH / columns] * columns, style=TableStyle(look))


def columns(left: list[Flowable], right: list[Flowable], share: float) -> Table:
    """Return two columns, the left one `share` of the width; never taller than a page."""
    look = [
        _TABLE_FONT,
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("ALIGN", (1, 0), (1, 0), "CENTER"),
        ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ("RIGHTPADDING", (0, 0), (0, 0), 10),
        ("RIGHTPADDING", (1, 0), (1, 0), 0),
        ("TOPPADDING", (0, 0), (-1, -1), 0),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 0),
    ]
    widths = [share * WIDTH, (1 - share) * WIDTH]
    return Table([[left, right]], colWidths=widths, style=TableStyle(look))


@dataclass
class _Pages:
    """Where each heading came to stand, and how many pages there are."""

    by_key: dict[str, int] = field(default_factory=dict)
    total: int = 0


class LeavePageOne(ActionFlowable):
    """Ends page one; on a later page, where page one has run over, the next chapter follows on."""

    def apply(self, doc: BaseDocTemplate) -> None:
        """Break the page."""
        if doc.page == 1:
            doc.handle_pageBreak()


@dataclass(frozen=True, slots=True)
class Imprint:
    """What the pages and the metadata of a PDF say of it."""

    run: str
    title: str
    version: str
    subject: str  # of the metadata, such as "Audit quickstart"
    status: Status | None  # of what is to be signed
    properties: Mapping[str, str] = field(default_factory=dict)  # further entries of the metadata
    attached: Mapping[str, bytes] = field(default_factory=dict)  # files inside of the file, by name
    date: date | None = None  # of the run, which is that of the file; None: not known


class _Measured(Frame):
    """A frame that finds each thing its place and draws none: drawing takes most of the time."""

    def add(self, flowable: Flowable, canv: Canvas, trySplit: int = 0) -> Any:
        """Place a flowable; what does not fit says so, as in any frame."""
        flowable.drawOn = lambda *place, **more: None  # type: ignore[method-assign]
        try:
            return super().add(flowable, canv, trySplit)
        finally:
            del flowable.drawOn


class Document(BaseDocTemplate):
    """A4 pages with one frame, a footer, an outline and metadata; the same input, the same bytes.

    `total`, the number of pages, is known from a first pass, on which it is 0 and nothing is drawn.
    """

    def __init__(self, stream: io.BytesIO, imprint: Imprint, total: int = 0) -> None:
        register_fonts()
        version, status = printable(imprint.version, 20), imprint.status
        super().__init__(
            stream,
            pagesize=A4,
            title=printable(imprint.title, 200),
            author=f"RaVL-Med {version}",
            subject=printable(imprint.subject, 92) + (f" ({status.lower()})" if status else ""),
            creator="RaVL-Med",
            lang="en",
            initialFontName=SANS,
            invariant=1,
        )
        self.status, self.imprint = status, imprint
        self.run, self.version, self.total = printable(imprint.run, 36), version, total
        self.pages = _Pages()
        self.signature_fields: list[SignatureField] = []
        kind = Frame if total else _Measured
        frame = kind(MARGIN, 20 * mm, WIDTH, HEIGHT, 0, 0, 0, 0, id="page")
        self.addPageTemplates([PageTemplate("page", [frame], onPageEnd=self._footer)])

    def beforeDocument(self) -> None:  # noqa: N802
        """Enter the properties into the metadata, and attach files."""
        document = self.canv._doc  # type: ignore[attr-defined]  # no public way to its metadata
        document.structure = StructureTree()
        if self.imprint.date is not None:
            document._timeStamp.YMDhms = (*self.imprint.date.timetuple()[:3], 0, 0, 0)
        if self.imprint.properties:
            document.info = PropertiesInfo(document.info, self.imprint.properties)
        if self.imprint.attached:
            files = [
                part
                for name, content in sorted(self.imprint.attached.items())
                for part in (PDFString(name), _attachment(document, name, content))
            ]
            names = PDFDictionary({"Names": PDFArray(files)})
            document.Catalog.Names = PDFDictionary({"EmbeddedFiles": names})

    def _footer(self, canvas: Canvas, _document: BaseDocTemplate) -> None:
        canvas.setViewerPreference("DisplayDocTitle", "true")
        canvas.saveState()
        y = 12 * mm
        canvas.setStrokeColor(RULE)
        canvas.setLineWidth(0.4)
        canvas.line(MARGIN, y + 10, A4[0] - MARGIN, y + 10)
        canvas.setFillColor(MUTED)
        canvas.setFont(SANS, 6.8)
        canvas.drawString(MARGIN, y, self.run)
        made = " · ".join(part for part in (self.status, f"RaVL-Med {self.version}") if part)
        canvas.drawCentredString(A4[0] / 2, y, made)
        canvas.drawRightString(A4[0] - MARGIN, y, f"page {canvas.getPageNumber()} of {self.total}")
        canvas.restoreState()

    def afterFlowable(self, flowable: Flowable) -> None:  # noqa: N802
        """Enter headings into the outline."""
        if isinstance(flowable, Heading):
            self.canv.bookmarkPage(flowable.key)
            self.canv.addOutlineEntry(flowable.title, flowable.key, flowable.level, closed=False)
            self.pages.by_key[flowable.key] = self.page

    @classmethod
    def render(cls, content: Callable[[dict[str, int]], list[Flowable]], imprint: Imprint) -> bytes:
        """Build twice, since page numbers are known only after the first time."""
        first = cls(io.BytesIO(), imprint)
        first.build(content({}))
        stream = io.BytesIO()
        last = cls(stream, imprint, first.page)
        last.build(content(first.pages.by_key), canvasmaker=TaggedCanvas)
        return add_signature_fields(stream.getvalue(), last.signature_fields)
