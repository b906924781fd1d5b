"""Exports of data sets: the published functions, line by line."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ravl_med.cohort.dicom import export_pixels

RNG = np.random.default_rng(0)
FILM = RNG.integers(100, 4000, (40, 50)).astype(np.uint16)


def mimic(raw: NDArray[np.uint16], inverted: bool) -> NDArray[np.uint8]:
    """The function of MIT-LCP/mimic-cxr, issue 16."""
    raw = raw - raw.min()
    rescaled = (raw / raw.max() * 255).astype(np.uint8)
    return np.asarray(cv2.equalizeHist(cv2.bitwise_not(rescaled) if inverted else rescaled))


def chexpert(raw: NDArray[np.uint16], inverted: bool) -> NDArray[np.uint8]:
    """The code of stanfordmlgroup/chexpert-labeler, issue 11."""
    rescaled = cv2.convertScaleAbs(raw, alpha=255.0 / raw.max())
    return np.asarray(cv2.equalizeHist(cv2.bitwise_not(rescaled) if inverted else rescaled))


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(
    ("preset", "published"), [("mimic-cxr-jpg", mimic), ("chexpert", chexpert)]
)
def test_same_as_published(preset: str, published: object, inverted: bool) -> None:
    pixels, applied = export_pixels(FILM, preset, inverted=inverted)
    assert callable(published)
    np.testing.assert_array_equal(np.rint(pixels * 255), published(FILM, inverted))
    assert pixels.dtype == np.float32
    turned = "inverted, " if inverted else ""
    assert applied == f"{preset} preset, {turned}histogram equalised"


@pytest.mark.parametrize("preset", ["mimic-cxr-jpg", "chexpert"])
@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_film_stays_one(preset: str, value: int) -> None:
    pixels, _ = export_pixels(np.full((4, 4), value, np.uint8), preset, inverted=False)
    assert np.ptp(pixels) == 0
