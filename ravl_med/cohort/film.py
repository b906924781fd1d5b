"""The films of a cohort one by one: pixels from 0 to 1, or a rejected row with its reason."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.annotation_file import AnnotatedBox, read_annotation_file
from ravl_med.cohort.dicom_header import Edge, edge_of, valid_pixel_mm
from ravl_med.cohort.image_file import ImageContent, read_film_file, read_image_file
from ravl_med.cohort.manifest import Cohort
from ravl_med.cohort.near_duplicates import SKETCH_BYTES
from ravl_med.cohort.reading_pool import ReadingPool
from ravl_med.cohort.table import RejectedFilm, require_path_inside
from ravl_med.config.cohort import DEFAULT_READING, CohortConfig, ReadingConfig
from ravl_med.engine.supervisor import hushed
from ravl_med.errors import ImageError
from ravl_med.storage.remote import FilePath


@dataclass(frozen=True, slots=True, eq=False)
class Film:
    """One film of a cohort."""

    index: int  # position in the cohort
    pixels: NDArray[np.float32]  # (H, W), 0 to 1, bright is dense, stored matrix
    digest: str  # SHA-256 of the pixels and their shape
    applied: str  # how stored values became pixels
    attributes: Mapping[str, str] = field(default_factory=dict)  # as a DICOM header states them
    reading: ReadingConfig = DEFAULT_READING  # how it was read, its frame included
    left_edge: Edge = ""  # side of the patient there; blank where the file does not state it
    file_bytes: int = 0  # of the file as it is stored
    pixel_mm: float = 0.0  # width of a pixel; 0 where the file does not state it
    sketch: bytes = bytes(SKETCH_BYTES)  # by which it is found among others; zeros: too small

    def gray(self) -> NDArray[np.uint8]:
        """Return the film as (H, W) uint8, rounded."""
        gray: NDArray[np.uint8] = np.rint(self.pixels * 255.0).astype(np.uint8)
        return gray


@dataclass(frozen=True, slots=True)
class FilmReader:
    """Reads the films of a cohort; a film that cannot be read becomes a `RejectedFilm`."""

    reading: ReadingConfig = DEFAULT_READING
    workers: int = 0  # processes of `films`, so that a bad file costs its own row; 0: this process
    roots: tuple[FilePath, ...] = ()  # folders that films may lie in; empty: anywhere
    pool: ReadingPool | None = None  # processes that stay open; None: `films` opens its own

    @classmethod
    def of(cls, config: CohortConfig) -> FilmReader:
        """Return the reader of a config; phantoms are read in this process."""
        own = config.manifest is None
        return cls(
            config,
            0 if own else config.workers,
            () if config.manifest is None else (config.manifest.parent, *config.roots),
        )

    def read(self, path: FilePath) -> tuple[NDArray[np.float32], str]:
        """Read one file: pixels, and how stored values became pixels.

        Raises
        ------
        ImageError
            With a reason code and a line that does not name the file.
        """
        content = read_image_file(path, self.reading)
        return content.pixels, content.applied

    def film(self, cohort: Cohort, index: int) -> Film:
        """Read one film of the cohort in this process.

        Raises
        ------
        ImageError
            It cannot be read, is constant, is smaller than 16 pixels, or lies outside the roots.
        ConfigError, StorageError
            It lies in a storage that denies access, or does not answer.
        """
        reading = self._reading(cohort, index)
        require_path_inside(cohort.paths[index], self.roots)
        return _film(index, read_film_file(cohort.paths[index], reading), reading)

    def annotation(
        self, path: FilePath, film: FilePath, shape: tuple[int, int], names: Mapping[int, str],
        frame: int | None,
    ) -> list[AnnotatedBox]:  # fmt: skip
        """Read the regions of one film as `read_annotation_file` does, where films are read."""
        if self.pool is not None:
            return self.pool.annotation(path, film, shape, names, frame)
        with hushed():
            return read_annotation_file(path, film, shape, names, self.reading.for_frame(frame))

    def films(self, cohort: Cohort) -> Iterator[Film | RejectedFilm]:
        """Read all films in order; a film whose pixels occurred before is rejected.

        Raises
        ------
        ConfigError, StorageError
            The storage denies access or does not answer, for which no film is set aside.
        """
        seen: set[str] = set()
        for index, outcome in enumerate(self._outcomes(cohort)):
            if isinstance(outcome, Film) and outcome.digest in seen:
                yield reject_duplicate(cohort, index)
            elif isinstance(outcome, Film):
                seen.add(outcome.digest)
                yield outcome
            else:
                row = int(cohort.rows[index])
                message = f"{cohort.name} row {row}: {outcome}"
                yield RejectedFilm(row, outcome.reason, message, cohort.paths[index])

    @contextmanager
    def kept_open(self) -> Iterator[FilmReader]:
        """Yield a reader whose processes stay open from one call of `films` to the next."""
        if self.workers == 0:
            yield self
            return
        with ReadingPool(self.reading, self.workers, self.roots) as pool:
            yield replace(self, pool=pool)

    def _outcomes(self, cohort: Cohort) -> Iterator[Film | ImageError]:
        if self.workers == 0:
            for index in range(len(cohort)):
                try:
                    yield self.film(cohort, index)
                except ImageError as error:
                    yield error
            return
        wanted = ((path, self._reading(cohort, i).frame) for i, path in enumerate(cohort.paths))
        with nullcontext(self) if self.pool is not None else self.kept_open() as reader:
            assert reader.pool is not None
            for index, read in enumerate(reader.pool.read(wanted)):
                if isinstance(read, ImageError):
                    yield read
                else:
                    yield _film(index, read, self._reading(cohort, index))

    def _reading(self, cohort: Cohort, index: int) -> ReadingConfig:
        return self.reading.for_frame(cohort.frames[index] if cohort.frames else None)


def reject_duplicate(cohort: Cohort, index: int) -> RejectedFilm:
    """Reject a film of a cohort whose pixels an earlier film has."""
    row = int(cohort.rows[index])
    message = f"{cohort.name} row {row}: the same pixels stand in an earlier row. Remove one."
    return RejectedFilm(row, "duplicate_pixels", message, cohort.paths[index])


def pseudonym(digest: str, key: bytes) -> str:
    """Return the 16 hex digits that stand for a film: a keyed hash of the digest of its pixels."""
    return hmac.new(key, digest.encode(), hashlib.sha256).hexdigest()[:16]


def _film(index: int, content: ImageContent, reading: ReadingConfig) -> Film:
    return Film(
        index,
        content.pixels,
        content.digest,
        content.applied,
        content.attributes,
        reading,
        edge_of(content.left_edge),  # a worker that a hostile file has taken over may send any text
        _stored_bytes(content.file_bytes, reading.max_file_mb),
        valid_pixel_mm(content.pixel_mm) if isinstance(content.pixel_mm, float) else 0.0,
        _sketch(content.sketch),
    )


def _sketch(reported: object) -> bytes:
    """Return the sketch that a worker reports; zeros, which nothing is like, where it is none."""
    try:
        sketch = bytes.fromhex(reported) if isinstance(reported, str) else b""
    except ValueError:
        sketch = b""
    return sketch if len(sketch) == SKETCH_BYTES else bytes(SKETCH_BYTES)


def _stored_bytes(reported: object, most_mb: int) -> int:
    """Return the size that a worker reports for a file; 0 where it is impossible."""
    if isinstance(reported, int) and 0 <= reported <= most_mb * 1_000_000:
        return reported
    return 0
