"""What a report tells of few patients: nothing, in any format."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from pypdf import PdfReader

from ravl_med.config.audit import GateConfig
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.disclosure_control import HIDDEN, hide_small_cells
from ravl_med.evidence.results import ArmPatients, SpuriousCorrelation
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.files.saved_run import SavedRun, redraw_run
from ravl_med.storage.documents import schema_of

ResultOf = Callable[..., AuditResult]
LEAST = 11


def large(correlation: SpuriousCorrelation) -> SpuriousCorrelation:
    """The same with enough patients everywhere but in strata."""
    cluster, test = correlation.cluster, correlation.confirmation
    n = np.full_like(cluster.n_present, 23)
    return replace(
        correlation,
        cluster=replace(cluster, n_present=n, n_absent=n + 4),
        confirmation=replace(test, arms=replace(test.arms, n_present=n + 1, n_absent=n + 5)),
    )


@pytest.fixture
def audited(result_of: ResultOf) -> AuditResult:
    result = result_of()
    views = {"PA": 77, "AP": 40, "LL": 3}
    cohort = replace(result.cohort, attributes={**result.cohort.attributes, "view": views})
    return replace(result, cohort=cohort, correlations=tuple(large(c) for c in result.correlations))


def test_phantoms_have_no_patients(audited):
    phantoms = replace(audited, cohort=replace(audited.cohort, synthetic=True))
    assert hide_small_cells(phantoms, LEAST) is phantoms
    assert hide_small_cells(audited, 0) is audited


def test_large_counts_are_told(audited):
    shown = hide_small_cells(audited, LEAST)
    assert shown.hidden_below == LEAST
    first, before = shown.correlations[0], audited.correlations[0]
    assert first.cluster.n_present.tolist() == before.cluster.n_present.tolist()
    assert first.films == int(before.cluster.present.sum())
    assert shown.accuracy == audited.accuracy
    assert shown.cohort.images_by_class == audited.cohort.images_by_class


def test_a_stratum_of_two_patients_and_the_next_smallest(audited):
    shown = hide_small_cells(audited, LEAST)
    rows = {(row.attribute, row.value): row for row in shown.subgroups}
    for value in ("LL", "AP"):  # LL follows from the total when AP is told
        assert (rows["view", value].films, rows["view", value].patients) == (HIDDEN, HIDDEN)
        assert math.isnan(rows["view", value].accuracy)
        assert math.isnan(rows["view", value].q_value)
    assert rows["view", "PA"] == audited.subgroups[2]
    assert rows["sex", "F"] == audited.subgroups[3]
    assert shown.cohort.attributes["view"] == {"PA": 77, "AP": HIDDEN, "LL": HIDDEN}


def test_what_few_patients_hide_in_one_table_is_hidden_in_the_other(audited):
    """Forty films are many, but not of eight patients."""
    rows = tuple(replace(row, patients=8) if row.value == "F" else row for row in audited.subgroups)
    shown = hide_small_cells(replace(audited, subgroups=rows), LEAST)
    assert set(shown.cohort.attributes["sex"].values()) == {HIDDEN}
    assert {row.films for row in shown.subgroups if row.attribute == "sex"} == {HIDDEN}


def test_an_arm_of_ten_patients_hides_its_class_on_both_halves(audited):
    first = audited.correlations[0]
    arms = first.confirmation.arms
    few = ArmPatients(np.array([10, 20, 20]), np.array([20, 20, 20]))  # of 24 films
    test = replace(first.confirmation, arms=replace(arms, patients=few))
    result = replace(audited, correlations=(replace(first, confirmation=test),))
    shown = hide_small_cells(result, LEAST).correlations[0]
    held_out = shown.confirmation.arms
    found = (shown.cluster.n_present, shown.cluster.n_absent)
    for counts in (*found, held_out.n_present, held_out.n_absent):
        assert counts[0] == HIDDEN
        assert (counts[1:] > 0).all()
    assert np.isnan(shown.confirmation.arms.gap[0])
    assert math.isnan(shown.confirmation.arms.gap_interval[0].low)
    assert math.isnan(shown.confirmation.shift.raised)
    assert math.isfinite(shown.confirmation.shift.lowered)
    assert math.isfinite(shown.confirmation.arms.opposed_gap)
    assert shown.films == HIDDEN  # the sum over classes would tell the one
    assert shown.strata is not None
    for crossed in shown.strata.attributes:
        assert {gap.n_present for gap in crossed.raised} == {HIDDEN}
        assert math.isnan(crossed.raised_adjusted)
    assert shown.confirmation.q_value == first.confirmation.q_value
    assert shown.kind == first.kind


def crossed(result: AuditResult, table: dict[str, tuple[int, ...]]) -> AuditResult:
    """The same with a table of views and classes, one film a patient."""
    attributes = {**result.cohort.attributes, "view": {k: sum(v) for k, v in table.items()}}
    cohort = replace(
        result.cohort, attributes=attributes, classes_by_attribute={"view": table},
        images_by_class=dict(
            zip(result.task.classes, map(sum, zip(*table.values(), strict=True)), strict=True)
        ),
    )  # fmt: skip
    return replace(result, cohort=cohort, subgroups=())


def test_a_small_cell_of_a_class_and_a_value_hides_a_rectangle(audited):
    """Rows and columns have told sums: three more cells have to hide the one."""
    table = {"PA": (50, 40, 30), "AP": (4, 20, 30), "LL": (20, 30, 30)}
    shown = hide_small_cells(crossed(audited, table), LEAST).cohort
    assert shown.classes_by_attribute["view"] == {
        "PA": (50, 40, 30), "AP": (HIDDEN, HIDDEN, 30), "LL": (HIDDEN, HIDDEN, 30),
    }  # fmt: skip
    assert shown.attributes["view"] == {"PA": 120, "AP": 54, "LL": 80}
    assert shown.class_patients is None
    assert math.isnan(shown.prevalence("view", "AP", 0))
    assert shown.prevalence("view", "PA", 0) == 50 / 120
    large = {view: tuple(n + 11 for n in counts) for view, counts in table.items()}
    told = hide_small_cells(crossed(audited, large), LEAST).cohort
    assert told.classes_by_attribute["view"] == large


def test_a_hidden_value_or_class_is_hidden_where_they_cross(audited):
    table = {"PA": (50, 40, 30), "AP": (30, 20, 30), "LL": (0, 2, 1)}
    shown = hide_small_cells(crossed(audited, table), LEAST).cohort.classes_by_attribute["view"]
    assert shown["PA"] == (50, 40, 30)
    assert shown["LL"] == (0, HIDDEN, HIDDEN)
    assert shown["AP"] == (HIDDEN, HIDDEN, HIDDEN)  # with the value, which follows from the total
    few = {"PA": (40, 40, 4), "AP": (30, 20, 3)}
    shown = hide_small_cells(crossed(audited, few), LEAST).cohort.classes_by_attribute["view"]
    assert {row[2] for row in shown.values()} == {HIDDEN}
    assert sum(n == HIDDEN for row in shown.values() for n in row) >= 4


REMOVALS = ("explored", "typical", "replaced", "both", "wrong_calls")


def with_removal(audited: AuditResult, **changes) -> AuditResult:
    first = audited.correlations[0]
    removal = replace(first.counterfactual.removal, **changes)
    tested = replace(first.counterfactual, removal=removal)
    return replace(audited, correlations=(replace(first, counterfactual=tested),))


@pytest.mark.parametrize("name", REMOVALS)
def test_a_removal_on_few_patients_is_hidden_and_no_other(audited, name):
    removal = audited.correlations[0].counterfactual.removal
    few = replace(getattr(removal, name), patients=10)
    shown = hide_small_cells(with_removal(audited, **{name: few}), LEAST).correlations[0]
    hidden = getattr(shown.counterfactual.removal, name)
    assert (hidden.pairs, hidden.patients) == (HIDDEN, HIDDEN)
    for number in ("change", "control", "contrast", "decisions"):
        assert math.isnan(getattr(hidden, number))
    for interval in (hidden.change_interval, hidden.interval, hidden.decisions_interval):
        assert math.isnan(interval.low)
    for other in set(REMOVALS) - {name}:
        assert getattr(shown.counterfactual.removal, other) == getattr(removal, other)
    assert shown.counterfactual.transplant == audited.correlations[0].counterfactual.transplant
    assert shown.counterfactual.used


def test_a_transplant_into_few_patients_is_hidden(audited):
    first = audited.correlations[0]
    few = replace(first.counterfactual.transplant, patients=10)
    tested = replace(first.counterfactual, transplant=few)
    result = replace(audited, correlations=(replace(first, counterfactual=tested),))
    shown = hide_small_cells(result, LEAST).correlations[0].counterfactual
    assert shown.transplant.pairs == HIDDEN
    assert shown.removal.both == first.counterfactual.removal.both


@pytest.mark.parametrize(("few", "hidden"), [(0, False), (1, True)])
def test_the_share_that_is_called_wrongly_is_hidden_with_the_classes_it_is_of(audited, few, hidden):
    """Films of the raised class, which comes first, are none of them."""
    patients = np.full(3, 20)
    patients[few] = 10
    first = audited.correlations[0]
    arms = replace(first.confirmation.arms, patients=ArmPatients(patients, np.full(3, 20)))
    test = replace(first.confirmation, arms=arms)
    result = replace(audited, correlations=(replace(first, confirmation=test),))
    shown = hide_small_cells(result, LEAST).correlations[0].counterfactual.removal
    assert math.isnan(shown.called) is hidden


def texts_of(folder: Path) -> list[str]:
    pages = PdfReader(folder / "report.pdf").pages
    return ["\n".join(page.extract_text() for page in pages), (folder / "report.html").read_text()]


def test_no_format_tells_what_is_hidden(audited, tmp_path):
    """Numbers of a class with seven patients are unmistakable, and are in no shared file."""
    accuracy = audited.accuracy
    rare = replace(
        accuracy,
        by_class=(*accuracy.by_class[:2], 0.123456),
        images_by_class=(7013, 6017, 9009),
    )
    cohort = replace(
        audited.cohort,
        images_by_class=dict(zip(audited.task.classes, rare.images_by_class, strict=True)),
        patients_by_class=dict(zip(audited.task.classes, (7000, 6000, 7), strict=True)),
    )
    result = replace(audited, accuracy=rare, cohort=cohort)
    details = ReportDetails(
        date=None, config_yaml="name: run\n", versions={}, digests={"model": "ab" * 32},
        seeds={}, thresholds={},
    )  # fmt: skip
    saved = SavedRun(result, details, GateConfig().model_dump_json(), 20, None, LEAST)
    (tmp_path / "private").mkdir()
    saved.save(tmp_path, lambda index: np.full((240, 240), index % 200, dtype=np.uint8))
    (tmp_path / "run.json").write_text('{"tool": {"name": "ravl-med"}}')
    for again in (False, True):
        if again:
            redraw_run(tmp_path, date(2026, 11, 25))
        document = json.loads((tmp_path / "result.json").read_text())
        jsonschema.validate(document, schema_of(AuditResult))
        last = document["accuracy"]["classes"][audited.task.classes[2]]
        assert (last["images"], last["accuracy"], last["interval"]) == (None, None, [None, None])
        assert document["hidden_below"] == LEAST
        full = json.loads((tmp_path / "private" / "result.full.json").read_text())
        assert full["accuracy"]["classes"][audited.task.classes[2]]["images"] == 9009
        shared = [(tmp_path / "result.json").read_text(), *texts_of(tmp_path)]
        for text in shared:
            for told in ("9009", "9,009", "12.3", "0.123", "6017", "6,017"):
                assert told not in text
            assert "7013" in text or "7,013" in text
        for text in texts_of(tmp_path):
            assert "fewer than 11 patients" in text.replace("\n", " ")
