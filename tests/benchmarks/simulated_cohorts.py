"""Simulated cohorts at the level of region embeddings, and what the search makes of them.

There are no pixels, and the whole truth is known. Every film has regions of some two dozen
prototypes. In a null cohort the prediction has nothing to do with the regions, given the label; in
a planted one a feature raises one class and lowers others. Region scores are chosen against RaVL's
influence filter: the region that speaks loudest for a wrong prediction belongs to one of a few
fixed prototypes wherever the film holds one, so that clusters pass the filter without any cause and
what is measured is the test on held-out patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ravl_med.config.audit import DiscoveryConfig
from ravl_med.config.loading import Config
from ravl_med.discovery.candidates import discover_correlations
from ravl_med.discovery.clusters import FeatureClusters, cluster_regions
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.examination import confirm_correlations

_NOISE = 1.0  # cosine of 0.5 between two regions of a prototype
_COMMON = 0.2  # share that all prototypes have in common, as embeddings of one model do
_LOUD = 3  # every third prototype speaks up in mispredicted films
_LOUDEST = 0.9  # region score of the region that speaks loudest
_TRAIT = 8.0  # concentration of a patient's own mixture of prototypes
_MIXED = 0.2  # films of a patient that have a class of their own
_CHUNK = 65_536
_DRAWS = 20  # of the bootstrap: intervals are for the report and decide nothing here

Lowered = Literal["none", "others", "one"]


@dataclass(frozen=True, slots=True)
class Feature:
    """A prototype of its own that takes the place of one region in the films that carry it.

    Attributes
    ----------
    prevalence : float or tuple of float, length C - share of the films, or of each class
    gap : float - accuracy with minus without it on the raised class; 0 plants nothing
    lowered : {"none", "others", "one"} - classes whose accuracy it lowers by the same gap
    """

    prevalence: float | tuple[float, ...]
    gap: float = 0.0
    lowered: Lowered = "none"


@dataclass(frozen=True, slots=True)
class CohortPlan:
    """How a cohort is simulated.

    Attributes
    ----------
    films : int - N
    shares : tuple of float, length C - expected share of each class
    accuracy : tuple of float, length C - zero-shot accuracy on each class
    feature : Feature or None
    films_a_patient : tuple of (int, int) - least and most, evenly between
    correlation : float - of what decides whether two films of a patient are right. With more than
        one film a patient the feature and the mixture of prototypes are traits of the patient too
    tiny : int - further prototypes that occur in 1 to 3 films each
    regions : int - of each film
    prototypes : int
    size : int - D
    """

    films: int
    shares: tuple[float, ...]
    accuracy: tuple[float, ...]
    feature: Feature | None = None
    films_a_patient: tuple[int, int] = (1, 1)
    correlation: float = 0.0
    tiny: int = 0
    regions: int = 9
    prototypes: int = 25
    size: int = 64


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedCohort:
    """A cohort and its truth.

    Attributes
    ----------
    embeddings : ndarray of shape (R, D), float32 - unit norm
    region_image : ndarray of shape (R,), int64
    region_prototype : ndarray of shape (R,), int64 - the feature has the number ``prototypes``
    labels, predictions, patients : ndarray of shape (N,), int64
    image_scores : ndarray of shape (N, C), float32 - rows sum to 1
    region_scores : ndarray of shape (R, C), float32 - rows sum to 1
    carries : ndarray of shape (N,), bool - the film holds the feature
    is_feature : ndarray of shape (R,), bool - the region is the feature
    raised : int - class that the feature raises; -1 without
    lowered : tuple of int - classes that it lowers
    """

    embeddings: NDArray[np.float32]
    region_image: NDArray[np.int64]
    region_prototype: NDArray[np.int64]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    patients: NDArray[np.int64]
    image_scores: NDArray[np.float32]
    region_scores: NDArray[np.float32]
    carries: NDArray[np.bool_]
    is_feature: NDArray[np.bool_]
    raised: int
    lowered: tuple[int, ...]


def simulate_cohort(plan: CohortPlan, seed: int | Sequence[int]) -> SimulatedCohort:
    """Simulate a cohort; the same plan and seed give the same cohort."""
    rng = np.random.default_rng(seed)
    classes = len(plan.shares)
    patients, labels = _draw_patients(plan, rng)
    carries = _draw_carriers(plan, patients, labels, rng)
    raised, lowered = _draw_effect(plan, rng)
    predictions = _predict(plan, patients, labels, carries, raised, lowered, rng)
    kinds = _draw_regions(plan, patients, carries, rng)
    flat = kinds.ravel()
    anchors = draw_prototypes(plan.prototypes + 1 + plan.tiny, plan.size, rng)
    embeddings = np.empty((len(flat), plan.size), dtype=np.float32)
    draw_embeddings(anchors, flat, embeddings, rng)
    return SimulatedCohort(
        embeddings=embeddings,
        region_image=np.repeat(np.arange(plan.films, dtype=np.int64), plan.regions),
        region_prototype=flat,
        labels=labels,
        predictions=predictions,
        patients=patients,
        image_scores=_score_images(predictions, classes, rng),
        region_scores=_score_regions(plan, kinds, labels, predictions, rng),
        carries=carries,
        is_feature=flat == plan.prototypes,
        raised=raised,
        lowered=lowered,
    )


def draw_prototypes(count: int, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw so many prototypes (M, D), float32, unit norm, that have a part in common."""
    drawn = rng.standard_normal((count + 1, size))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    mixed = np.sqrt(1 - _COMMON) * drawn[1:] + np.sqrt(_COMMON) * drawn[0]
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    return np.asarray(mixed, dtype=np.float32)


def draw_embeddings(
    anchors: NDArray[np.float32],
    kinds: NDArray[np.int64],
    out: NDArray[np.float32],
    rng: np.random.Generator,
) -> None:
    """Draw region embeddings around their prototypes, in chunks, into an array that is there.

    Parameters
    ----------
    anchors : ndarray of shape (M, D), float32 - unit norm
    kinds : ndarray of shape (R,), int64 - prototype of each region
    out : ndarray of shape (R, D), float32 - filled; unit norm
    """
    spread = np.float32(_NOISE / np.sqrt(out.shape[1]))
    for start in range(0, len(out), _CHUNK):
        part = out[start : start + _CHUNK]
        rng.standard_normal(dtype=np.float32, out=part)
        part *= spread
        part += anchors[kinds[start : start + _CHUNK]]
        part /= np.linalg.norm(part, axis=1, keepdims=True)


def class_accuracy(
    accuracy: Sequence[float], feature: Feature | None, raised: int, lowered: Sequence[int]
) -> NDArray[np.float64]:
    """Return the accuracy of each class without and with the feature, (2, C), float64.

    Half of the gap lies above and half below the accuracy, moved where that leaves 0 .. 1. No class
    is raised: -1.
    """
    base = np.asarray(accuracy, dtype=np.float64)
    sign = np.zeros(len(base))
    sign[list(lowered)] = -1.0
    if raised >= 0:
        sign[raised] = 1.0
    half = (feature.gap if feature is not None else 0.0) / 2
    middle = np.where(sign != 0, np.clip(base, half, 1 - half), base)
    return np.stack([middle - sign * half, middle + sign * half])


def _draw_patients(
    plan: CohortPlan, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Patient and label of each film; now and then a patient's film has another class."""
    least, most = plan.films_a_patient
    counts = rng.integers(least, most + 1, size=plan.films)
    patients = np.repeat(np.arange(plan.films, dtype=np.int64), counts)[: plan.films]
    classes, shares = len(plan.shares), np.asarray(plan.shares) / np.sum(plan.shares)
    labels = rng.choice(classes, size=plan.films, p=shares)[patients]
    if most > 1:
        own = rng.random(plan.films) < _MIXED
        labels = np.where(own, rng.choice(classes, size=plan.films, p=shares), labels)
    return patients, labels.astype(np.int64)


def _draw_carriers(
    plan: CohortPlan,
    patients: NDArray[np.int64],
    labels: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Films with the feature; with several films a patient, all films of the patient alike."""
    if plan.feature is None:
        return np.zeros(plan.films, dtype=np.bool_)
    prevalence = np.broadcast_to(plan.feature.prevalence, len(plan.shares))
    luck = rng.random(plan.films)
    carried: NDArray[np.bool_] = luck[patients] < prevalence[labels]
    return carried


def _draw_effect(plan: CohortPlan, rng: np.random.Generator) -> tuple[int, tuple[int, ...]]:
    """Draw raised and lowered classes; -1 and none in a null cohort."""
    if plan.feature is None or plan.feature.gap == 0 or plan.feature.lowered == "none":
        return -1, ()
    order = [int(c) for c in rng.permutation(len(plan.shares))]
    others = order[1:2] if plan.feature.lowered == "one" else order[1:]
    return order[0], tuple(sorted(others))


def _predict(
    plan: CohortPlan,
    patients: NDArray[np.int64],
    labels: NDArray[np.int64],
    carries: NDArray[np.bool_],
    raised: int,
    lowered: tuple[int, ...],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Predictions: right as often as the plan says; a wrong film with the feature says raised."""
    classes = len(plan.shares)
    deviate = np.sqrt(1 - plan.correlation) * rng.standard_normal(plan.films)
    deviate += np.sqrt(plan.correlation) * rng.standard_normal(plan.films)[patients]
    right = class_accuracy(plan.accuracy, plan.feature, raised, lowered)
    correct = stats.norm.cdf(deviate) < right[carries.astype(np.int64), labels]
    wrong = (labels + rng.integers(1, classes, size=plan.films)) % classes
    if raised >= 0:
        wrong = np.where(carries & (labels != raised), raised, wrong)
    return np.where(correct, labels, wrong).astype(np.int64)


def _draw_regions(
    plan: CohortPlan,
    patients: NDArray[np.int64],
    carries: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Prototype of each region, shape (N, r): frequent and rare ones; the feature; tiny ones."""
    common = 1.0 / (np.arange(plan.prototypes) + 5.0)
    common /= common.sum()
    luck = rng.random((plan.films, plan.regions))
    if plan.films_a_patient[1] > 1:
        mixture = rng.dirichlet(_TRAIT * common, size=plan.films).cumsum(axis=1)[patients]
    else:
        mixture = np.broadcast_to(common.cumsum(), (plan.films, plan.prototypes))
    kinds = (luck[:, :, None] > mixture[:, None, :]).sum(axis=2)
    kinds = np.asarray(np.minimum(kinds, plan.prototypes - 1), dtype=np.int64)
    spread = rng.integers(1, 4, size=plan.tiny)
    films = rng.choice(plan.films, size=int(spread.sum()), replace=False)
    place = rng.integers(plan.regions, size=len(films))
    kinds[films, place] = np.repeat(plan.prototypes + 1 + np.arange(plan.tiny), spread)
    place = rng.integers(plan.regions, size=plan.films)
    kinds[carries, place[carries]] = plan.prototypes
    return kinds


def _score_images(
    predictions: NDArray[np.int64], classes: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Scores whose largest is the prediction."""
    others = rng.dirichlet(np.ones(classes - 1), size=len(predictions))
    top = rng.uniform(0.55, 0.95, size=len(predictions))
    scores = np.empty((len(predictions), classes))
    rest = np.arange(classes) != predictions[:, None]
    scores[rest] = (others * (1 - top)[:, None]).ravel()
    scores[~rest] = top
    return scores.astype(np.float32)


def _score_regions(
    plan: CohortPlan,
    kinds: NDArray[np.int64],
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Scores in which the feature, else a loud prototype, speaks loudest for a wrong prediction."""
    classes = len(plan.shares)
    shape = (plan.films, plan.regions)
    scores = 0.5 / classes + 0.5 * rng.dirichlet(np.ones(classes), size=shape)
    loud = (kinds < plan.prototypes) & (kinds % _LOUD == 0)
    rank = rng.random(shape) + loud + 2 * (kinds == plan.prototypes)
    wrong = np.flatnonzero(predictions != labels)
    loudest = rank[wrong].argmax(axis=1)
    scores[wrong, loudest] = (1 - _LOUDEST) / (classes - 1)
    scores[wrong, loudest, predictions[wrong]] = _LOUDEST
    return scores.reshape(-1, classes).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one simulated cohort.

    Attributes
    ----------
    clusters, candidates : int - proposed, and carried into confirmation
    survivors : int - proposed clusters that pass RaVL's own filters, over all films
    published : bool or None - RaVL as published reports a cluster: its own K, its own filters, all
        films; None where it was not asked
    confirmed, raised_only : int - correlations, duplicates folded
    found : bool - one is confirmed that is the feature and raises the class that it raises
    half_found : bool - at least the raised side is
    strays : int - confirmed ones that are not the feature, or raise another class
    """

    clusters: int
    candidates: int
    survivors: int
    published: bool | None
    confirmed: int
    raised_only: int
    found: bool
    half_found: bool
    strays: int


def examine_cohort(
    plan: CohortPlan, seed: tuple[int, ...], config: Config, *, published: bool = False
) -> Trial:
    """Simulate a cohort and take it through proposal, discovery and confirmation.

    Parameters
    ----------
    seed : tuple of int - of the cohort; its last number is the seed of the search too
    config : Config - its sections discovery, evidence and gate
    published : bool - run RaVL as published beside it
    """
    own = {"seed": seed[-1]}
    settings = config.model_copy(
        update={
            "discovery": config.discovery.model_copy(update=own),
            "evidence": config.evidence.model_copy(update={**own, "draws": _DRAWS}),
        }
    )
    cohort = simulate_cohort(plan, seed)
    data = _data(cohort)
    clusters = cluster_regions(cohort.embeddings, len(data.classes), settings.discovery)
    examination = confirm_correlations(
        data,
        clusters,
        settings.discovery,
        settings.evidence,
        settings.gate,
        lambda stage, done, total: None,
    )
    outcomes = [
        (
            confirmation.status,
            bool(cohort.is_feature[candidate.cluster.regions].mean() > 0.5)
            and candidate.cluster.raised_class == cohort.raised,
        )
        for candidate, confirmation, _ in examination.tested
    ]
    return Trial(
        clusters=len(clusters),
        candidates=examination.candidates,
        survivors=_count_survivors(data, clusters, settings),
        published=_published(cohort, settings) if published else None,
        confirmed=sum(status == "confirmed" for status, _ in outcomes),
        raised_only=sum(status == "raised_only" for status, _ in outcomes),
        found=("confirmed", True) in outcomes,
        half_found=("confirmed", True) in outcomes or ("raised_only", True) in outcomes,
        strays=outcomes.count(("confirmed", False)),
    )


def _count_survivors(data: AuditData, clusters: FeatureClusters, config: Config) -> int:
    """Count the clusters that pass RaVL's own filters over all films."""
    films = np.ones(len(data.labels), dtype=np.bool_)
    present = clusters.presence(data.region_image, len(films))
    return discover_correlations(
        data, clusters, present, films, _paper(config), min_films=1, large_gap=1.0
    ).survivors


def _published(cohort: SimulatedCohort, config: Config) -> bool:
    """Whether RaVL as published reports a cluster."""
    data = _data(cohort)
    clusters = cluster_regions(cohort.embeddings, len(data.classes), _paper(config))
    return _count_survivors(data, clusters, config) > 0


def _paper(config: Config) -> DiscoveryConfig:
    return config.discovery.model_copy(update={"protocol": "paper"})


def _data(cohort: SimulatedCohort) -> AuditData:
    """Return a simulated cohort as evidence takes it: films without pixels or attributes."""
    films, regions = len(cohort.labels), len(cohort.region_image)
    return AuditData(
        classes=tuple(f"class {c + 1}" for c in range(cohort.image_scores.shape[1])),
        labels=cohort.labels,
        predictions=cohort.predictions,
        patients=cohort.patients,
        sizes=np.zeros((films, 2), dtype=np.int64),
        region_image=cohort.region_image,
        region_boxes=np.zeros((regions, 4), dtype=np.float32),
        image_scores=cohort.image_scores,
        region_scores=cohort.region_scores,
    )
