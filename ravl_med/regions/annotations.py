r"""Regions that the user has drawn: one table for a cohort, or a file for each film.

Tables are a CSV with the columns ``image``, ``name``, ``x0``, ``y0``, ``x1``, ``y1``; COCO JSON; or
scene graphs as in Chest ImaGenome, one file or a folder of them, whose original coordinates are
taken. Coordinates are pixels of the stored matrix, origin at the outer corner of the top-left
pixel. An image is named as in the manifest, or by file name alone where that is unique.

Files are DICOM Segmentations, graphics of Grayscale Presentation States, and masks as PNG or NIfTI,
which become one box for each connected part of each value. RT structure sets are refused: their
contours lie in a frame of reference, and a projection film has none.

References
----------
COCO, "Data format". Wu et al., Chest ImaGenome dataset, PhysioNet 2021. DICOM PS3.3 A.51
(Segmentation), C.10.5 (Graphic Annotation: in PIXEL units the outer corner of the top-left pixel is
0\0), A.19 (RT Structure Set).
"""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)
from scipy.ndimage import find_objects, label

from ravl_med.cohort.image_file import local_film_copy
from ravl_med.cohort.nifti import read_nifti_mask
from ravl_med.config.cohort import DEFAULT_READING, ReadingConfig
from ravl_med.errors import ConfigError, DataError, ImageError, RavlMedError
from ravl_med.regions.region_set import RegionKind, RegionSet
from ravl_med.storage.remote import FilePath

_COLUMNS = ("image", "name", "x0", "y0", "x1", "y1")
_KEY = "regions.annotations"


@dataclass(frozen=True, slots=True)
class AnnotatedBox:
    """A box that a person drew."""

    name: str
    box: tuple[float, float, float, float]  # xyxy in stored pixels, half-open
    size: tuple[int, int] | None = None  # height and width of the film it was drawn on, if stated


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
    kinds = tuple(RegionKind("annotations", box.name) for box in kept)
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
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            header = reader.fieldnames or []
            rows = list(reader)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(
            f"{_KEY}: not a UTF-8 CSV table ({type(error).__name__}). Save it as CSV with commas."
        ) from None
    missing = [column for column in _COLUMNS if column not in header]
    if missing:
        raise DataError(
            f"{_KEY}: column {missing[0]!r} is missing; expected {', '.join(_COLUMNS)}. Add it."
        )
    for number, row in enumerate(rows, start=2):
        where = f"{_KEY} row {number}"
        if not row["name"]:
            raise DataError(f"{where}: name is blank; expected what the region is called.")
        numbers = [_number(row[column], f"{where}: {column}") for column in _COLUMNS[2:]]
        yield row["image"] or "", AnnotatedBox(row["name"], _four(numbers))


def _json_rows(path: Path) -> Iterator[tuple[str, AnnotatedBox]]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
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


_PNG, _DICM = b"\x89PNG\r\n\x1a\n", b"DICM"
_STATES = (GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage)
_LEAST_PART = 5e-5  # share of the film below which a part of a mask is a speck


def read_annotation_file(
    path: FilePath,
    film: FilePath,
    shape: tuple[int, int],
    names: Mapping[int, str],
    reading: ReadingConfig = DEFAULT_READING,
) -> list[AnnotatedBox]:
    """Read the regions of one film.

    Parameters
    ----------
    film : Path or RemotePath - its header says whether a DICOM annotation belongs to it
    shape : tuple of int - height and width of the film
    names : mapping of int to str - meaning of the values of a mask; empty: all but 0 is ``mask``
    reading : ReadingConfig - how the film was read, and so its NIfTI mask

    Raises
    ------
    ImageError
        ``missing``, ``unreadable``, ``unknown_format``, ``size_differs``, ``blank_mask``,
        ``unknown_value``, ``other_study``, ``no_frame_of_reference``, ``no_graphics``.
    ConfigError, StorageError
        It lies in a storage that denies access, or does not answer.
    """
    with local_film_copy(path, reading.max_file_mb) as file:
        return _read(file, film, shape, names, reading)


def _read(
    path: Path,
    film: FilePath,
    shape: tuple[int, int],
    names: Mapping[int, str],
    reading: ReadingConfig,
) -> list[AnnotatedBox]:
    try:
        with path.open("rb") as stream:
            head = stream.read(352)
    except OSError:
        raise ImageError("missing", "the annotation file cannot be opened.") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values in tags that are not read
            if head.startswith(_PNG):
                with Image.open(path, formats=("PNG",)) as image:
                    plain = image if image.mode in ("L", "P", "1", "I", "I;16") else None
                    values = np.asarray(plain if plain is not None else image.convert("L"))
                return _mask_boxes(values.astype(np.int64), shape, names)
            if head[128:132] == _DICM:
                with local_film_copy(film, reading.max_file_mb) as own:
                    return _dicom_boxes(path, own, shape)
            if path.name.lower().endswith((".nii", ".nii.gz")):
                values = np.rint(read_nifti_mask(path, reading)).astype(np.int64)
                return _mask_boxes(values, shape, names)
    except RavlMedError:  # of the file, or of the storage that it lies in
        raise
    except Exception as error:  # a hostile file can fail anywhere inside its parser
        raise ImageError(
            "unreadable", f"the annotation cannot be read ({type(error).__name__})."
        ) from None
    raise ImageError("unknown_format", "neither DICOM, PNG nor NIfTI.")


def _mask_boxes(
    values: NDArray[np.int64], shape: tuple[int, int], names: Mapping[int, str]
) -> list[AnnotatedBox]:
    if values.shape != shape:
        height, width = values.shape[:2]
        raise ImageError(
            "size_differs", f"the mask is {height} x {width}; expected {shape[0]} x {shape[1]}."
        )
    there = set(np.unique(values).tolist()) - {0}
    if not there:
        raise ImageError("blank_mask", "the mask is blank.")
    if not names:
        return _parts(values != 0, "mask")
    known = sorted(there & set(names))
    if not known:
        raise ImageError(
            "unknown_value",
            f"the mask holds {', '.join(map(str, sorted(there)[:5]))}; expected one of "
            f"{', '.join(map(str, sorted(names)))} (regions.mask_names).",
        )
    return [box for value in known for box in _parts(values == value, names[value])]


def _parts(mask: NDArray[np.bool_], name: str) -> list[AnnotatedBox]:
    """Return boxes of the connected parts of a mask (H, W); specks only where all are specks."""
    labelled, count = label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
    least = min(_LEAST_PART * mask.size, float(sizes.max()))
    boxes = []
    for part, size in zip(find_objects(labelled), sizes, strict=True):
        if part is not None and size >= least:
            rows, columns = part
            box = (columns.start, rows.start, columns.stop, rows.stop)
            boxes.append(AnnotatedBox(name, (box[0], box[1], box[2], box[3])))
    return boxes


def _dicom_boxes(path: Path, film: Path, shape: tuple[int, int]) -> list[AnnotatedBox]:
    kind = pydicom.dcmread(path, specific_tags=["SOPClassUID"]).SOPClassUID
    if kind == RTStructureSetStorage:
        raise ImageError(
            "no_frame_of_reference",
            "an RT structure set; a projection film has no frame of reference for it.",
        )
    instance = _instance_of(film)
    if kind == SegmentationStorage:
        return _segment_boxes(path, instance, shape)
    if kind in _STATES:
        return _graphic_boxes(pydicom.dcmread(path), instance)
    raise ImageError("unknown_format", "a DICOM file that holds neither segments nor graphics.")


def _instance_of(film: Path) -> str:
    """Return the SOP Instance UID of a film; blank where it is no DICOM file."""
    with film.open("rb") as stream:
        if stream.read(132)[128:] != _DICM:
            return ""
    return str(pydicom.dcmread(film, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID", ""))


def _segment_boxes(path: Path, instance: str, shape: tuple[int, int]) -> list[AnnotatedBox]:
    from highdicom.seg import segread

    segmentation = segread(path)
    if (segmentation.Rows, segmentation.Columns) != shape:
        raise ImageError(
            "size_differs",
            f"the segmentation is {segmentation.Rows} x {segmentation.Columns}; expected "
            f"{shape[0]} x {shape[1]}.",
        )
    try:
        masks = segmentation.get_pixels_by_source_instance(
            [instance], ignore_spatial_locations=True
        )[0]
    except (KeyError, ValueError):
        raise _other_study() from None
    boxes = []
    for number, mask in zip(segmentation.segment_numbers, np.moveaxis(masks, -1, 0), strict=True):
        if (mask > 0.5).any():
            name = str(segmentation.get_segment_description(number).segment_label)
            boxes += _parts(mask > 0.5, name)
    if not boxes:
        raise ImageError("blank_mask", "the segmentation is blank on this film.")
    return boxes


def _graphic_boxes(state: pydicom.Dataset, instance: str) -> list[AnnotatedBox]:
    """Return boxes of the graphics on a film, named by their layer, not by free text."""
    refers = {
        str(image.ReferencedSOPInstanceUID)
        for series in state.get("ReferencedSeriesSequence", [])
        for image in series.get("ReferencedImageSequence", [])
    }
    if instance not in refers:
        raise _other_study()
    boxes = []
    for annotation in state.get("GraphicAnnotationSequence", []):
        images = annotation.get("ReferencedImageSequence", [])
        if images and instance not in {str(i.ReferencedSOPInstanceUID) for i in images}:
            continue
        name = str(annotation.get("GraphicLayer", "graphic"))
        for graphic in annotation.get("GraphicObjectSequence", []):
            corners = _extent(graphic)
            if corners is not None:
                boxes.append(AnnotatedBox(name, corners))
    if not boxes:
        raise ImageError("no_graphics", "no graphic with an extent, in pixels, lies on this film.")
    return boxes


def _extent(graphic: pydicom.Dataset) -> tuple[float, float, float, float] | None:
    """Return the box around a graphic; None for points, and for units that are not the film's."""
    if graphic.get("GraphicAnnotationUnits") != "PIXEL" or graphic.GraphicType == "POINT":
        return None
    points: Any = np.array(graphic.GraphicData, dtype=np.float64).reshape(-1, 2)
    if graphic.GraphicType == "CIRCLE":
        radius = float(np.hypot(*(points[1] - points[0])))
        low, high = points[0] - radius, points[0] + radius
    elif graphic.GraphicType == "ELLIPSE":
        middle = points.mean(axis=0)
        axes = np.stack([points[1] - points[0], points[3] - points[2]]) / 2.0
        reach = np.sqrt((axes**2).sum(axis=0))
        low, high = middle - reach, middle + reach
    else:
        low, high = points.min(axis=0), points.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _other_study() -> ImageError:
    return ImageError("other_study", "the annotation does not refer to this film.")
