import math
from typing import get_args

import pytest

from ravl_med.evidence.claims import Interval
from ravl_med.reporting.pdf_style import text_width
from ravl_med.reporting.report_blocks import Banner, Dot, Dots, Flow, FlowBox, Scale, Symbol
from ravl_med.reporting.report_figures import (
    Figure,
    Label,
    Mark,
    Path,
    banner_figure,
    dot_figure,
    flow_figure,
    scale_figure,
)

NOTHING = Interval(math.nan, math.nan)
MARKS = (("before", "before"), ("after", "main"))


def before_after(before, before_interval, after, after_interval, *, signed=False) -> Dots:
    dots = (Dot("before", before, before_interval, "before"), Dot("after", after, after_interval))
    return Dots(dots, signed, height=15.0)


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
    figure = dot_figure(before_after(0.25, Interval(0.0, 0.5), 1.0, Interval(0.9, 1.2)), 112.0)
    before, after = (shape for shape in figure.shapes if isinstance(shape, Mark))
    assert (before.x, after.x) == (6 + 25, 6 + 100)
    assert before.square
    assert not after.square
    assert before.y > after.y  # before stands above after
    spans = [s.points for s in figure.shapes if isinstance(s, Path) and s.weight == 1.0]
    assert [(a[0], b[0]) for a, b in spans] == [(6.0, 56.0), (96.0, 106.0)]  # cut at the scale
    assert figure.words.replace("\u00a0", " ") == "before 25 %, after 100 %"
    assert_inside(figure)


def test_one_dot_stands_in_the_middle():
    figure = dot_figure(Dots((Dot("accuracy", 0.5, Interval(0.4, 0.6)),), height=13.0), 112.0)
    (mark,) = (shape for shape in figure.shapes if isinstance(shape, Mark))
    assert (mark.x, mark.y) == (56.0, 6.5)
    assert not mark.square


@pytest.mark.parametrize("look", ["other", "before", "weak"])
def test_other_looks_are_open_squares(look):
    figure = dot_figure(Dots((Dot("without", 0.5, NOTHING, look),)), 112.0)
    (mark,) = (shape for shape in figure.shapes if isinstance(shape, Mark))
    assert mark.square
    assert mark.fill == "#ffffff"


def test_a_signed_scale_has_its_zero_in_the_middle():
    figure = dot_figure(before_after(0.0, NOTHING, -1.0, NOTHING, signed=True), 112.0)
    before, after = (shape for shape in figure.shapes if isinstance(shape, Mark))
    assert (before.x, after.x) == (56.0, 6.0)
    scale = Scale(MARKS, signed=True)
    labels = [s.text for s in scale_figure(scale, 64.0).shapes if isinstance(s, Label)]
    assert labels == ["before", "after", "−100", "+100", "0"]


@pytest.mark.parametrize(
    "scale", [Scale(), Scale(MARKS), Scale((("with", "main"), ("without", "other")))]
)
def test_scales_are_told_in_words_and_fit(scale):
    figure = scale_figure(scale, 116.0)
    assert_inside(figure)
    assert figure.words.startswith("scale from 0 % to 100 %")
    assert all(f"{name}: " in figure.words for name, _ in scale.marks)


def test_what_is_not_a_number_is_not_drawn():
    figure = dot_figure(before_after(math.nan, NOTHING, math.nan, NOTHING), 80.0)
    assert not [shape for shape in figure.shapes if isinstance(shape, Mark)]


def test_every_verdict_has_a_symbol_of_its_own():
    symbols = get_args(Symbol)
    drawn = [banner_figure(Banner("Word", "line", "good", symbol)) for symbol in symbols]
    for figure in drawn:
        assert_inside(figure)
    assert len({figure.shapes for figure in drawn}) == len(symbols) == 6


def test_what_dots_are_held_against_is_a_line_that_meets_that_of_the_next_row():
    dots = Dots((Dot("accuracy", 0.5, Interval(0.4, 0.6)),), height=10.0, reference=0.75)
    figure = dot_figure(dots, 112.0)
    (line,) = [s for s in figure.shapes if isinstance(s, Path) and s.weight == 0.7]
    (low, high) = line.points
    assert low[0] == high[0] == 6 + 75
    assert low[1] < 0
    assert high[1] > 10
    plain = dot_figure(Dots(dots.dots, height=10.0), 112.0)
    assert len(plain.shapes) == len(figure.shapes) - 1
    head = scale_figure(Scale(reference="all films"), 84.0)
    assert_inside(head)
    assert head.words == "scale from 0 % to 100 %; all films: line"
    assert next(s.text for s in head.shapes if isinstance(s, Label)) == "all films"


def flow(left_out: int = 2, lines: int = 3, parts: int = 2, text: str = "another split") -> Flow:
    return Flow(
        "Cohort flow",
        FlowBox("Listed: 9 rows"),
        tuple(FlowBox(f"Left out {n}", (text,) * lines) for n in range(left_out)),
        FlowBox("Audited: 7 films", ("of 5 patients",)),
        tuple(FlowBox(f"Half {n}", ("4 films", "3 patients")) for n in range(parts)),
    )


def boxes_of(figure: Figure) -> list[tuple[float, float, float, float]]:
    """Left, lower, right and upper edge of each box, as drawn."""
    closed = [s.points for s in figure.shapes if isinstance(s, Path) and len(s.points) == 4]
    return [(p[0][0], p[0][1], p[2][0], p[2][1]) for p in closed]


@pytest.mark.parametrize("text", ["another split", "W" * 300, "肺炎 " * 90, "<b>&amp;" * 40, ""])
@pytest.mark.parametrize(
    ("left_out", "lines", "parts"), [(2, 6, 2), (2, 0, 2), (1, 1, 0), (0, 0, 2)]
)
def test_a_flow_fits_whatever_its_texts(left_out, lines, parts, text):
    drawn = flow(left_out, lines, parts, text)
    figure = flow_figure(drawn)
    assert_inside(figure)
    assert figure.width <= 493.3  # of a line on paper
    boxes = boxes_of(figure)
    assert len(boxes) == 2 + left_out + parts
    for at, (left, low, right, high) in enumerate(boxes):
        for other in boxes[at + 1 :]:  # none lies on another
            assert right < other[0] or other[2] < left or high < other[1] or other[3] < low
    for label in (s for s in figure.shapes if isinstance(s, Label)):
        end = label.x + text_width(label.text, label.size, bold=label.bold)
        assert any(x0 < label.x and end < x1 and y0 < label.y < y1 for x0, y0, x1, y1 in boxes)
        assert len(label.text) < 60


def test_a_flow_goes_down_and_what_drops_out_goes_right():
    figure = flow_figure(flow())
    start, first, second, end, left, right = boxes_of(figure)
    assert start[1] > first[3] > second[3] > end[3] > left[3] == right[3]
    assert first[0] == second[0] > start[2]
    middle = (end[0] + end[2]) / 2
    assert middle - left[0] == pytest.approx(right[2] - middle)  # halves are the same size
    heads = [s.points for s in figure.shapes if isinstance(s, Path) and len(s.points) == 3]
    tips = [points[0] for points in heads]
    assert tips == [
        (first[0], (first[1] + first[3]) / 2),
        (second[0], (second[1] + second[3]) / 2),
        (middle, pytest.approx(end[3])),
        ((left[0] + left[2]) / 2, pytest.approx(left[3])),
        ((right[0] + right[2]) / 2, pytest.approx(right[3])),
    ]
    dashed = [s for s in figure.shapes if isinstance(s, Path) and s.dash]
    assert len(dashed) == 2  # what drops out is told by its edge, not by a colour
    assert figure.words == (
        "Cohort flow. Listed: 9 rows. Left out 0 (another split; another split; another split). "
        "Left out 1 (another split; another split; another split). "
        "Audited: 7 films (of 5 patients). Half 0 (4 films; 3 patients). "
        "Half 1 (4 films; 3 patients)."
    )


def test_a_long_line_ends_in_an_ellipsis_and_a_short_one_stays():
    labels = [s.text for s in flow_figure(flow(1, 1, 0, "w" * 199)).shapes if isinstance(s, Label)]
    assert labels[2].endswith("w…")
    assert set(labels[2][:-1]) == {"w"}
    assert labels[:2] == ["Listed: 9 rows", "Left out 0"]
