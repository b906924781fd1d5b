"""What may be told of the labels behind a correlation: few patients are hidden, as everywhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.film_labels import STATED
from ravl_med.evidence.interval import Interval
from ravl_med.evidence.label_claims import LabelQuality, LabelShare, StatedGap
from ravl_med.evidence.suppression import HIDDEN, hidden_cells

__all__ = ["hide_label_cells"]

_NAN = math.nan
_NOTHING = Interval(_NAN, _NAN)


def hide_label_cells(
    labels: LabelQuality,
    least: int,
    values: Mapping[str, Collection[str]],
    sides: tuple[bool, bool],
    *,
    totals: bool,
) -> LabelQuality:
    """Return what may be told of the labels behind a correlation.

    Parameters
    ----------
    labels : LabelQuality
    least : int - smallest number of patients that may be told
    values : mapping of attribute to collection of str - values that the table of audited films
        hides; ``"label source"`` and ``"label certainty"`` are looked at
    sides : tuple of bool - nothing may be told of the raised class; of an opposed one
    totals : bool - how many films hold the feature may not be told

    Returns
    -------
    LabelQuality - without its patients
    """
    sources = _rows(labels.sources, least, values.get("label source", ()), everything=totals)
    certainty = _rows(labels.certainty, least, values.get("label certainty", ()), everything=totals)
    told = not any(row.value == STATED and row.n_present == HIDDEN for row in certainty)
    # Counts of stated films by side would tell the hidden count of all of them.
    gaps = _hidden_sides(labels, least, sides) if told else frozenset((0, 1))
    if told:
        labels = replace(labels, not_stated=replace(labels.not_stated, patients=None))
    else:
        labels = replace(
            labels, not_stated=_hide(labels.not_stated), difference=_NAN, interval=_NOTHING
        )
    return replace(
        labels,
        n_present=HIDDEN if totals else labels.n_present,
        n_absent=HIDDEN if totals else labels.n_absent,
        sources=sources,
        certainty=certainty,
        raised=_gap(labels.raised) if 0 in gaps else labels.raised,
        lowered=_gap(labels.lowered) if 1 in gaps and labels.lowered else labels.lowered,
        patients=None,
    )


def _rows(
    rows: tuple[LabelShare, ...], least: int, forced: Collection[str], *, everything: bool
) -> tuple[LabelShare, ...]:
    """Hide kinds with few patients on either side of the feature, and what would tell them."""
    told = [row.patients or (row.n_present, row.n_absent) for row in rows]
    hidden = frozenset(at for at, row in enumerate(rows) if everything or row.value in forced)
    for _ in range(2):  # what one arm hides, the other hides
        for arm in (0, 1):
            hidden |= hidden_cells([pair[arm] for pair in told], least, hidden)
    return tuple(
        _hide(row) if at in hidden and any(told[at]) else replace(row, patients=None)
        for at, row in enumerate(rows)
    )


def _hide(row: LabelShare) -> LabelShare:
    if row.n_present == row.n_absent == 0:  # nobody is told of by an empty cell
        return replace(row, patients=None)
    return LabelShare(row.value, HIDDEN, HIDDEN, _NAN, _NAN)


def _gap(gap: StatedGap) -> StatedGap:
    return StatedGap(HIDDEN, HIDDEN, _NAN, _NOTHING, "hidden")


def _hidden_sides(labels: LabelQuality, least: int, sides: tuple[bool, bool]) -> frozenset[int]:
    """Find the sides, 0 raised and 1 lowered, whose stated films may not be told.

    The stated films of all are told, and so are the films of a class: what is left of either row
    follows from it.
    """
    hidden = frozenset(side for side in (0, 1) if sides[side])
    cells: NDArray[np.int64] = (
        labels.patients if labels.patients is not None else np.zeros((3, 2, 2), dtype=np.int64)
    )
    for _ in range(3):
        for row in cells.reshape(3, 4).T.tolist():
            # All other films are told nowhere by themselves, and can hide a side.
            others = {2} if hidden and row[2] else set()
            hidden |= hidden_cells(row, least, hidden | others)
    return hidden
