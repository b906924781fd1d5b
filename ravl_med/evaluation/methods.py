"""Every method that is asked where the feature is: published ones, RaVL, and this tool.

Each answers with a ranked list of regions, and the class that the feature raises. They are given
the same films, predictions and region embeddings of a setting. None of the published methods was
made for regions. As RaVL compares them, each region inherits the label, the prediction and the
correctness of its film, and the method runs on region embeddings; how its answer is read stands in
the docstring of each. They see all films of the validation split; none has a way to say that there
is no shortcut. Domino is written from its paper: the authors' library has had no release since 2022
and stands on one that is no longer kept.

- ``gap_unweighted``, ``gap_weighted`` : RaVL's clusters by the sum of absolute gaps, without and
  with RaVL's weight, no influence; regions by similarity to the medoid
- ``ravl`` : the paper's protocol, influence filter included, on all films
- ``pooled`` : candidates of several K, pooled, the first of them; chosen on half of the patients
- ``confirmed`` : the first of those that the other half confirms
- ``ours`` : the first after counterfactuals; regions where removal finds the effect

References
----------
Jain et al., "Distilling Model Failures as Directions in Latent Space", ICLR 2023 (2206.14754).
Sohoni et al., "No Subclass Left Behind" (George), NeurIPS 2020 (2011.12945).
Eyuboglu et al., "Domino", ICLR 2022 (2203.14960), section 4.2 and appendix:
P(z, y, yhat | s) = N(z) P(y|s)^g P(yhat|s)^g.
Yang et al., "Mitigating Spurious Correlations in Multi-modal Models during Fine-tuning", ICML 2023
(2304.03916).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import balanced_accuracy_score, silhouette_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from ravl_med.config.audit import DiscoveryConfig
from ravl_med.config.loading import Config
from ravl_med.discovery.candidates import FeatureCluster, discover_correlations
from ravl_med.discovery.clusters import FeatureClusters, paper_clusters, propose_clusters
from ravl_med.discovery.effect_features import EffectFeature
from ravl_med.discovery.ravl import GapTable, performance_gaps
from ravl_med.encoders.base import Encoder
from ravl_med.evaluation.small_models import RegionEvidence
from ravl_med.evidence.counterfactual.localisation import RelevanceTable, StructureReader
from ravl_med.evidence.examination import (
    Examination,
    InterventionTools,
    assess_correlations,
    confirm_correlations,
    map_films,
    propose_features,
)
from ravl_med.evidence.results import SpuriousCorrelation


@dataclass(frozen=True, slots=True, eq=False)
class RankedRegions:
    """The answer of a method: where the feature is, best first, and which class it raises.

    Attributes
    ----------
    regions : ndarray of shape (n,), int64
    raised_class : int - -1 where the method names none
    accuses : bool - the method says that there is a shortcut; most have no way to say that there is
        none
    boxes : ndarray of shape (n, 4), float32, or None - where the method says that the feature lies
        on the film of each region; None: the region itself
    members : ndarray of shape (m,), int64, or None - all regions of the cluster named, where it is
        one
    """

    regions: NDArray[np.int64]
    raised_class: int = -1
    accuses: bool = True
    boxes: NDArray[np.float32] | None = None
    members: NDArray[np.int64] | None = None


_FLOOR = 1e-6  # of variances
_TINY = 1e-12
_CLOSE = 1e-4  # change of the mean log-likelihood at which it stops
_LEAST_STEPS = 10  # slices of one cell start alike and take a few steps to part

Floats = NDArray[np.float64]
Baseline = Callable[[RegionEvidence, int], RankedRegions]

_FITTED = 4000  # regions that a class's model is fitted on, drawn evenly; all are ranked
_LEAST = 10  # films of a class that are wrong, and right, before its failures can be modelled
_SLICES = 25
_COMPONENTS = 32
_GEORGE_COUNTS = range(2, 8)
_SILHOUETTE = 1000


@dataclass(frozen=True, slots=True, eq=False)
class ErrorMixture:
    """A fitted mixture of S slices over n points."""

    share: Floats  # (n, S), posterior of the slices for each point
    density: Floats  # (n, S), log density of the embedding alone
    label: Floats  # (S, C), probabilities in each slice
    prediction: Floats  # (S, C), the same

    @property
    def discrepancy(self) -> Floats:
        """How far the predictions of each slice are from its labels, shape (S,)."""
        apart: Floats = np.abs(self.prediction - self.label).max(axis=1)
        return apart


def fit_error_mixture(
    points: NDArray[np.floating],
    labels: NDArray[np.int64],
    predicted: NDArray[np.floating],
    *,
    slices: int = 25,
    weight: float = 10.0,
    steps: int = 50,
    seed: int = 0,
) -> ErrorMixture:
    """Fit the mixture by expectation-maximisation, from slices of one cell of the confusion each.

    Parameters
    ----------
    points : ndarray of shape (n, d) - embeddings, reduced
    predicted : ndarray of shape (n, C) - probabilities of the classes
    weight : float - gamma, of labels and of predictions against the embedding
    seed : int - of the noise that sets slices of one cell apart
    """
    classes = predicted.shape[1]
    z = np.asarray(points, dtype=np.float64)
    truth = np.eye(classes)[labels]
    soft = np.asarray(predicted, dtype=np.float64)
    share = _start(labels * classes + soft.argmax(axis=1), classes, slices, seed)
    before = -np.inf
    for step in range(steps):
        size = share.sum(axis=0) + _TINY
        mean = share.T @ z / size[:, None]
        spread = np.maximum(share.T @ z**2 / size[:, None] - mean**2, _FLOOR)
        label, prediction = share.T @ truth / size[:, None], share.T @ soft / size[:, None]
        density = _gaussian(z, mean, spread)
        joint = density + np.log(size / size.sum())
        joint += weight * np.log(truth @ label.T + _TINY)
        joint += weight * np.log(soft @ prediction.T + _TINY)
        total = logsumexp(joint, axis=1)
        share = np.exp(joint - total[:, None])
        after = float(total.mean())
        if step >= _LEAST_STEPS and after - before < _CLOSE:
            break
        before = after
    return ErrorMixture(share, density, label, prediction)


def _start(cell: NDArray[np.int64], classes: int, slices: int, seed: int) -> Floats:
    """Responsibilities (n, S): the cells of the confusion matrix in turn, the fullest first."""
    order = np.argsort(-np.bincount(cell, minlength=classes**2), kind="stable")
    own = order[np.arange(slices) % classes**2]
    noise = 0.1 * np.random.default_rng(seed).random((len(cell), slices)) + 1e-3
    share = (cell[:, None] == own) * (1.0 + 10.0 * noise) + 1e-3 * noise
    normal: Floats = share / share.sum(axis=1, keepdims=True)
    return normal


def _gaussian(z: Floats, mean: Floats, spread: Floats) -> Floats:
    """Log density (n, S) of diagonal Gaussians."""
    scaled = 1.0 / spread
    away = (z**2) @ scaled.T - 2.0 * z @ (mean * scaled).T + (mean**2 * scaled).sum(axis=1)
    density: Floats = -0.5 * (away + np.log(spread).sum(axis=1) + z.shape[1] * np.log(2 * np.pi))
    return density


def rank_at_random(evidence: RegionEvidence, seed: int) -> RankedRegions:
    """Rank the regions by chance; the class is drawn as well."""
    rng = np.random.default_rng([seed, 70])
    order = rng.permutation(len(evidence.region)).astype(np.int64)
    return RankedRegions(order, int(rng.integers(len(evidence.classes))))


def distil_failures(evidence: RegionEvidence, seed: int) -> RankedRegions:
    """Find the direction of failure of each class (Jain et al.).

    Embeddings are standardised and brought to unit norm; a linear support-vector machine with
    balanced weights parts the regions of films that are classified rightly from those that are not.
    The class whose machine does that best on held-out films (balanced accuracy, five folds of whole
    films) is read, and its regions by their decision value, the farthest towards failure first. The
    raised class is the one that its wrong films are mistaken for most often.
    """
    best: tuple[float, int, NDArray[np.int64]] | None = None
    rng = np.random.default_rng([seed, 71])
    for label in range(len(evidence.classes)):
        regions = _regions_of(evidence, label)
        right = evidence.correct[evidence.films.labels == label]
        if min(right.sum(), (~right).sum()) < _LEAST:
            continue
        some = np.sort(rng.permutation(regions)[:_FITTED])
        wrong = ~evidence.correct[evidence.region_image[some]]
        machine = make_pipeline(
            StandardScaler(), Normalizer(), LinearSVC(C=0.1, class_weight="balanced", dual=False)
        )
        groups = evidence.region_image[some]
        guessed = cross_val_predict(
            machine, evidence.region[some], wrong, groups=groups, cv=GroupKFold(5)
        )
        score = float(balanced_accuracy_score(wrong, guessed))
        if best is None or score > best[0]:
            machine.fit(evidence.region[some], wrong)
            value = machine.decision_function(evidence.region[regions])
            best = score, label, regions[np.argsort(-value, kind="stable")]
    if best is None:
        return rank_at_random(evidence, seed)
    _, label, ranked = best
    return RankedRegions(ranked, _mistaken_for(evidence, label))


def george(evidence: RegionEvidence, seed: int) -> RankedRegions:
    """Cluster the regions of each class and read the cluster with the worst accuracy (Sohoni).

    Principal components stand in for UMAP, which the paper offers beside them and which would take
    longer than the rest of a setting; then Gaussian mixtures of 2 to 7 components with diagonal
    covariance, the number by silhouette. Over the clusters of all classes with films of both
    outcomes, the one whose films fall farthest below the accuracy of their class is read, its
    regions by their density in it. The raised class is the one that the wrong films of the cluster
    are mistaken for most often.
    """
    points = _reduce(evidence.region, seed)
    rng = np.random.default_rng([seed, 72])
    best: tuple[float, int, NDArray[np.int64], NDArray[np.int64]] | None = None
    for label in range(len(evidence.classes)):
        regions = _regions_of(evidence, label)
        if len(regions) < _SLICES:
            continue
        some = np.sort(rng.permutation(regions)[:_FITTED])
        mixture = _mixture_by_silhouette(points[some], seed)
        member = mixture.predict(points[regions])
        average = float(evidence.correct[evidence.films.labels == label].mean())
        for cluster in np.unique(member):
            own = regions[member == cluster]
            films = np.unique(evidence.region_image[own])
            if len(films) < _LEAST:
                continue
            fall = average - float(evidence.correct[evidence.region_image[own]].mean())
            if best is None or fall > best[0]:
                away = (points[own] - mixture.means_[cluster]) ** 2 / mixture.covariances_[cluster]
                best = fall, label, own[np.argsort(away.sum(axis=1), kind="stable")], films
    if best is None:
        return rank_at_random(evidence, seed)
    _, label, ranked, films = best
    return RankedRegions(ranked, _mistaken_for(evidence, label, films), members=np.sort(ranked))


def domino(evidence: RegionEvidence, seed: int) -> RankedRegions:
    """Fit an error-aware mixture and read its most discrepant slice (Eyuboglu et al.).

    25 slices over 32 principal components, labels and predictions weighed by 10, as in the paper;
    the slice whose mean prediction is farthest from its mean label is read, its regions by their
    posterior, ties by the density of the embedding. The raised class is the one that the slice
    predicts more often than it is right.
    """
    points = _reduce(evidence.region, seed)
    film = evidence.region_image
    mixture = fit_error_mixture(
        points,
        evidence.films.labels[film],
        evidence.scores.image[film],
        slices=_SLICES,
        seed=seed,
    )
    size = mixture.share.sum(axis=0)
    usable = np.where(size >= _LEAST, mixture.discrepancy, -np.inf)
    slice_ = int(np.argmax(usable))
    rank = np.lexsort((-mixture.density[:, slice_], -np.round(mixture.share[:, slice_], 6)))
    surplus = mixture.prediction[slice_] - mixture.label[slice_]
    members = np.flatnonzero(mixture.share.argmax(axis=1) == slice_)
    return RankedRegions(rank.astype(np.int64), int(np.argmax(surplus)), members=members)


def spurious_aware(evidence: RegionEvidence, clusters: FeatureClusters) -> RankedRegions:
    """Read the feature with the largest gap in the accuracy of any class (Yang et al.).

    Their features are objects that a detector names. Without one, the clusters of RaVL's own
    protocol stand for them. Over features and classes with films on both sides the largest
    absolute gap, unweighted, is read; regions by similarity to the medoid. A positive gap raises
    its class; a negative one raises what the wrong films with the feature are mistaken for most.
    """
    present = clusters.presence(evidence.region_image, len(evidence.films))
    table = performance_gaps(
        present, evidence.films.labels, evidence.correct, len(evidence.classes)
    )
    gap = np.where(table.smaller_arm >= 1, np.nan_to_num(table.gap), 0.0)
    cluster, label = np.unravel_index(int(np.abs(gap).argmax()), gap.shape)
    ranked = clusters.members(int(cluster))
    raised = int(label)
    if gap[cluster, label] < 0:
        raised = _mistaken_for(evidence, int(label), np.flatnonzero(present[:, cluster]))
    return RankedRegions(ranked, raised, members=np.sort(ranked))


BASELINES: Mapping[str, Baseline] = {
    "random": rank_at_random,
    "distilling_failures": distil_failures,
    "george": george,
    "domino": domino,
}
"""Those that cluster nothing beforehand; Spurious-Aware detection takes RaVL's clusters."""


def _regions_of(evidence: RegionEvidence, label: int) -> NDArray[np.int64]:
    return np.flatnonzero(evidence.films.labels[evidence.region_image] == label).astype(np.int64)


def _mistaken_for(
    evidence: RegionEvidence, label: int, films: NDArray[np.int64] | None = None
) -> int:
    """Return the class that wrong films of a class (of some films) are predicted as most often."""
    rows = np.arange(len(evidence.films)) if films is None else films
    wrong = rows[(evidence.films.labels[rows] == label) & ~evidence.correct[rows]]
    if not len(wrong):
        return -1
    predicted = evidence.scores.predictions[wrong]
    return int(np.bincount(predicted, minlength=len(evidence.classes)).argmax())


def _reduce(region: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Principal components (R, 32) of the region embeddings."""
    count = min(_COMPONENTS, region.shape[1], len(region))
    reduced: NDArray[np.float64] = PCA(count, random_state=seed).fit_transform(
        region.astype(np.float64)
    )
    return reduced


def _mixture_by_silhouette(points: NDArray[np.float64], seed: int) -> GaussianMixture:
    """Fit mixtures of several sizes; return the one with the best silhouette on a sample."""
    rng = np.random.default_rng([seed, 73])
    shown = rng.permutation(len(points))[:_SILHOUETTE]
    best: tuple[float, GaussianMixture] | None = None
    for count in _GEORGE_COUNTS:
        mixture = GaussianMixture(
            count, covariance_type="diag", reg_covar=1e-4, random_state=seed, max_iter=50
        )
        with warnings.catch_warnings():  # where it is after 50 steps is near enough to be ranked
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(points)
        member = mixture.predict(points[shown])
        if len(np.unique(member)) < 2:
            continue
        width = float(silhouette_score(points[shown], member))
        if best is None or width > best[0]:
            best = width, mixture
    if best is None:
        return GaussianMixture(1, covariance_type="diag", random_state=seed).fit(points)
    return best[1]


OURS = "ours"
PUBLISHED = ("random", "distilling_failures", "george", "domino", "spurious_aware", "ravl")
METHODS = (*PUBLISHED[:-1], "gap_unweighted", "gap_weighted", "ravl", "pooled", "confirmed", OURS)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What all `METHODS` say of one setting, and how this tool came to it; its clusters pooled."""

    ranked: Mapping[str, RankedRegions]
    clusters: FeatureClusters
    proposed: tuple[EffectFeature, ...]
    examination: Examination
    correlations: tuple[SpuriousCorrelation, ...]


def rank_by_all_methods(
    evidence: RegionEvidence,
    encoder: Encoder,
    config: Config,
    relevance: RelevanceTable,
    structures: StructureReader | None = None,
) -> Answers:
    """Ask every method; the encoder is the model of the setting, for counterfactuals.

    Raises
    ------
    DataError
        Embeddings that are not finite or all equal.
    """
    seed = config.discovery.seed
    ranked = {name: baseline(evidence, seed) for name, baseline in BASELINES.items()}
    paper = paper_clusters(
        evidence.region, len(evidence.classes), sample=config.discovery.sample, seed=seed
    )
    ranked["spurious_aware"] = spurious_aware(evidence, paper)
    ranked |= _rank_paper(evidence, paper, config.discovery)
    pooled = propose_clusters(
        evidence.region,
        config.discovery.clusters,
        draws=config.discovery.draws,
        sample=config.discovery.sample,
        seed=seed,
        overlap=config.discovery.merge_overlap,
    )
    data, own, gate = evidence.data, config.evidence, config.gate
    model = evidence.counterfactual_model(encoder, structures)
    maps = map_films(data, model, own, _silent)
    tools = InterventionTools(model, maps, relevance)
    proposed = propose_features(data, evidence.region, model, maps[False], own)
    examination = confirm_correlations(data, pooled, config.discovery, own, gate, _silent, proposed)
    correlations = assess_correlations(data, examination, tools, own, gate, _silent)
    ranked["pooled"] = _first_of(examination.discovery.candidates)
    ranked["confirmed"] = _first_of(_confirmed(examination))
    ranked[OURS] = our_ranking(correlations[0], evidence) if correlations else _NOTHING
    return Answers(ranked, pooled, proposed.features, examination, correlations)


def our_ranking(correlation: SpuriousCorrelation, evidence: RegionEvidence) -> RankedRegions:
    """Return our list of a setting: the regions of a correlation by removal effect."""
    cluster = correlation.cluster
    regions = cluster.regions[correlation.order]
    boxes = np.array(evidence.region_boxes[cluster.regions])
    tested = correlation.counterfactual
    if tested is not None and tested.removal.located is not None:
        located = tested.removal.located
        boxes = np.where(np.isfinite(located), located, boxes).astype(np.float32)
    return RankedRegions(
        regions,
        cluster.raised_class,
        accuses=correlation.counts,
        boxes=boxes[correlation.order],
        members=np.sort(cluster.regions),
    )


_NOTHING = RankedRegions(np.empty(0, dtype=np.int64), accuses=False)


def _silent(stage: str, done: int, total: int) -> None:
    """Take progress and show nothing of it."""


def _rank_paper(
    evidence: RegionEvidence, clusters: FeatureClusters, config: DiscoveryConfig
) -> dict[str, RankedRegions]:
    """RaVL's protocol and its two ablations, on all films."""
    present = clusters.presence(evidence.region_image, len(evidence.films))
    data = evidence.data
    table = performance_gaps(present, data.labels, data.correct, len(data.classes))
    unweighted = np.nan_to_num(np.abs(table.gap)).sum(axis=1)
    films = np.ones(len(data.labels), dtype=np.bool_)
    paper = config.model_copy(update={"protocol": "paper"})
    found = discover_correlations(
        data, clusters, present, films, paper, min_films=1, large_gap=np.inf
    ).candidates
    return {
        "gap_unweighted": _by_gap(clusters, table, unweighted),
        "gap_weighted": _by_gap(clusters, table, table.performance_gap),
        "ravl": _first_of(found),
    }


def _by_gap(
    clusters: FeatureClusters, table: GapTable, score: NDArray[np.float64]
) -> RankedRegions:
    cluster = int(np.argmax(score))
    members = clusters.members(cluster)
    raised = int(np.nan_to_num(table.gap[cluster], nan=-np.inf).argmax())
    return RankedRegions(members, raised, members=np.sort(members))


def _first_of(clusters: Sequence[FeatureCluster]) -> RankedRegions:
    if not clusters:
        return _NOTHING
    first = clusters[0]
    return RankedRegions(first.regions, first.raised_class, members=np.sort(first.regions))


def _confirmed(examination: Examination) -> list[FeatureCluster]:
    """Return the confirmed candidates, the clearest first."""
    standing = [entry for entry in examination.tested if entry[1].status == "confirmed"]
    standing.sort(key=lambda entry: entry[1].q_value)  # stable: the earlier one first
    return [candidate.cluster for candidate, *_ in standing]
