"""Every sentence of a set of reports in one file, `sentences.txt`, to be read in one go.

A sentence that changes changes the file: read it there, and write it anew with
``RAVL_MED_WRITE_SENTENCES=1 pytest tests/reporting/test_sentences.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_film, make_result, make_stopped

from ravl_med.evidence.audit_result import AuditResult, FilmAnswers, Verdict
from ravl_med.evidence.results import ReviewDecision
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.report import audit_blocks
from ravl_med.reporting.layout import blocks

KEPT = Path(__file__).with_name("sentences.txt")
WRITE = "RAVL_MED_WRITE_SENTENCES"


def answered(result: AuditResult) -> AuditResult:
    """With labels and answers, a third of them wrong."""
    labels = np.arange(len(result.image_ids)) % len(result.classes)
    called = np.where(np.arange(len(labels)) % 3 == 1, 0, labels)
    return replace(
        result, answers=FilmAnswers(labels, called, np.full(len(labels), 0.8, np.float32))
    )


def results() -> dict[str, AuditResult]:
    """An audit of each verdict."""
    found = answered(make_result(correlations=7, to_decide=(1, 2, 3)))
    tolerated = tuple(
        ReviewDecision(rank, "accepted", "2027-06-30", "Watched.", "Dr. A", "2026-11-25", True)
        for rank in (1, 2)
    )
    asked = replace(make_result(correlations=3), to_decide=(3,))
    entries = tuple(replace(entry, counts=False) for entry in asked.correlations)
    return {
        "fail": found,
        "conditional": replace(
            answered(make_result(correlations=2, to_decide=(1, 2))),
            rulings=tolerated,
            verdict=Verdict("conditional", ("Correlation 1 is tolerated.",)),
        ),
        "review": replace(
            asked, correlations=entries, verdict=Verdict("review", ("1 feature is open.",))
        ),
        "pass": make_result(correlations=0, to_decide=()),
        "not auditable": replace(make_stopped(), to_decide=()),
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


def written(details: ReportDetails) -> str:
    parts, seen = [], set()
    for name, result in results().items():
        parts.append(f"== {name} ==\n")
        for text in sentences(audit_blocks(result, make_film, details)):
            flat = " ".join(text.split())
            if flat and flat not in seen:
                seen.add(flat)
                parts.append(f"{flat}\n")
    return "".join(parts)


def test_every_sentence_stands_in_the_file(details: ReportDetails) -> None:
    now = written(details)
    if os.environ.get(WRITE):
        KEPT.write_text(now, encoding="utf-8")
        pytest.skip(f"{KEPT.name} was written anew: read it")
    assert now == KEPT.read_text(encoding="utf-8"), f"sentences changed: {WRITE}=1 writes them anew"
