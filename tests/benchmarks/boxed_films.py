"""Real films whose man-made objects are boxed, in the layout of a folder of annotated films.

The folder holds ``films/``, ``films.csv`` (file, patient, split, clean, certain, boxed, ...) and
``boxes.csv`` (file, kind, x0, y0, x1, y1 in pixels, half-open). Films of patients never leave the
machine; only weights and numbers are written.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ravl_med.errors import DataError
from ravl_med.regions.film_structures import Artifact, FilmStructures
from ravl_med.regions.segmenter import COMPACT, LETTERS, LINES

KIND_OF = {
    "generator": "generator", "lead": "lead", "tube": "tube", "line": "tube", "wire": "wire",
    "electrode": "electrode", "marker": "marker", "text": "text", "clip": "metal",
    "clothing": "metal", "other_metal": "metal", "jewellery": "metal", "sternal_wire": "metal",
}  # fmt: skip
"""The segmenter's kind of each word of ``boxes.csv``."""


@dataclass(frozen=True, slots=True)
class Box:
    """A box that was drawn by eye around an object."""

    word: str  # of `KIND_OF`
    xyxy: tuple[float, float, float, float]  # as shares of the film's width and height

    @property
    def kind(self) -> str:
        """Return the segmenter's kind."""
        return KIND_OF[self.word]

    @property
    def group(self) -> str:
        """Return what it is, whatever its kind: letters, compact or line."""
        return group_of(self.kind)


def group_of(kind: str) -> str:
    """Return what an artifact of a kind is: letters, compact, line or border."""
    if kind in LETTERS:
        return "letters"
    if kind in LINES:
        return "line"
    return "compact" if kind in COMPACT else kind


@dataclass(frozen=True, slots=True)
class BoxedFilm:
    """A real film and what is known of the objects on it."""

    image: Path
    patient: str
    split: str  # train, validation or test, by patient
    clean: bool  # nothing made by man but letters, after a second look
    boxed: bool  # every compact object has a box
    boxes: tuple[Box, ...]
    listed: frozenset[str] | None = None  # kinds that are somewhere on it; None: not certain

    def read(self) -> NDArray[np.float32]:
        """Read the film, (H, W) in [0, 1]."""
        pixels = cv2.imread(str(self.image), cv2.IMREAD_GRAYSCALE)
        if pixels is None:
            raise DataError(f"--films: {self.image.name} cannot be read.")
        return pixels.astype(np.float32) / np.float32(255.0)


def read_boxed_films(folder: Path, *splits: str) -> list[BoxedFilm]:
    """Read a folder of films with boxes, those of some splits.

    Raises
    ------
    DataError
        A table is missing, or no film is of the splits.
    """
    boxes: dict[str, list[Box]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for row in _rows(folder / "boxes.csv"):
        name = row["file"]
        if name not in sizes:
            pixels = cv2.imread(str(folder / "films" / name), cv2.IMREAD_GRAYSCALE)
            if pixels is None:
                raise DataError(f"--films: {name} cannot be read.")
            sizes[name] = (pixels.shape[1], pixels.shape[0])
        width, height = sizes[name]
        x0, y0, x1, y1 = (float(row[edge]) for edge in ("x0", "y0", "x1", "y1"))
        shares = (x0 / width, y0 / height, x1 / width, y1 / height)
        boxes.setdefault(name, []).append(Box(row["kind"], shares))
    films = [
        BoxedFilm(
            folder / "films" / row["file"],
            row["patient"],
            row["split"],
            row["clean"] == "yes" and row["certain"] == "yes",
            row["boxed"] == "yes",
            tuple(boxes.get(row["file"], ())),
            None
            if row["clean"] == "unsure"
            else frozenset(KIND_OF[word] for word in row["kinds"].split(";") if word),
        )
        for row in _rows(folder / "films.csv")
        if row["split"] in splits
    ]
    if not films:
        raise DataError(f"--films: no film of the split {' or '.join(splits)}.")
    return films


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except OSError as error:
        raise DataError(f"--films: {table.name} cannot be read ({type(error).__name__}).") from None


_HALF = 0.5


def is_found(box: Box, film: FilmStructures) -> bool:
    """Return whether something was found where a box is.

    Of a line: along half of the longer side of its box or more, a line was found. Of others: an
    artifact that is no line holds half of the smaller of both boxes.
    """
    if box.group != "line":
        return any(
            shares_half(one.box, box.xyxy)
            for one in film.artifacts
            if group_of(one.kind) not in ("line", "border")
        )
    side = len(film.lines)
    x0, y0, x1, y1 = (edge * side for edge in box.xyxy)
    part = film.lines[int(y0) : max(int(np.ceil(y1)), int(y0) + 1),
                      int(x0) : max(int(np.ceil(x1)), int(x0) + 1)]  # fmt: skip
    along = 0 if x1 - x0 > y1 - y0 else 1
    return bool(part.any(axis=along).mean() >= _HALF)


def true_kinds(artifact: Artifact, boxes: tuple[Box, ...]) -> set[str]:
    """Return the kinds of the boxes of its group that an artifact meets; letters and compact both.

    Nothing is known of a line that meets no box: boxes do not follow every strand.
    """
    group = group_of(artifact.kind)
    if group == "line":
        return {
            box.kind for box in boxes if box.group == "line" and shares_half(artifact.box, box.xyxy)
        }
    return {
        box.kind for box in boxes if box.group != "line" and shares_half(artifact.box, box.xyxy)
    }


def shares_half(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Return whether two boxes, xyxy, share half of the smaller."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return wide > 0 and high > 0 and wide * high >= _HALF * min(areas)
