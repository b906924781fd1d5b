"""Acquisition attributes of a film, from its DICOM header; what is not stated stays blank."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date

import pydicom

__all__ = ["HEADER_ATTRIBUTES", "read_acquisition", "view_of"]

HEADER_ATTRIBUTES = (
    "view",
    "portable",
    "sex",
    "age",
    "site",
    "manufacturer",
    "model",
    "study_year",
)
"""What a header is asked for. ``site`` names the institution: number it, never print it."""

_VIEWS = {
    "AP": "AP",
    "PA": "PA",
    "LL": "LATERAL",
    "RL": "LATERAL",
    "LAT": "LATERAL",
    "LATERAL": "LATERAL",
    "LLD": "DECUBITUS",
    "RLD": "DECUBITUS",
}
_VIEW_CODES = {  # SNOMED CT and SNOMED RT, CID 4010
    "399348003": "AP",
    "272479007": "PA",
    "399067008": "LATERAL",
    "R-10206": "AP",
    "R-10214": "PA",
    "R-10236": "LATERAL",
}
_VIEW_WORDS = (
    (re.compile(r"\b(lat|lateral|ll|seitl\w*)\b", re.IGNORECASE), "LATERAL"),
    (re.compile(r"\b(p\.?a\.?)\b", re.IGNORECASE), "PA"),
    (re.compile(r"\b(a\.?p\.?)\b", re.IGNORECASE), "AP"),
)
_PORTABLE = re.compile(r"\b(portable|mobile|bedside|bettlunge|port)\b", re.IGNORECASE)
_DESCRIPTIONS = (
    "SeriesDescription",
    "StudyDescription",
    "ProtocolName",
    "PerformedProcedureStepDescription",
    "AcquisitionDeviceProcessingDescription",
)
_LONGEST = 64  # characters of an LO value
_OLDEST = 90  # older ages are told as this one


def read_acquisition(dataset: pydicom.Dataset) -> Mapping[str, str]:
    """Return the attributes of `HEADER_ATTRIBUTES` that a header states.

    Parameters
    ----------
    dataset : pydicom.Dataset

    Returns
    -------
    mapping of str to str
        ``view`` is AP, PA, LATERAL or DECUBITUS; ``portable`` is ``yes`` where a description says
        so, else missing; ``age`` is in years, at most 90; ``study_year`` has four digits.
    """
    found = {
        "view": view_of(dataset),
        "portable": "yes" if _says_portable(dataset) else "",
        "sex": _text(dataset, "PatientSex").upper()[:1],
        "age": _age(dataset),
        "site": _text(dataset, "InstitutionName"),
        "manufacturer": _text(dataset, "Manufacturer"),
        "model": _text(dataset, "ManufacturerModelName"),
        "study_year": _year(dataset),
    }
    if found["sex"] not in ("F", "M", "O"):
        found["sex"] = ""
    return {name: value for name, value in found.items() if value}


def view_of(dataset: pydicom.Dataset) -> str:
    """Return AP, PA, LATERAL, DECUBITUS, another stated view in capitals, or blank."""
    stated = _text(dataset, "ViewPosition").upper()
    if stated:
        return _VIEWS.get(stated, stated)
    for code in dataset.get("ViewCodeSequence") or ():
        view = _VIEW_CODES.get(_text(code, "CodeValue"))
        if view:
            return view
    told = " ".join(_text(dataset, name) for name in _DESCRIPTIONS)
    return next((view for words, view in _VIEW_WORDS if words.search(told)), "")


def _says_portable(dataset: pydicom.Dataset) -> bool:
    told = " ".join(_text(dataset, name) for name in (*_DESCRIPTIONS, "ManufacturerModelName"))
    return _PORTABLE.search(told.replace("_", " ")) is not None


def _age(dataset: pydicom.Dataset) -> str:
    """Years, from the age or from birth to study; months, weeks and days stay as they are."""
    stated = _text(dataset, "PatientAge").upper()
    if re.fullmatch(r"\d{3}[MWD]", stated):
        return stated
    if re.fullmatch(r"\d{1,3}Y?", stated):
        return str(min(int(stated.rstrip("Y")), _OLDEST))
    born, taken = _day(dataset, "PatientBirthDate"), _day(dataset, "StudyDate")
    if born is None or taken is None or taken < born:
        return ""
    years = taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))
    return str(min(years, _OLDEST))


def _year(dataset: pydicom.Dataset) -> str:
    day = _day(dataset, "StudyDate") or _day(dataset, "AcquisitionDate")
    return "" if day is None else f"{day.year:04d}"


def _day(dataset: pydicom.Dataset, name: str) -> date | None:
    text = _text(dataset, name).replace(".", "")
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return None


def _text(dataset: pydicom.Dataset, name: str) -> str:
    """One printable line of an element, blank where it is missing or cannot be read."""
    try:
        value = dataset.get(name)
    except Exception:  # a value that its VR does not allow
        return ""
    if value is None or isinstance(value, (bytes, pydicom.Sequence)):
        return ""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return " ".join(text.split())[:_LONGEST]
