"""The feature clusters on a map: how far apart the model sees their medoids, in two dimensions.

Medoids are points of the unit sphere, where a squared distance is twice the cosine distance. Their
map is classical multidimensional scaling of these distances, which is principal component analysis
of the medoids: a closed form without a seed. A projection takes distance away and never adds any,
so that what is far apart on the map is far apart to the model.

References
----------
Gower, "Some distance properties of latent root and vector methods used in multivariate analysis",
Biometrika 53 (1966): classical scaling of Euclidean distances and principal components are one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat
from scipy.spatial.distance import pdist

from ravl_med.storage.documents import result_type

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
