"""From stored values to a film: modality LUT, VOI and inversion, in this order.

A film has millions of pixels and a few thousand levels, so each step is computed once a level.

References
----------
DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.3.1.2 (photometric interpretation),
C.7.5.1.1.2 (pixel padding), C.11.6 (presentation LUT); PS3.4 N.2 (the grayscale transformation
sequence).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRBigEndian

from ravl_med.config.cohort import DEFAULT_READING, ReadingConfig
from ravl_med.errors import ImageError

_MOST_LEVELS = 1 << 16
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def window_pixels(
    stored: NDArray[Any], dataset: pydicom.Dataset, reading: ReadingConfig = DEFAULT_READING
) -> tuple[NDArray[np.float32], str]:
    """Map stored values (H, W) through modality LUT, VOI and photometric inversion to 0 .. 1.

    Raises
    ------
    ImageError
        ``undecodable``: a slope, a centre or a width is not a finite number.

    Notes
    -----
    pydicom 3.0 is not used here: it turns the output of a window upside down under a negative
    slope, wraps an 8-bit table of more than 256 entries, and fails on stored values narrower than
    the table.

    A film is inverted once where it is MONOCHROME1, its Presentation LUT Shape is INVERSE, or both,
    which is how a DX film says the same twice. Padding is kept out of the range and is black.
    """
    steps: list[str] = []
    levels, position = _levels(stored)
    padding = _padding(levels, dataset)
    seen = np.ones(len(levels), dtype=np.bool_)
    if dataset.get("ModalityLUTSequence") or padding.any():
        seen = _occurring(len(levels), position) & ~padding
    values = _modality(levels, dataset, steps)
    scaled = _voi(values, seen, dataset, reading, steps)
    if not np.isfinite(scaled).all():
        raise ImageError("undecodable", "Rescale or Window values are not finite numbers.")
    shades = np.clip(scaled, 0.0, 1.0).astype(np.float32)
    shape = str(dataset.get("PresentationLUTShape") or "").upper()
    if dataset.PhotometricInterpretation == "MONOCHROME1" or shape == "INVERSE":
        shades = np.float32(1.0) - shades
        steps.append("inverted")
    if padding.any() and _occurring(len(levels), position)[padding].any():
        shades[padding] = 0.0
        steps.append("padding black")
    return shades[position], ", ".join(steps)


def _levels(stored: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Levels (L,) of a film, ascending, and the position of each pixel among them (H, W)."""
    low, high = int(stored.min()), int(stored.max())
    if high - low >= _MOST_LEVELS:
        levels, position = np.unique(stored, return_inverse=True)
        return levels, position.reshape(stored.shape)
    unsigned = np.dtype(f"u{stored.dtype.itemsize}")
    position = stored.astype(stored.dtype.newbyteorder("="), copy=False).view(unsigned)
    # Unsigned numbers wrap, so that this is right for signed ones too.
    shifted = position - unsigned.type(low % (1 << (8 * unsigned.itemsize))) if low else position
    return np.arange(low, high + 1, dtype=np.int64), shifted


def _occurring(levels: int, position: NDArray[Any]) -> NDArray[np.bool_]:
    seen = np.zeros(levels, dtype=np.bool_)
    seen[position.ravel()] = True
    return seen


def _padding(levels: NDArray[Any], dataset: pydicom.Dataset) -> NDArray[np.bool_]:
    """Return which levels only fill the rectangle around the image."""
    first = dataset.get("PixelPaddingValue")
    if first is None or isinstance(first, (str, bytes)):
        return np.zeros(len(levels), dtype=np.bool_)
    last = dataset.get("PixelPaddingRangeLimit")
    ends = [int(first), int(first if last is None else last)]
    if int(dataset.get("PixelRepresentation", 0) or 0) == 1:  # the tag's VR may lack the sign
        ends = [end - 65536 if end > 32767 else end for end in ends]
    inside: NDArray[np.bool_] = (levels >= min(ends)) & (levels <= max(ends))
    return inside


def _modality(
    levels: NDArray[Any], dataset: pydicom.Dataset, steps: list[str]
) -> NDArray[np.float64]:
    """Turn stored values into the units of the modality."""
    if dataset.get("ModalityLUTSequence"):
        steps.append("modality LUT")
        return _look_up(levels, dataset.ModalityLUTSequence[0], dataset)[0]
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    values = levels.astype(np.float64)
    if slope is None or intercept is None:
        return values
    steps.append("rescale")
    return values * float(slope) + float(intercept)


def _voi(
    values: NDArray[np.float64],
    seen: NDArray[np.bool_],
    dataset: pydicom.Dataset,
    reading: ReadingConfig,
    steps: list[str],
) -> NDArray[np.float64]:
    """Map the values of interest to 0 .. 1, in the direction of rising input."""
    if reading.voi == "full range":
        steps.append("full range")
        return _full_range(values, seen)
    luts, windows = dataset.get("VOILUTSequence") or (), _windows(dataset)
    if luts and (reading.voi == "lut" or not windows):
        view = min(reading.voi_view, len(luts) - 1)
        steps.append(f"VOI LUT {view + 1} of {len(luts)}")
        levels, bits = _look_up(values, luts[view], dataset)
        return levels / float(2**bits - 1)
    if not windows:
        steps.append("full range (no window)")
        return _full_range(values, seen)
    view = min(reading.voi_view, len(windows) - 1)
    center, width = windows[view]
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function not in _FUNCTIONS:
        steps.append("full range (unknown VOI LUT function)")
        return _full_range(values, seen)
    if width <= 0 or (function == "LINEAR" and width < 1):
        steps.append("full range (window width too small)")
        return _full_range(values, seen)
    steps.append(f"window {view + 1} of {len(windows)}")
    return _window(values, function, center, width)


def _window(
    values: NDArray[np.float64], function: str, center: float, width: float
) -> NDArray[np.float64]:
    """Map values through a window (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if function == "SIGMOID":
        from scipy.special import expit  # so rare that no reading process should wait for it

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
    """Map values through a lookup table, clipped to its ends; return its depth in bits too."""
    entries, first, bits = (int(v) for v in item.LUTDescriptor)
    entries = entries or 2**16
    if not 1 <= bits <= 16:
        raise ImageError(
            "undecodable", f"(0028,3002) LUT Descriptor says {bits} bits; expected 8 to 16."
        )
    data = item.LUTData
    if isinstance(data, bytes):
        syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else ""
        wide = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
        data = np.frombuffer(data, "u1" if len(data) < 2 * entries else wide)
    table = np.atleast_1d(np.asarray(data, dtype=np.float64))[:entries]
    if len(table) < entries:
        raise ImageError(
            "undecodable",
            f"(0028,3006) LUT Data has {len(table)} entries; expected {entries} as (0028,3002) LUT "
            "Descriptor says.",
        )
    position = np.clip(np.rint(values) - first, 0, len(table) - 1).astype(np.int64)
    return table[position], bits


def _full_range(values: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    counted = values[seen] if seen.any() else values
    low, high = float(counted.min()), float(counted.max())
    return (values - low) / ((high - low) or 1.0)


def _windows(dataset: pydicom.Dataset) -> list[tuple[float, float]]:
    """Return centre and width of each window."""
    try:
        stated = dataset.get("WindowCenter"), dataset.get("WindowWidth")
        if any(one in (None, "") for one in stated):
            return []
        centers, widths = (np.atleast_1d(np.asarray(one, dtype=np.float64)) for one in stated)
    except ValueError:
        raise ImageError(
            "undecodable",
            "(0028,1050) Window Center or (0028,1051) Window Width is no number; expected one such "
            "as 40.5, with a point. Correct it, or set cohort.voi to full range.",
        ) from None
    return list(zip(centers.tolist(), widths.tolist(), strict=False))
