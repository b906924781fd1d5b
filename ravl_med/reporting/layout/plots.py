"""What a report plots beside its words: dots with intervals, a flow of films, a map of clusters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ravl_med.evidence.claims import Interval

__all__ = [
    "ClusterPlot",
    "Dot",
    "DotLook",
    "Dots",
    "Flow",
    "FlowBox",
    "Scale",
    "Spot",
    "SpotLook",
]

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
    height : float
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
    marks : tuple of (name, look)
    signed : bool
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
    caption : str
    start : FlowBox
    left_out : tuple of FlowBox - in the order in which they drop out
    end : FlowBox
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
    look : {"shortcut", "sign", "undecided", "confirmed", "candidate", "other"}
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
    caption : str
    spots : tuple of Spot - those in front last
    legend : tuple of (name, look) - of the looks that there are
    note : str - what to see, and how the map was made
    """

    caption: str
    spots: tuple[Spot, ...]
    legend: tuple[tuple[str, SpotLook], ...]
    note: str
