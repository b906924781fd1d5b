"""Counterfactuals: whether the model uses a feature, or the feature is only confounded with one.

A feature that the model uses lowers the margin of the raised class when it is removed, or raises it
when it is put into other films, each time against a control that is treated the same way. What is
tested, donors and thresholds are chosen in the effect maps of the half of the patients that the
candidate was found on; tests are made on the other half.

One joint test, a union: H0 is that neither intervention moves the margin by more than
``min_effect`` of its spread, by itself and beyond its control. Its p is twice the smaller of the
two one-sided p (Bonferroni over both interventions), and Benjamini-Hochberg holds the false
discovery rate over all features that are tested at ``fdr``; where H0 holds of all of them, the
probability that any is called used is at most ``fdr``. A conjunction of the two would let weak
shortcuts through: each intervention has its own way to be weak.

The margin is taken against the class that the correlation lowers most, not against all others: a
piece of lung may look like a consolidation to a model however it is filled, and says nothing about
a feature that moves films from "no finding" to "cardiomegaly". Only where no lowered class is known
it is the margin of the decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, norm

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.ravl import AuditData
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.zero_shot import class_logits
from ravl_med.errors import DataError
from ravl_med.evidence.counterfactual.effect_maps import Exploration, effects_over
from ravl_med.evidence.counterfactual.fills import Interpolation, LikePlaces
from ravl_med.evidence.counterfactual.interventions import (
    PLACES,
    FilledFilm,
    FilledPairs,
    FilmPairs,
    compare_transplants,
    compare_wrong_calls,
    fill_pairs,
    pair_films,
    rows_by_film,
    share_called,
)
from ravl_med.evidence.counterfactual.localisation import (
    RelevantPlaces,
    StructureReader,
    fit_boxes,
    most_fit_pictures,
    most_share_pictures,
    share_effect,
)
from ravl_med.evidence.counterfactual.model_inputs import (
    Margins,
    ModelInputs,
    class_margin,
    compare_pairs,
)
from ravl_med.evidence.results import (
    Check,
    Counterfactual,
    EffectShares,
    Interval,
    PairedChange,
    Removal,
    failed_reasons,
)
from ravl_med.evidence.statistics import share_interval

_NOT_FINITE = (
    "The model gives NaN or infinity for films of which a place is filled, expected finite numbers "
    "as for the films themselves. Check the weights, and the precision on this device "
    "(model.precision)."
)
_HELD_FILMS = 1024
_HELD_BYTES = 256 * 2**20
_LEAST_P = 1e-300  # where nothing varies p is 0, and q / p says nothing

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
    # (N, C) logits of every film as it was audited; None: the model is asked again
    audited: NDArray[np.float32] | None = None
    # hypotheses to counterfactuals, one by one and in order, by workers; None: this process makes
    # them
    spread: SpreadHypotheses | None = None
    seed: int = 0  # of the films that places are filled from
    _like: list[tuple[NDArray[np.int64], LikePlaces]] = field(default_factory=list, init=False)

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

    def like_places(self, data: AuditData) -> LikePlaces:
        """Return what fills places of films; kept, since all tests of a cohort share it."""
        if not self._like or self._like[0][0] is not data.patients:
            sizes = np.unique(data.sizes, axis=0, return_inverse=True)
            whole = [
                self.encoder.geometry(height, width).to_input(
                    np.array([[0, 0, width, height]], dtype=np.float32)
                )[0]
                for height, width in sizes[0].tolist()
            ]
            frames = np.array(whole, dtype=np.float32)[sizes[1].ravel()]
            self._like[:] = [
                (data.patients, LikePlaces(self.read, data.patients, frames, self.seed))
            ]
        return self._like[0][1]

    def batches(self, pictures: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Give the logits (b, C) of pictures (3, S, S) batch by batch; a generator needs little."""
        stream = iter(pictures)
        while batch := list(islice(stream, self.batch_size)):
            images = torch.from_numpy(np.stack(batch))
            yield class_logits(self.encoder, images, self.classes, self.temperature)

    def finite_batches(
        self, pictures: Iterable[NDArray[np.float32]]
    ) -> Iterator[NDArray[np.float32]]:
        """Give the logits of pictures of which a place is filled; see `batches`.

        Raises
        ------
        DataError
            The model gives NaN or infinity.
        """
        for logits in self.batches(pictures):
            if not np.isfinite(logits).all():
                raise DataError(_NOT_FINITE)
            yield logits

    def known_logits(self, films: int) -> NDArray[np.float32]:
        """Return the logits (n, C) of the first so many films as they are."""
        return (
            self.audited if self.audited is not None else self.logits(map(self.read, range(films)))
        )

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
    # (N,) films that hold no feature of this claim: controls, and films that it is put into
    bare: NDArray[np.bool_]
    explored: Exploration  # on the discovery half
    # where the raised class shows; None when it is not known
    relevant: RelevantPlaces | None = None
    # share of wrong calls from which a feature does harm that no gap has shown; 0: one has. What
    # does none, and changes no answers as a thing would, is not located
    least_harm: float = 0.0


def measure_counterfactual(
    model: CounterfactualModel,
    hypothesis: Hypothesis,
    data: AuditData,
    evidence: EvidenceConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Counterfactual:
    """Test whether the model uses the feature of a cluster, and find the regions that carry it."""
    steps = _Steps(progress)
    cluster, explored = hypothesis.cluster, hypothesis.explored
    steps.total = most_test_pictures(evidence) + most_share_pictures(len(cluster.regions))
    inputs = prepare_inputs(model, cluster.raised_class, cluster.lowered_class, data, steps.tick)
    removal = _measure_removal(inputs, hypothesis, evidence)
    held, least = ~hypothesis.discovery, evidence.min_effect * removal.spread
    rngs = [np.random.default_rng([evidence.seed, step]) for step in (0, 2)]
    donors, windows = explored.donors, explored.windows
    aims = held & hypothesis.bare
    transplant = compare_transplants(inputs, cluster, donors, aims, evidence, least, rngs[0])
    tested = Counterfactual(removal, transplant, False, ())
    p = joint_p_value(tested, evidence)
    at_best = _decide(replace(tested, p_value=p), p, evidence)  # q is not known, and never smaller
    wrong_calls = compare_wrong_calls(inputs, cluster, windows, held, evidence, least, rngs[1])
    if at_best.used or wrong_calls is not None:  # else the maps say more of what it may cost
        called = share_called(data, cluster, held)
        removal = replace(removal, wrong_calls=wrong_calls, called=called)
    harmful = not hypothesis.least_harm or removal.undoes(hypothesis.least_harm)
    harmful |= at_best.travels and (at_best.changed_answers > 0 or removal.undoes(0.0))
    if at_best.used and harmful:
        boxes = _fit_carriers(inputs, cluster, removal, model, evidence.max_fitted)
        removal = replace(removal, located=boxes)
    if at_best.used and (harmful or at_best.travels):  # that may count for the harm of its lack
        shares = _share_effect(inputs, hypothesis, removal, model.structures, evidence)
        removal = replace(removal, shares=shares)
    steps.finish()
    return replace(tested, removal=removal, p_value=p)


def joint_p_value(tested: Counterfactual, evidence: EvidenceConfig) -> float:
    """Return the p of: neither intervention moves the margin by enough."""
    return min(1.0, 2.0 * min(_p_values(tested, evidence).values()))


def _p_values(tested: Counterfactual, evidence: EvidenceConfig) -> dict[str, float]:
    """Return the p of each intervention; 1 where it was not tried, or its fills disagree."""
    removal, transplant = tested.removal, tested.transplant
    agree = removal.both is not None and fills_agree(removal, evidence.fill_agreement)
    return {
        "removal": removal.both.p_value if removal.both is not None and agree else 1.0,
        "transplant": 1.0 if transplant is None else transplant.p_value,
    }


def fills_agree(removal: Removal, most: float) -> bool:
    """Whether both fills lower the margin, and neither by more than so many times the other.

    Each by itself and beyond its control: where a feature is missing, its place has a contrast
    that comes from the controls alone, and the two fills change it differently.
    """
    if removal.typical is None or removal.replaced is None:
        return False
    fills = removal.typical, removal.replaced
    sizes = ([fill.change for fill in fills], [fill.contrast for fill in fills])
    return all(min(own) > 0 and max(own) <= most * min(own) for own in sizes)


def decide_use(
    counterfactuals: Sequence[Counterfactual], evidence: EvidenceConfig
) -> list[Counterfactual]:
    """Decide which features the model uses, at the false discovery rate over all of them."""
    if not counterfactuals:
        return []
    p_values = [max(one.p_value, _LEAST_P) for one in counterfactuals]
    q_values = false_discovery_control(p_values).tolist()
    return [_decide(one, q, evidence) for one, q in zip(counterfactuals, q_values, strict=True)]


def _decide(tested: Counterfactual, q: float, evidence: EvidenceConfig) -> Counterfactual:
    """Decide on one feature by its q; an intervention shows it that would have by itself."""
    weight = 2.0 * q / max(tested.p_value, _LEAST_P)
    p = _p_values(tested, evidence)
    shown_by = tuple(name for name, value in p.items() if weight * value <= evidence.fdr)
    reasons = (
        ()
        if shown_by
        else failed_reasons(
            [
                *_removal_checks(tested.removal, evidence),
                _transplant_check(tested.transplant, evidence),
            ]
        )
    )
    return replace(tested, used=bool(shown_by), shown_by=shown_by, q_value=q, reasons=reasons)


def most_test_pictures(evidence: EvidenceConfig) -> int:
    """Return how many pictures the test of a feature has the model encode, at most.

    What it says of films as they are is known from the audit.
    """
    removal = 2 * evidence.max_pairs * (1 + PLACES)
    transplant = 2 * (evidence.effect_films // 2)  # of each donor, and of its control
    undone = 2 * PLACES * (evidence.max_pairs // 2)
    return removal + transplant + undone + most_fit_pictures(evidence.max_fitted)


def explored_only(
    explored: Exploration, evidence: EvidenceConfig, *, folded: bool
) -> Counterfactual:
    """Return what the maps alone say of a feature: their effect is too small to be tested.

    Such a feature is how the model sees its own answer: regions that look alike to it and go with
    what it says, without holding that up. One that is `folded` has its effect in the place of
    another, which was tested for both.
    """
    reason = (
        "Its effect lies in the same place as that of a feature that was tested for both."
        if folded
        else "An association of the model with its own answer: covering its places on films of the "
        "discovery half moves the margin, beyond films of the same class, by less than the "
        f"smallest effect that is counted: {100 * evidence.min_effect:g} % of its spread "
        "(evidence.min_effect)."
    )
    return Counterfactual(_removal_of(explored), None, False, (reason,), tested=False)


def is_worth_a_test(explored: Exploration, evidence: EvidenceConfig) -> bool:
    """Whether the effect in the maps is above the least that matters, by a standard error or more.

    To be confirmed an effect has to lie above it by about three; of such, one in 40 is passed over
    here, and each test that is spared leaves more power to the others. What too few films were
    mapped of is tested.
    """
    change = explored.change
    if change is None:
        return True
    errors = 2.0 * float(norm.isf((1.0 - evidence.confidence) / 2.0))
    error = (change.interval.high - change.interval.low) / errors
    return not change.contrast - error < evidence.min_effect * explored.spread


def _removal_of(explored: Exploration) -> Removal:
    """Return what the maps of the discovery half say, before the test."""
    seen = np.where(np.isfinite(explored.effect), explored.effect, -np.inf)
    by_film = np.array([seen[own].max() for own in explored.rows.values()])
    by_film = by_film[np.isfinite(by_film)]  # the model may see none of its regions
    threshold = max(0.0, 0.5 * float(np.median(by_film))) if len(by_film) else 0.0
    return Removal(
        effect=explored.effect,
        carries=_carriers(explored.effect, threshold),
        threshold=threshold,
        spread=explored.spread,
        explored=explored.change,
        wrong_calls=explored.wrong_calls,
        called=explored.called,
        located=explored.located,
    )


def _carriers(effect: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Which regions carry the feature, (n,), and not a mere corner of it."""
    carries: NDArray[np.bool_] = np.nan_to_num(effect, nan=-1.0) > 0
    return carries & (np.nan_to_num(effect, nan=-1.0) >= threshold)


def _measure_removal(
    inputs: ModelInputs, hypothesis: Hypothesis, evidence: EvidenceConfig
) -> Removal:
    """Fill the places of films of the confirmation half and of their controls."""
    cluster, explored = hypothesis.cluster, hypothesis.explored
    removal = _removal_of(explored)
    pairs = pair_films(
        inputs,
        cluster,
        hypothesis.bare,
        ~hypothesis.discovery,
        explored.windows,
        evidence.max_pairs,
        np.random.default_rng([evidence.seed, 1]),
    )
    if len(pairs.films) < evidence.min_pairs:
        return removal
    filled = fill_pairs(inputs, pairs, hypothesis.bare)
    removal = _with_effects(inputs, cluster, explored, removal, filled.filled)
    return _compare_fills(removal, inputs, hypothesis, pairs, filled, evidence)


def _compare_fills(
    removal: Removal,
    inputs: ModelInputs,
    hypothesis: Hypothesis,
    pairs: FilmPairs,
    filled: FilledPairs,
    evidence: EvidenceConfig,
) -> Removal:
    """Compare films with controls: by either fill, and by both."""
    patients = inputs.data.patients[pairs.films]
    least = evidence.min_effect * removal.spread

    def compare(fills: list[int]) -> PairedChange:
        of_films, of_controls = (
            tuple(values[:, fills].mean(axis=1) for values in both)
            for both in ((filled.drop, filled.undone), (filled.control_drop, filled.control_undone))
        )
        return compare_pairs(of_films, of_controls, patients, evidence.confidence, least)

    sharper = share_interval(filled.sharper, patients, evidence.confidence)
    return replace(
        removal,
        typical=compare([0]),
        replaced=compare([1]),
        both=compare([0, 1]),
        imbalance=filled.imbalance / max(removal.spread, 1e-9),
        sharper=float(filled.sharper.mean()),
        sharper_interval=Interval(max(sharper.low, 0.0), min(sharper.high, 1.0)),
    )


def _with_effects(
    inputs: ModelInputs,
    cluster: FeatureCluster,
    explored: Exploration,
    removal: Removal,
    filled: Sequence[FilledFilm],
) -> Removal:
    """Add the effects of the regions of the films of the test."""
    films = np.array([film.film for film in filled], dtype=np.int64)
    rows = rows_by_film(cluster, inputs.data.region_image, films)
    windows = explored.windows
    usual = {box.tobytes(): u for box, u in zip(windows.boxes, windows.usual, strict=True)}
    effect, located = explored.effect.copy(), explored.located.copy()
    for film in filled:
        own = rows[film.film]
        drop = film.effect - [usual.get(box.tobytes(), 0.0) for box in film.boxes]
        regions = cluster.regions[own]
        effect[own], located[own] = effects_over(inputs, film.film, regions, film.boxes, drop)
    carries = _carriers(effect, removal.threshold)
    return replace(removal, effect=effect, located=located, carries=carries)


def _removal_checks(removal: Removal, evidence: EvidenceConfig) -> list[Check]:
    """Say why removal does not show that a feature is used."""
    first, second = removal.typical, removal.replaced
    if first is None or second is None:
        reason = (
            f"Removal could not be tried: fewer than {evidence.min_pairs} films of the "
            "confirmation half could be paired with a film without the feature "
            "(evidence.min_pairs)."
        )
        return [Check(False, reason)]
    least = evidence.min_effect * removal.spread
    shows = max(first.contrast, second.contrast) > least  # else there is nothing to agree on
    if shows and not fills_agree(removal, evidence.fill_agreement):
        reason = (
            "Removal: the two fills disagree, or one of them does not lower the score "
            "(evidence.fill_agreement)."
        )
        return [Check(False, reason)]
    reason = (
        "Removing it is not shown to lower the score, beyond control films, by more than "
        f"{100 * evidence.min_effect:g} % of its spread, the smallest effect that counts "
        "(evidence.min_effect)."
    )
    return [Check(False, reason)]


def _transplant_check(transplant: PairedChange | None, evidence: EvidenceConfig) -> Check:
    """Say why transplant does not show that a feature is used."""
    reason = (
        f"Transplant could not be tried: fewer than {evidence.min_pairs} films of other "
        "classes could be given the feature and an ordinary place (evidence.min_pairs)."
        if transplant is None
        else "Putting it into films of other classes is not shown to raise the score by more than "
        f"{100 * evidence.min_effect:g} % of its spread (evidence.min_effect)."
    )
    return Check(False, reason)


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
    like: Interpolation | None = None,
) -> ModelInputs:
    """Return films as the model sees them, with the margin of a class against another.

    `tick` is called with the number of pictures that were encoded; `like` fills places, the
    model's own way if it is None.
    """

    def margins(pictures: Iterable[NDArray[np.float32]]) -> Margins:
        margin, decided = [np.empty(0)], [np.empty(0, dtype=np.bool_)]
        for logits in model.finite_batches(pictures):
            margin.append(class_margin(logits, raised_class, lowered_class))
            decided.append(logits.argmax(axis=1) == raised_class)
            tick(len(logits))
        return Margins(np.concatenate(margin), np.concatenate(decided))

    def untouched(films: NDArray[np.int64]) -> Margins:
        if model.audited is None:
            return margins(map(model.read, films.tolist()))
        logits = model.audited[films]
        decided = logits.argmax(axis=1) == raised_class
        return Margins(class_margin(logits, raised_class, lowered_class), decided)

    fills = like or model.like_places(data)
    return ModelInputs(data, model.read, model.encoder.geometry, margins, untouched, fills, tick)


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
    evidence: EvidenceConfig,
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
        evidence.confidence,
    )
