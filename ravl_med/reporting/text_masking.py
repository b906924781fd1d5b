"""Text burned into films, hidden before a film is shown; the model sees the films as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ravl_med.config.loading import Config
from ravl_med.evidence.results import BurnedInText
from ravl_med.regions.burned_in_text import TextArea, TextSearch, View, open_text_search
from ravl_med.reporting.wording import plural

HIDDEN_LOOK = "Gray in a light outline: text hidden."
"""Stands under films of which some have hidden text."""


_GRAY, _LINE = 112, 224  # of the filling and its outline
_ENDS, _MARGIN, _LEAST = 1.25, 0.25, 2.0  # at its ends, beside it: shares of its height; pixels
_THIN = 500  # pixels of a film for one of the outline


@dataclass(frozen=True, slots=True, eq=False)
class MaskedFilm:
    """A film that may be shown.

    Attributes
    ----------
    pixels : ndarray of shape (H, W), uint8
    hidden : int - lines of text that are filled
    allowed : bool - it has words that may be shown
    """

    pixels: NDArray[np.uint8]
    hidden: int
    allowed: bool


@dataclass(frozen=True, slots=True, eq=False)
class TextMasking:
    """Hides text on films."""

    search: TextSearch

    @classmethod
    def of(cls, config: Config) -> TextMasking | None:
        """Return what a config asks for; None where films are shown as they are.

        Phantoms are no patients: nothing is looked for on them.
        """
        if config.cohort.synthetic is not None or config.privacy.burned_in_text == "show":
            return None
        return cls(open_text_search(config.privacy.shown_words, config.regions))

    def mask(self, film: NDArray[np.uint8], views: Sequence[View] = ()) -> MaskedFilm:
        """Hide the text on a film; all of it where the search fails, since nobody knows.

        Parameters
        ----------
        film : ndarray of shape (H, W), uint8 - at its stored resolution
        views : sequence of View - parts of it that are shown enlarged
        """
        try:
            areas = self.search.find(film, views)
        except Exception:  # a network can fail on any film, and its message may repeat the text
            return MaskedFilm(np.full_like(film, _GRAY), 1, allowed=False)
        hidden = [area for area in areas if not area.allowed]
        return MaskedFilm(
            hide_areas(film, hidden), len(hidden), allowed=any(area.allowed for area in areas)
        )


def hide_areas(film: NDArray[np.uint8], areas: Sequence[TextArea]) -> NDArray[np.uint8]:
    """Fill areas of a film (H, W), uint8, with a flat gray in a thin outline, as nothing else is.

    Returns
    -------
    ndarray of shape (H, W), uint8 - `film` itself where there is nothing to hide
    """
    if not areas:
        return film
    covered = np.zeros_like(film)
    for area in areas:
        cv2.fillConvexPoly(covered, np.rint(_widened(area.corners)).astype(np.int32), 1)
    thin = 2 * max(1, round(max(film.shape) / _THIN)) + 1
    inner = cv2.erode(covered, np.ones((thin, thin), np.uint8))
    return np.where(inner > 0, _GRAY, np.where(covered > 0, _LINE, film)).astype(np.uint8)


def _widened(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move the corners (4, 2) of a line outwards, along its sides."""
    middle = corners.mean(axis=0)
    across, down = corners[1] - corners[0], corners[3] - corners[0]
    lengths = [float(np.linalg.norm(side)) or 1.0 for side in (across, down)]
    high = min(lengths)
    reach = [
        side * (0.5 + (_LEAST + (_ENDS if length > high else _MARGIN) * high) / length)
        for side, length in zip((across, down), lengths, strict=True)
    ]
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return np.array([middle + a * reach[0] + d * reach[1] for a, d in signs])


def burned_in_sentence(found: BurnedInText | None, *, synthetic: bool) -> str:
    """Say what was done about text on the films that are shown; blank where none could name anyone.

    Parameters
    ----------
    found : BurnedInText or None - None: films are shown as they are
    synthetic : bool - phantoms, which no patient is on
    """
    if synthetic or (found is not None and not found.films):
        return ""
    if found is None:
        return (
            "Text burned into the films is shown as it is (privacy.burned_in_text): look before "
            "you send."
        )
    left = (
        f"Sides, views and positions are left (privacy.shown_words), on {found.allowed} of them."
        if found.reads
        else "Nothing is left: without OCR (pip install rapidocr onnxruntime) no word can be read."
    )
    return (
        f"Text burned into films: looked for with {found.method} on the "
        f"{plural(found.films, 'film')} shown; {plural(found.areas, 'line')} hidden, on "
        f"{found.masked} of them, under gray in a light outline. {left} The header says that text "
        f"is burned in, (0028,0301), of {found.declared}. No search finds all: look before you "
        "send. The model saw the films as they are."
    )
