"""Boxes in the colour of their source, and names that can be read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravl_med.config.cohort import RegionSource
from ravl_med.regions.region_set import RegionKind, RegionSet
from ravl_med.reporting.contact_sheet import LOOKS, draw_regions, place_labels, short_name

FILM = np.full((200, 300), 90, dtype=np.uint8)


def regions(*rows: tuple[RegionSource, str, tuple[float, ...]]) -> RegionSet:
    boxes = np.array([box for _, _, box in rows], dtype=np.float32).reshape(-1, 4)
    return RegionSet(boxes, tuple(RegionKind(source, name) for source, name, _ in rows))


@pytest.mark.parametrize("source", ["annotations", "artifacts", "anatomy"])
def test_a_box_has_the_colour_of_its_source(source: RegionSource) -> None:
    drawn = np.asarray(draw_regions(FILM, regions((source, "", (100, 50, 200, 150)))))
    assert drawn.shape == (200, 300, 3)
    for y, x in ((50, 150), (150, 150), (100, 100), (100, 200)):
        assert tuple(drawn[y, x]) == LOOKS[source].colour
    assert tuple(drawn[100, 150]) == (90, 90, 90)
    assert tuple(drawn[20, 20]) == (90, 90, 90)


def test_the_most_specific_lies_on_top() -> None:
    box = (100, 50, 200, 150)
    drawn = draw_regions(
        FILM, regions(("annotations", "", box), ("artifacts", "", box), ("tiles", "", box))
    )
    assert drawn.getpixel((150, 50)) == LOOKS["annotations"].colour


def test_tiles_and_windows_are_lines_that_the_film_shines_through() -> None:
    whole = (0, 0, 300, 200)
    tiles = np.asarray(draw_regions(FILM, regions(("tiles", "tile row 1", whole))))
    assert 90 < tiles[0, 150, 0] < LOOKS["tiles"].colour[0]
    assert (tiles[5:195, 5:295] == 90).all()  # no name
    windows = np.asarray(draw_regions(FILM, regions(("windows", "window", whole))))
    assert len(np.unique(windows[0, :, 0])) == 2  # dashes and gaps


def test_names_stand_beside_their_boxes() -> None:
    box = (100, 100, 200, 150)
    bare = np.asarray(draw_regions(FILM, regions(("artifacts", "", box))))
    named = np.asarray(draw_regions(FILM, regions(("artifacts", "pulse generator", box))))
    rows, columns = np.nonzero((bare != named).any(axis=2))
    assert 75 < rows.min() < rows.max() <= 100
    assert columns.min() > 95


def test_a_film_without_regions_and_a_box_without_extent_are_drawn() -> None:
    assert (np.asarray(draw_regions(FILM, regions())) == 90).all()
    draw_regions(FILM, regions(("artifacts", "x", (299.6, 199.6, 300, 200))))


@pytest.mark.parametrize(
    ("source", "name", "short"),
    [
        ("anatomy", "right upper lung zone", "R upper"),
        ("anatomy", "left costophrenic angle", "L CPA"),
        ("anatomy", "cardiac silhouette", "heart"),
        ("anatomy", "left clavicle", "L clavicle"),
        ("annotations", "right upper lung zone", "right upper lung zone"),
        ("annotations", "a\nname of more than twenty-six letters", "a name of more than twent…"),
    ],
)
def test_names_of_anatomy_are_short(source: RegionSource, name: str, short: str) -> None:
    assert short_name(RegionKind(source, name)) == short


def test_labels_by_hand() -> None:
    size, picture = (30, 10), (100, 100)
    # Above; at the top edge below; inside where that is wanted.
    assert place_labels([(20, 50, 60, 80)], [size], [True], picture) == [(20, 39)]
    assert place_labels([(20, 0, 60, 30)], [size], [True], picture) == [(20, 32)]
    assert place_labels([(20, 50, 60, 80)], [size], [False], picture) == [(21, 51)]
    # The small box has the first choice; the label of the large one keeps off it.
    large, small = (10, 10, 90, 90), (10, 10, 50, 40)
    assert place_labels([large, small], [size, size], [False, False], picture) == [
        (60, 11),
        (11, 11),
    ]
    # No room.
    assert place_labels([(0, 0, 20, 9)], [size], [False], (20, 9)) == [None]
    full = place_labels([(0, 0, 30, 10)] * 3, [size] * 3, [True] * 3, (30, 10))
    assert full == [(0, 0), None, None]


SIDE = st.integers(0, 99)
BOXES = st.lists(st.tuples(SIDE, SIDE, SIDE, SIDE, st.booleans()), max_size=30)


@settings(max_examples=60, deadline=None)
@given(BOXES, st.integers(5, 60))
def test_labels_lie_in_the_picture_and_hide_little_of_one_another(
    drawn: list[tuple[int, int, int, int, bool]], width: int
) -> None:
    boxes = [(min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1) for a, b, c, d, _ in drawn]
    beside = [row[4] for row in drawn]
    places = place_labels(boxes, [(width, 12)] * len(boxes), beside, (100, 100))
    placed = [place for place in places if place is not None]
    assert bool(placed) == bool(boxes)
    for x, y in placed:
        assert 0 <= x <= 100 - width
        assert 0 <= y <= 88
    for i, (x, y) in enumerate(placed):
        for other_x, other_y in placed[:i]:
            shared = max(width - abs(x - other_x), 0) * max(12 - abs(y - other_y), 0)
            assert shared <= 0.1 * width * 12
