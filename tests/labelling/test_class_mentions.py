"""The class that a report names."""

from __future__ import annotations

import pytest

from ravl_med.labelling.findings import class_of_report

PROMPTS = {
    "cardiomegaly": ["Cardiomegaly.", "The heart is enlarged."],
    "pneumothorax": ["Pneumothorax."],
    "no finding": ["No acute cardiopulmonary abnormality."],
}


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("FINDINGS: Large lungs. IMPRESSION: Cardiomegaly.", 0),
        ("The heart   is\nenlarged", 0),
        ("IMPRESSION: No pneumothorax. Mild cardiomegaly.", 0),
        ("IMPRESSION: Negative for pneumothorax.", -1),
        ("IMPRESSION: No acute cardiopulmonary abnormality.", 2),
        ("FINDINGS: Pneumothorax. IMPRESSION: Cardiomegaly.", 0),
        ("Cardiomegaly; small left pneumothorax.", -1),
        ("Cardiomegaly without pneumothorax.", 0),
        ("hydropneumothorax", -1),
        ("", -1),
    ],
)
def test_a_class_is_named_once_and_not_negated(text: str, label: int) -> None:
    assert class_of_report(text, PROMPTS) == label
