"""The map as shapes: areas, forms, places, numbers that never overlap, and degenerate maps."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.reporting.layout.blocks import ClusterPlot, Spot, SpotLook
from ravl_med.reporting.layout.drawings import Drawing, Label, Linked, Mark, Path
from ravl_med.reporting.layout.map_drawing import draw_clusters

LOOKS = get_args(SpotLook)
LEGEND = (("shortcut", "shortcut"), ("no candidate", "other"))


def plot(*spots: Spot) -> ClusterPlot:
    return ClusterPlot("Map", spots, LEGEND, "What to see.")


def numbered(number: int, x: float = 0.0, y: float = 0.0, size: int = 40) -> Spot:
    words = f"Correlation {number}"
    return Spot(x, y, size, "shortcut", words, str(number), f"correlation-{number}")


def cloud(count: int) -> list[Spot]:
    rng = np.random.default_rng(count)
    places = rng.normal(size=(count, 2)).tolist()
    return [
        Spot(x, y, int(size), "other")
        for (x, y), size in zip(places, rng.integers(1, 900, count), strict=True)
    ]


def chips(figure: Drawing) -> list[tuple[float, float, float, float]]:
    """The white boxes that numbers stand on."""
    boxes = []
    for link in figure.shapes:
        if isinstance(link, Linked):
            *_, box, label = link.shapes
            assert isinstance(box, Path)
            assert isinstance(label, Label)
            across, up = zip(*box.points, strict=True)
            boxes.append((min(across), min(up), max(across), max(up)))
    return boxes


def apart(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def assert_readable(figure: Drawing) -> None:
    """No number lies on another, or over the edge."""
    boxes = chips(figure)
    for at, box in enumerate(boxes):
        assert 0 <= box[0] < box[2] <= figure.width
        assert 0 <= box[1] < box[3] <= figure.height
        assert all(apart(box, other) for other in boxes[:at])


def marks(figure: Drawing) -> list[Mark]:
    return [shape for shape in figure.shapes if isinstance(shape, Mark)]


def test_places_share_one_scale_and_areas_tell_regions() -> None:
    spots = [Spot(0, 0, 100, "other"), Spot(3, 0, 400, "other"), Spot(0, 1, 25, "other")]
    spots += [Spot(3, 1, 90, "other")] * 200
    figure = draw_clusters(plot(*spots))
    drawn = {mark.radius: mark for mark in marks(figure)[: len(spots)]}
    large, middle, _, small = (drawn[radius] for radius in sorted(drawn, reverse=True))
    assert large.radius == pytest.approx(2 * middle.radius)
    assert middle.radius == pytest.approx(2 * small.radius)
    assert large.x - middle.x == pytest.approx(3 * (small.y - middle.y))
    assert large.y == pytest.approx(middle.y)


def test_forms_are_all_different_and_of_one_area() -> None:
    spots = [Spot(float(at), 0.0, 50, look) for at, look in enumerate(LOOKS)]
    figure = draw_clusters(ClusterPlot("Map", tuple(spots), (), ""))
    frame, *shapes = figure.shapes
    assert isinstance(frame, Path)
    looks, areas = set(), []
    for shape in shapes[: len(LOOKS)]:
        if isinstance(shape, Path):
            across, up = np.array(shape.points).T
            turned = np.roll(across, -1), np.roll(up, -1)
            areas.append(abs((across * turned[1] - up * turned[0]).sum()) / 2)
            looks.add((len(across), bool(across[0] == across[2]), shape.fill))
        else:
            assert isinstance(shape, Mark)
            areas.append(math.pi * shape.radius**2)
            looks.add((0, shape.weight, shape.fill))
    assert len(looks) == len(LOOKS)
    np.testing.assert_allclose(areas, areas[0], rtol=5e-3)


def test_a_numbered_mark_is_a_link_that_is_told_in_words() -> None:
    figure = draw_clusters(plot(numbered(1, 2.0, 2.0), numbered(2, 0.0, 0.0), *cloud(30)))
    links = [shape for shape in figure.shapes if isinstance(shape, Linked)]
    assert {link.key for link in links} == {"correlation-1", "correlation-2"}
    for link in links:
        for shape in link.shapes:
            if isinstance(shape, Path):
                assert all(link.box[0] - 1 <= x <= link.box[2] + 1 for x, _ in shape.points)
    assert figure.alt.startswith("Map. 32 clusters drawn, the largest of ")
    assert "Correlation 1, upper right" in figure.alt
    assert "Correlation 2, " in figure.alt
    assert_readable(figure)


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_any_number_of_clusters(count: int) -> None:
    figure = draw_clusters(plot(*cloud(count)))
    assert len(marks(figure)) == count + (2 if count else 1)  # the legend has one, and a size
    for mark in marks(figure):
        assert 0 < mark.x < figure.width
        assert 0 < mark.y < figure.height


@pytest.mark.parametrize("others", [0, 1, 400])
def test_ten_numbers_on_one_point_can_be_read(others: int) -> None:
    spots = [numbered(at, size=at * at * 30) for at in range(1, 11)]
    assert_readable(draw_clusters(plot(*cloud(others), *spots)))


@given(
    st.lists(st.tuples(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5), st.integers(1, 5000)),
             min_size=1, max_size=10)
)  # fmt: skip
def test_numbers_never_overlap(places: list[tuple[float, float, int]]) -> None:
    spots = [numbered(9990 + at, x, y, size) for at, (x, y, size) in enumerate(places)]
    assert_readable(draw_clusters(plot(*spots)))
