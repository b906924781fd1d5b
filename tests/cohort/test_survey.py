"""Files of an archive: frontal chest films, reports, and reasons for the rest."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, BasicTextSRStorage, ExplicitVRLittleEndian, generate_uid

from ravl_med.cohort.survey import survey_file
from ravl_med.config.cohort import ReadingConfig
from ravl_med.errors import ImageError

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
TOLD = r"Modality|FOR PRESENTATION|Body Part|neither AP nor PA|not an image|not DICOM"
FILM: dict[str, Any] = {
    "Modality": "DX",
    "BodyPartExamined": "CHEST",
    "ViewPosition": "PA",
    "PatientID": "4711",
    "StudyInstanceUID": "1.2.3",
    "AccessionNumber": "ACC1",
}


def film(path: Path, **tags: Any) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    pixels = np.random.default_rng(0).integers(0, 255, (20, 24), dtype=np.uint8)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes()
    for name, value in {**FILM, **tags}.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_a_frontal_film_by_its_header(tmp_path: Path) -> None:
    found = survey_file(film(tmp_path / "IM1"), ReadingConfig())
    assert (found.kind, found.certain) == ("film", True)
    assert (found.patient, found.study, found.accession) == ("4711", "1.2.3", "ACC1")
    assert found.attributes == {"view": "PA"}
    assert found.pixels is not None
    assert found.pixels.shape == (20, 24)
    assert len(found.digest) == 64


@pytest.mark.parametrize(
    "tags",
    [
        {"ViewPosition": ""},
        {"BodyPartExamined": ""},
        {"Modality": "OT"},
        {"BodyPartExamined": "", "ViewPosition": "", "StudyDescription": "Thorax"},
    ],
)
def test_a_silent_header_leaves_it_to_the_pixels(tmp_path: Path, tags: dict[str, str]) -> None:
    found = survey_file(film(tmp_path / "IM1", **tags), ReadingConfig())
    assert (found.kind, found.certain) == ("film", False)


def test_the_description_may_name_the_chest_and_the_view(tmp_path: Path) -> None:
    tags = {"BodyPartExamined": "", "ViewPosition": "", "SeriesDescription": "Chest AP"}
    assert survey_file(film(tmp_path / "IM1", **tags), ReadingConfig()).certain


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "CT"}, "other_modality"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for_processing"),
        ({"BodyPartExamined": "HAND"}, "other_body_part"),
        ({"ViewPosition": "LL"}, "not_frontal"),
        ({"ViewPosition": "", "SeriesDescription": "Chest lateral"}, "not_frontal"),
    ],
)
def test_every_refusal_has_a_reason(tmp_path: Path, tags: dict[str, str], reason: str) -> None:
    path = film(tmp_path / "IM1", **tags)
    with pytest.raises(ImageError, match=TOLD) as caught:
        survey_file(path, ReadingConfig())
    assert caught.value.reason == reason
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("rtplan.dcm", "no_pixel_data"), ("CT_small.dcm", "other_modality"), ("README.txt", "")],
)
def test_files_that_pydicom_brings(name: str, reason: str) -> None:
    with pytest.raises(ImageError, match=TOLD) as caught:
        survey_file(BUNDLED / name, ReadingConfig())
    assert caught.value.reason == (reason or "not_dicom")


def test_an_image_without_a_header_is_a_film_for_the_pixels_to_judge(tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 255, (20, 24), dtype=np.uint8)
    Image.fromarray(gray).save(tmp_path / "IM1", format="PNG")
    found = survey_file(tmp_path / "IM1", ReadingConfig())
    assert (found.kind, found.has_header, found.certain) == ("film", False, False)
    assert (found.patient, found.attributes, found.applied) == ("", {}, "8-bit")
    assert found.pixels is not None
    np.testing.assert_array_equal(np.rint(255 * found.pixels), gray)


def test_a_structured_report_is_read() -> None:
    found = survey_file(BUNDLED / "reportsi.dcm", ReadingConfig())
    assert found.kind == "report"
    assert found.pixels is None
    assert found.text


def test_a_structured_report_without_text(tmp_path: Path) -> None:
    path = film(tmp_path / "SR1", SOPClassUID=BasicTextSRStorage, Modality="SR")
    with pytest.raises(ImageError, match="holds no text") as caught:
        survey_file(path, ReadingConfig())
    assert caught.value.reason == "no_text"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.dcm"
    with path.open("wb") as stream:
        stream.write(bytes(128) + b"DICM")
        stream.truncate(60_000_000_000)
    with pytest.raises(ImageError, match="60000 MB; expected at most 1024") as caught:
        survey_file(path, ReadingConfig())
    assert caught.value.reason == "too_large"
