"""Cells read off the reports of a cohort: sources, what is not recognised, what stops a run."""

from __future__ import annotations

import numpy as np
import pytest

from ravl_med.errors import ConfigError, DataError
from ravl_med.labelling.film_labels import FindingCells, cells_from_reports
from ravl_med.labelling.findings import chest_labeller

GERMAN = "Herz nicht vergrößert. Kein Pneumothorax. Keine Stauung."
TASK = {"cardiomegaly": {"cardiomegaly": 1}, "edema": {"Pulmonary Edema": 1}}


def cells(
    texts: list[str], most: float = 0.5, task: dict[str, dict[str, int]] = TASK
) -> FindingCells:
    return cells_from_reports(
        texts,
        np.array([text != "-" for text in texts]),
        task,
        chest_labeller(),
        max_unrecognised=most,
        name="manifest.csv",
    )


def test_cells_sources_and_reasons() -> None:
    read = cells(
        [
            "FINDINGS: Cardiomegaly. IMPRESSION: Possible edema.",
            "No edema. Heart size is normal.",
            GERMAN,
            "",
            "-",
        ]
    )
    assert read.values == {
        "cardiomegaly": [1, 0, None, None, None],
        "Pulmonary Edema": [-1, 0, None, None, None],
    }
    assert read.sources == [
        "report: findings and impression", "report: free text", "report: free text", "no report",
        "no report",
    ]  # fmt: skip
    assert read.unusable == {2: "report not recognised", 3: "no report"}


def test_too_many_reports_in_another_language_stop_the_run() -> None:
    with pytest.raises(
        DataError,
        match=r"^manifest.csv: nothing is recognised in 2 of 3 reports \(67 %; "
        r"labels.max_unrecognised is 50 %\); expected English reports of chest radiographs\. "
        r"Translate or label these films, or set labels\.source to manifest\.$",
    ):
        cells(["No edema.", GERMAN, GERMAN, ""])
    assert cells(["No edema.", GERMAN, "", ""]).unusable[1] == "report not recognised"
    assert cells([GERMAN], most=1.0).unusable == {0: "report not recognised"}


def test_a_cohort_without_reports() -> None:
    with pytest.raises(
        DataError, match=r"^manifest.csv: .* none of 2 films has one; expected text"
    ):
        cells(["", "HISTORY: edema.", "-"])


@pytest.mark.parametrize(
    ("name", "hint"), [("cardiomegally", r" Did you mean 'cardiomegaly'\?"), ("zzz", "")]
)
def test_a_finding_that_no_report_tells(name: str, hint: str) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"^task.classes.sick: '{name}' is no finding that is read off reports; expected "
        rf"some of cardiomegaly, .*, normal\.{hint} Write them under 'label'",
    ):
        cells(["No edema."], task={"sick": {name: 1}})


def test_no_word_of_a_report_stands_in_an_error() -> None:
    with pytest.raises(DataError) as caught:
        cells(["Frau Mustermann, kein Infiltrat."], most=0.0)
    assert "Mustermann" not in str(caught.value)
