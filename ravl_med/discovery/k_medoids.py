"""K-medoids on a matrix of distances, their refinement on more points, and the silhouette.

A swap exchanges one medoid for one candidate. FasterPAM prices the swaps of a candidate with all
medoids at once; here the price list of a pool of candidates is kept, and after a swap only the
points whose nearest or second nearest medoid changed are priced anew. The points are sorted by
cluster and summed over segments: that costs the same for every K, where a product with the one-hot
matrix of the clusters grows with K and waits for cores that others use.

References
----------
Schubert, Rousseeuw, "Fast and eager k-medoids clustering", Information Systems 101 (2021): the
change of the loss for a swap, with the change that all medoids share split off.
Arthur, Vassilvitskii, "k-means++", SODA 2007: the start, here the best of several draws a step.
Rolland, Schilling, Current, "An efficient tabu search procedure for the p-median problem",
European Journal of Operational Research 96 (1997): the way out of a poor local optimum.
Kaufman, Rousseeuw, "Finding Groups in Data" (1990): PAM, CLARA, the silhouette.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.errors import DataError

_BLOCK = 256  # candidates priced at once in a pass over all: the block stays in the cache
_TRIALS = 8  # draws for each medoid of the start
_FIRST_POOL = 300  # random candidates that the start is improved with, or for each medoid:
_FIRST_PER_MEDOID = 10
_POOL = 400  # most promising candidates of a pass, or this many for each medoid:
_POOL_PER_MEDOID = 10
_PATIENCE = 25  # swaps, better or worse, without a better set of medoids than the best met
_TENURE = 5  # swaps during which an exchanged medoid stays as it is
_CENTRAL, _REMOTE = 5, 2  # members of each cluster that a refinement tries
_LEAST, _LEAST_ROUGH = 1e-6, 2e-5  # share of the loss that a swap must save to be made


@dataclass(frozen=True, slots=True, eq=False)
class KMedoids:
    """Medoids of a distance matrix."""

    medoids: NDArray[np.int64]  # (K,) indices of points
    assignment: NDArray[np.int64]  # (n,) nearest medoid of each point, 0 .. K - 1
    loss: float  # sum of the distances to the nearest medoid


def fit_k_medoids(
    distances: NDArray[np.float32],
    clusters: int,
    seed: int,
    starts: int = 1,
    *,
    thorough: bool = True,
) -> KMedoids:
    """Fit k-medoids: no single swap lowers the loss of what is returned.

    Distances (n, n) are symmetric with a zero diagonal. Of several starts the one with the lowest
    loss is kept, the first of equals. What is not thorough stops after a few random candidates,
    where a swap may still lower the loss: enough for medoids that are refined on more points.

    Raises
    ------
    DataError
        K is larger than the number of points.
    """
    points = len(distances)
    if not 1 <= clusters <= points:
        raise DataError(
            f"clustering: K must be in the range [1, {points}], the number of regions. Got "
            f"{clusters}. Lower discovery.clusters or audit more films."
        )
    fits = (
        _improve(distances, clusters, np.random.default_rng([seed, start]), thorough)
        for start in range(starts)
    )
    best = min(fits, key=lambda search: search.loss)
    return KMedoids(best.points, best.nearest, best.loss)


class _Search:
    """Medoids on the move, and the price of every swap of one of them for a candidate of a pool.

    pool (m,) holds points, the medoids among them; medoids (K,) are places in it. columns (n, m)
    are distances to the pool, to_medoids (n, K) those to the medoids. nearest and runner_up (n,)
    are slots of medoids, first and second (n,) their distances. A swap changes the loss by
    own (K, m), in the cluster of the medoid that leaves, and shared (m,), elsewhere; barred (m,)
    is infinite for medoids.
    """

    def __init__(
        self,
        columns: NDArray[np.float32],
        pool: NDArray[np.int64],
        medoids: NDArray[np.int64],
        least: float = _LEAST,
    ) -> None:
        self.columns, self.pool = columns, pool
        self.medoids = np.searchsorted(pool, medoids)
        self.to_medoids = np.take(columns, self.medoids, axis=1)
        self.nearest, self.first, self.runner_up, self.second = _two_nearest(self.to_medoids)
        self.tolerance = least * max(self.loss, 1e-12)
        self.own = np.zeros((len(medoids), len(pool)), dtype=np.float32)
        self.shared = np.zeros(len(pool), dtype=np.float32)
        self._price(np.arange(len(columns)), 1)
        self.barred = np.zeros(len(pool), dtype=np.float32)
        self.barred[self.medoids] = np.inf

    @property
    def loss(self) -> float:
        """Sum of the distances of all points to their nearest medoid."""
        return float(self.first.sum(dtype=np.float64))

    @property
    def points(self) -> NDArray[np.int64]:
        """The medoids as points, shape (K,)."""
        chosen: NDArray[np.int64] = self.pool[self.medoids]
        return chosen

    def swap(self, slot: int, candidate: int) -> None:
        """Exchange the medoid of a slot for a candidate; price anew only where it matters."""
        self.barred[self.medoids[slot]], self.barred[candidate] = 0.0, np.inf
        self.medoids[slot] = candidate
        self.to_medoids[:, slot] = self.columns[:, candidate]
        distance = self.columns[:, candidate]
        moved = (self.nearest == slot) | (distance < self.first)
        rest = ~moved & ((self.runner_up == slot) | (distance < self.second))
        parts = np.flatnonzero(moved), np.flatnonzero(rest)
        self._price(parts[0], -1)
        farther = self.second[parts[1]]
        for points in parts:
            nearest, first, runner_up, second = _two_nearest(self.to_medoids[points])
            self.nearest[points], self.first[points] = nearest, first
            self.runner_up[points], self.second[points] = runner_up, second
        self._price(parts[0], 1)
        self._price_second(parts[1], farther)

    def _price(self, points: NDArray[np.int64], sign: int) -> None:
        """Add to the prices, or take from them, what some points contribute."""
        order, starts = _by_slot(self.nearest[points])
        points = points[order]
        columns, first = self.columns[points], self.first[points]
        kept = np.minimum(columns, first[:, None])
        self.shared += sign * (kept.sum(axis=0) - first.sum())
        left = np.minimum(columns, self.second[points, None], out=columns)
        left -= kept
        self.own[self.nearest[points[starts]]] += sign * np.add.reduceat(left, starts, axis=0)

    def _price_second(self, points: NDArray[np.int64], before: NDArray[np.float32]) -> None:
        """Price anew the points of which only the second nearest medoid changed."""
        order, starts = _by_slot(self.nearest[points])
        points = points[order]
        columns = self.columns[points]
        change = np.minimum(columns, self.second[points, None])
        change -= np.minimum(columns, before[order, None], out=columns)
        self.own[self.nearest[points[starts]]] += np.add.reduceat(change, starts, axis=0)

    def best_swap(self, fixed: NDArray[np.bool_] | None = None) -> tuple[float, int, int]:
        """Return the change of the loss by the best swap of the pool, its slot and candidate."""
        change = self.own + (self.shared + self.barred)
        if fixed is not None:
            change[fixed] = np.inf
        slot, candidate = divmod(int(change.argmin()), len(self.pool))
        return float(change[slot, candidate]), slot, candidate

    def descend(self) -> None:
        """Take the best swap of the pool until none lowers the loss."""
        before = np.inf
        while self.loss < before:  # rounding must not keep it going round
            change, slot, candidate = self.best_swap()
            if not change < -self.tolerance:
                return
            before = self.loss
            self.swap(slot, candidate)

    def explore(self, patience: int) -> NDArray[np.int64]:
        """Keep taking the best swap, also where it is worse, and return the best points met.

        What was just exchanged stays exchanged for a while; else the first swap would be undone.
        """
        best, lowest = self.points, self.loss
        tenure = min(_TENURE, len(self.medoids) - 1)
        fixed_until = np.zeros(len(self.medoids), dtype=np.int64)
        waiting: deque[tuple[int, int]] = deque()  # step, candidate that may come back then
        step = last = 0
        while step - last < patience:
            step += 1
            while waiting and waiting[0][0] <= step:
                self.barred[waiting.popleft()[1]] = 0.0
            change, slot, candidate = self.best_swap(fixed_until >= step)
            if not np.isfinite(change):
                break
            leaving = int(self.medoids[slot])
            self.swap(slot, candidate)
            fixed_until[slot] = step + tenure
            self.barred[leaving] = np.inf
            waiting.append((step + tenure + 1, leaving))
            if self.loss < lowest - self.tolerance:
                best, lowest, last = self.points, self.loss, step
        return best


def _open(
    distances: NDArray[np.float32],
    pool: NDArray[np.int64],
    medoids: NDArray[np.int64],
    least: float = _LEAST,
) -> _Search:
    pool = np.union1d(pool, medoids)
    return _Search(np.take(distances, pool, axis=1), pool, medoids, least)


def _improve(
    distances: NDArray[np.float32], clusters: int, rng: np.random.Generator, thorough: bool
) -> _Search:
    """Start, improve with a few candidates, explore, and end where no swap of any point helps."""
    medoids = _spread_start(distances, clusters, rng)
    size = min(len(distances), max(_FIRST_POOL, _FIRST_PER_MEDOID * clusters))
    pool = rng.choice(len(distances), size=size, replace=False)
    search = _open(distances, pool, medoids, _LEAST_ROUGH)
    search.descend()
    if not thorough:
        return search
    search = _open(distances, _promising(distances, search), search.points)
    search.descend()
    medoids = search.explore(_PATIENCE)
    search = _open(distances, medoids, medoids)
    before = np.inf
    while search.loss < before:
        before = search.loss
        search = _open(distances, _promising(distances, search), search.points)
        search.descend()
    return search


def _promising(distances: NDArray[np.float32], search: _Search) -> NDArray[np.int64]:
    """Return the points whose best swap changes the loss for the better, or the least."""
    points, clusters = search.to_medoids.shape
    order, starts = _by_slot(search.nearest)
    price = np.empty(points, dtype=np.float32)
    room = np.empty((3, min(_BLOCK, points), points), dtype=np.float32)
    for start in range(0, points, _BLOCK):
        rows = distances[start : start + _BLOCK]
        kept, left, by_slot = room[:, : len(rows)]
        np.minimum(rows, search.first, out=kept)
        np.minimum(rows, search.second, out=left)
        left -= kept
        np.take(left, order, axis=1, out=by_slot, mode="clip")
        own = np.add.reduceat(by_slot, starts, axis=1).min(axis=1)
        # A medoid without points, as copies of one make it, leaves without a price.
        price[start : start + _BLOCK] = kept.sum(axis=1) + (own if len(starts) == clusters else 0)
    size = min(points, max(_POOL, _POOL_PER_MEDOID * clusters))
    best: NDArray[np.int64] = np.argpartition(price, size - 1)[:size]
    return best


def _spread_start(
    distances: NDArray[np.float32], clusters: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw each medoid in proportion to the distance so far; of a few draws take the best."""
    points = len(distances)
    chosen = [int(rng.integers(points))]
    nearest = distances[chosen[0]].astype(np.float64)
    for _ in range(1, clusters):
        nearest[chosen] = 0.0
        total = nearest.sum()
        if total > 0:
            draws = rng.choice(points, size=_TRIALS, p=nearest / total)
            losses = np.minimum(distances[draws], nearest).sum(axis=1)
            pick = int(draws[losses.argmin()])
        else:
            pick = int(np.setdiff1d(np.arange(points), chosen)[0])
        chosen.append(pick)
        np.minimum(nearest, distances[pick], out=nearest)
    return np.array(chosen, dtype=np.int64)


def _by_slot(slots: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return an order that brings equal slots together, and where each begins in it."""
    order = np.argsort(slots, kind="stable")
    ranked = slots[order]
    new = np.ones(len(slots), dtype=np.bool_)
    np.not_equal(ranked[1:], ranked[:-1], out=new[1:])
    return order, np.flatnonzero(new)


def _two_nearest(
    to_medoids: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Return slot of and distance to the nearest and the second nearest medoid of each row."""
    rows, rest = np.arange(len(to_medoids)), to_medoids.copy()
    nearest = rest.argmin(axis=1)
    first = rest[rows, nearest]
    rest[rows, nearest] = np.inf
    runner_up = rest.argmin(axis=1)
    return nearest, first, runner_up, rest[rows, runner_up]


def refine_medoids(points: NDArray[np.float32], medoids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Swap medoids that were fitted on some of the points for ones that suit all of them.

    Each medoid moves to the member nearest to the mean of its cluster, which is the medoid of the
    cluster, as cosine distance is linear in it. Then the best swap is taken until none lowers the
    loss over all points by much. The candidates are the members of each cluster nearest to its
    mean, and those farthest from it: a group too small for the sample shows there. Points (n, D)
    are of unit norm, medoids (K,) indices of them.
    """
    ranked = _ranked_members(points, medoids)
    pool = np.unique(np.concatenate([medoids, *ranked]))
    middle = np.array([r[0] if len(r) else m for r, m in zip(ranked, medoids, strict=True)])
    if len(np.unique(middle)) == len(medoids):  # a medoid without points may be taken already
        medoids = middle
    search = _Search(cosine_distances(points, pool), pool, medoids, _LEAST_ROUGH)
    search.descend()
    return search.points


def _ranked_members(
    points: NDArray[np.float32], medoids: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Return the members of each cluster nearest to its mean, nearest first, then the farthest."""
    nearest = (points @ points[medoids].T).argmax(axis=1)
    order, starts = _by_slot(nearest)
    ranked = [np.empty(0, dtype=np.int64)] * len(medoids)
    for members in np.split(order, starts[1:]):
        inside = points[members]
        rank = np.argsort(-(inside @ inside.sum(axis=0)), kind="stable")
        tried = np.concatenate([rank[:_CENTRAL], rank[_CENTRAL:][-_REMOTE:]])
        ranked[nearest[members[0]]] = members[tried]
    return ranked


def cosine_distances(
    points: NDArray[np.float32], chosen: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Return the cosine distances of points (n, D) of unit norm to all of them, or to the chosen.

    They are (n, n) or (n, m), not negative, and 0 from a point to itself.
    """
    distances: NDArray[np.float32] = points @ (points if chosen is None else points[chosen]).T
    np.subtract(1.0, distances, out=distances)
    np.maximum(distances, 0.0, out=distances)
    own = np.arange(len(points)) if chosen is None else chosen
    distances[own, np.arange(len(own))] = 0.0
    return distances


def silhouette(distances: NDArray[np.float32], assignment: NDArray[np.int64]) -> float:
    """Return the mean silhouette of a clustering of points with distances (n, n).

    It is 0 where it is not defined: for a single cluster, and where every point is one.
    """
    labels, cluster, sizes = np.unique(assignment, return_inverse=True, return_counts=True)
    points = np.arange(len(cluster))
    if not 2 <= len(labels) < len(points):
        return 0.0
    sums = (distances @ np.eye(len(labels), dtype=np.float32)[cluster]).astype(np.float64)
    inside = sums[points, cluster] / np.maximum(sizes[cluster] - 1, 1)
    means = sums / sizes
    means[points, cluster] = np.inf
    outside = means.min(axis=1)
    width, scale = outside - inside, np.maximum(inside, outside)
    width = np.divide(width, scale, out=np.zeros_like(width), where=scale > 0)
    return float(np.where(sizes[cluster] > 1, width, 0.0).mean())
