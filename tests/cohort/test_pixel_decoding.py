"""Which package decodes what, and what a compressed frame is held to before it is decoded."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSLossless

from ravl_med.cohort import pixel_decoding
from ravl_med.cohort.pixel_decoding import DECODERS, decode_frame, decoder_of
from ravl_med.errors import ImageError

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
COMPRESSED = (
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "JPGExtended.dcm",
)


def opened(name: str) -> pydicom.FileDataset:
    return pydicom.dcmread(BUNDLED / name)


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.uid)
def test_every_syntax_of_the_table_has_its_package(decoder: pixel_decoding.Decoder) -> None:
    assert decoder_of(decoder.uid) == (decoder.package, True)
    assert UID(decoder.uid).is_transfer_syntax


def test_syntaxes_that_nothing_decodes() -> None:
    assert decoder_of("1.2.840.10008.1.2.4.103") == ("", False)  # MPEG-4
    assert decoder_of("1.2.3") == ("", False)
    assert decoder_of("") == ("", False)


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pixel_decoding, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"package python-gdcm is missing. Install it: pip") as e:
        decode_frame(opened("JPGExtended.dcm"), 0)
    assert e.value.reason == "no_decoder"
    assert str(JPEGExtended12Bit) in str(e.value)


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_stream_that_ends_early_is_truncated(name: str) -> None:
    dataset = opened(name)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    with pytest.raises(ImageError, match="ends before the end of its image") as caught:
        decode_frame(dataset, 0)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_stream_of_another_size_than_the_header_is_refused(name: str) -> None:
    dataset = opened(name)
    rows, columns = dataset.Rows, dataset.Columns
    dataset.Rows = rows - 1
    with pytest.raises(ImageError, match=f"is {rows} x {columns}; expected {rows - 1}") as caught:
        decode_frame(dataset, 0)
    assert caught.value.reason == "bad_geometry"


@pytest.mark.parametrize(
    ("syntax", "plugin"),
    [(JPEG2000Lossless, "pylibjpeg"), (JPEGLSLossless, "pyjpegls")],
)
@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_depth_and_sign_survive_lossless_coding(
    syntax: UID, plugin: str, bits: int, signed: bool
) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    kind = ("i" if signed else "u") + ("1" if bits == 8 else "2")
    values = np.random.default_rng(bits).integers(low, high, (64, 80)).astype(kind)
    dataset = opened("MR_small.dcm")
    dataset.Rows, dataset.Columns = values.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * values.itemsize, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    dataset.PixelData = values.tobytes()
    dataset.compress(syntax, encoding_plugin=plugin)
    np.testing.assert_array_equal(decode_frame(dataset, 0)[0], values)


def test_lossless_jpeg_gives_the_colours_of_the_film() -> None:
    dataset = opened("SC_rgb_jpeg_gdcm.dcm")
    assert dataset.file_meta.TransferSyntaxUID == JPEGLosslessSV1
    stored, photometric = decode_frame(dataset, 0)
    assert photometric == "RGB"
    np.testing.assert_array_equal(stored, opened("SC_rgb_rle.dcm").pixel_array)
