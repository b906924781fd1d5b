"""The PDF of a mitigation: the numbers of the result, every group that fell, the same bytes."""

import io
from dataclasses import replace
from pathlib import Path

import mitigation_results as made
import pytest
from pypdf import PdfReader

from ravl_med.evidence.audit_result import Gate
from ravl_med.evidence.mitigation_result import MitigatedCorrelation, MitigationVerdict
from ravl_med.reporting.mitigation.report import write_mitigation_report
from ravl_med.reporting.mitigation.tables import difference_text
from ravl_med.reporting.wording import accuracy_text, score_text

HOSTILE = (
    '<img src="http://x.invalid/a.png"/>',
    "R&D <b>",
    "[/x] %s {} \\",
    "y" * 10_000,
    "肺炎 🫁",
    "אבג\u202eright to left",
)


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def text_of(tmp_path: Path):
    def read(result, details=None):
        write_mitigation_report(result, details or made.details(), tmp_path)
        reader = PdfReader(io.BytesIO((tmp_path / "report.pdf").read_bytes()))
        return [flat(page.extract_text()) for page in reader.pages]

    return read


def test_page_one_has_the_verdict_and_can_be_signed(text_of):
    result = made.improved()
    first = text_of(result)[0]
    assert result.title in first
    assert "Improved" in first
    assert "DRAFT, not signed" in first
    for reason in result.verdict.reasons:
        assert reason in first
    for gate in result.verdict.gates:
        assert f"{'✓ met' if gate.passed else '✗ not met'} {gate.name} {gate.text}" in first
    worst = result.delivered.image_worst
    audited = result.arms[0].image_worst
    assert (
        f"Worst group {flat(accuracy_text(worst.before, audited.interval))} "
        f"{flat(accuracy_text(worst.after, worst.interval))} {flat(difference_text(worst))}"
    ) in first
    assert "1 shortcut cardiomegaly no finding 311 402 188" in first
    assert "4 plausible sign, forced pneumonia – 96 131 40" in first
    assert "9 of 20 measured classes, groups and subgroups have a lower accuracy" in first
    assert "To be signed by Name Date Signature Radiologist Responsible for the model" in first
    assert result.notes[0] in first
    assert "fine detail of what travels with them goes along (1,234 regions)." in first


@pytest.mark.parametrize(
    ("name", "word"),
    [("improved", "Improved"), ("no_change", "No change"), ("worse", "Worse")],
)
def test_verdict_words(text_of, name, word):
    verdict = MitigationVerdict(name, ("A reason.",), (Gate("gate.x", False, "too little"),))
    first = text_of(replace(made.improved(), verdict=verdict))[0]
    assert word in first
    assert "A reason." in first
    assert "✗ not met gate.x too little" in first


def test_every_arm_is_told_with_intervals(text_of):
    result = made.improved()
    whole = " ".join(text_of(result))
    for arm in result.arms:
        for change in (arm.image_overall, arm.image_worst, arm.region_overall, arm.region_worst):
            assert flat(accuracy_text(change.after, change.interval)) in whole
            assert arm.role == "before" or flat(difference_text(change)) in whole
        for change in (arm.auroc, arm.calibration):
            assert flat(score_text(change.after, change.interval)) in whole
            assert arm.role == "before" or flat(difference_text(change, score=True)) in whole
    assert whole.count("published; head, trains no tower") == 4  # 2 heads, in 2 tables
    assert "audited model not changed" in whole
    assert "ours; tower trained DELIVERED" in whole
    assert whole.count("DELIVERED") == 3


def test_everything_that_got_worse_is_listed_and_marked(text_of):
    result = made.improved()
    whole = " ".join(text_of(result))
    listed = whole[whole.index("What got worse, all of it") :]
    listed = listed[: listed.index("Surely: the whole interval")]
    worsened = result.delivered.worsened()
    assert len(worsened) == 9
    for name, change in worsened:
        assert name in listed
        surely = "✗ yes" if change.fell_surely() else "no"
        assert f"{flat(difference_text(change))} {surely}" in listed
    assert listed.count("✗ yes") == 5


def test_a_hundred_groups_that_got_worse_are_all_listed(text_of):
    result = made.improved()
    fallen = {f"group {n:03d}": made.change(0.8, 0.7 - n / 1000) for n in range(100)}
    delivered = replace(result.delivered, groups=fallen)
    whole = " ".join(text_of(replace(result, arms=(*result.arms[:-1], delivered))))
    listed = whole[whole.index("What got worse, all of it") :]
    listed = listed[: listed.index("Surely: the whole interval")]
    assert all(name in listed for name in fallen)


def test_classes_groups_subgroups_and_gaps_before_and_after(text_of):
    result = made.improved()
    whole, arm = " ".join(text_of(result)), result.delivered
    changes = [*arm.classes.values(), *arm.groups.values(), *arm.subgroups.values()]
    for change in changes:
        after = flat(accuracy_text(change.after, change.interval))
        assert f"{after} {flat(difference_text(change))}" in whole
    assert "1: cardiomegaly, raised by it 70 +86.0 (+77.0 to +95.0) +7.0" in whole
    assert "4: pneumonia, raised by it" in whole


def test_trainings_re_audit_and_splits(text_of):
    result = made.improved()
    whole = " ".join(text_of(result))
    assert "kept: epoch 33" in whole
    assert "1 of 6 1.900 to – 11.0 % 62.0 % it diverged 132 249 s" in whole
    assert "no finding, with the feature + pneumonia, with the feature 17" in whole
    assert "Its verdict: Review." in whole
    assert "Gone: no mitigated shortcut was found again" in whole
    assert result.reaudit.appeared[0] in whole
    assert result.reaudit.detectable in whole
    assert "final test 412 205 cardiomegaly 82, no finding 82" in whole
    assert "No patient is in two of these parts." in whole


def test_reproducibility(text_of):
    details = made.details()
    whole = " ".join(text_of(made.improved(), details))
    text = whole[whole.index("Reproducibility") :]
    for told in (*details.recipe.values(), *details.digests.values(), "ab12" * 16, "cd34" * 16):
        assert told in text
    assert "mitigation 3 evidence 7" in text
    assert "torch 2.6.0" in text
    assert "The effective config is attached to this file as config.yaml." in text


def test_a_shortcut_that_stays_is_told(text_of):
    whole = " ".join(text_of(made.failed()))
    assert "Worse" in whole
    assert "Do not use the new model." in whole
    assert "Not gone: 1 mitigated shortcut found again" in whole
    assert "raises cardiomegaly, gap +84.1 points" in whole
    assert "Nothing: no other correlation counts." in whole
    assert "for none of them does the whole interval" in whole


def test_nothing_to_do_takes_two_pages(text_of):
    pages = text_of(made.idle())
    assert len(pages) <= 2
    assert "Nothing to do" in pages[0]
    assert "The audit found no confirmed shortcut above the gate." in pages[0]
    assert "No model was made." in pages[0]
    assert "All arms" not in " ".join(pages)


def test_arms_without_a_region_a_curve_or_a_baseline(text_of):
    result = made.improved()
    bare = replace(result.delivered, classes={}, groups={}, subgroups={}, gaps=(), curve=None)
    whole = " ".join(text_of(replace(result, arms=(bare,), reaudit=None, selection_groups={})))
    assert "None of 0 measured classes" in whole
    assert "The new model was not audited again." in whole
    assert "60.7 % (52.7 to 68.7)" in whole


def test_hostile_text_is_drawn_and_cut(text_of):
    result = made.improved()
    names = [*HOSTILE, *result.delivered.groups][:10]
    delivered = replace(
        result.delivered,
        title=HOSTILE[0],
        classes={name: made.change(0.7, 0.6) for name in HOSTILE},
        groups={name: made.change(0.7, 0.6) for name in names},
        subgroups={(name, name): made.change(0.7, 0.6) for name in HOSTILE},
    )
    hostile = replace(
        result,
        title=HOSTILE[0],
        verdict=MitigationVerdict("worse", HOSTILE, tuple(Gate(t, False, t) for t in HOSTILE)),
        mitigated=tuple(
            MitigatedCorrelation(n, "undecided", True, t, t, 1, 1, 1) for n, t in enumerate(HOSTILE)
        ),
        arms=(*result.arms[:-1], delivered),
        selection_groups=dict.fromkeys(HOSTILE, 1),
        notes=HOSTILE,
    )
    details = replace(made.details(), recipe=dict.fromkeys(HOSTILE, HOSTILE[3]))
    pages = text_of(hostile, details)
    whole = " ".join(pages)
    assert '<img src="http://x.invalid/a.png"/>' in whole
    assert "R&D <b>" in whole
    assert "[/x] %s {} \\" in whole
    assert "U+80BA U+708E U+1FAC1" in whole
    assert "\u202e" not in whole
    assert len(pages) <= 30


def test_same_input_same_bytes(tmp_path):
    papers = []
    for _ in range(2):
        write_mitigation_report(made.improved(), made.details(), tmp_path)
        papers.append((tmp_path / "report.pdf").read_bytes())
    assert papers[0] == papers[1]


def test_metadata_outline_fonts(tmp_path):
    write_mitigation_report(made.improved(), made.details(), tmp_path)
    reader = PdfReader(io.BytesIO((tmp_path / "report.pdf").read_bytes()))
    assert reader.metadata.subject == "Mitigation sample-mitigation (draft)"
    assert reader.trailer["/Root"]["/Lang"] == "en"
    titles = [entry.title for entry in reader.outline if not isinstance(entry, list)]
    assert "All arms on the final test" in titles
    assert "Reproducibility" in titles
    for page in reader.pages:
        for font in page["/Resources"]["/Font"].values():
            assert "DejaVu" in font.get_object()["/BaseFont"]
