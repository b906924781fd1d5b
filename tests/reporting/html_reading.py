"""HTML as a reader or a screen reader has it: elements in order, headings, tables row by row."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "col", "img", "input", "wbr"}
SHAPES = {"polyline", "polygon", "rect", "circle"}
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
PARAGRAPHS = (*HEADINGS, "p", "li", "figcaption", "pre")
Attributes = dict[str, str | None]


@dataclass
class Read:
    """A table: its caption and the text of each cell; what is drawn in a cell is left out."""

    caption: str = ""
    rows: list[list[str]] = field(default_factory=list)


class Reader(HTMLParser):
    """Checks that every element is closed in order, and keeps what stands where."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, Attributes]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.tables: list[Read] = []
        self.paragraphs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in HEADINGS:
            self.headings.append((int(tag[1]), ""))
        if tag in PARAGRAPHS:
            self.paragraphs.append("")
        if tag == "table":
            self.tables.append(Read())
        if tag == "tr":
            self.tables[-1].rows.append([])
        if tag in ("th", "td"):
            self.tables[-1].rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts.append(data)
        if {"style", "script", "svg", "dialog"} & set(self.open):
            return
        self.texts.append(data)
        inside = next((tag for tag in reversed(self.open) if tag in HEADINGS), None)
        if inside:
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)
        if set(PARAGRAPHS) & set(self.open):
            self.paragraphs[-1] += data
        if "caption" in self.open:
            self.tables[-1].caption += data
        if "td" in self.open or ("th" in self.open and "tr" in self.open):
            self.tables[-1].rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def of(self, *names: str) -> list[Attributes]:
        """Attributes of all elements with one of these names."""
        return [attributes for tag, attributes in self.tags if tag in names]


def read_html(source: str) -> Reader:
    """Read a page to its end."""
    reader = Reader()
    reader.feed(source)
    reader.close()
    assert reader.open == []
    return reader
