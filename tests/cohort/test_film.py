"""Films one by one: told by content, set aside with a reason, named by a keyed pseudonym."""

import contextlib
import gzip
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ravl_med.cohort.film import Film, FilmReader, _stored_bytes, pseudonym
from ravl_med.cohort.manifest import Cohort
from ravl_med.cohort.near_duplicates import SAME, SketchIndex, sketch_film
from ravl_med.cohort.table import ManifestFiles, RejectedFilm
from ravl_med.config.cohort import CohortConfig, ReadingConfig, SyntheticConfig, VolumeConfig
from ravl_med.engine.supervisor import hushed
from ravl_med.errors import ImageError

SHARED = Path(os.environ.get("RAVL_MED_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
READER = FilmReader()


def film_of(seed: int, side: int = 20) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side, side + 4), dtype=np.uint8)


def cohort_of(paths: Sequence[Path]) -> Cohort:
    count = len(paths)
    return Cohort(
        name="manifest.csv",
        rows=np.arange(count, dtype=np.int64) * 2 + 2,
        paths=ManifestFiles(map(str, paths), Path()),
        patients=np.arange(count, dtype=np.int64),
        radiology_reports=("",) * count,
        labels=np.full(count, -1, dtype=np.int64),
        classes=(),
        attributes={},
        listed=count,
        left_out={},
    )


def png(path: Path, pixels: NDArray[np.uint8]) -> Path:
    Image.fromarray(pixels).save(path, "PNG")
    return path


def content_of(kind: str, folder: Path) -> bytes:
    source = folder / "source"
    if kind == "dicom":
        return (BUNDLED / "MR_small.dcm").read_bytes()
    if kind in ("png", "jpeg"):
        Image.fromarray(film_of(0)).save(source, kind)
        return source.read_bytes()
    image = (nib.Nifti2Image if kind == "nifti 2" else nib.Nifti1Image)(film_of(0), np.eye(4))
    content: bytes = image.to_bytes()
    return gzip.compress(content) if kind == "nifti.gz" else content


@pytest.mark.parametrize("name", ["film.png", "film.dcm", "film.nii", "film.nii.gz", "film", "1.2"])
@pytest.mark.parametrize("kind", ["dicom", "png", "jpeg", "nifti", "nifti 2", "nifti.gz"])
def test_the_format_is_told_by_content(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content_of(kind, tmp_path))
    pixels, applied = READER.read(path)
    expected = {"dicom": "window 1 of 1", "png": "8-bit", "jpeg": "8-bit"}
    assert applied == expected.get(kind, "single slice")
    assert pixels.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "content", "reason", "message"),
    [
        ("doe.png", None, "missing", "does not exist. Paths are relative to the manifest"),
        ("doe.png", b"", "empty", "the image file is empty"),
        ("doe.png", b"GIF89a", "unknown_format", "neither DICOM, PNG, JPEG nor NIfTI"),
        ("doe.dcm", b"<html>", "not_dicom", "the file is not DICOM"),
        ("doe", b"<html>", "not_dicom", "the file is not DICOM"),
        ("doe.nii", b"<html>", "undecodable", "NIfTI file cannot be read"),
        ("doe.jpg", b"\xff\xd8\xff\xe0\x00", "undecodable", "not a PNG or JPEG image|truncated"),
        ("do\0e.png", None, "unreadable", "cannot be opened .ValueError"),
        ("", None, "unreadable", "cannot be opened .IsADirectoryError"),
        ("../../../../../../../../../dev/zero", None, "unreadable", "names no regular file"),
    ],
)
def test_every_refusal_has_a_reason(
    tmp_path: Path, name: str, content: bytes | None, reason: str, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        READER.read(path)
    assert caught.value.reason == reason
    assert "doe" not in str(caught.value).replace("does", "")
    assert str(tmp_path) not in str(caught.value)


def test_the_reader_passes_its_limits_on(tmp_path: Path) -> None:
    for kind in ("dicom", "png", "nifti"):
        path = tmp_path / kind
        path.write_bytes(content_of(kind, tmp_path))
        with pytest.raises(ImageError, match=r"expected at most 100 \(cohort.max_pixels\)"):
            FilmReader(ReadingConfig(max_pixels=100)).read(path)


def test_a_film_carries_pixels_digest_and_steps(tmp_path: Path) -> None:
    pixels = film_of(1)
    film = READER.film(cohort_of([png(tmp_path / "a", pixels)]), 0)
    np.testing.assert_array_equal(film.gray(), pixels)
    assert film.index == 0
    assert film.applied == "8-bit"
    assert len(film.digest) == 64


def test_the_digest_is_of_pixels_and_shape_alone(tmp_path: Path) -> None:
    pixels = film_of(1, 24)
    other = np.ascontiguousarray(pixels.reshape(28, 24))
    (tmp_path / "c.nii").write_bytes(content_of("nifti", tmp_path))
    paths = [png(tmp_path / "a", pixels), png(tmp_path / "b", pixels), png(tmp_path / "c", other)]
    cohort = cohort_of(paths)
    first, again, reshaped = (READER.film(cohort, i).digest for i in range(3))
    assert first == again
    assert first != reshaped


@pytest.mark.parametrize(
    ("pixels", "reason", "message"),
    [
        (np.full((20, 20), 7, dtype=np.uint8), "constant", "all pixels are equal"),
        (film_of(0, 15), "too_small", "15 x 19 pixels; expected at least 16 x 16"),
    ],
)
def test_films_that_show_nothing(
    tmp_path: Path, pixels: NDArray[np.uint8], reason: str, message: str
) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        READER.film(cohort_of([png(tmp_path / "a", pixels)]), 0)
    assert caught.value.reason == reason


def test_a_film_that_cannot_be_read_does_not_stop_the_rest(tmp_path: Path) -> None:
    cohort = cohort_of(
        [
            png(tmp_path / "a", film_of(1)),
            tmp_path / "missing",
            png(tmp_path / "copy", film_of(1)),
            png(tmp_path / "b", film_of(2)),
        ]
    )
    first, missing, copy, last = READER.films(cohort)
    assert isinstance(first, Film)
    assert isinstance(last, Film)
    assert (first.index, last.index) == (0, 3)
    assert isinstance(missing, RejectedFilm)
    assert (missing.row, missing.reason) == (4, "missing")
    assert missing.message.startswith("manifest.csv row 4: the image file does not exist")
    assert copy == RejectedFilm(
        6,
        "duplicate_pixels",
        "manifest.csv row 6: the same pixels stand in an earlier row. Remove one.",
    )


@given(digest=st.text("0123456789abcdef", min_size=64, max_size=64), key=st.binary(min_size=32))
def test_a_pseudonym_is_stable_and_depends_on_the_key(digest: str, key: bytes) -> None:
    name = pseudonym(digest, key)
    assert name == pseudonym(digest, key)
    assert len(name) == 16
    assert set(name) <= set("0123456789abcdef")
    assert name != pseudonym(digest, key + b"\x01")
    assert name != pseudonym(digest[1:] + "g", key)
    assert name not in digest


def test_a_pseudonym_is_an_hmac() -> None:
    # RFC 4231, test case 2.
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert pseudonym("what do ya want for nothing?", b"Jefe") == expected[:16]


def test_other_processes_read_the_same_films(tmp_path: Path) -> None:
    cohort = cohort_of(
        [
            png(tmp_path / "a", film_of(1)),
            tmp_path / "missing",
            png(tmp_path / "copy", film_of(1)),
            png(tmp_path / "b", film_of(2)),
        ]
    )
    here, there = list(READER.films(cohort)), list(FilmReader(workers=2).films(cohort))
    assert [type(film) for film in here] == [type(film) for film in there]
    for a, b in zip(here, there, strict=True):
        if isinstance(a, Film) and isinstance(b, Film):
            np.testing.assert_array_equal(a.pixels, b.pixels)
            assert (a.index, a.digest, a.applied) == (b.index, b.digest, b.applied)
        else:
            assert a == b
    assert isinstance(there[1], RejectedFilm)
    assert there[1].path == tmp_path / "missing"
    assert str(tmp_path) not in repr(there[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_films_outside_the_roots_are_set_aside(tmp_path: Path, workers: int) -> None:
    (tmp_path / "cohort").mkdir()
    inside, outside = png(tmp_path / "cohort" / "a", film_of(1)), png(tmp_path / "b", film_of(2))
    reader = FilmReader(workers=workers, roots=(tmp_path / "cohort",))
    read, refused = reader.films(cohort_of([inside, outside]))
    assert isinstance(read, Film)
    assert isinstance(refused, RejectedFilm)
    assert refused.reason == "outside_root"


@pytest.mark.parametrize("workers", [0, 1])
def test_the_manifest_names_frames(workers: int) -> None:
    path = BUNDLED / "examples_ybr_color.dcm"
    cohort = replace(cohort_of([path] * 3), frames=(1, 30, None))
    first, last, none = FilmReader(workers=workers).films(cohort)
    assert isinstance(first, Film)
    assert isinstance(last, Film)
    assert isinstance(none, RejectedFilm)
    assert first.digest != last.digest
    assert (first.reading.frame, last.reading.frame) == (1, 30)
    assert first.applied == "named frame, gray by luminance"
    assert none.reason == "multi_frame"
    assert "cohort.frame" in none.message
    assert isinstance(READER.film(cohort.keep(np.array([1])), 0), Film)


def test_a_dicom_film_carries_what_its_header_states(tmp_path: Path) -> None:
    film = READER.film(cohort_of([BUNDLED / "MR_small.dcm"]), 0)
    assert film.attributes["manufacturer"] == "TOSHIBA_MEC"
    assert READER.film(cohort_of([png(tmp_path / "a", film_of(0))]), 0).attributes == {}


def test_the_config_says_how_films_are_read(tmp_path: Path) -> None:
    config = CohortConfig(
        manifest=tmp_path / "m" / "manifest.csv",
        roots=(tmp_path / "far",),
        preset="chexpert",
        max_pixels=5,
        volume=VolumeConfig(show="slice", window=(40.0, 400.0)),
    )
    reader = FilmReader.of(config)
    assert reader.roots == (tmp_path / "m", tmp_path / "far")
    assert reader.workers == 2
    assert reader.reading.preset == "chexpert"
    assert reader.reading.max_pixels == 5
    assert reader.reading.volume.window == (40.0, 400.0)
    reading = FilmReader.of(CohortConfig(manifest=tmp_path / "m")).reading
    assert all(getattr(reading, key) == value for key, value in ReadingConfig())
    assert FilmReader.of(CohortConfig(synthetic=SyntheticConfig())).workers == 0


def test_shared_volumes_go_through_the_intake() -> None:
    paths = [SHARED / "nifti" / f"example_{kind}_sm.nii.gz" for kind in ("ct", "mr")]
    if not all(path.is_file() for path in paths):
        pytest.skip("the shared test volumes are not beside this checkout")
    volume = VolumeConfig(show="slice", plane="axial", window=(40.0, 400.0), spacing="isotropic")
    for policy in (ReadingConfig(), ReadingConfig(volume=volume)):
        films = list(FilmReader(policy, workers=1).films(cohort_of(paths)))
        assert all(isinstance(film, Film) for film in films)


@pytest.mark.parametrize(
    ("told", "kept"),
    [(0, 0), (12_345, 12_345), (-1, 0), (10**400, 0), ("9", 0), (None, 0), (1.5, 0)],
)
def test_a_size_that_cannot_be_counts_as_none(told: object, kept: int) -> None:
    assert _stored_bytes(told, most_mb=200) == kept


def test_decoders_and_pydicom_print_nothing_where_the_run_itself_reads(tmp_path, capfd):
    """GDCM complains of odd bytes in a JPEG; pydicom names the value of a tag."""
    content = (BUNDLED / "JPGExtended.dcm").read_bytes()
    at = len(content) * 3 // 4
    odd = tmp_path / "odd.dcm"
    odd.write_bytes(content[:at] + bytes(64) + content[at + 64 :])
    dataset = pydicom.dcmread(BUNDLED / "MR_small.dcm")
    named = tmp_path / "named.dcm"
    dataset.WindowCenter = dataset.WindowWidth = "600"
    dataset.save_as(named)
    named.write_bytes(named.read_bytes().replace(b"MR1", b"\xff\xfe1", 1))
    logger = pydicom.config.logger
    handler, level = logging.StreamHandler(os.fdopen(os.dup(2), "w")), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)  # the command line, which other tests call, hears less
    try:
        for path in (odd, named):
            with contextlib.suppress(ImageError):
                READER.film(cohort_of([path]), 0)
        with hushed():
            logger.warning("a value")
        assert capfd.readouterr().err == ""
        os.write(2, b"heard")
        logger.error("again")
        assert capfd.readouterr().err == "heardagain\n"
        assert logger.level == logging.WARNING
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.stream.close()


def smooth_film(seed: int, side: int = 220) -> NDArray[np.float32]:
    """Shades and an edge, as a film has them, with noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.random((9, 9)).astype(np.float32))
    shades = np.asarray(coarse.resize((side + 20, side), Image.Resampling.BICUBIC))
    shades = shades + 0.4 * (np.arange(side + 20) > rng.integers(40, side - 40))
    noisy = 0.1 + 0.5 * shades + rng.normal(0, 0.01, shades.shape)
    return np.clip(noisy, 0, 1).astype(np.float32)


def sketched(*films: NDArray[np.float32]) -> NDArray[np.uint8]:
    rows = [np.frombuffer(sketch_film(film), np.uint8) for film in films]
    return np.stack(rows)


def jpeg_of(film: NDArray[np.float32], folder: Path) -> NDArray[np.float32]:
    Image.fromarray(np.rint(film * 255).astype(np.uint8)).save(folder / "a.jpg", quality=60)
    return np.asarray(Image.open(folder / "a.jpg"), dtype=np.float32) / 255


def half_of(film: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = film.shape
    return np.asarray(Image.fromarray(film).resize((width // 2, height // 2)))


def marked(film: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.add.outer(*map(np.arange, film.shape)) < 20, 1, film).astype(np.float32)


def test_a_film_is_found_however_it_was_encoded_and_no_other(tmp_path):
    films = [smooth_film(seed) for seed in range(60)]
    copies = [
        *(jpeg_of(film, tmp_path) for film in films[:4]),
        *(half_of(film) for film in films[4:8]),
        *(film**0.7 for film in films[8:12]),
        *(np.clip((film - 0.05) / 0.9, 0, 1) for film in films[12:16]),
        *map(marked, films[16:20]),
    ]
    index = SketchIndex(sketched(*films))
    index.look_up(sketched(*(smooth_film(seed) for seed in range(1000, 1060))))
    assert not index.found.any()
    index.look_up(sketched(*copies))
    assert index.found.tolist() == [n < 20 for n in range(60)]


def test_plain_and_small_films_are_like_nothing():
    assert sketch_film(smooth_film(0)[:20]) == b""
    index = SketchIndex(np.zeros((3, 128), dtype=np.uint8))
    index.look_up(np.zeros((3, 128), dtype=np.uint8))
    assert not index.found.any()
    SketchIndex(np.empty((0, 128), dtype=np.uint8)).look_up(sketched(smooth_film(0)))


def test_many_sketches_are_looked_up_without_comparing_all():
    """1,500 films, 1,000 of them among 4,000 others with 2 % of the bits changed."""
    rng = np.random.default_rng(0)
    films = rng.random((1_500, 1024)) < 0.3
    others = rng.random((4_000, 1024)) < 0.3
    others[:1_000] = films[:1_000] ^ (rng.random((1_000, 1024)) < 0.02)
    index = SketchIndex(np.packbits(films, axis=1))
    for start in range(0, 4_000, 2_000):
        index.look_up(np.packbits(others[start : start + 2_000], axis=1))
    changed = (films[:1_000] ^ others[:1_000]).sum(axis=1)
    alike = changed <= SAME * (films[:1_000] | others[:1_000]).sum(axis=1)
    assert alike.mean() > 0.9
    assert index.found[:1_000][alike].mean() > 0.999
    assert not index.found[1_000:].any()


@pytest.mark.skipif(not (SHARED / "nih").is_dir(), reason="no test data here")
def test_real_films_of_different_patients_are_apart():
    films = [
        np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255
        for path in sorted((SHARED / "nih" / "films").glob("*"))[:80]
    ]
    bits = np.unpackbits(sketched(*films), axis=1)
    differ = (bits[:, None] ^ bits[None]).sum(axis=2)
    either = (bits[:, None] | bits[None]).sum(axis=2)
    share = (differ / either)[np.triu_indices(len(films), 1)]
    assert share.min() > 3 * SAME
