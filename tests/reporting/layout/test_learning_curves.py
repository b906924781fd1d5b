import math
from dataclasses import replace

import mitigation_results as made
import pytest
from test_drawings import assert_inside, places

from ravl_med.reporting.layout.drawings import Label, draw_curve


@pytest.mark.parametrize("curve", [arm.curve for arm in made.arms() if arm.curve is not None])
def test_learning_curves_mark_the_epoch_that_was_kept(curve):
    figure = draw_curve(curve, 150.0)
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
        figure = draw_curve(odd, 150.0)
        assert_inside(figure)
    labels = [shape.text for shape in figure.shapes if isinstance(shape, Label)]
    assert not any(text.startswith("kept") for text in labels)
