"""From proposed clusters to ranked correlations: every test, in order.

Candidates are chosen on the discovery half of the patients and confirmed on the other; what is
confirmed is tested by counterfactuals and crossed with the attributes of the films; and what the
films could have shown is measured by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.audit import DiscoveryConfig, EvidenceConfig, GateConfig
from ravl_med.discovery.candidates import (
    ANYWHERE,
    Discovery,
    FeatureCluster,
    Texture,
    discover_correlations,
    places_of,
)
from ravl_med.discovery.clusters import FeatureClusters
from ravl_med.discovery.effect_features import (
    EffectFeature,
    find_films_like,
    measure_effect_feature,
    propose_at_places,
    propose_from_effects,
    propose_from_margins,
)
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.audit_result import LocalEffectBound, Sensitivity
from ravl_med.evidence.confirmation import (
    Candidate,
    confirm_candidates,
    count_untested,
    list_unconfirmed,
    split_patients,
)
from ravl_med.evidence.counterfactual import (
    CounterfactualModel,
    Hypothesis,
    decide_use,
    explored_only,
    is_worth_a_test,
    measure_counterfactual,
    prepare_inputs,
)
from ravl_med.evidence.counterfactual.effect_maps import (
    SMALLEST_WINDOW,
    EffectMaps,
    Exploration,
    explore_feature,
    map_effects,
    region_effects,
    sample_for_maps,
    window_side,
)
from ravl_med.evidence.counterfactual.localisation import RelevanceTable
from ravl_med.evidence.duplicates import (
    Tested,
    fold_candidates,
    fold_counting,
    fold_places,
    fold_tested,
    name_confounded,
)
from ravl_med.evidence.label_quality import measure_label_quality
from ravl_med.evidence.model_checks import class_scores
from ravl_med.evidence.power import bound_local_effects, design_of, measure_sensitivity
from ravl_med.evidence.results import ArmPatients, Counterfactual, SpuriousCorrelation
from ravl_med.evidence.statistics import PatientBootstrap, count_patients
from ravl_med.evidence.subgroups import cross_with_attributes
from ravl_med.evidence.verdict import assess_correlation, gaps_below_gate
from ravl_med.regions.looks import TEXTURES
from ravl_med.storage.mapped_arrays import empty_rows, take_rows

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    """Candidates and what became of them on patients that did not choose them."""

    half: NDArray[np.bool_]  # (N,) the discovery half
    discovery: Discovery  # on the discovery half
    # carried into confirmation, of both directions with cross-fitting, each set of regions once;
    # what lies within noise where it was chosen is listed and not carried
    candidates: int
    tested: tuple[Tested, ...]
    clusters: int
    untested: Mapping[str, int]  # of proposed clusters that no test could reach


@dataclass(frozen=True, slots=True, eq=False)
class ProposedFeatures:
    """What effects propose, and the embeddings that it is looked for in."""

    features: tuple[EffectFeature, ...]
    embeddings: NDArray[np.float32]  # (R, D) of all regions
    texture: Texture  # of any of them

    def measure(
        self, data: AuditData, films: NDArray[np.bool_], first: int, min_films: int
    ) -> list[FeatureCluster]:
        """Measure each feature on some films (N,), numbered from `first` on."""
        places = [feature.place for feature in self.features if feature.place != ANYWHERE]
        if places:  # of all features at once: each film is read once
            self.texture(np.flatnonzero(np.isin(places_of(data.region_shares()), places)))
        known = data, self.embeddings, self.texture, films, min_films
        numbered = enumerate(self.features, first)
        return [measure_effect_feature(one, number, *known) for number, one in numbered]


class _KnownTextures:
    """Textures of R regions that are measured when they are first asked for."""

    def __init__(self, measure: Texture, regions: int) -> None:
        self._measure, self._known = measure, np.zeros(regions, dtype=np.bool_)
        self._values = empty_rows((regions, TEXTURES), np.float32)

    def __call__(self, regions: NDArray[np.int64]) -> NDArray[np.float32]:
        new = regions[~self._known[regions]]
        if len(new):
            self._values[new], self._known[new] = self._measure(new), True
        return take_rows(self._values, regions)


def map_films(
    data: AuditData, model: CounterfactualModel, evidence: EvidenceConfig, progress: Progress
) -> dict[bool, EffectMaps]:
    """Map effects on films of the discovery half; with cross-fitting, of the other (True) too."""
    half = split_patients(data.patients, data.labels, evidence.discovery_share, evidence.seed)
    size, maps = model.encoder.info.image_size, {}
    for swapped in (False, True) if evidence.cross_fit else (False,):
        films = sample_for_maps(data, half ^ swapped, evidence.effect_films, evidence.seed)
        if len(films):
            maps[swapped] = map_effects(
                model.read,
                model.like_places(data).fill,
                lambda pictures: np.concatenate(list(model.finite_batches(pictures))),
                films,
                size,
                window_side(data.region_shares()),
                partial(progress, "map effects"),
            )
    return maps


def propose_features(
    data: AuditData,
    embeddings: NDArray[np.float32],  # (R, D)
    model: CounterfactualModel,
    maps: EffectMaps,
    evidence: EvidenceConfig,
) -> ProposedFeatures:
    """Group the regions of mapped films that hold up a class into features.

    Of those that say the same of the same places the surest stays.
    """
    starts = np.searchsorted(data.region_image, maps.films)
    ends = np.searchsorted(data.region_image, maps.films, side="right")
    rows = [np.arange(a, b) for a, b in zip(starts, ends, strict=True)]
    inputs = prepare_inputs(model, 0, None, data)
    effects = region_effects(inputs, maps, rows)
    half = split_patients(data.patients, data.labels, evidence.discovery_share, evidence.seed)
    texture = _KnownTextures(inputs.texture, len(data.region_image))
    features = [
        *propose_from_effects(embeddings, effects, evidence.seed),
        *propose_at_places(embeddings, effects, data.patients, texture, evidence.seed),
    ]
    if maps.side > SMALLEST_WINDOW:  # what is a part of one of many regions is lost in their mean
        margins = class_scores(model.known_logits(len(data.labels)), 1.0)
        features += propose_from_margins(embeddings, data, margins, half, evidence.seed)
    every = ProposedFeatures(tuple(features), embeddings, texture)
    clusters = every.measure(data, half, 0, evidence.min_n_on_half)
    explored = [_explore(model, maps, cluster, half, data, evidence) for cluster in clusters]
    worth = [is_worth_a_test(one, evidence) for one in explored]
    raised = [feature.raised_class for feature in features]
    host = fold_places(list(zip(raised, explored, strict=True)), worth)
    kept = (feature for at, feature in enumerate(features) if worth[at] and host[at] == at)
    return replace(every, features=tuple(kept))


def min_strength_of(discovery: DiscoveryConfig) -> float:
    """Return the strength from which a candidate is tested; the paper tests what it finds."""
    return discovery.min_strength if discovery.protocol == "pooled" else -math.inf


def confirm_correlations(
    data: AuditData,
    clusters: FeatureClusters,
    discovery: DiscoveryConfig,
    evidence: EvidenceConfig,
    gate: GateConfig,
    progress: Progress,
    proposed: ProposedFeatures | None = None,
) -> Examination:
    """Choose candidates on one half of the patients and test them on the other.

    `proposed` are features that effects proposed on the same half; they join the clusters. Plain
    RaVL chooses on all films and confirms nothing.

    Raises
    ------
    DataError
        When no film has two regions.
    """
    half = split_patients(data.patients, data.labels, evidence.discovery_share, evidence.seed)
    present = clusters.presence(data.region_image, len(data.labels))
    found_on = partial(
        discover_correlations,
        data,
        clusters,
        present,
        config=discovery,
        min_films=evidence.min_n_on_half,
        large_gap=gate.max_gap,
    )
    untested = count_untested(data, present, half, evidence.min_n_on_half)
    if discovery.protocol == "ravl":
        found = found_on(np.ones_like(half))
        listed = tuple((*one, ()) for one in list_unconfirmed(data, found.candidates, evidence))
        return Examination(half, found, len(listed), listed, len(clusters), untested)
    found = found_on(half)
    clustered = discovery.protocol != "pooled" or "clusters" in discovery.propose
    candidates = [Candidate(cluster, ~half) for cluster in found.candidates if clustered]
    if proposed is not None:
        measured = proposed.measure(data, half, len(clusters), evidence.min_n_on_half)
        candidates += [Candidate(cluster, ~half) for cluster in measured]
    if evidence.cross_fit and clustered:
        candidates += [Candidate(c, half, swapped=True) for c in found_on(~half).candidates]
    folded = fold_candidates(candidates)
    also = {(c.cluster.cluster, c.swapped): others for c, others in folded}
    least = min_strength_of(discovery)
    single, own = [candidate for candidate, _ in folded], "confirm on held-out patients"
    confirmed = confirm_candidates(data, single, evidence, least, partial(progress, own))
    tested = fold_tested(
        [(c, outcome, also[c.cluster.cluster, c.swapped]) for c, outcome in confirmed]
    )
    carried = sum(c.cluster.strength >= least for c, _ in folded)
    return Examination(half, found, carried, tuple(tested), len(clusters), untested)


def _holds(entry: Tested) -> bool:
    return entry[1].status in ("confirmed", "raised_only")


def assess_correlations(
    data: AuditData,
    tested: Sequence[Tested],
    tools: InterventionTools | None,
    evidence: EvidenceConfig,
    gate: GateConfig,
    progress: Progress,
) -> tuple[SpuriousCorrelation, ...]:
    """Test what was confirmed by counterfactuals, cross it with attributes, and rank everything.

    What effects have proposed is tested whatever its gaps: a weak shortcut shows in what removal
    does before it shows in accuracy. The tools are None where only the model's scores are known.
    """
    standing = [e for e in tested if _holds(e) or e[0].cluster.source == "effects"]
    counterfactuals: Sequence[Counterfactual | None] = [None] * len(standing)
    tested_for: Mapping[int, int] = {}
    if tools is not None:
        counterfactuals, tested_for = _intervene(tools, standing, data, evidence, gate, progress)
    measured = {id(entry[0]): one for entry, one in zip(standing, counterfactuals, strict=True)}
    bootstrap = PatientBootstrap(data.patients, evidence.draws, evidence.seed)
    assessed, large = [], window_side(data.region_shares()) > SMALLEST_WINDOW
    for entry in tested:
        candidate, confirmation, also = entry
        counterfactual = measured.get(id(candidate))
        strata = labels = None
        if counterfactual.tested if counterfactual is not None else _holds(entry):
            strata = cross_with_attributes(data, candidate.cluster, bootstrap, evidence.confidence)
        if _holds(entry):
            labels = measure_label_quality(
                data,
                candidate,
                confirmation.arms,
                bootstrap=bootstrap,
                min_films=evidence.min_n,
                confidence=evidence.confidence,
            )
        known = candidate.cluster, confirmation, counterfactual, strata, also, evidence, gate
        one = assess_correlation(*known, black_box=tools is None)
        patients = _count_patients(data, candidate)
        if large and counterfactual is not None:  # a whole one holds the sign as well
            carries, alike = counterfactual.removal.carries, candidate.cluster.similarity
            one = replace(one, order=np.lexsort((-alike, ~carries)))
        assessed.append(replace(one, found_patients=patients, labels=labels))
    folded = fold_counting(assessed, data, gate.max_gap, tested_for)
    return name_confounded(folded, data, gate.max_gap)


@dataclass(frozen=True, slots=True, eq=False)
class InterventionTools:
    """What interventions on films need: the model, and what its effect maps say."""

    model: CounterfactualModel
    maps: Mapping[bool, EffectMaps]  # of the discovery half; True: of the other one
    relevance: RelevanceTable
    embeddings: NDArray[np.float32] | None = None  # (R, D), unit norm; None: presence is sure

    def mapped_films(self) -> NDArray[np.int64]:
        """Return the films of the discovery half whose effects were mapped."""
        return self.maps[False].films if False in self.maps else np.empty(0, dtype=np.int64)

    def bound_unnamed(
        self,
        data: AuditData,
        half: NDArray[np.bool_],  # (N,) the discovery half
        correlations: Sequence[SpuriousCorrelation],
    ) -> LocalEffectBound:
        """Bound what a feature may cost that is no sign and neither counts nor is part of one."""
        alone = [c for c in correlations if c.companion_of is None]
        unnamed = [c for c in alone if not c.counts and c.kind != "plausible_sign"]
        logits = self.model.known_logits(len(data.labels))
        return bound_local_effects(data, logits, half, self.mapped_films(), unnamed)


def _intervene(
    tools: InterventionTools,
    standing: Sequence[Tested],
    data: AuditData,
    evidence: EvidenceConfig,
    gate: GateConfig,
    progress: Progress,
) -> tuple[list[Counterfactual | None], dict[int, int]]:
    """Look all features up in the maps; test those with an effect there on held-out patients.

    Features with one raised class whose effect lies in the same place are one claim: `fold_places`
    says which is tested, and speaks for the others. Returned is which does, by cluster.
    """
    if any(candidate.swapped not in tools.maps for candidate, _, _ in standing):
        return [None] * len(standing), {}  # no film could be mapped

    def look(one: Candidate, bare: NDArray[np.bool_] | None = None) -> Exploration:
        maps, films = tools.maps[one.swapped], ~one.films
        return _explore(tools.model, maps, one.cluster, films, data, evidence, bare)

    explored = [look(candidate) for candidate, _, _ in standing]
    worth = [is_worth_a_test(one, evidence) for one in explored]
    raised = [candidate.cluster.raised_class for candidate, _, _ in standing]
    shown = [at for at, entry in enumerate(standing) if _gaps_shown(entry, gate)]
    host = fold_places(list(zip(raised, explored, strict=True)), worth, shown)
    chosen = [at for at in range(len(standing)) if worth[at] and host[at] == at]
    hypotheses = []
    for at in chosen:
        candidate, cluster = standing[at][0], standing[at][0].cluster
        folded = [entry[0] for entry, one in zip(standing, host, strict=True) if one == at]
        bare = _without_claim(candidate, folded, data, tools.embeddings, evidence)
        own, seen = ~candidate.films, look(candidate, bare)
        opposed = [data.classes[one] for one in cluster.opposed_classes]
        relevant = tools.relevance.find(data.classes[cluster.raised_class], opposed)
        least_harm = 0.0 if _gaps_shown(standing[at], gate) else gate.max_gap
        hypotheses.append(Hypothesis(cluster, own, bare, seen, relevant, least_harm))
    done = _measure_counterfactuals(tools.model, hypotheses, data, evidence, progress)
    tested = dict(zip(chosen, decide_use(done, evidence), strict=True))
    clusters = [candidate.cluster.cluster for candidate, _, _ in standing]
    every: list[Counterfactual | None] = [
        tested[at] if at in tested else explored_only(one, evidence, folded=worth[at])
        for at, one in enumerate(explored)
    ]
    return every, {clusters[at]: clusters[other] for at, other in enumerate(host) if other != at}


def _without_claim(
    candidate: Candidate,
    folded: Sequence[Candidate],
    data: AuditData,
    embeddings: NDArray[np.float32] | None,  # (R, D)
    evidence: EvidenceConfig,
) -> NDArray[np.bool_]:
    """Films (N,) that may be controls: without a feature, what is folded into it, or alike."""
    bare: NDArray[np.bool_] = ~np.logical_or.reduce([one.cluster.present for one in folded])
    regions, film = candidate.cluster.regions, data.region_image
    if embeddings is not None and len(regions) and bare.any():
        rng = np.random.default_rng([evidence.seed, 14])
        bare[find_films_like(embeddings, film, regions, np.flatnonzero(bare[film]), rng)] = False
    left = min((bare & half).sum() for half in (candidate.films, ~candidate.films))
    return bare if left >= 2 * evidence.max_pairs else ~candidate.cluster.present


def _gaps_shown(entry: Tested, gate: GateConfig) -> bool:
    """Whether gaps above the gate were confirmed on held-out patients."""
    candidate, confirmation, _ = entry
    confirmed = confirmation.status == "confirmed"
    return confirmed and not gaps_below_gate(candidate.cluster, confirmation, gate)


def _explore(
    model: CounterfactualModel,
    maps: EffectMaps,
    cluster: FeatureCluster,
    films: NDArray[np.bool_],
    data: AuditData,
    evidence: EvidenceConfig,
    bare: NDArray[np.bool_] | None = None,  # (N,) None: all without the feature
) -> Exploration:
    """Look a feature up in the maps of the half (N,) that it was chosen on."""
    inputs = prepare_inputs(model, cluster.raised_class, cluster.lowered_class, data)
    margin = inputs.untouched(np.arange(len(data.labels))).margin
    bare = ~cluster.present if bare is None else bare
    return explore_feature(inputs, maps, cluster, bare, films, margin, evidence)


def _measure_counterfactuals(
    model: CounterfactualModel,
    hypotheses: Sequence[Hypothesis],
    data: AuditData,
    evidence: EvidenceConfig,
    progress: Progress,
) -> list[Counterfactual]:
    """Test hypotheses by counterfactuals, here or by the workers that the model names."""
    done: list[Counterfactual] = []
    if model.spread is not None:
        progress("remove and transplant", 0, len(hypotheses))
        for counterfactual in model.spread(hypotheses, data, evidence):
            done.append(counterfactual)
            progress("remove and transplant", len(done), len(hypotheses))
        return done
    for number, hypothesis in enumerate(hypotheses, 1):
        own = partial(progress, f"remove and transplant, feature {number} of {len(hypotheses)}")
        done.append(measure_counterfactual(model, hypothesis, data, evidence, own))
    return done


def _count_patients(data: AuditData, candidate: Candidate) -> ArmPatients:
    """Count the patients with and without the feature on the half it was chosen on."""
    labels, chosen = data.labels, ~candidate.films
    member = labels[chosen, None] == np.arange(len(data.classes))
    present, patients = candidate.cluster.present[chosen, None], data.patients[chosen]
    return ArmPatients(
        count_patients(member & present, patients), count_patients(member & ~present, patients)
    )


def measure_detectable_gap(
    data: AuditData,
    examination: Examination,
    discovery: DiscoveryConfig,
    evidence: EvidenceConfig,
    progress: Progress,
) -> Sensitivity:
    """Measure which gaps these films could have shown, through the same procedure."""
    return measure_sensitivity(
        design_of(data, examination.half),
        evidence,
        min_strength=min_strength_of(discovery),
        candidates=examination.candidates,
        clusters=examination.clusters,
        untested=examination.untested,
        progress=partial(progress, "simulate what could be seen"),
    )
