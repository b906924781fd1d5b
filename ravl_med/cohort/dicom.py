"""DICOM files: opened within limits, decoded one frame at a time, shown as the standard says.

A preset shows them instead as the JPEG exports do that known models were trained on.

References
----------
MIMIC-CXR-JPG: Johnson et al., arXiv 1901.07042, and the function published in issue 16 of
MIT-LCP/mimic-cxr. CheXpert: Irvin et al., AAAI 2019, and the code published in issue 11 of
stanfordmlgroup/chexpert-labeler. The lossy step, a JPEG of quality 95, is left out.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ravl_med.cohort.grayscale import window_pixels
from ravl_med.cohort.pixel_decoding import decode_frame
from ravl_med.config.cohort import DEFAULT_READING, ReadingConfig
from ravl_med.errors import ImageError
from ravl_med.storage.bounded_reading import open_regular


def export_pixels(
    stored: NDArray[Any], preset: str, *, inverted: bool
) -> tuple[NDArray[np.float32], str]:
    """Turn stored values (H, W) into the pixels of an export: 8 bits, histogram equalised, 0 to 1.

    Modality LUT, VOI and padding are ignored, as the exports ignored them. ``mimic-cxr-jpg``
    subtracts the least stored value and truncates; ``chexpert`` subtracts nothing and rounds.
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


_GRAY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PS3.3 C.7.6.3.1.2 takes for YBR
_CHUNK = 1 << 20
_PIXEL_DATA = b"\xe0\x7f\x10\x00"  # tag as most files spell it


def open_dicom(path: Path, reading: ReadingConfig = DEFAULT_READING) -> pydicom.Dataset:
    """Read a DICOM file without decoding its Pixel Data.

    A file without preamble or file meta information is read if its content shows that it is DICOM.
    The limits on the size of files, and of what deflated ones unpack to, hold here.

    Raises
    ------
    ImageError
        ``not_dicom``, ``too_large``, ``truncated``, ``undecodable``.
    """
    with naming_reasons():
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > reading.max_file_mb * 1_000_000:
                raise ImageError(
                    "too_large",
                    f"the file has {size / 1e6:.0f} MB; expected at most {reading.max_file_mb} "
                    "(cohort.max_file_mb).",
                )
            content = stream.read()
        if content[128:132] != b"DICM":
            return _read_bare(content)
        _check_inflated(path, content, reading.max_inflated_mb)
        dataset = pydicom.dcmread(io.BytesIO(content))
        cut = _PIXEL_DATA in content and "PixelData" not in dataset
        # pydicom gives what it has, and nothing where the cut is within fragments of pixels.
        if not len(dataset) or (cut and "Rows" in dataset):
            place = "within its Pixel Data" if cut else "before its first element"
            raise ImageError("truncated", f"the file ends {place}; export it again.")
        return dataset


def film_pixels(
    dataset: pydicom.Dataset, reading: ReadingConfig = DEFAULT_READING
) -> tuple[NDArray[np.float32], str]:
    """Decode one frame of a file from `open_dicom` as a film, and say by what steps.

    Pixels (H, W) are 0 to 1, bright is dense (the MONOCHROME2 sense), in the stored matrix. Steps
    read ``rescale, window 1 of 2, inverted``.

    Raises
    ------
    ImageError
        ``no_pixel_data``, ``bad_geometry``, ``too_large``, ``multi_frame``, ``not_grayscale``,
        ``no_decoder``, ``truncated``, ``undecodable``.
    """
    with naming_reasons():
        frame = _check(dataset, reading)
        stored, photometric = decode_frame(dataset, frame)
        steps: list[str] = []
        if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
            steps.append("named frame")
        dataset = _header_of_frame(dataset, frame)
        if photometric not in _GRAY:
            gray, how = _gray(stored, photometric, dataset)
            if reading.preset == "window":
                return gray, ", ".join([*steps, how])
            stored, steps = np.rint(gray * 65535.0).astype(np.int64), [*steps, how]
        if reading.preset == "window":
            pixels, applied = window_pixels(stored, dataset, reading)
        else:
            inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
            pixels, applied = export_pixels(stored, reading.preset, inverted=inverted)
        return pixels, ", ".join([*steps, applied])


@contextmanager
def naming_reasons() -> Iterator[None]:
    """Turn any exception that a hostile DICOM file causes into an `ImageError`."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values in tags that are not read
            yield
    except (ImageError, MemoryError):
        raise
    except InvalidDicomError:
        raise ImageError("not_dicom", "the file is not DICOM; export it again.") from None
    except Exception as error:  # a hostile header can fail anywhere inside the parser
        raise ImageError(
            "undecodable", f"the DICOM file cannot be parsed ({type(error).__name__})."
        ) from None


def _read_bare(content: bytes) -> pydicom.Dataset:
    """Read a file without preamble if its first elements are those of a DICOM data set."""
    if content[:2] not in (b"\x08\x00", b"\x02\x00", b"\x00\x08"):
        raise InvalidDicomError
    dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    if "SOPClassUID" not in dataset:
        raise InvalidDicomError
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _check_inflated(path: Path, content: bytes, most_mb: int) -> None:
    """Inflate a deflated file piece by piece, and refuse it once it exceeds the limit."""
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    start = 132 + 12 + int(meta.FileMetaInformationGroupLength)
    inflater, size, left = zlib.decompressobj(-zlib.MAX_WBITS), 0, content[start:]
    while left and not inflater.eof:
        size += len(inflater.decompress(left, _CHUNK))
        left = inflater.unconsumed_tail
        if size > most_mb * 1_000_000:
            raise ImageError(
                "too_large",
                f"the deflated file unpacks to more than {most_mb} MB (cohort.max_inflated_mb).",
            )


def _check(dataset: pydicom.Dataset, reading: ReadingConfig) -> int:
    """Check the header against the limits; return the frame to decode, from 0."""
    if "PixelData" not in dataset:
        raise ImageError("no_pixel_data", "(7FE0,0010) Pixel Data is missing; not an image.")
    rows, columns = int(dataset.get("Rows", 0) or 0), int(dataset.get("Columns", 0) or 0)
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    samples = int(dataset.get("SamplesPerPixel", 1) or 1)
    if frames < 1:
        raise ImageError(
            "bad_geometry", f"(0028,0008) Number of Frames is {frames}; expected positive."
        )
    if rows < 1 or columns < 1:
        raise ImageError(
            "bad_geometry", f"(0028,0010) Rows x Columns is {rows} x {columns}; expected positive."
        )
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    fits = photometric in _COLOUR if samples == 3 else photometric in (*_GRAY, "PALETTE COLOR")
    if samples not in (1, 3) or not fits:
        raise ImageError(
            "not_grayscale",
            f"(0028,0004) Photometric Interpretation is {photometric[:16]!r} with {samples} "
            "samples; expected MONOCHROME1 or MONOCHROME2, PALETTE COLOR, RGB or YBR. Exclude the "
            "row or convert the file.",
        )
    most = reading.max_pixels
    if rows * columns * frames * samples > most:
        more = f" x {frames} frames" * (frames > 1) + f" x {samples} samples" * (samples > 1)
        raise ImageError(
            "too_large",
            f"{rows} x {columns} pixels{more}; expected at most {most} (cohort.max_pixels).",
        )
    return _frame(frames, reading.frame)


def _frame(frames: int, wanted: int | None) -> int:
    if wanted is None and frames > 1:
        raise ImageError(
            "multi_frame",
            f"(0028,0008) Number of Frames is {frames}; expected a single frame. Name one in the "
            "manifest's column 'frame' or in cohort.frame.",
        )
    if wanted is not None and not 1 <= wanted <= frames:
        raise ImageError(
            "multi_frame", f"frame {wanted} is asked for; (0028,0008) Number of Frames is {frames}."
        )
    return (wanted or 1) - 1


def _header_of_frame(dataset: pydicom.Dataset, frame: int) -> pydicom.Dataset:
    """Overlay the header with the functional groups of one frame of an enhanced object."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or ()
    each = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    groups = [*shared[:1], *each[frame : frame + 1]]
    if not groups:
        return dataset
    laid = pydicom.Dataset()
    laid.update(dataset)
    laid.file_meta = dataset.file_meta
    for group in groups:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for element in (group.get(name) or [pydicom.Dataset()])[0]:
                laid.add(element)
    return laid


def _gray(
    stored: NDArray[Any], photometric: str, dataset: pydicom.Dataset
) -> tuple[NDArray[np.float32], str]:
    """Turn colour into gray: the channel itself where all agree, else their luminance."""
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        bits = 8 * stored.dtype.itemsize
    else:
        bits = int(dataset.BitsStored)
    red, green, blue = (stored[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(green, blue):
        gray, how = red.astype(np.float64), "gray of equal channels"
    else:
        gray = stored[..., :3].astype(np.float64) @ np.array(_LUMA)
        how = "gray by luminance"
    return np.clip(gray / float(2**bits - 1), 0.0, 1.0).astype(np.float32), how
