"""RaVL's losses against the equations written out as loops, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ravl_med.mitigation.losses import (
    contrast_images,
    gather_evidence,
    group_robust_loss,
    log_sum_exp,
    region_losses,
    update_group_weights,
)


def naive_losses(
    similarities: Tensor,
    film: Tensor,
    spurious: Tensor,
    labels: Tensor,
    *,
    distinct: bool = False,
) -> tuple[dict[int, float], dict[int, float]]:
    """L_R and L_A as `method.md` writes them: sums over films, texts and regions."""
    films = len(labels)
    relevant = [
        [r for r in range(len(film)) if film[r] == i and not spurious[r]] for i in range(films)
    ]
    apart = [r for r in range(len(film)) if spurious[r]]
    named = [int(y) for y in labels if y >= 0]

    def sigma(region: int, label: int) -> float:
        return math.exp(float(similarities[region, label]))

    def sigma_max(regions: list[int], label: int) -> float:
        return math.exp(max(float(similarities[r, label]) for r in regions)) if regions else 0.0

    punished = sum(max(sigma(r, y) for y in named) for r in apart) if named else 0.0
    texts = sorted(set(named)) if distinct else named
    relevance, alignment = {}, {}
    for i in range(films):
        own = int(labels[i])
        if own < 0 or not relevant[i]:
            continue
        match = sigma_max(relevant[i], own)
        relevance[i] = -math.log(match / (sum(sigma_max(relevant[i], y) for y in texts) + punished))
        elsewhere = sum(
            sigma_max(relevant[j], own) for j in range(films) if labels[j] >= 0 and labels[j] != own
        )
        alignment[i] = -math.log(match / (match + elsewhere + sum(sigma(r, own) for r in apart)))
    return relevance, alignment


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    films, classes = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    counts = draw(st.lists(st.integers(0, 4), min_size=films, max_size=films))
    film = torch.repeat_interleave(torch.arange(films), torch.tensor(counts))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scale = draw(st.sampled_from([0.1, 1.0, 14.0]))
    similarities = scale * torch.randn(len(film), classes, generator=generator, dtype=torch.float64)
    share = draw(st.sampled_from([0.0, 0.3, 1.0]))
    spurious = torch.rand(len(film), generator=generator) < share
    labels = torch.tensor(draw(st.lists(st.integers(-1, classes - 1), min_size=films,
                                        max_size=films)))  # fmt: skip
    return similarities, film, spurious, labels


def vectorised(
    similarities: Tensor, film: Tensor, spurious: Tensor, labels: Tensor, *, distinct: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    named = torch.bincount(labels[labels >= 0], minlength=similarities.shape[1]) > 0
    evidence = gather_evidence(similarities, film, spurious, len(labels), named)
    return region_losses(evidence, labels, "distinct" if distinct else "multiset")


@given(batches(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_losses_equal_the_equations(
    batch: tuple[Tensor, Tensor, Tensor, Tensor], distinct: bool
) -> None:
    relevance, alignment, counted = vectorised(*batch, distinct=distinct)
    wanted_r, wanted_a = naive_losses(*batch, distinct=distinct)
    films = counted.nonzero()[:, 0].tolist()
    assert films == sorted(wanted_r)
    for n, i in enumerate(films):
        assert float(relevance[n]) == pytest.approx(wanted_r[i], rel=1e-5, abs=1e-5)
        assert float(alignment[n]) == pytest.approx(wanted_a[i], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_the_gradient_is_that_of_differences(share: float) -> None:
    generator = torch.Generator().manual_seed(3)
    film = torch.repeat_interleave(torch.arange(5), torch.tensor([3, 2, 4, 0, 3]))
    spurious = torch.rand(12, generator=generator) < share
    labels = torch.tensor([0, 1, 1, 2, -1])
    similarities = torch.randn(12, 3, generator=generator, dtype=torch.float64)

    def loss(values: Tensor) -> Tensor:
        relevance, alignment, _ = vectorised(values, film, spurious, labels)
        return relevance.sum() + alignment.sum()

    assert torch.autograd.gradcheck(loss, (similarities.requires_grad_(),))


def test_a_batch_without_anything_to_learn_has_no_loss_and_no_broken_gradient() -> None:
    similarities = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    film, all_spurious = torch.tensor([0, 0, 1, 1]), torch.ones(4, dtype=torch.bool)
    relevance, alignment, counted = vectorised(
        similarities, film, all_spurious, torch.tensor([0, 1])
    )
    assert not counted.any()
    (relevance.sum() + alignment.sum() + 0.0 * similarities.sum()).backward()
    assert similarities.grad is not None
    assert torch.isfinite(similarities.grad).all()


def test_large_similarities_do_not_overflow() -> None:
    similarities = torch.tensor([[400.0, -400.0], [-400.0, 400.0]], requires_grad=True)
    relevance, alignment, _ = vectorised(
        similarities, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool), torch.tensor([0, 0])
    )
    assert torch.isfinite(relevance).all()
    # The second film says class 1; named is class 0 alone, so L_R has no rival for it.
    assert relevance.tolist() == pytest.approx([math.log(2.0), math.log(2.0)], rel=1e-5)
    assert torch.isfinite(alignment).all()
    (relevance.sum() + alignment.sum()).backward()
    assert similarities.grad is not None
    assert torch.isfinite(similarities.grad).all()


def test_log_sum_exp_of_nothing() -> None:
    nothing = torch.full((3, 2), -torch.inf, requires_grad=True)
    total = log_sum_exp(nothing)
    assert total.tolist() == [-math.inf, -math.inf]
    assert log_sum_exp(torch.empty(0, 2)).tolist() == [-math.inf, -math.inf]


def test_group_robust_weights_follow_the_larger_loss() -> None:
    losses, groups = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0, 0, 1])
    weights = torch.tensor([0.25, 0.25, 0.5])  # the third group is not in the batch
    raised = update_group_weights(weights, losses, groups, eta=0.5)
    unnormalised = torch.tensor([0.25 * math.exp(1.0), 0.25 * math.exp(1.0), 0.5])
    assert torch.allclose(raised, unnormalised / unnormalised.sum())
    assert float(group_robust_loss(losses, groups, weights)) == pytest.approx(0.25 * 2 + 0.25 * 2)


def test_contrast_of_images_by_hand() -> None:
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, -1])
    # Equal: (0, 1), cosine 0.6. Different: (0, 2) 0.0 and (1, 2) 0.8. The last takes no part.
    assert float(contrast_images(images, labels)) == pytest.approx(-0.6 + 0.4)
    assert float(contrast_images(images[:1], labels[:1])) == 0.0
