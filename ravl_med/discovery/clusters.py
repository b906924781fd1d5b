"""Feature clusters of all regions: k-medoids with cosine distance, proposed without any label.

The medoids are fitted on a seeded sample of the regions (CLARA) and refined on a wider one; every
region is then assigned to its nearest medoid in chunks, so that the R x R matrix never exists. One
clustering can miss a feature: too coarse a K dilutes it, too fine a K cuts it up, and a small group
may be absent from a sample. So candidates come from several K and several samples, and those that
hold the same regions are folded into one. RaVL's own protocol, one K chosen by the silhouette,
stands beside it. The map of the clusters is a classical scaling of the distances of their medoids.

References
----------
Kaufman, Rousseeuw, "Finding Groups in Data" (1990): CLARA, the silhouette.
Varma et al., RaVL, NeurIPS 2024 (arXiv 2411.04097), section 3.1: K over 2|Y| .. 5|Y|.
Hennig, "Cluster-wise assessment of cluster stability", Computational Statistics & Data Analysis 52
(2007): clusters of two clusterings are matched by the Jaccard index; a cluster whose best match is
at most 0.5 counts as dissolved.
Gower, "Some distance properties of latent root and vector methods used in multivariate analysis",
Biometrika 53 (1966): classical scaling of Euclidean distances and principal components are one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat
from scipy.spatial.distance import pdist

from ravl_med.config.audit import DiscoveryConfig
from ravl_med.discovery.k_medoids import (
    KMedoids,
    cosine_distances,
    fit_k_medoids,
    refine_medoids,
    silhouette,
)
from ravl_med.errors import DataError
from ravl_med.storage.documents import result_type
from ravl_med.storage.mapped_arrays import empty_rows, release_pages, take_rows

_COUNTED = 2**18  # regions at once
_CHUNK = 4096  # regions at once in a pass over the embeddings
_HELD = 4  # chunks after which a pass over a mapped file lets go of them
_WRITTEN = 64  # chunks after which what was found of them is let go of
_WIDER = 4  # medoids are refined on this many times the sample

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """One k-medoids clustering of all regions; of many, in mapped files."""

    medoids: NDArray[np.int64]  # (k,) region index of each medoid
    assignment: NDArray[np.int32]  # (R,) nearest medoid of each region, 0 .. k - 1
    similarity: NDArray[np.float32]  # (R,) cosine similarity to that medoid
    draw: int  # which draw of the sample the medoids were fitted on
    loss: float  # mean cosine distance of all regions to their medoid
    silhouette: float  # mean silhouette on the sample; NaN where it was not asked for

    def release_pages(self) -> None:
        """Let go of what is held of the regions."""
        release_pages(self.assignment)
        release_pages(self.similarity)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureClusters:
    """Candidates: the clusters of one or more partitions, each set of regions once."""

    partitions: tuple[Partition, ...]
    origin: NDArray[np.int64]  # (K,) partition of each cluster, ascending
    label: NDArray[np.int64]  # (K,) its label in that partition
    folded: tuple[tuple[tuple[int, int], ...], ...]  # of length K; those folded into each
    left_out: Mapping[int, str]  # values of K that could not be used, and why
    # K to its silhouette, where K was chosen by it
    silhouettes: Mapping[int, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.origin)

    @property
    def medoids(self) -> NDArray[np.int64]:
        """Region index of the medoid of each cluster, shape (K,), int64."""
        pairs = zip(self.origin, self.label, strict=True)
        return np.array([self.partitions[p].medoids[k] for p, k in pairs], dtype=np.int64)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of regions of each cluster, shape (K,), int64."""
        counts = [_sizes(partition) for partition in self.partitions]
        pairs = zip(self.origin, self.label, strict=True)
        return np.array([counts[p][k] for p, k in pairs], dtype=np.int64)

    def members(self, cluster: int) -> NDArray[np.int64]:
        """Return the region indices (n,) of a cluster by similarity to the medoid, descending."""
        partition = self.partitions[self.origin[cluster]]
        regions = np.flatnonzero(partition.assignment == self.label[cluster])
        order = np.argsort(-partition.similarity[regions], kind="stable")
        partition.release_pages()
        ranked: NDArray[np.int64] = regions[order]
        return ranked

    def similarity_of(self, cluster: int) -> NDArray[np.float32]:
        """Return the cosine similarity (n,) of the members to the medoid, in their order."""
        partition = self.partitions[self.origin[cluster]]
        similarity = partition.similarity[partition.assignment == self.label[cluster]]
        partition.release_pages()
        ranked: NDArray[np.float32] = -np.sort(-similarity, kind="stable")
        return ranked

    def presence(self, region_image: NDArray[np.int64], images: int) -> NDArray[np.bool_]:
        """Return which of N films hold a region of which cluster, (N, K)."""
        present = np.zeros((images, len(self)), dtype=np.bool_)
        for number, partition in enumerate(self.partitions):
            columns = np.flatnonzero(self.origin == number)
            inside = np.zeros((images, len(partition.medoids)), dtype=np.bool_)
            inside[region_image, partition.assignment] = True
            partition.release_pages()
            present[:, columns] = inside[:, self.label[columns]]
        return present


def fold_clusters(
    partitions: Sequence[Partition], overlap: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[tuple[tuple[int, int], ...], ...]]:
    """Keep one of the clusters that hold the same regions.

    The walk goes by support, the sum of the best Jaccard indices over the other partitions: what
    most partitions agree on stands for the rest, and the odd cut of one chance draw does not.
    Equals go by size, then by place. What resembles a kept cluster enough is not kept, and joins
    the one that it resembles most. A cluster without regions, as copies of one medoid leave it, is
    neither kept nor folded. `overlap` is the Jaccard index from which two clusters are one.
    """
    jaccard, sizes = _jaccard(partitions)
    names = [(p, k) for p, part in enumerate(partitions) for k in range(len(part.medoids))]
    firsts = np.cumsum([0, *(len(part.medoids) for part in partitions[:-1])])
    support = np.maximum.reduceat(jaccard, firsts, axis=1).sum(axis=1)
    walk = [c for c in np.lexsort((-sizes, -support)).tolist() if sizes[c]]
    kept: list[int] = []
    for cluster in walk:
        if not (jaccard[cluster, kept] >= overlap).any():
            kept.append(cluster)
    kept.sort()
    joined: list[list[tuple[int, int]]] = [[] for _ in kept]
    for cluster in sorted(set(walk) - set(kept)):
        joined[int(jaccard[cluster, kept].argmax())].append(names[cluster])
    origin, label = np.array([names[c] for c in kept], dtype=np.int64).T.copy()
    return origin, label, tuple(map(tuple, joined))


def _jaccard(partitions: Sequence[Partition]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Jaccard indices of all clusters of all partitions, 0 inside a partition; their sizes."""
    counts = [len(part.medoids) for part in partitions]
    firsts = np.cumsum([0, *counts])
    sizes = [_sizes(partition) for partition in partitions]
    jaccard = np.zeros((firsts[-1], firsts[-1]))
    for a in range(len(partitions)):
        for b in range(a + 1, len(partitions)):
            both = _shared(partitions[a], partitions[b])
            union = np.maximum(sizes[a][:, None] + sizes[b] - both, 1)
            block = slice(firsts[a], firsts[a + 1]), slice(firsts[b], firsts[b + 1])
            jaccard[block] = both / union
            jaccard[block[::-1]] = jaccard[block].T
    return jaccard, np.concatenate(sizes)


def _sizes(partition: Partition) -> NDArray[np.int64]:
    """Regions of each cluster of a partition, shape (k,)."""
    counts = np.bincount(partition.assignment, minlength=len(partition.medoids))
    partition.release_pages()
    return counts.astype(np.int64, copy=False)


def _shared(a: Partition, b: Partition) -> NDArray[np.int64]:
    """Regions that each cluster of one shares with each of another, shape (k_a, k_b)."""
    shape = len(a.medoids), len(b.medoids)
    shared = np.zeros(shape[0] * shape[1], dtype=np.int64)
    for start in range(0, len(a.assignment), _COUNTED):
        part = slice(start, start + _COUNTED)
        pairs = a.assignment[part].astype(np.intp) * shape[1] + b.assignment[part]
        shared += np.bincount(pairs, minlength=len(shared))
    a.release_pages()
    b.release_pages()
    return shared.reshape(shape)


def cluster_regions(
    embeddings: NDArray[np.float32],
    classes: int,
    config: DiscoveryConfig,
    progress: Progress = lambda done, total: None,
) -> FeatureClusters:
    """Propose feature clusters by the protocol of a config, see `propose_clusters`."""
    if config.protocol != "pooled":
        first, last = config.k_range or (0, -1)
        return paper_clusters(
            embeddings,
            classes,
            sample=config.sample,
            seed=config.seed,
            counts=range(first, last + 1),
            progress=progress,
        )
    return propose_clusters(
        embeddings,
        config.clusters,
        draws=config.draws,
        sample=config.sample,
        seed=config.seed,
        overlap=config.merge_overlap,
        progress=progress,
    )


def propose_clusters(
    embeddings: NDArray[np.float32],
    counts: Sequence[int] = (20, 40, 80),
    *,
    draws: int,
    sample: int,
    seed: int,
    overlap: float = 0.5,
    progress: Progress = lambda done, total: None,
) -> FeatureClusters:
    """Propose feature clusters from several K and several samples, near-duplicates folded.

    Embeddings (R, D) are of unit norm; a memory map is read in chunks. Each of the draws is
    clustered with every K of `counts`; with R <= sample they differ by their start. Medoids are
    fitted on the sample and refined on four times as many regions.

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
    counts: Sequence[int] = (),
    progress: Progress = lambda done, total: None,
) -> FeatureClusters:
    """Cluster as RaVL does: every K from 2|Y| to 5|Y|, the best ordinary silhouette wins.

    Other `counts` take their place, as 20 to 50 did in the paper's medical run. Medoids and
    silhouettes are of a sample; the smallest of equally good K is taken. Errors are those of
    `propose_clusters`.
    """
    counts = counts or range(max(2, 2 * classes), 5 * classes + 1)
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
            release_pages(embeddings)
    release_pages(embeddings)
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
            release_pages(embeddings)
        if done % _WRITTEN == 0:
            _let_all_go(found)
        progress(done)
    release_pages(embeddings)
    _let_all_go(found)
    return found


def _let_all_go(found: Sequence[tuple[NDArray[np.int32], NDArray[np.float32]]]) -> None:
    for mapped in chain(*found):
        release_pages(mapped)


def _partition(
    medoids: NDArray[np.int64],
    assignment: NDArray[np.int32],
    similarity: NDArray[np.float32],
    draw: int,
    width: float = float("nan"),
) -> Partition:
    loss = 1.0 - float(similarity.mean(dtype=np.float64))
    release_pages(similarity)
    return Partition(medoids, assignment, similarity, draw, loss, width)


_DECIMALS = 4  # of a position: more would differ from machine to machine
_NO_SPREAD = 1e-9  # of distances, from which on they count as all the same


@result_type()
class MappedCluster:
    """A feature cluster on the map."""

    cluster: int = Field(description="number of the cluster")
    x: FiniteFloat = Field(description="of its medoid, in distances on the unit sphere")
    y: FiniteFloat = Field(description="the same, upwards")
    regions: int = Field(description="regions of the cluster")
    rank: int | None = Field(description="of the correlation that it is; null: it is none")


@result_type(members="kept correlation clusters")
class ClusterMap:
    """Where the clusters lie to each other: classical scaling of the distances of their medoids."""

    clusters: tuple[MappedCluster, ...] = Field(description="every cluster that was proposed")
    kept: float = Field(description="share of the squared distances that the map holds")
    correlation: float = Field(description="of distances on the map with the true ones")


def map_clusters(
    medoids: NDArray[np.floating], regions: NDArray[np.integer], ranks: Mapping[int, int]
) -> ClusterMap:
    """Project medoids (K, D) of unit norm onto the two directions in which they differ most.

    Each axis points to where its farthest cluster lies. `regions` (K,) counts those of each
    cluster; `ranks` are of the clusters that are a correlation.
    """
    points = np.asarray(medoids, dtype=np.float64)
    centred = points - points.mean(axis=0) if len(points) else points
    left, spread, _ = np.linalg.svd(centred, full_matrices=False)
    axes = (left * spread)[:, :2]
    places = np.zeros((len(points), 2))
    places[:, : axes.shape[1]] = np.round(axes, _DECIMALS)
    if len(places):
        farthest = places[np.abs(places).argmax(axis=0), [0, 1]]  # of equals the first
        places *= np.where(farthest < 0, -1.0, 1.0)
    total = float(np.square(spread).sum())
    places += 0.0  # no minus zero
    return ClusterMap(
        tuple(
            MappedCluster(cluster, float(x), float(y), int(count), ranks.get(cluster))
            for cluster, ((x, y), count) in enumerate(zip(places, regions, strict=True))
        ),
        float(np.square(spread[:2]).sum()) / total if total > _NO_SPREAD else math.nan,
        _correlation(places, points),
    )


def _correlation(places: NDArray[np.float64], points: NDArray[np.float64]) -> float:
    """Correlate the distances of all pairs on the map with those between the points."""
    if len(points) < 3:
        return math.nan
    shown, true = pdist(places), pdist(points)
    if min(shown.std(), true.std()) < _NO_SPREAD:
        return math.nan
    return float(np.corrcoef(shown, true)[0, 1])
