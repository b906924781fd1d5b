"""Page one names what gives away the label, whatever the verdict; a table lists all attributes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ravl_med.config.audit import EvidenceConfig
from ravl_med.evidence.audit_result import AuditResult, result_document
from ravl_med.evidence.confounders import measure_confounders, with_confounders
from ravl_med.evidence.disclosure_control import hide_small_cells
from ravl_med.reporting.audit.cohort import cohort_chapter
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.verdict import verdict_chapter
from ravl_med.reporting.files.saved_run import read_archive, write_archive
from ravl_med.reporting.layout import blocks

EVIDENCE = EvidenceConfig.model_construct(seed=0, confidence=0.95)


def confounded(result: AuditResult, few: int, least: int = 0) -> AuditResult:
    """Every PA film is of the first class, and so are all but `few` of the other class' AP films.

    Sex has nothing to do with it, and all films come from one site.
    """
    labels = np.repeat([0, 0, 1], [88, few, 90])
    axes = {
        "view": ["PA"] * 88 + ["AP"] * (few + 90),
        "sex": np.random.default_rng(0).choice(["F", "M"], len(labels)).tolist(),
        "site": ["1"] * len(labels),
    }
    found = measure_confounders(
        axes, labels, np.arange(len(labels)), result.task.classes, EVIDENCE, least
    )
    return replace(result, confounders=found, verdict=with_confounders(result.verdict, found))


def texts(content: list[blocks.Block], kind: type) -> list[str]:
    return [block.text for block in content if isinstance(block, kind)]


def reasons(result: AuditResult) -> tuple[str, ...]:
    page = verdict_chapter(result, [], None, None)
    return [block for block in page if isinstance(block, blocks.Items)][-1].items


def attribute_table(result: AuditResult) -> blocks.Table | None:
    tables = [block for block in cohort_chapter(result) if isinstance(block, blocks.Table)]
    return next((one for one in tables if one.caption == "Attributes that go with the label"), None)


@pytest.mark.parametrize("kind", ["null_result", "stopped_result", "full_result"])
def test_page_one_names_it_whatever_the_verdict(kind: str, request: pytest.FixtureRequest) -> None:
    result = confounded(request.getfixturevalue(kind), 30)
    assert sum("View alone gives away the label" in one for one in reasons(result)) == 1
    assert any("88 of 88 patients" in one for one in reasons(result))
    said = texts(verdict_chapter(result, [], None, None), blocks.Text)
    assert any("Only other films can separate label and view" in one for one in said)
    assert (
        result.verdict.name
        == {
            "null_result": "review",
            "stopped_result": "not_auditable",
            "full_result": "fail",
        }[kind]
    )


def test_paper_and_browser_show_the_line_and_the_table(
    stopped_result: AuditResult,
    details: ReportDetails,
    report_of: Callable[[AuditResult, ReportDetails], Path],
) -> None:
    html = (report_of(confounded(stopped_result, 30), details) / "report.html").read_text()
    assert "every PA film is labelled cardiomegaly (88 of 88 patients)" in html
    assert "Attributes that go with the label" in html


def test_the_table_lists_every_attribute_and_why_one_is_left_out(null_result: AuditResult) -> None:
    table = attribute_table(confounded(null_result, 30))
    assert table is not None
    assert [row[0] for row in table.rows] == ["view !", "sex"]
    assert table.rows[0][4] == "PA: cardiomegaly in 88 of 88 patients, elsewhere 25\u00a0%"
    assert "site (one value)" in table.note
    assert attribute_table(null_result) is None


def test_a_small_cell_is_in_no_number_of_page_table_or_json(null_result: AuditResult) -> None:
    cohort = replace(null_result.cohort, attribute_patients=None)
    shown = hide_small_cells(confounded(replace(null_result, cohort=cohort), 4, 11), 11)
    (line,) = [one for one in reasons(shown) if "View alone" in one]
    assert not any(digit in line for digit in "0123456789")
    table = attribute_table(shown)
    assert table is not None
    assert table.rows[0][1:] == ("–", "–", "cardiomegaly –", "PA: cardiomegaly, hidden")
    view = result_document(shown, 5).model_dump()["confounders"][0]
    assert view["association"] is view["auroc"] is view["strongest"]["patients"] is None
    assert "patients" not in view


def test_json_and_archive_hold_it(null_result: AuditResult, tmp_path: Path) -> None:
    result = confounded(null_result, 30)
    document = result_document(result, 5).model_dump()
    assert [one["attribute"] for one in document["confounders"]] == ["view", "sex", "site"]
    assert document["confounders"][0]["strongest"]["finding"] == "cardiomegaly"
    assert result_document(null_result, 5).model_dump()["confounders"] is None
    write_archive(result, tmp_path)
    again = read_archive(AuditResult, tmp_path).confounders
    assert again is not None
    assert result.confounders is not None
    patients: NDArray[np.int64] | None = again[0].patients
    assert patients is not None
    assert (patients == result.confounders[0].patients).all()
    assert again[0].sentence == result.confounders[0].sentence
