"""DICOM films: decode, modality LUT, VOI LUT or window, MONOCHROME1, in this order.

References
----------
DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.3.1.2 (photometric interpretation);
PS3.4 N.2 (the grayscale transformation sequence).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import ExplicitVRBigEndian
from scipy.special import expit

from ravl_med.errors import ImageError

__all__ = ["read_dicom", "window_pixels"]


def read_dicom(
    path: Path, *, voi_view: int = 0, max_pixels: int = 100_000_000
) -> tuple[NDArray[np.float32], str]:
    """Read one grayscale, single-frame DICOM film.

    Parameters
    ----------
    path : Path
    voi_view : int
        Index of the VOI LUT or window when the film carries several.
    max_pixels : int
        Rows x columns x frames x samples above which the film is refused before decoding.

    Returns
    -------
    pixels : ndarray of shape (H, W), float32
        0 to 1, bright is dense (the MONOCHROME2 sense), stored matrix.
    applied : str
        The steps taken, for example ``rescale, window 1 of 2, inverted``.

    Raises
    ------
    ImageError
        With a reason code: ``not_dicom``, ``no_pixel_data``, ``bad_geometry``, ``too_large``,
        ``multi_frame``, ``not_grayscale``, ``no_decoder``, ``undecodable``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values in tags that are not read
            dataset = pydicom.dcmread(path)
            _check(dataset, max_pixels)
            stored = _decode(dataset)
            return window_pixels(stored, dataset, voi_view)
    except ImageError:
        raise
    except InvalidDicomError:
        raise ImageError("not_dicom", "the file is not DICOM; export it again.") from None
    except Exception as error:  # a hostile header can fail anywhere inside the parser
        raise ImageError(
            "undecodable", f"the DICOM file cannot be parsed ({type(error).__name__})."
        ) from None


def window_pixels(
    stored: NDArray[Any], dataset: pydicom.Dataset, voi_view: int = 0
) -> tuple[NDArray[np.float32], str]:
    """Carry stored values through modality LUT, VOI and photometric inversion to 0 .. 1.

    Parameters
    ----------
    stored : ndarray of shape (H, W) - decoded stored values
    dataset : pydicom.Dataset - the header
    voi_view : int - which VOI LUT or window

    Returns
    -------
    pixels : ndarray of shape (H, W), float32
    applied : str

    Raises
    ------
    ImageError
        ``undecodable``: a slope, a centre or a width is not a finite number.

    Notes
    -----
    Written out instead of taken from pydicom 3.0, where a negative slope turns a window's output
    upside down, an 8-bit table longer than 256 entries wraps, and a table fails on stored values
    narrower than itself.
    """
    steps: list[str] = []
    values = _modality(stored, dataset, steps)
    scaled = _voi(values, dataset, voi_view, steps)
    if not np.isfinite(scaled).all():
        raise ImageError("undecodable", "Rescale or Window values are not finite numbers.")
    pixels = np.clip(scaled, 0.0, 1.0).astype(np.float32)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = np.float32(1.0) - pixels
        steps.append("inverted")
    return pixels, ", ".join(steps)


def _modality(
    stored: NDArray[Any], dataset: pydicom.Dataset, steps: list[str]
) -> NDArray[np.float64]:
    """Turn stored values into the units of the modality."""
    if dataset.get("ModalityLUTSequence"):
        steps.append("modality LUT")
        return _look_up(stored, dataset.ModalityLUTSequence[0], dataset)[0]
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    values = stored.astype(np.float64)
    if slope is None or intercept is None:
        return values
    steps.append("rescale")
    return values * float(slope) + float(intercept)


def _voi(
    values: NDArray[np.float64], dataset: pydicom.Dataset, voi_view: int, steps: list[str]
) -> NDArray[np.float64]:
    """Values of interest to 0 .. 1, in the direction of rising input; a VOI LUT goes first."""
    luts = dataset.get("VOILUTSequence") or ()
    if luts:
        view = min(voi_view, len(luts) - 1)
        steps.append(f"VOI LUT {view + 1} of {len(luts)}")
        levels, bits = _look_up(values, luts[view], dataset)
        return levels / float(2**bits - 1)
    windows = _windows(dataset)
    if not windows:
        steps.append("full range (no window)")
        return _full_range(values)
    view = min(voi_view, len(windows) - 1)
    center, width = windows[view]
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        steps.append("full range (unknown VOI LUT function)")
        return _full_range(values)
    if width <= 0 or (function == "LINEAR" and width < 1):
        steps.append("full range (window width too small)")
        return _full_range(values)
    steps.append(f"window {view + 1} of {len(windows)}")
    if function == "SIGMOID":
        shades: NDArray[np.float64] = expit(4.0 * (values - center) / width)
        return shades
    if function == "LINEAR":
        center, width = center - 0.5, width - 1.0
    if width == 0:
        return (values > center).astype(np.float64)
    return (values - center) / width + 0.5


def _look_up(
    values: NDArray[Any], item: pydicom.Dataset, dataset: pydicom.Dataset
) -> tuple[NDArray[np.float64], int]:
    """Values through a lookup table, and its depth in bits; the ends serve all beyond them."""
    entries, first, bits = (int(v) for v in item.LUTDescriptor)
    entries = entries or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else ""
        wide = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
        data = np.frombuffer(data, "u1" if len(data) < 2 * entries else wide)
    table = np.atleast_1d(np.asarray(data, dtype=np.float64))[:entries]
    position = np.clip(np.rint(values) - first, 0, len(table) - 1).astype(np.int64)
    return table[position], bits


def _full_range(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    return (values - low) / ((high - low) or 1.0)


def _windows(dataset: pydicom.Dataset) -> list[tuple[float, float]]:
    """Centre and width of each window."""
    centers, widths = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centers in (None, "") or widths in (None, ""):
        return []
    return list(
        zip(
            np.atleast_1d(np.asarray(centers, dtype=np.float64)).tolist(),
            np.atleast_1d(np.asarray(widths, dtype=np.float64)).tolist(),
            strict=False,
        )
    )


def _check(dataset: pydicom.Dataset, max_pixels: int) -> None:
    if "PixelData" not in dataset:
        raise ImageError("no_pixel_data", "(7FE0,0010) Pixel Data is missing; not an image.")
    rows, columns = int(dataset.get("Rows", 0) or 0), int(dataset.get("Columns", 0) or 0)
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    samples = int(dataset.get("SamplesPerPixel", 1) or 1)
    if rows < 1 or columns < 1:
        raise ImageError(
            "bad_geometry", f"(0028,0010) Rows x Columns is {rows} x {columns}; expected positive."
        )
    if frames != 1:
        raise ImageError(
            "multi_frame", f"(0028,0008) Number of Frames is {frames}; expected a single frame."
        )
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(
            "not_grayscale",
            f"(0028,0004) Photometric Interpretation is {photometric[:16]!r}; expected "
            "MONOCHROME1 or MONOCHROME2. Exclude the row or convert the file.",
        )
    if rows * columns > max_pixels:
        raise ImageError(
            "too_large",
            f"{rows} x {columns} pixels; expected at most {max_pixels} (cohort.max_pixels).",
        )


def _decode(dataset: pydicom.Dataset) -> NDArray[Any]:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    try:
        return np.asarray(dataset.pixel_array)
    except Exception as error:
        if not syntax or _decodable(syntax):
            raise ImageError(
                "undecodable", f"Pixel Data cannot be decoded ({type(error).__name__}); truncated?"
            ) from None
        name = getattr(syntax, "name", "unknown")
        raise ImageError(
            "no_decoder",
            f"transfer syntax {syntax} ({name}) cannot be decoded with the installed packages. "
            "See the decoder table of pydicom for the package to install.",
        ) from None


def _decodable(syntax: Any) -> bool:
    """Whether an installed package decodes the transfer syntax."""
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False
