"""Identifies a file of an archive: a chest film that may be frontal, a report, or neither.

References
----------
DICOM PS3.3 A.35 (Structured Report IODs), C.17.3 (SR document content), PS3.16 CID 7001 to 7003
(section headings).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from ravl_med.cohort.dicom import naming_reasons, open_dicom
from ravl_med.cohort.dicom_header import read_acquisition, view_of
from ravl_med.cohort.image_file import file_kind, read_film_file
from ravl_med.config.cohort import ReadingConfig
from ravl_med.errors import ImageError

REPORT_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.88.{n}" for n in (11, 22, 33, 34, 35))
"""SOP classes of reports that hold text."""

_DEEPEST, _MOST_ITEMS, _MOST_CHARACTERS = 20, 5_000, 100_000
_SECTIONS = {
    "121070": "FINDINGS",
    "121071": "FINDINGS",
    "121072": "IMPRESSION",
    "121073": "IMPRESSION",
    "121076": "IMPRESSION",
    "121077": "IMPRESSION",
    "121060": "HISTORY",
    "121062": "INDICATION",
    "121068": "COMPARISON",
}


def read_structured_report(dataset: pydicom.Dataset) -> str:
    """Return the text of a report, one line an item, under its section headings; blank if empty.

    Texts, codes and numbers are taken; names of persons, dates, identifiers and references are not.
    """
    lines: list[str] = []
    size, last = 0, ""
    for title, value in islice(_values(dataset, "", 0), _MOST_ITEMS):
        lines.append(value if title == last else _titled(title, value))
        size, last = size + len(lines[-1]), title
        if size > _MOST_CHARACTERS:
            break
    return "\n".join(lines)


def _values(item: pydicom.Dataset, section: str, depth: int) -> Iterator[tuple[str, str]]:
    """Yield heading and text of everything in an item, in order."""
    if depth > _DEEPEST:
        return
    for child in item.get("ContentSequence") or ():
        kind, heading = str(child.get("ValueType") or ""), _heading(child)
        title = heading if heading in _SECTIONS.values() else section or heading
        value = _value(child, kind)
        if value:
            yield title, value
        yield from _values(child, title if kind == "CONTAINER" else section, depth + 1)


def _titled(title: str, value: str) -> str:
    return f"{title}: {value}" if title else value


def _value(item: pydicom.Dataset, kind: str) -> str:
    """Return the content of an item as one line."""
    if kind == "TEXT":
        return " ".join(str(item.get("TextValue") or "").split())
    if kind == "CODE":
        name, meaning = (
            _meaning(item, "ConceptNameCodeSequence"),
            _meaning(item, "ConceptCodeSequence"),
        )
        return _titled(name, f"{meaning}.") if meaning else ""
    if kind == "NUM":
        for measured in item.get("MeasuredValueSequence") or ():
            unit = _meaning(measured, "MeasurementUnitsCodeSequence")
            number = str(measured.get("NumericValue") or "")
            name = _meaning(item, "ConceptNameCodeSequence")
            return _titled(name, f"{number} {unit}.") if number else ""
    return ""


def _heading(item: pydicom.Dataset) -> str:
    for code in item.get("ConceptNameCodeSequence") or ():
        known = _SECTIONS.get(str(code.get("CodeValue") or ""))
        return known or str(code.get("CodeMeaning") or "").strip().upper()
    return ""


def _meaning(item: pydicom.Dataset, name: str) -> str:
    for code in item.get(name) or ():
        return " ".join(str(code.get("CodeMeaning") or "").split())
    return ""


FRONTAL_VIEWS = ("AP", "PA")
_PROJECTIONS = ("CR", "DX", "DR", "RG")
_CAPTURES = ("", "OT", "SC", "XC")  # may be anything, a film among it
_CHEST = re.compile(r"chest|thora[xk]|lung|pulmo|cxr|torax", re.IGNORECASE)
_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"


@dataclass(frozen=True, slots=True, eq=False)
class SurveyedFile:
    """One file of an archive; its identifiers serve for pairing and are never printed."""

    kind: str  # "film" or "report"
    has_header: bool = True  # which says what it shows; PNG and JPEG have none
    certain: bool = False  # the header says frontal chest film; else the pixels must
    patient: str = ""  # identifiers are blank where not stated
    study: str = ""
    accession: str = ""
    instance: str = ""
    when: str = ""  # content date and time, by which reports are ordered
    text: str = ""  # of a report
    attributes: Mapping[str, str] = field(default_factory=dict)  # as `read_acquisition`
    applied: str = ""  # of a film, as in `ImageContent`
    digest: str = ""
    pixels: NDArray[np.float32] | None = None  # (H, W), of a film


def survey_file(path: Path, reading: ReadingConfig) -> SurveyedFile:
    """Identify a file of an archive, and read it where it is a film.

    Raises
    ------
    ImageError
        Besides the reasons of `read_film_file`: ``other_modality``, ``for_processing``,
        ``other_body_part``, ``not_frontal``; ``no_text`` for an empty report.
    """
    kind = file_kind(path)
    if kind == "raster":
        film = read_film_file(path, reading)
        return SurveyedFile(
            "film", has_header=False, applied=film.applied, digest=film.digest, pixels=film.pixels
        )
    if kind != "dicom":
        raise ImageError("not_dicom", "the file is not DICOM, PNG or JPEG.")
    dataset = open_dicom(path, reading)
    with naming_reasons():
        found = _identify(dataset)
        if found.kind == "report":
            if not found.text:
                raise ImageError("no_text", "the structured report holds no text.")
            return found
        found = replace(found, certain=_is_certain(dataset))
    content = read_film_file(path, reading)
    return replace(
        found,
        attributes=content.attributes,
        applied=content.applied,
        digest=content.digest,
        pixels=content.pixels,
    )


def _identify(dataset: pydicom.Dataset) -> SurveyedFile:
    is_report = str(dataset.get("SOPClassUID") or "") in REPORT_CLASSES
    if not is_report and "PixelData" not in dataset:
        raise ImageError("no_pixel_data", "(7FE0,0010) Pixel Data is missing; not an image.")
    return SurveyedFile(
        kind="report" if is_report else "film",
        patient=str(dataset.get("PatientID") or "").strip(),
        study=str(dataset.get("StudyInstanceUID") or "").strip(),
        accession=str(dataset.get("AccessionNumber") or "").strip(),
        instance=str(dataset.get("SOPInstanceUID") or "").strip(),
        when=f"{dataset.get('ContentDate') or ''}{dataset.get('ContentTime') or ''}",
        text=read_structured_report(dataset) if is_report else "",
        attributes=read_acquisition(dataset),
    )


def _is_certain(dataset: pydicom.Dataset) -> bool:
    """Return whether the header says frontal chest film; refuse one that says something else."""
    modality = str(dataset.get("Modality") or "").strip().upper()
    if modality not in (*_PROJECTIONS, *_CAPTURES):
        raise ImageError("other_modality", "(0008,0060) Modality is no projection radiograph.")
    intent = str(dataset.get("PresentationIntentType") or "").upper()
    if dataset.get("SOPClassUID") == _FOR_PROCESSING or intent == "FOR PROCESSING":
        raise ImageError("for_processing", "the film is raw; expected one FOR PRESENTATION.")
    part = str(dataset.get("BodyPartExamined") or "").strip()
    if part and not _CHEST.search(part):
        raise ImageError("other_body_part", "(0018,0015) Body Part Examined is not the chest.")
    view = view_of(dataset)
    if view and view not in FRONTAL_VIEWS:
        raise ImageError("not_frontal", "the header states a view that is neither AP nor PA.")
    study, series = (dataset.get(f"{name}Description") or "" for name in ("Study", "Series"))
    chest = _CHEST.search(f"{part} {study} {series}") is not None
    return bool(modality in _PROJECTIONS and chest and view)
