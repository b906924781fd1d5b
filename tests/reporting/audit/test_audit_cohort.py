"""The cohort flow and the subgroups as a forest plot."""

from dataclasses import replace
from math import isnan

from html_reading import read_html

from ravl_med.reporting.audit.cohort import cohort_chapter, cohort_flow, performance_annex
from ravl_med.reporting.audit.report import write_report
from ravl_med.reporting.layout.blocks import Dots, FlowBox, Scale, Table


def subgroup_table(result) -> Table:
    *_, table = performance_annex(result)
    assert isinstance(table, Table)
    return table


def composition(result) -> Table:
    (table,) = [
        block for block in cohort_chapter(result)
        if isinstance(block, Table) and block.caption == "Audited films"
    ]  # fmt: skip
    return table


def test_how_many_films_each_class_and_attribute_has(result_of):
    result = result_of()
    table = composition(result)
    assert table.rows[:3] == (
        ("class", "cardiomegaly: 40, no finding: 40, pleural effusion: 40"),
        ("view", "PA: 80, AP: 40"),
        ("sex", "F: 61, M: 59"),
    )
    attributes = {"view": {"PA": 80, "AP": -1}, "reading": {"rescale, window 1 of 1": 9}}
    few = composition(replace(result, cohort=replace(result.cohort, attributes=attributes)))
    assert few.rows[1:3] == (("view", "PA: 80, AP: hidden"), ("reading", "rescale, its window: 9"))


def test_values_with_too_few_films_share_a_row(result_of):
    result = result_of()
    one = result.subgroups[0]
    few = [replace(one, value=f"site {n}", insufficient=True) for n in range(3)]
    rows = subgroup_table(replace(result, subgroups=(one, *few))).rows
    assert [row[1] for row in rows[:-1]] == [one.value, "3 other values with too few films"]
    kept = subgroup_table(replace(result, subgroups=(one, *few[:2]))).rows
    assert [row[1] for row in kept[:-1]] == [one.value, "site 0", "site 1"]


def test_the_flow_tells_who_went_where(result_of):
    flow = cohort_flow(result_of())
    assert flow.start == FlowBox("Listed in the manifest: 300 rows")
    assert flow.left_out == (
        FlowBox("Left out by task or split: 177 rows", ("170 another split", "7 blank label")),
        FlowBox("Could not be read: 3 films", ("2 truncated", "1 no_pixel_data")),
    )
    assert flow.end == FlowBox("Audited: 120 films", ("of 70 patients",))
    assert flow.parts == (
        FlowBox("Discovery half", ("58 films", "35 patients")),
        FlowBox("Confirmation half", ("62 films", "35 patients")),
    )


def test_an_audit_that_stopped_has_no_halves(stopped_result):
    assert cohort_flow(stopped_result).parts == ()


def test_many_reasons_are_cut_and_the_most_frequent_stay(result_of):
    result = result_of()
    reasons = {f"reason {n}": n for n in range(1, 10)} | {"": 40}
    flow = cohort_flow(replace(result, cohort=replace(result.cohort, left_out=reasons)))
    assert flow.left_out[0] == FlowBox(
        "Left out by task or split: 85 rows",
        ("40 –", "9 reason 9", "8 reason 8", "7 reason 7", "6 reason 6", "and 5 more reasons"),
    )


def test_one_film_none_left_out_and_phantoms(result_of):
    result = result_of()
    few = replace(result.cohort, listed=1, left_out={}, rejected={}, images=1, patients=1)
    flow = cohort_flow(replace(result, cohort=few))
    assert flow.start.title == "Listed in the manifest: 1 row"
    assert flow.left_out == (
        FlowBox("Left out by task or split: 0 rows"),
        FlowBox("Could not be read: 0 films"),
    )
    assert flow.end == FlowBox("Audited: 1 film", ("of 1 patient",))
    flow = cohort_flow(replace(result, cohort=replace(few, synthetic=True)))
    assert flow.end == FlowBox("Audited: 1 phantom", ("of 1 synthetic patient",))
    assert flow.parts[0].lines == ("58 phantoms", "35 synthetic patients")


def test_subgroups_are_held_against_all_films(result_of):
    result = result_of()
    table = subgroup_table(result)
    head = table.columns[-1].head
    assert isinstance(head, Scale)
    assert head.reference == "all films"
    assert len(table.rows) == len(result.subgroups) + 1
    dots = [row[-1] for row in table.rows]
    assert all(isinstance(d, Dots) and d.reference == result.accuracy.overall for d in dots)
    for stratum, row in zip(result.subgroups, table.rows, strict=False):
        (dot,) = row[-1].dots
        if stratum.insufficient:
            assert row[6] == "insufficient"
            assert isnan(dot.value)
            assert isnan(dot.interval.low)
        else:
            assert (dot.value, dot.interval) == (stratum.accuracy, stratum.interval)
    name, *_, last = table.rows[-1]
    assert name == "All films"
    assert last.dots[0].value == result.accuracy.overall
    assert last.dots[0].look == "total"
    assert table.rows[-1][2:6] == ("120", "70", "73.4\u00a0%", "69.0 to 77.9")


def test_an_insufficient_subgroup_with_an_accuracy_keeps_its_numbers_without_a_dot(result_of):
    result = result_of()
    few = replace(result.subgroups[0], insufficient=True)
    first, _ = subgroup_table(replace(result, subgroups=(few,))).rows
    assert first[4] == "61.0\u00a0%"
    assert first[6] == "insufficient"
    assert isnan(first[-1].dots[0].value)


def test_none_one_and_a_thousand_subgroups(result_of, film, details, tmp_path):
    result = result_of(correlations=0)
    for count in (0, 1, 1000):
        some = tuple(
            replace(result.subgroups[n % 5], attribute=f"attribute {n // 9}", value=f"value {n}")
            for n in range(count)
        )
        write_report(replace(result, subgroups=some), film, details, tmp_path)
        reader = read_html((tmp_path / "report.html").read_text(encoding="utf-8"))
        tables = [t for t in reader.tables if t.caption == "Accuracy by subgroup"]
        assert len(tables) == (count > 0)
        if tables:
            assert tables[0].rows[-1][0] == "All films"
            assert len(tables[0].rows) == min(count, 120) + 2 + (count > 120)
        assert ("and 880 more" in reader.text) == (count == 1000)
        for name in ("report.pdf", "report.html"):
            assert (tmp_path / name).stat().st_size < 1_000_000
