"""Views: boxes move with their pixels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.mitigation.arms import Views, draw_views, move_boxes, view_films


@pytest.mark.parametrize("cropped", [0.0, 1.0])
def test_a_box_goes_where_its_pixels_go(cropped: float) -> None:
    generator = torch.Generator().manual_seed(2)
    films, boxes = torch.zeros(40, 64, 64), torch.empty(40, 4)
    for i in range(40):
        x, y = (int(v) for v in torch.randint(8, 40, (2,), generator=generator))
        films[i, y : y + 12, x : x + 14] = 1
        boxes[i] = torch.tensor([x, y, x + 14, y + 12])
    views = draw_views(40, cropped, generator)
    still = type(views)(views.side, views.centre, torch.ones(40), torch.zeros(40))
    seen = view_films(films, still)
    moved, visible = move_boxes(boxes, torch.arange(40), views, 64)
    whole = 0
    for i in range(40):
        x0, y0, x1, y1 = moved[i].tolist()
        if visible[i] < 0.999:
            continue
        whole += 1
        bright = (seen[i] > 0.5).nonzero()
        low, high = bright.min(dim=0).values, bright.max(dim=0).values + 1
        assert [low[1], low[0], high[1], high[0]] == pytest.approx([x0, y0, x1, y1], abs=1.01)
    assert whole > (30 if cropped == 0 else 3)


def test_what_is_out_of_view() -> None:
    views = draw_views(2, 0.0, torch.Generator().manual_seed(0))
    half = type(views)(torch.tensor([0.5, 1.0]), torch.tensor([[0.5, 0.5], [0.0, 0.0]]),
                       torch.ones(2), torch.zeros(2))  # fmt: skip
    boxes = torch.tensor(
        [[32.0, 32.0, 64.0, 64.0], [0.0, 0.0, 32.0, 32.0], [16.0, 32.0, 48.0, 64.0]]
    )
    moved, visible = move_boxes(boxes, torch.tensor([0, 0, 0]), half, 64)
    assert moved[0].tolist() == [0.0, 0.0, 64.0, 64.0]  # the lower right quarter fills the view
    assert visible.tolist() == pytest.approx([1.0, 0.0, 0.5])
    same, all_of_it = move_boxes(boxes, torch.tensor([1, 1, 1]), half, 64)
    assert torch.equal(same, boxes)
    assert all_of_it.tolist() == [1.0, 1.0, 1.0]


def test_a_part_of_the_views_is_that_part() -> None:
    views = draw_views(6, 0.5, torch.Generator().manual_seed(1))
    films = torch.rand(6, 16, 16)
    assert torch.equal(
        view_films(films, views)[2:5], view_films(films[2:5], views.part(slice(2, 5)))
    )


def test_exposure_varies_film_by_film() -> None:
    views = draw_views(2000, 0.0, torch.Generator().manual_seed(1))
    assert views.gain.mean().item() == pytest.approx(1.0, abs=0.01)
    assert views.gain.std().item() == pytest.approx(0.1, rel=0.1)
    assert views.offset.std().item() == pytest.approx(0.1, rel=0.1)
    assert 0.95 <= views.side.min() <= views.side.max() <= 1.05


def test_a_view_of_everything_is_the_film() -> None:
    films = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    one = torch.ones(3)
    views = Views(one, torch.zeros(3, 2), torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0, -1, 3.0]))
    seen = view_films(films, views)
    torch.testing.assert_close(seen[0], films[0])
    torch.testing.assert_close(seen[1], 2 * films[1] - 1)
    torch.testing.assert_close(seen[2], films[2] / 2 + 3)


def test_shifts_are_small_and_parts_stay_on_the_film() -> None:
    generator = torch.Generator().manual_seed(1)
    whole = draw_views(2000, 0.0, generator)
    parts = draw_views(2000, 1.0, generator)
    for axis in (0, 1):
        assert -0.05 <= whole.centre[:, axis].min() < -0.049
        assert 0.049 < whole.centre[:, axis].max() <= 0.05
        assert parts.centre[:, axis].min() < -0.6
        assert parts.centre[:, axis].max() > 0.6
    assert whole.centre.mean(dim=0).abs().max() < 0.002
    assert 0.2 <= parts.side.min() < 0.21
    assert 0.79 < parts.side.max() <= 0.8
    reach = parts.centre.abs() + parts.side[:, None]
    assert reach.max() <= 1 + 1e-6
    assert reach.max() > 0.99  # up to the border
    some = draw_views(2000, 0.3, generator).side < 0.9
    assert some.float().mean().item() == pytest.approx(0.3, abs=0.04)


share = st.floats(0.0, 1.0, width=32)


@given(st.lists(share, min_size=4, max_size=4), st.floats(0.2, 1.05), share, share)
def test_what_of_a_box_is_visible(corners: list[float], side: float, x: float, y: float) -> None:
    """Pixel by pixel of the film: those of the box that the view shows."""
    x0, x1 = sorted(round(64 * c) for c in corners[:2])
    y0, y1 = sorted(round(64 * c) for c in corners[2:])
    box = torch.tensor([[x0, y0, x1 + 1, y1 + 1]], dtype=torch.float32)
    centre = [2 * x - 1, 2 * y - 1]
    views = Views(
        torch.tensor([side]), torch.tensor([centre]), torch.ones(1), torch.zeros(1)
    )  # fmt: skip
    moved, visible = move_boxes(box, torch.tensor([0]), views, 64)
    low, high = ([32 * (c + s * side + 1) for c in centre] for s in (-1, 1))
    seen = [
        max(0.0, min(b, high[a]) - max(t, low[a])) for a, t, b in ((0, x0, x1 + 1), (1, y0, y1 + 1))
    ]
    wanted = math.prod(seen) / ((x1 + 1 - x0) * (y1 + 1 - y0))
    assert visible.item() == pytest.approx(wanted, abs=2e-4)
    if wanted > 0.01:
        size = (moved[0, 2:] - moved[0, :2]).tolist()
        assert size == pytest.approx([length / side for length in seen], abs=1e-2)
    assert 0 <= moved.min() <= moved.max() <= 64
