"""Which package decodes what, and what a compressed frame is held to before it is decoded."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSLossless

from ravl_med.cohort import pixel_decoding
from ravl_med.cohort.dicom import film_pixels, open_dicom
from ravl_med.cohort.image_file import read_raster
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


# Streams that were cut, with an end marker after the cut: libjpeg fills the rest with grey

FILM = np.clip(
    np.add.outer(np.arange(200) * 0.7, np.arange(152) * 0.5)
    + np.random.default_rng(0).normal(0, 12, (200, 152)),
    0,
    255,
).astype(np.uint8)


def jpeg(film: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(film).save(stream, "JPEG", **options)
    return stream.getvalue()


def cut(stream: bytes, share: float) -> bytes:
    """Leave a share of the coded bytes, and an end marker after them."""
    start = stream.rindex(b"\xff\xda")
    return stream[: start + int(share * (len(stream) - start))].rstrip(b"\xff") + b"\xff\xd9"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize(
    ("options", "colour"),
    [
        ({"quality": 90}, False),
        ({"quality": 40, "optimize": True}, False),
        ({"quality": 90, "restart_marker_blocks": 7}, False),
        ({"quality": 90, "subsampling": 2}, True),
        ({"quality": 90, "subsampling": 0}, True),
    ],
    ids=["baseline", "coarse", "restarts", "420", "444"],
)
def test_a_jpeg_that_was_cut_is_truncated(
    tmp_path: Path, options: dict[str, object], colour: bool, share: float
) -> None:
    film = np.stack([FILM, FILM[::-1], FILM[:, ::-1]], axis=-1) if colour else FILM
    path = tmp_path / "film.jpg"
    path.write_bytes(jpeg(film, **options))
    assert read_raster(path)[0].shape == FILM.shape
    path.write_bytes(cut(jpeg(film, **options), share))
    with pytest.raises(ImageError, match="ends before its last rows") as caught:
        read_raster(path)
    assert caught.value.reason == "truncated"


def test_a_progressive_jpeg_without_its_last_scans(tmp_path: Path) -> None:
    path = tmp_path / "film.jpg"
    whole = jpeg(FILM, quality=90, progressive=True)
    path.write_bytes(whole)
    read_raster(path)
    for scan in (1, 2):
        start = -1
        for _ in range(scan + 1):
            start = whole.index(b"\xff\xda", start + 1)
        path.write_bytes(whole[:start] + b"\xff\xd9")
        with pytest.raises(ImageError, match="ends before its last rows"):
            read_raster(path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 5}])
def test_a_film_that_ends_in_the_very_grey_is_whole(
    tmp_path: Path, options: dict[str, object]
) -> None:
    film = FILM.copy()
    film[100:] = 128
    (tmp_path / "film.jpg").write_bytes(jpeg(film, quality=90, **options))
    if options.get("progressive"):
        with pytest.raises(ImageError):  # not told from a cut one
            read_raster(tmp_path / "film.jpg")
    else:
        assert read_raster(tmp_path / "film.jpg")[0].shape == FILM.shape


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("name", ["SC_rgb_jpeg_dcmtk.dcm", "JPGExtended.dcm"])
def test_a_frame_that_was_cut_is_truncated(name: str, share: float) -> None:
    dataset = opened(name)
    assert decode_frame(opened(name), 0)[0].shape[:2] == (dataset.Rows, dataset.Columns)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([cut(frame, share)])
    with pytest.raises(ImageError, match="ends before its last rows") as caught:
        decode_frame(dataset, 0)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("name", ["MR_small_RLE", "MR_small_jp2klossless", "JPGExtended"])
@pytest.mark.parametrize("share", [0.6, 0.95])
def test_a_file_that_ends_within_its_pixels_is_truncated(
    name: str, share: float, tmp_path: Path
) -> None:
    content = (BUNDLED / f"{name}.dcm").read_bytes()
    path = tmp_path / "film.dcm"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ImageError, match="the file ends within its Pixel Data; export") as caught:
        film_pixels(open_dicom(path))
    assert caught.value.reason == "truncated"


def test_what_a_header_lacks_is_named() -> None:
    dataset = opened("MR_small.dcm")
    del dataset.file_meta.TransferSyntaxUID
    with pytest.raises(ImageError, match=r"\(0002,0010\) Transfer Syntax UID is missing"):
        decode_frame(dataset, 0)
    dataset = opened("MR_small.dcm")
    dataset.NumberOfFrames = -3
    with pytest.raises(ImageError, match=r"Number of Frames is -3; expected positive"):
        film_pixels(dataset)
