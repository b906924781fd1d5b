"""Phrases as they are written, and where they stand in a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.labelling.findings import Match, PhraseTree, expand_phrase

LISTS = {"heart": ["heart", "cardiac silhouette"], "large": ["enlarged", "large"]}


def found(phrases: list[tuple[str, str]], sentence: str) -> list[tuple[int, int, int, str]]:
    tree = PhraseTree(phrases, LISTS)
    return [(m.start, m.end, m.tokens, m.tag) for m in tree.matches(sentence.split())]


@pytest.mark.parametrize(
    ("phrase", "texts"),
    [
        ("Pleural Effusions", ["pleural effusion"]),
        ("(small|large|) effusion", ["effusion", "large effusion", "small effusion"]),
        ("{heart} ~ {large}", ["cardiac silhouette ~ enlarged", "cardiac silhouette ~ large",
                               "heart ~ enlarged", "heart ~ large"]),
        ("(no evidence|sign) of", ["no evidence of", "sign of"]),
    ],
)  # fmt: skip
def test_a_phrase_stands_for_texts(phrase: str, texts: list[str]) -> None:
    assert [" ".join(words) for words in expand_phrase(phrase, LISTS)] == texts


@pytest.mark.parametrize(
    ("phrase", "message"),
    [
        ("{liver} large", "no list is called 'liver'"),
        ("(|)", "stands for nothing"),
        (" ".join(["(a|b|c|d|e)"] * 6), "more than 4000 texts"),
    ],
)
def test_a_phrase_that_cannot_be_used(phrase: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand_phrase(phrase, LISTS)


def test_all_phrases_are_found_where_they_stand() -> None:
    phrases = [("effusion", "a"), ("pleural effusion", "b"), ("effusion", "c")]
    assert found(phrases, "no pleural effusion") == [(1, 3, 2, "b"), (2, 3, 1, "a"), (2, 3, 1, "c")]
    assert found(phrases, "pleural") == []


def test_a_gap_skips_words_of_one_clause() -> None:
    phrases = [("{heart} ~ {large}", "big")]
    assert found(phrases, "heart large") == [(0, 2, 2, "big")]
    assert found(phrases, "the heart is a b c d large") == [(1, 8, 2, "big")]  # five words
    assert found(phrases, "heart is a b c d e large") == []  # six
    assert found(phrases, "heart normal , aorta large") == []


def test_words_of_the_tree_are_known() -> None:
    assert PhraseTree([("{heart} ~ large", 1)], LISTS).tokens == {
        "heart", "cardiac", "silhouette", "large",
    }  # fmt: skip


@given(
    st.lists(st.sampled_from(["heart", "is", "large", ",", "cardiac", "silhouette"]), max_size=30)
)
def test_matches_hold_what_the_phrase_says(sentence: list[str]) -> None:
    for match in PhraseTree([("{heart} ~ {large}", "big")], LISTS).matches(sentence):
        assert isinstance(match, Match)
        words = sentence[match.start : match.end]
        assert words[0] in ("heart", "cardiac")
        assert words[-1] == "large"
        assert "," not in words
        assert match.tokens <= len(words) <= match.tokens + 5
