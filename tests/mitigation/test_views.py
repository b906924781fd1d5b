"""Views: boxes move with their pixels."""

from __future__ import annotations

import pytest
import torch

from ravl_med.mitigation.views import draw_views, move_boxes, view_films


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
