"""What was done about text that is burned into the films of a report."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BurnedInText"]


@dataclass(frozen=True, slots=True)
class BurnedInText:
    """Text that was looked for on the films that a report shows, in counts; never what it says.

    Attributes
    ----------
    method : str - what it was looked for with
    reads : bool - allowed words were told from others and are shown
    films : int - that are shown
    masked : int - of them with text hidden
    areas : int - lines of text that were hidden
    allowed : int - films with words that may be shown
    declared : int - films whose header says that text is burned in, (0028,0301)
    """

    method: str
    reads: bool
    films: int
    masked: int
    areas: int
    allowed: int
    declared: int
