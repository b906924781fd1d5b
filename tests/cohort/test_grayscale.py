"""Stored values to shades: policies, padding, presentation LUT, one step a level."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from ravl_med.cohort.grayscale import window_pixels
from ravl_med.config.cohort import ReadingConfig
from ravl_med.errors import ImageError

STORED = np.array([[0, 40, 80], [120, 160, 200]], dtype=np.uint8)


def header(**tags: Any) -> Dataset:
    dataset = Dataset()
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelRepresentation = 0
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def lut(values: list[int]) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values), 0, 8])
    item.add_new("LUTData", "US", values)
    return Sequence([item])


@pytest.mark.parametrize(
    ("voi", "applied", "second"),
    [
        ("lut", "VOI LUT 1 of 1", 40 / 255),
        ("window", "window 1 of 1", (40 - 99.5) / 200 + 0.5),
        ("full range", "full range", 40 / 200),
    ],
)
def test_the_policy_picks_lut_window_or_neither(voi: Any, applied: str, second: float) -> None:
    dataset = header(WindowCenter=100, WindowWidth=201, VOILUTSequence=lut(list(range(256))))
    pixels, told = window_pixels(STORED, dataset, ReadingConfig(voi=voi))
    assert told == applied
    assert pixels[0, 1] == pytest.approx(second, abs=1e-6)


def test_the_window_policy_takes_a_lut_where_there_is_no_window() -> None:
    dataset = header(VOILUTSequence=lut(list(range(256))))
    assert window_pixels(STORED, dataset, ReadingConfig(voi="window"))[1] == "VOI LUT 1 of 1"


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_out_of_the_range(photometric: str) -> None:
    stored = np.array([[-2000, 100], [300, 200]], dtype=np.int16)
    dataset = header(
        PhotometricInterpretation=photometric, PixelRepresentation=1, PixelPaddingValue=-2000
    )
    pixels, applied = window_pixels(stored, dataset)
    shown = np.array([[0, 0], [1, 0.5]]) if photometric[-1] == "2" else [[0, 1], [0, 0.5]]
    np.testing.assert_allclose(pixels, shown)
    assert applied.endswith("padding black")


def test_a_range_of_padding_values_and_one_whose_sign_was_lost() -> None:
    stored = np.array([[-2000, -1990], [0, 10]], dtype=np.int16)
    dataset = header(
        PixelRepresentation=1, PixelPaddingValue=63536, PixelPaddingRangeLimit=-1990 + 65536
    )
    np.testing.assert_allclose(window_pixels(stored, dataset)[0], [[0, 0], [0, 1]])


def test_a_padding_value_that_no_pixel_has_changes_nothing() -> None:
    pixels, applied = window_pixels(STORED, header(PixelPaddingValue=7))
    np.testing.assert_allclose(pixels, STORED / 200, atol=1e-7)
    assert applied == "full range (no window)"


def test_a_film_of_padding_alone_is_black() -> None:
    stored = np.full((2, 2), 9, dtype=np.uint8)
    assert not window_pixels(stored, header(PixelPaddingValue=9))[0].any()


@pytest.mark.parametrize(
    ("photometric", "shape", "turned"),
    [
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
    ],
)
def test_a_film_is_turned_once(photometric: str, shape: str | None, turned: bool) -> None:
    dataset = header(PhotometricInterpretation=photometric)
    if shape:
        dataset.PresentationLUTShape = shape
    pixels, applied = window_pixels(STORED, dataset)
    assert bool(pixels[0, 0] == 1) is turned
    assert applied.endswith("inverted") is turned


def test_the_full_range_is_that_of_values_that_occur() -> None:
    # The table sends 1 to 255, and no pixel is 1.
    dataset = header(ModalityLUTSequence=lut([0, 255, 10]))
    stored = np.array([[0, 2]], dtype=np.uint8)
    np.testing.assert_allclose(window_pixels(stored, dataset)[0], [[0, 1]])


@given(
    values=st.lists(st.integers(-32768, 32767), min_size=1, max_size=12),
    kind=st.sampled_from(["<i2", ">i2", "<i4", ">i4"]),
)
def test_levels_stand_for_every_pixel(values: list[int], kind: str) -> None:
    stored = np.array([values], dtype=kind)
    dataset = header(RescaleSlope=-1.5, RescaleIntercept=3, WindowCenter=0, WindowWidth=40000)
    dataset.PixelRepresentation = 1
    exact: NDArray[np.float64] = np.clip(
        (stored.astype(float) * -1.5 + 3 + 0.5) / 39999 + 0.5, 0, 1
    )
    np.testing.assert_allclose(window_pixels(stored, dataset)[0], exact, atol=1e-6)


def test_more_levels_than_a_table_holds() -> None:
    stored = np.array([[0, 1 << 20, 1 << 30]], dtype=np.uint32)
    np.testing.assert_allclose(window_pixels(stored, header())[0], [[0, 2**-10, 1]])


@pytest.mark.parametrize(
    ("entries", "bits", "match"),
    [
        (256, 99, r"LUT Descriptor says 99 bits; expected 8 to 16"),
        (300, 8, r"LUT Data has 256 entries; expected 300 as \(0028,3002\)"),
    ],
)
def test_a_lookup_table_that_is_none_is_refused(entries: int, bits: int, match: str) -> None:
    sequence = lut(list(range(256)))
    sequence[0].LUTDescriptor = [entries, 0, bits]
    for name in ("VOILUTSequence", "ModalityLUTSequence"):
        with pytest.raises(ImageError, match=match):
            window_pixels(STORED, header(**{name: sequence}), ReadingConfig())


def test_a_window_that_is_no_number_is_named_and_can_be_passed_by() -> None:
    dataset = header()
    dataset[0x00281050] = RawDataElement(Tag(0x00281050), "DS", 4, b"40,5", 0, False, True)
    dataset.WindowWidth = 80
    with pytest.raises(ImageError, match=r"\(0028,1050\) Window Center .* full range"):
        window_pixels(STORED, dataset, ReadingConfig())
    assert window_pixels(STORED, dataset, ReadingConfig(voi="full range"))[1] == "full range"


def test_a_window_around_zero_is_a_window() -> None:
    dataset = header(WindowCenter=0, WindowWidth=201)
    assert window_pixels(STORED, dataset, ReadingConfig())[1].startswith("window 1 of 1")
