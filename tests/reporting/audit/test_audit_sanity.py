"""The sanity of the model on the page and in the JSON; hidden classes tell no number."""

import json
import math
from dataclasses import replace

import jsonschema

from ravl_med.evidence.audit_result import (
    AuditResult,
    FindingAuroc,
    ModelCheck,
    ModelChecks,
    result_document,
)
from ravl_med.evidence.disclosure_control import hide_small_cells
from ravl_med.evidence.results import Interval
from ravl_med.reporting.audit.cohort import model_checks_part, performance_annex
from ravl_med.reporting.files.saved_run import read_archive, write_archive
from ravl_med.reporting.layout.blocks import Table
from ravl_med.storage.documents import schema_of


def with_sanity(result):
    findings = tuple(
        FindingAuroc(
            name, 40, 0.8125 - 0.1 * c, Interval(0.6 - 0.1 * c, 0.9 - 0.1 * c),
            0.7 if c == 0 else math.nan, 0.85 if c == 0 else math.nan, flipped=c == 1,
        )
        for c, name in enumerate(result.task.classes)
    )  # fmt: skip
    checks = (
        ModelCheck("normalisation", "odd", "mean 0.3: not those of CLIP"),
        ModelCheck("effect of padding", "failed", "A text changes with those beside it."),
        ModelCheck("films distinguishable", "held", "mean cosine of two films 0.4000"),
    )
    return replace(result, sanity=ModelChecks(0.55, findings, checks, ("Stopped.",), ()))


def tables(result):
    return [block for block in model_checks_part(result) if isinstance(block, Table)]


def test_every_finding_and_every_check_has_a_row(full_result):
    result = with_sanity(full_result)
    findings, checks = tables(result)
    assert [row[0] for row in findings.rows] == list(result.task.classes)
    assert findings.rows[0][1:] == ("40", "0.81", "0.60 to 0.90", "0.70 to 0.85", "")
    assert findings.rows[1][4:] == ("–", "flipped")
    assert checks.rows == (
        ("! odd", "normalisation", "mean 0.3: not those of CLIP"),
        ("✗ failed", "effect of padding", "A text changes with those beside it."),
        ("✓ held", "films distinguishable", "mean cosine of two films 0.4000"),
    )
    assert set(model_checks_part(result)) <= set(performance_annex(result))


def test_where_it_was_not_looked_at_there_is_nothing(full_result):
    assert full_result.sanity is None
    assert model_checks_part(full_result) == []
    assert result_document(full_result, 5).sanity is None


def test_a_class_of_few_patients_tells_no_number(full_result):
    result = with_sanity(full_result)
    cohort = replace(
        result.cohort,
        synthetic=False,
        patients_by_class=dict.fromkeys(result.task.classes, 40)
        | dict.fromkeys(result.task.classes[:2], 6),
    )
    hidden = hide_small_cells(replace(result, cohort=cohort), 11)
    findings, _ = tables(hidden)
    assert findings.rows[0][1:] == ("hidden", "–", "–", "–", "")
    told = result_document(hidden, 5).model_dump()["sanity"]["findings"]
    first = told[result.task.classes[0]]
    assert (first["films"], first["auroc"], first["interval"]) == (None, None, (None, None))
    assert (first["lowest"], first["highest"], first["flipped"]) == (None, None, False)
    assert told[result.task.classes[1]]["flipped"] is False


def test_the_json_fits_its_schema_and_the_archive_keeps_it(full_result, tmp_path):
    result = with_sanity(full_result)
    document = json.loads(result_document(result, 5).model_dump_json())
    jsonschema.validate(document, schema_of(AuditResult))
    assert document["sanity"]["checks"][0] == {
        "name": "normalisation", "status": "odd", "text": "mean 0.3: not those of CLIP",
    }  # fmt: skip
    write_archive(result.sanity, tmp_path)
    assert read_archive(ModelChecks, tmp_path).checks == result.sanity.checks
