"""Tags of a PDF: what a screen reader hears, and in which order.

Headings, paragraphs, tables with their rows and heads, and figures with their words are elements of
a structure tree; what is drawn for the eye alone, such as rules and the foot of a page, is in none.

References
----------
ISO 32000-2:2020, 14.6 (marked content), 14.7 (logical structure), 14.8 (tagged PDF).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from reportlab.pdfbase.pdfdoc import PDFArray, PDFDictionary, PDFName, PDFString
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Table

_HEADINGS = {"title": 1, "h1": 2, "h2": 3}  # styles of paragraphs


@dataclass(eq=False, slots=True)
class _Element:
    """A part of the document; a leaf has marked content on a page."""

    role: str
    alt: str = ""
    kids: list[_Element] = field(default_factory=list)
    page: int = 0  # from 1; 0: no leaf
    mark: int = 0  # number of the marked content on that page


class StructureTree:
    """The elements of a document in the order in which they are drawn."""

    def __init__(self) -> None:
        self.root = _Element("Document")
        self._open = [self.root]
        self._pages: dict[int, list[_Element]] = {}
        self._level = 0  # of the last heading

    @contextmanager
    def element(self, role: str) -> Iterator[None]:
        """Let what is drawn meanwhile be part of an element; one without content is left out."""
        part = _Element(role)
        self._open.append(part)
        yield
        self._open.pop()
        if part.kids:
            self._open[-1].kids.append(part)

    @contextmanager
    def content(self, canvas: Canvas, role: str, alt: str = "") -> Iterator[None]:
        """Mark what is drawn meanwhile as the content of a new element."""
        page = canvas.getPageNumber()
        own = self._pages.setdefault(page, [])
        leaf = _Element(role, alt, page=page, mark=len(own))
        own.append(leaf)
        self._open[-1].kids.append(leaf)
        canvas._code.append(f"/{role} <</MCID {leaf.mark}>> BDC")  # type: ignore[attr-defined]
        yield
        canvas._code.append("EMC")  # type: ignore[attr-defined]

    def role_of(self, style: str) -> str:
        """Return the role of a paragraph by its style; headings go down step by step."""
        level = _HEADINGS.get(style, 0)
        if not level:
            return "P"
        self._level = min(level, self._level + 1)
        return f"H{self._level}"

    def write(self, document: Any) -> None:
        """Enter the tree into a document whose pages are all there."""
        pages = document.Pages.pages
        root = PDFDictionary({"Type": PDFName("StructTreeRoot")})
        reference = document.Reference(root)
        leaves: dict[int, list[Any]] = {
            number: [None] * len(o) for number, o in self._pages.items()
        }
        root["K"] = self._entered(document, self.root, reference, leaves)
        numbers: list[Any] = []
        for at, number in enumerate(sorted(leaves)):
            page = pages[number - 1]
            page.__NoDefault__ = [*page.__NoDefault__, "StructParents", "Tabs"]
            page.StructParents, page.Tabs = at, PDFName("S")
            numbers += [at, PDFArray(leaves[number])]
        root["ParentTree"] = document.Reference(PDFDictionary({"Nums": PDFArray(numbers)}))
        document.Catalog.StructTreeRoot = root
        document.Catalog.MarkInfo = PDFDictionary({"Marked": "true"})

    def _entered(
        self, document: Any, part: _Element, parent: Any, leaves: dict[int, list[Any]]
    ) -> Any:
        """Return a reference to an element, with all that is below it."""
        entries = PDFDictionary({"S": PDFName(part.role), "P": parent})
        reference = document.Reference(entries)
        if part.alt:
            entries["Alt"] = PDFString(part.alt)
        if part.page:
            entries["Pg"] = document.Reference(document.Pages.pages[part.page - 1])
            entries["K"] = part.mark
            leaves[part.page][part.mark] = reference
        else:
            kids = [self._entered(document, kid, reference, leaves) for kid in part.kids]
            entries["K"] = PDFArray(kids)
        return reference


class TaggedCanvas(Canvas):
    """A canvas that enters the tree of its document when all pages are drawn."""

    def save(self) -> None:
        """Finish the last page, then the tree, then the file."""
        tree = tree_of(self)
        if tree is not None:
            if self._code:  # type: ignore[attr-defined]
                self.showPage()
            tree.write(self._doc)  # type: ignore[attr-defined]
        super().save()


def tree_of(canvas: Any) -> StructureTree | None:
    """Return the tree of the document that is drawn; None where none is kept."""
    return getattr(canvas._doc, "structure", None)


@contextmanager
def tagged(canvas: Any, role: str, alt: str = "") -> Iterator[None]:
    """Mark what is drawn meanwhile; a style of a paragraph stands for its role."""
    tree = tree_of(canvas)
    if tree is None:
        yield
        return
    with tree.content(canvas, role if role[:1].isupper() else tree.role_of(role), alt):
        yield


class TaggedTable(Table):
    """A table whose rows and cells are elements; repeated heads are heads on each page."""

    _row: Any = None

    def draw(self) -> None:
        """Draw the table inside an element of its own."""
        tree = tree_of(self.canv)
        if tree is None:
            super().draw()
            return
        with tree.element("Table"):
            self._row, self._rows, self._place = None, 0, None
            super().draw()
            if self._row is not None:
                self._row.__exit__(None, None, None)
                self._row = None

    def _drawCell(self, cell: Any, style: Any, place: Any, size: Any) -> None:  # noqa: N802
        tree = tree_of(self.canv)
        if tree is None:
            super()._drawCell(cell, style, place, size)  # type: ignore[misc]
            return
        if place[1] != self._place:
            if self._row is not None:
                self._row.__exit__(None, None, None)
            self._row, self._place = tree.element("TR"), place[1]
            self._row.__enter__()
            self._rows += 1
        with tree.element("TH" if self._rows <= self.repeatRows else "TD"):
            super()._drawCell(cell, style, place, size)  # type: ignore[misc]
