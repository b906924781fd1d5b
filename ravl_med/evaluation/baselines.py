"""Published ways to find what a model fails on, each asked for a ranked list of regions.

None of them was made for regions. As RaVL compares them, each region inherits the label, the
prediction and the correctness of its film, and the method runs on region embeddings. How its answer
is read as a list of regions, and as the class that the feature raises, stands in the docstring of
each. They see all films of the validation split; none has a way to say that there is no shortcut.

References
----------
Jain et al., "Distilling Model Failures as Directions in Latent Space", ICLR 2023 (2206.14754).
Sohoni et al., "No Subclass Left Behind" (George), NeurIPS 2020 (2011.12945).
Eyuboglu et al., "Domino", ICLR 2022 (2203.14960).
Yang et al., "Mitigating Spurious Correlations in Multi-modal Models during Fine-tuning", ICML 2023
(2304.03916).

Domino's error-aware mixture: Gaussians over embeddings that share slices with labels and errors.

Written from the paper; the authors' library has had no release since 2022 and stands on one that is
no longer kept.

References
----------
Eyuboglu et al., "Domino: discovering systematic errors with cross-modal embeddings", ICLR 2022
(arXiv 2203.14960), section 4.2 and appendix: P(z, y, yhat | s) = N(z) P(y|s)^g P(yhat|s)^g.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

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

from ravl_med.discovery.clusters import FeatureClusters
from ravl_med.discovery.ravl import AuditData, performance_gaps
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.zero_shot import Scores
from ravl_med.evaluation.setting_films import SplitFilms
from ravl_med.evaluation.settings import TAU
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.evidence.counterfactual.effect_places import StructureReader


@dataclass(frozen=True, slots=True, eq=False)
class RankedRegions:
    """The answer of a method: where the feature is, best first, and which class it raises.

    Attributes
    ----------
    regions : ndarray of shape (n,), int64 - the 25 first at the least, where there are so many
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


@dataclass(frozen=True, eq=False)  # no slots: it holds what is derived
class RegionEvidence:
    """N films of a setting and their R regions.

    Attributes
    ----------
    region : ndarray of shape (R, D), float32 - unit norm
    region_image : ndarray of shape (R,), int64 - ascending
    region_boxes : ndarray of shape (R, 4), float32 - xyxy in pixels of the film
    class_embeddings : ndarray of shape (C, D), float32 - unit norm
    """

    classes: tuple[str, ...]
    films: SplitFilms
    region: NDArray[np.float32]
    region_image: NDArray[np.int64]
    region_boxes: NDArray[np.float32]
    scores: Scores
    class_embeddings: NDArray[np.float32]

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each film is classified rightly, (N,)."""
        right: NDArray[np.bool_] = self.scores.predictions == self.films.labels
        return right

    @cached_property
    def data(self) -> AuditData:
        """The films as discovery and evidence take them; patients are numbered from 0."""
        side = self.films.pixels.shape[-1]
        return AuditData(
            classes=self.classes,
            labels=self.films.labels,
            predictions=self.scores.predictions,
            patients=np.unique(self.films.patients, return_inverse=True)[1].astype(np.int64),
            sizes=np.full((len(self.films), 2), side, dtype=np.int64),
            region_image=self.region_image,
            region_boxes=self.region_boxes,
            image_scores=self.scores.image,
            region_scores=self.scores.region,
        )

    def probe(self, encoder: Encoder, structures: StructureReader | None) -> CounterfactualModel:
        """Return what the model can be asked by."""

        def read_input(film: int) -> NDArray[np.float32]:
            pixels = self.films.pixels[film].astype(np.float32) / np.float32(255.0)
            return encoder.preprocess(pixels).numpy()

        return CounterfactualModel(
            encoder,
            read_input,
            self.class_embeddings,
            TAU,
            _BATCH,
            structures,
        )


_BATCH = 64  # films that a model is asked at once
_FLOOR = 1e-6  # of variances
_TINY = 1e-12
_CLOSE = 1e-4  # change of the mean log-likelihood at which it stops
_LEAST_STEPS = 10  # slices of one cell start alike and take a few steps to part

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ErrorMixture:
    """A fitted mixture of S slices over n points.

    Attributes
    ----------
    share : ndarray of shape (n, S), float64 - posterior of the slices for each point
    density : ndarray of shape (n, S), float64 - log density of the embedding alone
    label, prediction : ndarray of shape (S, C), float64 - their probabilities in each slice
    """

    share: Floats
    density: Floats
    label: Floats
    prediction: Floats

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
    labels : ndarray of shape (n,), int64
    predicted : ndarray of shape (n, C) - probabilities of the classes
    slices : int - S
    weight : float - gamma, of labels and of predictions against the embedding
    steps : int - at most
    seed : int - of the noise that tells slices of one cell apart
    """
    classes = predicted.shape[1]
    z = np.asarray(points, dtype=np.float64)
    truth = np.eye(classes)[labels]
    soft = np.asarray(predicted, dtype=np.float64)
    share = _start(labels, soft.argmax(axis=1), classes, slices, seed)
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


def _start(
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    classes: int,
    slices: int,
    seed: int,
) -> Floats:
    """Responsibilities (n, S): the cells of the confusion matrix in turn, the fullest first."""
    cell = labels * classes + predictions
    order = np.argsort(-np.bincount(cell, minlength=classes**2), kind="stable")
    mine = order[np.arange(slices) % classes**2]
    noise = 0.1 * np.random.default_rng(seed).random((len(cell), slices)) + 1e-3
    share = (cell[:, None] == mine) * (1.0 + 10.0 * noise) + 1e-3 * noise
    normal: Floats = share / share.sum(axis=1, keepdims=True)
    return normal


def _gaussian(z: Floats, mean: Floats, spread: Floats) -> Floats:
    """Log density (n, S) of diagonal Gaussians."""
    scaled = 1.0 / spread
    away = (z**2) @ scaled.T - 2.0 * z @ (mean * scaled).T + (mean**2 * scaled).sum(axis=1)
    density: Floats = -0.5 * (away + np.log(spread).sum(axis=1) + z.shape[1] * np.log(2 * np.pi))
    return density


Baseline = Callable[[RegionEvidence, int], RankedRegions]

_FITTED = 4000  # regions that a class's model is fitted on, drawn evenly; all are ranked
_LEAST = 10  # films of a class that are wrong, and right, before its failures can be modelled
_SLICES = 25
_COMPONENTS = 32
_GEORGE_COUNTS = range(2, 8)
_SILHOUETTE = 1000


def draw_regions(evidence: RegionEvidence, seed: int) -> RankedRegions:
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
        if not _can_fail(evidence, label):
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
        return draw_regions(evidence, seed)
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
        return draw_regions(evidence, seed)
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
    "random": draw_regions,
    "distilling_failures": distil_failures,
    "george": george,
    "domino": domino,
}
"""Those that cluster nothing beforehand; Spurious-Aware detection takes RaVL's clusters."""


def _regions_of(evidence: RegionEvidence, label: int) -> NDArray[np.int64]:
    return np.flatnonzero(evidence.films.labels[evidence.region_image] == label).astype(np.int64)


def _can_fail(evidence: RegionEvidence, label: int) -> bool:
    """Whether enough films of a class are right and wrong to tell them apart."""
    own = evidence.correct[evidence.films.labels == label]
    return bool(min(own.sum(), (~own).sum()) >= _LEAST)


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
