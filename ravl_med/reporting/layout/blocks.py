"""What a report is made of, whatever it is written to.

The content of a report is put together once, as a sequence of these blocks, and then drawn as a PDF
and as HTML: the same words and the same numbers in both. Text is raw; who draws it makes it
printable and escapes it. Lengths are points on paper; a screen takes what it needs of them.

What a report plots beside its words: dots with intervals, a flow of films, a map of clusters.
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


@dataclass(frozen=True, slots=True)
class Dot:
    """A value with its interval, as a mark on a scale; NaN draws none."""

    name: str
    value: float
    interval: Interval
    look: DotLook = "main"


@dataclass(frozen=True, slots=True)
class Dots:
    """A cell with a row of a dot-and-interval plot, one line a dot.

    Attributes
    ----------
    dots : tuple of Dot - shares, from the top
    signed : bool - the scale goes from -1 to 1 and not from 0 to 1
    reference : float - share that the dots are held against, as a line; NaN draws none
    """

    dots: tuple[Dot, ...]
    signed: bool = False
    height: float = 13.0
    reference: float = math.nan


@dataclass(frozen=True, slots=True)
class Scale:
    """The head of a column of `Dots`: the scale and what the marks and the line mean.

    Attributes
    ----------
    reference : str - what the line of reference is; blank where the dots have none
    """

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
    """From a list to what is used of it: down the middle, what drops out to the right.

    Attributes
    ----------
    left_out : tuple of FlowBox - in the order in which they drop out
    parts : tuple of FlowBox - what the end is divided into, side by side; two, or empty for none
    """

    caption: str
    start: FlowBox
    left_out: tuple[FlowBox, ...]
    end: FlowBox
    parts: tuple[FlowBox, ...]


@dataclass(frozen=True, slots=True)
class Spot:
    """A feature cluster on a map.

    Attributes
    ----------
    x, y : float - of any scale, the same for both
    size : int - that its area stands for
    words : str - what it is; told of those that have a number
    number : str - printed beside it; blank for none
    key : str - of the `Entry` that it leads to; blank for none
    """

    x: float
    y: float
    size: int
    look: SpotLook
    words: str = ""
    number: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class ClusterPlot:
    """Feature clusters on a map.

    Attributes
    ----------
    spots : tuple of Spot - those in front last
    legend : tuple of (name, look) - of the looks that there are
    note : str - what to see, and how the map was made
    """

    caption: str
    spots: tuple[Spot, ...]
    legend: tuple[tuple[str, SpotLook], ...]
    note: str


NEW_PAGE = float("inf")
"""Room that no page has left: what asks for it begins a page."""

SIGN_OFF_HEADS = ("To be signed by", "Name", "Role, institution", "Date", "Signature")
REMARKS = "Remarks"

_WIDTH = 493.0  # points of a line of text on paper

Tone = Literal["good", "caution", "bad", "open"]
Status = Literal["DRAFT", "FINAL"]
"""FINAL: whatever asked for a reviewer was decided."""

Symbol = Literal["tick", "warning", "level", "cross", "question", "dash"]


@dataclass(frozen=True, slots=True)
class Title:
    """The title of the report, and the line below it."""

    text: str
    below: str


@dataclass(frozen=True, slots=True)
class Banner:
    """The verdict as a band: a symbol, the word, what it means, and the draft mark.

    Attributes
    ----------
    tone : {"good", "caution", "bad", "open"} - of its colours; "open" has a dashed edge
    """

    word: str
    line: str
    tone: Tone
    symbol: Symbol
    status: Status = "DRAFT"


@dataclass(frozen=True, slots=True)
class Chapter:
    """A heading that enters the outline; it never stands on page one.

    Attributes
    ----------
    room : float - it begins a page where less than that is left
    """

    title: str
    key: str
    room: float = 330.0


@dataclass(frozen=True, slots=True)
class Section:
    """A heading inside a chapter.

    Attributes
    ----------
    room : float - what follows may split over pages, and begins one where less than that is left;
        0 holds the heading on the page of what follows, whole
    """

    title: str
    room: float = 0.0


@dataclass(frozen=True, slots=True)
class Reference:
    """Where something stands: the number of its page on paper, a link on a screen.

    Attributes
    ----------
    key : str - of a `Chapter` or an `Entry`
    name : str - what the link is called
    """

    key: str
    name: str


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
    """A cell of several lines; the first is bold where `strong` is set, all are moved in if so."""

    lines: tuple[str, ...]
    strong: bool = False
    inner: bool = False


Cell = str | Lines | Dots | Scale | Reference


@dataclass(frozen=True, slots=True)
class Sized:
    """A column of a table.

    Attributes
    ----------
    share : float - of the width of the page; the shares of a table sum to 1
    right : bool - set to the right
    mono : bool - in the monospaced font
    """

    head: str | Scale
    share: float
    right: bool = False
    mono: bool = False


def sized(
    heads: Sequence[str | Scale],
    widths: Sequence[float],
    *,
    right: Sequence[int] = (),
    mono: Sequence[int] = (),
) -> tuple[Sized, ...]:
    """Return columns by their widths in points; those of width 0 share what is left of a line."""
    rest = (_WIDTH - sum(widths)) / max(sum(width == 0 for width in widths), 1)
    return tuple(
        Sized(head, (width or rest) / _WIDTH, at in right, at in mono)
        for at, (head, width) in enumerate(zip(heads, widths, strict=True))
    )


@dataclass(frozen=True, slots=True)
class Table:
    """A ruled table.

    Attributes
    ----------
    note : str - under the table; blank for none
    headed : bool - the heads of the columns are printed
    limit : int - length at which the text of a cell is cut
    titled : bool - the caption is printed; else it only names the table to who cannot see it
    dense : bool - little air between the rows
    joined : tuple of int - rows that stay on the page of the row below them
    """

    caption: str
    columns: tuple[Sized, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    headed: bool = True
    limit: int = 300
    titled: bool = True
    dense: bool = True
    joined: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FilmFigure:
    """A picture with its caption.

    Attributes
    ----------
    alt : str - what is seen, in words
    lines : tuple of str - the caption
    """

    picture: Picture
    alt: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures in rows.

    Attributes
    ----------
    height : float - of a picture, at most
    columns : int - pictures in a row
    note : str - under them; blank for none
    line : float - weight of the boxes
    """

    shots: tuple[FilmFigure, ...]
    height: float
    columns: int = 5
    note: str = ""
    line: float = 1.0


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Blocks with a picture on their right that takes `share` of the width."""

    blocks: tuple[Block, ...]
    shot: FilmFigure
    share: float


@dataclass(frozen=True, slots=True)
class KeptTogether:
    """Blocks that stay on one page."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One of several like parts, on pages of its own, such as a correlation.

    Attributes
    ----------
    word : str - what it is, such as "correlation"
    marks : tuple of str - words that a reader may choose entries by
    """

    title: str
    key: str
    word: str
    marks: tuple[str, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class CurvePanels:
    """Learning curves, a panel an arm; the note says what is drawn."""

    caption: str
    panels: tuple[tuple[str, LearningCurve], ...]
    note: str


@dataclass(frozen=True, slots=True)
class Signatures:
    """Lines to sign on, one for each role."""

    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SignOff:
    """Where a report is signed: who, in which role, when; and room for remarks. One a report.

    On paper what is written can be filled in on a screen too.

    Attributes
    ----------
    signable : bool - each role has a field for an electronic signature; else it comes from outside
    """

    roles: tuple[str, ...]
    signable: bool = False


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
    | Pictures
    | SideBySide
    | KeptTogether
    | Entry
    | Flow
    | ClusterPlot
    | CurvePanels
    | Signatures
    | SignOff
    | Reproduction
)


def status_of(blocks: Sequence[Block]) -> Status | None:
    """Return the status that the banner of a report tells; None where nothing is to be signed."""
    return next((block.status for block in blocks if isinstance(block, Banner)), None)
