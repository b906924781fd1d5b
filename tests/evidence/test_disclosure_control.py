"""Counts of few patients are hidden, and what would tell them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.evidence.disclosure_control import HIDDEN, hidden_cells, total_of


@pytest.mark.parametrize(
    ("counts", "hidden"),
    [
        ([50, 11, 30], set()),
        ([50, 0, 30], set()),  # nobody is told of by an empty cell
        ([50, 5, 30], {1, 2}),  # 5 alone would follow from the total
        ([50, 5, 6], {1, 2}),
        ([50, 5, 3], {0, 1, 2}),  # 5 and 3 are 8 patients of one kind
        ([5], {0}),
        ([0, 5, 0], {1}),
        ([], set()),
    ],
)
def test_by_hand(counts, hidden):
    assert hidden_cells(counts, 11) == hidden


def test_what_another_table_hides_is_hidden():
    assert hidden_cells([50, 40, 30], 11, forced=(0,)) == {0, 2}
    assert hidden_cells([50, 0, 30], 11, forced=(1,)) == {1, 2}


@given(st.lists(st.integers(0, 60), max_size=9), st.integers(2, 20))
def test_no_hidden_cell_follows_from_the_total(counts, least):
    hidden = hidden_cells(counts, least)
    assert {at for at, count in enumerate(counts) if 0 < count < least} <= hidden
    if not hidden:
        return
    filled = {at for at, count in enumerate(counts) if count}
    if hidden != filled:  # else there was nothing left to hide it behind
        assert len(hidden) >= 2
        assert sum(counts[at] for at in hidden) >= least


def test_a_total_over_a_hidden_count_is_hidden():
    assert total_of(np.array([3, 40])) == 43
    assert total_of(np.array([HIDDEN, 40])) == HIDDEN
