"""The arms: what each of them learns from a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import toy_groups, toy_model, toy_set, toy_texts

from ravl_med.mitigation.arms import ARMS, ImageTower, Lesson, Weights
from ravl_med.mitigation.losses import gather_evidence, region_losses
from ravl_med.mitigation.trainer import make_fabric


def lesson(name: str, weights: Weights | None = None) -> Lesson:
    films = toy_set()
    return Lesson(
        ARMS[name], films, toy_groups(films), toy_texts(), weights or Weights(), make_fabric()
    )


def step(
    name: str, weights: Weights | None = None, tower: ImageTower | None = None
) -> torch.Tensor:
    tower = tower or ImageTower(toy_model())
    generator = torch.Generator().manual_seed(0)
    return lesson(name, weights).step(tower, torch.arange(16), slice(None), 0, generator)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_trains_the_image_tower_and_nothing_else(name: str) -> None:
    model = toy_model()
    tower = ImageTower(model)
    loss = step(name, tower=tower)
    assert torch.isfinite(loss)
    loss.backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert "visual.conv1.weight" in trained
    assert "logit_scale" in trained
    assert all(n.startswith("visual.") or n == "logit_scale" for n in trained)
    assert {n for n, p in tower.named_parameters()} == {
        n for n, p in model.named_parameters() if n.startswith("visual.") or n == "logit_scale"
    }


def test_lambda_one_is_plain_fine_tuning() -> None:
    plain = step("standard").item()
    for name in ("ravl", "spurious_aware"):
        assert step(name, Weights(clip=1.0)).item() == pytest.approx(plain, rel=1e-5)
        assert abs(step(name).item() - plain) > 1e-3


def test_the_region_term_is_the_loss_of_its_regions() -> None:
    tower, films, weights = ImageTower(toy_model()), toy_set(), Weights(clip=0.0)
    # Views are drawn first, so the same generator gives the same inputs.
    own = lesson("ravl", weights)
    images, boxes, spurious = own._view(
        torch.arange(16), slice(None), torch.Generator().manual_seed(0)
    )
    assert boxes is not None
    assert spurious is not None
    _, regions, _ = tower(images, boxes)
    film = torch.repeat_interleave(torch.arange(16), torch.tensor([len(b) for b in boxes]))
    labels = torch.from_numpy(films.labels[:16])
    similarities = regions @ toy_texts().T / weights.temperature
    evidence = gather_evidence(similarities, film, spurious, 16, torch.ones(2, dtype=torch.bool))
    relevance, alignment, _ = region_losses(evidence, labels)
    wanted = (relevance + alignment).sum()
    assert step("ravl", weights, tower).item() == pytest.approx(wanted.item(), rel=1e-5)
    mean = step("ravl", Weights(clip=0.0, reduction="mean"), tower)
    assert mean.item() == pytest.approx(wanted.item() / 16, rel=1e-5)


def test_weighted_arms_draw_pseudo_groups_alike() -> None:
    films = toy_set()
    groups = toy_groups(films).of_film
    generator = torch.Generator().manual_seed(0)
    drawn = lesson("upsampled").order(48, generator)
    for _ in range(200):
        drawn = torch.cat([drawn, lesson("upsampled").order(48, generator)])
    shares = np.bincount(groups[drawn.numpy()], minlength=4) / len(drawn)
    assert shares == pytest.approx([0.25] * 4, abs=0.02)
    once = lesson("standard").order(48, generator)
    assert sorted(once.tolist()) == list(range(48))


def test_group_robust_weights_move_from_batch_to_batch() -> None:
    own = lesson("vl_gdro", Weights(eta=1.0))
    before = own.state["group_weights"].clone()
    own.step(
        ImageTower(toy_model()), torch.arange(16), slice(None), 0, torch.Generator().manual_seed(0)
    )
    after = own.state["group_weights"]
    assert not torch.equal(before, after)
    assert after.sum().item() == pytest.approx(1.0)
    assert not after.requires_grad


def test_after_an_exchange_the_spurious_regions_are_where_the_feature_lies_now() -> None:
    own = lesson("counterfactual")
    rows = torch.arange(24)
    pictures, here = own._exchange(rows, slice(None), torch.Generator().manual_seed(4))
    square = pictures[:, 1:7, 1:7].mean(dim=(1, 2)) > 1.2  # 255 is 2 in units of the input
    assert 5 < int(square.sum()) < 19
    assert torch.equal(here[:, 2:6, 2:6].all(dim=2).all(dim=1), square)
    assert not here[:, 12:].any()
    _, boxes, flags = own._view(rows, slice(None), torch.Generator().manual_seed(4))
    assert boxes is not None
    assert flags is not None
    film = torch.repeat_interleave(rows, torch.tensor([len(b) for b in boxes]))
    flagged = torch.zeros(24, dtype=torch.bool)
    flagged[film[flags]] = True
    # A small view may leave the first tile out; nobody else is flagged.
    assert not (flagged & ~square).any()
    assert int((flagged & square).sum()) >= int(square.sum()) - 2
    natural = torch.from_numpy(own.films.present[:24])
    assert not torch.equal(square, natural)
