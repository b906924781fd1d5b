"""From proposed clusters to weighed correlations: every test, in order.

Candidates are chosen on the discovery half of the patients and confirmed on the other; what is
confirmed is tested by counterfactuals and crossed with the attributes of the films; and what the
films could have shown is measured by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.audit import EvidenceConfig
from ravl_med.config.loading import Config
from ravl_med.discovery.candidates import Discovery, DiscoveryRules, discover_correlations
from ravl_med.discovery.clusters import FeatureClusters
from ravl_med.discovery.ravl import AuditData, AuditedTask
from ravl_med.evidence.audit_result import Sensitivity
from ravl_med.evidence.confirmation import (
    Candidate,
    ConfirmationRules,
    confirm_candidates,
    count_untested,
    split_patients,
)
from ravl_med.evidence.counterfactual import CounterfactualModel, Hypothesis, measure_counterfactual
from ravl_med.evidence.counterfactual.effect_places import RelevanceTable
from ravl_med.evidence.counterfactual.model_inputs import CounterfactualRules
from ravl_med.evidence.duplicates import (
    fold_candidates,
    fold_counting,
    fold_tested,
    name_confounded,
)
from ravl_med.evidence.label_quality import measure_label_quality
from ravl_med.evidence.power import design_of, measure_sensitivity
from ravl_med.evidence.results import (
    ArmPatients,
    Confirmation,
    Counterfactual,
    LabelOrigin,
    LabelQuality,
    SpuriousCorrelation,
    Strata,
)
from ravl_med.evidence.statistics import PatientBootstrap, count_patients
from ravl_med.evidence.subgroups import cross_with_attributes
from ravl_med.evidence.verdict import assess_correlation

Progress = Callable[[str, int, int], None]
Tested = tuple[Candidate, Confirmation, tuple[int, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What is examined.

    Attributes
    ----------
    images : AuditData - the same films
    clusters : FeatureClusters - proposals over all regions
    present : ndarray of shape (N, K), bool - image holds a region of the cluster
    axes : mapping of attribute to ndarray of shape (N,), str
    origin : LabelOrigin or None - of the labels; None where nobody knows it
    """

    task: AuditedTask
    images: AuditData
    clusters: FeatureClusters
    present: NDArray[np.bool_]
    axes: Mapping[str, NDArray[np.str_]]
    origin: LabelOrigin | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    """Candidates and what became of them on patients that did not choose them.

    Attributes
    ----------
    half : ndarray of shape (N,), bool - the discovery half
    discovery : Discovery - on the discovery half
    candidates : int - carried into confirmation, of both directions with cross-fitting, each set of
        regions once; what lies within noise where it was chosen is listed and not carried
    """

    half: NDArray[np.bool_]
    discovery: Discovery
    candidates: int
    tested: tuple[Tested, ...]


def confirmation_rules(config: Config) -> ConfirmationRules:
    """Return the rules of confirmation that a config asks for."""
    evidence = config.evidence
    paper = config.discovery.protocol == "paper"
    return ConfirmationRules(
        min_strength=-math.inf if paper else config.discovery.min_strength,
        fdr=evidence.fdr,
        side_level=evidence.side_level,
        min_gap=evidence.min_gap,
        min_films=math.ceil(evidence.min_n / 2),
        permutations=evidence.permutations,
        confidence=evidence.confidence,
        draws=evidence.draws,
        seed=evidence.seed,
        cross_fit=evidence.cross_fit,
    )


def counterfactual_rules(evidence: EvidenceConfig, *, comparisons: int) -> CounterfactualRules:
    """Return the rules of counterfactuals that a config asks for, for so many correlations."""
    return CounterfactualRules(
        max_removals=evidence.max_removals,
        max_pairs=evidence.max_pairs,
        min_pairs=evidence.min_pairs,
        min_effect=evidence.min_effect,
        max_fitted=evidence.max_fitted,
        confidence=evidence.confidence,
        comparisons=comparisons,
        draws=evidence.draws,
        seed=evidence.seed,
    )


def confirm_correlations(subject: Subject, config: Config, progress: Progress) -> Examination:
    """Choose candidates on one half of the patients and test them on the other.

    Raises
    ------
    DataError
        When no film has two regions.
    """
    task, images, evidence = subject.task, subject.images, config.evidence
    rules = confirmation_rules(config)
    half = split_patients(images.patients, task.labels, evidence.discovery_share, evidence.seed)
    paper = config.discovery.protocol == "paper"
    chosen = DiscoveryRules(
        min_influence=config.discovery.min_influence,
        min_films=rules.min_films,
        large_gap=config.gate.max_gap,
        choice="gap" if paper else "evidence",
        top=1 if paper else None,
    )

    def found_on(films: NDArray[np.bool_]) -> Discovery:
        return discover_correlations(
            subject.clusters, subject.present, images.region_image, task, films, chosen
        )

    discovery = found_on(half)
    candidates = [Candidate(0, cluster, ~half) for cluster in discovery.candidates]
    if evidence.cross_fit:
        candidates += [Candidate(0, c, half, swapped=True) for c in found_on(~half).candidates]
    folded = fold_candidates(candidates)
    also = {(c.cluster.cluster, c.swapped): clusters for c, clusters in folded}
    confirmed = confirm_candidates(
        [task],
        [candidate for candidate, _ in folded],
        images.patients,
        rules,
        lambda done, total: progress("confirm on held-out patients", done, total),
    )
    carried = sum(c.cluster.strength >= rules.min_strength for c, _ in folded)
    tested = fold_tested(
        [(c, outcome, also[c.cluster.cluster, c.swapped]) for c, outcome in confirmed]
    )
    return Examination(half, discovery, carried, tuple(tested))


def choose_for_intervention(tested: Sequence[Tested], most: int) -> list[Tested]:
    """Choose which correlations are tested by counterfactuals, of those that hold.

    Those that pass RaVL's filters and those that it drops take turns, each by p. In a small cohort
    what merely travels along fills the top of either list: regions that lead no prediction push a
    device out that leads nine in ten, and the other way round where a device is rarely the
    strongest region.

    Parameters
    ----------
    tested : sequence of (Candidate, Confirmation, clusters shown as this one) - by p, ascending
    most : int - so many at most
    """
    standing = [entry for entry in tested if entry[1].status in ("confirmed", "raised_only")]
    turns = [
        [entry for entry in standing if entry[0].cluster.rare is dropped]
        for dropped in (False, True)
    ]
    return [entry for pair in zip_longest(*turns) for entry in pair if entry is not None][:most]


def assess_correlations(
    subject: Subject,
    examination: Examination,
    probe: CounterfactualModel | None,
    relevance: RelevanceTable,
    config: Config,
    progress: Progress,
) -> tuple[SpuriousCorrelation, ...]:
    """Test what was confirmed by counterfactuals, cross it with attributes, and rank everything.

    Parameters
    ----------
    probe : CounterfactualModel or None - the model; None where nobody can ask it
    """
    evidence = config.evidence
    standing = choose_for_intervention(examination.tested, evidence.max_correlations)
    bootstrap = PatientBootstrap(subject.images.patients, evidence.draws, evidence.seed)
    rules = counterfactual_rules(evidence, comparisons=max(len(standing), 1))
    measured = _measure_standing(subject, standing, probe, relevance, rules, progress)
    weighed = []
    for candidate, confirmation, also in examination.tested:
        counterfactual: Counterfactual | None = None
        strata: Strata | None = None
        number = next((n for n, e in enumerate(standing, 1) if e[0] is candidate), None)
        if number is not None:
            counterfactual = measured[number - 1]
            strata = cross_with_attributes(
                candidate.cluster.present,
                subject.axes,
                subject.task.labels,
                subject.task.correct,
                candidate.cluster.raised_class,
                candidate.cluster.lowered_class,
                bootstrap=bootstrap,
                confidence=evidence.confidence,
            )
        one = assess_correlation(
            candidate.cluster,
            confirmation,
            counterfactual,
            strata,
            also,
            evidence,
            config.gate,
            black_box=probe is None,
        )
        weighed.append(
            replace(
                one,
                found_patients=_found_patients(subject, candidate),
                labels=_label_quality(subject, candidate, confirmation, bootstrap, evidence),
            )
        )
    task, max_gap = subject.task, config.gate.max_gap
    ranked = fold_counting(weighed, subject.images.region_image, task, max_gap)
    return name_confounded(ranked, task, max_gap)


def _measure_standing(
    subject: Subject,
    standing: Sequence[Tested],
    probe: CounterfactualModel | None,
    relevance: RelevanceTable,
    rules: CounterfactualRules,
    progress: Progress,
) -> list[Counterfactual | None]:
    """Test what holds by counterfactuals, here or by the workers that the probe names."""
    if probe is None:
        return [None] * len(standing)
    hypotheses = [
        Hypothesis(
            candidate.cluster,
            ~candidate.films,
            relevance.find(subject.task.classes[candidate.cluster.raised_class]),
        )
        for candidate, _, _ in standing
    ]
    done: list[Counterfactual | None] = []
    spread = probe.spread if isinstance(probe, CounterfactualModel) else None
    if spread is not None:
        progress("remove and transplant", 0, len(hypotheses))
        for counterfactual in spread(hypotheses, subject.images, rules):
            done.append(counterfactual)
            progress("remove and transplant", len(done), len(hypotheses))
        return done
    for number, hypothesis in enumerate(hypotheses, 1):
        stage = f"remove and transplant, correlation {number} of {len(standing)}"
        done.append(
            measure_counterfactual(
                probe, hypothesis, subject.images, rules, _staged(progress, stage)
            )
        )
    return done


def _found_patients(subject: Subject, candidate: Candidate) -> ArmPatients:
    """Count the patients with and without the feature on the half it was chosen on."""
    labels, chosen = subject.task.labels, ~candidate.films
    member = labels[chosen, None] == np.arange(len(subject.task.classes))
    present, patients = candidate.cluster.present[chosen, None], subject.images.patients[chosen]
    return ArmPatients(
        count_patients(member & present, patients), count_patients(member & ~present, patients)
    )


def _label_quality(
    subject: Subject,
    candidate: Candidate,
    confirmation: Confirmation,
    bootstrap: PatientBootstrap,
    evidence: EvidenceConfig,
) -> LabelQuality | None:
    """Look at the labels behind what holds on held-out patients."""
    if subject.origin is None or confirmation.status not in ("confirmed", "raised_only"):
        return None
    return measure_label_quality(
        candidate,
        confirmation.arms,
        subject.task,
        subject.origin,
        bootstrap=bootstrap,
        min_films=evidence.min_n,
        confidence=evidence.confidence,
    )


def _staged(progress: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total)


def measure_detectable_gap(
    subject: Subject, examination: Examination, config: Config, progress: Progress
) -> Sensitivity:
    """Measure what these films could have shown, through the same procedure."""
    rules, evidence = confirmation_rules(config), config.evidence
    return measure_sensitivity(
        design_of(subject.task, subject.images.patients, examination.half),
        rules,
        candidates=examination.candidates,
        power=evidence.power,
        simulations=evidence.simulations,
        clusters=len(subject.clusters),
        untested=count_untested(subject.present, subject.task, examination.half, rules.min_films),
        progress=_staged(progress, "simulate what could be seen"),
    )
