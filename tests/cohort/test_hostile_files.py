"""Mutated files of every format: pixels or a named reason; no crash, no hang, bounded memory."""

import gzip
import io
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from ravl_med.cohort.image_file import ImageContent
from ravl_med.cohort.manifest import read_manifest
from ravl_med.cohort.reading_pool import ReadingPool
from ravl_med.config.cohort import ReadingConfig
from ravl_med.errors import ImageError, RavlMedError

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
LIMITS = ReadingConfig(
    max_pixels=2_000_000, max_file_mb=50, max_inflated_mb=50, max_memory_mb=1500, max_seconds=20
)
REASONS = {
    "bad_geometry", "constant", "decoder_died", "empty", "multi_frame", "no_decoder",
    "no_pixel_data", "not_dicom", "not_grayscale", "out_of_memory", "timed_out", "too_large",
    "too_small", "truncated", "undecodable", "unknown_format",
}  # fmt: skip
DICOM = (
    "CT_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "JPGExtended.dcm",
    "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg_dcmtk.dcm",
    "image_dfl.dcm", "J2K_pixelrep_mismatch.dcm", "no_meta.dcm", "MR_small_bigendian.dcm",
    "examples_palette.dcm",
)  # fmt: skip
EXTREMES = (b"\0", b"\xff", b"\xff\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80")
CSV = (
    b"image,patient,report,view,age,frame,effusion,split\n"
    b'a.dcm,1,"Large, heart.",PA,61,1,1,finetune\nb.png,2,,AP,,,0,test\n"c.nii",3,x,,9,2,-1,\n'
)


def seeds() -> list[tuple[str, bytes]]:
    """Whole files, small enough to be mutated thousands of times."""
    found = [(".dcm", (BUNDLED / name).read_bytes()) for name in DICOM]
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40), dtype=np.uint8)
    for kind, image in (
        ("PNG", Image.fromarray(pixels)),
        ("PNG", Image.fromarray(pixels.astype(np.uint16) * 200)),
        ("JPEG", Image.fromarray(np.stack([pixels] * 3, axis=2))),
    ):
        stream = io.BytesIO()
        image.save(stream, kind)
        found.append((f".{kind.lower()}", stream.getvalue()))
    volume = nib.Nifti1Image(np.arange(24 * 20 * 22, dtype=np.int16).reshape(24, 20, 22), np.eye(4))
    found += [(".nii", volume.to_bytes()), (".nii.gz", gzip.compress(volume.to_bytes()))]
    return found


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """A few cuts, copies and odd bytes; the header, where lengths stand, is hit more often."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        if not data:
            break
        near = bool(rng.random() < 0.6)
        at = int(rng.integers(0, min(len(data), 1500) if near else len(data)))
        kind = int(rng.integers(0, 6))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            part = EXTREMES[int(rng.integers(0, len(EXTREMES)))]
            data[at : at + len(part)] = part
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 64))]
        elif kind == 3:
            data[at:at] = data[at : at + int(rng.integers(1, 64))]
        elif kind == 4 and rng.random() < 0.3:
            del data[at:]
        else:
            data[at : at + 4] = rng.bytes(4)
    return bytes(data)


def written(folder: Path, count: int, seed: int) -> Iterator[tuple[Path, None]]:
    """Write mutated files one ahead of their reading; a name is used again after a while."""
    rng, known = np.random.default_rng(seed), seeds()
    for number in range(count):
        suffix, content = known[int(rng.integers(0, len(known)))]
        path = folder / f"DOE-{number % 100}{suffix}"
        path.write_bytes(mutate(content, rng))
        yield path, None


def peak_mb(pool: ReadingPool) -> float:
    """Most memory that a worker which lives held; its own, not what it was forked from."""
    peaks = [0]
    for worker in pool._crew.children:
        if worker._process is not None and worker._process.poll() is None:
            status = Path(f"/proc/{worker._process.pid}/status").read_text(encoding="ascii")
            peaks.append(int(status.split("VmHWM:")[1].split()[0]))
    return max(peaks) * 1024 / 1e6


def fuzz_images(folder: Path, count: int, seed: int) -> tuple[Counter[str], float]:
    outcomes: Counter[str] = Counter()
    with ReadingPool(LIMITS, 2) as pool:
        for outcome in pool.read(written(folder, count, seed)):
            if isinstance(outcome, ImageError):
                assert outcome.reason in REASONS
                assert "DOE" not in str(outcome)
                assert "\n" not in str(outcome)
                outcomes[outcome.reason] += 1
                continue
            assert isinstance(outcome, ImageContent)
            assert outcome.pixels.ndim == 2
            assert np.isfinite(outcome.pixels).all()
            assert 0 <= outcome.pixels.min() < outcome.pixels.max() <= 1
            outcomes["read"] += 1
        peak = peak_mb(pool) if sys.platform == "linux" else 0.0
    return outcomes, peak


def fuzz_tables(folder: Path, count: int, seed: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    rng = np.random.default_rng(seed)
    path = folder / "manifest.csv"
    for _ in range(count):
        path.write_bytes(mutate(CSV, rng))
        try:
            read_manifest(path, split=None, columns={"a": {"effusion": 1}, "b": {"effusion": 0}})
        except RavlMedError as error:
            outcomes[type(error).__name__] += 1
        else:
            outcomes["read"] += 1
    return outcomes


def judge(
    images: Counter[str], peak: float, tables: Counter[str], count: int, seconds: float
) -> None:
    assert images.total() + tables.total() == count
    assert images["read"] > 0
    assert sum(reason in images for reason in REASONS) >= 5, "the mutations must reach the readers"
    assert {"read", "DataError"} <= set(tables)
    assert peak < LIMITS.max_memory_mb
    assert peak > 50 or sys.platform != "linux"
    print(f"\n{count} files in {seconds:.0f} s, {peak:.0f} MB: {dict(images)}, {dict(tables)}")  # noqa: T201


def test_500_mutated_files(tmp_path: Path) -> None:
    start = time.perf_counter()
    (images, peak), tables = fuzz_images(tmp_path, 400, 1), fuzz_tables(tmp_path, 100, 1)
    judge(images, peak, tables, 500, time.perf_counter() - start)


@pytest.mark.slow
def test_10_000_mutated_files(tmp_path: Path) -> None:
    start = time.perf_counter()
    (images, peak), tables = fuzz_images(tmp_path, 8_500, 2), fuzz_tables(tmp_path, 1_500, 2)
    judge(images, peak, tables, 10_000, time.perf_counter() - start)
