"""Annotations of single films: segmentations, presentation states, masks."""

from __future__ import annotations

import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    RTStructureSetStorage,
    generate_uid,
)

from ravl_med.cohort.annotation_file import read_annotation_file
from ravl_med.cohort.film import Film, FilmReader
from ravl_med.cohort.nifti import read_nifti_film
from ravl_med.config.cohort import ReadingConfig, RegionsConfig
from ravl_med.errors import ImageError
from ravl_med.regions.proposal import RegionProposer

SHAPE = (60, 80)
STUDY = generate_uid(entropy_srcs=["study"])


def dataset(kind: str, name: str) -> pydicom.Dataset:
    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = kind
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid(
        entropy_srcs=[name]
    )
    made.StudyInstanceUID, made.SeriesInstanceUID = STUDY, generate_uid(entropy_srcs=["series"])
    return made


def film(folder: Path, name: str = "film") -> tuple[Path, pydicom.Dataset]:
    made = dataset(DigitalXRayImageStorageForPresentation, name)
    made.PatientID = made.PatientName = made.PatientBirthDate = made.PatientSex = ""
    made.StudyDate = made.StudyTime = made.AccessionNumber = made.StudyID = ""
    made.ReferringPhysicianName, made.Modality = "", "DX"
    made.Rows, made.Columns = SHAPE
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.PixelData = bytes(SHAPE[0] * SHAPE[1])
    path = folder / f"{name}.dcm"
    made.save_as(path, enforce_file_format=True)
    return path, made


def masks(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    values = np.zeros(SHAPE, dtype=np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        values[y0:y1, x0:x1] = number
    return values


def read(path: Path, of: Path, names: dict[int, str] | None = None) -> list[tuple[str, Any]]:
    return [(box.name, box.box) for box in read_annotation_file(path, of, SHAPE, names or {})]


def segmentation(folder: Path, source: pydicom.Dataset, values: np.ndarray) -> Path:
    from highdicom.content import AlgorithmIdentificationSequence
    from highdicom.seg import (
        SegmentAlgorithmTypeValues,
        Segmentation,
        SegmentationTypeValues,
        SegmentDescription,
    )
    from pydicom.sr.codedict import codes

    algorithm = AlgorithmIdentificationSequence(
        name="test", version="1", family=codes.cid7162.ArtificialIntelligence
    )
    described = [
        SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Lung,
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, label in ((1, "left lung"), (2, "heart"))
    ]
    made = Segmentation(
        source_images=[source],
        pixel_array=values,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=False,
    )
    path = folder / "segments.dcm"
    made.save_as(path)
    return path


def test_segments_of_the_film(tmp_path: Path) -> None:
    path, source = film(tmp_path)
    values = masks((10, 5, 30, 45), (40, 20, 60, 50))
    found = read(segmentation(tmp_path, source, values), path)
    assert found == [("left lung", (10, 5, 30, 45)), ("heart", (40, 20, 60, 50))]


def test_segments_of_another_film_or_of_none(tmp_path: Path) -> None:
    path, source = film(tmp_path)
    other, _ = film(tmp_path, "other")
    segments = segmentation(tmp_path, source, masks((10, 5, 30, 45)))
    with pytest.raises(ImageError, match="does not refer to this film") as caught:
        read(segments, other)
    assert caught.value.reason == "other_study"
    Image.fromarray(masks()).save(tmp_path / "film.png")
    with pytest.raises(ImageError, match="does not refer to this film"):
        read(segments, tmp_path / "film.png")
    with pytest.raises(ImageError, match="the segmentation is 60 x 80; expected 61 x 80"):
        read_annotation_file(segments, path, (61, 80), {})
    with pytest.raises(ImageError, match="blank on this film"):
        read(segmentation(tmp_path, source, masks()), path)


def graphic(kind: str, points: list[float], units: str = "PIXEL") -> pydicom.Dataset:
    made = pydicom.Dataset()
    made.GraphicAnnotationUnits, made.GraphicDimensions = units, 2
    made.NumberOfGraphicPoints, made.GraphicData = len(points) // 2, points
    made.GraphicType, made.GraphicFilled = kind, "N"
    return made


def state(folder: Path, instance: str, *graphics: pydicom.Dataset) -> Path:
    made = dataset(GrayscaleSoftcopyPresentationStateStorage, "state")
    image = pydicom.Dataset()
    image.ReferencedSOPClassUID = DigitalXRayImageStorageForPresentation
    image.ReferencedSOPInstanceUID = instance
    series = pydicom.Dataset()
    series.ReferencedImageSequence = Sequence([image])
    made.ReferencedSeriesSequence = Sequence([series])
    annotation = pydicom.Dataset()
    annotation.GraphicLayer = "DEVICE"
    annotation.GraphicObjectSequence = Sequence(graphics)
    text = pydicom.Dataset()
    text.UnformattedTextValue = "Mrs Example"
    annotation.TextObjectSequence = Sequence([text])
    made.GraphicAnnotationSequence = Sequence([annotation])
    path = folder / "state.dcm"
    made.save_as(path, enforce_file_format=True)
    return path


def test_graphics_by_hand_and_no_free_text(tmp_path: Path) -> None:
    path, source = film(tmp_path)
    found = read(
        state(
            tmp_path,
            source.SOPInstanceUID,
            graphic("POLYLINE", [10, 5, 30, 5, 30, 25, 10, 25, 10, 5]),
            graphic("CIRCLE", [40, 30, 43, 34]),
            graphic("ELLIPSE", [20, 20, 40, 20, 30, 15, 30, 25]),
            graphic("POINT", [3, 3]),
            graphic("POLYLINE", [0.1, 0.1, 0.9, 0.9], units="DISPLAY"),
        ),
        path,
    )
    assert found == [
        ("DEVICE", (10, 5, 30, 25)),
        ("DEVICE", (35, 25, 45, 35)),
        ("DEVICE", (20, 15, 40, 25)),
    ]


def test_a_turned_ellipse_is_boxed_tightly(tmp_path: Path) -> None:
    path, source = film(tmp_path)
    turn, long, short = np.radians(30), 20.0, 8.0
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    middle = np.array([40.0, 30.0])
    points = [middle - long * along, middle + long * along,
              middle - short * across, middle + short * across]  # fmt: skip
    made = graphic("ELLIPSE", np.concatenate(points).tolist())
    ((_, box),) = read(state(tmp_path, source.SOPInstanceUID, made), path)
    t = np.linspace(0, 2 * np.pi, 10_000)[:, None]
    border = middle + long * np.cos(t) * along + short * np.sin(t) * across
    assert box == pytest.approx((*border.min(axis=0), *border.max(axis=0)), abs=1e-3)


def test_graphics_of_another_film_or_without_extent(tmp_path: Path) -> None:
    path, source = film(tmp_path)
    square = graphic("POLYLINE", [10, 5, 30, 25])
    with pytest.raises(ImageError, match="does not refer to this film"):
        read(state(tmp_path, generate_uid(), square), path)
    with pytest.raises(ImageError, match="no graphic with an extent") as caught:
        read(state(tmp_path, source.SOPInstanceUID, graphic("POINT", [3, 3])), path)
    assert caught.value.reason == "no_graphics"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(RTStructureSetStorage, "no_frame_of_reference"), (CTImageStorage, "unknown_format")],
)
def test_other_dicom_files_are_refused(tmp_path: Path, kind: str, reason: str) -> None:
    path, _ = film(tmp_path)
    dataset(kind, "other").save_as(tmp_path / "other.dcm", enforce_file_format=True)
    with pytest.raises(ImageError, match=r"frame of reference|neither segments nor") as caught:
        read(tmp_path / "other.dcm", path)
    assert caught.value.reason == reason


def test_parts_of_png_masks(tmp_path: Path) -> None:
    values = np.where(masks((5, 10, 25, 50), (45, 10, 70, 50)) > 0, 255, 0).astype(np.uint8)
    values[0, 0] = 127
    path = tmp_path / "mask.png"
    Image.fromarray(values).save(path)
    assert read(path, path, {255: "lung"}) == [
        ("lung", (5, 10, 25, 50)), ("lung", (45, 10, 70, 50)),
    ]  # fmt: skip
    assert read(path, path, {255: "lung", 127: "more"})[0] == ("more", (0, 0, 1, 1))
    assert [name for name, _ in read(path, path)] == ["mask"] * 3
    with pytest.raises(ImageError, match=r"holds 127, 255; expected one of 3 \(regions.mask"):
        read(path, path, {3: "heart"})


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16", "RGB"])
def test_modes_of_png_masks(tmp_path: Path, mode: str) -> None:
    values = masks((5, 10, 25, 50))
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16))
    elif mode == "1":
        image = Image.fromarray(values * 255).convert("1")
    elif mode == "P":
        image = Image.fromarray(values, mode=None)
        image.putpalette([0, 0, 0, 255, 0, 0])
    else:
        image = Image.fromarray(values * 255).convert(mode)
    image.save(tmp_path / "mask.png")
    assert read(tmp_path / "mask.png", tmp_path) == [("mask", (5, 10, 25, 50))]


def test_a_nifti_mask_lies_where_its_film_shows_it(tmp_path: Path) -> None:
    volume = np.zeros((30, 1, 40), dtype=np.float32)
    volume[5:9, 0, 20:35] = 1  # x, z of an array that is not in RAS
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    nib.Nifti1Image(volume + np.linspace(0, 0.1, 40), affine).to_filename(tmp_path / "film.nii.gz")
    nib.Nifti1Image(volume * 2, affine).to_filename(tmp_path / "mask.nii.gz")
    shown, *_ = read_nifti_film(tmp_path / "film.nii.gz")
    found = read_annotation_file(
        tmp_path / "mask.nii.gz", tmp_path / "film.nii.gz", shown.shape, {2: "lung"}
    )
    (x0, y0, x1, y1) = (int(value) for value in found[0].box)
    assert found[0].name == "lung"
    inside = np.zeros(shown.shape, dtype=bool)
    inside[y0:y1, x0:x1] = True
    assert shown[inside].min() > shown[~inside].max()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "unknown_format"),
        (b"not an annotation at all", "unknown_format"),
        (b"\x89PNG\r\n\x1a\nbroken", "unreadable"),
        (b"\0" * 128 + b"DICMbroken", "truncated"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "annotation"
    path.write_bytes(content)
    with pytest.raises(
        ImageError, match=r"neither DICOM|cannot be read|ends before its first"
    ) as caught:
        read(path, path)
    assert caught.value.reason == reason
    with pytest.raises(ImageError, match="cannot be opened") as caught:
        read(tmp_path / "absent.png", path)
    assert caught.value.reason == "missing"


def test_masks_of_another_size_and_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.ones((10, 10), np.uint8)).save(path)
    with pytest.raises(ImageError, match=r"the mask is 10 x 10; expected 60 x 80") as caught:
        read(path, path)
    assert caught.value.reason == "size_differs"
    Image.fromarray(masks()).save(path)
    with pytest.raises(ImageError, match=r"the mask is blank") as caught:
        read(path, path)
    assert caught.value.reason == "blank_mask"


# Limits, and the processes that annotations are read in


def refused(path: Path, of: Path, **limits: Any) -> str:
    reading = ReadingConfig(**limits)
    with pytest.raises(ImageError) as caught:
        read_annotation_file(path, of, SHAPE, {}, reading)
    assert str(path) not in str(caught.value)
    return caught.value.reason


@pytest.mark.timeout(20)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    of, _ = film(tmp_path)
    os.mkfifo(tmp_path / "mask.png")
    assert refused(tmp_path / "mask.png", of) == "unreadable"
    assert refused(Path("/dev/zero"), of) == "unreadable"
    assert refused(tmp_path / "a\0b", of) == "unreadable"
    assert refused(tmp_path / "none.png", of) == "missing"


def test_a_mask_of_another_size_is_not_decoded(tmp_path: Path) -> None:
    of, _ = film(tmp_path)
    size = struct.pack(">IIBBBBB", 13_000, 13_000, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", size), (b"IDAT", b"none"))
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert refused(tmp_path / "large.png", of) == "size_differs"  # nothing of it could be decoded
    (tmp_path / "long.png").write_bytes(bytes(1_000_001))
    assert refused(tmp_path / "long.png", of, max_file_mb=1) == "too_large"


def test_a_segmentation_that_inflates_is_refused(tmp_path: Path) -> None:
    of, source = film(tmp_path)
    path = segmentation(tmp_path, source, masks((8, 10, 30, 40)))
    made = pydicom.dcmread(path)
    assert refused(path, of, max_pixels=1000) == "too_large"
    made.add_new(0x00204000, "UT", "x" * 3_000_000)
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    made.save_as(tmp_path / "bomb.dcm", enforce_file_format=True)
    assert (tmp_path / "bomb.dcm").stat().st_size < 100_000
    assert refused(tmp_path / "bomb.dcm", of, max_inflated_mb=1) == "too_large"


def test_a_mask_of_too_many_parts(tmp_path: Path) -> None:
    of, _ = film(tmp_path)
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[::2, ::2] = 1
    Image.fromarray(values).save(tmp_path / "mask.png")
    assert refused(tmp_path / "mask.png", of) == "too_many_boxes"


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_memory_mb": 512}, "out_of_memory"),
        ({"max_seconds": 0.3}, "timed_out"),
        ({}, "decoder_died"),
    ],
)
def test_a_process_that_an_annotation_brings_down_costs_that_annotation(
    limits: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    of, _ = film(tmp_path)
    side = 10_000
    Image.new("L", (side, side)).save(tmp_path / "large.png", compress_level=1)
    Image.fromarray(masks((8, 10, 30, 40))).save(tmp_path / "mask.png")
    reading = ReadingConfig(max_pixels=10**9, **limits)
    with FilmReader(reading, workers=1).kept_open() as reader:
        if reason == "decoder_died":
            reader.annotation(tmp_path / "mask.png", of, SHAPE, {}, None)
            (child,) = reader.pool._crew.children
            threading.Timer(0.1, child._process.kill).start()
        with pytest.raises(ImageError) as caught:
            reader.annotation(tmp_path / "large.png", of, (side, side), {}, None)
        assert caught.value.reason == reason
        if reason != "timed_out":  # another process begins too slowly for so short a limit
            (box,) = reader.annotation(tmp_path / "mask.png", of, SHAPE, {}, None)
            assert box.box == (8, 10, 30, 40)


def test_annotations_are_read_in_the_processes_that_read_films(tmp_path: Path) -> None:
    of, source = film(tmp_path)
    Image.fromarray(masks((8, 10, 30, 40))).save(tmp_path / "mask.png")
    path = segmentation(tmp_path, source, masks((8, 10, 30, 40)))
    os.mkfifo(tmp_path / "pipe.png")
    with FilmReader(
        ReadingConfig(max_file_mb=1), workers=1, roots=(tmp_path,)
    ).kept_open() as reader:
        for file in (tmp_path / "mask.png", path):
            here = read_annotation_file(file, of, SHAPE, {1: "lead"})
            assert reader.annotation(file, of, SHAPE, {1: "lead"}, None) == here
        with pytest.raises(ImageError, match="no regular file"):
            reader.annotation(tmp_path / "pipe.png", of, SHAPE, {}, None)
        with pytest.raises(ImageError, match=r"cohort\.roots"):
            reader.annotation(Path("/etc/passwd"), of, SHAPE, {}, None)
    proposer = RegionProposer(
        RegionsConfig(sources=("annotations",)), (of,), ((tmp_path / "mask.png",),)
    )
    pixels = np.zeros(SHAPE, dtype=np.float32)
    asked = []

    class Asked(FilmReader):
        def annotation(self, *arguments: Any) -> Any:
            asked.append(arguments)
            return super().annotation(*arguments)

    proposed = proposer.with_reader(Asked()).propose(Film(0, pixels, "", ""))
    assert proposed.boxes.tolist() == [[8.0, 10.0, 30.0, 40.0]]
    assert len(asked) == 1
