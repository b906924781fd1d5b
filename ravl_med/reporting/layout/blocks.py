"""What a report is made of, whatever it is written to.

The content of a report is put together once, as a sequence of these blocks, and then drawn as a PDF
and as HTML: the same words and the same numbers in both. Text is raw; the layout makes it printable
and escapes it. A block says what something is, never how large it is or where it stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ravl_med.evidence.mitigation_result import LearningCurve
from ravl_med.evidence.results import Interval
from ravl_med.reporting.pictures import Picture

DotLook = Literal["main", "other", "before", "weak", "total"]
"""Filled blue circle, open amber square, open grey square, open blue square, filled dark circle."""

SpotLook = Literal["shortcut", "sign", "undecided", "confirmed", "candidate", "other"]
"""Dark red diamond, green triangle, amber square, blue ring, open circle, pale circle."""

Tone = Literal["good", "caution", "bad", "open"]
"""Colours of a banner; "open" has a dashed edge."""

Status = Literal["DRAFT", "FINAL"]
"""FINAL: whatever asked for a reviewer was decided."""

Symbol = Literal["tick", "warning", "level", "cross", "question", "dash"]

ColumnKind = Literal[
    "text", "wide", "label", "number", "interval", "status", "code", "plot", "picture"
]
"""What a column holds; the layout decides how wide that is and how it is set.

``picture`` holds thumbnails.

``text`` takes what it needs up to a third of the table, ``wide`` what is left, ``label`` names a
fact. ``number``, ``interval`` and ``status`` stay on one line, ``code`` is read letter by letter.
"""


@dataclass(frozen=True, slots=True)
class Dot:
    """A value with its interval, as a mark on a scale; NaN draws none."""

    name: str
    value: float
    interval: Interval
    look: DotLook = "main"


@dataclass(frozen=True, slots=True)
class Dots:
    """A cell with a row of a dot-and-interval plot, one line a dot, from the top."""

    dots: tuple[Dot, ...]
    signed: bool = False  # the scale goes from -1 to 1 and not from 0 to 1
    reference: float = math.nan  # share that the dots are held against, as a line; NaN: none


@dataclass(frozen=True, slots=True)
class Scale:
    """The head of a column of `Dots`: the scale, and what marks and line of reference mean."""

    marks: tuple[tuple[str, DotLook], ...] = ()
    signed: bool = False
    reference: str = ""


@dataclass(frozen=True, slots=True)
class FlowBox:
    """A box of a flow: a title, how many, and lines such as reasons."""

    title: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Flow:
    """From a list to what is used of it: down the middle, what drops out to the right."""

    caption: str
    start: FlowBox
    left_out: tuple[FlowBox, ...]  # in the order in which they drop out
    end: FlowBox
    parts: tuple[FlowBox, ...]  # what the end is divided into, side by side; two or none


@dataclass(frozen=True, slots=True)
class Spot:
    """A feature cluster on a map; one with a number leads to the `Entry` of its key."""

    x: float  # of any scale, the same for x and y
    y: float
    size: int  # that its area stands for
    look: SpotLook
    alt: str = ""
    number: str = ""  # printed beside it
    key: str = ""


@dataclass(frozen=True, slots=True)
class ClusterPlot:
    """Feature clusters on a map; the note says what to see and how the map was made."""

    caption: str
    spots: tuple[Spot, ...]  # those in front last
    legend: tuple[tuple[str, SpotLook], ...]  # of the looks that there are
    note: str


@dataclass(frozen=True, slots=True)
class Title:
    """The title of the report, and the line below it."""

    text: str
    below: str


@dataclass(frozen=True, slots=True)
class Banner:
    """The outcome as a band: a symbol, a word, what it means, and the draft mark."""

    title: str
    line: str
    tone: Tone
    symbol: Symbol
    status: Status = "DRAFT"


@dataclass(frozen=True, slots=True)
class Chapter:
    """A heading that enters the outline; it never stands on page one.

    ``page`` begins a page; ``whole`` does so where all of the chapter fits on a page and not on the
    rest of this one; ``flow`` where no room is left for its start.
    """

    title: str
    key: str
    start: Literal["flow", "whole", "page"] = "flow"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading inside a chapter."""

    title: str


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a `Chapter` or an `Entry` stands: its page on paper, a link on a screen."""

    key: str
    name: str  # of the link


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; with a reference, its last sentence says where to read on."""

    text: str
    role: Literal["body", "lead", "muted"] = "body"
    limit: int = 1500
    see: Reference | None = None


@dataclass(frozen=True, slots=True)
class Items:
    """A list with bullets."""

    items: tuple[str, ...]
    limit: int = 600


@dataclass(frozen=True, slots=True)
class Lines:
    """A cell of several lines; the first is bold where `strong` is set, all are indented if so."""

    lines: tuple[str, ...]
    strong: bool = False
    indented: bool = False


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A cell with a small picture; `alt` says what is seen."""

    picture: Picture
    alt: str


Words = str | Lines | Dots | Scale | Reference
"""A cell that is read, or drawn from numbers."""

Cell = Words | Thumbnail


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    head: str | Scale
    kind: ColumnKind = "text"


def columns(kind: ColumnKind, *heads: str) -> list[Column]:
    """Return columns of one kind, by their heads."""
    return [Column(head, kind) for head in heads]


@dataclass(frozen=True, slots=True)
class Table:
    """A ruled table."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[tuple[Cell, ...]]
    note: str = ""  # under the table
    headed: bool = True  # the heads of the columns are printed
    limit: int = 300  # length at which the text of a cell is cut
    titled: bool = True  # the caption is printed; else it names the table to who cannot see it
    dense: bool = True  # little air between the rows
    joined: Sequence[int] = ()  # rows that stay on the page of the row below them

    def __post_init__(self) -> None:
        for name in ("columns", "rows", "joined"):
            object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with its caption; `alt` says what is seen."""

    picture: Picture
    alt: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FigureGrid:
    """Figures in rows, with a note under them."""

    figures: tuple[Figure, ...]
    kind: Literal["large", "film", "region"]  # two, four or five a row
    compact: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Blocks with a figure on their right."""

    content: tuple[Block, ...]
    figure: Figure


@dataclass(frozen=True, slots=True)
class KeepTogether:
    """Blocks that stay on one page."""

    content: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One of several like parts, on pages of its own, such as a correlation."""

    title: str
    key: str
    noun: str  # what it is, such as "correlation"
    marks: tuple[str, ...]  # that a reader may choose entries by
    content: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class CurvePanels:
    """Learning curves, a panel an arm; the note says what is drawn."""

    caption: str
    panels: tuple[tuple[str, LearningCurve], ...]
    note: str


@dataclass(frozen=True, slots=True)
class SignOff:
    """Where a report is signed: a row for each role. One a report.

    The short form has lines to write on. Else each role takes one of some choices, there is room
    for conditions, and on paper what is written can be filled in on a screen too; `signable` gives
    each role a field for an electronic signature, which otherwise comes from outside.
    """

    roles: tuple[str, ...]
    choices: tuple[str, ...] = ()
    short: bool = False
    signable: bool = False

    @property
    def heads(self) -> tuple[str, ...]:
        """What is written for each role."""
        place = () if self.short else ("Role, institution",)
        return ("To be signed by", "Name", *place, "Date", "Signature")


CHOICES, REMARKS = "Decisions", "Conditions and remarks"
"""Headings over the choices and the room for conditions of a `SignOff`."""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What it takes to do it again: tables of names and values, and the effective config."""

    tables: Mapping[str, Mapping[str, str]]
    config_yaml: str


Block = (
    Title
    | Banner
    | Chapter
    | Section
    | Text
    | Items
    | Table
    | FigureGrid
    | SideBySide
    | KeepTogether
    | Entry
    | Flow
    | ClusterPlot
    | CurvePanels
    | SignOff
    | Reproduction
)


def status_of(content: Sequence[Block]) -> Status | None:
    """Return the status that the banner of a report says; None where nothing is to be signed."""
    return next((block.status for block in content if isinstance(block, Banner)), None)
