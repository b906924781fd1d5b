"""Counterfactuals: whether the model uses a feature, or the feature only travels along.

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

from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.ravl import AuditData
from ravl_med.encoders.base import Encoder
from ravl_med.evidence.counterfactual.effect_places import (
    RelevantPlaces,
    StructureReader,
    most_share_pictures,
    share_effect,
)
from ravl_med.evidence.counterfactual.localisation import (
    EXPLORED_FILMS,
    SHIFTS,
    choose_shifts,
    fit_boxes,
    most_fit_pictures,
    move_shares,
)
from ravl_med.evidence.counterfactual.model_inputs import (
    CounterfactualRules,
    Margins,
    ModelInputs,
)
from ravl_med.evidence.counterfactual.removal import (
    CANDIDATES,
    FilledFilm,
    FilmPair,
    carrying_threshold,
    compare_removals,
    fill_films,
    match_controls,
    sample_films,
)
from ravl_med.evidence.counterfactual.transplant import compare_transplants, plan_transplants
from ravl_med.evidence.results import Counterfactual, EffectShares, PairedChange, Removal

_HELD_FILMS = 1024
_HELD_BYTES = 256 * 2**20


SpreadHypotheses = Callable[
    [Sequence["Hypothesis"], AuditData, CounterfactualRules], Iterable[Counterfactual]
]


@dataclass(frozen=True, eq=False)  # no slots: it holds its films
class CounterfactualModel:
    """What is needed to ask the model.

    Attributes
    ----------
    read_pixels : callable - image index to pixels (H, W), float32 of 0 .. 1
    classes : ndarray of shape (C, D), float32 - class embeddings
    temperature : float - tau of the logits
    batch_size : int - inputs encoded at once
    structures : callable or None - image index to its anatomy and artifacts
    spread : callable or None - suspects, images and rules to counterfactuals, one by one and in
        order, by workers; None: this process asks
    """

    encoder: Encoder
    read_pixels: Callable[[int], NDArray[np.float32]]
    classes: NDArray[np.float32]
    temperature: float
    batch_size: int
    structures: StructureReader | None = None
    spread: SpreadHypotheses | None = None

    @cached_property
    def read(self) -> Callable[[int], NDArray[np.float32]]:
        """Reader of preprocessed films (3, S, S), read-only; a limited number of them is held."""
        bytes_each = 3 * 4 * self.encoder.info.image_size**2

        @lru_cache(maxsize=max(1, min(_HELD_FILMS, _HELD_BYTES // bytes_each)))
        def read(film: int) -> NDArray[np.float32]:
            picture: NDArray[np.float32] = self.encoder.preprocess(self.read_pixels(film)).numpy()
            picture.flags.writeable = False
            return picture

        return read


@dataclass(frozen=True, slots=True, eq=False)
class Hypothesis:
    """A feature cluster and what is settled about it before the test.

    Attributes
    ----------
    discovery : ndarray of shape (N,), bool - films of the half that it was chosen on; the others
        are the confirmation half
    relevant : RelevantPlaces or None - where the raised class shows; None when it is not known
    """

    cluster: FeatureCluster
    discovery: NDArray[np.bool_]
    relevant: RelevantPlaces | None = None


def class_margin(
    logits: NDArray[np.floating],
    raised: int | NDArray[np.int64],
    opposed: int | NDArray[np.int64] | None,
) -> NDArray[np.float64]:
    """Return the logit of one class minus that of another, row by row.

    Without an opposed class the largest other logit stands for it: the margin of the decision,
    positive where the raised class wins. The largest is sought again after each intervention. To
    keep the class that was largest before would favour it: it was chosen for a high value, which
    falls back by itself.

    Parameters
    ----------
    logits : ndarray of shape (n, C)
    raised : int, or ndarray of shape (n,), int64
    opposed : int, or ndarray of shape (n,), int64, or None

    Returns
    -------
    ndarray of shape (n,), float64
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
    probe: CounterfactualModel,
    hypothesis: Hypothesis,
    images: AuditData,
    rules: CounterfactualRules,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Counterfactual:
    """Test whether the model uses the feature of a cluster, and find the regions that carry it."""
    steps = _Steps(progress)
    raised, lowered = hypothesis.cluster.raised_class, hypothesis.cluster.lowered_class
    inputs = prepare_inputs(probe, raised, lowered, images, steps.tick)
    plan = partial(plan_transplants, inputs, hypothesis.cluster, hypothesis.discovery, rules)
    planned = plan(np.random.default_rng([rules.seed, 0]))
    later = 3 * len(planned) + most_fit_pictures(rules.max_fitted)
    later += most_share_pictures(len(hypothesis.cluster.regions))
    # Without a transplant nothing says that what is half a step aside belongs to the feature.
    movable = len(planned) >= rules.min_pairs
    removal, shifts = _measure_removal(inputs, hypothesis, rules, steps, later, movable=movable)
    planned = plan(np.random.default_rng([rules.seed, 0]), shifts)
    transplant = None
    if len(planned) >= rules.min_pairs:
        transplant = compare_transplants(inputs, planned, rules)
    reasons = (
        *_removal_objections(removal, rules),
        *_transplant_objections(transplant, rules),
    )
    used = (
        removal.median is not None
        and removal.median.interval.low > 0
        and removal.inpainted is not None
        and removal.inpainted.contrast > 0
        and min(removal.median.change, removal.inpainted.change) > 0
        and removal.size >= rules.min_effect
        and (transplant is None or transplant.interval.low > 0)
    )
    if used:
        located = _fit_carriers(inputs, hypothesis.cluster, removal, probe, rules.max_fitted)
        removal = replace(removal, located=located)
        removal = replace(
            removal, shares=_share_effect(inputs, hypothesis, removal, probe.structures)
        )
    steps.finish()
    return Counterfactual(removal, transplant, used, () if used else reasons)


def _fit_carriers(
    inputs: ModelInputs,
    cluster: FeatureCluster,
    removal: Removal,
    probe: CounterfactualModel,
    count: int,
) -> NDArray[np.float32]:
    """Fit the places of the carrying regions with the largest effects; return all places (n, 4)."""
    assert removal.located is not None  # it was measured
    located = removal.located.copy()
    ranked = np.argsort(-np.where(removal.carries, removal.effect, -np.inf), kind="stable")
    chosen = ranked[: min(count, int(removal.carries.sum()))]
    films = inputs.data.region_image[cluster.regions[chosen]]
    located[chosen] = fit_boxes(inputs, films, located[chosen], probe.encoder.info.image_size)
    return located


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
    probe: CounterfactualModel,
    raised_class: int,
    lowered_class: int | None,
    images: AuditData,
    tick: Callable[[int], None] = lambda count: None,
) -> ModelInputs:
    """Put films and model on the bench, asking for the margin of a class against another.

    Parameters
    ----------
    lowered_class : int or None - see `class_margin`
    tick : callable - called with the number of pictures that were asked
    """

    def margins_of(pictures: Iterable[NDArray[np.float32]]) -> Margins:
        margins, decisions = [np.empty(0)], [np.empty(0, dtype=np.bool_)]
        stream = iter(pictures)
        while batch := list(islice(stream, probe.batch_size)):
            embedded = probe.encoder.encode_image(torch.from_numpy(np.stack(batch)))
            logits = embedded.float().cpu().numpy() @ probe.classes.T / probe.temperature
            margins.append(class_margin(logits, raised_class, lowered_class))
            decisions.append(logits.argmax(axis=1) == raised_class)
            tick(len(batch))
        return Margins(np.concatenate(margins), np.concatenate(decisions))

    return ModelInputs(images, probe.read, probe.encoder.geometry, margins_of, tick)


def _measure_removal(
    inputs: ModelInputs,
    hypothesis: Hypothesis,
    rules: CounterfactualRules,
    steps: _Steps,
    later: int,
    *,
    movable: bool,
) -> tuple[Removal, NDArray[np.float64]]:
    """Fill the regions of a sample of films, test those with a control; return the shifts too.

    `later` is the number of steps that follow after removal; `movable` regions may be filled half a
    step aside.
    """
    cluster, images = hypothesis.cluster, inputs.data
    rng = np.random.default_rng([rules.seed, 1])
    films, testable = sample_films(inputs, cluster, hypothesis.discovery, rules, rng)
    film_of_region = images.region_image[cluster.regions]
    rows = {int(film): np.flatnonzero(film_of_region == film) for film in films}
    regions = {film: cluster.regions[own] for film, own in rows.items()}
    found = [film for film in rows if hypothesis.discovery[film]]
    explored = found[:EXPLORED_FILMS] if movable else []
    tested = len(testable) >= rules.min_pairs
    # At most: a second place is filled only where the first films show that it is worth it.
    steps.total = later + sum(1 + 2 * len(SHIFTS) * len(rows[film]) for film in explored)
    steps.total += sum(1 + 4 * len(own) for own in rows.values())
    if tested:
        steps.total += sum(CANDIDATES + 1 + 4 * len(rows[int(film)]) for film in testable)
    shifts = choose_shifts(inputs, explored, regions)
    places = {f: move_shares(inputs.shares(own), shifts) for f, own in regions.items()}
    filled = fill_films(inputs, [(f, inputs.place(f, own)) for f, own in places.items()])
    effect, located = _locate(inputs, filled, rows, len(shifts), len(cluster.regions))
    threshold = carrying_threshold([f for f in filled if hypothesis.discovery[f.film]])
    carries = np.isfinite(effect) & (effect > 0) & (effect >= threshold)
    pairs: list[FilmPair] = []
    if tested:
        asked = {int(film): places[int(film)] for film in testable}
        pairs = match_controls(inputs, cluster, hypothesis.discovery, asked, rng)
    median = inpainted = None
    spread = float("nan")
    if tested and len(pairs) >= rules.min_pairs:
        by_film = {film.film: film for film in filled}
        mine = [by_film[pair.film] for pair in pairs]
        median, inpainted, spread = compare_removals(inputs, pairs, mine, rules)
    ratios = [pair.contrast_ratio for pair in pairs]
    removal = Removal(
        effect=effect,
        carries=carries,
        threshold=threshold,
        median=median,
        inpainted=inpainted,
        contrast_ratio=float(np.median(ratios)) if median is not None else float("nan"),
        spread=spread,
        located=located,
    )
    return removal, shifts


def _locate(
    inputs: ModelInputs,
    filled: Sequence[FilledFilm],
    rows: Mapping[int, NDArray[np.int64]],
    shifts: int,
    regions: int,
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Largest effect (n,) of each region over its places, and that place (n, 4), stored pixels."""
    effect = np.full(regions, np.nan)
    located = np.full((regions, 4), np.nan, dtype=np.float32)
    for film in filled:
        own = rows[film.film]
        of_each = film.effect.reshape(shifts, len(own))
        boxes = film.boxes.reshape(shifts, len(own), 4)
        best = of_each.argmax(axis=0), np.arange(len(own))
        effect[own] = of_each[best]
        located[own] = inputs.carry_back(film.film, boxes[best])
    return effect, located


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


def _removal_objections(removal: Removal, rules: CounterfactualRules) -> Iterator[str]:
    if removal.median is None or removal.inpainted is None:
        yield (
            f"Removal could not be tried: fewer than {rules.min_pairs} films of the confirmation "
            "half could be paired with a film of their class without the feature "
            "(evidence.min_pairs)."
        )
        return
    if not removal.median.interval.low > 0:
        yield (
            "Filling the regions in does not lower the margin beyond what it does to control films."
        )
    if not min(removal.median.change, removal.inpainted.change) > 0:
        yield "The margin of films with the feature does not fall when it is removed."
    if not removal.size >= rules.min_effect:
        yield (
            f"Removal moves the margin by less than {100 * rules.min_effect:g} % of its standard "
            "deviation, too little to matter (evidence.min_effect)."
        )
    if not removal.inpainted.contrast > 0:
        yield "Inpainting the regions does not lower the margin more than in control films."


def _transplant_objections(
    transplant: PairedChange | None, rules: CounterfactualRules
) -> Iterator[str]:
    if transplant is None:
        yield (
            f"Transplant could not be tried: fewer than {rules.min_pairs} films of other classes "
            "could be given the feature and an ordinary region (evidence.min_pairs)."
        )
    elif not transplant.interval.low > 0:
        yield (
            "Blending the feature into films of other classes does not raise the margin beyond "
            "what ordinary regions do."
        )
