"""NIfTI images: a film kept as NIfTI, or a CT or MR volume as a projection or one slice.

Orientation, window and resampling equal MONAI's ``Orientation``, ``ScaleIntensityRange`` and
``Resize``, as the tests check. They use nibabel, as MONAI does, and OpenCV, since importing torch
would cost every reading process seconds and hundreds of megabytes.
"""

from __future__ import annotations

import gzip
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.dicom_header import Edge
from ravl_med.config.cohort import DEFAULT_READING, ReadingConfig
from ravl_med.errors import ImageError

_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
_ALONG = ("from left to right", "from front to back", "from head to foot")
_LEFT_EDGE: tuple[Edge, ...] = ("P", "R", "R")  # of the film seen along each axis, see `_as_shown`


def read_nifti_film(
    path: Path, reading: ReadingConfig = DEFAULT_READING
) -> tuple[NDArray[np.float32], str, Edge]:
    """Read a NIfTI file as one film (H, W) of 0 to 1; return steps and the side at its left edge.

    The affine turns the data to RAS. A single slice is shown as it is; a volume gives the slice
    that the config names, or the mean along an axis, which from front to back is what a radiograph
    of parallel rays shows. The patient's left is at the right of the picture, the head (or the
    front of an axial slice) at its top. Without a window, intensities run from the 0.5th to the
    99.5th percentile. A frame is the slice from left, back or foot, counted from 1.

    The side is blank where neither qform nor sform is set: the axes are a convention of the format
    then, and not stated by the file.

    Raises
    ------
    ImageError
        ``too_large``, ``bad_geometry``, ``multi_frame``, ``undecodable``.
    """
    view = _view(path, reading)
    window = reading.volume.window
    volume, steps = view.volume, []
    if window is not None:
        volume = _scale(volume, window[0] - window[1] / 2.0, window[0] + window[1] / 2.0)
        steps.append("window")
    if volume.shape[view.axis] == 1:
        steps.append("single slice")
    elif view.index is not None:
        steps.append(f"{reading.volume.plane} slice")
    else:
        steps.append(f"projection {_ALONG[view.axis]}")
    if view.index is None:
        film: NDArray[np.float32] = volume.mean(axis=view.axis)
    else:
        film = np.asarray(np.take(volume, view.index, axis=view.axis))
    shown = _as_shown(film, view.axis)
    if window is None:
        shown = _stretch(shown)
    if reading.volume.spacing == "isotropic":
        shown, steps = _resize(shown, view, mask=False), [*steps, "isotropic pixels"]
    edge = _LEFT_EDGE[view.axis] if view.placed else ""
    return np.ascontiguousarray(shown, dtype=np.float32), ", ".join(steps), edge


def read_nifti_mask(path: Path, reading: ReadingConfig = DEFAULT_READING) -> NDArray[np.float32]:
    """Read a NIfTI mask (H, W), values as stored, in the rows and columns of `read_nifti_film`.

    A projection takes the largest value along the axis. Errors are the same.
    """
    view = _view(path, reading)
    if view.index is None:
        flat = view.volume.max(axis=view.axis)
    else:
        flat = np.asarray(np.take(view.volume, view.index, axis=view.axis))
    shown = _as_shown(flat, view.axis)
    if reading.volume.spacing == "isotropic":
        shown = _resize(shown, view, mask=True)
    return np.ascontiguousarray(shown)


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """A volume in RAS, the axis it is seen along, slice and size, whether its axes are stated."""

    volume: NDArray[np.float32]
    axis: int
    index: int | None
    isotropic: tuple[int, int]
    placed: bool


def _view(path: Path, reading: ReadingConfig) -> _View:
    try:
        stored, affine, placed = _load(path, reading)
        volume, spacing = _to_ras(stored, affine)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # nibabel raises many types on hostile headers
        raise ImageError(
            "undecodable", f"the NIfTI file cannot be read ({type(error).__name__})."
        ) from None
    if not np.isfinite(volume).all():
        raise ImageError("undecodable", "the NIfTI data hold NaN or infinity.")
    flat = 1 in volume.shape
    axis = int(np.argmin(volume.shape)) if flat else _AXES[reading.volume.plane]
    across, down = (side for side in range(3) if side != axis)
    size = (1, 1)
    if reading.volume.spacing == "isotropic":
        size = _isotropic_size(
            (volume.shape[down], volume.shape[across]),
            (spacing[down], spacing[across]),
            reading.max_pixels,
        )
    return _View(volume, axis, _slice_index(volume.shape[axis], reading), size, placed)


def _slice_index(slices: int, reading: ReadingConfig) -> int | None:
    wanted = reading.frame
    if wanted is not None and not 1 <= wanted <= slices:
        raise ImageError("multi_frame", f"slice {wanted} is asked for; the volume has {slices}.")
    if wanted is not None:
        return wanted - 1
    if reading.volume.show == "slice":
        return round(reading.volume.slice * (slices - 1))
    return None


def _as_shown(flat: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Lay rows from head to foot, or front to back, and columns from right to left."""
    film = flat.T[::-1]
    return film[:, ::-1] if axis != 0 else film


def _load(
    path: Path, reading: ReadingConfig
) -> tuple[NDArray[np.float32], NDArray[np.float64], bool]:
    """Return voxels and affine of a NIfTI-1 or -2 file, and whether it states the affine."""
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    most = reading.max_inflated_mb * 1_000_000
    with gzip.open(path) if zipped else path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ImageError(
            "too_large",
            f"the file unpacks to more than {reading.max_inflated_mb} MB (cohort.max_inflated_mb).",
        )
    kind = nib.Nifti2Image if content[4:8] == b"n+2\0" else nib.Nifti1Image
    image: Any = kind.from_stream(io.BytesIO(content))
    shape = tuple(int(n) for n in image.shape)
    _check(shape, reading.max_pixels)
    volume = np.asarray(image.dataobj, dtype=np.float32).reshape((*shape, 1, 1)[:3])
    placed = int(image.header["qform_code"]) > 0 or int(image.header["sform_code"]) > 0
    return volume, np.asarray(image.affine), placed


def _check(shape: tuple[int, ...], max_pixels: int) -> None:
    if math.prod(shape) > max_pixels:
        raise ImageError(
            "too_large", f"{shape} voxels; expected at most {max_pixels} (cohort.max_pixels)."
        )
    if len(shape) < 2 or any(n != 1 for n in shape[3:]) or min(shape, default=0) < 1:
        raise ImageError("bad_geometry", f"shape is {shape}; expected 2 or 3 dimensions.")


def _to_ras(
    volume: NDArray[np.float32], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    """Return voxels in RAS, and their spacing along the three axes in millimetres."""
    turning: Any = nib.orientations
    orientation = turning.io_orientation(affine)
    turned: NDArray[np.float32] = turning.apply_orientation(volume, orientation)
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    spacing = {int(world): float(side) for (world, _), side in zip(orientation, sides, strict=True)}
    return turned, (spacing[0], spacing[1], spacing[2])


def _isotropic_size(
    shape: tuple[int, int], spacing: tuple[float, float], max_pixels: int
) -> tuple[int, int]:
    """Return rows and columns of a film whose pixels have the finer spacing on both sides."""
    finer = min(spacing)
    if not (finer > 0 and math.isfinite(max(spacing))):
        raise ImageError("bad_geometry", f"the spacing is {spacing}; expected positive numbers.")
    rows, columns = (
        max(1, round(n * side / finer)) for n, side in zip(shape, spacing, strict=True)
    )
    if rows * columns > max_pixels:
        raise ImageError(
            "too_large",
            f"{rows} x {columns} isotropic pixels; expected at most {max_pixels} "
            "(cohort.max_pixels).",
        )
    return rows, columns


def _resize(film: NDArray[np.float32], view: _View, *, mask: bool) -> NDArray[np.float32]:
    import cv2

    rows, columns = view.isotropic
    between = cv2.INTER_NEAREST if mask else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(film, (columns, rows), interpolation=between), dtype=np.float32)


def _scale(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = np.clip((values - low) / ((high - low) or 1.0), 0.0, 1.0)
    return scaled


def _stretch(film: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.percentile(film, (0.5, 99.5))
    if low == high:  # nearly all is one value: a marker on an empty film
        low, high = film.min(), film.max()
    return _scale(film, low, high)
