"""What a report plots beside its words: dots with intervals on a scale, and a flow of films."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ravl_med.evidence.claims import Interval

__all__ = ["Dot", "DotLook", "Dots", "Flow", "FlowBox", "Scale"]

DotLook = Literal["main", "other", "before", "weak", "total"]
"""Filled blue circle, open amber square, open grey square, open blue square, filled dark circle."""


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
