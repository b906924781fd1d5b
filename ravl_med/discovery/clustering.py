"""Feature clusters of all regions: k-medoids with cosine distance, proposed without any label.

The medoids are fitted on a seeded sample of the regions (CLARA) and refined on a wider one; every
region is then assigned to its nearest medoid in chunks, so that the R x R matrix never exists. One
clustering can miss a feature: too coarse a K dilutes it, too fine a K cuts it up, and a small group
may be absent from a sample. So candidates come from several K and several samples, and those that
hold the same regions are folded into one. RaVL's own protocol, one K chosen by the silhouette,
stands beside it.

References
----------
Kaufman, Rousseeuw, "Finding Groups in Data" (1990): CLARA, the silhouette.
Varma et al., RaVL, NeurIPS 2024 (arXiv 2411.04097), section 3.1: K over 2|Y| .. 5|Y|.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.feature_clusters import FeatureClusters, Partition, fold_clusters
from ravl_med.discovery.k_medoids import (
    KMedoids,
    cosine_distances,
    fit_k_medoids,
    refine_medoids,
    silhouette,
)
from ravl_med.errors import DataError
from ravl_med.storage.mapped_rows import empty_rows, let_go, take_rows

__all__ = ["paper_clusters", "propose_clusters"]

_CHUNK = 4096  # regions at once in a pass over the embeddings
_HELD = 4  # chunks after which a pass over a mapped file lets go of them
_WRITTEN = 64  # chunks after which what was found of them is let go of
_WIDER = 4  # medoids are refined on this many times the sample

Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """Tell nobody."""


def propose_clusters(
    embeddings: NDArray[np.float32],
    counts: Sequence[int] = (20, 40, 80),
    *,
    draws: int,
    sample: int,
    seed: int,
    overlap: float = 0.5,
    progress: Progress = _silent,
) -> FeatureClusters:
    """Propose feature clusters from several K and several samples, near-duplicates folded.

    Parameters
    ----------
    embeddings : ndarray of shape (R, D), float32 - unit norm; a memory map is read in chunks
    counts : sequence of int - the values of K
    draws : int - samples, each clustered with every K; with R <= sample they differ by their start
    sample : int - regions that the medoids are fitted on; they are refined on four times as many
    seed : int
    overlap : float in (0, 1] - Jaccard index from which two clusters of regions are one
    progress : callable - called with (steps done, steps in all)

    Raises
    ------
    DataError
        Embeddings that are not finite, that are all equal, or fewer regions, in all or in the
        sample, than the smallest K.
    """
    usable, left_out = _usable_counts(counts, len(embeddings), sample, "discovery.clusters")
    _check_embeddings(embeddings)
    steps = draws * len(usable)
    total = steps + len(_chunks(len(embeddings)))
    progress(0, total)
    medoids: list[NDArray[np.int64]] = []
    for number in range(draws):
        draw = _draw(embeddings, sample, seed, number)
        for k in usable:
            medoids.append(draw.medoids(k))
            progress(len(medoids), total)
    assigned = _assign(
        embeddings,
        [take_rows(embeddings, m) for m in medoids],
        lambda done: progress(steps + done, total),
    )
    partitions = tuple(
        _partition(regions, *found, position // len(usable))
        for position, (regions, found) in enumerate(zip(medoids, assigned, strict=True))
    )
    origin, label, folded = fold_clusters(partitions, overlap)
    return FeatureClusters(partitions, origin, label, folded, left_out)


def paper_clusters(
    embeddings: NDArray[np.float32],
    classes: int,
    *,
    sample: int,
    seed: int,
    progress: Progress = _silent,
) -> FeatureClusters:
    """Cluster as RaVL does: every K from 2|Y| to 5|Y|, the best ordinary silhouette wins.

    Parameters
    ----------
    embeddings : ndarray of shape (R, D), float32 - unit norm; a memory map is read in chunks
    classes : int - |Y|
    sample : int - regions that the medoids are fitted on, and the silhouette is computed on
    seed : int
    progress : callable - called with (steps done, steps in all)

    Returns
    -------
    FeatureClusters
        Of one partition, the smallest of equally good K; `silhouettes` holds every K tried.

    Raises
    ------
    DataError
        As `propose_clusters`.
    """
    counts = range(max(2, 2 * classes), 5 * classes + 1)
    usable, left_out = _usable_counts(counts, len(embeddings), sample, "the number of classes")
    _check_embeddings(embeddings)
    total = len(usable) + len(_chunks(len(embeddings)))
    progress(0, total)
    draw = _draw(embeddings, sample, seed, 0)
    fits: dict[int, KMedoids] = {}
    silhouettes: dict[int, float] = {}
    for k in usable:
        fits[k] = draw.fit(k)
        silhouettes[k] = silhouette(draw.distances, fits[k].assignment)
        progress(len(fits), total)
    best = max(usable, key=lambda k: silhouettes[k])
    medoids = draw.regions[draw.sample[fits[best].medoids]]
    (found,) = _assign(
        embeddings,
        [take_rows(embeddings, medoids)],
        lambda done: progress(len(usable) + done, total),
    )
    partitions = (_partition(medoids, *found, 0, silhouettes[best]),)
    origin, label, folded = fold_clusters(partitions, 1.0)
    return FeatureClusters(partitions, origin, label, folded, left_out, silhouettes)


def _usable_counts(
    counts: Sequence[int], regions: int, sample: int, setting: str
) -> tuple[list[int], dict[int, str]]:
    """Part the values of K into those that the sample has regions for, and the rest with why."""
    smallest, limit = min(counts), min(regions, sample)
    if regions < smallest:
        raise DataError(
            f"clustering: the cohort has {regions} regions; expected at least {smallest}, the "
            f"smallest K. Audit more films, use finer tiles (regions.tiles), or lower {setting}."
        )
    if sample < smallest:
        raise DataError(
            f"clustering: the medoids are fitted on {sample} regions; expected at least "
            f"{smallest}, the smallest K. Raise discovery.sample or lower {setting}."
        )
    where = "" if regions <= sample else " in the sample"
    left_out = {k: f"only {limit} regions{where}" for k in counts if k > limit}
    return [k for k in dict.fromkeys(counts) if k <= limit], left_out


def _chunks(regions: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, regions, _CHUNK)]


def _check_embeddings(embeddings: NDArray[np.float32]) -> None:
    """Refuse what is not finite and what is all equal, in one pass."""
    bad, equal = 0, True
    for done, chunk in enumerate(_chunks(len(embeddings)), 1):
        rows = np.asarray(embeddings[chunk])
        lost = int((~np.isfinite(rows).all(axis=1)).sum())
        bad += lost
        # Most cohorts differ in their first chunk: the comparison is then not made again.
        equal = equal and not lost and float(np.abs(rows - embeddings[0]).max()) < 1e-6
        if done % _HELD == 0:
            let_go(embeddings)
    let_go(embeddings)
    if bad:
        raise DataError(
            f"clustering: {bad} of {len(embeddings)} region embeddings hold NaN or infinity; "
            "expected finite numbers. Check the model's weights and its precision."
        )
    if equal:
        raise DataError(
            f"clustering: all {len(embeddings)} region embeddings are equal; the model does not "
            "tell regions apart. Check its weights and its preprocessing."
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Draw:
    """Regions (w,) with their points (w, D), and the distances (n, n) in a sample (n,) of them."""

    regions: NDArray[np.int64]
    points: NDArray[np.float32]
    sample: NDArray[np.int64]
    distances: NDArray[np.float32]
    seed: int

    def fit(self, clusters: int) -> KMedoids:
        """Fit on the sample."""
        return fit_k_medoids(self.distances, clusters, self.seed)

    def medoids(self, clusters: int) -> NDArray[np.int64]:
        """Return the regions (k,) that are medoids of all of the draw, fitted on the sample."""
        if len(self.sample) == len(self.regions):
            return self.regions[self.fit(clusters).medoids]
        rough = fit_k_medoids(self.distances, clusters, self.seed, thorough=False)
        return self.regions[refine_medoids(self.points, self.sample[rough.medoids])]


def _draw(embeddings: NDArray[np.float32], sample: int, seed: int, draw: int) -> _Draw:
    rng = np.random.default_rng([seed, draw])
    regions = _some(rng, len(embeddings), _WIDER * sample)
    inside = _some(rng, len(regions), sample)
    points = take_rows(embeddings, regions)
    return _Draw(
        regions, points, inside, cosine_distances(points[inside]), int(rng.integers(2**32))
    )


def _some(rng: np.random.Generator, count: int, size: int) -> NDArray[np.int64]:
    """Draw so many of a count, ascending; all where there are no more."""
    if count <= size:
        return np.arange(count, dtype=np.int64)
    return np.sort(rng.choice(count, size=size, replace=False))


def _assign(
    embeddings: NDArray[np.float32],
    medoids: Sequence[NDArray[np.float32]],
    progress: Callable[[int], None],
) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """Assign all regions to the nearest medoid of each set (k, D), reading each region once."""
    stacked = np.concatenate(medoids)
    ends = np.cumsum([len(vectors) for vectors in medoids]).tolist()
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    shape = (len(embeddings),)
    found = [(empty_rows(shape, np.int32), empty_rows(shape, np.float32)) for _ in spans]
    for done, chunk in enumerate(_chunks(len(embeddings)), 1):
        products = np.asarray(embeddings[chunk]) @ stacked.T
        rows = np.arange(len(products))
        for (assignment, similarity), (start, end) in zip(found, spans, strict=True):
            nearest = products[:, start:end].argmax(axis=1)
            assignment[chunk] = nearest
            similarity[chunk] = products[rows, start + nearest]
        if done % _HELD == 0:
            let_go(embeddings)
        if done % _WRITTEN == 0:
            _let_all_go(found)
        progress(done)
    let_go(embeddings)
    _let_all_go(found)
    return found


def _let_all_go(found: Sequence[tuple[NDArray[np.int32], NDArray[np.float32]]]) -> None:
    for mapped in chain(*found):
        let_go(mapped)


def _partition(
    medoids: NDArray[np.int64],
    assignment: NDArray[np.int32],
    similarity: NDArray[np.float32],
    draw: int,
    width: float = float("nan"),
) -> Partition:
    loss = 1.0 - float(similarity.mean(dtype=np.float64))
    let_go(similarity)
    return Partition(medoids, assignment, similarity, draw, loss, width)
