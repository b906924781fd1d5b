"""Regions that the user has drawn in one table for a cohort.

Tables are a CSV with the columns ``image``, ``name``, ``x0``, ``y0``, ``x1``, ``y1``; COCO JSON; or
scene graphs as in Chest ImaGenome, one file or a folder of them, whose original coordinates are
taken. Coordinates are pixels of the stored matrix, origin at the outer corner of the top-left
pixel. An image is named as in the manifest, or by file name alone where that is unique.

Files of single films are read by `ravl_med.cohort.annotation_file`.

References
----------
COCO, "Data format". Wu et al., Chest ImaGenome dataset, PhysioNet 2021.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ravl_med.cohort.annotation_file import AnnotatedBox
from ravl_med.errors import ConfigError, DataError
from ravl_med.regions.region_set import RegionKind, RegionSet
from ravl_med.storage.bounded_reading import parse_json, read_csv, read_regular
from ravl_med.storage.remote import FilePath

_COLUMNS = ("image", "name", "x0", "y0", "x1", "y1")
_KEY = "regions.annotations"
_LARGEST = 1 << 30  # bytes of a table


@dataclass(frozen=True, slots=True, eq=False)
class AnnotationTable:
    """The boxes of each film of a cohort."""

    of_film: Mapping[int, tuple[AnnotatedBox, ...]]  # by position in the cohort
    unmatched: int  # images of the table that are not in the cohort

    @classmethod
    def read(cls, path: Path, films: Sequence[FilePath]) -> AnnotationTable:
        """Read a CSV, JSON, or folder of scene graphs for the films of a cohort.

        Raises
        ------
        ConfigError
            There is no such file.
        DataError
            It has none of the layouts, holds a wrong cell, or no image of it is in the cohort.
        """
        if not path.exists():
            raise ConfigError(
                f"{_KEY}: {path.name!r} does not exist. Paths are relative to the config file."
            )
        by_image: dict[str, list[AnnotatedBox]] = {}
        for image, box in _rows(path):
            by_image.setdefault(image, []).append(box)
        find = _Finder(films)
        of_film: dict[int, tuple[AnnotatedBox, ...]] = {}
        unmatched = 0
        for image, boxes in by_image.items():
            film = find(image)
            if film is None:
                unmatched += 1
            else:
                of_film[film] = (*of_film.get(film, ()), *boxes)
        if not of_film:
            raise DataError(
                f"{_KEY}: none of its {len(by_image)} images is in the cohort; expected image "
                "names as in the manifest, or file names that are unique."
            )
        return cls(of_film, unmatched)


def boxes_within(boxes: Iterable[AnnotatedBox], height: int, width: int) -> RegionSet:
    """Return boxes as regions of a film, cut off at its border.

    Problems are ``size_differs``, drawn on a film of another size; ``box_outside``, less than half
    of it lies on the film; and ``box_empty``, it has no extent.
    """
    kept: list[AnnotatedBox] = []
    reasons: list[str] = []
    for box in boxes:
        reason = _fault(box, height, width)
        if reason:
            reasons.append(reason)
        else:
            kept.append(box)
    inside = np.clip(
        np.array([box.box for box in kept], dtype=np.float32).reshape(-1, 4),
        0.0,
        np.array([width, height, width, height], dtype=np.float32),
    )
    kinds = tuple(RegionKind("annotations", box.name.replace("\0", " ")) for box in kept)
    return RegionSet(inside, kinds, tuple(reasons))


def _fault(box: AnnotatedBox, height: int, width: int) -> str:
    if box.size is not None and box.size != (height, width):
        return "size_differs"
    x0, y0, x1, y1 = box.box
    if not (x1 > x0 and y1 > y0):
        return "box_empty"
    inside = max(min(x1, width) - max(x0, 0.0), 0.0) * max(min(y1, height) - max(y0, 0.0), 0.0)
    return "box_outside" if inside < 0.5 * (x1 - x0) * (y1 - y0) else ""


class _Finder:
    """Finds the film that a table names by the end of its path, or by its name alone."""

    def __init__(self, films: Sequence[FilePath]) -> None:
        self._films = [PurePosixPath(path.as_posix()).parts for path in films]
        self._by_name: dict[str, list[int]] = {}
        for index, parts in enumerate(self._films):
            for name in {parts[-1], PurePosixPath(parts[-1]).stem}:
                self._by_name.setdefault(name, []).append(index)

    def __call__(self, image: str) -> int | None:
        parts = PurePosixPath(image.replace("\\", "/")).parts
        if not parts:
            return None
        near = self._by_name.get(parts[-1], [])
        if len(parts) > 1:  # of another folder it may be another film
            near = [i for i in near if self._films[i][-len(parts) :] == parts]
        return near[0] if len(near) == 1 else None


def _rows(path: Path) -> Iterator[tuple[str, AnnotatedBox]]:
    """Yield images and boxes of a table, whatever its layout."""
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise DataError(f"{_KEY}: the folder holds no JSON file; expected scene graphs.")
        for file in files:
            yield from _json_rows(file)
    elif path.suffix.lower() == ".json":
        yield from _json_rows(path)
    else:
        yield from _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[tuple[str, AnnotatedBox]]:
    header, *rows = read_csv(path, _LARGEST, _KEY)[1] or [[]]
    missing = [column for column in _COLUMNS if column not in header]
    if missing:
        raise DataError(
            f"{_KEY}: column {missing[0]!r} is missing; expected {', '.join(_COLUMNS)}. Add it."
        )
    for number, cells in enumerate(rows, start=2):
        if not any(cells):
            continue
        row = dict(zip(header, [*cells, *[""] * len(header)], strict=False))
        where = f"{_KEY} row {number}"
        if not row["name"]:
            raise DataError(f"{where}: name is blank; expected what the region is called.")
        numbers = [_number(row[column], f"{where}: {column}") for column in _COLUMNS[2:]]
        yield row["image"], AnnotatedBox(row["name"], _four(numbers))


def _json_rows(path: Path) -> Iterator[tuple[str, AnnotatedBox]]:
    try:
        content: Any = parse_json(read_regular(path, _LARGEST))
    except (ValueError, OSError) as error:
        raise DataError(f"{_KEY}: not a JSON file ({type(error).__name__}).") from None
    try:
        if "annotations" in content and "images" in content:
            yield from _coco_rows(content)
        elif "objects" in content and "image_id" in content:
            yield from _scene_rows(content)
        else:
            raise DataError(
                f"{_KEY}: neither COCO ('images' and 'annotations') nor a scene graph ('image_id' "
                "and 'objects')."
            )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{_KEY}: an entry is not as the layout has it ({type(error).__name__}); expected COCO "
            "or Chest ImaGenome scene graphs."
        ) from None


def _coco_rows(content: Any) -> Iterator[tuple[str, AnnotatedBox]]:
    names = {entry["id"]: str(entry["name"]) for entry in content.get("categories", [])}
    images = {entry["id"]: entry for entry in content["images"]}
    for number, entry in enumerate(content["annotations"]):
        where = f"{_KEY}: annotation {number}"
        image = images.get(entry["image_id"])
        if image is None:
            raise DataError(f"{where}: image_id is none of the images. Add the image.")
        name = names.get(entry.get("category_id"))
        if name is None:
            raise DataError(f"{where}: category_id is none of the categories. Add the category.")
        box = entry.get("bbox") or _polygon_box(entry.get("segmentation"))
        if box is None:  # a label of the whole image
            continue
        x, y, width, height = _four([_number(value, f"{where}: bbox") for value in box])
        size = None
        if "height" in image and "width" in image:
            size = (int(image["height"]), int(image["width"]))
        yield str(image["file_name"]), AnnotatedBox(name, (x, y, x + width, y + height), size)


def _polygon_box(polygons: Any) -> list[float] | None:
    """Return corner and sides of the box around COCO polygons; None without any."""
    if not isinstance(polygons, list) or not polygons:
        return None
    points = np.concatenate(
        [np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in polygons]
    )
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def _scene_rows(content: Any) -> Iterator[tuple[str, AnnotatedBox]]:
    """Yield objects of a scene graph, in the coordinates of the original film."""
    for entry in content["objects"]:
        name = str(entry["bbox_name"])
        where = f"{_KEY}: object {name!r}"
        numbers = [
            _number(entry[f"original_{side}"], f"{where}: original_{side}")
            for side in ("x1", "y1", "x2", "y2")
        ]
        yield str(content["image_id"]), AnnotatedBox(name, _four(numbers))


def _four(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    if len(numbers) != 4:
        raise DataError(f"{_KEY}: a box has {len(numbers)} numbers; expected four.")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise DataError(f"{where} is {str(value)[:20]!r}; expected a number of pixels.")
    return number
