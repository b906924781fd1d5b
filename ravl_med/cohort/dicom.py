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
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

from ravl_med.errors import ImageError

__all__ = ["read_dicom", "window_pixels"]

_FAR = 1e9


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
    """
    steps: list[str] = []
    values = apply_modality_lut(stored, dataset)
    if "ModalityLUTSequence" in dataset:
        steps.append("modality LUT")
    elif "RescaleSlope" in dataset:
        steps.append("rescale")
    if dataset.get("VOILUTSequence"):
        view = min(voi_view, len(dataset.VOILUTSequence) - 1)
        windowed = apply_voi(np.rint(values).astype(np.int32), dataset, view)
        bits = int(dataset.VOILUTSequence[view].LUTDescriptor[2])
        low, high = 0.0, float(2**bits - 1)
        steps.append(f"VOI LUT {view + 1} of {len(dataset.VOILUTSequence)}")
    elif _windows(dataset):
        widths = _windows(dataset)
        view = min(voi_view, len(widths) - 1)
        if widths[view] <= 0:
            windowed, low, high = _full_range(values)
            steps.append("full range (window width not positive)")
        else:
            windowed = apply_windowing(values, dataset, view)
            # The output range of the window, in the direction of rising input.
            low, high = (float(v) for v in apply_windowing(np.array([-_FAR, _FAR]), dataset, view))
            steps.append(f"window {view + 1} of {len(widths)}")
    else:
        windowed, low, high = _full_range(values)
        steps.append("full range (no window)")
    span = high - low
    scaled = (np.asarray(windowed, dtype=np.float32) - np.float32(low)) / np.float32(span or 1.0)
    pixels = np.clip(scaled, 0.0, 1.0).astype(np.float32)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = np.float32(1.0) - pixels
        steps.append("inverted")
    return pixels, ", ".join(steps)


def _full_range(values: NDArray[Any]) -> tuple[NDArray[Any], float, float]:
    return values, float(values.min()), float(values.max())


def _windows(dataset: pydicom.Dataset) -> list[float]:
    """Widths of all windows; empty without a usable pair of centre and width."""
    if dataset.get("WindowCenter") in (None, "") or dataset.get("WindowWidth") in (None, ""):
        return []
    width = dataset.WindowWidth
    return (
        [float(w) for w in width]
        if isinstance(width, (list, tuple)) or hasattr(width, "__iter__")
        else [float(width)]
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
    except (RuntimeError, NotImplementedError):
        name = getattr(syntax, "name", "unknown")
        raise ImageError(
            "no_decoder",
            f"transfer syntax {syntax} ({name}) cannot be decoded with the installed packages. "
            "See the decoder table of pydicom for the package to install.",
        ) from None
    except Exception as error:
        raise ImageError(
            "undecodable", f"Pixel Data cannot be decoded ({type(error).__name__}); truncated?"
        ) from None
