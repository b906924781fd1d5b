"""Text of structured reports: sections and their texts, no person, no date."""

from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from ravl_med.cohort.survey import read_structured_report

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"


def code(meaning: str, value: str = "x") -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return Sequence([item])


def item(kind: str, name: Sequence | None = None, **tags: Any) -> Dataset:
    made = Dataset()
    made.ValueType = kind
    if name is not None:
        made.ConceptNameCodeSequence = name
    for tag, value in tags.items():
        setattr(made, tag, value)
    return made


def document(*items: Dataset) -> Dataset:
    return item("CONTAINER", code("Radiology report"), ContentSequence=Sequence(items))


def test_basic_text_in_sections() -> None:
    text = read_structured_report(
        document(
            item("PNAME", code("Recording observer"), PersonName="Doe^John"),
            item("DATE", code("Study date"), Date="20200102"),
            item("UIDREF", code("Study UID"), UID="1.2.3"),
            item(
                "CONTAINER",
                code("Findings", "121070"),
                ContentSequence=Sequence(
                    [
                        item("TEXT", code("Finding", "121071"), TextValue="The heart\r\nis large."),
                        item("TEXT", code("Finding", "121071"), TextValue="Lungs are clear."),
                    ]
                ),
            ),
            item("TEXT", code("Conclusion", "121077"), TextValue="Cardiomegaly."),
        )
    )
    assert text == "FINDINGS: The heart is large.\nLungs are clear.\nIMPRESSION: Cardiomegaly."


def test_codes_and_numbers_of_a_comprehensive_report() -> None:
    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "0.61", code("ratio")
    text = read_structured_report(
        document(
            item(
                "CODE",
                code("Finding", "121071"),
                ConceptCodeSequence=code("Pleural effusion"),
                ContentSequence=Sequence(
                    [item("CODE", code("Laterality"), ConceptCodeSequence=code("Left"))]
                ),
            ),
            item("NUM", code("Cardiothoracic ratio"), MeasuredValueSequence=Sequence([measured])),
            item("NUM", code("Nothing measured"), MeasuredValueSequence=Sequence([])),
        )
    )
    assert text.splitlines() == [
        "FINDINGS: Finding: Pleural effusion.",
        "LATERALITY: Laterality: Left.",
        "CARDIOTHORACIC RATIO: Cardiothoracic ratio: 0.61 ratio.",
    ]


def test_a_report_without_content_is_blank() -> None:
    assert read_structured_report(document()) == ""
    assert read_structured_report(Dataset()) == ""


def test_depth_and_length_have_an_end() -> None:
    deep = item("TEXT", code("Finding", "121071"), TextValue="deepest")
    for _ in range(60):
        deep = item("CONTAINER", None, ContentSequence=Sequence([deep]))
    assert read_structured_report(document(deep)) == ""
    texts = [item("TEXT", code("A"), TextValue="x" * 1000) for _ in range(500)]
    assert len(read_structured_report(document(*texts))) < 103_000


def test_reports_that_pydicom_brings() -> None:
    text = read_structured_report(pydicom.dcmread(BUNDLED / "reportsi.dcm"))
    assert text
    assert "^" not in text
