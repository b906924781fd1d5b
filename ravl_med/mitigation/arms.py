"""The arms: ways to turn a model away from a feature, under one config and one budget.

Most fine-tune the tower on views of the films: small shifts, other exposures, parts of a film, with
the boxes that lie on it. The parts are those of contrastive pre-training (open_clip's
RandomResizedCrop): they teach the tower to say of a part what the part shows, which region
embeddings live on. Class heads are cheap arms: the tower stays, and what its embeddings are
compared with changes.

References
----------
Varma et al., RaVL, NeurIPS 2024, section 3.2 and appendix (the arms that it compares with).
Kirichenko, Izmailov, Wilson, "Last layer re-training is sufficient for robustness to spurious
correlations", ICLR 2023 (DFR).
Chuang et al., "Debiasing vision-language models via biased prompts", arXiv 2302.00070 (2023)
(orthogonal projection of text embeddings).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.config.mitigation import MitigationConfig
from ravl_med.config.model import RegionPooling
from ravl_med.encoders.generative import GenerativeEncoder
from ravl_med.encoders.region_pooling import embed_images, region_pooling_of
from ravl_med.errors import ConfigError, ModelError
from ravl_med.mitigation.fine_tuning_set import FineTuningSet, RegionTable
from ravl_med.mitigation.losses import (
    RegionEvidence,
    contrast_images,
    cross_entropy,
    gather_evidence,
    group_robust_loss,
    log_sum_exp,
    region_losses,
    update_group_weights,
)
from ravl_med.mitigation.region_exchange import deal_feature, exchange_regions, find_places
from ravl_med.mitigation.spurious_regions import PseudoGroups, sampling_weights


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """How each of B films is looked at."""

    side: Tensor  # (B,) of the part that is seen, as a share of the film
    centre: Tensor  # (B, 2) x and y of its centre, from -1 to 1
    gain: Tensor  # (B,) of the brightness
    offset: Tensor  # (B,) of the brightness, in units of the input

    def part(self, rows: slice) -> Views:
        """Return the views of some of the films."""
        return Views(self.side[rows], self.centre[rows], self.gain[rows], self.offset[rows])


def draw_views(count: int, cropped: float, generator: torch.Generator) -> Views:
    """Draw views of films: shifts and zooms of up to 5 %.

    With the chance `cropped` a film is cut to a part of 0.2 to 0.8 of its side instead.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    cut = torch.rand(count, generator=generator) < cropped
    side = torch.where(cut, uniform(0.2, 0.8), uniform(0.95, 1.05))
    reach = torch.where(cut, 1.0 - side, torch.full((count,), 0.05)).clamp(min=0.0)
    centre = torch.stack([uniform(-1.0, 1.0) * reach, uniform(-1.0, 1.0) * reach], dim=1)
    gain = 1.0 + 0.1 * torch.randn(count, 1, 1, generator=generator)
    offset = 0.1 * torch.randn(count, 1, 1, generator=generator)
    return Views(side, centre, gain[:, 0, 0], offset[:, 0, 0])


def view_films(films: Tensor, views: Views) -> Tensor:
    """Look at films (B, S, S), float32; what lies outside of a film repeats its border."""
    count = len(films)
    theta = torch.zeros(count, 2, 3, device=films.device)
    theta[:, 0, 0] = theta[:, 1, 1] = views.side
    theta[:, :, 2] = views.centre
    grid = functional.affine_grid(theta, [count, 1, *films.shape[-2:]], align_corners=False)
    moved = functional.grid_sample(
        films[:, None], grid, padding_mode="border", align_corners=False
    )[:, 0]
    return torch.addcmul(views.offset[:, None, None], moved, views.gain[:, None, None])


def move_boxes(boxes: Tensor, film: Tensor, views: Views, size: int) -> tuple[Tensor, Tensor]:
    """Carry boxes (R, 4), xyxy in input pixels of side `size`, into the views of their films (R,).

    Return them clipped to the view, and the share of each that is in it, (R,).
    """
    centre = views.centre[film].repeat(1, 2)
    moved = ((2.0 * boxes / size - 1.0 - centre) / views.side[film, None] + 1.0) * (size / 2.0)
    seen = moved.clamp(0.0, float(size))
    area = (moved[:, 2:] - moved[:, :2]).prod(dim=1)
    inside = (seen[:, 2:] - seen[:, :2]).clamp(min=0.0).prod(dim=1)
    return seen, inside / area.clamp(min=1e-6)


Term = Literal["cross_entropy", "group_robust", "contrast", "regions", "relevance", "alignment"]
_OF_REGIONS: frozenset[Term] = frozenset({"regions", "relevance", "alignment"})
_LEAST_VISIBLE = 0.5
# CLIP's ResNets read the weights of their pool's layers, and do not call them.
_ATTENTION = re.compile("attn(?!pool)|attention")
_TOWERS = ("vision_tower", "vision_model", "visual", "qformer")
_PROJECTORS = (
    "multi_modal_projector", "connector", "merger", "language_projection", "query_tokens",
    "image_newline",
)  # fmt: skip
"""Parts of the names of weights of an image side: its towers, and what leads to the decoder."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to fine-tune."""

    title: str  # how reports call it
    published: bool  # by others than this project
    # what stands beside L_CLIP; several are added; regions: L_R and L_A, relevance and alignment:
    # one of both
    terms: tuple[Term, ...] = ()
    weighted: bool = False  # films are drawn so that pseudo-groups are seen alike
    exchanged: bool = False  # the located feature is dealt out anew in each batch
    # the region losses are averaged over the batch, whatever the config says: as a sum they drown
    # L_CLIP, and with it what the exchange teaches
    averaged: bool = False

    @property
    def sees_regions(self) -> bool:
        """Whether a term is of regions, so that they have to be embedded."""
        return not _OF_REGIONS.isdisjoint(self.terms)


ARMS: Mapping[str, Arm] = {
    "standard": Arm("standard fine-tuning", True),
    "upsampled": Arm("upsampled pseudo-groups", True, weighted=True),
    "vl_erm": Arm("VL-ERM", True, ("cross_entropy",), weighted=True),
    "vl_gdro": Arm("VL-GDRO", True, ("group_robust",), weighted=True),
    "spurious_aware": Arm("Spurious-Aware", True, ("contrast",)),
    "ravl": Arm("RaVL", True, ("regions",)),
    "exchange": Arm("region exchange", False, exchanged=True),
    "counterfactual": Arm(
        "RaVL with counterfactual regions", False, ("regions",), exchanged=True, averaged=True
    ),
}


class ImageTower(nn.Module):
    """The image side of a model, with its logit scale; the text side is frozen in place."""

    def __init__(self, model: Any, region_pooling: RegionPooling = "one_pass") -> None:
        super().__init__()
        self.visual = model.visual
        self.logit_scale = model.logit_scale
        model.requires_grad_(False)
        self.visual.requires_grad_(True)
        # The scale of a sigmoid was learned with its bias, which no arm trains: both stay.
        self.logit_scale.requires_grad_(getattr(model, "logit_bias", None) is None)
        self._pool = region_pooling_of(self.visual, region_pooling)[1]

    def forward(
        self, images: Tensor, boxes: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return images (B, D), regions (R, D) or None, unit norm, and the scale of the logits."""
        if boxes is None:
            seen = functional.normalize(embed_images(self.visual, images), dim=-1)
            return seen, None, self.logit_scale.exp()
        whole, regions = self._pool(self.visual, images, boxes)
        return (
            functional.normalize(whole, dim=-1),
            functional.normalize(regions, dim=-1),
            self.logit_scale.exp(),
        )

    def logits(self, images: Tensor, classes: Tensor, temperature: float) -> Tensor:
        """Return zero-shot logits (B, C) of inputs, on the CPU."""
        seen, _, _ = self(images)
        return torch.matmul(seen.float().cpu(), classes.T) / temperature


class AnswerTower(nn.Module):
    """The image side of a model that writes, as arms train it: its decoder is frozen in place.

    What is taught are the answers to the questions of the task: the share of their first token that
    is the right word, or of the texts of the classes the right one.
    """

    def __init__(self, encoder: GenerativeEncoder) -> None:
        super().__init__()
        self.inner: Any = encoder.model
        self._encoder = encoder
        self.inner.requires_grad_(False)
        for name, parameter in self.inner.named_parameters():
            parameter.requires_grad_(any(part in name for part in _TOWERS + _PROJECTORS))

    def forward(
        self, images: Tensor, boxes: list[Tensor] | None = None, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return inputs (B, D), regions (R, D) or None, unit norm, and losses (B,) or None.

        `labels` (B,) are the classes that are taught; -1 teaches nothing.
        """
        seen = self._encoder.visual.see(images)
        own = [images.new_empty(0, 4)] * len(images) if boxes is None else boxes
        whole, regions = self._encoder.visual.pool(seen, own)
        return (
            functional.normalize(whole, dim=-1),
            None if boxes is None else functional.normalize(regions, dim=-1),
            None if labels is None else self._encoder.answer_losses(seen, labels),
        )

    def logits(self, images: Tensor, classes: Tensor, temperature: float) -> Tensor:
        """Return the answers (B, C) to inputs, on the CPU; class texts have no part in them."""
        return self._encoder.answer(images)


Tower = ImageTower | AnswerTower
"""The image side of a model as arms train it: contrastive, or one that writes."""


def find_attention(side: nn.Module) -> list[str]:
    """Return the names of the linear layers of attention in the image towers of a model.

    Raises
    ------
    ConfigError, ModelError
        Adapters need peft, which is not installed; there is no such layer.
    """
    if find_spec("peft") is None:
        raise ConfigError(
            "mitigation.lora_rank needs peft, which is not installed; pip install '.[lora]' brings "
            "it."
        )
    found = [
        name
        for name, part in side.named_modules()
        if type(part) is nn.Linear and _ATTENTION.search(name) and _in_tower(name)
    ]
    if not found:
        raise ModelError(
            "mitigation.lora_rank: the image tower has no linear layer of attention; expected a "
            "ViT of timm or of Hugging Face. Set it to 0, which trains the weights."
        )
    return found


def _in_tower(name: str) -> bool:
    """Whether a name is of a tower, and not of what leads from it to the decoder."""
    return any(one in name for one in _TOWERS) and not any(one in name for one in _PROJECTORS)


def adapt_attention(tower: Tower, rank: int) -> Any:
    """Put adapters into the attention of an image side, in place, and freeze its towers' weights.

    What leads to the decoder, and the scale of the logits, are trained as without. The
    ``merge_and_unload`` of the `peft.LoraModel` that is returned makes one weight of both; errors
    as those of `find_attention`. Source: Hu et al., "LoRA", ICLR 2022.
    """
    layers = find_attention(tower)
    from peft import LoraConfig, LoraModel

    named = tower.named_parameters()
    whole = [weight for name, weight in named if weight.requires_grad and not _in_tower(name)]
    adapted = LoraModel(tower, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers), "a")
    for weight in whole:
        weight.requires_grad_(True)
    return adapted


class Objective:
    """What an arm does with a batch; class texts (C, D) are those of the frozen text tower.

    For a model that writes the cross-entropy of its `answers` stands in the place of L_CLIP.
    """

    def __init__(
        self,
        arm: Arm,
        films: FineTuningSet,
        classes: Tensor,
        config: MitigationConfig,
        fabric: Fabric,
        *,
        answers: bool = False,
    ) -> None:
        self.arm, self.films, self.config, self.fabric = arm, films, config, fabric
        self._answers = answers
        groups = PseudoGroups.cross(
            films.labels, films.present, tuple(map(str, range(len(classes))))
        )
        self._groups = torch.from_numpy(groups.of_film)
        self._labels = torch.from_numpy(films.labels)
        self._present = torch.from_numpy(films.present)
        self._classes = classes.to(fabric.device)
        self._chance = torch.from_numpy(sampling_weights(groups)) if arm.weighted else None
        count = len(groups.names)
        self.state = {"group_weights": torch.full((count,), 1.0 / count, device=fabric.device)}

    def order(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the films of an epoch (count,)."""
        if self._chance is None:
            return torch.randperm(count, generator=generator)
        return torch.multinomial(self._chance, count, replacement=True, generator=generator)

    def step(
        self, module: nn.Module, rows: Tensor, part: slice, epoch: int, generator: torch.Generator
    ) -> Tensor:
        """Return the loss of a batch; all processes return that of the whole batch."""
        images, boxes, spurious = self._view(rows, part, generator)
        taught = (self._labels[rows[part]].to(images.device),) if self._answers else ()
        seen, regions, last = module(images, boxes, *taught)
        labels, groups, present = (
            values[rows].to(seen.device) for values in (self._labels, self._groups, self._present)
        )
        evidence = None
        if regions is not None:
            assert boxes is not None
            assert spurious is not None
            evidence = self._evidence(regions, boxes, spurious, labels)
        whole, evidence = self._gather(seen, evidence)
        answers = last if self._answers else None
        if answers is None:
            clip = _clip_loss(whole, self.films.reports[rows].to(seen.device), last)
        else:
            clip = answers.sum() / (labels >= 0).sum().clamp(min=1)
        if not self.arm.terms:
            return clip
        other = sum(
            (
                self._term(term, whole, labels, groups, present, evidence, answers)
                for term in self.arm.terms
            ),
            start=torch.zeros((), device=clip.device),
        )
        return self.config.clip_weight * clip + (1.0 - self.config.clip_weight) * other

    def _view(
        self, rows: Tensor, part: slice, generator: torch.Generator
    ) -> tuple[Tensor, list[Tensor] | None, Tensor | None]:
        """Read and view this process's part, with the boxes of its regions where needed."""
        films, own = self.films, rows[part].numpy()
        if self.arm.exchanged:
            pictures, given = self._exchange(rows, part, generator)
        else:
            pictures, given = films.films.read(own), None
        views = draw_views(len(rows), self.config.cropped, generator).part(part)
        device = self.fabric.device
        images = films.films.inputs(view_films(pictures, views)).to(device)
        if not self.arm.sees_regions:
            return images, None, None
        index, film = films.regions.take(own)
        place = torch.from_numpy(film)
        boxes, visible = move_boxes(
            torch.from_numpy(films.regions.boxes[index]), place, views, films.films.side
        )
        flags = torch.from_numpy(films.spurious[index])
        if given is not None:
            flags = _covered(torch.from_numpy(films.regions.boxes[index]), place, given)
        kept = visible >= _LEAST_VISIBLE
        parts = [boxes[kept & (place == i)].to(device) for i in range(len(own))]
        return images, parts, flags[kept].to(device)

    def _exchange(
        self, rows: Tensor, part: slice, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Films of this process's part after the exchange, and, for regions, where it lies now."""
        films = self.films
        has = torch.from_numpy(films.carriers.counts_of(rows.numpy()) > 0)
        dealing = deal_feature(has, self.config.exchange_share, generator)
        # The other films of the batch are other processes' to read.
        needed, own, dealing = dealing.part(part)
        asked = rows[needed]
        carriers, companions = (
            _boxes_of(table, asked) for table in (films.carriers, films.companions)
        )
        places = find_places(carriers, companions, len(asked), films.films.side)
        changed = exchange_regions(films.films.read(asked.numpy()), places, dealing, own)
        if not self.arm.sees_regions:
            return changed, None
        masks = places.masks[dealing.give_place]
        return changed, dealing.present[:, None, None] & (masks > 0.5)

    def _term(
        self,
        term: Term,
        whole: Tensor,
        labels: Tensor,
        groups: Tensor,
        present: Tensor,
        evidence: RegionEvidence | None,
        answers: Tensor | None,  # (B,) cross-entropy of a model that writes
    ) -> Tensor:
        """Return a term beside L_CLIP."""
        if term in _OF_REGIONS:
            assert evidence is not None  # the view has made boxes for it
            relevance, alignment, _ = region_losses(evidence, labels, self.config.denominator)
            parts = {"relevance": relevance, "alignment": alignment}
            total = parts.get(term, relevance + alignment).sum()
            if self.arm.averaged or self.config.reduction == "mean":
                total = total / max(len(relevance), 1)
            return total
        if term == "contrast":
            feature = present.long().where(labels >= 0, -1)  # films without a class are in no group
            return contrast_images(whole, labels) + contrast_images(whole, feature)
        losses = answers
        if losses is None:
            losses = cross_entropy(whole @ self._classes.T / self.config.temperature, labels)
        known = labels >= 0
        if term == "cross_entropy":
            return losses.sum() / known.sum().clamp(min=1)
        raised = update_group_weights(
            self.state["group_weights"], losses[known], groups[known], self.config.eta
        )
        self.state["group_weights"] = raised
        return group_robust_loss(losses[known], groups[known], raised)

    def _evidence(
        self, regions: Tensor, boxes: list[Tensor], spurious: Tensor, labels: Tensor
    ) -> RegionEvidence:
        """Condense the regions of this process's films; classes are those of the whole batch."""
        film = torch.repeat_interleave(
            torch.arange(len(boxes), device=regions.device),
            torch.tensor([len(part) for part in boxes], device=regions.device),
        )
        named = torch.bincount(labels[labels >= 0], minlength=len(self._classes)) > 0
        similarities = regions @ self._classes.T / self.config.temperature
        return gather_evidence(similarities, film, spurious, len(boxes), named)

    def _gather(
        self, seen: Tensor, evidence: RegionEvidence | None
    ) -> tuple[Tensor, RegionEvidence | None]:
        """Join what all processes have, in the order of the batch, with the gradients.

        In one piece: of several, a process without spurious regions would leave one out on the way
        back, and the others would wait for it.
        """
        if self.fabric.world_size == 1:
            return seen, evidence
        parts = [seen]
        if evidence is not None:
            parts += [evidence.relevant, evidence.spurious_class, evidence.spurious_best[None]]
        flat = torch.cat([part.flatten() for part in parts])
        gathered: Any = self.fabric.all_gather(flat, sync_grads=True)  # (processes, n)
        pieces = gathered.split([part.numel() for part in parts], dim=1)
        whole = pieces[0].reshape(-1, seen.shape[1])
        if evidence is None:
            return whole, None
        return whole, RegionEvidence(
            pieces[1].reshape(-1, evidence.relevant.shape[1]),
            log_sum_exp(pieces[2]),
            log_sum_exp(pieces[3])[0],
        )


def _boxes_of(table: RegionTable, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes of films of a table (M, 4), and their positions in the batch (M,)."""
    index, film = table.take(rows.numpy())
    return torch.from_numpy(table.boxes[index]), torch.from_numpy(film)


def _clip_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    from open_clip.loss import ClipLoss

    loss: Tensor = ClipLoss()(images, texts, scale)
    return loss


def _covered(boxes: Tensor, film: Tensor, here: Tensor) -> Tensor:
    """Whether at least a quarter of each box (R, 4) is covered by the mask of its film."""
    low = boxes[:, :2].round().long().clamp(max=here.shape[-1] - 1)  # a sliver at the far border
    high = torch.maximum(boxes[:, 2:].round().long(), low + 1)
    sums = functional.pad(here.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
    x0, y0, x1, y1 = low[:, 0], low[:, 1], high[:, 0], high[:, 1]
    inside = sums[film, y1, x1] - sums[film, y0, x1] - sums[film, y1, x0] + sums[film, y0, x0]
    flags: Tensor = inside >= 0.25 * ((x1 - x0) * (y1 - y0))
    return flags


_DRAWS = 10
_STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01)  # inverse of the regularisation, DFR's grid
_SAME = 1e-6  # share of the largest singular value below which a direction adds nothing


@dataclass(frozen=True, slots=True, eq=False)
class ClassHead:
    """What image embeddings are compared with."""

    weights: NDArray[np.float32]  # (C, D)
    bias: NDArray[np.float32]  # (C,)

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits (N, C) of image embeddings (N, D)."""
        scored: NDArray[np.float32] = images @ self.weights.T + self.bias
        return scored


def retrain_last_layer(
    images: NDArray[np.float32],  # (N, D) unit norm
    labels: NDArray[np.int64],  # (N,) 0 .. C - 1
    groups: NDArray[np.int64],  # (N,)
    classes: int,  # C
    seed: int,
) -> ClassHead | None:
    """Fit a logistic regression on equally large groups, the mean over several draws of them.

    The regularisation is the one whose fit to half of the films has the best worst-group accuracy
    on the other half. None where some class, or some group of more than one film, is missing.
    """
    present = np.unique(groups)
    sizes = np.array([(groups == g).sum() for g in present])
    if len(np.unique(labels)) < classes or sizes.min() < 2:
        return None
    rng = np.random.default_rng([seed, 7])
    first = np.zeros(len(labels), dtype=np.bool_)
    for group in present:
        members = rng.permutation(np.flatnonzero(groups == group))
        first[members[: len(members) // 2]] = True

    def worst(strength: float) -> float:
        head = _fit(images[first], labels[first], groups[first], classes, strength, rng)
        right = head.logits(images[~first]).argmax(axis=1) == labels[~first]
        return min(float(right[groups[~first] == g].mean()) for g in present)

    strength = max(_STRENGTHS, key=worst)
    return _fit(images, labels, groups, classes, strength, rng)


def _fit(
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    classes: int,
    strength: float,
    rng: np.random.Generator,
) -> ClassHead:
    from sklearn.linear_model import LogisticRegression  # an audit does not wait for it

    mean, spread = images.mean(axis=0), images.std(axis=0) + 1e-6
    scaled = (images - mean) / spread
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    size = min(len(m) for m in members)
    weights, bias = np.zeros((classes, images.shape[1])), np.zeros(classes)
    for _ in range(_DRAWS):
        rows = np.concatenate([rng.choice(m, size, replace=False) for m in members])
        model = LogisticRegression(C=strength, max_iter=1000)
        model.fit(scaled[rows], labels[rows])
        coefficients, intercepts = model.coef_, model.intercept_
        if classes == 2:  # scikit-learn keeps one row for two classes
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            intercepts = np.concatenate([-intercepts, intercepts]) / 2
        weights += coefficients / _DRAWS
        bias += intercepts / _DRAWS
    weights = weights / spread
    return ClassHead(weights.astype(np.float32), (bias - weights @ mean).astype(np.float32))


def feature_directions(
    parts: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_]]],
) -> NDArray[np.float32]:
    """Return the unit directions (f, D) from ordinary regions to those of each feature.

    Parts of the regions come as embeddings (r, D) and which features they hold (r, F). A feature
    that all regions hold, or none, has no direction.
    """
    held: Any = 0.0
    every: Any = 0.0
    holding, regions = np.zeros(0), 0
    for embedded, found in parts:
        exact = embedded.astype(np.float64)
        held = held + found.T.astype(np.float64) @ exact
        every = every + exact.sum(axis=0)
        holding = found.sum(axis=0) + (holding if len(holding) else 0.0)
        regions += len(found)
    some = np.flatnonzero((holding > 0) & (holding < regions))
    if not len(some):
        return np.empty((0, 0), np.float32)
    count = holding[some, None]
    direction = held[some] / count - (every - held[some]) / (regions - count)
    unit: NDArray[np.float32] = (
        direction / np.linalg.norm(direction, axis=1, keepdims=True)
    ).astype(np.float32)
    return unit


def project_texts(
    classes: NDArray[np.float32], directions: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Project class texts (C, D) onto what is orthogonal to the features' directions (F, D)."""
    axes, sizes, _ = np.linalg.svd(directions.T.astype(np.float64), full_matrices=False)
    basis = axes[:, sizes > _SAME * sizes.max()]  # two features may have one direction
    projected = classes - (classes @ basis) @ basis.T
    norm = np.linalg.norm(projected, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (projected / np.maximum(norm, 1e-12)).astype(np.float32)
    return unit
