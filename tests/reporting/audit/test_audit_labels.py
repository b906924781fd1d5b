"""The labels behind a correlation on paper, on the screen, in the JSON, and in the archive."""

import json
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from html_reading import read_html
from pypdf import PdfReader

from ravl_med.evidence.audit_result import AuditResult, result_document
from ravl_med.evidence.disclosure_control import HIDDEN, hide_small_cells
from ravl_med.evidence.results import Interval, LabelShare, StatedGap
from ravl_med.reporting.audit.evidence import labels_part, labels_text
from ravl_med.reporting.audit.sentences import counter_evidence, label_objections
from ravl_med.reporting.layout.blocks import Section, Table, Text
from ravl_med.reporting.wording import NBSP, estimate, percent
from ravl_med.storage.documents import schema_of

NAN = float("nan")
CLASSES = ("cardiomegaly", "no finding", "pleural effusion")
VANISHED = (
    "on stated labels alone the gap on no finding, pleural effusion together is not "
    "distinguished from 0"
)


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace(NBSP, " "))


@pytest.fixture(scope="module")
def folder(full_result, report_of, details) -> Path:
    return report_of(full_result, details)


@pytest.fixture(scope="module")
def texts(folder: Path) -> dict[str, str]:
    pages = PdfReader(folder / "report.pdf").pages
    html = read_html((folder / "report.html").read_text(encoding="utf-8"))
    return {"pdf": flat(" ".join(page.extract_text() for page in pages)), "html": flat(html.text)}


@pytest.fixture(scope="module")
def document(full_result) -> dict:
    document = result_document(full_result, 5).model_dump(mode="json")
    jsonschema.validate(document, schema_of(AuditResult))
    return json.loads(json.dumps(document, allow_nan=False))


def test_the_json_has_every_number(document, full_result):
    found = [entry["labels"] for entry in document["correlations"]]
    assert [entry is None for entry in found] == [False] * 4 + [True, False, True]
    second = found[1]
    assert (second["n_present"], second["n_absent"]) == (40, 80)
    assert second["sources"] == [
        {
            "value": "report: findings and impression",
            "n_present": 16, "n_absent": 59, "share_present": 0.4, "share_absent": 59 / 80,
        },
        {
            "value": "report: impression",
            "n_present": 24, "n_absent": 21, "share_present": 0.6, "share_absent": 21 / 80,
        },
    ]  # fmt: skip
    kinds = [(row["value"], row["n_present"], row["n_absent"]) for row in second["certainty"]]
    assert kinds == [("stated", 25, 68), ("uncertain", 12, 12), ("blank", 3, 0)]
    assert second["not_stated"]["share_present"] == 15 / 40
    assert second["difference"] == pytest.approx(15 / 40 - 12 / 80)
    assert second["interval"] == pytest.approx([0.055, 0.395])
    assert second["raised"] == {
        "n_present": 12, "n_absent": 18, "gap": 0.47, "interval": [0.19, 0.66], "outcome": "holds",
    }  # fmt: skip
    assert second["lowered"]["outcome"] == "vanishes"
    few = found[3]["lowered"]
    assert few["gap"] is None
    assert (few["interval"], few["outcome"]) == ([None, None], "insufficient")


@pytest.mark.parametrize("where", ["pdf", "html"])
def test_the_table_says_what_the_json_says(texts, document, where):
    found, text = document["correlations"][1]["labels"], texts[where]
    for row in (*found["sources"], *found["certainty"], found["not_stated"]):
        share = [percent(row[f"share_{arm}"], 1) for arm in ("present", "absent")]
        told = f"{row['value']} {row['n_present']} / {row['n_absent']} {share[0]} {share[1]}"
        assert flat(told) in text, told
    together = estimate(found["difference"], Interval(*found["interval"]))
    assert flat(f"not stated 15 / 12 37.5 % 15.0 % {together}") in text
    for side, name, end in (
        ("raised", "cardiomegaly", ""),
        ("lowered", "no finding, pleural effusion together", ", not distinguished from 0"),
    ):
        gap = found[side]
        words = estimate(gap["gap"], Interval(*gap["interval"]))
        told = f"on {name}, stated labels {gap['n_present']} / {gap['n_absent']} {words}{end}"
        assert flat(told) in text, told


@pytest.mark.parametrize("where", ["pdf", "html"])
def test_one_source_is_one_line_or_a_paragraph(texts, where):
    text = texts[where]
    assert (
        text.count("Labels: from the report: impression; none missing.") == 2
    )  # correlations 1 and 6
    assert text.count("Where the labels come from") == 1
    assert (
        "Labels: all from the manifest; uncertain: 12 of 40 with the feature (30.0 %) and 12 of 80 "
        "without the feature (15.0 %), a difference of +15.0 (−2.0 to +32.0) points. Gaps in "
        "points on stated labels alone, held-out patients: cardiomegaly +47.0 (+19.0 to +66.0), "
        "12 / 18 films; no finding, pleural effusion together −3.0 (−26.0 to +21.0), 13 / 24 films."
    ) in text
    assert "no finding, pleural effusion together insufficient, 9 / 2 films." in text


@pytest.mark.parametrize("where", ["pdf", "html"])
def test_a_gap_that_may_be_one_of_the_labels_is_counter_evidence(texts, where):
    text = texts[where]
    assert text.count(VANISHED) == 1
    assert "so that it may be one of the labels and not of the model" in text
    assert "37.5 % of the labels with the feature are not stated, 15.0 % of those without" in text


def test_sentences_by_outcome(full_result):
    entry = full_result.correlations[1]
    assert label_objections(full_result.correlations[0], CLASSES) == []
    assert label_objections(full_result.correlations[4], CLASSES) == []
    first, second = label_objections(entry, CLASSES)
    assert first.startswith(VANISHED)
    assert second.startswith("37.5")
    turned = StatedGap(12, 18, -0.2, Interval(-0.3, -0.1), "turns")
    labels = replace(entry.labels, raised=turned, lowered=None, interval=Interval(-0.1, 0.1))
    (only,) = label_objections(replace(entry, labels=labels), CLASSES)
    whole = 100 * entry.confirmation.arms.gap[0]
    assert flat(only) == (
        "on stated labels alone the gap on cardiomegaly changes sign (−20.0 (−30.0 to −10.0); "
        f"+{whole:.1f} points on all labels), so that it may be one of the labels and not of the "
        "model"
    )
    for outcome in ("holds", "unchanged", "insufficient", "hidden"):
        quiet = replace(labels, raised=replace(turned, outcome=outcome))
        assert label_objections(replace(entry, labels=quiet), CLASSES) == []
    assert VANISHED in counter_evidence(entry, CLASSES)


def test_without_an_intervention_the_meaning_stands_below(full_result):
    """Nothing lists counter-evidence there, and a line of its own would cost a page."""
    entry = replace(full_result.correlations[1], counterfactual=None)
    *_, last = labels_part(entry, CLASSES)
    assert isinstance(last, Text)
    assert last.text.startswith(f"O{VANISHED[1:]}")
    first = replace(full_result.correlations[0], counterfactual=None)
    assert labels_part(first, CLASSES) == []
    assert labels_text(first.labels) == "Labels: from the report: impression; none missing."
    assert labels_part(replace(first, labels=None), CLASSES) == []
    assert labels_text(None) == ""


def test_many_sources_are_cut_and_stated_ones_need_no_gaps(full_result):
    entry = full_result.correlations[0]
    rows = tuple(LabelShare(f"report: {n}", 4, 8, 0.1, 0.1) for n in range(10))
    section, table = labels_part(
        replace(entry, labels=replace(entry.labels, sources=rows)), CLASSES
    )
    assert isinstance(section, Section)
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == [
        *(f"from the report: {n}" for n in range(6)), "and 4 more", "stated",
    ]  # fmt: skip


def test_few_patients_are_hidden_in_every_format(result_of, report_of, details):
    """Of 12 and 3 labels with the feature that are not stated nothing is told."""
    shown = hide_small_cells(result_of(), 17)
    entry = shown.correlations[1]
    assert entry.labels is not None
    assert entry.labels.patients is None
    assert entry.films == HIDDEN  # its classes have 10 films with the feature
    assert {row.n_present for row in entry.labels.sources} == {HIDDEN}
    assert entry.labels.raised.outcome == entry.labels.lowered.outcome == "hidden"
    assert label_objections(entry, CLASSES) == []
    folder = report_of(shown, details)
    document = result_document(shown, 5).model_dump(mode="json")
    jsonschema.validate(document, schema_of(AuditResult))
    found = document["correlations"][1]["labels"]
    assert found["n_present"] is found["not_stated"]["share_present"] is found["difference"] is None
    assert found["raised"]["n_present"] is found["raised"]["gap"] is None
    page = flat(" ".join(p.extract_text() for p in PdfReader(folder / "report.pdf").pages))
    html = flat(read_html((folder / "report.html").read_text(encoding="utf-8")).text)
    for text in (page, html):
        assert "from the report: findings and impression hidden – –" in text
        assert "not stated hidden – – –" in text
        assert "on cardiomegaly, stated labels hidden hidden" in text
        for told in ("73.8 %", "37.5 % of the labels", "16 / 59", "+47.0 (+19.0"):
            assert told not in text
        assert "Labels: from the report: impression; none missing." in text
