"""Counterfactuals: whether the model uses a feature, or the feature is only confounded with one.

A feature that the model uses lowers the margin of the raised class when it is removed and raises it
when it is put into other films, each time against a control that is treated the same way. Regions
are chosen and thresholds fixed on the half of the patients that the candidate was found on; tests
are made on the other half.

The margin is taken against the class that the correlation lowers most, not against all others: a
filled piece of lung looks like a consolidation to a model, a filled costophrenic angle like an
effusion, and neither says anything about a feature that moves films from "no finding" to
"cardiomegaly". Only where no lowered class is known it is the margin of the decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.ravl import AuditData
from ravl_med.encoders.base import Encoder
from ravl_med.evidence.counterfactual.interventions import (
    CANDIDATES,
    FilledFilm,
    carrying_threshold,
    compare_removals,
    compare_transplants,
    fill_films,
    match_controls,
    plan_transplants,
    sample_films,
)
from ravl_med.evidence.counterfactual.localisation import (
    EXPLORED_FILMS,
    RelevantPlaces,
    StructureReader,
    choose_shifts,
    fit_boxes,
    most_fit_pictures,
    most_share_pictures,
    share_effect,
)
from ravl_med.evidence.counterfactual.model_inputs import (
    SHIFTS,
    Margins,
    ModelInputs,
    move_shares,
)
from ravl_med.evidence.results import (
    Check,
    Counterfactual,
    EffectShares,
    PairedChange,
    Removal,
    failed_reasons,
)

_HELD_FILMS = 1024
_HELD_BYTES = 256 * 2**20

SpreadHypotheses = Callable[
    [Sequence["Hypothesis"], AuditData, EvidenceConfig], Iterable[Counterfactual]
]


@dataclass(frozen=True, eq=False)  # no slots: it holds its films
class CounterfactualModel:
    """The audited model, as counterfactuals run it on changed films."""

    encoder: Encoder
    read_input: Callable[[int], NDArray[np.float32]]  # film to the model's input (3, S, S)
    classes: NDArray[np.float32]  # (C, D) class embeddings
    temperature: float  # tau of the logits
    batch_size: int
    structures: StructureReader | None = None  # film to its anatomy and artifacts
    # hypotheses to counterfactuals, one by one and in order, by workers; None: this process makes
    # them
    spread: SpreadHypotheses | None = None

    @cached_property
    def read(self) -> Callable[[int], NDArray[np.float32]]:
        """Reader of preprocessed films (3, S, S), read-only; a limited number of them is held."""
        bytes_each = 3 * 4 * self.encoder.info.image_size**2

        @lru_cache(maxsize=max(1, min(_HELD_FILMS, _HELD_BYTES // bytes_each)))
        def read(film: int) -> NDArray[np.float32]:
            picture = self.read_input(film)
            picture.flags.writeable = False
            return picture

        return read

    def batches(self, pictures: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Give the logits (b, C) of pictures (3, S, S) batch by batch; a generator needs little."""
        stream = iter(pictures)
        while batch := list(islice(stream, self.batch_size)):
            embedded = self.encoder.encode_image(torch.from_numpy(np.stack(batch)))
            yield embedded.float().cpu().numpy() @ self.classes.T / self.temperature

    def logits(self, pictures: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the logits (n, C) of pictures (3, S, S)."""
        return np.concatenate(
            [np.empty((0, len(self.classes)), np.float32), *self.batches(pictures)]
        )


@dataclass(frozen=True, slots=True, eq=False)
class Hypothesis:
    """That the model uses the feature of a cluster, and what is settled before the test."""

    cluster: FeatureCluster
    # (N,) films of the half that it was chosen on; the others are the confirmation half
    discovery: NDArray[np.bool_]
    # where the raised class shows; None when it is not known
    relevant: RelevantPlaces | None = None
    comparisons: int = 1  # hypotheses that are tested together, for Bonferroni


def class_margin(
    logits: NDArray[np.floating],  # (n, C)
    raised: int | NDArray[np.int64],  # one class, or one for each row
    opposed: int | NDArray[np.int64] | None,
) -> NDArray[np.float64]:
    """Return the logit of one class minus that of another, row by row.

    Without an opposed class the largest other logit stands for it: the margin of the decision,
    positive where the raised class wins. The largest is sought again after each intervention. To
    keep the class that was largest before would favour it: it was chosen for a high value, which
    falls back by itself.
    """
    rows = np.arange(len(logits))
    exact = logits.astype(np.float64)
    own = exact[rows, raised]
    if opposed is not None:
        margin: NDArray[np.float64] = own - exact[rows, opposed]
        return margin
    exact[rows, raised] = -np.inf
    best: NDArray[np.float64] = own - exact.max(axis=1)
    return best


def measure_counterfactual(
    model: CounterfactualModel,
    hypothesis: Hypothesis,
    data: AuditData,
    evidence: EvidenceConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Counterfactual:
    """Test whether the model uses the feature of a cluster, and find the regions that carry it."""
    steps = _Steps(progress)
    cluster = hypothesis.cluster
    inputs = prepare_inputs(model, cluster.raised_class, cluster.lowered_class, data, steps.tick)
    plan = partial(plan_transplants, inputs, cluster, hypothesis.discovery, evidence.max_pairs)
    planned = plan(np.random.default_rng([evidence.seed, 0]))
    later = 3 * len(planned) + most_fit_pictures(evidence.max_fitted)
    later += most_share_pictures(len(cluster.regions))
    # Without a transplant nothing says that what is half a step aside belongs to the feature.
    movable = len(planned) >= evidence.min_pairs
    removal, shifts = _measure_removal(inputs, hypothesis, evidence, steps, later, movable=movable)
    planned = plan(np.random.default_rng([evidence.seed, 0]), shifts)
    transplant = None
    if len(planned) >= evidence.min_pairs:
        transplant = compare_transplants(inputs, planned, evidence, hypothesis.comparisons)
    checks = [*_removal_checks(removal, evidence), *_transplant_checks(transplant)]
    if used := all(check.passed for check in checks):
        boxes = _fit_carriers(inputs, cluster, removal, model, evidence.max_fitted)
        removal = replace(removal, located=boxes)
        removal = replace(
            removal, shares=_share_effect(inputs, hypothesis, removal, model.structures)
        )
    steps.finish()
    reasons = failed_reasons(checks)
    if transplant is None:  # it decides nothing, and is worth knowing where removal fails
        reasons += (
            f"Transplant could not be tried: fewer than {evidence.min_pairs} films of other "
            "classes could be given the feature and an ordinary region (evidence.min_pairs).",
        )
    return Counterfactual(removal, transplant, used, () if used else reasons)


def _removal_checks(removal: Removal, evidence: EvidenceConfig) -> list[Check]:
    """Check that removal lowers the margin, by either fill, enough and beyond its controls."""
    median, inpainted = removal.median, removal.inpainted
    if median is None or inpainted is None:
        reason = (
            f"Removal could not be tried: fewer than {evidence.min_pairs} films of the "
            "confirmation half could be paired with a film of their class without the feature "
            "(evidence.min_pairs)."
        )
        return [Check(False, reason)]
    return [
        Check(
            median.interval.low > 0,
            "Filling the regions in does not lower the margin beyond what it does to control "
            "films.",
        ),
        Check(
            min(median.change, inpainted.change) > 0,
            "The margin of films with the feature does not fall when it is removed.",
        ),
        Check(
            removal.size >= evidence.min_effect,
            f"Removal moves the margin by less than {100 * evidence.min_effect:g} % of its "
            "standard deviation, too little to matter (evidence.min_effect).",
        ),
        Check(
            inpainted.contrast > 0,
            "Inpainting the regions does not lower the margin more than in control films.",
        ),
    ]


def _transplant_checks(transplant: PairedChange | None) -> list[Check]:
    """Check that transplant raises the margin beyond its controls, where it could be tried."""
    if transplant is None:
        return []
    reason = (
        "Blending the feature into films of other classes does not raise the margin beyond "
        "what ordinary regions do."
    )
    return [Check(transplant.interval.low > 0, reason)]


class _Steps:
    """Steps done, of those that are planned."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress
        self.done, self.total = 0, 0

    def tick(self, count: int) -> None:
        self.done += count
        self._progress(min(self.done, self.total), self.total)

    def finish(self) -> None:
        if self.done < self.total:  # a control could not be found, no box was fitted
            self.tick(self.total - self.done)


def prepare_inputs(
    model: CounterfactualModel,
    raised_class: int,
    lowered_class: int | None,  # see `class_margin`
    data: AuditData,
    tick: Callable[[int], None] = lambda count: None,
) -> ModelInputs:
    """Return films as the model sees them, with the margin of a class against another.

    `tick` is called with the number of pictures that were encoded.
    """

    def margins(pictures: Iterable[NDArray[np.float32]]) -> Margins:
        margin, decided = [np.empty(0)], [np.empty(0, dtype=np.bool_)]
        for logits in model.batches(pictures):
            margin.append(class_margin(logits, raised_class, lowered_class))
            decided.append(logits.argmax(axis=1) == raised_class)
            tick(len(logits))
        return Margins(np.concatenate(margin), np.concatenate(decided))

    return ModelInputs(data, model.read, model.encoder.geometry, margins, tick)


def _measure_removal(
    inputs: ModelInputs,
    hypothesis: Hypothesis,
    evidence: EvidenceConfig,
    steps: _Steps,
    later: int,
    *,
    movable: bool,
) -> tuple[Removal, NDArray[np.float64]]:
    """Fill the regions of a sample of films, test those with a control; return the shifts too.

    `later` is the number of steps that follow after removal; `movable` regions may be filled half a
    step aside.
    """
    cluster, discovery = hypothesis.cluster, hypothesis.discovery
    rng = np.random.default_rng([evidence.seed, 1])
    films, testable = sample_films(
        inputs.data, cluster, discovery, evidence.max_removals, evidence.max_pairs, rng
    )
    film_of_region = inputs.data.region_image[cluster.regions]
    rows = {int(film): np.flatnonzero(film_of_region == film) for film in films}
    regions = {film: cluster.regions[own] for film, own in rows.items()}
    explored = [film for film in rows if discovery[film]][:EXPLORED_FILMS] if movable else []
    if len(testable) < evidence.min_pairs:
        testable = testable[:0]
    # At most: a second place is filled only where the first films show that it is worth it.
    steps.total = later + sum(1 + 2 * len(SHIFTS) * len(rows[film]) for film in explored)
    steps.total += sum(1 + 4 * len(own) for own in rows.values())
    steps.total += sum(CANDIDATES + 1 + 4 * len(rows[int(film)]) for film in testable)
    shifts = choose_shifts(inputs, explored, regions)
    places = {f: move_shares(inputs.shares(own), shifts) for f, own in regions.items()}
    filled = fill_films(inputs, [(f, inputs.place(f, own)) for f, own in places.items()])
    effect, boxes = _largest_effects(inputs, filled, rows, len(shifts), len(cluster.regions))
    threshold = carrying_threshold([f for f in filled if discovery[f.film]])
    wanted = {int(film): places[int(film)] for film in testable}
    pairs = match_controls(inputs, cluster, discovery, wanted, rng)
    median = inpainted = None
    spread = ratio = float("nan")
    if len(pairs) >= evidence.min_pairs:
        by_film = {film.film: film for film in filled}
        median, inpainted, spread = compare_removals(
            inputs, pairs, [by_film[pair.film] for pair in pairs], evidence, hypothesis.comparisons
        )
        ratio = float(np.median([pair.contrast_ratio for pair in pairs]))
    removal = Removal(
        effect=effect,
        carries=np.isfinite(effect) & (effect > 0) & (effect >= threshold),
        threshold=threshold,
        median=median,
        inpainted=inpainted,
        contrast_ratio=ratio,
        spread=spread,
        located=boxes,
    )
    return removal, shifts


def _largest_effects(
    inputs: ModelInputs,
    filled: Sequence[FilledFilm],
    rows: Mapping[int, NDArray[np.int64]],
    shifts: int,
    regions: int,
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Largest effect (n,) of each region over its places, and that place (n, 4), stored pixels."""
    effect = np.full(regions, np.nan)
    effect_boxes = np.full((regions, 4), np.nan, dtype=np.float32)
    for film in filled:
        own = rows[film.film]
        of_each = film.effect.reshape(shifts, len(own))
        boxes = film.boxes.reshape(shifts, len(own), 4)
        best = of_each.argmax(axis=0), np.arange(len(own))
        effect[own] = of_each[best]
        effect_boxes[own] = inputs.carry_back(film.film, boxes[best])
    return effect, effect_boxes


def _fit_carriers(
    inputs: ModelInputs,
    cluster: FeatureCluster,
    removal: Removal,
    model: CounterfactualModel,
    count: int,
) -> NDArray[np.float32]:
    """Fit the boxes of the carrying regions with the largest effects; return all boxes (n, 4)."""
    assert removal.located is not None  # it was measured
    boxes = removal.located.copy()
    ranked = np.argsort(-np.where(removal.carries, removal.effect, -np.inf), kind="stable")
    chosen = ranked[: min(count, int(removal.carries.sum()))]
    films = inputs.data.region_image[cluster.regions[chosen]]
    boxes[chosen] = fit_boxes(inputs, films, boxes[chosen], model.encoder.info.image_size)
    return boxes


def _share_effect(
    inputs: ModelInputs,
    hypothesis: Hypothesis,
    removal: Removal,
    structures: StructureReader | None,
) -> EffectShares | None:
    if hypothesis.relevant is None or removal.located is None:
        return None
    carriers = hypothesis.cluster.regions[removal.carries]
    return share_effect(
        inputs,
        hypothesis.relevant,
        structures,
        inputs.data.region_image[carriers],
        removal.located[removal.carries],
        removal.effect[removal.carries],
    )
