"""PNG and JPEG films: full range of the depth, colour by luma, every damage a reason code."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ravl_med.cohort.image_file import read_raster
from ravl_med.config.cohort import ReadingConfig
from ravl_med.errors import ImageError

GRAY = np.arange(0, 240, dtype=np.uint8).reshape(12, 20)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_8_bit_png(tmp_path: Path) -> None:
    pixels, applied = read_raster(saved(tmp_path / "a.png", Image.fromarray(GRAY)))
    np.testing.assert_allclose(pixels, GRAY / 255, atol=1e-7)
    assert pixels.dtype == np.float32
    assert applied == "8-bit"


def test_16_bit_png(tmp_path: Path) -> None:
    deep = GRAY.astype(np.uint16) * 270 + 7
    pixels, applied = read_raster(saved(tmp_path / "a.png", Image.fromarray(deep)))
    np.testing.assert_allclose(pixels, deep / 65535, atol=1e-7)
    assert pixels.dtype == np.float32
    assert applied == "16-bit"


def test_1_bit_png(tmp_path: Path) -> None:
    image = Image.fromarray(GRAY > 100)
    pixels, applied = read_raster(saved(tmp_path / "a.png", image))
    np.testing.assert_array_equal(pixels, GRAY > 100)
    assert applied == "8-bit from 1"


def test_colour_is_averaged_by_luma(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8))
    pixels, applied = read_raster(saved(tmp_path / "a.png", image))
    # ITU-R 601: 0.299, 0.587, 0.114, rounded to 8 bit.
    np.testing.assert_allclose(pixels, np.array([[76, 150, 29]]) / 255, atol=1e-7)
    assert applied == "8-bit from RGB"


def test_alpha_is_dropped(tmp_path: Path) -> None:
    alpha = np.zeros_like(GRAY)
    image = Image.fromarray(np.dstack([GRAY, GRAY, GRAY, alpha]))
    pixels, applied = read_raster(saved(tmp_path / "a.png", image))
    np.testing.assert_allclose(pixels, GRAY / 255, atol=1e-7)
    assert applied == "8-bit from RGBA"


def test_gray_with_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(np.dstack([GRAY, np.full_like(GRAY, 9)]), "LA")
    pixels, applied = read_raster(saved(tmp_path / "a.png", image))
    np.testing.assert_allclose(pixels, GRAY / 255, atol=1e-7)
    assert applied == "8-bit from LA"


@pytest.mark.parametrize("transparency", [None, 0, bytes([0, 128, 255])])
def test_palette_is_looked_up(tmp_path: Path, transparency: int | bytes | None) -> None:
    image = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8), "L")
    image.putpalette([10, 10, 10, 100, 100, 100, 200, 200, 200])
    options = {} if transparency is None else {"transparency": transparency}
    pixels, applied = read_raster(saved(tmp_path / "a.png", image, **options))
    expected = np.array([[10, 100, 200], [200, 100, 10]]) / 255
    np.testing.assert_allclose(pixels, expected, atol=1e-7)
    assert applied == "8-bit from P"


def test_gray_jpeg_is_what_the_decoder_gives(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(GRAY), quality=90)
    pixels, applied = read_raster(path)
    with Image.open(path) as image:
        np.testing.assert_allclose(pixels, np.asarray(image) / 255, atol=1e-7)
    assert np.abs(pixels - GRAY / 255).max() < 0.1
    assert applied == "8-bit"


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_truncated(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = saved(tmp_path / name, Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"cannot be decoded .*truncated") as caught:
        read_raster(path)
    assert caught.value.reason == "undecodable"
    assert str(tmp_path) not in str(caught.value)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(GRAY), format="BMP")
    with pytest.raises(ImageError, match="not a PNG or JPEG image") as caught:
        read_raster(path)
    assert caught.value.reason == "undecodable"


def test_too_large_is_told_before_decoding(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(GRAY))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageError, match=r"12 x 20 pixels; expected at most 239") as caught:
        read_raster(path, ReadingConfig(max_pixels=239))
    assert caught.value.reason == "too_large"


def test_more_than_pillow_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(GRAY))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match="more pixels than Pillow opens") as caught:
        read_raster(path)
    assert caught.value.reason == "too_large"


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["PNG", "JPEG"]),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=4),
)
def test_damage_gives_pixels_or_a_reason(
    tmp_path: Path, kind: str, cuts: list[tuple[float, bytes]]
) -> None:
    stream = io.BytesIO()
    Image.fromarray(GRAY).save(stream, kind)
    content = bytearray(stream.getvalue())
    for place, patch in cuts:
        start = int(place * (len(content) - 1))
        content[start : start + len(patch)] = patch
    path = tmp_path / "damaged"
    path.write_bytes(content)
    try:
        pixels, _ = read_raster(path, ReadingConfig(max_pixels=100_000))
    except ImageError as error:
        reason = error.reason
    else:
        reason = ""
        assert pixels.min() >= 0
        assert pixels.max() <= 1
    assert reason in ("", "undecodable", "too_large", "truncated")
