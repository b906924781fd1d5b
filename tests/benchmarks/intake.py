"""Reading of DICOM films against the clock: one core beside pydicom, two processes beside one.

Films are phantoms of the size of a radiograph, written in the transfer syntaxes of archives.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from ravl_med.cohort.image_file import read_film_file, read_image_file
from ravl_med.cohort.reading_pool import ReadingPool
from ravl_med.config.cohort import DEFAULT_READING
from ravl_med.errors import ImageError
from tests.benchmarks.runner import Page, Part, Progress, Setup
from tests.benchmarks.tables import Column, Row, Table, Target

SYNTAXES: tuple[tuple[str, UID, str], ...] = (
    ("uncompressed", ExplicitVRLittleEndian, ""),
    ("RLE", RLELossless, "pydicom"),
    ("JPEG-LS", JPEGLSLossless, "pyjpegls"),
    ("JPEG 2000", JPEG2000Lossless, "pylibjpeg"),
)
"""Name, UID, and the plugin of pydicom that encodes."""

_HEIGHT, _WIDTH, _BITS = 2500, 2048, 12
_FILMS, _REPEATS = 2, 3  # of each syntax; how often each is read in a round of two processes


def write_films(folder: Path, count: int) -> dict[str, list[Path]]:
    """Write films of 2500 x 2048 pixels, 12 bits, so many in each of `SYNTAXES`."""
    written: dict[str, list[Path]] = {}
    for number in range(count):
        pixels = _film(number)
        for name, syntax, plugin in SYNTAXES:
            dataset = _dataset(pixels)
            if plugin:
                dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
            path = folder / f"{name.replace(' ', '-')}-{number}.dcm"
            dataset.save_as(path, enforce_file_format=True)
            written.setdefault(name, []).append(path)
    return written


def measure_speed(films: dict[str, list[Path]], rounds: int, progress: Progress) -> Iterator[Row]:
    """Read films in turns by pydicom and by this tool, on one thread."""
    for done, (name, paths) in enumerate(films.items()):
        progress("read films on one core", done, len(films))
        times = [
            [_seconds(read, paths) / len(paths) for read in (_by_pydicom, _by_us, _as_audited)]
            for _ in range(rounds + 1)
        ][1:]  # the first warms up
        theirs, ours, audited = (list(column) for column in zip(*times, strict=True))
        yield {
            "syntax": name,
            "pydicom_ms": 1e3 * statistics.median(theirs),
            "ours_ms": 1e3 * statistics.median(ours),
            "ratio": statistics.median(o / t for o, t in zip(ours, theirs, strict=True)),
            "with_digest_ms": 1e3 * statistics.median(audited),
            "rounds": rounds,
        }


def measure_cores(
    films: dict[str, list[Path]], repeats: int, rounds: int, progress: Progress
) -> Iterator[Row]:
    """Read films in turns in this process and in two others, which are started before."""
    with ReadingPool(DEFAULT_READING, 2) as pool:
        for done, (name, paths) in enumerate(films.items()):
            progress("read films on two cores", done, len(films))
            many = paths * repeats

            def in_two(wanted: Sequence[Path]) -> None:
                for outcome in pool.read((path, None) for path in wanted):
                    if isinstance(outcome, ImageError):
                        raise outcome

            in_two(paths * 2)
            pairs = [(_seconds(_as_audited, many), _seconds(in_two, many)) for _ in range(rounds)]
            yield {
                "syntax": name,
                "films": len(many),
                "one_ms": 1e3 * statistics.median(one for one, _ in pairs) / len(many),
                "two_ms": 1e3 * statistics.median(two for _, two in pairs) / len(many),
                "gain": statistics.median(one / two for one, two in pairs),
                "rounds": rounds,
            }


def _seconds(read: Callable[[Sequence[Path]], None], paths: Sequence[Path]) -> float:
    start = time.perf_counter()
    read(paths)
    return time.perf_counter() - start


def _by_pydicom(paths: Sequence[Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in paths:
            dataset = pydicom.dcmread(path)
            apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)


def _by_us(paths: Sequence[Path]) -> None:
    for path in paths:
        read_image_file(path, DEFAULT_READING)


def _as_audited(paths: Sequence[Path]) -> None:
    for path in paths:
        read_film_file(path, DEFAULT_READING)


def _film(seed: int) -> NDArray[np.uint16]:
    """Make a film as smooth and as noisy as a radiograph (H, W), 12 bits."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(_HEIGHT // 64, _WIDTH // 64))
    smooth = np.asarray(cv2.resize(coarse, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_CUBIC))
    noisy = smooth + rng.normal(0.0, 0.004, smooth.shape)
    shares = (noisy - noisy.min()) / np.ptp(noisy)
    shades: NDArray[np.uint16] = np.rint(shares * (2**_BITS - 1)).astype(np.uint16)
    return shades


def _dataset(pixels: NDArray[np.uint16]) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = UID("2.25.1")
    film: Any = FileDataset(io.BytesIO(), {}, file_meta=meta, preamble=b"\0" * 128)
    film.SOPClassUID = meta.MediaStorageSOPClassUID
    film.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
    film.Rows, film.Columns = pixels.shape
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, _BITS, _BITS - 1
    film.PixelRepresentation = 0
    film.RescaleSlope, film.RescaleIntercept = 1, 0
    film.WindowCenter, film.WindowWidth = 2048, 3800
    film.PixelData = pixels.tobytes()
    film["PixelData"].VR = "OW"
    dataset: FileDataset = film
    return dataset


def _speed(setup: Setup) -> Iterable[Row]:
    with tempfile.TemporaryDirectory() as folder:
        films = write_films(Path(folder), _FILMS)
        yield from measure_speed(films, setup.size("rounds"), setup.progress)


def _cores(setup: Setup) -> Iterable[Row]:
    with tempfile.TemporaryDirectory() as folder:
        films = write_films(Path(folder), _FILMS)
        yield from measure_cores(films, _REPEATS, setup.size("rounds"), setup.progress)


PAGE = Page(
    "intake",
    "Reading of DICOM films",
    "Time the reading of DICOM films: one core against pydicom, two processes against one.",
    (
        Part(
            "speed",
            "One core",
            "Films of 2500 x 2048 pixels, 12 bits, read in turns by pydicom (decode, modality and "
            "VOI LUT) and by this tool (the same within the limits on hostile files, inversion, 0 "
            "to 1). The last column adds what an audit needs besides: checks, and the SHA-256 of "
            "the pixels.",
            [
                Table(
                    Column("transfer syntax", "{syntax}"),
                    Column("pydicom, ms a film", "{pydicom_ms:.0f}"),
                    Column("this tool, ms", "{ours_ms:.0f}"),
                    Target("ratio", 1.25).beside("reached", "{ratio:.2f}", "target: ratio"),
                    Column("with digest, ms", "{with_digest_ms:.0f}"),
                )
            ],
            _speed,
            {"rounds": 9},
        ),
        Part(
            "cores",
            "Two processes",
            "The same films as an audit reads them, in one process and in two others that may die "
            "or hang, their pixels sent to the first one.",
            [
                Table(
                    Column("transfer syntax", "{syntax}"),
                    Column("one, ms a film", "{one_ms:.0f}"),
                    Column("two, ms a film", "{two_ms:.0f}"),
                    Target("gain", 1.7, least=True).beside(
                        "reached", "{gain:.2f}", "target: times faster"
                    ),
                )
            ],
            _cores,
            {"rounds": 9},
        ),
    ),
)
