import math
from typing import get_args

import pytest

from ravl_med.evidence.results import Interval
from ravl_med.reporting.layout.blocks import Banner, Dot, Dots, Scale, Symbol
from ravl_med.reporting.layout.drawings import (
    Drawing,
    Label,
    Mark,
    Path,
    draw_dots,
    draw_scale,
    draw_symbol,
)

NOTHING = Interval(math.nan, math.nan)
MARKS = (("before", "before"), ("after", "main"))


def before_after(before, before_interval, after, after_interval, *, signed=False) -> Dots:
    dots = (Dot("before", before, before_interval, "before"), Dot("after", after, after_interval))
    return Dots(dots, signed)


def places(figure: Drawing) -> list[tuple[float, float]]:
    found = []
    for shape in figure.shapes:
        found += shape.points if isinstance(shape, Path) else [(shape.x, shape.y)]
    return found


def assert_inside(figure: Drawing) -> None:
    for x, y in places(figure):
        assert 0 <= x <= figure.width
        assert 0 <= y <= figure.height


def test_dots_stand_where_the_values_are():
    figure = draw_dots(before_after(0.25, Interval(0.0, 0.5), 1.0, Interval(0.9, 1.2)), 112.0, 15.0)
    before, after = (shape for shape in figure.shapes if isinstance(shape, Mark))
    assert (before.x, after.x) == (6 + 25, 6 + 100)
    assert before.square
    assert not after.square
    assert before.y > after.y  # before stands above after
    spans = [s.points for s in figure.shapes if isinstance(s, Path) and s.weight == 1.0]
    assert [(a[0], b[0]) for a, b in spans] == [(6.0, 56.0), (96.0, 106.0)]  # cut at the scale
    assert figure.alt.replace("\u00a0", " ") == "before 25 %, after 100 %"
    assert_inside(figure)


def test_one_dot_stands_in_the_middle():
    figure = draw_dots(Dots((Dot("accuracy", 0.5, Interval(0.4, 0.6)),)), 112.0, 13.0)
    (mark,) = (shape for shape in figure.shapes if isinstance(shape, Mark))
    assert (mark.x, mark.y) == (56.0, 6.5)
    assert not mark.square


@pytest.mark.parametrize("look", ["other", "before", "weak"])
def test_other_looks_are_open_squares(look):
    figure = draw_dots(Dots((Dot("without", 0.5, NOTHING, look),)), 112.0, 13.0)
    (mark,) = (shape for shape in figure.shapes if isinstance(shape, Mark))
    assert mark.square
    assert mark.fill == "#ffffff"


def test_a_signed_scale_has_its_zero_in_the_middle():
    figure = draw_dots(before_after(0.0, NOTHING, -1.0, NOTHING, signed=True), 112.0, 15.0)
    before, after = (shape for shape in figure.shapes if isinstance(shape, Mark))
    assert (before.x, after.x) == (56.0, 6.0)
    scale = Scale(MARKS, signed=True)
    labels = [s.text for s in draw_scale(scale, 64.0).shapes if isinstance(s, Label)]
    assert labels == ["before", "after", "−100", "+100", "0"]


@pytest.mark.parametrize(
    "scale", [Scale(), Scale(MARKS), Scale((("with", "main"), ("without", "other")))]
)
def test_scales_are_told_in_words_and_fit(scale):
    figure = draw_scale(scale, 116.0)
    assert_inside(figure)
    assert figure.alt.startswith("scale from 0 % to 100 %")
    assert all(f"{name}: " in figure.alt for name, _ in scale.marks)


def test_what_is_not_a_number_is_not_drawn():
    figure = draw_dots(before_after(math.nan, NOTHING, math.nan, NOTHING), 80.0, 15.0)
    assert not [shape for shape in figure.shapes if isinstance(shape, Mark)]


def test_every_verdict_has_a_symbol_of_its_own():
    symbols = get_args(Symbol)
    drawn = [draw_symbol(Banner("Word", "line", "good", symbol)) for symbol in symbols]
    for figure in drawn:
        assert_inside(figure)
    assert len({figure.shapes for figure in drawn}) == len(symbols) == 6


def test_what_dots_are_held_against_is_a_line_that_meets_that_of_the_next_row():
    dots = Dots((Dot("accuracy", 0.5, Interval(0.4, 0.6)),), reference=0.75)
    figure = draw_dots(dots, 112.0, 10.0)
    (line,) = [s for s in figure.shapes if isinstance(s, Path) and s.weight == 0.7]
    (low, high) = line.points
    assert low[0] == high[0] == 6 + 75
    assert low[1] < 0
    assert high[1] > 10
    plain = draw_dots(Dots(dots.dots), 112.0, 10.0)
    assert len(plain.shapes) == len(figure.shapes) - 1
    head = draw_scale(Scale(reference="all films"), 84.0)
    assert_inside(head)
    assert head.alt == "scale from 0 % to 100 %; all films: line"
    assert next(s.text for s in head.shapes if isinstance(s, Label)) == "all films"
