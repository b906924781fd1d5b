"""The page on what answers depend on, its JSON and archive, and what of it is hidden."""

import json
import math
from dataclasses import replace

import jsonschema
import pytest
from html_reading import read_html

from ravl_med.config.audit import GateConfig
from ravl_med.errors import DataError
from ravl_med.evidence.audit_result import (
    AuditResult,
    Dependence,
    DependenceCell,
    StyleDependence,
    result_document,
)
from ravl_med.evidence.disclosure_control import HIDDEN, hide_small_cells
from ravl_med.evidence.results import Interval
from ravl_med.evidence.verdict import decide_verdict
from ravl_med.reporting.audit.search import dependence_chapter
from ravl_med.reporting.files.saved_run import read_archive, write_archive
from ravl_med.reporting.layout.blocks import Items, Table, Text
from ravl_med.reporting.wording import DASH, NBSP
from ravl_med.storage.documents import schema_of

NAN = math.nan
CHANGES = {
    "structure": ("heart", "left lung", "devices", "border"),
    "anatomy": ("border alone", "relevant covered", "relevant alone"),
    "style": ("gamma 0.7", "contrast 1.4", "horizontal flip"),
}
SENTENCE = "cardiomegaly depends on exposure: its margin rises by 0.82. A radiologist decides."


def make_dependence(classes, **changes) -> Dependence:
    cells = [
        DependenceCell(
            name, group, change, 80, 60, NAN if group == "style" else 0.12,
            1.8 if change.startswith("gamma") else NAN, -0.42, Interval(-0.6, -0.2), 0.25,
            Interval(0.2, 0.3), 0.91, 0.74, Interval(0.66, 0.81), 0.8,
        )
        for group, names in CHANGES.items()
        for change in names
        for name in classes
    ]  # fmt: skip
    few = {"shift": NAN, "flips": NAN, "auroc_after": NAN, "note": "fewer than 20 films"}
    cells = [
        replace(c, films=15, patients=13, **few) if c.change == "devices" else c for c in cells
    ]
    styles = [
        StyleDependence(
            name, style, 90, 64, 0.05, 0.4, 0.5, 0.82 - at / 2, Interval(0.7 - at / 2, 0.9), 0.4,
            Interval(0.3, 0.5), at == 0,
        )
        for at, name in enumerate(classes)
        for style in ("brightness", "frame")
    ]  # fmt: skip
    made = Dependence(90, 64, 3150, 0.5, tuple(cells), tuple(styles), (SENTENCE,))
    return replace(made, **changes)


@pytest.fixture
def depending(result_of) -> AuditResult:
    result = result_of()
    return replace(result, dependence=make_dependence(result.classes))


def test_a_row_a_change_and_a_column_a_finding(depending):
    content = dependence_chapter(depending)
    tables = {block.caption: block for block in content if isinstance(block, Table)}
    assert list(tables) == [
        "Structures covered",
        "AUROC that is left",
        "Styles changed by a fixed step",
        "Styles over the spread of these films",
    ]
    heart = tables["Structures covered"].rows[0]
    assert heart[0] == "heart"
    assert "12" in heart[2]
    assert heart[3] == f"−0.42{NBSP}·{NBSP}25{NBSP}%"
    assert tables["Structures covered"].rows[2][3] == DASH
    assert tables["AUROC that is left"].rows[0][2].startswith("0.74 (0.66")
    assert tables["Styles changed by a fixed step"].rows[0][2] == "1.8"
    assert tables["Styles over the spread of these films"].rows[0][4] == "beyond"
    assert [block.items for block in content if isinstance(block, Items)] == [(SENTENCE,)]


def test_without_a_finding_a_line_says_so(depending):
    plain = replace(depending, dependence=replace(depending.dependence, findings=()))
    texts = [block.text for block in dependence_chapter(plain) if isinstance(block, Text)]
    assert texts[-1].startswith("No style moves a finding by more than 0.5")


def test_a_table_of_scores_and_an_older_run_say_why_there_is_nothing(result_of):
    older = result_of()
    table = replace(older, task=replace(older.task, scores="table"))
    (said,) = (b.text for b in dependence_chapter(table) if isinstance(b, Text))
    assert "known by its scores alone" in said
    (said,) = (b.text for b in dependence_chapter(older) if isinstance(b, Text))
    assert said.startswith("This was not measured")


def test_a_stopped_audit_has_no_such_page(stopped_result):
    assert dependence_chapter(stopped_result) == []


def test_the_page_is_on_paper_and_on_a_screen(depending, report_of, details):
    folder = report_of(depending, details)
    page = read_html((folder / "report.html").read_text(encoding="utf-8"))
    assert SENTENCE in page.text
    assert "What the answers depend on" in page.text


def test_json_holds_it_and_the_archive_gives_it_back(depending, tmp_path):
    document = result_document(depending, 10).model_dump(mode="json")
    jsonschema.Draft202012Validator(schema_of(AuditResult)).validate(
        json.loads(json.dumps(document, allow_nan=False))
    )
    assert document["dependence"]["findings"] == [SENTENCE]
    assert document["dependence"]["cells"][0]["shift_interval"] == [-0.6, -0.2]
    write_archive(depending, tmp_path)
    assert repr(read_archive(AuditResult, tmp_path).dependence) == repr(depending.dependence)


def test_an_archive_from_before_is_refused(depending, tmp_path):
    write_archive(depending, tmp_path)
    file = tmp_path / "archive.json"
    stored = json.loads(file.read_text())
    del stored["dependence"]
    file.write_text(json.dumps(stored))
    with pytest.raises(DataError, match="of another version"):
        read_archive(AuditResult, tmp_path)


class TestFewPatients:
    def test_rows_of_few_patients_are_hidden_whole(self, depending):
        few = replace(depending.dependence.cells[0], films=20, patients=9)
        shown = self.hide(depending, cells=(few,)).cells[0]
        assert (shown.films, shown.patients) == (HIDDEN, HIDDEN)
        assert math.isnan(shown.shift)
        assert math.isnan(shown.flips)
        assert shown.finding == few.finding

    def test_few_patients_that_a_row_leaves_out_do_not_follow(self, depending):
        most = replace(depending.dependence.cells[0], films=86, patients=60)
        shown = self.hide(depending, cells=(most,)).cells[0]
        assert (shown.films, shown.patients) == (HIDDEN, HIDDEN)
        assert shown.shift == most.shift

    def test_areas_of_a_small_class_are_hidden(self, depending):
        cohort = replace(
            depending.cohort,
            patients_by_class=dict(zip(depending.classes, (5, 6, 50), strict=True)),
        )
        shown = self.hide(replace(depending, cohort=cohort)).cells
        areas = {cell.finding: math.isnan(cell.auroc_before) for cell in shown if not cell.note}
        assert list(areas.values()) == [True, True, False]

    @staticmethod
    def hide(result, **changes):
        made = replace(result.dependence, **changes)
        shown = hide_small_cells(replace(result, dependence=made), 11).dependence
        assert shown is not None
        return shown


def test_a_style_is_a_point_for_a_reviewer(null_result):
    plain = decide_verdict([], null_result.classes, GateConfig(), null_result.sensitivity)
    found = decide_verdict(
        [], null_result.classes, GateConfig(), null_result.sensitivity, styles=(SENTENCE,)
    )
    assert plain.name != "review"
    assert (found.name, found.reasons) == ("review", (SENTENCE,))
