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
from scipy import optimize

from ravl_med.config.audit import GateConfig
from ravl_med.evidence.audit_result import AuditResult, LocalEffectBound
from ravl_med.evidence.disclosure_control import HIDDEN, hide_small_cells
from ravl_med.evidence.rate_rounding import coarse_rates, numerators
from ravl_med.evidence.results import ArmPatients, Interval, PairedChange, SpuriousCorrelation
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
    assert shown.accuracy.images_by_class == audited.accuracy.images_by_class
    assert shown.cohort.images_by_class == audited.cohort.images_by_class


def test_a_stratum_of_two_patients_and_the_next_smallest(audited):
    shown = hide_small_cells(audited, LEAST)
    rows = {(row.attribute, row.value): row for row in shown.subgroups}
    for value in ("LL", "AP"):  # LL follows from the total when AP is told
        assert (rows["view", value].films, rows["view", value].patients) == (HIDDEN, HIDDEN)
        assert math.isnan(rows["view", value].accuracy)
        assert math.isnan(rows["view", value].q_value)
    for told, before in ((rows["view", "PA"], 2), (rows["sex", "F"], 3)):
        assert told.patients == audited.subgroups[before].patients
        assert abs(told.accuracy - audited.subgroups[before].accuracy) <= 0.5 / (
            told.patients // LEAST
        )
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
    assert shown.films == HIDDEN  # the sum over classes would tell the one
    assert shown.strata is not None
    for crossed in shown.strata.attributes:
        assert {gap.n_present for gap in crossed.raised} == {HIDDEN}
        assert math.isnan(crossed.raised_adjusted)
    assert shown.confirmation.q_value >= first.confirmation.q_value
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


def margins(change: PairedChange) -> PairedChange:
    """The same without the share of decisions, which is coarsened or hidden."""
    return replace(change, decisions=0.0, decisions_interval=Interval(0.0, 0.0))


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
        told = getattr(shown.counterfactual.removal, other)
        assert margins(told) == margins(getattr(removal, other))
    transplant = audited.correlations[0].counterfactual.transplant
    assert margins(shown.counterfactual.transplant) == margins(transplant)
    assert shown.counterfactual.used


def test_a_transplant_into_few_patients_is_hidden(audited):
    first = audited.correlations[0]
    few = replace(first.counterfactual.transplant, patients=10)
    tested = replace(first.counterfactual, transplant=few)
    result = replace(audited, correlations=(replace(first, counterfactual=tested),))
    shown = hide_small_cells(result, LEAST).correlations[0].counterfactual
    assert shown.transplant.pairs == HIDDEN
    assert margins(shown.removal.both) == margins(first.counterfactual.removal.both)


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


@pytest.mark.long
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


def audit_of(seed: int, result: AuditResult) -> tuple[AuditResult, np.ndarray]:
    """An audit of 540 films of 3 classes, one a patient, and right calls (E, half, arm, class)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), 180)
    half = np.tile([0, 1], 270)
    right = rng.random(540) < np.array([0.93, 0.06, 0.7])[labels]
    rows = [(labels == c) for c in range(3)]
    right_by = np.zeros((len(result.correlations), 2, 2, 3), dtype=np.int64)
    entries = []
    for at, entry in enumerate(result.correlations):
        present = rng.random(540) < 0.5
        tables = []
        for side in (0, 1):
            arms = [
                np.array([(row & (half == side) & (present == with_it)) for row in rows])
                for with_it in (True, False)
            ]
            right_by[at, side] = [(arm & right).sum(axis=1) for arm in arms]
            films = [arm.sum(axis=1) for arm in arms]
            tables.append({
                "n_present": films[0], "n_absent": films[1],
                "accuracy_present": right_by[at, side, 0] / films[0],
                "accuracy_absent": right_by[at, side, 1] / films[1],
            })  # fmt: skip
        test = entry.confirmation
        arms = replace(test.arms, **tables[1])
        entries.append(
            replace(
                entry,
                cluster=replace(entry.cluster, **tables[0]),
                confirmation=replace(test, arms=arms, swapped=False),
            )
        )
    counts = tuple(int(row.sum()) for row in rows)
    accuracy = replace(
        result.accuracy, overall=float(right.mean()), images=540, images_by_class=counts,
        by_class=tuple(float(right[row].mean()) for row in rows),
    )  # fmt: skip
    cohort = replace(
        result.cohort, images=540, patients=540, attributes={}, classes_by_attribute={},
        images_by_class=dict(zip(result.classes, counts, strict=True)),
    )  # fmt: skip
    made = replace(
        result, accuracy=accuracy, cohort=cohort, correlations=tuple(entries), subgroups=()
    )
    return made, right_by


def shown_windows(shown: AuditResult) -> tuple[np.ndarray, np.ndarray]:
    """Numerators that the shown rates stand for: least and largest, (E, half, arm, class)."""
    pairs = []
    for entry in shown.correlations:
        for table in (entry.cluster, entry.confirmation.arms):
            for rates, films in (
                (table.accuracy_present, table.n_present),
                (table.accuracy_absent, table.n_absent),
            ):
                pairs += [
                    numerators(float(r), int(n), int(n) // LEAST)
                    for r, n in zip(rates, films, strict=True)
                ]
    low, high = np.array(pairs).T.reshape(2, len(shown.correlations), 2, 2, -1)
    return low, high


@pytest.mark.parametrize("seed", range(4))
def test_no_small_count_follows_from_shown_rates_by_integer_programming(result_of, seed):
    """The attack knows every number of films, and that arms, halves and classes add up."""
    exact, right = audit_of(seed, result_of(correlations=6))
    shown = hide_small_cells(exact, LEAST)
    low, high = shown_windows(shown)
    assert ((low <= right) & (right <= high)).all()  # what is shown is true
    films = np.array([
        [[t.n_present, t.n_absent] for t in (e.cluster, e.confirmation.arms)]
        for e in exact.correlations
    ])  # fmt: skip
    small = ((right > 0) & (right < LEAST)) | ((films - right > 0) & (films - right < LEAST))
    assert small.sum() > 20
    for c in range(3):
        total = numerators(shown.accuracy.by_class[c], 180, 180 // LEAST)
        count = right[..., c].size
        cells = np.arange(count).reshape(right.shape[:3])
        sums = np.zeros((2 * len(cells), count + 2))  # pairs, then the two halves
        for row, (entry, half) in enumerate(np.ndindex(len(cells), 2)):
            sums[row, cells[entry, half]] = 1
            sums[row, count + half] = -1
        both = np.zeros(count + 2)
        both[count:] = 1
        bounds = optimize.Bounds(
            np.append(low[..., c].ravel(), [0, 0]), np.append(high[..., c].ravel(), [180, 180])
        )
        limits = [
            optimize.LinearConstraint(sums, 0, 0),
            optimize.LinearConstraint(both, *total),
        ]
        for cell in np.flatnonzero(small[..., c].ravel())[:8]:
            goal = np.zeros(count + 2)
            goal[cell] = 1
            ends = [
                optimize.milp(
                    sign * goal, constraints=limits, bounds=bounds, integrality=np.ones(count + 2)
                ).fun
                for sign in (1, -1)
            ]
            assert -ends[1] - ends[0] + 1 >= LEAST // 2, (c, cell, ends)


@pytest.mark.parametrize("films", [22, 26, 45, 100, 901])
def test_small_numerators_and_their_complements_look_alike(films):
    steps = films // LEAST
    shown = coarse_rates(np.arange(films + 1) / films, films, steps)
    assert len(set(shown[:LEAST].tolist())) == 1
    assert len(set(shown[-LEAST:].tolist())) == 1
    for numerator, rate in enumerate(shown.tolist()):
        low, high = numerators(rate, films, steps)
        assert low <= numerator <= high
        assert high - low + 1 >= LEAST
        assert abs(rate - numerator / films) <= 0.5 / steps + 1e-9


@pytest.mark.parametrize(("wrong", "shown"), [(7, HIDDEN), (0, 0), (60, 60), (114, HIDDEN)])
def test_few_wrong_calls_among_mapped_films_are_hidden(audited, wrong, shown):
    bound = LocalEffectBound(0.1, 0.1, 0.1, 1, 120, wrong)
    result = replace(audited, sensitivity=replace(audited.sensitivity, local=bound))
    assert hide_small_cells(result, LEAST).sensitivity.local.wrong == shown


def test_an_exact_rate_is_in_no_shared_number(result_of):
    """0.1538 of 26 films is 4 of them; so are its interval, p and q."""
    exact, _ = audit_of(0, result_of(correlations=2))
    shown = hide_small_cells(exact, LEAST)
    for before, after in zip(exact.correlations, shown.correlations, strict=True):
        test, told = before.confirmation, after.confirmation
        assert math.isnan(told.p_value)
        assert told.q_value in (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
        for name in ("accuracy_present", "accuracy_absent"):
            assert not (getattr(test.arms, name) == getattr(told.arms, name)).any()
        for exactly, widely in zip(test.arms.gap_interval, told.arms.gap_interval, strict=True):
            assert math.isnan(widely.low) or (
                widely.low <= exactly.low and widely.high >= exactly.high
            )
