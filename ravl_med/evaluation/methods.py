"""Every method that is asked where the feature is: published ones, RaVL, and this tool.

Each answers with a ranked list of regions, and the class that the feature raises. They are given
the same films and predictions of a setting. None of the published methods was made for regions. As
RaVL compares them, each region inherits the label, the prediction and the correctness of its film,
and the method runs on region embeddings; how its answer is read stands in the docstring of each.
They see all films of the validation split. Each has as many `OPTIONS`: two poolings of regions, and
two settings of its own that its paper or its code documents; which of them is `CHOSEN` was measured
on seeds that nothing is published of. Domino is written from its paper: the authors' library has
had no release since 2022 and stands on one that is no longer kept.

- ``gap_unweighted``, ``gap_weighted`` : RaVL's clusters by the sum of absolute gaps, without and
  with RaVL's weight, no influence; regions by similarity to the medoid
- ``ravl`` : the paper's protocol, influence filter included, on all films
- ``pooled`` : candidates of several K, pooled, the first of them; chosen on half of the patients
- ``confirmed`` : the first of those that the other half confirms
- ``ours`` : the first after counterfactuals; regions by what removal does

References
----------
Jain et al., "Distilling Model Failures as Directions in Latent Space", ICLR 2023 (2206.14754).
Sohoni et al., "No Subclass Left Behind" (George), NeurIPS 2020 (2011.12945).
Eyuboglu et al., "Domino", ICLR 2022 (2203.14960), section 4.2 and appendix:
P(z, y, yhat | s) = N(z) P(y|s)^g P(yhat|s)^g.
Yang et al., "Mitigating Spurious Correlations in Multi-modal Models during Fine-tuning", ICML 2023
(2304.03916).
McInnes et al., "UMAP", JOSS 2018 (1802.03426).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import balanced_accuracy_score, euclidean_distances, silhouette_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from ravl_med.config.audit import DiscoveryConfig
from ravl_med.config.loading import Config
from ravl_med.config.model import RegionPooling
from ravl_med.discovery.candidates import FeatureCluster, discover_correlations
from ravl_med.discovery.clusters import FeatureClusters, paper_clusters, propose_clusters
from ravl_med.discovery.effect_features import EffectFeature
from ravl_med.discovery.ravl import performance_gaps
from ravl_med.encoders.base import Encoder, using_threads
from ravl_med.encoders.conv_pooling import split_tower
from ravl_med.errors import ConfigError
from ravl_med.evaluation.small_models import RegionEvidence
from ravl_med.evidence.audit_result import Sensitivity, Verdict
from ravl_med.evidence.counterfactual import prepare_inputs
from ravl_med.evidence.counterfactual.effect_maps import EffectMaps
from ravl_med.evidence.counterfactual.localisation import RelevanceTable, StructureReader, fit_boxes
from ravl_med.evidence.dependence import measure_dependence
from ravl_med.evidence.examination import (
    Examination,
    InterventionTools,
    assess_correlations,
    confirm_correlations,
    map_films,
    propose_features,
)
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.evidence.verdict import decide_verdict


@dataclass(frozen=True, slots=True, eq=False)
class RankedRegions:
    """The answer of a method: where the feature is, best first, and which class it raises.

    Attributes
    ----------
    regions : ndarray of shape (n,), int64
    raised_class : int - -1 where the method names none
    accuses : bool or None - the method says that the model has a shortcut; None: it has no rule
        for that, and would name a feature of any model
    asks : bool - it asks a reviewer
    score : float - of its claim: what a gate would be set on; NaN where it makes none
    boxes : ndarray of shape (n, 4), float32, or None - where the method says that the feature lies
        on the film of each region; None: the region itself
    members : ndarray of shape (m,), int64, or None - all regions of the cluster named, where it is
        one
    """

    regions: NDArray[np.int64]
    raised_class: int = -1
    accuses: bool | None = None
    asks: bool = False
    score: float = math.nan
    boxes: NDArray[np.float32] | None = None
    members: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """How a method is set: how regions are embedded, and what is its own."""

    pooling: RegionPooling
    own: str = ""

    def label(self) -> str:
        """Return how rows and pages call it."""
        return ", ".join(filter(None, (self.pooling, self.own)))


POOLINGS: tuple[RegionPooling, ...] = ("last_stage", "one_pass")
"""A pass of the last stage a region, as RaVL's authors embed them, and RoIAlign after it; a ViT,
which has no such stages, knows the second alone."""

_FAILING, _CLEARER = "failing end", "clearer end"
_PAPER_K, _MEDICAL_K = "K 2C to 5C", "K 20 to 50"
_OUR_K: Mapping[str, tuple[int, ...]] = {"K 20, 40, 80": (20, 40, 80), "K 10, 20, 40": (10, 20, 40)}
_OWN: Mapping[str, tuple[str, ...]] = {
    "random": ("",), "distilling_failures": (_FAILING, _CLEARER),
    "george": ("UMAP to 1", "UMAP to 2"), "domino": ("weight 10", "weight 1"),
    "spurious_aware": (_PAPER_K, _MEDICAL_K), "ravl": (_PAPER_K, _MEDICAL_K), "ours": tuple(_OUR_K),
}  # fmt: skip
OPTIONS: Mapping[str, tuple[Option, ...]] = {
    name: tuple(Option(pooling, one) for pooling in POOLINGS for one in own)
    for name, own in _OWN.items()
}
"""Of each method that is compared; the ablations of RaVL and of ours take theirs."""

CHOSEN: Mapping[str, Option] = {
    "random": Option("last_stage"), "distilling_failures": Option("last_stage", _CLEARER),
    "george": Option("last_stage", "UMAP to 2"), "domino": Option("last_stage", "weight 10"),
    "spurious_aware": Option("last_stage", _MEDICAL_K), "ravl": Option("one_pass", _PAPER_K),
    "ours": Option("one_pass", "K 10, 20, 40"),
}  # fmt: skip
"""Of each the best mean precision of fitted boxes, on 33 valid models of the seeds `TRIED`."""

_FLOOR = 1e-6  # of variances
_TINY = 1e-12
_CLOSE = 1e-4  # change of the mean log-likelihood at which it stops
_LEAST_STEPS = 10  # slices of one cell start alike and take a few steps to part

Floats = NDArray[np.float64]
Baseline = Callable[[RegionEvidence, str, int], RankedRegions]

_FITTED = 2000  # regions that a class's model is fitted on, drawn evenly; all are ranked
_LEAST = 10  # films of a class that are wrong, and right, before its failures can be modelled
_SLICES = 25
_COMPONENTS = 32
_GEORGE_COUNTS = range(2, 11)
_MAPPED = 1000  # regions of a class that UMAP takes, drawn evenly; more take minutes
_NEIGHBOURS, _NEAREST, _EPOCHS = 10, 5, 200
_STRENGTHS = np.logspace(-6, 0, 7).tolist()  # C of the machines, as in the authors' code
_FOLDS = 2  # as there


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


def rank_at_random(evidence: RegionEvidence, own: str, seed: int) -> RankedRegions:
    """Rank the regions by chance; the class is drawn as well."""
    rng = np.random.default_rng([seed, 70])
    order = rng.permutation(len(evidence.region)).astype(np.int64)
    return RankedRegions(order, int(rng.integers(len(evidence.classes))))


def distil_failures(evidence: RegionEvidence, own: str, seed: int) -> RankedRegions:
    """Find the direction of failure of each class (Jain et al.).

    Embeddings are standardised and brought to unit norm; a linear support-vector machine with
    balanced weights parts the regions of films that are classified rightly from those that are not,
    its C the best of seven by cross-validation over whole films (balanced accuracy). The class
    whose machine does that best is read, and its regions by their decision value: the farthest
    towards failure first, or those of the end whose first ten lie farther from the boundary. At the
    failing end the raised class is the one that its wrong films are mistaken for most often, at the
    other end it is the class itself.
    """
    best: tuple[float, int, float] | None = None
    rng = np.random.default_rng([seed, 71])
    samples: dict[int, NDArray[np.int64]] = {}
    for label in range(len(evidence.classes)):
        right = evidence.correct[evidence.films.labels == label]
        if min(right.sum(), (~right).sum()) < _LEAST:
            continue
        samples[label] = some = np.sort(rng.permutation(_regions_of(evidence, label))[:_FITTED])
        wrong = ~evidence.correct[evidence.region_image[some]]
        groups = evidence.region_image[some]
        for strength in _STRENGTHS:
            guessed = cross_val_predict(
                _machine(strength),
                evidence.region[some],
                wrong,
                groups=groups,
                cv=GroupKFold(_FOLDS),
            )
            score = float(balanced_accuracy_score(wrong, guessed))
            if best is None or score > best[0]:
                best = score, label, strength
    if best is None:
        return rank_at_random(evidence, "", seed)
    score, label, strength = best
    some, regions = samples[label], _regions_of(evidence, label)
    machine = _machine(strength)
    machine.fit(evidence.region[some], ~evidence.correct[evidence.region_image[some]])
    value = machine.decision_function(evidence.region[regions])
    ends = np.sort(value)
    if own == _CLEARER and -ends[:_LEAST].mean() > ends[-_LEAST:].mean():
        return RankedRegions(regions[np.argsort(value, kind="stable")], label, score=score)
    ranked = regions[np.argsort(-value, kind="stable")]
    return RankedRegions(ranked, _mistaken_for(evidence, label), score=score)


def _machine(strength: float) -> Any:
    return make_pipeline(
        StandardScaler(), Normalizer(), LinearSVC(C=strength, class_weight="balanced", dual=False)
    )


def george(evidence: RegionEvidence, own: str, seed: int) -> RankedRegions:
    """Cluster the regions of each class and read the cluster with the worst accuracy (Sohoni).

    UMAP to one or two dimensions (10 neighbours, no least distance), of up to 1,000 regions of a
    class, drawn evenly; the others lie where their five nearest of these lie on the mean, as UMAP
    begins with points that it has not seen. Then Gaussian mixtures of 2 to 10 components, the
    number by silhouette. Over the clusters of all classes, the one whose films fall farthest below
    the accuracy of their class is read, its regions by their density in it. The raised class is the
    one that the wrong films of the cluster are mistaken for most often.
    """
    rng = np.random.default_rng([seed, 72])
    best: tuple[float, int, NDArray[np.int64], NDArray[np.int64]] | None = None
    for label in range(len(evidence.classes)):
        regions = _regions_of(evidence, label)
        if len(regions) < _SLICES:
            continue
        some = np.sort(rng.permutation(len(regions))[:_MAPPED])
        mapped = _map_down(evidence.region[regions[some]], int(own[-1]), seed)
        mixture = _mixture_by_silhouette(mapped, seed)
        points = _place_all(evidence.region[regions], some, mapped)
        member = mixture.predict(points)
        average = float(evidence.correct[evidence.films.labels == label].mean())
        for cluster in np.unique(member):
            inside = np.flatnonzero(member == cluster)
            films = np.unique(evidence.region_image[regions[inside]])
            if len(films) < _LEAST:
                continue
            fall = average - float(evidence.correct[evidence.region_image[regions[inside]]].mean())
            if best is None or fall > best[0]:
                near = np.argsort(
                    -_density_of(mixture, int(cluster), points[inside]), kind="stable"
                )
                best = fall, label, regions[inside[near]], films
    if best is None:
        return rank_at_random(evidence, "", seed)
    fall, label, ranked, films = best
    raised = _mistaken_for(evidence, label, films)
    return RankedRegions(ranked, raised, score=fall, members=np.sort(ranked))


def _map_down(region: NDArray[np.float32], dimensions: int, seed: int) -> NDArray[np.float64]:
    """UMAP of region embeddings (n, D) to (n, dimensions)."""
    umap = require_umap()
    # Numba, under UMAP, gives PyTorch all cores; beside other work its threads then wait in turns.
    with warnings.catch_warnings(), using_threads(None):
        warnings.simplefilter("ignore")  # of one thread, and of small samples
        model = umap.UMAP(
            n_components=dimensions,
            n_neighbors=min(_NEIGHBOURS, len(region) - 1),
            min_dist=0.0,
            n_epochs=_EPOCHS,
            random_state=seed,
            n_jobs=1,
            metric="precomputed",  # else it calls Python for each pair of so few
        )
        mapped = np.asarray(model.fit_transform(euclidean_distances(region)), dtype=np.float64)
    return np.nan_to_num(mapped)


def _place_all(
    region: NDArray[np.float32], some: NDArray[np.int64], mapped: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Place all regions (n, D) on a map of some of them: at the mean of the five nearest."""
    near = np.argpartition(-region @ region[some].T, _NEAREST, axis=1)[:, :_NEAREST]
    placed: NDArray[np.float64] = mapped[near].mean(axis=1)
    placed[some] = mapped
    return placed


def require_umap() -> Any:
    """Return the library that George needs; nothing else of this package does.

    Raises
    ------
    ConfigError
        It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what its parts that are not used here would need
            import umap
    except ImportError:
        raise ConfigError(
            "evaluate: George needs umap-learn, which is not installed; "
            "pip install '.[evaluate]' brings it."
        ) from None
    return umap


def _density_of(
    mixture: GaussianMixture, cluster: int, points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log density (n,) of points in one component, up to a constant."""
    away = (points - mixture.means_[cluster]) @ mixture.precisions_cholesky_[cluster]
    density: NDArray[np.float64] = -np.square(away).sum(axis=1)
    return density


def domino(evidence: RegionEvidence, own: str, seed: int) -> RankedRegions:
    """Fit an error-aware mixture and read its most discrepant slice (Eyuboglu et al.).

    25 slices over 32 principal components, labels and predictions weighed by 10, or by 1;
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
        weight=float(own.split()[1]),
        seed=seed,
    )
    size = mixture.share.sum(axis=0)
    usable = np.where(size >= _LEAST, mixture.discrepancy, -np.inf)
    slice_ = int(np.argmax(usable))
    rank = np.lexsort((-mixture.density[:, slice_], -np.round(mixture.share[:, slice_], 6)))
    surplus = mixture.prediction[slice_] - mixture.label[slice_]
    members = np.flatnonzero(mixture.share.argmax(axis=1) == slice_)
    return RankedRegions(
        rank.astype(np.int64),
        int(np.argmax(surplus)),
        score=float(mixture.discrepancy[slice_]),
        members=members,
    )


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
    score = float(np.abs(gap).max())
    return RankedRegions(ranked, raised, score=score, members=np.sort(ranked))


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
    """Fit mixtures of several sizes; return the one with the best silhouette."""
    best: tuple[float, GaussianMixture] | None = None
    for count in _GEORGE_COUNTS:
        mixture = GaussianMixture(count, reg_covar=1e-4, random_state=seed, max_iter=50)
        with warnings.catch_warnings():  # where it is after 50 steps is near enough to be ranked
            warnings.simplefilter("ignore", ConvergenceWarning)
            member = mixture.fit_predict(points)
        if len(np.unique(member)) < 2:
            continue
        width = float(silhouette_score(points, member))
        if best is None or width > best[0]:
            best = width, mixture
    if best is None:
        return GaussianMixture(1, random_state=seed).fit(points)
    return best[1]


OURS = "ours"
PUBLISHED = ("random", "distilling_failures", "george", "domino", "spurious_aware", "ravl")
_PAPER_SAMPLE = 2000  # regions that k-medoids is fitted on for RaVL, as in its code
METHODS = (*PUBLISHED[:-1], "gap_unweighted", "gap_weighted", "ravl", "pooled", "confirmed", OURS)


@dataclass(frozen=True, slots=True, eq=False)
class OurAnswer:
    """What this tool says of one setting, and how it came to it; its clusters pooled."""

    evidence: RegionEvidence  # under its pooling
    clusters: FeatureClusters
    proposed: tuple[EffectFeature, ...]
    examination: Examination
    correlations: tuple[SpuriousCorrelation, ...]
    verdict: Verdict

    def ranked(self, method: str = OURS) -> RankedRegions:
        """Return our list, or that of a step before it."""
        if method == "pooled":
            return _first_of(self.examination.discovery.candidates)
        if method == "confirmed":
            return _first_of(_confirmed(self.examination))
        ranked = our_ranking(self.correlations[0], self.evidence) if self.correlations else _NOTHING
        return replace(
            ranked,
            accuses=self.verdict.name == "fail",
            asks=self.verdict.name == "review",
            score=max((harm_of(c) for c in self.correlations), default=0.0),
        )


def harm_of(correlation: SpuriousCorrelation) -> float:
    """Return the gate from which on a shortcut would no longer count; 0 for what is none.

    Largest of: the smaller confirmed gap, the wrong calls and the answers that are its doing.
    """
    tested = correlation.counterfactual
    if correlation.kind != "shortcut" or tested is None or not tested.used:
        return 0.0
    arms, raised = correlation.confirmation.arms, correlation.cluster.raised_class
    gap = min(float(arms.gap[raised]), -arms.opposed_gap) if correlation.confirmed else 0.0
    undone = tested.removal.harm if tested.removal.undoes(0.0) else 0.0
    return float(max(np.nan_to_num(gap), undone, tested.changed_answers))


class Panel:
    """All methods, and what several share: embeddings and models by pooling, clusters by K."""

    def __init__(
        self,
        embed: Callable[[RegionPooling], RegionEvidence],
        encoder: Encoder,
        config: Config,
        relevance: RelevanceTable,
        structures: StructureReader,
    ) -> None:
        self.encoder, self.config, self.relevance = encoder, config, relevance
        self.structures = structures
        self.evidence = cache(embed)
        self.plain = cache(lambda how: self.evidence(how).counterfactual_model(encoder, None))
        self.ours = cache(self._ask_ours)
        self.clusters = cache(self._cluster)
        self.whole = cache(self._look_at_whole_films)

    def fitting(self, option: Option) -> Option:
        """Return the option with a pooling that the tower knows."""
        staged = split_tower(self.encoder.model.visual) is not None
        return option if staged else replace(option, pooling="one_pass")

    def ask(self, method: str, option: Option) -> RankedRegions:
        """Ask one method at an option that fits the tower.

        Raises
        ------
        DataError
            Embeddings that are not finite or all equal.
        """
        evidence, seed = self.evidence(option.pooling), self.config.discovery.seed
        if method in BASELINES:
            return BASELINES[method](evidence, option.own, seed)
        if method in (OURS, "pooled", "confirmed"):
            return self.ours(option).ranked(method)
        clusters = self.clusters(option)
        if method == "spurious_aware":
            return spurious_aware(evidence, clusters)
        return _rank_paper(method, evidence, clusters, self.config.discovery)

    def fit(self, ranked: RankedRegions, pooling: RegionPooling, count: int) -> NDArray[np.float32]:
        """Fit the boxes of the first so many regions of any list to where the effect lies, (n, 4).

        The effect is the fall of the margin of the raised class; without one boxes stay as cut.
        """
        evidence, first = self.evidence(pooling), ranked.regions[:count]
        boxes, films = evidence.region_boxes[first], evidence.region_image[first]
        if ranked.raised_class < 0 or not len(first):
            return boxes
        inputs = prepare_inputs(self.plain(pooling), ranked.raised_class, None, evidence.data)
        return fit_boxes(inputs, films, boxes, self.encoder.info.image_size)

    def _cluster(self, option: Option) -> FeatureClusters:
        evidence, own = self.evidence(option.pooling), self.config.discovery
        counts, classes = range(20, 51) if option.own == _MEDICAL_K else (), len(evidence.classes)
        return paper_clusters(
            evidence.region, classes, counts=counts, sample=_PAPER_SAMPLE, seed=own.seed
        )

    def _ask_ours(self, option: Option) -> OurAnswer:
        """Search and test as an audit does, and decide on the verdict."""
        evidence, discovery = self.evidence(option.pooling), self.config.discovery
        pooled = propose_clusters(
            evidence.region,
            _OUR_K[option.own],
            draws=discovery.draws,
            sample=discovery.sample,
            seed=discovery.seed,
            overlap=discovery.merge_overlap,
        )
        data, own, gate = evidence.data, self.config.evidence, self.config.gate
        model = evidence.counterfactual_model(self.encoder, self.structures)
        maps, styles = self.whole()
        tools = InterventionTools(model, maps, self.relevance, evidence.region)
        proposed = propose_features(data, evidence.region, model, maps[False], own)
        examined = confirm_correlations(data, pooled, discovery, own, gate, _silent, proposed)
        correlations = assess_correlations(data, examined.tested, tools, own, gate, _silent)
        bound = tools.bound_unnamed(data, examined.half, correlations)
        seen = Sensitivity(own.power, 0, 0, (), len(pooled), 0, {}, bound)
        verdict = decide_verdict(correlations, data.classes, gate, seen, styles=styles)
        return OurAnswer(evidence, pooled, proposed.features, examined, correlations, verdict)

    def _look_at_whole_films(self) -> tuple[dict[bool, EffectMaps], tuple[str, ...]]:
        """Map effects and find styles, which no option changes."""
        own, pooling = self.config.evidence, self.fitting(CHOSEN[OURS]).pooling
        data, model = self.evidence(pooling).data, self.plain(pooling)
        depends = measure_dependence(model, data, self.relevance, own)
        styles = () if depends is None else depends.findings
        return map_films(data, model, own, _silent), styles


def our_ranking(correlation: SpuriousCorrelation, evidence: RegionEvidence) -> RankedRegions:
    """Return our list of a setting: the regions of a correlation in its order."""
    cluster, order = correlation.cluster, correlation.order
    boxes = np.array(evidence.region_boxes[cluster.regions])
    tested = correlation.counterfactual
    if tested is not None and (located := tested.removal.located) is not None:
        boxes = np.where(np.isfinite(located), located, boxes).astype(np.float32)
    regions, members = cluster.regions[order], np.sort(cluster.regions)
    return RankedRegions(regions, cluster.raised_class, boxes=boxes[order], members=members)


_NOTHING = RankedRegions(np.empty(0, dtype=np.int64))


def _silent(stage: str, done: int, total: int) -> None:
    """Take progress and show nothing of it."""


def _rank_paper(
    method: str, evidence: RegionEvidence, clusters: FeatureClusters, config: DiscoveryConfig
) -> RankedRegions:
    """RaVL's protocol or an ablation, on all films; it accuses where a cluster passes filters."""
    present = clusters.presence(evidence.region_image, len(evidence.films))
    data = evidence.data
    if method == "ravl":
        films = np.ones(len(data.labels), dtype=np.bool_)
        paper = config.model_copy(update={"protocol": "paper"})
        found = discover_correlations(
            data, clusters, present, films, paper, min_films=1, large_gap=np.inf
        ).candidates
        score = found[0].performance_gap if found else 0.0
        return replace(_first_of(found), accuses=bool(found), score=score)
    table = performance_gaps(present, data.labels, data.correct, len(data.classes))
    unweighted = np.nan_to_num(np.abs(table.gap)).sum(axis=1)
    cluster = int(np.argmax(table.performance_gap if method == "gap_weighted" else unweighted))
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
