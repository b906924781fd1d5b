"""The report as a DICOM document: the PDF itself, inside an Encapsulated PDF.

An audit is about a model, so the document has a patient and a study of its own and never stands
under those of the films. Nothing in the header comes from the cohort but a hash in the UIDs.

References
----------
DICOM PS3.3 A.45.1 Encapsulated PDF IOD; C.24.1 Encapsulated Document Series; C.24.2 Encapsulated
Document; C.8.6.1 SC Equipment; C.7.5.1 General Equipment; C.7.1.1 Patient; C.7.2.1 General Study.
DICOM PS3.5 6.2 Value Representation; B.1 Unique Identifiers.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Literal

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, EncapsulatedPDFStorage, ExplicitVRLittleEndian, generate_uid

from ravl_med import __version__

# Length of an LO and of an ST: characters by PS3.5 6.2, but readers count bytes.
_LONG_STRING, _SHORT_TEXT = 64, 1024
_STUDIES = {"audit": "Model audit, no patient", "mitigation": "Model mitigation, no patient"}


@dataclass(frozen=True, slots=True)
class DocumentDetails:
    """What the header says of the report."""

    kind: Literal["audit", "mitigation"]  # ``audit`` or ``mitigation``
    name: str  # of the run and of its report; any text
    title: str
    date: str | None  # of the run, ISO 8601; None leaves the dates of the document empty
    model_digest: str  # SHA-256 of the audited model: the "patient"
    digests: tuple[str, ...]  # of what else the run came from; with the model they are the study
    shows_patients: bool  # films of patients are among the pictures


def write_dicom_pdf(pdf: Path, path: Path, details: DocumentDetails) -> None:
    """Write a report as a DICOM Encapsulated PDF, Explicit VR Little Endian; always the same bytes.

    Raises
    ------
    ValueError
        The date is not ISO 8601.

    Notes
    -----
    Source Instance Sequence (0042,0013) is left out: it would name the films of patients, and the
    report says what a model does, not what they show. Concept Name Code Sequence (0040,A043),
    type 2, is empty: the codes of CID 7020 are titles of reports on a patient, and one of them
    would file an audit among those.

    References
    ----------
    DICOM PS3.3 A.45.1; PS3.10 7.1.
    """
    content = pdf.read_bytes()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    document = FileDataset(BytesIO(), {}, file_meta=meta, preamble=b"\0" * 128)
    document.SpecificCharacterSet = "ISO_IR 192"
    day = "" if details.date is None else date.fromisoformat(details.date).strftime("%Y%m%d")
    _describe_subject(document, details, day)
    _describe_series(document, details)
    _describe_document(document, details, day)
    _embed(document, content)
    document.SOPClassUID = EncapsulatedPDFStorage
    _identify(document, details, hashlib.sha256(content).hexdigest())
    meta.MediaStorageSOPInstanceUID = document.SOPInstanceUID
    document.save_as(path, enforce_file_format=True)


def _describe_subject(document: FileDataset, details: DocumentDetails, day: str) -> None:
    """Fill the modules Patient and General Study (PS3.3 C.7.1.1, C.7.2.1)."""
    document.PatientName = "RAVL-MED^MODEL AUDIT"
    document.PatientID = f"RAVL-MED-{_text(details.model_digest, 16)}"
    document.IssuerOfPatientID = "RAVL-MED"  # no hospital's numbers, so no patient of theirs
    document.PatientBirthDate = ""
    document.PatientSex = ""
    document.StudyDate = day
    document.StudyTime = ""
    document.ReferringPhysicianName = ""
    document.StudyID = ""
    document.AccessionNumber = ""
    document.StudyDescription = _STUDIES[details.kind]


def _describe_series(document: FileDataset, details: DocumentDetails) -> None:
    """Fill Encapsulated Document Series, General and SC Equipment (C.24.1, C.7.5.1, C.8.6.1)."""
    document.Modality = "DOC"
    document.SeriesNumber = 1
    document.SeriesDescription = _text(details.name, _LONG_STRING)
    document.Manufacturer = "RaVL-Med"
    document.ManufacturerModelName = "ravl-med"
    document.SoftwareVersions = __version__
    document.ConversionType = "WSD"  # made at a workstation


def _describe_document(document: FileDataset, details: DocumentDetails, day: str) -> None:
    """Fill the module Encapsulated Document (PS3.3 C.24.2) but for the document."""
    document.InstanceNumber = 1
    document.ContentDate = day
    document.ContentTime = ""
    document.AcquisitionDateTime = ""
    # Text that is burned into a film cannot be known from its header, and pictures show it.
    document.BurnedInAnnotation = "YES" if details.shows_patients else "NO"
    document.DocumentTitle = _text(details.title, _SHORT_TEXT)
    document.ConceptNameCodeSequence = Sequence()
    document.VerificationFlag = "UNVERIFIED"
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"


def _embed(document: FileDataset, content: bytes) -> None:
    """Embed the PDF, padded to an even length (PS3.5 6.2, OB), and write its own length."""
    document.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    document.EncapsulatedDocumentLength = len(content)


def _identify(document: FileDataset, details: DocumentDetails, content_digest: str) -> None:
    """Derive the UIDs, each for one content: the study's from the run, others from all of it."""
    run = (details.kind, str(document.StudyDate), details.model_digest, *details.digests)
    title, name = str(document.DocumentTitle), str(document.SeriesDescription)
    burned_in = str(document.BurnedInAnnotation)
    whole = (*run, content_digest, title, name, burned_in, __version__)
    document.StudyInstanceUID = _uid("study", *run)
    document.SeriesInstanceUID = _uid("series", *whole)
    document.SOPInstanceUID = _uid("instance", *whole)


def _uid(*parts: str) -> UID:
    """Derive a UID from its parts, which are kept apart."""
    return generate_uid(entropy_srcs=["".join(f"{len(part)}:{part}" for part in parts)])


def _text(text: str, limit: int) -> str:
    """Return text as one value of one line of at most `limit` bytes (PS3.5 6.2 and 6.4)."""
    normal = unicodedata.normalize("NFC", text[: 8 * limit]).replace("\\", "/")
    kept = (c for c in normal if c.isspace() or not unicodedata.category(c).startswith("C"))
    flat = " ".join("".join(kept).split())
    return flat.encode()[:limit].decode(errors="ignore").rstrip()
