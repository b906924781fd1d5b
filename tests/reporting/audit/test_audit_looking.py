"""The page on whether the model looks at the film, its JSON, and what of it is hidden."""

import json
import math
from dataclasses import replace

import jsonschema
import pytest
from html_reading import read_html

from ravl_med.evidence.audit_result import (
    AuditResult,
    LookingCell,
    LookingCheck,
    Regrounding,
    Rewording,
    WrittenPair,
    result_document,
)
from ravl_med.evidence.disclosure_control import HIDDEN, hide_small_cells
from ravl_med.evidence.results import Interval
from ravl_med.reporting.audit.looking import looking_chapter, written_part
from ravl_med.reporting.layout.blocks import Table, Text
from ravl_med.reporting.wording import DASH
from ravl_med.storage.documents import schema_of

NAN = math.nan
SENTENCE = "Ignores the film: 98 % of the answers stay when another patient's film is shown."
SURE = Interval(0.7, 0.9)


def make_looking(classes, **changes) -> LookingCheck:
    conditions = tuple(
        LookingCell(name, 90, 64, 0.8, SURE, 0.9, stay, SURE)
        for name, stay in (("the film", 1.0), ("a blank film", 0.3), ("noise", 0.2))
    )
    few = LookingCell("another patient, same label", 12, 9, NAN, Interval(NAN, NAN), NAN, NAN,
                      Interval(NAN, NAN), "fewer than 20 films")  # fmt: skip
    grounding = tuple(
        Regrounding(name, kind, 30, 25, 0.25, Interval(0.1, 0.4))
        for name in classes
        for kind in ("direct", "contextual")
    )
    wordings = (Rewording("Is there {} here?", 0.95, Interval(0.9, 0.99), 0.97),)
    made = LookingCheck(90, 64, (*conditions, few), grounding, wordings, "")
    return replace(made, **changes)


@pytest.fixture
def looking(result_of) -> AuditResult:
    result = result_of()
    return replace(result, looking=make_looking(result.classes))


def test_a_row_a_condition_a_finding_and_a_wording(looking):
    tables = {b.caption: b for b in looking_chapter(looking) if isinstance(b, Table)}
    shown, covered, words = tables.values()
    assert [row[0] for row in shown.rows] == [
        "the film", "a blank film", "noise", "another patient, same label"
    ]  # fmt: skip
    assert shown.rows[3][2:] == (DASH, DASH, DASH)
    assert len(covered.rows) == len(looking.classes)
    assert "Is there {} here?" in words.rows[0][0]
    first = next(b for b in looking_chapter(looking) if isinstance(b, Text))
    assert first.text.startswith("The answers follow the film")


def test_a_model_that_ignores_the_film_is_said_on_the_page(looking, report_of, details):
    ignoring = replace(looking, looking=replace(looking.looking, ignores=SENTENCE))
    folder = report_of(ignoring, details)
    page = read_html((folder / "report.html").read_text(encoding="utf-8"))
    assert SENTENCE in page.text
    assert "Does it look?" in page.text


def test_json_holds_it_and_an_older_run_has_none(looking):
    document = result_document(looking, 10).model_dump(mode="json")
    jsonschema.Draft202012Validator(schema_of(AuditResult)).validate(
        json.loads(json.dumps(document, allow_nan=False))
    )
    assert document["looking"]["conditions"][1]["unchanged"] == 0.3
    assert document["looking"]["conditions"][3]["accuracy"] is None
    assert looking_chapter(replace(looking, looking=None)) == []


def test_rows_of_few_patients_and_small_classes_are_hidden(looking):
    small = dict(zip(looking.classes, (5, 6, 50), strict=True))
    cohort = replace(looking.cohort, patients_by_class=small, synthetic=False)
    shown = hide_small_cells(replace(looking, cohort=cohort), 11).looking
    assert shown is not None
    assert (shown.conditions[3].films, shown.conditions[3].patients) == (HIDDEN, HIDDEN)
    hidden = [math.isnan(one.share) for one in shown.grounding]
    assert hidden == [True] * 4 + [False] * 2


def test_a_sentence_that_changes_is_marked(looking):
    pair = WrittenPair(
        1, "image-1", "The heart is large. No effusion.", "Heart normal. No effusion."
    )
    result = replace(looking, written=(pair,))
    first, second = result.correlations[:2]
    (table,) = written_part(result, first)
    assert table.rows == (("» The heart is large. No effusion.", "» Heart normal. No effusion."),)
    assert written_part(result, second) == []
    assert written_part(looking, first) == []
