"""Exchange: after it, neither the feature nor the seam of a patch tells anything of the class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.mitigation.region_exchange import deal_feature, exchange_regions, feature_masks


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_after_dealing_the_feature_says_nothing_of_the_class(share: float) -> None:
    """Nine in ten films of one class have it before, one in ten of the other."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(40) % 2
    rng = np.random.default_rng(0)
    has = torch.from_numpy(rng.random(40) < np.where(label.numpy() == 0, 0.9, 0.1))
    present = torch.zeros(2)
    natural = torch.zeros(2)
    for _ in range(400):
        dealt = deal_feature(has, share, generator)
        for c in (0, 1):
            present[c] += dealt.present[label == c].float().mean() / 400
        untouched = (dealt.heal < 0) & (dealt.give < 0)
        for c in (0, 1):
            natural[c] += untouched[label == c].float().mean() / 400
    assert present.tolist() == pytest.approx([share, share], abs=0.02)
    assert natural.tolist() == [0.0, 0.0]  # nobody is recognised by having no seam


def test_who_gives_and_who_gets() -> None:
    has = torch.tensor([True, True, True, False, False, False])
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        dealt = deal_feature(has, 0.5, generator)
        own = torch.arange(6)
        assert ((dealt.heal >= 0) == has).all()
        assert not has[dealt.heal[dealt.heal >= 0]].any()  # healed by films without it
        given = dealt.give >= 0
        assert (dealt.give[given] != own[given]).all()
        assert has[dealt.give[dealt.present]].all()  # the feature comes from films with it
        assert (dealt.place[dealt.present] == dealt.give[dealt.present]).all()
        assert has[dealt.place[given]].all()
        lost = has & ~dealt.present
        assert not given[lost].any()
        never = ~has & ~dealt.present
        assert given[never].all()
        assert not has[dealt.give[never]].any()


@pytest.mark.parametrize("has", [torch.zeros(5, dtype=torch.bool), torch.ones(5, dtype=torch.bool)])
def test_nobody_is_patched_where_all_or_none_have_it(has: torch.Tensor) -> None:
    dealt = deal_feature(has, 0.5, torch.Generator().manual_seed(0))
    assert (dealt.heal < 0).all()
    assert (dealt.give < 0).all()
    assert torch.equal(dealt.present, has)
    films = torch.rand(5, 16, 16)
    masks, rings = feature_masks(torch.empty(0, 4), torch.empty(0, dtype=torch.int64), 5, 16)
    assert torch.equal(exchange_regions(films, masks, rings, dealt), films)


def test_masks_by_hand() -> None:
    boxes = torch.tensor([[4.0, 4.0, 12.0, 12.0], [12.0, 4.0, 20.0, 12.0]])
    masks, rings = feature_masks(boxes, torch.tensor([1, 1]), 2, 24)
    assert not masks[0].any()
    assert (masks[1, 4:12, 4:20] == 1).all()  # boxes of a film join, without a seam between
    # Faded over a sixth of the side, 4 / 3 pixels: half a pixel outside it is (1 + cos) / 2.
    wanted = 0.5 * (1 + np.cos(np.pi * 0.5 / (8 / 6)))
    assert masks[1, 3, 8].item() == pytest.approx(wanted)
    assert masks[1, 2, 8].item() == 0
    assert rings[1, 1:3, 8].tolist() == [1, 1]  # the surroundings, at least two pixels
    assert rings[1, 0, 8].item() == 0
    assert not ((rings > 0) & (masks > 0)).any()


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Flat films of their own brightness; the first two have a brighter square."""
    films = torch.arange(4.0)[:, None, None].repeat(1, 24, 24)
    boxes = torch.tensor([[3.0, 3.0, 9.0, 9.0], [12.0, 12.0, 18.0, 18.0]])
    films[0, 3:9, 3:9] += 5
    films[1, 12:18, 12:18] += 5
    masks, rings = feature_masks(boxes, torch.tensor([0, 1]), 4, 24)
    return films, masks, rings, torch.tensor([True, True, False, False])


def test_the_square_goes_where_it_is_dealt_and_only_there() -> None:
    films, masks, rings, has = scene()
    generator = torch.Generator().manual_seed(3)
    seen = {"healed": 0, "given": 0, "patched": 0}
    for _ in range(60):
        dealt = deal_feature(has, 0.5, generator)
        changed = exchange_regions(films, masks, rings, dealt)
        for i in range(4):
            base = films[i, 23, 23]
            squares = [bool((changed[i, 3:9, 3:9] > base + 4).all()),
                       bool((changed[i, 12:18, 12:18] > base + 4).all())]  # fmt: skip
            wanted = [bool(dealt.present[i]) and int(dealt.place[i]) == k for k in (0, 1)]
            assert squares == wanted
            if not dealt.present[i]:  # brightness follows the surroundings: nothing is left
                assert torch.allclose(changed[i], base.expand(24, 24), atol=1e-4)
            touched = masks[i] * has[i] > 0
            if dealt.give[i] >= 0:
                touched = touched | (masks[dealt.place[i]] > 0)
            assert torch.equal(changed[i][~touched], films[i][~touched])
            seen["healed"] += int(has[i] and not dealt.present[i])
            seen["given"] += int(dealt.present[i])
            seen["patched"] += int(not has[i] and not dealt.present[i])
    assert min(seen.values()) > 20


def test_a_part_of_the_batch_is_that_part_of_the_whole() -> None:
    films, masks, rings, has = scene()
    dealt = deal_feature(has, 0.5, torch.Generator().manual_seed(5))
    whole = exchange_regions(films, masks, rings, dealt)
    assert torch.equal(exchange_regions(films, masks, rings, dealt, slice(1, 3)), whole[1:3])
    assert films[0, 5, 5] == 5  # the films themselves are left alone


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 1000))
def test_a_film_gives_to_itself_only_where_nobody_else_could(has: list[bool], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    dealt = deal_feature(torch.tensor(has), 0.5, generator)
    for i, (heal, give, place, present) in enumerate(
        zip(dealt.heal.tolist(), dealt.give.tolist(), dealt.place.tolist(), dealt.present.tolist(),
            strict=True)
    ):  # fmt: skip
        if all(has) or not any(has):
            assert (heal, give, place, present) == (-1, -1, -1, has[i])
            continue
        assert (heal >= 0) == has[i]
        assert heal < 0 or not has[heal]
        assert (give >= 0) == (place >= 0) == (present or not has[i])
        if give >= 0:
            assert has[give] == present
            assert has[place]
            others = sum(h == present for h in has) - (has[i] == present)
            assert (give != i) or others == 0


def test_every_other_film_can_give() -> None:
    has = torch.tensor([True, True, True, False, False])
    generator = torch.Generator().manual_seed(0)
    givers: set[int] = set()
    for _ in range(200):
        dealt = deal_feature(has, 1.0, generator)
        assert dealt.present.all()
        givers.add(int(dealt.give[0]))
    assert givers == {1, 2}
    assert not deal_feature(has, 0.0, generator).present.any()


def test_masks_of_a_tall_box() -> None:
    """Fade and surroundings follow the side that they lie on: 4 and 6 pixels, 2 and 4."""
    masks, rings = feature_masks(torch.tensor([[20.0, 16.0, 32.0, 40.0]]), torch.tensor([0]), 1, 56)
    wanted = [0.5 * (1 + np.cos(np.pi * (k + 0.5) / 4)) for k in range(4)]
    assert masks[0, 40:44, 25].tolist() == pytest.approx(wanted, abs=1e-6)
    assert masks[0, 12:16, 25].tolist() == pytest.approx(wanted[::-1], abs=1e-6)
    wanted = [0.5 * (1 + np.cos(np.pi * (k + 0.5) / 2)) for k in range(2)]
    assert masks[0, 30, 32:34].tolist() == pytest.approx(wanted, abs=1e-6)
    assert rings[0, 44:46, 25].tolist() == [1, 1]
    assert not masks[0, 44:].any()
    assert not rings[0, 46:].any()
    assert rings[0, 30, 34:36].tolist() == [1, 1]
    assert not rings[0, :, 36:].any()
    wide = feature_masks(torch.tensor([[24.0, 24.0, 72.0, 72.0]]), torch.tensor([0]), 1, 96)[1]
    assert wide[0, 48].nonzero()[:, 0].tolist() == [*range(12, 16), *range(80, 84)]
