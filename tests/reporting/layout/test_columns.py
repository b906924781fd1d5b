"""Widths of columns: they fill a line, counts stay on one, words are shared by need."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravl_med.evidence.results import Interval
from ravl_med.reporting.layout.blocks import Column, Dot, Dots, Lines, Reference, Scale, Table
from ravl_med.reporting.layout.columns import PADDING, column_widths
from ravl_med.reporting.layout.pdf_style import WIDTH, text_width

KINDS = ("text", "wide", "label", "number", "interval", "status", "code")
LONG = "a sentence that is much longer than any column of a table can be wide on paper " * 3


def table(rows, *columns: Column) -> Table:
    return Table("Caption", columns, rows)


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=9),
    st.lists(st.text(max_size=300), min_size=1, max_size=9),
)
def test_columns_fill_a_line_whatever_they_hold(kinds, texts):
    columns = [Column(text[:40], kind) for kind, text in zip(kinds, texts * 9, strict=False)]
    row = tuple(text for _, text in zip(columns, texts * 9, strict=False))
    widths = column_widths(table([row], *columns))
    assert sum(widths) == pytest.approx(WIDTH)
    assert min(widths) > 0


def test_counts_and_states_stay_on_one_line_beside_long_text():
    rows = [("1,234,567", LONG, "✗ not held", LONG)]
    columns = (Column("n", "number"), Column("a", "wide"), Column("b", "status"), Column("c"))
    widths = column_widths(table(rows, *columns))
    assert widths[0] > text_width("1,234,567", 7.5) + PADDING
    assert widths[2] > text_width("✗ not held", 7.5) + PADDING
    assert widths[1] >= 0.18 * WIDTH


def test_a_value_breaks_before_its_interval_alone():
    value = "+56.0 (+48.1\u00a0to\u00a0+63.2)"
    columns = (Column("Arm", "wide"), *(Column(str(at), "interval") for at in range(4)))
    widths = column_widths(table([(LONG, *[value] * 4)], *columns))
    for width in widths[1:]:
        assert width > text_width("(+48.1\u00a0to\u00a0+63.2)", 7.5) + PADDING
    few = column_widths(table([(LONG, value)], *columns[:2]))
    assert few[1] > text_width(value, 7.5) + PADDING


def test_wide_columns_share_by_need_and_labels_are_alike():
    facts = (Column("", "label"), Column("", "wide"))
    first = column_widths(Table("A", facts, [("Name", LONG)], headed=False))
    other = column_widths(Table("B", facts, [("Digest of the config", "x")], headed=False))
    assert first == other
    assert first[0] == 110.0
    little, much = column_widths(table([("word " * 20, LONG)], *[Column("", "wide")] * 2))
    assert little < much


def test_heads_take_two_lines_and_cells_of_every_sort_are_measured():
    dots = Dots((Dot("a", 0.5, Interval(0.4, 0.6)),))
    rows = [
        ("a", Lines(("short", "indented"), strong=True, indented=True), dots, Reference("k", "n"))
    ]
    columns = (
        Column("a", "wide"),
        Column("Films with the feature"),
        Column(Scale(), "plot"),
        Column("Page", "number"),
    )
    widths = column_widths(table(rows, *columns))
    assert text_width("the feature", 7, bold=True) < widths[1]
    assert widths[1] < text_width("Films with the feature", 7, bold=True)
    assert 76.0 <= widths[2] <= 150.0
    assert widths[3] < 40.0
