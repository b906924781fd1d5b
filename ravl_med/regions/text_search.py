"""Text burned into a film: where it is, and whether it may be shown. What it says is told nobody.

Whoever reads a film drops the words at once: an area says where text stands and whether all of its
words are allowed ones, such as the letter of a side. Nothing else leaves the search.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ravl_med.config import RegionsConfig

__all__ = ["TextArea", "TextSearch", "View", "fold_words", "only_allowed", "open_text_search"]

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True, eq=False)
class TextArea:
    """Where a line of text stands.

    Attributes
    ----------
    corners : ndarray of shape (4, 2), float64 - x and y in pixels of the film, around the line
    allowed : bool - each of its words may be shown
    """

    corners: NDArray[np.float64]
    allowed: bool


@dataclass(frozen=True, slots=True)
class View:
    """A part of a film that is shown by itself.

    Attributes
    ----------
    box : (x0, y0, x1, y1) - in pixels of the film
    scale : float - pixels of the picture for a pixel of the film
    """

    box: tuple[int, int, int, int]
    scale: float


class TextSearch(Protocol):
    """Finds text on films.

    Attributes
    ----------
    method : str - what it is, with its version; for a report
    reads : bool - it tells allowed words from others; else nothing is allowed
    """

    method: str
    reads: bool

    def find(self, film: NDArray[np.uint8], views: Sequence[View] = ()) -> tuple[TextArea, ...]:
        """Find the text on a film.

        Parameters
        ----------
        film : ndarray of shape (H, W), uint8 - at its stored resolution
        views : sequence of View - parts of it that are shown enlarged
        """
        ...


def open_text_search(words: Collection[str], regions: RegionsConfig) -> TextSearch:
    """Return the best search that this installation has.

    Parameters
    ----------
    words : collection of str - that may be shown
    regions : RegionsConfig - its segmenter finds letters as well where no OCR is installed
    """
    from ravl_med.regions.letter_rows import LetterRows
    from ravl_med.regions.proposal import choose_segmenter
    from ravl_med.regions.text_reading import TextReader, reader_version

    if reader_version():
        return TextReader(fold_words(words))
    return LetterRows(choose_segmenter(regions))


def fold_words(words: Collection[str]) -> frozenset[str]:
    """Return words as they are compared: compatibility forms (NFKC) in capitals."""
    return frozenset(_fold(word) for word in words)


def only_allowed(text: str, allowed: frozenset[str]) -> bool:
    """Tell whether a line has words, and each is one of `allowed`, from `fold_words`."""
    words = _WORD.findall(_fold(text))
    return bool(words) and all(word in allowed for word in words)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).upper()
