"""Negation, uncertainty and the past: scopes by hand."""

from __future__ import annotations

import pytest

from ravl_med.labelling.findings import ContextRules, Match, PhraseTree, match_phrases

RULES = ContextRules(
    {
        "absent": {"after": ["no", "no evidence of", "not"], "before": ["is absent"],
                   "both": ["resolved"]},
        "uncertain": {"after": ["possible", "cannot exclude"], "before": ["is possible"],
                      "both": ["versus"]},
        "past": {"after": ["history of"]},
        "end": ["but", "there is"],
        "none": ["no change in"],
    },
    {},
)  # fmt: skip
FINDINGS = PhraseTree([(name, name) for name in ("edema", "effusion", "heart ~ large")], {})


def statuses(text: str) -> dict[str, str]:
    sentence = text.split()
    triggers = RULES.triggers(sentence)
    return {m.tag: RULES.status(m, triggers) for m in FINDINGS.matches(sentence)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("edema", {"edema": "present"}),
        ("no edema", {"edema": "absent"}),
        ("no evidence of edema , effusion", {"edema": "absent", "effusion": "absent"}),
        ("edema no effusion", {"edema": "present", "effusion": "absent"}),
        ("no edema but effusion", {"edema": "absent", "effusion": "present"}),
        ("no edema there is effusion", {"edema": "absent", "effusion": "present"}),
        ("no edema possible effusion", {"edema": "absent", "effusion": "uncertain"}),
        ("possible edema no effusion", {"edema": "uncertain", "effusion": "absent"}),
        ("edema is absent", {"edema": "absent"}),
        ("no edema effusion is possible", {"edema": "absent", "effusion": "absent"}),
        ("edema but effusion is absent", {"edema": "present", "effusion": "absent"}),
        ("edema versus effusion", {"edema": "uncertain", "effusion": "uncertain"}),
        ("heart is large , edema versus effusion",
         {"heart ~ large": "present", "edema": "uncertain", "effusion": "uncertain"}),
        ("resolved edema", {"edema": "absent"}),
        ("edema resolved", {"edema": "absent"}),
        ("history of edema", {"edema": "past"}),
        ("no history of edema", {"edema": "past"}),  # it says nothing of today
        ("no change in edema", {"edema": "present"}),
        ("cannot exclude edema", {"edema": "uncertain"}),
        ("heart is not large", {"heart ~ large": "absent"}),
        ("heart is large not edema", {"heart ~ large": "present", "edema": "absent"}),
        ("edema " + "a " * 13 + "is absent", {"edema": "present"}),  # too far back
    ],
)  # fmt: skip
def test_scopes(text: str, expected: dict[str, str]) -> None:
    assert statuses(text) == expected


def test_of_matches_that_share_a_word_the_longest_stays() -> None:
    short, long, apart = Match(1, 2, 1, "a"), Match(0, 2, 2, "b"), Match(3, 4, 1, "c")
    gap = Match(0, 4, 2, "d")
    assert match_phrases([short, gap, apart, long]) == [long, apart]
    assert match_phrases([]) == []
