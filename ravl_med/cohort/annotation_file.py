r"""Regions that the user has drawn on one film, in a file of its own.

Files are DICOM Segmentations, graphics of Grayscale Presentation States, and masks as PNG or NIfTI,
which become one box for each connected part of each value. RT structure sets are refused: their
contours lie in a frame of reference, and a projection film has none.

References
----------
DICOM PS3.3 A.51 (Segmentation), C.10.5 (Graphic Annotation: in PIXEL units the outer corner of the
top-left pixel is 0\0), A.19 (RT Structure Set).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
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

from ravl_med.cohort.dicom import open_dicom
from ravl_med.cohort.image_file import checked_size, local_film_copy, require_pixels
from ravl_med.cohort.nifti import read_nifti_mask
from ravl_med.config.cohort import DEFAULT_READING, ReadingConfig
from ravl_med.errors import ImageError, RavlMedError
from ravl_med.storage.bounded_reading import UnreadableFileError, open_regular
from ravl_med.storage.remote import FilePath


@dataclass(frozen=True, slots=True)
class AnnotatedBox:
    """A box that a person drew."""

    name: str
    box: tuple[float, float, float, float]  # xyxy in stored pixels, half-open
    size: tuple[int, int] | None = None  # height and width of the film it was drawn on, if stated


_PNG, _DICM = b"\x89PNG\r\n\x1a\n", b"DICM"
_STATES = (GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage)
_MOST_BOXES, _LONGEST_NAME = 1000, 200
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
        ``missing``, ``unreadable``, ``unknown_format``, ``too_large``, ``out_of_memory``,
        ``too_many_boxes``, ``size_differs``, ``blank_mask``, ``unknown_value``, ``other_study``,
        ``no_frame_of_reference``, ``no_graphics``.
    ConfigError, StorageError
        It lies in a storage that denies access, or does not answer.
    """
    with local_film_copy(path, reading.max_file_mb) as file:
        boxes = _read(file, film, shape, names, reading)
    if len(boxes) > _MOST_BOXES:
        raise ImageError(
            "too_many_boxes",
            f"{len(boxes):,} regions on one film; expected at most {_MOST_BOXES:,}.",
        )
    return [AnnotatedBox(one.name[:_LONGEST_NAME], one.box, one.size) for one in boxes]


def _read(
    path: Path,
    film: FilePath,
    shape: tuple[int, int],
    names: Mapping[int, str],
    reading: ReadingConfig,
) -> list[AnnotatedBox]:
    head = _head(path, reading)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values in tags that are not read
            if head.startswith(_PNG):
                with Image.open(path, formats=("PNG",)) as image:
                    _require_shape((image.height, image.width), shape)
                    plain = image if image.mode in ("L", "P", "1", "I", "I;16") else None
                    values = np.asarray(plain if plain is not None else image.convert("L"))
                return _mask_boxes(values.astype(np.int64, copy=False), shape, names)
            if head[128:132] == _DICM:
                with local_film_copy(film, reading.max_file_mb) as own:
                    return _dicom_boxes(path, own, shape, reading)
            if path.name.lower().endswith((".nii", ".nii.gz")):
                values = np.rint(read_nifti_mask(path, reading)).astype(np.int64)
                return _mask_boxes(values, shape, names)
    except RavlMedError:  # of the file, or of the storage that it lies in
        raise
    except MemoryError:
        raise ImageError(
            "out_of_memory",
            f"the annotation needs more than {reading.max_memory_mb} MB of memory "
            "(cohort.max_memory_mb).",
        ) from None
    except Exception as error:  # a hostile file can fail anywhere inside its parser
        raise ImageError(
            "unreadable", f"the annotation cannot be read ({type(error).__name__})."
        ) from None
    raise ImageError("unknown_format", "neither DICOM, PNG nor NIfTI.")


def _head(path: Path, reading: ReadingConfig) -> bytes:
    """Read the bytes that say what a file is, which is not too large."""
    try:
        with open_regular(path) as stream:
            head = stream.read(352)
    except UnreadableFileError:
        raise ImageError("unreadable", "the annotation is no regular file.") from None
    except OSError:
        raise ImageError("missing", "the annotation file cannot be opened.") from None
    checked_size(path, reading.max_file_mb)
    return head


def _mask_boxes(
    values: NDArray[np.int64], shape: tuple[int, int], names: Mapping[int, str]
) -> list[AnnotatedBox]:
    _require_shape(values.shape, shape)
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


def _require_shape(found: tuple[int, ...], shape: tuple[int, int], what: str = "mask") -> None:
    if found != shape:
        raise ImageError(
            "size_differs",
            f"the {what} is {' x '.join(map(str, found))}; expected {shape[0]} x {shape[1]}.",
        )


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


def _dicom_boxes(
    path: Path, film: Path, shape: tuple[int, int], reading: ReadingConfig
) -> list[AnnotatedBox]:
    dataset = open_dicom(path, reading)
    kind = dataset.SOPClassUID
    if kind == RTStructureSetStorage:
        raise ImageError(
            "no_frame_of_reference",
            "an RT structure set; a projection film has no frame of reference for it.",
        )
    instance = _instance_of(film)
    if kind == SegmentationStorage:
        return _segment_boxes(dataset, instance, shape, reading)
    if kind in _STATES:
        return _graphic_boxes(dataset, instance)
    raise ImageError("unknown_format", "a DICOM file that holds neither segments nor graphics.")


def _instance_of(film: Path) -> str:
    """Return the SOP Instance UID of a film; blank where it is no DICOM file."""
    with open_regular(film) as stream:
        if stream.read(132)[128:] != _DICM:
            return ""
    return str(pydicom.dcmread(film, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID", ""))


def _segment_boxes(
    dataset: pydicom.Dataset, instance: str, shape: tuple[int, int], reading: ReadingConfig
) -> list[AnnotatedBox]:
    from highdicom.seg import Segmentation

    _require_shape((int(dataset.Rows), int(dataset.Columns)), shape, "segmentation")
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    require_pixels(shape, frames, reading.max_pixels)
    segmentation = Segmentation.from_dataset(dataset, copy=False)
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
