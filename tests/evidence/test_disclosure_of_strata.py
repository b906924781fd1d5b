"""Strata of few patients are hidden, and what would tell them."""

from __future__ import annotations

from ravl_med.evidence.disclosure_control import HIDDEN, hide_strata
from ravl_med.evidence.results import CrossedAttribute, Interval, StratumGap

LEAST = 11


def crossed(
    raised: dict[str, tuple[int, int]], lowered: dict[str, tuple[int, int]]
) -> CrossedAttribute:
    """A correlation inside views; films with the feature and without it, by view."""
    tight = Interval(0.1, 0.3)
    sides = [
        tuple(StratumGap(value, *counts, 0.2, tight) for value, counts in side.items())
        for side in (raised, lowered)
    ]
    return CrossedAttribute("view", 0.1, *sides, 0.2, tight, -0.2, tight, ())


def test_what_one_of_two_classes_hides_of_a_value_the_other_hides():
    views = crossed(
        {"AP": (40, 50), "PA": (60, 70), "LL": (80, 90)},
        {"AP": (40, 5), "PA": (60, 70), "LL": (80, 90)},
    )

    of_two = hide_strata(views, (False, False), LEAST, only_two=True)
    of_many = hide_strata(views, (False, False), LEAST, only_two=False)

    hidden = [gap.value for gap in of_two.lowered if gap.n_absent == HIDDEN]
    assert hidden == ["AP", "PA"]
    assert [gap.value for gap in of_two.raised if gap.n_absent == HIDDEN] == hidden
    assert [gap.value for gap in of_many.lowered if gap.n_absent == HIDDEN] == hidden
    assert [gap.n_absent for gap in of_many.raised] == [50, 70, 90]  # films of a third class are AP
