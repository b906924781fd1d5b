"""Films one by one: whatever the file format, pixels from 0 to 1 or a named reason."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.dicom import read_dicom
from ravl_med.cohort.manifest import Cohort, RejectedFilm
from ravl_med.cohort.nifti import read_nifti
from ravl_med.cohort.raster import read_raster
from ravl_med.errors import ImageError

__all__ = ["Film", "FilmReader", "pseudonym"]

_MAX_ASPECT = 8
_PNG, _JPEG, _DICM = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"DICM"
_GZIP, _NIFTI_1, _NIFTI_2 = b"\x1f\x8b", b"n+1\0", b"n+2\0"


@dataclass(frozen=True, slots=True, eq=False)
class Film:
    """One film of a cohort.

    Attributes
    ----------
    index : int - position in the cohort
    pixels : ndarray of shape (H, W), float32 - 0 to 1, bright is dense, stored matrix
    digest : str - SHA-256 of the pixels and their shape
    applied : str - how stored values became pixels
    """

    index: int
    pixels: NDArray[np.float32]
    digest: str
    applied: str

    def gray(self) -> NDArray[np.uint8]:
        """Return the film as (H, W) uint8, rounded."""
        gray: NDArray[np.uint8] = np.rint(self.pixels * 255.0).astype(np.uint8)
        return gray


@dataclass(frozen=True, slots=True)
class FilmReader:
    """Reads the films of a cohort; a film that cannot be read becomes a `RejectedFilm`."""

    voi_view: int = 0
    max_pixels: int = 100_000_000

    def read(self, path: Path) -> tuple[NDArray[np.float32], str]:
        """Read one file; the format is told from its content.

        Raises
        ------
        ImageError
            With a reason code and a line that does not name the file.
        """
        try:
            with path.open("rb") as stream:
                head = stream.read(352)
        except (FileNotFoundError, NotADirectoryError):
            raise ImageError(
                "missing", "the image file does not exist. Paths are relative to the manifest."
            ) from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise ImageError(
                "unreadable", f"the image file cannot be opened ({type(error).__name__})."
            ) from None
        if not head:
            raise ImageError("empty", "the image file is empty.")
        if head.startswith((_PNG, _JPEG)):
            return read_raster(path, max_pixels=self.max_pixels)
        if head[128:132] == _DICM:
            return read_dicom(path, voi_view=self.voi_view, max_pixels=self.max_pixels)
        if head.startswith(_GZIP) or head[344:348] == _NIFTI_1 or head[4:8] == _NIFTI_2:
            return read_nifti(path, max_pixels=self.max_pixels)
        # A damaged start; the name says what to call it.
        if path.name.lower().endswith((".nii", ".nii.gz")):
            return read_nifti(path, max_pixels=self.max_pixels)
        if path.suffix.lower() in (".dcm", ".dicom", ""):
            return read_dicom(path, voi_view=self.voi_view, max_pixels=self.max_pixels)
        raise ImageError(
            "unknown_format", "neither DICOM, PNG, JPEG nor NIfTI. Convert or exclude it."
        )

    def film(self, cohort: Cohort, index: int) -> Film:
        """Read the film at a position of the cohort.

        Raises
        ------
        ImageError
            It cannot be read, is constant, or is smaller than 16 pixels.
        """
        pixels, applied = self.read(cohort.paths[index])
        if min(pixels.shape) < 16:
            height, width = pixels.shape
            raise ImageError("too_small", f"{height} x {width} pixels; expected at least 16 x 16.")
        if max(pixels.shape) > _MAX_ASPECT * min(pixels.shape):
            height, width = pixels.shape
            raise ImageError(
                "bad_geometry",
                f"{height} x {width} pixels; expected sides within a factor of {_MAX_ASPECT}.",
            )
        if float(np.ptp(pixels)) == 0.0:
            raise ImageError("constant", "all pixels are equal; an empty exposure.")
        hasher = hashlib.sha256(repr(pixels.shape).encode())
        hasher.update(np.ascontiguousarray(pixels).tobytes())
        return Film(index, pixels, hasher.hexdigest(), applied)

    def films(self, cohort: Cohort) -> Iterator[Film | RejectedFilm]:
        """Read all films in order, one at a time; each digest is let through once."""
        seen: set[str] = set()
        for index in range(len(cohort)):
            row = int(cohort.rows[index])
            try:
                film = self.film(cohort, index)
                if film.digest in seen:
                    raise ImageError(
                        "duplicate_pixels", "the same pixels stand in an earlier row. Remove one."
                    )
                seen.add(film.digest)
            except ImageError as error:
                yield RejectedFilm(row, error.reason, f"{cohort.name} row {row}: {error}")
            else:
                yield film


def pseudonym(digest: str, key: bytes) -> str:
    """Return the 16 hex digits that stand for a film in every output.

    Parameters
    ----------
    digest : str - SHA-256 of the pixels
    key : bytes - the user's secret key; without it the pseudonym cannot be recomputed
    """
    return hmac.new(key, digest.encode(), hashlib.sha256).hexdigest()[:16]
