"""Every sentence of a set of reports and cards in one file, `sentences.txt`, to be read in one go.

A sentence that changes changes the file: read it there, and write it anew with
``RAVL_MED_WRITE_SENTENCES=1 pytest tests/reporting/test_sentences.py``.
"""

from __future__ import annotations

import html
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.results import Kind
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.report import audit_blocks
from ravl_med.reporting.audit.sentences import certainty_sentence, counter_evidence, headline
from ravl_med.reporting.cards.chai import chai_card
from ravl_med.reporting.cards.hub import hub_card
from ravl_med.reporting.layout import blocks
from ravl_med.reporting.pictures import Film

KEPT = Path(__file__).with_name("sentences.txt")
WRITE = "RAVL_MED_WRITE_SENTENCES"


@pytest.fixture
def results(
    verdict_results: dict[str, AuditResult], stopped_result: AuditResult, null_result: AuditResult
) -> dict[str, AuditResult]:
    """An audit of each verdict, one that found nothing, and one that stopped early."""
    return {
        **verdict_results,
        "nothing found": replace(null_result, to_decide=()),
        "stopped": replace(stopped_result, to_decide=()),
    }


def sentences(content: Iterable[blocks.Block]) -> Iterator[str]:
    """Give what is said in words: text, lists, captions, heads, notes, words under pictures."""
    for block in content:
        match block:
            case blocks.Title(text, below):
                yield from (text, below)
            case blocks.Banner(title, line):
                yield f"{title}. {line}"
            case blocks.Chapter(title) | blocks.Section(title):
                yield f"# {title}"
            case blocks.Text(text):
                yield text
            case blocks.Items(items):
                yield from items
            case blocks.Table(caption, columns, _, note):
                heads = [one.head for one in columns if isinstance(one.head, str) and one.head]
                yield f"{caption}: {' | '.join(heads)}"
                yield note
            case blocks.FigureGrid(figures, _, _, note):
                yield from (figure.lines[0] for figure in figures[:2] if figure.lines)
                yield note
            case blocks.KeepTogether(inner) | blocks.Entry(_, _, _, _, inner):
                if isinstance(block, blocks.Entry):
                    yield f"# {block.title}"
                yield from sentences(inner)
            case blocks.ClusterPlot(caption, _, _, note):
                yield f"{caption}: {note}"
            case _:
                continue


def of_cards(result: AuditResult, details: ReportDetails) -> Iterator[str]:
    """Give what both cards say in words, but for tables and short values."""
    _, _, card = hub_card(result, details).split("---\n", 2)
    yield from (line for line in card.splitlines() if not line.startswith("|"))
    for text in re.findall(r">([^<>]{25,})<", chai_card(result, details)):
        yield from (
            line
            for line in html.unescape(text).splitlines()
            if not re.match(r"[{}@]| *\w+ = ", line)
        )


def test_every_sentence_stands_in_the_file(
    results: dict[str, AuditResult], film: Film, details: ReportDetails
) -> None:
    parts, seen = [], set()
    for name, result in results.items():
        parts.append(f"== {name} ==\n")
        reported = sentences(audit_blocks(result, film, details))
        for text in (*reported, *of_cards(result, details)):
            flat = " ".join(text.split())
            if flat and flat not in seen:
                seen.add(flat)
                parts.append(f"{flat}\n")
    now = "".join(parts)
    if os.environ.get(WRITE):
        KEPT.write_text(now, encoding="utf-8")
        pytest.skip(f"{KEPT.name} was written anew: read it")
    assert now == KEPT.read_text(encoding="utf-8"), f"sentences changed: {WRITE}=1 writes them anew"


def test_page_one_names_feature_finding_harm_certainty_and_next_step_in_its_first_lines(
    results: dict[str, AuditResult], film: Film, details: ReportDetails
) -> None:
    content = audit_blocks(results["fail"], film, details)
    first = next(at for at, block in enumerate(content) if isinstance(block, blocks.Chapter))
    page = list(sentences(content[:first]))
    at = page.index("The model takes a pulse generator for cardiomegaly.")
    assert at <= 3
    assert page[at + 1].startswith("Of 8 films of no finding with it, 2 were called right;")
    assert "The name comes from the segmenter, which was right 24 of 25 times." in page
    for title, start in (
        ("How sure?", "Correlation 1: found on 35 patients, confirmed on 35 others"),
        ("What has to be decided?", "You have to decide on 3 features: No. 1, 2, 3."),
        ("What next", "Do not use the model as it stands."),
    ):
        assert page[page.index(f"# {title}") + 1].startswith(start)


def test_how_sure_leaves_out_what_is_hidden_of_few_patients(
    results: dict[str, AuditResult],
) -> None:
    found = results["fail"]
    told = found.correlations[0]
    tested = told.counterfactual
    assert tested is not None
    removal, nan = tested.removal, math.nan
    assert removal.typical is not None
    assert removal.replaced is not None
    assert tested.transplant is not None
    few = replace(
        tested,
        removal=replace(
            removal,
            typical=replace(removal.typical, decisions=nan),
            replaced=replace(removal.replaced, decisions=nan),
        ),
        transplant=replace(tested.transplant, contrast=nan, decisions=nan),
    )
    hidden = replace(told, counterfactual=few)
    assert "changes decisions by –" not in counter_evidence(hidden, found.classes)
    said = certainty_sentence(found, hidden)
    assert said.replace("\xa0", " ").endswith(
        "lowers the score for cardiomegaly by 2.37 (1.92 to 2.82) logits, beyond control films "
        "(the weaker of two fills; the other: 2.66 logits)."
    )


@pytest.mark.parametrize(
    ("described", "feature"),
    [
        (
            "dark, round, 12 mm; 56 % upper abdomen",
            "a dark, round spot 12 mm across, over the upper abdomen,",
        ),
        ("dark, round, 12 mm; 44 % upper abdomen; 40 % spine", "a dark, round spot 12 mm across"),
        ("94 % pulse generator (right 46 of 49 times); 80 % left lung", "a pulse generator"),
    ],
)
def test_what_has_no_name_is_found_by_its_place(
    results: dict[str, AuditResult], described: str, feature: str
) -> None:
    found = results["fail"]
    told = found.correlations[0]
    found = replace(found, descriptions={told.cluster.cluster: described})
    assert headline(found, told) == f"The model takes {feature} for cardiomegaly."


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("plausible_sign", ": anatomy or a sign of it, as far as can be told."),
        ("undecided", "; whether it is part of the finding is open."),
    ],
)
def test_what_is_no_shortcut_is_not_called_one(
    results: dict[str, AuditResult], kind: Kind, ending: str
) -> None:
    found = results["fail"]
    told = replace(found.correlations[0], kind=kind)
    found = replace(found, descriptions={told.cluster.cluster: "dark, round, 12 mm"})
    said = headline(found, told)
    assert said == f"The model reads a dark, round spot 12 mm across as cardiomegaly{ending}"


def test_page_one_says_first_why_nothing_can_be_said(
    results: dict[str, AuditResult], film: Film, details: ReportDetails
) -> None:
    for name, early in (("not_auditable", True), ("pass", False)):
        page = list(sentences(audit_blocks(results[name], film, details)))
        assert (page.index("# Why this verdict") < page.index("# What next")) is early


def test_there_is_one_number_of_candidates(
    results: dict[str, AuditResult], film: Film, details: ReportDetails
) -> None:
    found = results["fail"]
    assert found.discovery is not None
    found = replace(found, discovery=replace(found.discovery, candidates=5))
    whole = " ".join(sentences(audit_blocks(found, film, details)))
    whole += hub_card(found, details) + chai_card(found, details)
    said = set(re.findall(r"(\d+) candidates?\b", whole))
    assert said <= {"5", str(found.sensitivity.candidates)}  # type: ignore[union-attr]
