"""Decisions of a reviewer: how they are read, whom they bind, and what they make of the verdict."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ravl_med.config.audit import GateConfig
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.audit_result import (
    AuditResult,
    Confounder,
    DetectableGap,
    Sensitivity,
    Verdict,
)
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.evidence.review import (
    RecordedDecision,
    apply_decisions,
    apply_earlier,
    cohens_kappa,
    read_decisions,
)
from ravl_med.evidence.verdict import decide_verdict
from ravl_med.regions.region_set import RegionKind

GATE = GateConfig(max_gap=0.10)
SEEN = Sensitivity(0.8, 200, 10, (DetectableGap(0.20, 0.2, 1.0),), 10, 9, {})
TODAY = date(2026, 11, 25)
TESTED = SimpleNamespace(
    removal=SimpleNamespace(both="measured", shares=None), transplant=None, tested=True, used=True
)
HEAD = "correlation,rank,decision,until,reason,name,date\n"


def correlation(rank: int, kind: str, *, counts: bool = True, regions: tuple[int, ...] = (0, 1)):
    return SpuriousCorrelation(
        rank=rank,
        cluster=SimpleNamespace(raised_class=1, regions=np.array(regions) + 10 * rank),
        confirmation=SimpleNamespace(status="confirmed" if counts else "not_confirmed"),
        counterfactual=TESTED,
        strata=None,
        kind=kind,
        counts=counts,
        reasons=(),
        also=(),
        order=np.arange(len(regions)),
    )


def result_of(*correlations, sensitivity=SEEN) -> AuditResult:
    classes = ("clear", "heart")
    verdict = Verdict("not_auditable", ("Stopped.",))
    if sensitivity is not None:
        verdict = decide_verdict(correlations, classes, GATE, sensitivity)
    return AuditResult(
        name="run", title="Audit", verdict=verdict,
        task=SimpleNamespace(name="finding", classes=classes, scores="softmax"),
        model=SimpleNamespace(digest="ab" * 32),
        cohort=SimpleNamespace(leaks=()), accuracy=None, discovery=None,
        correlations=tuple(correlations), descriptions={}, subgroups=(), sensitivity=sensitivity,
        image_ids=tuple(f"{n:016x}" for n in range(100)),
        region_image=np.arange(100),
        region_boxes=np.tile(np.arange(100, dtype=np.float32)[:, None], (1, 4)),
        region_kind=np.zeros(100, dtype=np.int64), region_kinds=(RegionKind("tiles", "tile"),),
    )  # fmt: skip


def decide(
    result: AuditResult, rank: int, word: str, until: date | None = None
) -> RecordedDecision:
    (one,) = [c for c in result.correlations if c.rank == rank]
    return RecordedDecision(one.correlation_id(result), word, until, "Seen.", "Dr. A", TODAY)


def judged(result: AuditResult, *decisions: RecordedDecision, today: date = TODAY) -> AuditResult:
    return apply_decisions(result, decisions, GATE, today)


def test_an_open_feature_that_is_the_disease_passes() -> None:
    result = result_of(correlation(1, "undecided"))
    assert result.verdict.name == "review"
    found = judged(result, decide(result, 1, "disease"))

    assert found.verdict.name == "pass"
    assert found.undecided == 0
    (ruling,) = found.rulings
    assert (ruling.rank, ruling.decision, ruling.in_force, ruling.date) == (
        1, "disease", True, "2026-11-25",
    )  # fmt: skip


def test_what_was_decided_holds_for_another_user_and_not_for_other_films() -> None:
    """Pseudonyms hang on the key of a user; what is lost is said."""
    result = result_of(correlation(1, "undecided"))
    decided = decide(result, 1, "disease")
    elsewhere = replace(result, image_ids=tuple(f"{n:016x}" for n in range(100, 200)))
    found = apply_earlier(elsewhere, [decided], GATE, TODAY)
    assert found.verdict == judged(result, decided).verdict
    moved = replace(elsewhere, films_digest="cd" * 32)
    lost = apply_earlier(moved, [decided], GATE, TODAY)
    assert (lost.verdict.name, lost.rulings) == ("review", ())
    assert lost.verdict.reasons[-1].startswith("1 of 1 decisions of gate.accepted do not hold")


@pytest.mark.parametrize(("kind", "verdict"), [("undecided", "review"), ("plausible_sign", "pass")])
def test_what_a_reviewer_calls_a_shortcut_fails(kind: str, verdict: str) -> None:
    result = result_of(correlation(1, kind), correlation(2, "undecided"))
    assert result_of(correlation(1, kind)).verdict.name == verdict
    found = judged(result, decide(result, 1, "shortcut"))

    assert found.verdict.name == "fail"
    assert "by the judgement of a reviewer" in found.verdict.reasons[0]
    assert found.verdict.gates[0].text.startswith(
        "no shortcut found, 1 named by a reviewer, 1 feature undecided;"
    )
    assert found.verdict.reasons[1].startswith("1 feature that the model uses could not")
    assert not found.verdict.gates[0].passed
    assert found.undecided == 1


@pytest.mark.parametrize(
    ("today", "verdict", "in_force"),
    [(date(2027, 1, 1), "conditional", True), (date(2027, 1, 2), "fail", False)],
)
def test_an_acceptance_ends(today: date, verdict: str, in_force: bool) -> None:
    result = result_of(correlation(1, "shortcut"))
    accepted = decide(result, 1, "accepted", date(2027, 1, 1))
    found = judged(result, accepted, today=today)

    assert result.verdict.name == "fail"
    assert found.verdict.name == verdict
    assert found.rulings[0].in_force is in_force
    assert found.undecided == (0 if in_force else 1)
    assert not found.verdict.gates[0].passed
    found_or_tolerated = "1 shortcut found, 1 of them tolerated until 2027-01-01; allowed: no "
    assert found.verdict.gates[0].text.startswith(
        found_or_tolerated if in_force else "1 shortcut found; allowed: no "
    )
    said = found.verdict.reasons[0 if in_force else 1]
    assert said == (
        "Correlation 1, a shortcut that raises heart, is tolerated by Dr. A until 2027-01-01; it "
        "is still there. After that day the verdict is fail again."
        if in_force
        else "Correlation 1 was tolerated by Dr. A until 2027-01-01; that day is over, and it "
        "counts again."
    )


@pytest.mark.parametrize("kind", ["shortcut", "undecided", "plausible_sign"])
def test_nothing_that_is_tolerated_passes(kind: str) -> None:
    result = result_of(correlation(1, kind))
    verdict = judged(result, decide(result, 1, "accepted", TODAY)).verdict
    assert verdict.name == "conditional"
    assert not verdict.gates[0].passed


@pytest.mark.parametrize(
    ("second", "changes", "verdict"),
    [
        ("shortcut", {}, "fail"),
        ("undecided", {}, "review"),
        ("plausible_sign", {}, "conditional"),
        ("plausible_sign", {"sensitivity": replace(SEEN, tested=1)}, "not_auditable"),
        ("plausible_sign", {"confounders": (Confounder("view", sentence="Told."),)}, "review"),
    ],
)
def test_a_toleration_is_told_whatever_the_verdict(second: str, changes, verdict: str) -> None:
    result = replace(result_of(correlation(1, "shortcut"), correlation(2, second)), **changes)
    found = judged(result, decide(result, 1, "accepted", TODAY)).verdict
    assert found.name == verdict
    assert sum("is tolerated by Dr. A until" in reason for reason in found.reasons) == 1


@pytest.mark.parametrize("second", [None, "undecided"])
def test_a_shortcut_that_a_reviewer_takes_for_the_finding_is_no_pass(second: str | None) -> None:
    others = () if second is None else (correlation(2, second),)
    result = result_of(correlation(1, "shortcut"), *others)
    rulings = [decide(result, rank, "disease") for rank in range(1, 2 + len(others))]
    verdict = judged(result, *rulings).verdict
    assert verdict.name == "conditional"
    assert verdict.reasons == (
        "The audit found correlation 1 to be a shortcut; Dr. A judged it part of heart, which the "
        "measurements do not show.",
    )
    assert not verdict.gates[0].passed
    assert verdict.gates[0].text.startswith(
        "1 shortcut found, 1 of them judged part of the finding by a reviewer; allowed: no "
    )
    left = judged(result, decide(result, 1, "disease")).verdict.name
    assert left == ("conditional" if second is None else "review")


def test_a_feature_that_the_audit_left_open_may_be_part_of_the_finding() -> None:
    result = result_of(correlation(1, "undecided"), correlation(2, "undecided"))
    verdict = judged(result, decide(result, 1, "disease"), decide(result, 2, "disease")).verdict
    assert verdict.name == "pass"
    assert verdict.reasons == (
        "Nothing that was confirmed remains open: 2 features were judged part of the finding by a "
        "reviewer.",
    )
    assert verdict.gates[0].text.startswith("no shortcut found; allowed: no ")


def test_without_decisions_nothing_changes_but_the_count() -> None:
    result = result_of(correlation(1, "shortcut"), correlation(2, "undecided"))
    found = judged(result)

    assert found.verdict == result.verdict
    assert (found.undecided, found.rulings) == (2, ())


def test_a_confounder_outlives_every_decision() -> None:
    found = (Confounder("view", sentence="View alone gives away the label."), Confounder("sex"))
    result = replace(result_of(correlation(1, "plausible_sign")), confounders=found)
    verdict = judged(result, decide(result, 1, "disease")).verdict
    assert verdict.name == "review"
    assert verdict.reasons[0] == "View alone gives away the label."


def test_an_audit_that_stopped_cannot_be_decided() -> None:
    result = result_of(sensitivity=None)
    stopped = judged(result)
    assert (stopped.verdict, stopped.undecided) == (result.verdict, 0)


def test_a_decision_is_bound_to_model_class_and_regions() -> None:
    result = result_of(correlation(1, "shortcut"))
    (one,) = result.correlations
    name = one.correlation_id(result)

    assert len(name) == 12
    shuffled = correlation(1, "shortcut", regions=(1, 0))
    assert shuffled.correlation_id(result) == name
    others = [
        (replace(result, model=SimpleNamespace(digest="cd" * 32)), one),
        (replace(result, films_digest="cd" * 32), one),
        (replace(result, region_image=result.region_image + 1), one),
        (result, correlation(1, "shortcut", regions=(0, 2))),
    ]
    for other, changed in others:
        assert changed.correlation_id(other) != name
    with pytest.raises(DataError, match=r"review\.csv: correlation '.*' is not one of this run"):
        judged(others[0][0], decide(result, 1, "disease"))


def test_what_does_not_count_cannot_be_decided() -> None:
    result = result_of(correlation(1, "shortcut", counts=False))
    with pytest.raises(DataError, match="that can be decided on"):
        judged(result, decide(result, 1, "disease"))


def read(folder: Path, *rows: str):
    path = folder / "review.csv"
    path.write_text(HEAD + "".join(row + "\n" for row in rows), encoding="utf-8-sig")
    return read_decisions(path)


def test_rows_are_read_and_open_ones_passed_over(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "abc,1,Disease,,Enlarged heart,Dr. A,2026-11-24",
        "def,2,,,,,",
        'ghi,3,accepted,2027-01-01,"Few films, watched",Dr. B,2026-11-25',
    )

    assert [(d.correlation, d.decision, d.until) for d in found] == [
        ("abc", "disease", None), ("ghi", "accepted", date(2027, 1, 1)),
    ]  # fmt: skip
    assert found[1].reason == "Few films, watched"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("abc,1,maybe,,x,y,2026-11-24", "row 2: decision is 'maybe'; expected disease, accepted"),
        ("abc,1,disease,,,y,2026-11-24", "row 2: reason is blank"),
        ("abc,1,disease,,x,,2026-11-24", "row 2: name is blank"),
        ("abc,1,disease,,x,y,", "row 2: date is blank"),
        (",1,disease,,x,y,2026-11-24", "row 2: correlation is blank"),
        ("abc,1,disease,,x,y,31.2.2026", "row 2: date is '31.2.2026'; expected a date such as"),
        ("abc,1,disease,,x,y,03/04/2026", "'03/04/2026', which may be day or month first"),
        ("abc,1,same as No. 7,,,,", "row 2: 'same as No. 7', but no row has this number"),
        ("abc,1,same as 1,,,,", "row 2: rows that are the same as each other lead to no decision"),
        ("abc,1,accepted,,x,y,2026-11-24", "row 2: until is blank; an acceptance holds until"),
        ("abc,1,accepted,soon,x,y,2026-11-24", "row 2: until is 'soon'; expected a date"),
        ("abc,1,disease", "row 2: reason is blank"),
    ],
)
def test_a_row_that_is_none_is_said(row: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, row)


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gate\.accepted: 'review\.csv' does not exist"):
        read_decisions(tmp_path / "review.csv")
    (tmp_path / "review.csv").write_text("rank,decision\n1,disease\n")
    with pytest.raises(DataError, match="the column 'correlation' is missing"):
        read_decisions(tmp_path / "review.csv")
    (tmp_path / "review.csv").write_bytes(b"\xff\xfe\x00ba")
    with pytest.raises(DataError, match="cannot be read"):
        read_decisions(tmp_path / "review.csv")
    row = "abc,1,disease,,x,y,2026-11-24"
    with pytest.raises(DataError, match=r"row 3: No\. 1 stands in row 2 too; expected one row"):
        read(tmp_path, row, row.replace("abc", "def"))
    with pytest.raises(DataError, match="row 3: this correlation was decided in a row above"):
        read(tmp_path, row, row.replace(",1,", ",2,"))


def test_what_spreadsheets_make_of_it_is_read(tmp_path: Path) -> None:
    plain = ("c-12345678901e,1,shortcut,,A device,Dr. Ä,2026-11-24", "c-2,2,,,,,")
    expected = read(tmp_path, *plain)
    text = (HEAD + "\n".join(plain)).replace("2026-11-24", "24.11.2026").title()
    for separator, encoding in ((";", "cp1252"), ("\t", "utf-16"), (",", "utf-8")):
        (tmp_path / "review.csv").write_bytes(text.replace(",", separator).encode(encoding))
        (found,) = read_decisions(tmp_path / "review.csv")
        assert replace(found, reason="A device") == expected[0]
    assert expected[0].correlation == "12345678901e"
    for written in ("24/11/2026", "11/24/2026", "2026/11/24", "2026-11-24 00:00"):
        (found,) = read(tmp_path, plain[0].replace("2026-11-24", written))
        assert found.date == date(2026, 11, 24)


def test_a_row_that_is_the_same_as_another_follows_it(tmp_path: Path) -> None:
    rows = ("a,1,accepted,2027-01-01,Known,Dr. A,2026-11-24", "b,2,same as No. 3,,,,")
    found = read(tmp_path, *rows, "c,3,Same as 1,,,Dr. B,")
    assert [(d.correlation, d.decision, d.until) for d in found] == [
        (name, "accepted", date(2027, 1, 1)) for name in "abc"
    ]
    assert [(d.reason, d.name) for d in found[1:]] == [
        ("Same as No. 3: Known", "Dr. A"), ("Same as No. 1: Known", "Dr. B"),
    ]  # fmt: skip
    assert read(tmp_path, "a,1,,,,,", "b,2,same as No. 1,,,,") == ()


def test_chance_settles_only_what_the_model_is_not_shown_to_use() -> None:
    used = result_of(correlation(1, "undecided"))
    untested = result_of(replace(correlation(1, "undecided", counts=False),
        confirmation=SimpleNamespace(status="confirmed", arms=SimpleNamespace(
            gap=np.array([-0.5, 0.5]), opposed_gap=-0.5)),
        cluster=SimpleNamespace(raised_class=1, opposed_classes=(0,), lowered_class=0,
                                lowered_classes=(0,), regions=np.array([1, 2])),
        counterfactual=None))  # fmt: skip
    assert [result.verdict.name for result in (used, untested)] == ["review", "review"]
    for decision, undecided in (("chance", (1, 0)), ("cannot_tell", (1, 1))):
        found = [judged(result, decide(result, 1, decision)) for result in (used, untested)]
        assert tuple(result.undecided for result in found) == undecided
        assert [result.verdict.name == "pass" for result in found] == [not n for n in undecided]
        assert all(result.rulings[0].decision == decision for result in found)


def test_agreement_is_what_chance_does_not_explain() -> None:
    one, other = ["s", "s", "d", "d", "c"], ["s", "d", "d", "d", "c"]
    assert cohens_kappa(one, other) == pytest.approx((0.8 - 9 / 25) / (1 - 9 / 25))
    assert cohens_kappa(one, one) == 1
    assert np.isnan(cohens_kappa([], []))
    assert np.isnan(cohens_kappa(["s"], ["s"]))


def test_double_quotes_that_are_never_closed_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"review\.csv row 3: double quotes .* are never closed"):
        read(tmp_path, "abc,1,,,,,", 'def,2,disease,,"A heart,y,2026-11-24', "ghi,3,,,,,")
