"""The report as a DICOM document: read back by pydicom, checked by dciodvfy where it is there."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mitigation_results as made
import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from ravl_med.config.loading import Config
from ravl_med.pipeline import mitigation_folder
from ravl_med.pipeline.mitigate import Mitigation
from ravl_med.pipeline.mitigation_folder import write_mitigation
from ravl_med.pipeline.mitigation_setup import WorkFolder
from ravl_med.reporting.layout.dicom_pdf import DocumentDetails, write_dicom_pdf

PDF = b"%PDF-1.4\nbody\n%%EOF\n"
DETAILS = DocumentDetails(
    kind="audit",
    name="chest-model",
    title="Audit of a chest model",
    date="2025-03-01",
    model_digest="ab12" * 16,
    digests=("cd34" * 16, "ef56" * 16),
    shows_patients=True,
)
HOSTILE = {
    "markup": "<img src=http://x/y.png> & <b>bold</b>",
    "separators": "a\\b^c=d\\\\e",
    "long": "x" * 10_240,
    "CJK": "胸部X線の監査" * 1_500,
    "astral": "🫁" * 900,
    "combining": "e\u0301\u0327" * 600,
    "control": "a\x00b\x1b$Bc\nd\r\te\u202ef\u2028g",
    "surrogate": "a\ud800b",
    "blank": " \t\n\x00 ",
}
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a document of a PDF; what differs from `DETAILS` is named."""

    def write(content: bytes = PDF, **changes: object) -> Path:
        pdf, path = tmp_path / "report.pdf", tmp_path / "report.dcm"
        pdf.write_bytes(content)
        write_dicom_pdf(pdf, path, replace(DETAILS, **changes))  # type: ignore[arg-type]
        return path

    return write


def read(path: Path) -> FileDataset:
    """Read a document and decode every value; pydicom warns of any that its VR does not allow."""
    document = pydicom.dcmread(path)
    document.walk(lambda _, element: element.value)
    return document


def test_the_header(write: Write) -> None:
    document = read(write())
    assert document.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert document.file_meta.MediaStorageSOPClassUID == document.SOPClassUID
    assert document.file_meta.MediaStorageSOPInstanceUID == document.SOPInstanceUID
    assert document.SOPClassUID == "1.2.840.10008.5.1.4.1.1.104.1"
    said = {
        "Modality": "DOC",
        "ConversionType": "WSD",
        "MIMETypeOfEncapsulatedDocument": "application/pdf",
        "VerificationFlag": "UNVERIFIED",
        "DocumentTitle": "Audit of a chest model",
        "SeriesDescription": "chest-model",
        "StudyDescription": "Model audit, no patient",
        "StudyDate": "20250301",
        "ContentDate": "20250301",
        "SpecificCharacterSet": "ISO_IR 192",
    }
    assert {name: document[name].value for name in said} == said
    for name in ("StudyTime", "ContentTime", "AcquisitionDateTime", "AccessionNumber", "StudyID"):
        assert document[name].is_empty
    assert len(document.ConceptNameCodeSequence) == 0


@pytest.mark.parametrize("content", [PDF, PDF + b"\n"], ids=["even", "odd"])
def test_the_pdf_is_embedded_as_it_is(write: Write, content: bytes) -> None:
    document = read(write(content))
    embedded, length = document.EncapsulatedDocument, document.EncapsulatedDocumentLength
    assert length == len(content)
    assert embedded[:length] == content
    assert len(embedded) % 2 == 0
    assert embedded[length:] == b"\0" * (len(content) % 2)


def test_the_subject_is_the_model_and_nobody_else(write: Write) -> None:
    document = read(write())
    assert document.PatientName == "RAVL-MED^MODEL AUDIT"
    assert document.PatientID == "RAVL-MED-ab12ab12ab12ab12"
    assert document.IssuerOfPatientID == "RAVL-MED"
    assert {element.keyword for element in document if element.tag.group == 0x10} == {
        "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    }  # fmt: skip
    assert document["PatientBirthDate"].is_empty
    assert document["PatientSex"].is_empty
    assert document["ReferringPhysicianName"].is_empty
    assert "SourceInstanceSequence" not in document  # it would name films
    cohort, config = DETAILS.digests
    assert cohort[:8] not in str(document)
    assert config[:8] not in str(document)


def test_another_model_is_another_patient(write: Write) -> None:
    ids = {read(write(model_digest=digest * 16)).PatientID for digest in ("ab12", "ab13")}
    assert len(ids) == 2


@pytest.mark.parametrize("kind", ["audit", "mitigation"])
def test_an_audit_and_a_mitigation_are_studies_of_one_model(write: Write, kind: str) -> None:
    document = read(write(kind=kind))
    assert document.StudyDescription == f"Model {kind}, no patient"
    assert document.PatientID == read(write()).PatientID
    assert (document.StudyInstanceUID == read(write()).StudyInstanceUID) == (kind == "audit")


def test_without_a_date_there_is_none(write: Write) -> None:
    document = read(write(date=None))
    dated = [element for element in document if element.VR in ("DA", "TM", "DT")]
    assert len(dated) == 6
    assert all(element.is_empty for element in dated)


def test_a_date_that_is_none_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match="isoformat"):
        write(date="1 March")


def test_burned_in_text_is_told_where_films_of_patients_are_shown(write: Write) -> None:
    assert read(write(shows_patients=True)).BurnedInAnnotation == "YES"
    assert read(write(shows_patients=False)).BurnedInAnnotation == "NO"


def test_the_same_input_gives_the_same_bytes(write: Write) -> None:
    assert write().read_bytes() == write().read_bytes()


def test_a_uid_stands_for_one_content(write: Write) -> None:
    first = read(write())
    for name in UIDS:
        assert UID(first[name].value).is_valid
    assert len({first[name].value for name in UIDS}) == 3
    others = {
        "pages": read(write(PDF + b"x")),
        "title": read(write(title="Another")),
        "name": read(write(name="another")),
        "burned in": read(write(shows_patients=False)),
        "day": read(write(date="2025-03-02")),
        "films": read(write(digests=("cd35" * 16, "ef56" * 16))),
        "model": read(write(model_digest="ab13" * 16)),
        "parts": read(write(digests=("cd34" * 16 + "e", "f56" + "ef56" * 15))),
    }
    assert len({other.SOPInstanceUID for other in others.values()} - {first.SOPInstanceUID}) == 8
    same_study = {k for k, v in others.items() if v.StudyInstanceUID == first.StudyInstanceUID}
    assert same_study == {"pages", "title", "name", "burned in"}
    for other in others.values():
        assert other.SeriesInstanceUID != first.SeriesInstanceUID


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_stays_one_value_within_its_limit(write: Write, text: str) -> None:
    document = read(write(title=text, name=text))
    for name, limit in (("DocumentTitle", 1024), ("SeriesDescription", 64)):
        element = document[name]
        assert element.VM in (0, 1)
        assert isinstance(element.value, str)
        assert len(element.value.encode()) <= limit
        assert "\\" not in element.value
        assert not [c for c in element.value if not c.isprintable()]
    assert document.PatientName == "RAVL-MED^MODEL AUDIT"


def test_text_of_any_script_is_kept(write: Write) -> None:
    document = read(write(title="Prüfung <A> & 胸部X線 🫁", name="a\\b^c"))
    assert document.DocumentTitle == "Prüfung <A> & 胸部X線 🫁"
    assert document.SeriesDescription == "a/b^c"


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is missing")
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("date", ["2025-03-01", None])
def test_dciodvfy_finds_no_error(write: Write, date: str | None, text: str) -> None:
    path = write(PDF + b"\n", date=date, title=text, name=text)
    done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, check=False)
    lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
    assert "EncapsulatedPDF" in lines
    assert not [line for line in lines if line.startswith("Error")]


@pytest.mark.parametrize("wanted", [True, False])
def test_a_mitigation_has_one_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    def write_pages(_result: object, _details: object, folder: Path) -> None:
        (folder / "report.pdf").write_bytes(PDF)

    monkeypatch.setattr(mitigation_folder, "write_mitigation_report", write_pages)
    config = Config.model_validate(
        {
            "name": "run",
            "cohort": {"manifest": "/patients/doe.csv"},
            "task": {"classes": {name: {"prompts": [name]} for name in ("a", "b")}},
            "model": {"path": "/models/clip"},
            "evidence": {"relevance": "/tables/chest.yaml"},
            "report": {"dicom": wanted},
        }
    )
    result, work = made.idle(), WorkFolder(tmp_path / "work")
    run = Mitigation(config, result, work, None, {}, {})
    write_mitigation(run, tmp_path / "run", date=None, history_root=None)
    assert (tmp_path / "run" / "report.dcm").exists() == wanted
    if wanted:
        document = read(tmp_path / "run" / "report.dcm")
        assert document.StudyDescription == "Model mitigation, no patient"
        assert document.BurnedInAnnotation == "NO"
        assert document.PatientID == f"RAVL-MED-{result.audited_digest[:16]}"
        assert document.EncapsulatedDocument[: len(PDF)] == PDF
