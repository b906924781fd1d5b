import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.evidence.audit_result import Interval
from ravl_med.reporting import wording

NAN = float("nan")


@pytest.mark.parametrize(
    ("given_text", "drawn"),
    [
        ("plain", "plain"),
        ("  two\n\nlines\t", "two lines"),
        ("bell\x07 and \u202eturn", "bell and turn"),
        ("e\u0301", "é"),
        ("肺炎", "U+80BA U+708E"),
        ("a肺b", "a U+80BA b"),
        ("אa", "U+05D0 a"),
        ("97\u00a0%", "97\u00a0%"),
        ("\ud800", "U+D800"),
        ("", ""),
    ],
)
def test_printable(given_text, drawn):
    assert wording.printable(given_text) == drawn


@given(st.text(max_size=200), st.integers(2, 60))
def test_printable_keeps_its_limit_and_its_alphabet(text, limit):
    drawn = wording.printable(text, limit)
    assert len(drawn) <= limit
    assert wording.printable(drawn, limit) == drawn
    assert not any(ord(char) < 32 for char in drawn)


def test_block_wraps_and_is_cut():
    assert wording.printable_block("a: 1\n  b: 22", 4, 9) == "a: 1\n  b:\n 22"
    assert wording.printable_block("x\n" * 9, 4, 2).splitlines()[2].startswith("… (cut here")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wording.percent(0.974), "97\u00a0%"),
        (wording.percent(0.974, 1), "97.4\u00a0%"),
        (wording.percent(NAN), "–"),
        (wording.number(-1.257), "−1.26"),
        (wording.number(-0.001), "0.00"),
        (wording.number(float("-inf")), "–"),
        (wording.signed(2.91, 1), "+2.9"),
        (wording.signed(-2.91, 1), "−2.9"),
        (wording.signed(0.001, 1), "0.0"),
        (wording.spread(Interval(-0.641, -0.48)), "−64 to −48"),
        (wording.spread(Interval(0.33, 0.49), sign=False), "33 to 49"),
        (wording.spread(Interval(NAN, 0.49)), "–"),
        (wording.plural(1, "film"), "1 film"),
        (wording.plural(1200, "class", "es"), "1,200 classes"),
        (wording.listing(["a", "b", "c"], 2), "a, b, and 1 more"),
    ],
)
def test_numbers(text, expected):
    assert text == expected


def test_a_candidate_that_does_not_count_is_an_association(result_of):
    result = result_of(correlations=3)
    counted = wording.correlation_sentence(result.correlations[0], result.task.classes)
    other = wording.correlation_sentence(result.correlations[2], result.task.classes)
    assert "the model tends to call films cardiomegaly" in counted
    assert "association" in other
    assert "tends to" not in other
    assert wording.correlation_heading(result.correlations[2], result.task.classes).startswith(
        "Correlation 3: not counted · raises cardiomegaly · lowers no finding"
    )
