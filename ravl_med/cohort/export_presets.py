"""Films as the JPEG exports that known models were trained on show them.

References
----------
MIMIC-CXR-JPG: Johnson et al., arXiv 1901.07042, and the function published in issue 16 of
MIT-LCP/mimic-cxr. CheXpert: Irvin et al., AAAI 2019, and the code published in issue 11 of
stanfordmlgroup/chexpert-labeler. The lossy step, a JPEG of quality 95, is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["export_pixels"]


def export_pixels(
    stored: NDArray[Any], preset: str, *, inverted: bool
) -> tuple[NDArray[np.float32], str]:
    """Turn stored values into the pixels of an export: eight bits, histogram equalised.

    Modality LUT, VOI and padding are not looked at, since the exports did not.

    Parameters
    ----------
    stored : ndarray of shape (H, W), integer
    preset : {"mimic-cxr-jpg", "chexpert"} - the first takes the least stored value away and cuts
        decimals off, the second takes nothing away and rounds
    inverted : bool - the film is MONOCHROME1

    Returns
    -------
    pixels : ndarray of shape (H, W), float32 - 0 to 1 in steps of 1/255
    applied : str
    """
    import cv2

    values = stored.astype(np.float64)
    if preset == "mimic-cxr-jpg":
        values -= values.min()
        gray = (values / (values.max() or 1.0) * 255.0).astype(np.uint8)
    else:
        highest = values.max()
        scaled = np.abs(values * (255.0 / highest)) if highest > 0 else np.zeros_like(values)
        gray = np.rint(scaled).clip(0, 255).astype(np.uint8)
    if inverted:
        gray = 255 - gray
    steps = [f"{preset} preset", *(["inverted"] if inverted else []), "histogram equalised"]
    return cv2.equalizeHist(gray).astype(np.float32) / np.float32(255.0), ", ".join(steps)
