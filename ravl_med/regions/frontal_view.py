"""Whether a film is a frontal one of the chest, told by its pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ravl_med.regions.anatomy import find_anatomy
from ravl_med.regions.segmentation import Segmenter

__all__ = ["shows_frontal_chest"]

# Shares of the film. On 184 real frontal films the least of all but one is 0.06 (heart) and 0.05
# (spine); a lateral film, of which the segmenter takes the front for one lung and the back for the
# other, has a small or no heart between them, and no spine in the middle.
_LEAST_HEART, _LEAST_SPINE = 0.045, 0.045


def shows_frontal_chest(segmenter: Segmenter, pixels: NDArray[np.float32]) -> bool:
    """Tell whether both lungs are found on a film, with heart and spine as seen from the front.

    Parameters
    ----------
    segmenter : Segmenter - one that knows lungs, heart and spine
    pixels : ndarray of shape (H, W), float32 in [0, 1] - bright is dense
    """
    film = segmenter.segment(pixels)
    return bool(
        film.mask("heart").mean() >= _LEAST_HEART
        and film.mask("spine").mean() >= _LEAST_SPINE
        and find_anatomy(film)
    )
