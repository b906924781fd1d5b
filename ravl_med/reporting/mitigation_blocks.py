"""What a mitigation report is made of, whatever it is written to.

The content is put together once, as a sequence of these blocks, and then drawn as a PDF and as
HTML: the same words and the same numbers in both. Text is raw; who draws it makes it printable and
escapes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ravl_med.evidence.claims import Interval
from ravl_med.evidence.mitigation_result import LearningCurve, VerdictWord

__all__ = [
    "Block",
    "Cell",
    "Chapter",
    "CurvePanels",
    "Dots",
    "Items",
    "Lines",
    "MitigationDetails",
    "Outcome",
    "Reproduction",
    "Scale",
    "Section",
    "Signatures",
    "Sized",
    "Table",
    "Text",
    "Title",
]


@dataclass(frozen=True, slots=True)
class MitigationDetails:
    """What the report prints beside the result, for the sake of doing it again.

    Attributes
    ----------
    date : str or None - of the run
    config_yaml : str - the effective config, paths already replaced
    versions, digests : mapping of name to version or digest
    seeds : mapping of stage to seed
    recipe : mapping of setting to its value, in words - how the arms were trained
    """

    date: str | None
    config_yaml: str
    versions: Mapping[str, str]
    digests: Mapping[str, str]
    seeds: Mapping[str, int]
    recipe: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Title:
    """The title of the report, and the line below it."""

    text: str
    below: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict as a band."""

    verdict: VerdictWord


@dataclass(frozen=True, slots=True)
class Chapter:
    """A heading that begins a page and enters the outline."""

    title: str
    key: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading inside a chapter."""

    title: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str
    role: Literal["body", "lead", "muted"] = "body"
    limit: int = 1500


@dataclass(frozen=True, slots=True)
class Items:
    """A list with bullets."""

    items: tuple[str, ...]
    limit: int = 600


@dataclass(frozen=True, slots=True)
class Lines:
    """A cell of several lines; the first is bold where `strong` is set."""

    lines: tuple[str, ...]
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Dots:
    """A cell with a dot and its interval before (open square) and after (filled circle).

    Attributes
    ----------
    before, after : float - shares; NaN draws none
    before_interval, after_interval : Interval
    signed : bool - the scale goes from -1 to 1 and not from 0 to 1
    """

    before: float
    before_interval: Interval
    after: float
    after_interval: Interval
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """The head of a column of `Dots`: the scale and what the marks mean."""

    signed: bool = False


Cell = str | Lines | Dots | Scale


@dataclass(frozen=True, slots=True)
class Sized:
    """A column of a table.

    Attributes
    ----------
    head : str or Scale
    share : float - of the width of the page; the shares of a table sum to 1
    right : bool - set to the right
    mono : bool - in the monospaced font
    """

    head: str | Scale
    share: float
    right: bool = False
    mono: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A ruled table.

    Attributes
    ----------
    caption : str
    columns : tuple of Sized
    rows : tuple of tuple of Cell
    note : str - under the table; blank for none
    headed : bool - the heads of the columns are printed
    limit : int - length at which the text of a cell is cut
    """

    caption: str
    columns: tuple[Sized, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    headed: bool = True
    limit: int = 300


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
class Reproduction:
    """What it takes to do it again: tables of names and values, and the effective config."""

    tables: Mapping[str, Mapping[str, str]]
    config_yaml: str


Block = (
    Title
    | Outcome
    | Chapter
    | Section
    | Text
    | Items
    | Table
    | CurvePanels
    | Signatures
    | Reproduction
)
