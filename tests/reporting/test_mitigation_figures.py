import math
from dataclasses import replace

import mitigation_results as made
import pytest

from ravl_med.evidence.claims import Interval
from ravl_med.reporting.mitigation_blocks import Dots
from ravl_med.reporting.mitigation_figures import (
    Figure,
    Label,
    Mark,
    Path,
    curve_figure,
    dot_figure,
    outcome_figure,
    scale_figure,
)


def places(figure: Figure) -> list[tuple[float, float]]:
    found = []
    for shape in figure.shapes:
        found += shape.points if isinstance(shape, Path) else [(shape.x, shape.y)]
    return found


def assert_inside(figure: Figure) -> None:
    for x, y in places(figure):
        assert 0 <= x <= figure.width
        assert 0 <= y <= figure.height


def test_dots_stand_where_the_values_are():
    figure = dot_figure(Dots(0.25, Interval(0.0, 0.5), 1.0, Interval(0.9, 1.2)), 112.0)
    before, after = (shape for shape in figure.shapes if isinstance(shape, Mark))
    assert (before.x, after.x) == (6 + 25, 6 + 100)
    assert before.square
    assert not after.square
    assert before.y > after.y  # before stands above after
    spans = [s.points for s in figure.shapes if isinstance(s, Path) and s.weight == 1.0]
    assert [(a[0], b[0]) for a, b in spans] == [(6.0, 56.0), (96.0, 106.0)]  # cut at the scale
    assert_inside(figure)


def test_a_signed_scale_has_its_zero_in_the_middle():
    figure = dot_figure(Dots(0.0, made.NOTHING, -1.0, made.NOTHING, signed=True), 112.0)
    before, after = (shape for shape in figure.shapes if isinstance(shape, Mark))
    assert (before.x, after.x) == (56.0, 6.0)
    labels = [s.text for s in scale_figure(64.0, signed=True).shapes if isinstance(s, Label)]
    assert labels == ["before", "after", "−100", "+100", "0"]


def test_what_is_not_a_number_is_not_drawn():
    figure = dot_figure(Dots(math.nan, made.NOTHING, math.nan, made.NOTHING), 80.0)
    assert not [shape for shape in figure.shapes if isinstance(shape, Mark)]


@pytest.mark.parametrize("curve", [arm.curve for arm in made.arms() if arm.curve is not None])
def test_learning_curves_mark_the_epoch_that_was_kept(curve):
    figure = curve_figure(curve, 150.0)
    assert_inside(figure)
    labels = [shape.text for shape in figure.shapes if isinstance(shape, Label)]
    assert f"kept: epoch {curve.best + 1}" in labels
    assert all(math.isfinite(value) for place in places(figure) for value in place)


def test_odd_learning_curves_are_drawn():
    curve = made.curve(6, 0, 0.15, "diverged")
    for odd in (
        replace(curve, losses=(), worst_group=(), overall=(), best=-1),
        replace(curve, losses=(math.nan,) * 6, worst_group=(math.nan,) * 6),
        replace(curve, losses=(2.0,), worst_group=(0.5,), overall=(0.6,)),
        replace(curve, losses=(2.0, math.inf, 2.0)),
        replace(curve, best=17),
    ):
        figure = curve_figure(odd, 150.0)
        assert_inside(figure)
    labels = [shape.text for shape in figure.shapes if isinstance(shape, Label)]
    assert not any(text.startswith("kept") for text in labels)


def test_every_verdict_has_a_symbol_of_its_own():
    drawn = [outcome_figure(v) for v in ("improved", "no_change", "worse", "nothing_to_do")]
    for figure in drawn:
        assert_inside(figure)
    assert len({figure.shapes for figure in drawn}) == 4
