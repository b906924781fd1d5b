"""RaVL's measures: cluster performance gap, cluster influence score, ranking.

References
----------
Varma et al., RaVL, NeurIPS 2024 (arXiv 2411.04097), section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.clustering import Clustering
from ravl_med.errors import DataError

__all__ = [
    "Discovery",
    "FeatureCluster",
    "GapTable",
    "discover_correlations",
    "influence_scores",
    "performance_gaps",
    "presence",
]


@dataclass(frozen=True, slots=True, eq=False)
class GapTable:
    """Accuracy with and without each feature cluster, class by class.

    Attributes
    ----------
    n_present, n_absent : ndarray of shape (K, C), int64 - images of the class in and outside I_c
    accuracy_present, accuracy_absent : ndarray of shape (K, C), float64 - NaN where n is 0
    weighted_gap : ndarray of shape (K, C), float64 - G_c^y; 0 where a side is empty
    """

    n_present: NDArray[np.int64]
    n_absent: NDArray[np.int64]
    accuracy_present: NDArray[np.float64]
    accuracy_absent: NDArray[np.float64]
    weighted_gap: NDArray[np.float64]

    @property
    def gap(self) -> NDArray[np.float64]:
        """Unweighted gap p_in - p_out, shape (K, C); NaN where a side is empty."""
        return self.accuracy_present - self.accuracy_absent

    @property
    def performance_gap(self) -> NDArray[np.float64]:
        """G_c, the sum over classes of the absolute weighted gaps, shape (K,)."""
        total: NDArray[np.float64] = np.abs(self.weighted_gap).sum(axis=1)
        return total


@dataclass(frozen=True, slots=True, eq=False)
class FeatureCluster:
    """A cluster of regions that survived RaVL's filters.

    Attributes
    ----------
    cluster : int - index of the cluster in the clustering
    regions : ndarray of shape (n,), int64 - region indices by similarity to the medoid, descending
    similarity : ndarray of shape (n,), float64 - cosine similarity to the medoid
    present : ndarray of shape (N,), bool - images with at least one region in the cluster (I_c)
    n_present, n_absent : ndarray of shape (C,), int64
    accuracy_present, accuracy_absent : ndarray of shape (C,), float64 - NaN where n is 0
    weighted_gap : ndarray of shape (C,), float64
    performance_gap : float - G_c
    influence : float - H_c
    raised_class : int - class with the largest unweighted gap (the paper's textual attribute)
    lowered_classes : tuple of int - classes with a negative gap, the most lowered first
    """

    cluster: int
    regions: NDArray[np.int64]
    similarity: NDArray[np.float64]
    present: NDArray[np.bool_]
    n_present: NDArray[np.int64]
    n_absent: NDArray[np.int64]
    accuracy_present: NDArray[np.float64]
    accuracy_absent: NDArray[np.float64]
    weighted_gap: NDArray[np.float64]
    performance_gap: float
    influence: float
    raised_class: int
    lowered_classes: tuple[int, ...]

    @property
    def gap(self) -> NDArray[np.float64]:
        """Unweighted gap p_in - p_out, shape (C,); NaN where a side is empty."""
        return self.accuracy_present - self.accuracy_absent


@dataclass(frozen=True, slots=True, eq=False)
class Discovery:
    """What Stage 1 found.

    Attributes
    ----------
    clustering : Clustering
    table : GapTable - of every cluster, survivors or not
    influence : ndarray of shape (K,), float64 - H_c; -inf where no image qualifies
    clusters : tuple of FeatureCluster - the survivors, by performance gap, descending
    """

    clustering: Clustering
    table: GapTable
    influence: NDArray[np.float64]
    clusters: tuple[FeatureCluster, ...]


def presence(
    assignment: NDArray[np.int64], region_image: NDArray[np.int64], images: int, clusters: int
) -> NDArray[np.bool_]:
    """Return which images hold a region of which cluster.

    Parameters
    ----------
    assignment : ndarray of shape (R,), int64 - cluster of each region
    region_image : ndarray of shape (R,), int64 - image of each region
    images, clusters : int - N and K

    Returns
    -------
    ndarray of shape (N, K), bool
    """
    present = np.zeros((images, clusters), dtype=np.bool_)
    present[region_image, assignment] = True
    return present


def performance_gaps(
    present: NDArray[np.bool_], labels: NDArray[np.int64], correct: NDArray[np.bool_], classes: int
) -> GapTable:
    """Compute the cluster performance gap of every cluster and class.

    Parameters
    ----------
    present : ndarray of shape (N, K), bool - image i holds a region of cluster k
    labels : ndarray of shape (N,), int64 - class of each image
    correct : ndarray of shape (N,), bool - the zero-shot prediction equals the label
    classes : int - C

    Returns
    -------
    GapTable

    References
    ----------
    RaVL section 3.1: G_c^y = w (p_in - p_out), w = 2 min(n_in, n_out) / (n_in + n_out).
    """
    member = np.eye(classes, dtype=np.float64)[labels]  # (N, C)
    inside = present.astype(np.float64).T  # (K, N)
    hits = member * correct[:, None]
    n_in, right_in = inside @ member, inside @ hits
    n_out, right_out = member.sum(axis=0) - n_in, hits.sum(axis=0) - right_in
    with np.errstate(invalid="ignore", divide="ignore"):
        p_in, p_out = right_in / n_in, right_out / n_out
        weight = 2.0 * np.minimum(n_in, n_out) / (n_in + n_out)
        weighted = weight * (p_in - p_out)
    both = (n_in > 0) & (n_out > 0)
    return GapTable(
        n_present=np.rint(n_in).astype(np.int64),
        n_absent=np.rint(n_out).astype(np.int64),
        accuracy_present=p_in,
        accuracy_absent=p_out,
        weighted_gap=np.where(both, weighted, 0.0),
    )


def influence_scores(
    present: NDArray[np.bool_],
    table: GapTable,
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    region_image: NDArray[np.int64],
    region_scores: NDArray[np.floating],
    assignment: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Compute the cluster influence score H_c of every cluster.

    Over the mispredicted images of I_c whose label is lowered by the cluster (p_in < p_out), the
    share whose most confident region for the predicted class belongs to the cluster; per label,
    then the maximum. Images with a single region say nothing and are skipped.

    Parameters
    ----------
    present : ndarray of shape (N, K), bool
    table : GapTable - of the same clusters
    labels, predictions : ndarray of shape (N,), int64
    region_image, assignment : ndarray of shape (R,), int64
    region_scores : ndarray of shape (R, C) - zero-shot softmax of each region

    Returns
    -------
    ndarray of shape (K,), float64 - -inf where no image qualifies
    """
    images, clusters = present.shape
    classes = region_scores.shape[1]
    counts = np.bincount(region_image, minlength=images)
    score = region_scores[np.arange(len(region_image)), predictions[region_image]]
    # The first region with the highest score of each image, as argmax would pick it.
    order = np.lexsort((np.arange(len(score)), -score, region_image))
    starts = np.searchsorted(region_image[order], np.arange(images))
    strongest = np.full(images, -1, dtype=np.int64)
    has_region = counts > 0
    strongest[has_region] = assignment[order[starts[has_region]]]

    wrong = (predictions != labels) & (counts > 1)
    influence = np.full((clusters, classes), -np.inf)
    lowered = np.nan_to_num(table.gap, nan=0.0) < 0
    for label in range(classes):
        rows = np.flatnonzero(wrong & (labels == label))
        inside = present[rows]  # (n, K)
        total = inside.sum(axis=0)
        led = (inside & (strongest[rows, None] == np.arange(clusters))).sum(axis=0)
        valid = (total > 0) & lowered[:, label]
        influence[valid, label] = led[valid] / total[valid]
    best: NDArray[np.float64] = influence.max(axis=1)
    return best


def discover_correlations(
    clustering: Clustering,
    region_image: NDArray[np.int64],
    region_scores: NDArray[np.floating],
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    min_influence: float,
) -> Discovery:
    """Run RaVL's filters and ranking over a clustering.

    Clusters are kept with influence of at least `min_influence`, and with at least one raised and
    one lowered class; they are ranked by performance gap. An empty list is a result.

    Parameters
    ----------
    clustering : Clustering - of the R regions
    region_image : ndarray of shape (R,), int64
    region_scores : ndarray of shape (R, C) - zero-shot softmax of each region
    labels, predictions : ndarray of shape (N,), int64
    min_influence : float - H_c below which a cluster is dropped (0.25 in the paper)

    Raises
    ------
    DataError
        When no image has two regions or more: influence is then undefined everywhere.
    """
    images, classes = len(labels), region_scores.shape[1]
    if images == 0 or np.bincount(region_image, minlength=images).max(initial=0) < 2:
        raise DataError(
            "regions: every film has fewer than 2 regions, so no region can be compared with "
            "another; expected at least 2. Set regions.tiles to 2 x 2 or more."
        )
    clusters = len(clustering.medoids)
    present = presence(clustering.assignment, region_image, images, clusters)
    table = performance_gaps(present, labels, predictions == labels, classes)
    influence = influence_scores(
        present, table, labels, predictions, region_image, region_scores, clustering.assignment
    )
    gap = np.nan_to_num(table.gap, nan=0.0)
    kept = (influence >= min_influence) & (gap > 0).any(axis=1) & (gap < 0).any(axis=1)
    ranked = np.flatnonzero(kept)
    ranked = ranked[np.argsort(-table.performance_gap[ranked], kind="stable")]
    survivors = tuple(
        _feature_cluster(int(k), clustering, present[:, k], table, float(influence[k]))
        for k in ranked
    )
    return Discovery(clustering, table, influence, survivors)


def _feature_cluster(
    k: int, clustering: Clustering, present: NDArray[np.bool_], table: GapTable, influence: float
) -> FeatureCluster:
    """Collect what is known of one surviving cluster."""
    members = np.flatnonzero(clustering.assignment == k)
    order = np.argsort(-clustering.similarity[members], kind="stable")
    gap = table.gap[k]
    lowered = [int(c) for c in np.argsort(np.nan_to_num(gap, nan=np.inf)) if gap[c] < 0]
    return FeatureCluster(
        cluster=k,
        regions=members[order],
        similarity=clustering.similarity[members][order].astype(np.float64),
        present=present,
        n_present=table.n_present[k],
        n_absent=table.n_absent[k],
        accuracy_present=table.accuracy_present[k],
        accuracy_absent=table.accuracy_absent[k],
        weighted_gap=table.weighted_gap[k],
        performance_gap=float(table.performance_gap[k]),
        influence=influence,
        raised_class=int(np.nanargmax(gap)),
        lowered_classes=tuple(lowered),
    )
