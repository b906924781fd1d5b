"""The intake report: counts in lines, ages in bands, institutions by number."""

from dataclasses import replace

from ravl_med.pipeline.inspect import IntakeReport, count_attributes, count_findings

FILMS = [
    {"view": "PA", "age": "61", "site": "St. Elsewhere"},
    {"view": "PA", "age": "7"},
    {"view": "AP", "site": "General"},
]


def test_attributes_are_counted_and_blanks_stay_blank() -> None:
    assert count_attributes(FILMS, ("view", "age", "site", "sex")) == {
        "view": {"PA": 2, "AP": 1},
        "age": {"60-79": 1, "0-17": 1, "not stated": 1},
        "site": {"site 1": 1, "not stated": 1, "site 2": 1},
    }


def test_findings_are_counted_the_most_frequent_first() -> None:
    cells = [{"a": "0", "b": "1"}, {"a": "-1", "b": "1"}, {"c": ""}]
    assert count_findings(cells, ("a", "b", "c")) == {
        "b": {"1": 2, "": 1},
        "a": {"0": 1, "-1": 1, "": 1},
    }


def test_findings_of_few_patients_are_hidden_and_what_reveals_them() -> None:
    cells = [{"a": "1"}] * 30 + [{"a": "0"}] * 12 + [{"a": "-1"}] * 3
    counted = count_findings(cells, ("a",), range(45), 11)
    assert counted == {"a": {"1": 30, "0": -1, "-1": -1}}
    one = count_findings(cells, ("a",), [1] * 45, 11)
    assert set(one["a"].values()) == {-1}
    report = IntakeReport(45, 45, 45, 45, {}, findings=counted, hidden_below=11)
    assert report.lines()[-2].split() == ["a", "30", "hidden", "hidden", "0"]
    assert report.lines()[-1] == "  hidden: fewer than 11 patients, or what reveals them"


def test_the_summary_sets_apart_what_is_no_finding() -> None:
    findings = {name: {"1": 30} for name in ("edema", "No Finding", "device")}
    report = IntakeReport(
        45, 30, 30, 30, {"report": 1, "not_frontal": 14}, findings=findings, findings_from="table"
    )
    assert report.summary() == [
        "45 files read, 30 films kept: 30 patients, 30 studies.",
        "15 set aside: not_frontal: 14, report: 1.",
        "Findings, from table: edema. Other labels: No Finding, device.",
        "ravl-med inspect says more.",
    ]


def test_the_lines() -> None:
    report = IntakeReport(
        files=9,
        films=4,
        patients=3,
        studies=4,
        rejected={"not_frontal": 1, "truncated": 4},
        by_pixels=2,
        attributes={"study_year": {str(year): 1 for year in range(2000, 2014)}},
        applied={"window 1 of 1": 4},
        findings={"edema": {"1": 3, "": 1}},
        findings_from="reports",
        unrecognised=1,
    )
    lines = report.lines()
    assert lines[:2] == [
        "9 files read, 4 films kept: 3 patients, 4 studies.",
        "2 of them by their pixels; no header or table says.",
    ]
    assert lines[3:6] == [
        "Not kept",
        "       4  truncated",
        "       1  not_frontal: a lateral or another view",
    ]
    assert any(line.endswith("2011: 1, and 2 more") for line in lines)
    assert "  reports: none" in lines
    assert lines[-2].split() == ["edema", "3", "0", "0", "1"]
    assert lines[-1] == "  reports in which nothing is recognised: 1"
    prevalence = {"view": {"edema": {"PA": (3, 4), "AP": (0, 1)}}}
    assert replace(report, prevalence=prevalence).lines() == [
        *lines,
        "",
        "Findings by view: present, of the films with it",
        "  edema: PA 3 of 4 (75 %), AP 0 of 1 (0 %)",
    ]
