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
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.audit import DiscoveryConfig, EvidenceConfig, GateConfig
from ravl_med.discovery.candidates import (
    Discovery,
    EffectFeature,
    FeatureCluster,
    discover_correlations,
    measure_effect_feature,
    propose_from_effects,
)
from ravl_med.discovery.clusters import FeatureClusters
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.audit_result import Sensitivity
from ravl_med.evidence.confirmation import (
    Candidate,
    confirm_candidates,
    count_untested,
    split_patients,
)
from ravl_med.evidence.counterfactual import (
    CounterfactualModel,
    Hypothesis,
    measure_counterfactual,
    prepare_inputs,
)
from ravl_med.evidence.counterfactual.effect_maps import (
    map_effects,
    region_effects,
    sample_for_maps,
)
from ravl_med.evidence.counterfactual.localisation import RelevanceTable
from ravl_med.evidence.duplicates import (
    Tested,
    fold_candidates,
    fold_counting,
    fold_tested,
    name_confounded,
)
from ravl_med.evidence.label_quality import measure_label_quality
from ravl_med.evidence.power import design_of, measure_sensitivity
from ravl_med.evidence.results import ArmPatients, Counterfactual, SpuriousCorrelation
from ravl_med.evidence.statistics import PatientBootstrap, count_patients
from ravl_med.evidence.subgroups import cross_with_attributes
from ravl_med.evidence.verdict import assess_correlation

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

    def measure(
        self, data: AuditData, films: NDArray[np.bool_], first: int, min_films: int
    ) -> list[FeatureCluster]:
        """Measure each feature on some films (N,), numbered from `first` on."""
        return [
            measure_effect_feature(feature, number, data, self.embeddings, films, min_films)
            for number, feature in enumerate(self.features, first)
        ]


def propose_features(
    data: AuditData,
    embeddings: NDArray[np.float32],  # (R, D)
    model: CounterfactualModel,
    evidence: EvidenceConfig,
    progress: Progress,
) -> ProposedFeatures:
    """Map effects on films of the discovery half, and group the regions that have them."""
    half = split_patients(data.patients, data.labels, evidence.discovery_share, evidence.seed)
    films = sample_for_maps(data, half, evidence.effect_films, evidence.seed)
    if not len(films):
        return ProposedFeatures((), embeddings)
    size = model.encoder.info.image_size
    maps = map_effects(model.read, model.logits, films, size, partial(progress, "map effects"))
    starts = np.searchsorted(data.region_image, films)
    ends = np.searchsorted(data.region_image, films, side="right")
    rows = [np.arange(a, b) for a, b in zip(starts, ends, strict=True)]
    effects = region_effects(prepare_inputs(model, 0, None, data), maps, rows)
    return ProposedFeatures(
        tuple(propose_from_effects(embeddings, effects, evidence.seed)), embeddings
    )


def min_strength_of(discovery: DiscoveryConfig) -> float:
    """Return the strength from which a candidate is tested; the paper tests what it finds."""
    return -math.inf if discovery.protocol == "paper" else discovery.min_strength


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

    `proposed` are features that effects proposed on the same half; they join the clusters.

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
    found = found_on(half)
    candidates = [Candidate(cluster, ~half) for cluster in found.candidates]
    if proposed is not None:
        measured = proposed.measure(data, half, len(clusters), evidence.min_n_on_half)
        candidates += [Candidate(cluster, ~half) for cluster in measured]
    if evidence.cross_fit:
        candidates += [Candidate(c, half, swapped=True) for c in found_on(~half).candidates]
    folded = fold_candidates(candidates)
    also = {(c.cluster.cluster, c.swapped): others for c, others in folded}
    least = min_strength_of(discovery)
    confirmed = confirm_candidates(
        data,
        [candidate for candidate, _ in folded],
        evidence,
        least,
        partial(progress, "confirm on held-out patients"),
    )
    tested = fold_tested(
        [(c, outcome, also[c.cluster.cluster, c.swapped]) for c, outcome in confirmed]
    )
    return Examination(
        half=half,
        discovery=found,
        candidates=sum(c.cluster.strength >= least for c, _ in folded),
        tested=tuple(tested),
        clusters=len(clusters),
        untested=count_untested(data, present, half, evidence.min_n_on_half),
    )


def choose_for_intervention(tested: Sequence[Tested], most: int) -> list[Tested]:
    """Choose the correlations that counterfactuals test, at most so many of those that hold.

    They come by p, ascending. Those that pass RaVL's filters and those that it drops take turns. In
    a small cohort what is merely confounded fills the top of either list: regions that lead no
    prediction push a device out that leads nine in ten, and the other way round where a device is
    rarely the strongest region. What effects have proposed is tested whatever its gaps, and beside
    the others: a weak shortcut shows in what removal does before it shows in accuracy.
    """
    effects = [entry for entry in tested if _by_effects(entry)]
    standing = [entry for entry in tested if _holds(entry) and not _by_effects(entry)]
    turns = [
        [entry for entry in standing if entry[0].cluster.rare is dropped]
        for dropped in (False, True)
    ]
    by_gaps = [entry for pair in zip_longest(*turns) for entry in pair if entry is not None]
    return [*by_gaps[:most], *effects]


def _by_effects(entry: Tested) -> bool:
    return entry[0].cluster.source == "effects"


def _holds(entry: Tested) -> bool:
    return entry[1].status in ("confirmed", "raised_only")


def assess_correlations(
    data: AuditData,
    examination: Examination,
    model: CounterfactualModel | None,
    relevance: RelevanceTable,
    evidence: EvidenceConfig,
    gate: GateConfig,
    progress: Progress,
) -> tuple[SpuriousCorrelation, ...]:
    """Test what was confirmed by counterfactuals, cross it with attributes, and rank everything.

    The model is None where only its scores are known.
    """
    standing = choose_for_intervention(examination.tested, evidence.max_correlations)
    bootstrap = PatientBootstrap(data.patients, evidence.draws, evidence.seed)
    counterfactuals: Sequence[Counterfactual | None] = [None] * len(standing)
    if model is not None:
        hypotheses = [
            Hypothesis(
                candidate.cluster,
                ~candidate.films,
                relevance.find(data.classes[candidate.cluster.raised_class]),
                len(standing),
            )
            for candidate, _, _ in standing
        ]
        counterfactuals = _measure_counterfactuals(model, hypotheses, data, evidence, progress)
    measured = {id(entry[0]): one for entry, one in zip(standing, counterfactuals, strict=True)}
    assessed = []
    for entry in examination.tested:
        candidate, confirmation, also = entry
        strata = labels = None
        if id(candidate) in measured:
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
        one = assess_correlation(
            candidate.cluster,
            confirmation,
            measured.get(id(candidate)),
            strata,
            also,
            evidence,
            gate,
            black_box=model is None,
        )
        patients = _count_patients(data, candidate)
        assessed.append(replace(one, found_patients=patients, labels=labels))
    ranked = fold_counting(assessed, data, gate.max_gap)
    return name_confounded(ranked, data, gate.max_gap)


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
        stage = f"remove and transplant, correlation {number} of {len(hypotheses)}"
        done.append(
            measure_counterfactual(model, hypothesis, data, evidence, partial(progress, stage))
        )
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
    """Measure what these films could have shown, through the same procedure."""
    return measure_sensitivity(
        design_of(data, examination.half),
        evidence,
        min_strength=min_strength_of(discovery),
        candidates=examination.candidates,
        clusters=examination.clusters,
        untested=examination.untested,
        progress=partial(progress, "simulate what could be seen"),
    )
