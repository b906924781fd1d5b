"""What may be told of a correlation inside strata: few patients are hidden, as everywhere."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from ravl_med.evidence.claims import CrossedAttribute, StratumGap
from ravl_med.evidence.interval import Interval
from ravl_med.evidence.suppression import HIDDEN, hidden_cells

__all__ = ["hide_strata"]

_NAN = math.nan
_NOTHING = Interval(_NAN, _NAN)


def hide_strata(
    crossed: CrossedAttribute, whole: tuple[bool, bool], least: int, *, only_two: bool
) -> CrossedAttribute:
    """Hide small strata of either side; the whole side where the class itself is hidden.

    Where the two classes are all there are, the films of a value are told elsewhere, so that what
    one side hides the other would tell.

    Parameters
    ----------
    crossed : CrossedAttribute
    whole : tuple of bool - nothing may be told of the raised class; of the lowered class
    least : int - smallest number of patients that may be told
    only_two : bool - the task has no third class

    Returns
    -------
    CrossedAttribute - hidden counts are `HIDDEN`, hidden rates NaN
    """
    sides = (crossed.raised, crossed.lowered)
    hidden = [
        _hidden_strata(gaps, least, range(len(gaps)) if everything else ())
        for gaps, everything in zip(sides, whole, strict=True)
    ]
    for _ in range(len(crossed.raised) if only_two else 0):
        values = {gaps[at].value for gaps, cells in zip(sides, hidden, strict=True) for at in cells}
        hidden = [
            _hidden_strata(gaps, least, [n for n, gap in enumerate(gaps) if gap.value in values])
            for gaps in sides
        ]
    raised, lowered = (
        tuple(
            StratumGap(gap.value, HIDDEN, HIDDEN, _NAN, _NOTHING) if at in cells else gap
            for at, gap in enumerate(gaps)
        )
        for gaps, cells in zip(sides, hidden, strict=True)
    )
    return replace(
        crossed,
        raised=raised,
        lowered=lowered,
        raised_adjusted=_NAN if whole[0] else crossed.raised_adjusted,
        raised_interval=_NOTHING if whole[0] else crossed.raised_interval,
        lowered_adjusted=_NAN if whole[1] else crossed.lowered_adjusted,
        lowered_interval=_NOTHING if whole[1] else crossed.lowered_interval,
    )


def _hidden_strata(
    gaps: tuple[StratumGap, ...], least: int, forced: Collection[int]
) -> frozenset[int]:
    told = [gap.patients or (gap.n_present, gap.n_absent) for gap in gaps]
    hidden: frozenset[int] = frozenset(forced)
    for _ in range(2):  # what one arm hides, the other hides
        for arm in (0, 1):
            hidden |= hidden_cells([pair[arm] for pair in told], least, hidden)
    return hidden
