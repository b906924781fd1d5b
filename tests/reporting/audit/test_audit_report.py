"""Everything that is written of one audit: report, cards, and the card inside of the PDF."""

import csv
import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from pypdf import PdfReader
from run_folders import GATE, WORD, fill, run_folder

from ravl_med.evidence.verdict import decide_verdict
from ravl_med.reporting.audit.report import write_report
from ravl_med.reporting.files.saved_run import redraw_run

CARDS = ("model_card.xml", "model_card.md")


@pytest.fixture
def judged(result_of):
    """A result whose verdict follows from its correlations."""
    result = result_of()
    verdict = decide_verdict(result.correlations, result.task.classes, GATE, result.sensitivity)
    return replace(result, verdict=verdict)


def embedded(folder: Path) -> dict[str, str]:
    metadata = PdfReader(folder / "report.pdf").metadata
    return {name: str(metadata[f"/{name}"]) for name in ("chaiMcXml", "chaiMcSoftwareId")}


def test_four_files_and_the_card_in_the_metadata(full_result, report_of, details):
    folder = report_of(full_result, details)
    names = {path.name for path in folder.iterdir()}
    assert names == {"report.pdf", "report.html", *CARDS}
    told = embedded(folder)
    assert told["chaiMcXml"] == (folder / "model_card.xml").read_text(encoding="utf-8")
    assert told["chaiMcSoftwareId"].startswith("ravl-med ")


def test_same_input_same_bytes(result_of, report_of, film, details, tmp_path):
    write_report(result_of(), film, details, tmp_path)
    first, second = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (report_of(result_of(), details), tmp_path)
    )
    assert first == second


def test_the_card_costs_little_of_the_pdf(result_of, report_of, details):
    folder = report_of(result_of(), details)
    card = (folder / "model_card.xml").stat().st_size
    raw = (folder / "report.pdf").read_bytes()
    at = raw.index(b"/chaiMcXml")
    length = raw.index(b"\nendobj", at) - at
    assert length < 1.2 * card + 2000  # one byte a character


def test_cards_follow_what_reviewers_decided(judged, tmp_path):
    folder = run_folder(tmp_path / "run", judged)
    before = {name: (folder / name).read_text(encoding="utf-8") for name in CARDS}
    for text in before.values():
        assert "**Fail**" in text
        assert "DRAFT, not signed. Not yet reviewed." in text
    fill(folder, decision="disease", **WORD)
    result = redraw_run(folder, date(2026, 11, 25))
    assert result.undecided == 0
    with (folder / "review.csv").open(newline="", encoding="utf-8") as stream:
        decided = len(list(csv.DictReader(stream)))
    for name in CARDS:
        text = (folder / name).read_text(encoding="utf-8")
        assert "FINAL, not signed. Nothing is open." in text
        assert "**Fail**" not in text
        assert len(re.findall(r"Correlation \d+: is the disease", text)) >= decided > 0
        assert WORD["name"] not in text
        assert WORD["reason"] not in text
    assert embedded(folder)["chaiMcXml"] == (folder / CARDS[0]).read_text(encoding="utf-8")
    found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert found["verdict"] == result.verdict.name
