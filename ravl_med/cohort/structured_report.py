"""Text of a DICOM Structured Report: basic text, enhanced, comprehensive.

References
----------
DICOM PS3.3 A.35 (Structured Report IODs), C.17.3 (SR document content), PS3.16 CID 7001 to 7003
(section headings).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pydicom

__all__ = ["REPORT_CLASSES", "read_structured_report"]

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
    """Return what a report says, a line each, with its section headings.

    Texts, codes and numbers are taken; names of persons, dates, identifiers and references are not.

    Parameters
    ----------
    dataset : pydicom.Dataset

    Returns
    -------
    str - such as ``FINDINGS: The heart is enlarged.``, blank where there is nothing
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
    """Yield heading and text of all that lies in an item, in order."""
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
    """Say on one line what an item holds."""
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
