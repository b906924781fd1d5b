"""Text, lists and tables as Markdown, in which nothing from outside is markup."""

import math

import pytest

from ravl_med.evidence.results import Interval
from ravl_med.reporting.layout.blocks import (
    Chapter,
    Column,
    Dot,
    Dots,
    Items,
    KeepTogether,
    Lines,
    Reference,
    Scale,
    Section,
    Table,
    Text,
)
from ravl_med.reporting.layout.markdown import (
    as_markdown,
    bullets,
    code,
    escaped,
    markdown_table,
    pair_table,
)

DOTS = Dots((Dot("accuracy", 0.5, Interval(0.4, 0.6), "main"),), reference=math.nan)


def table(**changes) -> Table:
    entries = {
        "caption": "A|B",
        "columns": (
            Column("Name", "wide"),
            Column("Films", "number"),
            Column(Scale(), "plot"),
            Column("Page", "number"),
        ),
        "rows": (
            ("a*b", "1,200", DOTS, Reference("cohort", "Model and cohort")),
            (Lines(("c", "d"), strong=True), "7", DOTS, "–"),
        ),
        "note": "n_n",
    }
    return Table(**(entries | changes))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("a|b", r"a\|b"),
        ("<b> & [x](y)", r"\<b\> &amp; \[x\](y)"),
        ("# ~~x~~ `y` $z$", r"\# \~\~x\~\~ \`y\` \$z\$"),
        ("two\nlines\tand\u00a0more", "two lines and more"),
        ("肺", "U+80BA"),
        ("a\x00b\u202ec", "abc"),
    ],
)
def test_text_is_no_markup(raw, told):
    assert escaped(raw) == told


def test_long_text_is_cut():
    assert escaped("x" * 99, 10) == "x" * 9 + "…"
    assert bullets(["y" * 99], 5) == "- yyyy…"


def test_code_holds_no_backtick():
    assert code("ab`c") == "`abc`"


def test_lists_and_pairs():
    assert bullets(["a", "b*"]) == "- a\n- b\\*"
    assert bullets([]) == ""
    assert (
        pair_table("N", "V", {"a|": "1", "b": "2"})
        == "| N | V |\n|---|---|\n| a\\| | 1 |\n| b | 2 |"
    )
    assert pair_table("N", "V", {}) == ""


def test_a_table_tells_words_and_numbers_and_neither_dots_nor_pages():
    assert markdown_table(table()).split("\n") == [
        r"**A\|B**",
        "",
        "| Name | Films |",
        "| --- | ---: |",
        r"| a\*b | 1,200 |",
        "| **c**<br>d | 7 |",
        "",
        r"n\_n",
    ]
    assert markdown_table(table(note=""), captioned=False).startswith("| Name | Films |")


def test_of_blocks_texts_lists_and_tables_are_told():
    blocks = [
        Chapter("Chapter", "key", "page"),
        Section("Section"),
        Text("Text.", "muted"),
        Items(("one", "two")),
        KeepTogether((Text("kept"), table(titled=False, note=""))),
    ]
    told = as_markdown(blocks)
    assert told[:4] == ["**Section**", "Text.", "- one\n- two", "kept"]
    assert told[4].startswith("| Name | Films |")
    assert len(told) == 5
