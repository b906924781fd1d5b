"""The films that a report shows, kept in ``private/films`` as they are shown: text already hidden.

The report is drawn from them, and so is the same each time; text is looked for once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ravl_med.errors import DataError
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.burned_in_text import BurnedInText
from ravl_med.reporting.pictures import Film, crop_view, shown_boxes
from ravl_med.reporting.text_masking import TextMasking

__all__ = ["keep_films", "read_kept"]


def keep_films(
    result: AuditResult,
    regions_shown: int,
    film: Film,
    folder: Path,
    masking: TextMasking | None,
    declared: Callable[[int], bool] = lambda index: False,
) -> BurnedInText | None:
    """Write each film that a report shows, its text hidden.

    Parameters
    ----------
    result : AuditResult
    regions_shown : int - of each correlation
    film : callable - index of an image to its film, ndarray of shape (H, W), uint8
    folder : Path - that is there
    masking : TextMasking or None - None: films are shown as they are
    declared : callable - tells whether the header of a film says that text is burned in

    Returns
    -------
    BurnedInText or None - None where nothing was looked for
    """
    shown = shown_boxes(result, regions_shown)
    masked = areas = allowed = stated = 0
    for index, boxes in shown.items():
        pixels = film(index)
        if masking is not None:
            done = masking.mask(pixels, [crop_view(pixels.shape, box) for box in boxes])
            pixels = done.pixels
            masked += done.hidden > 0
            areas += done.hidden
            allowed += done.allowed
            stated += declared(index)
        Image.fromarray(pixels).save(_path(folder, index), compress_level=1)
    if masking is None:
        return None
    search = masking.search
    return BurnedInText(search.method, search.reads, len(shown), masked, areas, allowed, stated)


def read_kept(folder: Path) -> Film:
    """Return what reads the films that `keep_films` wrote.

    Raises
    ------
    DataError
        When it is asked for a film that is missing, or cannot be read.
    """

    def film(index: int) -> NDArray[np.uint8]:
        try:
            with Image.open(_path(folder, index), formats=("PNG",)) as image:
                return np.asarray(image.convert("L"))
        except OSError:
            raise DataError(
                "a film that the report shows is missing in private/films, or cannot be read. "
                "Audit again."
            ) from None

    return film


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index}.png"
