"""One image file of any format: pixels from 0 to 1, or a named reason."""

from __future__ import annotations

import hashlib
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ravl_med.cohort.dicom import film_pixels, naming_reasons, open_dicom
from ravl_med.cohort.dicom_header import Edge, left_edge_of, pixel_mm_of, read_acquisition
from ravl_med.cohort.near_duplicates import sketch_film
from ravl_med.cohort.pixel_decoding import require_whole_jpeg
from ravl_med.config.cohort import DEFAULT_READING, ReadingConfig
from ravl_med.engine.supervisor import hushed
from ravl_med.errors import ImageError
from ravl_med.storage.files import local_copy
from ravl_med.storage.remote import FilePath, TooLargeError


def read_raster(
    path: Path, reading: ReadingConfig = DEFAULT_READING
) -> tuple[NDArray[np.float32], str]:
    """Read a PNG or JPEG film as pixels (H, W) of 0 to 1; colour becomes luma, alpha is dropped.

    Pixels are shares of the full range of the stored depth, 8 or 16 bits. The second result says
    how they were made.

    Raises
    ------
    ImageError
        ``too_large``, before decoding, ``truncated``, or ``undecodable``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # size is judged below, odd chunks are not read
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                pixels, how = _gray(image, reading.max_pixels)
                if image.format == "JPEG":
                    require_whole_jpeg(path.read_bytes(), np.asarray(image))
                return pixels, how
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("undecodable", "not a PNG or JPEG image.") from None
    except Image.DecompressionBombError:
        raise ImageError("too_large", "more pixels than Pillow opens; make it smaller.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(
            "undecodable", f"the image cannot be decoded ({type(error).__name__}); truncated?"
        ) from None


def _gray(image: Image.Image, max_pixels: int) -> tuple[NDArray[np.float32], str]:
    if image.width * image.height > max_pixels:
        raise ImageError(
            "too_large",
            f"{image.height} x {image.width} pixels; expected at most {max_pixels} "
            "(cohort.max_pixels).",
        )
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float32)
        return np.clip(values / 65535.0, 0.0, 1.0).astype(np.float32), "16-bit"
    mode = image.mode
    gray = np.asarray(image.convert("RGB").convert("L"), dtype=np.float32)
    return gray / np.float32(255.0), "8-bit" if mode == "L" else f"8-bit from {mode}"


_MAX_ASPECT = 8
_PNG, _JPEG, _DICM = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"DICM"
_GZIP, _NIFTI_1, _NIFTI_2 = b"\x1f\x8b", b"n+1\0", b"n+2\0"


@dataclass(frozen=True, slots=True, eq=False)
class ImageContent:
    """The content of one file."""

    pixels: NDArray[np.float32]  # (H, W), 0 to 1, bright is dense, stored matrix
    applied: str  # how stored values became pixels
    attributes: Mapping[str, str]  # as a DICOM header states them
    digest: str = ""  # SHA-256 of pixels and shape; blank before the film was checked
    sketch: str = ""  # of `near_duplicates`, in hexadecimal digits; blank as before, or too small
    left_edge: Edge = ""  # side of the patient there; blank where the file does not state it
    file_bytes: int = 0  # of the file as it is stored
    pixel_mm: float = 0.0  # width of a pixel; 0 where the file does not state it


@contextmanager
def local_film_copy(file: FilePath, most_mb: int) -> Iterator[Path]:
    """Yield a local path: the file, or a temporary copy of an object of at most `most_mb` MB.

    Raises
    ------
    ImageError
        ``missing``, ``too_large``; for objects.
    ConfigError, StorageError
        The storage denies access, or does not answer, which is no fault of the film.
    """
    with ExitStack() as stack:
        try:
            path = stack.enter_context(local_copy(file, most_mb * 1_000_000))
        except FileNotFoundError:
            raise _missing() from None
        except TooLargeError as error:
            raise _too_large(error.size, most_mb) from None
        yield path


def read_film_file(path: FilePath, reading: ReadingConfig) -> ImageContent:
    """Read one file as a film that can be audited.

    Raises
    ------
    ImageError
        It cannot be read, is constant, or is smaller than 16 pixels.
    """
    content = read_image_file(path, reading)
    height, width = content.pixels.shape
    if min(height, width) < 16:
        raise ImageError("too_small", f"{height} x {width} pixels; expected at least 16 x 16.")
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise ImageError(
            "bad_geometry",
            f"{height} x {width} pixels; expected sides within a factor of {_MAX_ASPECT}.",
        )
    if float(np.ptp(content.pixels)) == 0.0:
        raise ImageError("constant", "all pixels are equal; an empty exposure.")
    pixels = np.ascontiguousarray(content.pixels)
    hasher = hashlib.sha256(repr(pixels.shape).encode())
    hasher.update(pixels.data)
    sketch = sketch_film(pixels).hex()
    return replace(content, pixels=pixels, digest=hasher.hexdigest(), sketch=sketch)


def read_image_file(path: FilePath, reading: ReadingConfig) -> ImageContent:
    """Read one file, whose format is found from its content.

    Raises
    ------
    ImageError
        With a reason code and a line that does not name the file.
    ConfigError, StorageError
        See `local_film_copy`.
    """
    with local_film_copy(path, reading.max_file_mb) as file:
        kind = file_kind(file)
        size = checked_size(file, reading.max_file_mb)
        with hushed():
            return replace(_read(file, kind, reading), file_bytes=size)


def _read(path: Path, kind: str, reading: ReadingConfig) -> ImageContent:
    try:
        if kind == "raster":
            return ImageContent(*read_raster(path, reading), {})
        if kind == "nifti":
            from ravl_med.cohort.nifti import read_nifti_film

            pixels, applied, edge = read_nifti_film(path, reading)
            return ImageContent(pixels, applied, {}, left_edge=edge)
        if kind == "dicom":
            dataset = open_dicom(path, reading)
            pixels, applied = film_pixels(dataset, reading)
            with naming_reasons():
                stated = read_acquisition(dataset)
            return ImageContent(
                pixels,
                applied,
                stated,
                left_edge=left_edge_of(dataset),
                pixel_mm=pixel_mm_of(dataset),
            )
    except MemoryError:
        raise ImageError(
            "out_of_memory",
            f"the file needs more than {reading.max_memory_mb} MB of memory "
            "(cohort.max_memory_mb).",
        ) from None
    raise ImageError("unknown_format", "neither DICOM, PNG, JPEG nor NIfTI. Convert or exclude it.")


def declares_burned_in(path: FilePath) -> bool:
    """Return whether a DICOM header declares burned-in text: (0028,0301) is YES."""
    try:
        most = DEFAULT_READING.max_file_mb
        with local_film_copy(path, most) as file, naming_reasons(), hushed():
            if file_kind(file) != "dicom":
                return False
            header = pydicom.dcmread(
                file, stop_before_pixels=True, force=True, specific_tags=["BurnedInAnnotation"]
            )
            return str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES"
    except ImageError:
        return False


def file_kind(path: Path) -> str:
    """Return ``"dicom"``, ``"raster"``, ``"nifti"`` or blank, by content, else by file name.

    Raises
    ------
    ImageError
        ``missing``, ``unreadable``, ``empty``.
    """
    head = _head(path)
    if head.startswith((_PNG, _JPEG)):
        return "raster"
    if head[128:132] == _DICM:
        return "dicom"
    if head.startswith(_GZIP) or head[344:348] == _NIFTI_1 or head[4:8] == _NIFTI_2:
        return "nifti"
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return "nifti"
    return "dicom" if path.suffix.lower() in (".dcm", ".dicom", "") else ""


def _head(path: Path) -> bytes:
    """Read the bytes that say what a file is."""
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe or a device has no end
            raise ImageError("unreadable", "the path names no regular file.")
        with path.open("rb") as stream:
            head = stream.read(352)
    except (FileNotFoundError, NotADirectoryError):
        raise _missing() from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ImageError(
            "unreadable", f"the image file cannot be opened ({type(error).__name__})."
        ) from None
    if not head:
        raise ImageError("empty", "the image file is empty.")
    return head


def checked_size(path: Path, most_mb: int) -> int:
    """Return the bytes of a file, at most `most_mb` MB (else ImageError ``too_large``)."""
    size = path.stat().st_size
    if size > most_mb * 1_000_000:
        raise _too_large(size, most_mb)
    return size


def require_pixels(shape: tuple[int, int], frames: int, most: int) -> None:
    """Refuse more pixels than may be decoded (ImageError ``too_large``)."""
    if frames < 1 or shape[0] * shape[1] * frames > most:
        raise ImageError(
            "too_large",
            f"{frames} x {shape[0]} x {shape[1]} pixels; expected at most {most} "
            "(cohort.max_pixels).",
        )


def _missing() -> ImageError:
    return ImageError(
        "missing", "the image file does not exist. Paths are relative to the manifest."
    )


def _too_large(size: int, most_mb: int) -> ImageError:
    return ImageError(
        "too_large",
        f"the file has {size / 1e6:.0f} MB; expected at most {most_mb} (cohort.max_file_mb).",
    )
