"""Labels of few patients are hidden, and what would tell of them."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravl_med.evidence.disclosure_control import HIDDEN, hide_label_cells
from ravl_med.evidence.results import Interval, LabelQuality, LabelShare, StatedGap

LEAST = 11
NO, BOTH = (False, False), (True, True)


def share(value: str, present: int, absent: int) -> LabelShare:
    return LabelShare(value, present, absent, present / 200, absent / 400, (present, absent))


def made(
    sources: tuple[tuple[str, int, int], ...] = (("report: impression", 120, 100),
                                                 ("report: findings", 80, 300)),
    certainty: tuple[tuple[int, int], ...] = ((100, 350), (40, 20), (60, 30)),
    patients: np.ndarray | None = None,
) -> LabelQuality:  # fmt: skip
    """One film a patient: 200 with the feature, 400 without it."""
    rows = tuple(
        share(name, *counts)
        for name, counts in zip(("stated", "uncertain", "blank"), certainty, strict=True)
    )
    left = [200 - certainty[0][0], 400 - certainty[0][1]]
    cells = np.array([[[30, 20], [60, 15]], [[25, 30], [90, 12]], [[45, 50], [200, 23]]])
    gap = StatedGap(30, 60, 0.2, Interval(0.1, 0.3), "holds")
    return LabelQuality(
        n_present=200, n_absent=400,
        sources=tuple(share(*row) for row in sources),
        certainty=rows,
        not_stated=share("not stated", *left),
        difference=0.375, interval=Interval(0.3, 0.4),
        raised=gap,
        lowered=replace(gap, n_present=25, n_absent=90),
        patients=cells if patients is None else patients,
    )  # fmt: skip


def hidden(labels: LabelQuality, values=None, sides=NO, *, totals: bool = False) -> LabelQuality:
    return hide_label_cells(labels, LEAST, values or {}, sides, totals=totals)


def counts(rows: tuple[LabelShare, ...]) -> list[tuple[int, int]]:
    return [(row.n_present, row.n_absent) for row in rows]


def test_large_counts_are_told_and_patients_are_not():
    shown, before = hidden(made()), made()

    assert counts(shown.sources) == counts(before.sources)
    assert counts(shown.certainty) == counts(before.certainty)
    assert (shown.raised, shown.lowered) == (before.raised, before.lowered)
    assert (shown.difference, shown.n_present) == (0.375, 200)
    assert shown.patients is None
    assert {row.patients for row in (*shown.sources, *shown.certainty, shown.not_stated)} == {None}


def test_a_small_kind_takes_the_next_smallest_with_it():
    shown = hidden(made(certainty=((100, 350), (5, 20), (95, 30))))

    assert counts(shown.certainty) == [(100, 350), (HIDDEN,) * 2, (HIDDEN,) * 2]
    assert math.isnan(shown.certainty[1].share_absent)
    assert (shown.not_stated.n_present, shown.difference) == (100, 0.375)
    assert shown.raised.outcome == "holds"


def test_few_patients_of_many_films_are_few():
    labels = made()
    rows = (replace(labels.sources[0], patients=(7, 90)), labels.sources[1])
    shown = hidden(replace(labels, sources=rows))

    assert counts(shown.sources) == [(HIDDEN,) * 2, (HIDDEN,) * 2]


def test_five_labels_that_are_not_stated_hide_the_gaps_too():
    shown = hidden(made(certainty=((195, 380), (5, 20), (0, 0))))

    assert counts(shown.certainty) == [(HIDDEN,) * 2, (HIDDEN,) * 2, (0, 0)]
    assert shown.not_stated.n_present == HIDDEN
    assert math.isnan(shown.difference)
    assert math.isnan(shown.interval.low)
    for gap in (shown.raised, shown.lowered):
        assert (gap.n_present, gap.n_absent, gap.outcome) == (HIDDEN, HIDDEN, "hidden")
        assert math.isnan(gap.gap)


def test_what_another_table_hides_is_hidden():
    values = {"label certainty": frozenset({"uncertain", "blank"})}
    shown = hidden(made(), values)

    assert counts(shown.certainty) == [(100, 350), (HIDDEN,) * 2, (HIDDEN,) * 2]
    assert counts(hidden(made(), {"label source": {"report: findings"}}).sources) == [
        (HIDDEN,) * 2, (HIDDEN,) * 2,
    ]  # fmt: skip


def test_a_total_that_would_tell_a_class_takes_every_count():
    shown = hidden(made(), totals=True)

    assert (shown.n_present, shown.n_absent) == (HIDDEN, HIDDEN)
    assert set(counts((*shown.sources, *shown.certainty))) == {(HIDDEN, HIDDEN)}
    assert shown.raised.outcome == "hidden"
    uniform = made((("manifest", 200, 400),), ((200, 400), (0, 0), (0, 0)))
    shown = hidden(uniform, totals=True)
    assert (shown.one_source, shown.all_stated) == ("manifest", True)


def test_a_hidden_class_hides_its_side_and_one_that_would_tell_it():
    cells = np.array([[[30, 20], [60, 15]], [[25, 30], [90, 12]], [[45, 50], [200, 23]]])
    shown = hidden(made(), sides=(True, False))

    assert shown.raised.outcome == "hidden"
    assert shown.lowered.outcome == "holds"  # what is left holds the films of other classes as well
    cells[2] = 0  # no other class, and no other half
    assert hidden(made(patients=cells), sides=(True, False)).lowered.outcome == "hidden"


@pytest.mark.parametrize("at", list(itertools.product(range(3), range(2), range(2))))
def test_any_small_cell_behind_the_gaps_hides_a_side(at):
    """Of any side, either arm, stated or not: the films of a class are told elsewhere."""
    cells = np.array([[[30, 20], [60, 15]], [[25, 30], [90, 12]], [[45, 50], [200, 23]]])
    cells[at] = 4
    shown = hidden(made(patients=cells))
    told = {0: shown.raised.outcome, 1: shown.lowered.outcome}

    assert "hidden" in told.values()
    assert told.get(at[0], "hidden") == "hidden"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=12, max_size=12))
def test_what_is_told_of_the_gaps_tells_of_no_few(flat):
    """Subtract what is told from the stated films of all: what is left is none, or many."""
    cells = np.array(flat).reshape(3, 2, 2)
    stated = cells[:, :, 0].sum(axis=0)
    left = cells[:, :, 1].sum(axis=0)
    certainty = ((int(stated[0]), int(stated[1])), (int(left[0]), int(left[1])), (0, 0))
    shown = hidden(made(certainty=certainty, patients=cells))
    told = [shown.raised.outcome != "hidden", shown.lowered.outcome != "hidden"]
    if shown.certainty[0].n_present == HIDDEN:
        assert told == [False, False]
        return
    for arm, certain in itertools.product(range(2), range(2)):
        row = cells[:, arm, certain]
        told_films = sum(int(row[side]) for side in (0, 1) if told[side])
        assert not any(0 < row[side] < LEAST for side in (0, 1) if told[side])
        rest = int(row.sum()) - told_films
        assert rest == 0 or rest >= LEAST or not any(told)
