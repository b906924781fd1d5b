"""DICOM films: modality, window, MONOCHROME1, in this order; every refusal has a reason code."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless, generate_uid

from ravl_med.cohort.dicom import film_pixels, open_dicom
from ravl_med.cohort.grayscale import window_pixels
from ravl_med.config.cohort import DEFAULT_READING, ReadingConfig
from ravl_med.errors import ImageError

SHARED = Path(os.environ.get("RAVL_MED_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
REASONS = {
    "not_dicom",
    "no_pixel_data",
    "bad_geometry",
    "too_large",
    "multi_frame",
    "not_grayscale",
    "no_decoder",
    "truncated",
    "undecodable",
}
# One row of stored values that meets every branch of a window about 40 wide 20.
STORED = np.array([[0, 25, 30, 31, 35, 39], [40, 41, 45, 49, 50, 255]], dtype=np.uint8)
SECRET = "DOE^JANE"


def header(stored: NDArray[Any] = STORED, **tags: Any) -> FileDataset:
    """A DICOM film that holds the values, without window or rescale unless given."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID = SECRET, "4711"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * stored.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def table(values: list[int], first: int = 0, bits: int = 8) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values), first, bits])
    item.add_new("LUTData", "US", values)
    return Sequence([item])


def read_dicom(
    path: Path, reading: ReadingConfig = DEFAULT_READING
) -> tuple[NDArray[np.float32], str]:
    return film_pixels(open_dicom(path, reading), reading)


def saved(path: Path, dataset: FileDataset) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def linear(x: float, center: float, width: float) -> float:
    """PS3.3 C.11.2.1.2.1 for an output range of 0 .. 1, as the standard writes it."""
    if x <= center - 0.5 - (width - 1) / 2:
        return 0.0
    if x > center - 0.5 + (width - 1) / 2:
        return 1.0
    return (x - (center - 0.5)) / (width - 1) + 0.5


def linear_exact(x: float, center: float, width: float) -> float:
    """PS3.3 C.11.2.1.3.2."""
    if x <= center - width / 2:
        return 0.0
    return 1.0 if x > center + width / 2 else (x - center) / width + 0.5


def sigmoid(x: float, center: float, width: float) -> float:
    """PS3.3 C.11.2.1.3.1."""
    return float(1 / (1 + np.exp(-4 * (x - center) / width)))


FUNCTIONS = {"LINEAR": linear, "LINEAR_EXACT": linear_exact, "SIGMOID": sigmoid}


def naive(stored: NDArray[Any], dataset: Dataset, view: int = 0) -> NDArray[np.float64]:
    """The documented pipeline a pixel at a time: rescale, window, inversion."""
    function = FUNCTIONS[dataset.get("VOILUTFunction") or "LINEAR"]
    centers = np.atleast_1d(np.array(dataset.WindowCenter, dtype=float))
    widths = np.atleast_1d(np.array(dataset.WindowWidth, dtype=float))
    out = np.empty(stored.shape)
    for place, value in np.ndenumerate(stored):
        x = float(value) * float(dataset.get("RescaleSlope", 1))
        x += float(dataset.get("RescaleIntercept", 0))
        shade = function(x, float(centers[view]), float(widths[view]))
        out[place] = 1 - shade if dataset.PhotometricInterpretation == "MONOCHROME1" else shade
    return out


def test_a_window_counted_by_hand() -> None:
    dataset = header(np.array([[0, 2, 3, 4, 9]], dtype=np.uint8), WindowCenter=3, WindowWidth=5)
    pixels, applied = window_pixels(dataset.pixel_array, dataset)
    # c - 0.5 = 2.5, w - 1 = 4: black up to 0.5, white above 4.5, (x - 2.5) / 4 + 0.5 between.
    np.testing.assert_allclose(pixels, [[0, 0.375, 0.625, 0.875, 1]])
    assert pixels.dtype == np.float32
    assert applied == "window 1 of 1"


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("slope", [1.0, 2.5, -1.0])
@pytest.mark.parametrize("function", [None, "", "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_is_the_standards_formula(
    tmp_path: Path, function: str | None, slope: float, photometric: str
) -> None:
    dataset = header(
        RescaleSlope=slope,
        RescaleIntercept=-3,
        WindowCenter=40 * slope - 3,
        WindowWidth=20,
        PhotometricInterpretation=photometric,
    )
    if function is not None:
        dataset.VOILUTFunction = function
    pixels, applied = read_dicom(saved(tmp_path / "film.dcm", dataset))
    np.testing.assert_allclose(pixels, naive(STORED, dataset), atol=1e-6)
    inverted = ", inverted" if photometric == "MONOCHROME1" else ""
    assert applied == f"rescale, window 1 of 1{inverted}"


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_same_as_pydicom_where_the_slope_is_positive(function: str) -> None:
    dataset = header(
        RescaleSlope=2,
        RescaleIntercept=-10,
        WindowCenter=70,
        WindowWidth=40,
        VOILUTFunction=function,
    )
    theirs = apply_voi_lut(apply_modality_lut(STORED, dataset), dataset)
    low, high = -10, 2 * 255 - 10  # the range of the rescaled 8-bit values
    ours, _ = window_pixels(STORED, dataset)
    np.testing.assert_allclose(ours, (theirs - low) / (high - low), atol=1e-6)


def test_a_negative_slope_turns_the_film_once() -> None:
    dataset = header(RescaleSlope=-1, RescaleIntercept=255, WindowCenter=215, WindowWidth=20)
    pixels, _ = window_pixels(STORED, dataset)
    assert pixels.ravel()[0] == 1  # stored 0 is 255 after rescale, above the window
    assert pixels.ravel()[-1] == 0
    assert (np.diff(pixels.ravel()) <= 0).all()


@pytest.mark.parametrize(("view", "used"), [(0, 0), (1, 1), (7, 1)])
def test_the_view_picks_the_window_and_the_last_serves_beyond(view: int, used: int) -> None:
    dataset = header(WindowCenter=[40, 100], WindowWidth=[20, 300])
    pixels, applied = window_pixels(STORED, dataset, ReadingConfig(voi_view=view))
    np.testing.assert_allclose(pixels, naive(STORED, dataset, used), atol=1e-6)
    assert applied == f"window {used + 1} of 2"


def test_a_centre_without_a_width_is_no_window() -> None:
    dataset = header(WindowCenter=[40, 100, 120], WindowWidth=[20, 300])
    _, applied = window_pixels(STORED, dataset, ReadingConfig(voi_view=2))
    assert applied == "window 2 of 2"
    _, applied = window_pixels(STORED, header(WindowCenter=40))
    assert applied == "full range (no window)"


@pytest.mark.parametrize(
    ("function", "width", "note"),
    [
        ("LINEAR", 0, "window width too small"),
        ("LINEAR", -4, "window width too small"),
        ("LINEAR", 0.5, "window width too small"),
        ("LINEAR_EXACT", 0, "window width too small"),
        ("SIGMOID", 0, "window width too small"),
        ("CUBIC", 20, "unknown VOI LUT function"),
    ],
)
def test_a_window_that_cannot_be_used_gives_the_full_range(
    function: str, width: float, note: str
) -> None:
    with pydicom.config.disable_value_validation():
        dataset = header(WindowCenter=40, WindowWidth=width, VOILUTFunction=function)
    pixels, applied = window_pixels(STORED, dataset)
    np.testing.assert_allclose(pixels, STORED / 255, atol=1e-6)
    assert applied == f"full range ({note})"


def test_a_linear_window_of_width_one_is_a_threshold() -> None:
    pixels, _ = window_pixels(STORED, header(WindowCenter=40, WindowWidth=1))
    np.testing.assert_array_equal(pixels, STORED > 39.5)


def test_linear_exact_may_be_narrower_than_one() -> None:
    dataset = header(WindowCenter=40, WindowWidth=0.5, VOILUTFunction="LINEAR_EXACT")
    pixels, _ = window_pixels(STORED, dataset)
    np.testing.assert_allclose(pixels, naive(STORED, dataset), atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_without_a_window_the_full_range_is_shown(tmp_path: Path, photometric: str) -> None:
    stored = np.array([[100, 150], [200, 300]], dtype=np.uint16)
    dataset = header(stored, PhotometricInterpretation=photometric)
    pixels, _ = read_dicom(saved(tmp_path / "film", dataset))
    shades = np.array([[0, 0.25], [0.5, 1]])
    np.testing.assert_allclose(pixels, 1 - shades if photometric == "MONOCHROME1" else shades)


def test_signed_16_bit(tmp_path: Path) -> None:
    stored = np.array([[-1000, -100, 0, 50, 400, 3000]], dtype=np.int16)
    dataset = header(stored, WindowCenter=40, WindowWidth=400)
    pixels, _ = read_dicom(saved(tmp_path / "film.dcm", dataset))
    np.testing.assert_allclose(pixels, naive(stored, dataset), atol=1e-6)


def test_twelve_bits_in_sixteen(tmp_path: Path) -> None:
    stored = np.array([[0, 1000, 2047, 4095]], dtype=np.uint16)
    dataset = header(stored, BitsStored=12, HighBit=11, WindowCenter=2048, WindowWidth=4096)
    pixels, _ = read_dicom(saved(tmp_path / "film.dcm", dataset))
    np.testing.assert_allclose(pixels, stored / 4095, atol=1e-6)


def test_a_voi_lut_goes_before_a_window(tmp_path: Path) -> None:
    lut = [0, 10, 60, 200, 255]
    dataset = header(WindowCenter=40, WindowWidth=20, VOILUTSequence=table(lut, first=38))
    pixels, applied = read_dicom(saved(tmp_path / "film.dcm", dataset))
    expected = np.array([[0, 0, 0, 0, 0, 10], [60, 200, 255, 255, 255, 255]]) / 255
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    np.testing.assert_allclose(pixels, apply_voi_lut(STORED, dataset) / 255, atol=1e-6)
    assert applied == "VOI LUT 1 of 1"


def test_the_view_picks_the_voi_lut() -> None:
    luts = Sequence([*table([0, 255]), *table([255, 0, 51])])
    pixels, applied = window_pixels(
        STORED[:1, :3], header(VOILUTSequence=luts), ReadingConfig(voi_view=1)
    )
    np.testing.assert_allclose(pixels, [[1.0, 0.2, 0.2]])
    assert applied == "VOI LUT 2 of 2"


def test_a_voi_lut_comes_after_rescale_and_before_inversion() -> None:
    dataset = header(
        np.array([[0, 1, 2]], dtype=np.uint8),
        RescaleSlope=2,
        RescaleIntercept=-2,
        VOILUTSequence=table([0, 51, 102, 153, 255], first=-2),
        PhotometricInterpretation="MONOCHROME1",
    )
    pixels, applied = window_pixels(dataset.pixel_array, dataset)
    # -2, 0, 2 are the entries 0, 2 and 4.
    np.testing.assert_allclose(pixels, [[1.0, 0.6, 0.0]], atol=1e-6)
    assert applied == "rescale, VOI LUT 1 of 1, inverted"


def test_an_8_bit_table_longer_than_256_entries_does_not_wrap() -> None:
    stored = np.array([[0, 100, 300, 511, 4000]], dtype=np.uint16)
    lut = [value // 2 for value in range(512)]
    pixels, _ = window_pixels(stored, header(stored, VOILUTSequence=table(lut)))
    np.testing.assert_allclose(pixels, [[0, 50 / 255, 150 / 255, 1, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("data", "entries"), [(b"\x00\x00\x80\x00\xff\x00", 3), (b"\x00\x80\xff\x00", 3)]
)
def test_a_table_of_bytes_in_words_or_packed(data: bytes, entries: int) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [entries, 0, 8])
    item.add_new("LUTData", "OW", data)
    stored = np.array([[0, 1, 2]], dtype=np.uint8)
    pixels, _ = window_pixels(stored, header(stored, VOILUTSequence=Sequence([item])))
    np.testing.assert_allclose(pixels, [[0, 128 / 255, 1]], atol=1e-6)


def test_a_modality_lut_goes_before_the_window(tmp_path: Path) -> None:
    stored = np.array([[0, 1, 2, 9]], dtype=np.uint8)
    modality = table([0, 1000, 3000, 4000], bits=16)
    dataset = header(stored, ModalityLUTSequence=modality, WindowCenter=2000.5, WindowWidth=4001)
    pixels, applied = read_dicom(saved(tmp_path / "film.dcm", dataset))
    np.testing.assert_allclose(pixels, [[0, 0.25, 0.75, 1]], atol=1e-6)
    np.testing.assert_array_equal(apply_modality_lut(stored, dataset), [[0, 1000, 3000, 4000]])
    assert applied == "modality LUT, window 1 of 1"


def test_a_modality_lut_longer_than_the_stored_type_or_starting_below_zero() -> None:
    stored = np.array([[0, 255]], dtype=np.uint8)
    long = header(stored, ModalityLUTSequence=table(list(range(4096)), bits=12))
    np.testing.assert_allclose(window_pixels(stored, long)[0], [[0, 1]])
    below = header(stored, ModalityLUTSequence=table([5, 6, 7], first=-1, bits=16))
    np.testing.assert_allclose(window_pixels(stored, below)[0], [[0, 1]])


@given(
    slope=st.sampled_from([-2.0, -0.5, 0.25, 1.0, 3.0]),
    intercept=st.integers(-2000, 2000),
    center=st.integers(-3000, 3000),
    width=st.integers(1, 5000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT"]),
    values=st.lists(st.integers(-2000, 2000), min_size=1, max_size=8),
)
def test_any_window_is_the_standards_formula(
    slope: float, intercept: int, center: int, width: int, function: str, values: list[int]
) -> None:
    stored = np.array([values], dtype=np.int16)
    dataset = header(
        stored,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=center,
        WindowWidth=width,
        VOILUTFunction=function,
    )
    pixels, _ = window_pixels(stored, dataset)
    np.testing.assert_allclose(pixels, naive(stored, dataset), atol=1e-5)


def without_pixels(dataset: FileDataset) -> None:
    del dataset.PixelData


def encapsulated(syntax: UID, data: bytes) -> Any:
    def change(dataset: FileDataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = pydicom.encaps.encapsulate([data])
        dataset["PixelData"].is_undefined_length = True

    return change


def tags(**values: Any) -> Any:
    def change(dataset: FileDataset) -> None:
        for name, value in values.items():
            setattr(dataset, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        (without_pixels, "no_pixel_data", r"\(7FE0,0010\) Pixel Data is missing"),
        (tags(Rows=0), "bad_geometry", "Rows x Columns is 0 x 6; expected positive"),
        (tags(Columns=None), "bad_geometry", "Rows x Columns is 2 x 0"),
        (tags(NumberOfFrames=3), "multi_frame", r"\(0028,0008\) Number of Frames is 3"),
        (
            tags(PhotometricInterpretation="RGB"),
            "not_grayscale",
            r"\(0028,0004\) Photometric Interpretation is 'RGB' with 1 samples; expected MONO",
        ),
        (
            tags(PhotometricInterpretation="MONOCHROME2", SamplesPerPixel=3),
            "not_grayscale",
            "with 3",
        ),
        (tags(PhotometricInterpretation="CMYK", SamplesPerPixel=4), "not_grayscale", "'CMYK'"),
        (tags(NumberOfFrames=-2), "bad_geometry", "expected positive"),
        (
            tags(Rows=4000, Columns=5000, NumberOfFrames=9),
            "too_large",
            "5000 pixels x 9 frames; exp",
        ),
        (tags(Rows=4000, Columns=50_000), "too_large", r"at most 100000000 \(cohort.max_pixels"),
        (tags(PixelData=b"\0\1"), "undecodable", "cannot be decoded .ValueError.; truncated"),
        (
            tags(BitsStored=12, HighBit=15),
            "undecodable",
            "High Bit is 15 with 12 bits.* expected 11",
        ),
        (encapsulated(JPEG2000Lossless, b"\xff\x4f\xff\x51"), "truncated", "before the end"),
        (encapsulated(RLELossless, b"\0" * 10), "undecodable", "truncated"),
        (
            encapsulated(UID("1.2.840.10008.1.2.4.103"), b"\0\0"),  # MPEG-4
            "no_decoder",
            "1.2.840.10008.1.2.4.103 .*no package is known that decodes it. Convert the file",
        ),
    ],
)
def test_every_refusal_has_a_reason(tmp_path: Path, change: Any, reason: str, message: str) -> None:
    dataset = header()
    change(dataset)
    path = saved(tmp_path / f"{SECRET}.dcm", dataset)
    with pytest.raises(ImageError, match=message) as caught:
        read_dicom(path)
    assert caught.value.reason == reason
    anonymous(caught.value, path, dataset)


def anonymous(error: ImageError, path: Path, dataset: Dataset) -> None:
    """No path, name, ID, nor a UID other than that of the transfer syntax."""
    text = str(error)
    assert path.stem not in text
    assert str(path.parent) not in text
    uids = (e.value for e in dataset.iterall() if e.VR == "UI" and e.value)
    for uid in uids:
        assert len(str(uid)) < 8 or str(uid) not in text
    for name in ("PatientName", "PatientID", "StudyDate", "AccessionNumber"):
        value = str(dataset.get(name) or "")
        assert len(value) < 4 or value not in text


def test_too_large_is_told_before_decoding(tmp_path: Path) -> None:
    path = saved(tmp_path / "film.dcm", header(PixelData=b"\0\0"))
    with pytest.raises(ImageError, match="2 x 6 pixels; expected at most 11") as caught:
        read_dicom(path, ReadingConfig(max_pixels=11))
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("content", [b"<html>not a film</html>", b"\0" * 132, b"\0" * 200])
def test_not_dicom(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="the file is not DICOM") as caught:
        read_dicom(path)
    assert caught.value.reason == "not_dicom"


def test_a_slope_that_is_no_number(tmp_path: Path) -> None:
    path = saved(tmp_path / "film.dcm", header(RescaleSlope=1.25, RescaleIntercept=0))
    path.write_bytes(path.read_bytes().replace(b"1.25", b"nan "))
    with pytest.raises(ImageError, match=r"not finite|cannot be parsed") as caught:
        read_dicom(path)
    assert caught.value.reason == "undecodable"


def test_a_blank_rescale_is_no_rescale(tmp_path: Path) -> None:
    dataset = header(RescaleSlope=None, RescaleIntercept=None)
    pixels, applied = read_dicom(saved(tmp_path / "film.dcm", dataset))
    np.testing.assert_allclose(pixels, STORED / 255, atol=1e-6)
    assert applied == "full range (no window)"


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: float) -> None:
    content = saved(tmp_path / "whole.dcm", header()).read_bytes()
    path = tmp_path / "cut.dcm"
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(ImageError, match=r"DICOM|Pixel Data|first element") as caught:
        read_dicom(path)
    assert caught.value.reason in REASONS


def judge(path: Path) -> str:
    """Read a file: pixels as promised, or a named reason."""
    error = None
    try:
        pixels, applied = read_dicom(path)
    except ImageError as refusal:
        error = refusal
    if error is not None:
        assert error.reason in REASONS
        if error.reason != "not_dicom" and path.read_bytes()[128:132] == b"DICM":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # odd values of the header, read to compare
                anonymous(error, path, pydicom.dcmread(path, stop_before_pixels=True))
        return error.reason
    assert pixels.ndim == 2
    assert pixels.dtype == np.float32
    assert np.isfinite(pixels).all()
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    return applied


@pytest.mark.parametrize(
    "path", sorted(BUNDLED.rglob("*.dcm")), ids=lambda path: path.name.replace("+", "_")
)
def test_every_file_of_pydicom_gives_pixels_or_a_reason(path: Path) -> None:
    assert judge(path)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("MR_small.dcm", "window 1 of 1"),
        ("MR_small_RLE.dcm", "window 1 of 1"),
        ("MR_small_bigendian.dcm", "window 1 of 1"),
        ("MR_small_jp2klossless.dcm", "window 1 of 1"),
        ("CT_small.dcm", "rescale, full range (no window)"),
        ("MR_truncated.dcm", "undecodable"),
        ("rtplan.dcm", "no_pixel_data"),
        ("rtdose.dcm", "multi_frame"),
        ("SC_rgb_small_odd.dcm", "gray by luminance"),
        ("JPGExtended.dcm", "full range (no window)"),
        ("image_dfl.dcm", "full range (no window)"),
        ("no_meta.dcm", "not_dicom"),
        ("ExplVR_BigEndNoMeta.dcm", "no_pixel_data"),
    ],
)
def test_outcomes_of_known_files(name: str, outcome: str) -> None:
    assert judge(BUNDLED / name) == outcome


def test_one_film_in_four_encodings_is_one_film() -> None:
    names = ("small", "small_RLE", "small_bigendian", "small_jp2klossless")
    films = [read_dicom(BUNDLED / f"MR_{name}.dcm")[0] for name in names]
    for film in films[1:]:
        np.testing.assert_array_equal(film, films[0])


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("RG1_J2KI.dcm", None),
        ("RG3_RLE_extremity_mono1.dcm", "inverted"),
        ("html_saved_as_dcm.dcm", "not_dicom"),
        ("rsna_jpeg_baseline_cr.dcm", None),
    ],
)
def test_real_films(name: str, outcome: str | None) -> None:
    path = SHARED / "dicom" / name
    if not path.is_file():
        pytest.skip("the shared test films are not beside this checkout")
    found = judge(path)
    assert found not in REASONS or found == outcome
    assert outcome is None or found.endswith(outcome)


def documented(path: Path, frame: int) -> NDArray[np.float64] | None:
    """What pydicom documents, step by step, as 0 .. 1; None where pydicom decodes nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True)
        try:
            stored = dataset.pixel_array
        except Exception:  # as pydicom raises it
            return None
        stored = stored[frame] if int(dataset.get("NumberOfFrames") or 1) > 1 else stored
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            stored = apply_color_lut(stored, dataset)
        if stored.ndim == 3:
            top = 2 ** (8 * stored.dtype.itemsize) - 1
            red, green, blue = np.moveaxis(stored.astype(np.float64), 2, 0)
            return (0.299 * red + 0.587 * green + 0.114 * blue) / top
        values = apply_modality_lut(stored, dataset)
        if "WindowWidth" in dataset or "VOILUTSequence" in dataset:
            shades = apply_voi_lut(values, dataset).astype(np.float64)
            slope, intercept = (float(dataset.get(f"Rescale{k}", d)) for k, d in
                                (("Slope", 1), ("Intercept", 0)))  # fmt: skip
            bits = int(dataset.BitsStored)
            low = -(2 ** (bits - 1)) if dataset.PixelRepresentation else 0
            low, high = (v * slope + intercept for v in (low, low + 2**bits - 1))
            shades = (shades - low) / (high - low)
        else:
            shades = (values - values.min()) / (float(np.ptp(values)) or 1.0)
    return 1 - shades if dataset.PhotometricInterpretation == "MONOCHROME1" else shades


EVERY = [
    *sorted(path for path in BUNDLED.rglob("*") if path.is_file()),
    *sorted((SHARED / "dicom").glob("*.dcm")),
]


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name.replace("+", "_"))
def test_pixels_are_those_of_pydicoms_documented_pipeline(path: Path) -> None:
    expected = documented(path, 0)
    outcome = outcome_of(path, ReadingConfig())
    if outcome == "multi_frame":
        outcome = outcome_of(path, ReadingConfig(frame=1))
    if isinstance(outcome, str):
        assert outcome in REASONS
        assert expected is None, "pydicom decodes the file, and so must we"
        return
    pixels, applied = outcome
    if expected is None:  # 12-bit JPEG, which pydicom leaves to a GPL package
        assert path.name in ("JPEG-lossy.dcm", "JPGExtended.dcm")
        return
    kept = ~padded(path) if "padding" in applied else np.ones(pixels.shape, dtype=bool)
    np.testing.assert_allclose(pixels[kept], np.clip(expected, 0, 1)[kept], atol=2e-6)
    assert not pixels[~kept].any()


def outcome_of(path: Path, policy: ReadingConfig) -> tuple[NDArray[np.float32], str] | str:
    try:
        return read_dicom(path, policy)
    except ImageError as error:
        return error.reason


def padded(path: Path) -> NDArray[np.bool_]:
    dataset = pydicom.dcmread(path)
    return np.asarray(dataset.pixel_array == dataset.PixelPaddingValue)


@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "JPGExtended.dcm"])
def test_jpeg_of_12_bits_has_the_values_that_other_toolkits_read(name: str) -> None:
    # Stored values that pydicom's own tests expect of this film, by the GPL decoder.
    pixels, _ = read_dicom(BUNDLED / name)
    assert pixels.shape == (1024, 256)
    np.testing.assert_allclose(pixels[[420, 230], [140, 120]] * 264, [244, 95], atol=1e-4)
