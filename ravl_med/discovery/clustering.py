"""K-medoids with cosine distance over region embeddings, K by the silhouette.

The medoids are fitted on a seeded sample; every region is then assigned to its nearest medoid in
chunks, so that the R x R matrix never exists. No label and no score enters.

References
----------
Schubert, Rousseeuw, "Fast and eager k-medoids clustering", Information Systems 101 (2021): the
change of the loss for a swap, computed for all medoids at once. Here it is evaluated for a block
of candidates at once and the best swap of a block is taken if it lowers the loss.
Kaufman, Rousseeuw, "Finding Groups in Data" (1990): CLARA, the silhouette.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.errors import DataError

__all__ = [
    "Clustering",
    "KMedoids",
    "assign_regions",
    "cluster_regions",
    "fit_k_medoids",
    "silhouette",
]

_BLOCK = 128
_CHUNK = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class KMedoids:
    """Medoids of a distance matrix.

    Attributes
    ----------
    medoids : ndarray of shape (K,), int64 - indices of points
    assignment : ndarray of shape (n,), int64 - nearest medoid of each point, 0 .. K - 1
    loss : float - sum of the distances to the nearest medoid
    """

    medoids: NDArray[np.int64]
    assignment: NDArray[np.int64]
    loss: float


@dataclass(frozen=True, slots=True, eq=False)
class Clustering:
    """Feature clusters of all regions.

    Attributes
    ----------
    medoids : ndarray of shape (K,), int64 - region index of each medoid
    assignment : ndarray of shape (R,), int64 - cluster of each region
    similarity : ndarray of shape (R,), float32 - cosine similarity to the medoid of the cluster
    silhouettes : mapping of int to float - K to the mean silhouette on the sample
    """

    medoids: NDArray[np.int64]
    assignment: NDArray[np.int64]
    similarity: NDArray[np.float32]
    silhouettes: Mapping[int, float]


def fit_k_medoids(distances: NDArray[np.float32], clusters: int, seed: int) -> KMedoids:
    """Fit k-medoids by swaps until no swap lowers the loss.

    Parameters
    ----------
    distances : ndarray of shape (n, n), float32 - symmetric, zero diagonal
    clusters : int - K, in the range [1, n]
    seed : int - of the k-means++ style start and the order of candidates

    Raises
    ------
    DataError
        K is larger than the number of points.
    """
    points = len(distances)
    if not 1 <= clusters <= points:
        raise DataError(
            f"clustering: K must be in the range [1, {points}], the number of regions. Got "
            f"{clusters}. Lower discovery.clusters_max or audit more films."
        )
    rng = np.random.default_rng(seed)
    medoids = _spread_start(distances, clusters, rng)
    if clusters < points:
        medoids = _swap_until_stable(distances, medoids, rng)
    to_medoids = distances[medoids]
    assignment = np.argmin(to_medoids, axis=0)
    loss = float(to_medoids.min(axis=0).sum(dtype=np.float64))
    return KMedoids(medoids, assignment.astype(np.int64), loss)


def _spread_start(
    distances: NDArray[np.float32], clusters: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw starting medoids with probability in proportion to the distance so far."""
    points = len(distances)
    chosen = [int(rng.integers(points))]
    nearest = distances[chosen[0]].astype(np.float64)
    for _ in range(1, clusters):
        nearest[chosen] = 0.0
        total = nearest.sum()
        if total > 0:
            pick = int(rng.choice(points, p=nearest / total))
        else:
            pick = int(np.setdiff1d(np.arange(points), chosen)[0])
        chosen.append(pick)
        np.minimum(nearest, distances[pick], out=nearest)
    return np.array(chosen, dtype=np.int64)


def _swap_until_stable(
    distances: NDArray[np.float32], medoids: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Take the best swap of each block of candidates until a whole pass finds none."""
    points, clusters = len(distances), len(medoids)
    medoids = medoids.copy()
    nearest, first, second, onehot = _neighbours(distances, medoids)
    order = rng.permutation(points)
    blocks = [order[i : i + _BLOCK] for i in range(0, points, _BLOCK)]
    idle = position = 0
    tolerance = 1e-6 * max(float(first.sum(dtype=np.float64)), 1e-12)
    while idle < len(blocks):
        block = blocks[position % len(blocks)]
        position += 1
        rows = distances[block]  # (b, n)
        shared = np.minimum(rows - first, 0).sum(axis=1)  # gain wherever the candidate is nearest
        if clusters > 1:
            change = (np.clip(rows, first, second) - second) @ onehot  # (b, K)
            loss = np.bincount(nearest, weights=second - first, minlength=clusters)
            change += loss.astype(np.float32)
        else:
            change = rows.sum(axis=1, keepdims=True) - first.sum()
            shared = np.zeros_like(shared)
        change += shared[:, None]
        change[np.isin(block, medoids)] = np.inf
        best = int(np.argmin(change))
        candidate, replaced = divmod(best, clusters)
        if change[candidate, replaced] < -tolerance:
            medoids[replaced] = block[candidate]
            nearest, first, second, onehot = _neighbours(distances, medoids)
            idle = 0
        else:
            idle += 1
    return medoids


def _neighbours(
    distances: NDArray[np.float32], medoids: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Nearest medoid, distance to it, distance to the second nearest, one-hot of the nearest."""
    to_medoids = distances[medoids]  # (K, n)
    nearest = np.argmin(to_medoids, axis=0)
    first = to_medoids[nearest, np.arange(to_medoids.shape[1])]
    if len(medoids) > 1:
        second = np.partition(to_medoids, 1, axis=0)[1]
    else:
        second = np.full_like(first, np.inf)
    onehot = np.eye(len(medoids), dtype=np.float32)[nearest]
    return nearest.astype(np.int64), first, second, onehot


def silhouette(distances: NDArray[np.float32], assignment: NDArray[np.int64]) -> float:
    """Return the mean silhouette of a clustering; 0 where it is not defined.

    Parameters
    ----------
    distances : ndarray of shape (n, n), float32 - symmetric, zero diagonal
    assignment : ndarray of shape (n,), int64

    Notes
    -----
    It is not defined for a single cluster, nor where every point is a cluster of its own.
    """
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(assignment)) < len(assignment):
        return 0.0
    return float(silhouette_score(distances, assignment, metric="precomputed"))


def assign_regions(
    embeddings: NDArray[np.float32], medoids: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Assign every region to its nearest medoid by cosine similarity, in chunks.

    Parameters
    ----------
    embeddings : ndarray of shape (R, D), float32 - unit norm
    medoids : ndarray of shape (K, D), float32 - unit norm

    Returns
    -------
    assignment : ndarray of shape (R,), int64
    similarity : ndarray of shape (R,), float32
    """
    assignment = np.empty(len(embeddings), dtype=np.int64)
    similarity = np.empty(len(embeddings), dtype=np.float32)
    for start in range(0, len(embeddings), _CHUNK):
        part = embeddings[start : start + _CHUNK] @ medoids.T
        nearest = part.argmax(axis=1)
        assignment[start : start + _CHUNK] = nearest
        similarity[start : start + _CHUNK] = part[np.arange(len(part)), nearest]
    return assignment, similarity


def cluster_regions(
    embeddings: NDArray[np.float32],
    candidates: Sequence[int],
    sample: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Clustering:
    """Cluster all regions; K is the candidate with the best ordinary silhouette.

    Parameters
    ----------
    embeddings : ndarray of shape (R, D), float32 - unit norm
    candidates : sequence of int - the values of K to try, ascending
    sample : int - regions that the medoids are fitted on
    seed : int
    progress : callable - called with (values of K done, values of K in all)

    Raises
    ------
    DataError
        Embeddings that are not finite, that are all equal, or fewer regions, in all or in the
        sample, than the smallest K.
    """
    _check_embeddings(embeddings, min(candidates))
    if sample < min(candidates):
        raise DataError(
            f"clustering: the medoids are fitted on {sample} regions; expected at least "
            f"{min(candidates)}, the smallest K. Raise discovery.sample or lower "
            "discovery.clusters_min."
        )
    usable = [k for k in candidates if k <= min(len(embeddings), sample)]
    rng = np.random.default_rng(seed)
    chosen = np.arange(len(embeddings))
    if len(chosen) > sample:
        chosen = np.sort(rng.choice(len(embeddings), size=sample, replace=False))
    points = embeddings[chosen]
    distances = np.maximum(1.0 - points @ points.T, 0.0, dtype=np.float32)
    np.fill_diagonal(distances, 0.0)
    fits: dict[int, KMedoids] = {}
    silhouettes: dict[int, float] = {}
    for done, k in enumerate(usable):
        progress(done, len(usable))
        fits[k] = fit_k_medoids(distances, k, seed)
        silhouettes[k] = silhouette(distances, fits[k].assignment)
    progress(len(usable), len(usable))
    best = max(silhouettes, key=lambda k: silhouettes[k])
    medoids = chosen[fits[best].medoids]
    assignment, similarity = assign_regions(embeddings, embeddings[medoids])
    return Clustering(medoids.astype(np.int64), assignment, similarity, silhouettes)


def _check_embeddings(embeddings: NDArray[np.float32], clusters: int) -> None:
    if len(embeddings) < clusters:
        raise DataError(
            f"clustering: the cohort has {len(embeddings)} regions; expected at least "
            f"{clusters}, the smallest K. Audit more films, use finer tiles (regions.tiles), or "
            "lower discovery.clusters_min."
        )
    if not np.isfinite(embeddings).all():
        bad = int((~np.isfinite(embeddings).all(axis=1)).sum())
        raise DataError(
            f"clustering: {bad} of {len(embeddings)} region embeddings hold NaN or infinity; "
            "expected finite numbers. Check the model's weights and its precision."
        )
    if float(np.ptp(embeddings, axis=0).max()) < 1e-6:
        raise DataError(
            f"clustering: all {len(embeddings)} region embeddings are equal; the model does not "
            "tell regions apart. Check its weights and its preprocessing."
        )
