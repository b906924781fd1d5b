"""Sections of reports and their sentences, and that hostile text costs no more than its length."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.labelling.sections import ReportSection, sentences_of, split_sections, stem


def kinds(text: str) -> list[tuple[str, str]]:
    return [(section.kind, section.text) for section in split_sections(text)]


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        (
            "INDICATION: Pneumothorax? FINDINGS: Clear lungs.\nIMPRESSION: Normal.",
            [("findings", "Clear lungs."), ("impression", "Normal.")],
        ),
        ("Clear lungs.", [("free text", "Clear lungs.")]),
        ("FINDINGS\nClear lungs.\nIMPRESSION\nNormal.",
         [("findings", "Clear lungs."), ("impression", "Normal.")]),
        ("Findings : HEART: Normal. LUNGS: Clear.", [("findings", "HEART: Normal. LUNGS: Clear.")]),
        ("CHEST, TWO VIEWS. IMPRESSION: Normal.", [("impression", "Normal.")]),
        # Many reports have no heading FINDINGS: what follows an empty line is read.
        ("HISTORY: Edema.\n\nClear lungs.\n\nIMPRESSION: Normal.",
         [("free text", "Clear lungs."), ("impression", "Normal.")]),
        ("COMPARISON: None. TECHNIQUE: PA.", []),
        ("IMPRESSION: Old. ADDENDUM: New edema. IMPRESSION: Same.",
         [("impression", "Old."), ("addendum", "New edema."), ("impression", "Same.")]),
        ("My impression is normal.", [("free text", "My impression is normal.")]),
        ("FINDINGS:\nIMPRESSION:", []),
        ("<p>FINDINGS: Clear&nbsp;lungs &amp; heart.</p><br/>",
         [("findings", "Clear\xa0lungs & heart.")]),
        ("Effusion < 1 cm and > 0.", [("free text", "Effusion < 1 cm and > 0.")]),
        ("No\0 edema.\r\n", [("free text", "No  edema.")]),
        ("", []),
        (" \n\t ", []),
    ],
)  # fmt: skip
def test_sections(text: str, sections: list[tuple[str, str]]) -> None:
    assert kinds(text) == sections


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("No edema. Nodule of 1.5 cm.", [["no", "edema"], ["nodule", "of", "1.5", "cm"]]),
        ("No edema,effusions", [["no", "edema", ",", "effusion"]]),
        ("Clear.There is edema; heart: normal!",
         [["clear"], ["there", "is", "edema"], ["heart"], ["normal"]]),
        ("A nodule of\n5 cm\n2.5 cm", [["a", "nodule", "of", "5", "cm", "2.5", "cm"]]),
        ("A wrapped\nline", [["a", "wrapped", "line"]]),
        ("- edema\n- mass\n1. old\n\nnew", [["edema"], ["mass"], ["1"], ["old"], ["new"]]),
        ("right-sided XXXX's", [["right", "sided", "xxxx'"]]),
        ("...", []),
    ],
)  # fmt: skip
def test_sentences(text: str, sentences: list[list[str]]) -> None:
    assert sentences_of(text) == sentences


def test_a_sentence_without_an_end_is_cut() -> None:
    assert [len(sentence) for sentence in sentences_of("no " * 250)] == [100, 100, 50]


@pytest.mark.parametrize(
    ("word", "singular"),
    [("opacities", "opacity"), ("effusions", "effusion"), ("atelectasis", "atelectasis"),
     ("hilus", "hilus"), ("mass", "mass"), ("gas", "gas"), ("lungs", "lung"), ("has", "has")],
)  # fmt: skip
def test_plurals(word: str, singular: str) -> None:
    assert stem(word) == singular


@given(st.text(max_size=300))
def test_any_text_gives_sections_of_its_words(text: str) -> None:
    for section in split_sections(text):
        assert isinstance(section, ReportSection)
        assert section.text == section.text.strip() != ""
        for sentence in sentences_of(section.text):
            assert sentence
            assert all(word == "," or word[0].isalnum() for word in sentence)


@pytest.mark.parametrize(
    "unit",
    ["IMPRESSION:", "impression  ", "clinical history ", "\nfindings", "<a", "<!", "&#1", "&",
     "\n ", "\n", " ", "1", "1.", "a'", ",", "\0", "无", "1" * 5000 + ";&#"],
)  # fmt: skip
def test_hostile_text_costs_its_length(unit: str) -> None:
    def seconds(length: int) -> float:
        text = (unit * (length // len(unit) + 1))[:length]
        start = time.process_time()
        for section in split_sections(text):
            sentences_of(section.text)
        return time.process_time() - start

    short = min(seconds(50_000) for _ in range(2))
    # Quadratic reading would take 16 times as long for 4 times the text.
    assert min(seconds(200_000) for _ in range(2)) < 9 * short + 0.2
