"""The arms: what each of them learns from a batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import toy_groups, toy_model, toy_set, toy_texts

from ravl_med.config.mitigation import MitigationConfig
from ravl_med.config.model import QuickstartModelConfig
from ravl_med.mitigation.arms import ARMS, ImageTower, Objective, _covered
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.fine_tuning_set import FineTuningSet, RegionTable
from ravl_med.mitigation.losses import gather_evidence, region_losses
from ravl_med.mitigation.quickstart import quickstart_layout

ROWS = torch.arange(16)


def lesson(
    name: str, weights: MitigationConfig | None = None, films: FineTuningSet | None = None
) -> Objective:
    films = films or toy_set()
    return Objective(ARMS[name], films, toy_texts(), weights or MitigationConfig(), make_fabric())


def step(
    name: str, weights: MitigationConfig | None = None, tower: ImageTower | None = None
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
        assert step(name, MitigationConfig(clip_weight=1.0)).item() == pytest.approx(
            plain, rel=1e-5
        )
        assert abs(step(name).item() - plain) > 1e-3


def test_the_region_term_is_the_loss_of_its_regions() -> None:
    tower, films = ImageTower(toy_model()), toy_set()
    weights = MitigationConfig(clip_weight=0.0, reduction="sum")
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
    mean = step("ravl", MitigationConfig(clip_weight=0.0, reduction="mean"), tower)
    assert mean.item() == pytest.approx(wanted.item() / 16, rel=1e-5)


@pytest.mark.parametrize("base", ["ravl", "counterfactual"])
def test_both_parts_of_the_region_term_add_up(base: str) -> None:
    tower, told = ImageTower(toy_model()), []
    for term in ("regions", "relevance", "alignment"):
        own = lesson(base, MitigationConfig(clip_weight=0.0))
        own.arm = replace(own.arm, terms=(term,))
        generator = torch.Generator().manual_seed(0)
        told.append(own.step(tower, torch.arange(16), slice(None), 0, generator).item())
    assert told[0] == pytest.approx(told[1] + told[2], rel=1e-5)
    assert min(told[1:]) > 0.01


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
    own = lesson("vl_gdro", MitigationConfig(eta=1.0))
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


def seen_by(tower: ImageTower, name: str) -> torch.Tensor:
    """What the tower says of the images of `step`."""
    generator = torch.Generator().manual_seed(0)
    images, _, _ = lesson(name)._view(ROWS, slice(None), generator)
    seen: torch.Tensor = tower(images)[0]
    return seen


def contrast(seen: torch.Tensor, labels: np.ndarray) -> float:
    cosine = (seen @ seen.T).detach().numpy()
    pairs = [(i, j) for i in range(16) for j in range(16) if i != j]
    same = np.mean([cosine[i, j] for i, j in pairs if labels[i] == labels[j]])
    return float(np.mean([cosine[i, j] for i, j in pairs if labels[i] != labels[j]]) - same)


def test_the_terms_by_hand() -> None:
    tower, films, weights = (
        ImageTower(toy_model()),
        toy_set(),
        MitigationConfig(clip_weight=0.6, eta=0.5),
    )
    labels, groups = films.labels[:16], toy_groups(films).of_film[:16]
    seen = seen_by(tower, "standard")
    pairs = (tower.logit_scale.exp() * seen @ films.reports[:16].T).double()
    clip = -(pairs.log_softmax(dim=0) + pairs.log_softmax(dim=1)).diagonal().mean().item() / 2
    assert step("standard", weights, tower).item() == pytest.approx(clip, rel=1e-5)
    assert step("upsampled", weights, tower).item() == pytest.approx(clip, rel=1e-5)
    zero_shot = (seen @ toy_texts().T / 0.07).double().log_softmax(dim=1)
    losses = -zero_shot[ROWS, torch.from_numpy(labels)].detach().numpy()
    of_group = [losses[groups == g].mean() for g in range(4)]
    raised = np.exp(0.5 * np.array(of_group))
    wanted = {
        "vl_erm": losses.mean(),
        "vl_gdro": (raised / raised.sum() * of_group).sum(),
        "spurious_aware": contrast(seen, labels) + contrast(seen, films.present[:16]),
    }
    assert len(set(groups.tolist())) == 4
    for name, term in wanted.items():
        found = step(name, weights, tower).item()
        assert found == pytest.approx(0.6 * clip + 0.4 * term, rel=1e-5), name


@pytest.mark.parametrize("denominator", ["multiset", "distinct"])
def test_the_counterfactual_region_term_is_a_mean(denominator: str) -> None:
    tower = ImageTower(toy_model())
    weights = MitigationConfig(clip_weight=0.0, denominator=denominator, temperature=0.1)  # type: ignore[arg-type]
    own = lesson("counterfactual", weights)
    images, boxes, spurious = own._view(ROWS, slice(None), torch.Generator().manual_seed(0))
    assert boxes is not None
    assert spurious is not None
    film = torch.repeat_interleave(ROWS, torch.tensor([len(b) for b in boxes]))
    evidence = gather_evidence(
        tower(images, boxes)[1] @ toy_texts().T / 0.1, film, spurious, 16, torch.ones(2) > 0
    )
    labels = torch.from_numpy(own.films.labels[:16])
    relevance, alignment, _ = region_losses(evidence, labels, weights.denominator)
    assert len(relevance) == 16
    assert step("counterfactual", weights, tower).item() == pytest.approx(
        (relevance + alignment).mean().item(), rel=1e-5
    )


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("odd", ["no class", "some classes", "no region", "none spurious", "all"])
def test_odd_films_give_finite_losses(name: str, odd: str) -> None:
    films, count = toy_set(), 48
    if odd == "no class":
        films = replace(films, labels=np.full(count, -1))
    elif odd == "some classes":
        films = replace(films, labels=np.where(np.arange(count) % 3, films.labels, -1))
    elif odd == "no region":
        nothing = RegionTable.empty(count)
        films = replace(
            films, regions=nothing, spurious=np.empty(0, dtype=bool), carriers=nothing
        )  # fmt: skip
    else:
        films = replace(films, spurious=np.full(len(films.spurious), odd == "all"))
    tower = ImageTower(toy_model())
    generator = torch.Generator().manual_seed(0)
    loss = lesson(name, None, films).step(tower, ROWS, slice(None), 0, generator)
    assert torch.isfinite(loss)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in tower.parameters())


def test_a_film_without_a_class_adds_to_the_contrast_with_reports_alone() -> None:
    tower, films = ImageTower(toy_model()), toy_set()
    unnamed = replace(films, labels=np.full(48, -1))

    def loss(name: str) -> float:
        own = lesson(name, None, unnamed)
        generator = torch.Generator().manual_seed(0)
        return own.step(tower, ROWS, slice(None), 0, generator).item()

    plain = step("standard", None, tower).item()
    for name in ("vl_erm", "vl_gdro", "spurious_aware", "ravl"):
        assert loss(name) == pytest.approx(0.8 * plain, rel=1e-5), name


@pytest.mark.parametrize("name", ["ravl", "counterfactual"])
def test_regions_of_a_vit(name: str) -> None:
    import open_clip

    layout = quickstart_layout(QuickstartModelConfig(image_size=32, tower="vit"))
    torch.manual_seed(0)
    tower = ImageTower(open_clip.CLIP(**layout["model_cfg"]))
    loss = step(name, MitigationConfig(cropped=0.5), tower)
    assert torch.isfinite(loss)
    loss.backward()
    assert tower.visual.proj.grad.any()


def test_regions_out_of_view_are_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    _, boxes, flags = lesson("ravl", MitigationConfig(cropped=1.0))._view(
        ROWS, slice(4, 12), generator
    )
    assert boxes is not None
    assert flags is not None
    counts = [len(part) for part in boxes]
    assert len(counts) == 8
    assert len(flags) == sum(counts)
    assert max(counts) < 16  # a part is at most 0.8 of the side
    sides = torch.cat(boxes)[:, 2:] - torch.cat(boxes)[:, :2]
    assert (sides > 8 / 0.8 / 2 - 1e-3).all()  # none smaller than half of a tile, as it is shown
    _, whole, _ = lesson("ravl")._view(ROWS, slice(4, 12), torch.Generator().manual_seed(0))
    assert whole is not None
    assert [len(part) for part in whole] == [16] * 8


def test_a_quarter_of_a_box_makes_it_one_of_the_feature() -> None:
    here = torch.zeros(2, 32, 32, dtype=torch.bool)
    here[1, :4, :4] = True
    boxes = torch.tensor([
        [0, 0, 8, 8], [0, 0, 8, 8], [1, 0, 9, 8], [0.4, 0.4, 3.6, 3.6],
        [31.7, 0, 32, 8], [0, 32, 8, 32],
    ])  # fmt: skip
    film = torch.tensor([0, 1, 1, 1, 1, 1])
    assert _covered(boxes, film, here).tolist() == [False, True, False, True, False, False]
