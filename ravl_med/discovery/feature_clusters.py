"""Feature clusters of all regions, pooled from several partitions, each set of regions once.

References
----------
Hennig, "Cluster-wise assessment of cluster stability", Computational Statistics & Data Analysis 52
(2007): clusters of two clusterings are matched by the Jaccard index; a cluster whose best match is
at most 0.5 counts as dissolved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ravl_med.storage.mapped_rows import let_go

__all__ = ["FeatureClusters", "Partition", "fold_clusters"]

_COUNTED = 2**18  # regions at once


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """One k-medoids clustering of all regions; of many, in mapped files.

    Attributes
    ----------
    medoids : ndarray of shape (k,), int64 - region index of each medoid
    assignment : ndarray of shape (R,), int32 - nearest medoid of each region, 0 .. k - 1
    similarity : ndarray of shape (R,), float32 - cosine similarity to that medoid
    draw : int - which draw of the sample the medoids were fitted on
    loss : float - mean cosine distance of all regions to their medoid
    silhouette : float - mean silhouette on the sample; NaN where it was not asked for
    """

    medoids: NDArray[np.int64]
    assignment: NDArray[np.int32]
    similarity: NDArray[np.float32]
    draw: int
    loss: float
    silhouette: float

    def let_go(self) -> None:
        """Let go of what is held of the regions."""
        let_go(self.assignment)
        let_go(self.similarity)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureClusters:
    """Candidates: the clusters of one or more partitions, each set of regions once.

    Attributes
    ----------
    partitions : tuple of Partition
    origin : ndarray of shape (K,), int64 - partition of each cluster, ascending
    label : ndarray of shape (K,), int64 - its label in that partition
    folded : tuple of length K of tuples of (partition, label) - clusters folded into each
    left_out : mapping of int to str - values of K that could not be used, and why
    silhouettes : mapping of int to float - K to its silhouette, where K was chosen by it
    """

    partitions: tuple[Partition, ...]
    origin: NDArray[np.int64]
    label: NDArray[np.int64]
    folded: tuple[tuple[tuple[int, int], ...], ...]
    left_out: Mapping[int, str]
    silhouettes: Mapping[int, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.origin)

    @property
    def regions(self) -> int:
        """R, the number of regions that were clustered."""
        return len(self.partitions[0].assignment)

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
        partition.let_go()
        ranked: NDArray[np.int64] = regions[order]
        return ranked

    def similarity_of(self, cluster: int) -> NDArray[np.float32]:
        """Return the cosine similarity (n,) of the members to the medoid, in their order."""
        partition = self.partitions[self.origin[cluster]]
        similarity = partition.similarity[partition.assignment == self.label[cluster]]
        partition.let_go()
        ranked: NDArray[np.float32] = -np.sort(-similarity, kind="stable")
        return ranked

    def presence(self, region_image: NDArray[np.int64], images: int) -> NDArray[np.bool_]:
        """Return which images hold a region of which cluster.

        Parameters
        ----------
        region_image : ndarray of shape (R,), int64 - image of each region
        images : int - N

        Returns
        -------
        ndarray of shape (N, K), bool
        """
        present = np.zeros((images, len(self)), dtype=np.bool_)
        for number, partition in enumerate(self.partitions):
            columns = np.flatnonzero(self.origin == number)
            inside = np.zeros((images, len(partition.medoids)), dtype=np.bool_)
            inside[region_image, partition.assignment] = True
            partition.let_go()
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
    neither kept nor folded.

    Parameters
    ----------
    partitions : sequence of Partition - of the same regions
    overlap : float in (0, 1] - Jaccard index from which two clusters are one

    Returns
    -------
    origin, label, folded : as in `FeatureClusters`
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
    partition.let_go()
    return counts.astype(np.int64, copy=False)


def _shared(a: Partition, b: Partition) -> NDArray[np.int64]:
    """Regions that each cluster of one shares with each of another, shape (k_a, k_b)."""
    shape = len(a.medoids), len(b.medoids)
    shared = np.zeros(shape[0] * shape[1], dtype=np.int64)
    for start in range(0, len(a.assignment), _COUNTED):
        part = slice(start, start + _COUNTED)
        pairs = a.assignment[part].astype(np.intp) * shape[1] + b.assignment[part]
        shared += np.bincount(pairs, minlength=len(shared))
    a.let_go()
    b.let_go()
    return shared.reshape(shape)
