"""A reviewer's word on a correlation, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Ruling", "Word"]

Word = Literal["disease", "accepted", "shortcut"]
"""It is the disease; it is tolerated for a time; it is a shortcut."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """A decision on a correlation of this run.

    Attributes
    ----------
    rank : int - of the correlation
    word : {"disease", "accepted", "shortcut"}
    until : str - last day of an acceptance, ISO 8601; blank without
    reason, name : str - as the reviewer gave them
    date : str - of the decision, ISO 8601
    in_force : bool - not expired
    """

    rank: int
    word: Word
    until: str
    reason: str
    name: str
    date: str
    in_force: bool
