"""RaVL's region-aware losses, and the losses of the arms that stand beside it.

Everything is a function of similarities to the C class texts, because a report counts only by the
class that it names. A film enters by its relevant regions' best similarity to each class, a region
of the spurious feature by its own similarities; regions are never compared with each other, so a
batch costs R x C and no R x R matrix exists. All sums of exponentials are log-sum-exps.

References
----------
Varma et al., RaVL, NeurIPS 2024, section 3.2 (L_R, L_A, and their mixture with L_CLIP).
Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020 (group DRO).
Yang et al., "Mitigating Spurious Correlations in Multi-modal Models during Fine-tuning", ICML 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Multiset = Literal["multiset", "distinct"]


@dataclass(frozen=True, slots=True)
class RegionEvidence:
    """What a batch of B films says of the C classes, region by region."""

    # (B, C) best <f(r), g(y)> / tau over the relevant regions R_i^r of each film; -inf where a film
    # has none
    relevant: Tensor
    # (C,) log-sum-exp over the spurious regions R_B^s of their similarity to each class; -inf where
    # there is none
    spurious_class: Tensor
    # () log P: log-sum-exp over R_B^s of the best similarity to any class that the batch names
    spurious_best: Tensor


def gather_evidence(
    similarities: Tensor, film: Tensor, spurious: Tensor, films: int, named: Tensor
) -> RegionEvidence:
    """Condense the similarities (R, C), <f(r), g(y)> / tau, of all regions of a batch of B films.

    `film` (R,) is the position in the batch; `named` (C,) are the classes that the whole batch
    names.
    """
    classes = similarities.shape[1]
    relevant = similarities.new_full((films, classes), -torch.inf)
    own = ~spurious
    relevant = relevant.scatter_reduce(
        0, film[own, None].expand(-1, classes), similarities[own], "amax"
    )
    apart = similarities[spurious]
    if not named.any():
        best = apart.new_full((len(apart),), -torch.inf)
    else:
        best = apart[:, named].amax(dim=1)
    return RegionEvidence(relevant, log_sum_exp(apart), log_sum_exp(best[:, None])[0])


def region_losses(
    evidence: RegionEvidence, labels: Tensor, denominator: Multiset = "multiset"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return L_R and L_A (n,) of each film that has both a class and a relevant region.

    A film whose text names no class or several has label -1, and no loss of its own; which films
    (B,) counted is returned too. By ``multiset`` the sum over the batch in L_R counts a class as
    often as it is named, as the equation is written, by ``distinct`` once.
    """
    relevant, classes = evidence.relevant, evidence.relevant.shape[1]
    seen = torch.isfinite(relevant[:, 0])
    counted = (labels >= 0) & seen
    own = labels.clamp(min=0)
    matched = relevant.gather(1, own[:, None])[:, 0]

    times = torch.bincount(labels[labels >= 0], minlength=classes)
    if denominator == "distinct":
        times = times.clamp(max=1)
    weighted = relevant + times.to(relevant.dtype).log()  # log 0 = -inf: class is not in the batch
    spread = torch.cat(
        [weighted[counted], evidence.spurious_best.expand(int(counted.sum()), 1)], dim=1
    )
    relevance = torch.logsumexp(spread, dim=1) - matched[counted]

    # For each class, what the films of other classes say of it.
    other = own[:, None] != torch.arange(classes, device=labels.device)
    usable = other & counted[:, None]
    elsewhere = log_sum_exp(relevant.masked_fill(~usable, -torch.inf))
    against = torch.stack(
        [matched[counted], elsewhere[own][counted], evidence.spurious_class[own][counted]], dim=1
    )
    alignment = torch.logsumexp(against, dim=1) - matched[counted]
    return relevance, alignment, counted


def log_sum_exp(values: Tensor) -> Tensor:
    """Return the log-sum-exp over rows, (n, m) to (m,); -inf without gradient over nothing."""
    if len(values) == 0:
        return values.new_full(values.shape[1:], -torch.inf)
    peak = values.amax(dim=0).detach()
    safe = torch.where(torch.isfinite(peak), peak, torch.zeros_like(peak))
    total = (values - safe).exp().sum(dim=0)
    nothing = total == 0
    return torch.where(
        nothing,
        torch.full_like(total, -torch.inf),
        torch.where(nothing, torch.ones_like(total), total).log() + safe,
    )


def group_robust_loss(losses: Tensor, groups: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over groups of q_g times the mean loss of the group in the batch.

    Losses and groups are (B,); q (G,) was updated for this batch already and sums to one.
    """
    return (weights * _group_means(losses, groups, len(weights))).sum()


def update_group_weights(weights: Tensor, losses: Tensor, groups: Tensor, eta: float) -> Tensor:
    """Return q (G,) after q_g <- q_g exp(eta loss_g), normalised.

    Groups outside the batch keep theirs.
    """
    raised = weights * (eta * _group_means(losses.detach(), groups, len(weights))).exp()
    return raised / raised.sum()


def _group_means(losses: Tensor, groups: Tensor, count: int) -> Tensor:
    total = losses.new_zeros(count).index_add(0, groups, losses)
    films = torch.bincount(groups, minlength=count).clamp(min=1)
    return total / films


def contrast_images(images: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cosine of pairs with different labels minus that of pairs with equal ones.

    Images (B, D) have unit norm; one with label -1 takes no part, none is paired with itself. It is
    0 where there is no pair of either kind.
    """
    known = labels >= 0
    cosine = images[known] @ images[known].T
    same = labels[known][:, None] == labels[known]
    apart = ~torch.eye(len(cosine), dtype=torch.bool, device=images.device)
    loss = images.new_zeros(())
    for pairs, sign in ((same & apart, -1.0), (~same, 1.0)):
        if pairs.any():
            loss = loss + sign * cosine[pairs].mean()
    return loss


def cross_entropy(similarities: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy (B,) of zero-shot logits (B, C); label -1 gives 0."""
    return functional.cross_entropy(similarities, labels, reduction="none", ignore_index=-1)
