"""The method page tells the steps that an audit took, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pypdf import PdfReader

from ravl_med.evidence.audit_result import AuditResult, FindingAuroc, ModelChecks
from ravl_med.evidence.results import Interval
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.method import LIMITATIONS, limits_chapter, method_chapter
from ravl_med.reporting.audit.report import write_report
from ravl_med.reporting.layout.blocks import Items, Table, Text
from ravl_med.reporting.pictures import Film

THRESHOLDS = {
    "gate.min_films": "at least 20 films a class",
    "evidence.fdr": "q at most 0.05",
    "discovery.clusters": "K of 40, 80",
}
SANITY = ModelChecks(
    0.55, (FindingAuroc("a", 40, 0.7, Interval(0.6, 0.8), 0.6, 0.7, False),), (), (), ()
)
STEPS = {
    "Proposing.": "grouped by k-medoids",
    "Choosing.": "split into two halves",
    "Confirming.": "Benjamini-Hochberg",
    "Using.": "the 3 that did most in the maps are filled so",
    "Kind.": "removed in turn",
    "Subgroups.": "Accuracy by attribute",
    "Strata.": "Mantel-Haenszel",
    "What could be seen.": "are simulated",
}
ResultOf = Callable[..., AuditResult]


def told(result: AuditResult) -> str:
    return " ".join(
        block.text for block in method_chapter(result, THRESHOLDS) if isinstance(block, Text)
    )


def steps_in(text: str) -> list[str]:
    """Steps that are told: their names, and what they do."""
    named = [step for step in STEPS if step in text]
    assert [step for step, does in STEPS.items() if does in text] == named
    return named


def test_a_whole_audit_tells_every_step(full_result: AuditResult) -> None:
    text = told(replace(full_result, sanity=SANITY))
    assert steps_in(text) == list(STEPS)
    assert text.startswith("Checks. ")
    assert "Stopping." not in text


def test_an_audit_that_stopped_tells_no_step_that_never_ran(stopped_result: AuditResult) -> None:
    blocks = method_chapter(replace(stopped_result, sanity=SANITY), THRESHOLDS)
    text = told(replace(stopped_result, sanity=SANITY))
    assert steps_in(text) == []
    assert text.startswith("Checks. ")
    assert "The audit ended before its search for shortcuts was done" in text
    assert "the image tower embedded films and regions" in text
    (table,) = (block for block in blocks if isinstance(block, Table))
    assert table.rows == (("gate.min_films", "at least 20 films a class"),)
    (limits,) = (block for block in limits_chapter(stopped_result) if isinstance(block, Items))
    assert not set(limits.items) & set(LIMITATIONS)
    assert not any(word in " ".join(limits.items) for word in ("Used", "tile", "Fills", "search"))
    assert "Checks." not in told(stopped_result)  # where it was not looked at


def test_with_no_candidate_nothing_was_confirmed_or_tested(null_result: AuditResult) -> None:
    text = told(null_result)
    assert steps_in(text) == ["Proposing.", "Choosing.", "Subgroups.", "What could be seen."]
    assert "Nothing was left to confirm" in text


def test_without_an_intervention_none_is_told(result_of: ResultOf) -> None:
    result = result_of(correlations=2)
    untested = tuple(
        replace(entry, counterfactual=None, strata=None) for entry in result.correlations
    )
    result = replace(result, correlations=untested, subgroups=(), sensitivity=None)
    text = told(result)
    assert "none was made here. No correlation came so far." in text
    for does in ("Removal: the best", "removed one by one", "Mantel-Haenszel", "simulated"):
        assert does not in text
    assert "Intervals come from a bootstrap of patients." in text
    table = replace(result, task=replace(result.task, scores="table"))
    assert "it cannot be run on changed films" in told(table)


def test_the_clustering_that_ran_is_told(full_result: AuditResult) -> None:
    assert full_result.discovery is not None
    paper = replace(full_result, discovery=replace(full_result.discovery, protocol="paper"))
    assert "pooled and near-duplicates folded" in told(full_result)
    assert "the best silhouette is kept" not in told(full_result)
    assert "pooled and near-duplicates folded" not in told(paper)
    assert "the best silhouette is kept" in told(paper)


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        ((), "on 0 of 120 films. Sides in names of"),
        (("R",) * 120, "on 120 of 120 films."),
        (("R",) * 50 + ("L",) * 30 + ("",) * 40, "on 80 of 120 films, 30 of them mirrored (L). S"),
    ],
)
def test_films_that_state_their_side_are_counted(
    edges: tuple[str, ...], said: str, full_result: AuditResult
) -> None:
    text = told(replace(full_result, left_edges=edges))
    assert said in text
    assert ("the name says the picture's side" in text) == (edges.count("") > 0 or not edges)


def test_the_pages_of_a_stopped_audit_have_it(
    stopped_result: AuditResult, film: Film, details: ReportDetails, tmp_path: Path
) -> None:
    write_report(stopped_result, film, details, tmp_path)
    pages = [" ".join(p.extract_text().split()) for p in PdfReader(tmp_path / "report.pdf").pages]
    page = next(page for page in pages if "Method and thresholds" in page)
    assert "The audit ended before its search" in page
    assert "k-medoids" not in page
