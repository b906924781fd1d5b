"""Facts from a DICOM header: acquisition attributes, and the patient's side at the left edge.

What the header does not state stays blank; neither pixels nor the view are used to guess it.

References
----------
DICOM PS3.3 C.7.6.1.1.1, Patient Orientation. It describes the stored rows and columns, so earlier
flips need no care: Field of View Horizontal Flip (0018,7034) records a flip that *has been*
applied to the stored pixels (C.8.11.4, DX Detector Module). Laterality (0020,0060) and Image
Laterality (0020,0062) name one of a pair of body parts, such as a breast, and no image edge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Literal, get_args

import pydicom

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
_VIEW_PATTERNS = (
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
_OLDEST = 90  # older ages are given as this one


def read_acquisition(dataset: pydicom.Dataset) -> Mapping[str, str]:
    """Return the acquisition attributes that a header states, under a manifest's column names.

    ``view`` is AP, PA, LATERAL or DECUBITUS; ``portable`` is ``yes`` or missing; ``age`` is in
    years, at most 90; ``study_year`` has four digits; ``site`` is the name of the institution,
    which must be numbered and never printed.
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
    """Return AP, PA, LATERAL, DECUBITUS, another stated view in capitals, or blank.

    Descriptions count one by one, the narrowest first; one of several views, as of a whole study,
    says nothing of this film.
    """
    stated = _text(dataset, "ViewPosition").upper()
    if stated:
        return _VIEWS.get(stated, stated)
    for code in dataset.get("ViewCodeSequence") or ():
        view = _VIEW_CODES.get(_text(code, "CodeValue"))
        if view:
            return view
    for name in _DESCRIPTIONS:
        text = _text(dataset, name)
        views = [view for pattern, view in _VIEW_PATTERNS if pattern.search(text)]
        if len(views) == 1:
            return views[0]
    return ""


def _says_portable(dataset: pydicom.Dataset) -> bool:
    text = " ".join(_text(dataset, name) for name in (*_DESCRIPTIONS, "ManufacturerModelName"))
    return _PORTABLE.search(text.replace("_", " ")) is not None


def _age(dataset: pydicom.Dataset) -> str:
    """Return years, from age or from birth to study; months, weeks and days stay as they are."""
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
    """Return one printable line of an element, blank where it is missing or unreadable."""
    try:
        value = dataset.get(name)
    except Exception:  # a value that its VR does not allow
        return ""
    if value is None or isinstance(value, (bytes, pydicom.Sequence)):
        return ""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return " ".join(text.split())[:_LONGEST]


Edge = Literal["", "R", "L", "A", "P", "H", "F"]
"""Right, left, anterior, posterior, head or foot of the patient; blank: not stated."""

EDGES: tuple[Edge, ...] = get_args(Edge)

_OPPOSITE: Mapping[str, Edge] = {"R": "L", "L": "R", "A": "P", "P": "A", "H": "F", "F": "H"}
_AXIS = {letter: frozenset((letter, other)) for letter, other in _OPPOSITE.items()}
_MOST_LETTERS = 3


def edge_of(text: str) -> Edge:
    """Return a letter as an edge, blank for anything else."""
    return next((edge for edge in EDGES if edge == text), "")


def left_edge_of(dataset: pydicom.Dataset) -> Edge:
    r"""Return the side of the patient at the left edge of a DICOM image.

    Patient Orientation (0020,0020) names the directions of the rows, towards the right edge, and of
    the columns; the first letter of a compound value such as ``LF`` is the main direction. ``L\F``
    has the patient's right at the left edge, ``R\F`` is mirrored, ``A\F`` is a lateral film. The
    result is blank where the value is missing, is not two directions on different axes, or
    describes a quadruped, whose letters have other meanings.
    """
    try:
        stated = dataset.get("PatientOrientation")
        kind = str(dataset.get("AnatomicalOrientationType") or "BIPED").strip()
    except Exception:  # a value that its VR does not allow
        return ""
    if kind != "BIPED" or not isinstance(stated, Sequence) or isinstance(stated, (str, bytes)):
        return ""
    if len(stated) != 2:
        return ""
    rows, columns = (_main_direction(str(value).strip(" ")) for value in stated)
    if not rows or not columns or _AXIS[rows] == _AXIS[columns]:
        return ""
    return _OPPOSITE[rows]


_MOST_PIXEL_MM = 10.0


def pixel_mm_of(dataset: pydicom.Dataset) -> float:
    """Return the width of a pixel in millimetres, 0 where it is not stated.

    Pixel Spacing (0028,0030) or, at the detector, Imager Pixel Spacing (0018,1164); the second
    value is the distance of columns.
    """
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            value = valid_pixel_mm(float(dataset[name].value[1]))
        except Exception:  # missing, or a value that its VR does not allow
            continue
        if value:
            return value
    return 0.0


def valid_pixel_mm(value: float) -> float:
    """Return the width of a pixel that a film can have, 0 for any other."""
    return value if 0.0 < value <= _MOST_PIXEL_MM else 0.0


def _main_direction(value: str) -> str:
    """Return the first letter of a direction, blank where it is invalid."""
    if not 1 <= len(value) <= _MOST_LETTERS or any(letter not in _OPPOSITE for letter in value):
        return ""
    axes = {_AXIS[letter] for letter in value}
    return value[0] if len(axes) == len(value) else ""
