"""A flow as shapes: its boxes fit whatever their texts, and its arrows meet them."""

import pytest
from test_drawings import assert_inside

from ravl_med.reporting.layout.blocks import Flow, FlowBox
from ravl_med.reporting.layout.drawings import Drawing, Label, Path, draw_flow
from ravl_med.reporting.layout.pdf_style import text_width


def flow(left_out: int = 2, lines: int = 3, parts: int = 2, text: str = "another split") -> Flow:
    return Flow(
        "Cohort flow",
        FlowBox("Listed: 9 rows"),
        tuple(FlowBox(f"Left out {n}", (text,) * lines) for n in range(left_out)),
        FlowBox("Audited: 7 films", ("of 5 patients",)),
        tuple(FlowBox(f"Half {n}", ("4 films", "3 patients")) for n in range(parts)),
    )


def boxes_of(figure: Drawing) -> list[tuple[float, float, float, float]]:
    """Left, lower, right and upper edge of each box, as drawn."""
    closed = [s.points for s in figure.shapes if isinstance(s, Path) and len(s.points) == 4]
    return [(p[0][0], p[0][1], p[2][0], p[2][1]) for p in closed]


@pytest.mark.parametrize("text", ["another split", "W" * 300, "肺炎 " * 90, "<b>&amp;" * 40, ""])
@pytest.mark.parametrize(
    ("left_out", "lines", "parts"), [(2, 6, 2), (2, 0, 2), (1, 1, 0), (0, 0, 2)]
)
def test_a_flow_fits_whatever_its_texts(left_out, lines, parts, text):
    drawn = flow(left_out, lines, parts, text)
    figure = draw_flow(drawn)
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
    figure = draw_flow(flow())
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
    assert figure.alt == (
        "Cohort flow. Listed: 9 rows. Left out 0 (another split; another split; another split). "
        "Left out 1 (another split; another split; another split). "
        "Audited: 7 films (of 5 patients). Half 0 (4 films; 3 patients). "
        "Half 1 (4 films; 3 patients)."
    )


def test_a_long_line_ends_in_an_ellipsis_and_a_short_one_stays():
    labels = [s.text for s in draw_flow(flow(1, 1, 0, "w" * 199)).shapes if isinstance(s, Label)]
    assert labels[2].endswith("w…")
    assert set(labels[2][:-1]) == {"w"}
    assert labels[:2] == ["Listed: 9 rows", "Left out 0"]
