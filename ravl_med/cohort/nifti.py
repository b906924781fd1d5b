"""NIfTI images: a film kept as NIfTI, or a CT volume turned into a frontal projection."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ravl_med.errors import ImageError

__all__ = ["read_nifti", "read_nifti_mask"]


def read_nifti(path: Path, *, max_pixels: int = 100_000_000) -> tuple[NDArray[np.float32], str]:
    """Read a NIfTI file as one film.

    The data are turned to RAS by the affine. A single slice is shown as it is; a volume is averaged
    from front to back, which is what a radiograph of parallel rays shows. The patient's left is at
    the right of the picture, the head (or the front of an axial slice) at its top. Intensities run
    from the 0.5th to the 99.5th percentile.

    Parameters
    ----------
    path : Path
    max_pixels : int
        Voxels above which the file is refused before its data are read.

    Returns
    -------
    pixels : ndarray of shape (H, W), float32
        0 to 1, rows and columns of the film that is shown, not of the stored array.
    applied : str

    Raises
    ------
    ImageError
        With a reason code: ``too_large``, ``bad_geometry``, ``undecodable``.
    """
    turned, axis = _turned(path, max_pixels)
    applied = "single slice" if turned.shape[axis] == 1 else "projection from front to back"
    return _scale(_as_shown(turned.mean(axis=axis), axis)), applied


def read_nifti_mask(path: Path, *, max_pixels: int = 100_000_000) -> NDArray[np.float32]:
    """Read a NIfTI mask of a film that `read_nifti` shows.

    It is turned as the film is; of a volume the largest value from front to back is taken.

    Parameters
    ----------
    path : Path
    max_pixels : int

    Returns
    -------
    ndarray of shape (H, W), float32 - the values as stored, rows and columns of the film shown

    Raises
    ------
    ImageError
        As `read_nifti`.
    """
    turned, axis = _turned(path, max_pixels)
    return np.ascontiguousarray(_as_shown(turned.max(axis=axis), axis))


def _turned(path: Path, max_pixels: int) -> tuple[NDArray[np.float32], int]:
    """Voxels in RAS, and the axis that the film is seen along."""
    try:
        turned = _to_ras(*_load(path, max_pixels))
    except ImageError:
        raise
    except Exception as error:  # nibabel raises many types on hostile headers
        raise ImageError(
            "undecodable", f"the NIfTI file cannot be read ({type(error).__name__})."
        ) from None
    if not np.isfinite(turned).all():
        raise ImageError("undecodable", "the NIfTI data hold NaN or infinity.")
    return turned, int(np.argmin(turned.shape)) if 1 in turned.shape else 1


def _as_shown(flat: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Rows from head to foot, or front to back; columns from the patient's right to the left."""
    film = flat.T[::-1]
    return film[:, ::-1] if axis != 0 else film


def _load(path: Path, max_pixels: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Voxels and affine of a NIfTI-1 or NIfTI-2 file, gzipped or not, whatever it is called."""
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    with gzip.open(path) if zipped else path.open("rb") as stream:
        second = stream.read(8)[4:] == b"n+2\0"
        stream.seek(0)
        image: Any = (nib.Nifti2Image if second else nib.Nifti1Image).from_stream(stream)
        shape = tuple(int(n) for n in image.shape)
        _check(shape, max_pixels)
        volume = np.asarray(image.dataobj, dtype=np.float32).reshape((*shape, 1, 1)[:3])
        return volume, np.asarray(image.affine)


def _check(shape: tuple[int, ...], max_pixels: int) -> None:
    if math.prod(shape) > max_pixels:
        raise ImageError(
            "too_large", f"{shape} voxels; expected at most {max_pixels} (cohort.max_pixels)."
        )
    if len(shape) < 2 or any(n != 1 for n in shape[3:]) or min(shape, default=0) < 1:
        raise ImageError("bad_geometry", f"shape is {shape}; expected 2 or 3 dimensions.")


def _to_ras(volume: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    import torch
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms.spatial.array import Orientation

    turned = Orientation("RAS", labels=None)(
        MetaTensor(torch.from_numpy(volume[None]), affine=torch.from_numpy(affine))
    )
    return np.asarray(turned[0])


def _scale(film: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.percentile(film, (0.5, 99.5))
    if low == high:  # nearly all is one value: a marker on an empty film
        low, high = film.min(), film.max()
    scaled = (film - low) / ((high - low) or 1.0)
    return np.ascontiguousarray(np.clip(scaled, 0.0, 1.0), dtype=np.float32)
