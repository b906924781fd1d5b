r"""Regions that the user has drawn, in a file of its own for a film.

Read are DICOM Segmentations, graphics of Grayscale Presentation States, and masks as PNG or NIfTI.
Masks become one box for each connected part of each value. RT structure sets are refused: their
contours lie in a frame of reference, and a projection film has none.

References
----------
DICOM PS3.3 A.51 (Segmentation), C.10.5 (Graphic Annotation: in PIXEL units the outer corner of the
top-left pixel is 0\0), A.19 (RT Structure Set).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
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

from ravl_med.cohort.image_file import copied_here
from ravl_med.cohort.nifti import read_nifti_mask
from ravl_med.cohort.reading_policy import DEFAULT_POLICY, ReadingPolicy
from ravl_med.errors import ImageError, RavlMedError
from ravl_med.regions.annotations import AnnotatedBox
from ravl_med.storage.remote_path import FilePath

__all__ = ["read_annotation_file"]

_PNG, _DICM = b"\x89PNG\r\n\x1a\n", b"DICM"
_STATES = (GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage)
_LEAST_PART = 5e-5  # share of the film below which a part of a mask is a speck


def read_annotation_file(
    path: FilePath,
    film: FilePath,
    shape: tuple[int, int],
    names: Mapping[int, str],
    policy: ReadingPolicy = DEFAULT_POLICY,
) -> list[AnnotatedBox]:
    """Read the regions of one film.

    Parameters
    ----------
    path : Path or RemotePath - of the annotation
    film : Path or RemotePath - of the film; its header says whether a DICOM annotation is of it
    shape : tuple of int - height and width of the film
    names : mapping of int to str - what the values of a mask mean; empty: all but 0 is ``mask``
    policy : ReadingPolicy - how the film was read, which a NIfTI mask is read by as well

    Raises
    ------
    ImageError
        With a reason code: ``missing``, ``unreadable``, ``unknown_format``, ``size_differs``,
        ``blank_mask``, ``unknown_value``, ``other_study``, ``no_frame_of_reference``,
        ``no_graphics``.
    ConfigError, StorageError
        It lies in a storage that denies access, or does not answer.
    """
    with copied_here(path, policy.limits.max_file_mb) as file:
        return _read(file, film, shape, names, policy)


def _read(
    path: Path,
    film: FilePath,
    shape: tuple[int, int],
    names: Mapping[int, str],
    policy: ReadingPolicy,
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
                with copied_here(film, policy.limits.max_file_mb) as own:
                    return _dicom_boxes(path, own, shape)
            if path.name.lower().endswith((".nii", ".nii.gz")):
                values = np.rint(read_nifti_mask(path, policy)).astype(np.int64)
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
    """Boxes of the connected parts of a mask (H, W); specks only where there is nothing else."""
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
    """SOP Instance UID of a film; blank where it is no DICOM file."""
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
    """Boxes of the graphics that are drawn on a film; named by their layer, not by free text."""
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
    """Box around a graphic; None for points, and where units are not those of the film."""
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
