"""Exchange: after it, neither the feature nor the seam of a patch tells anything of the class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import grey_closing, grey_opening

from ravl_med.mitigation.region_exchange import (
    FeaturePlaces,
    _detail,
    deal_feature,
    exchange_regions,
    find_places,
)

NONE = (torch.empty(0, 4), torch.empty(0, dtype=torch.int64))


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_after_dealing_the_feature_says_nothing_of_the_class(share: float) -> None:
    """Nine in ten films of one class have it before, one in ten of the other."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(40) % 2
    rng = np.random.default_rng(0)
    has = torch.from_numpy(rng.random(40) < np.where(label.numpy() == 0, 0.9, 0.1))
    present, own = torch.zeros(2), torch.arange(40)
    for _ in range(400):
        dealt = deal_feature(has, share, generator)
        # Nobody is recognised by the number of seams: no film gets its own content.
        assert ((dealt.clear != own) & (dealt.give != own)).all()
        for c in (0, 1):
            present[c] += dealt.present[label == c].float().mean() / 400
    assert present.tolist() == pytest.approx([share, share], abs=0.02)


def test_places_of_patches_say_nothing_of_the_class() -> None:
    """Each place of a feature is patched as often in films of either class."""
    generator = torch.Generator().manual_seed(2)
    has = torch.arange(40) < 10  # class 0 has it, class 1 not
    seen = torch.zeros(2, 2, 10)
    for _ in range(4000):
        dealt = deal_feature(has, 0.5, generator)
        for turn, place in enumerate((dealt.clear_place, dealt.give_place)):
            for c, films in enumerate((has, ~has)):
                counts = torch.bincount(place[films], minlength=10)
                seen[turn, c] += counts / (4000 * int(films.sum()))
    assert seen.flatten().tolist() == pytest.approx([0.1] * 40, abs=0.005)


def test_who_gives_and_who_gets() -> None:
    has = torch.tensor([True, True, True, False, False, False])
    generator = torch.Generator().manual_seed(1)
    own = torch.arange(6)
    for _ in range(200):
        dealt = deal_feature(has, 0.5, generator)
        assert torch.equal(dealt.clear_place[has], own[has])  # its own feature goes
        assert has[dealt.clear_place].all()
        assert has[dealt.give_place].all()
        assert (dealt.clear_place != dealt.give_place).all()  # two seams, not one over the other
        assert not has[dealt.clear].any()  # cleared by films without it
        assert torch.equal(dealt.give[dealt.present], dealt.give_place[dealt.present])
        assert not has[dealt.give[~dealt.present]].any()
        for source in (dealt.clear, dealt.give):
            assert (source != own).all()


@pytest.mark.parametrize("has", [torch.zeros(5, dtype=torch.bool), torch.ones(5, dtype=torch.bool)])
def test_nobody_is_patched_where_all_or_none_have_it(has: torch.Tensor) -> None:
    dealt = deal_feature(has, 0.5, torch.Generator().manual_seed(0))
    assert dealt.clear.tolist() == dealt.give.tolist() == list(range(5))
    assert torch.equal(dealt.present, has)
    films = torch.rand(5, 16, 16)
    assert torch.equal(exchange_regions(films, find_places(NONE, NONE, 5, 16), dealt), films)


def test_masks_by_hand() -> None:
    boxes = torch.tensor([[4.0, 4.0, 12.0, 12.0], [12.0, 4.0, 20.0, 12.0]])
    places = find_places((boxes, torch.tensor([1, 1])), (boxes[:1], torch.tensor([0])), 2, 24)
    masks, rings = places.masks, places.rings
    assert not masks[0].any()
    assert (masks[1, 4:12, 4:20] == 1).all()  # boxes of a film join, without a seam between
    # Faded over a sixth of the side, 4 / 3 pixels: half a pixel outside it is (1 + cos) / 2.
    wanted = 0.5 * (1 + np.cos(np.pi * 0.5 / (8 / 6)))
    assert masks[1, 3, 8].item() == pytest.approx(wanted)
    assert masks[1, 2, 8].item() == 0
    assert rings[1, 1:3, 8].tolist() == [1, 1]  # the surroundings, at least two pixels
    assert rings[1, 0, 8].item() == 0
    assert not ((rings > 0) & (masks > 0)).any()
    assert torch.equal(places.companions[0, :, :10], masks[1, :, :10])
    assert not places.companions[1].any()


def scene() -> tuple[torch.Tensor, FeaturePlaces, torch.Tensor]:
    """Flat films of their own brightness; the first two have a brighter square."""
    films = torch.arange(4.0)[:, None, None].repeat(1, 24, 24)
    boxes = torch.tensor([[3.0, 3.0, 9.0, 9.0], [12.0, 12.0, 18.0, 18.0]])
    films[0, 3:9, 3:9] += 5
    films[1, 12:18, 12:18] += 5
    places = find_places((boxes, torch.tensor([0, 1])), NONE, 4, 24)
    return films, places, torch.tensor([True, True, False, False])


def test_the_square_goes_where_it_is_dealt_and_only_there() -> None:
    films, places, has = scene()
    generator = torch.Generator().manual_seed(3)
    counts = torch.zeros(2, 2, dtype=torch.int64)
    for _ in range(60):
        dealt = deal_feature(has, 0.5, generator)
        changed = exchange_regions(films, places, dealt)
        for i in range(4):
            base = films[i, 23, 23]
            squares = [bool((changed[i, 3:9, 3:9] > base + 4).all()),
                       bool((changed[i, 12:18, 12:18] > base + 4).all())]  # fmt: skip
            wanted = [bool(dealt.present[i]) and int(dealt.give_place[i]) == k for k in (0, 1)]
            assert squares == wanted
            if not dealt.present[i]:  # brightness follows the surroundings: nothing is left
                assert torch.allclose(changed[i], base.expand(24, 24), atol=1e-4)
            masks = places.masks
            touched = (masks[dealt.clear_place[i]] > 0) | (masks[dealt.give_place[i]] > 0)
            assert torch.equal(changed[i][~touched], films[i][~touched])
            counts[int(has[i]), int(dealt.present[i])] += 1
    assert counts.min() > 20


def test_a_part_of_the_batch_is_that_part_of_the_whole() -> None:
    films, places, has = scene()
    dealt = deal_feature(has, 0.5, torch.Generator().manual_seed(5))
    whole = exchange_regions(films, places, dealt)
    needed, own, part = dealt.part(slice(1, 3))
    assert needed[own].tolist() == [1, 2]
    given = torch.stack([part.clear, part.clear_place, part.give, part.give_place])
    assert set(needed[given].flatten().tolist()) | {1, 2} == set(needed.tolist())
    some = FeaturePlaces(places.masks[needed], places.rings[needed], places.companions[needed])
    assert torch.equal(exchange_regions(films[needed], some, part, own), whole[1:3])
    assert films[0, 5, 5] == 5  # the films themselves are left alone


def test_a_line_that_travels_along_is_dealt_out_over_other_anatomy() -> None:
    """Lines go from film to film in the feature's places; the broad shapes beneath stay."""
    films = torch.zeros(4, 96, 96)
    shapes = [slice(20, 20 + 10 * i) for i in range(1, 5)]
    for i, shape in enumerate(shapes):
        films[i, shape, 30:80] = i + 1.0
    bare = films.clone()
    lines = [40, 60]
    for i in (0, 1):
        films[i, 20:70, lines[i]] += 2.0
    boxes = torch.tensor([[2.0, 2.0, 12.0, 12.0], [2.0, 2.0, 12.0, 12.0]])
    along = torch.tensor([[30.0, 10.0, 50.0, 80.0], [50.0, 10.0, 70.0, 80.0]])
    places = find_places((boxes, torch.tensor([0, 1])), (along, torch.tensor([0, 1])), 4, 96)
    has = torch.tensor([True, True, False, False])
    generator, seen = torch.Generator().manual_seed(7), set()
    for _ in range(40):
        dealt = deal_feature(has, 0.5, generator)
        changed = exchange_regions(films, places, dealt)
        for i in range(4):
            wanted = bare[i].clone()
            if dealt.present[i]:
                wanted[20:70, lines[int(dealt.give_place[i])]] += 2.0
            torch.testing.assert_close(changed[i], wanted, atol=1e-5, rtol=0)
            seen.add((i, bool(dealt.present[i])))
    assert len(seen) == 8


def test_detail_is_the_difference_to_opening_and_closing() -> None:
    film = torch.rand(2, 64, 60, generator=torch.Generator().manual_seed(0))
    for one, got in zip(film, _detail(film), strict=True):
        size = (3, 3)  # 2 round(0.02 60) + 1
        naive = grey_closing(grey_opening(one.numpy(), size), size)
        assert np.allclose(got.numpy(), one.numpy() - naive, atol=1e-6)


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 1000))
def test_a_film_gives_to_itself_only_where_nobody_else_could(has: list[bool], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    dealt = deal_feature(torch.tensor(has), 0.5, generator)
    if all(has) or not any(has):
        assert dealt.clear.tolist() == dealt.give.tolist() == list(range(len(has)))
        assert dealt.present.tolist() == has
        return
    for i, present in enumerate(dealt.present.tolist()):
        clear, give = int(dealt.clear[i]), int(dealt.give[i])
        assert not has[clear]
        assert has[give] == present
        assert has[int(dealt.clear_place[i])]
        assert has[int(dealt.give_place[i])]
        for source in (clear, give):
            others = sum(h == has[source] for h in has) - (has[i] == has[source])
            assert source != i or others == 0
        assert dealt.clear_place[i] != dealt.give_place[i] or sum(has) == 1
