"""Detectors: the frozen medoids of an audit, by which a feature is found in other films.

References
----------
Varma et al., RaVL, NeurIPS 2024, section 3.2: regions of the fine-tuning images go to the nearest
medoid of Stage 1, in the embedding space of the audited model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FeatureDetector", "nearest_medoids"]

_REGIONS_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class FeatureDetector:
    """A feature cluster as something that can be looked for.

    Attributes
    ----------
    medoids : ndarray of shape (K, D), float32 - of the partition that holds the cluster, unit norm
    label : int - the cluster, 0 .. K - 1
    raised_class : int
    lowered_class : int or None - the most lowered one
    threshold : float - least removal effect of a region that carries the feature, in logits
    """

    medoids: NDArray[np.float32]
    label: int
    raised_class: int
    lowered_class: int | None
    threshold: float

    def find(self, regions: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which regions belong to the feature.

        Parameters
        ----------
        regions : ndarray of shape (R, D), float32 - embedded by the audited model, unit norm

        Returns
        -------
        ndarray of shape (R,), bool - their nearest medoid is that of the feature
        """
        return np.asarray(nearest_medoids(self.medoids, regions) == self.label)


def nearest_medoids(
    medoids: NDArray[np.float32], regions: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return the nearest medoid of each region.

    Parameters
    ----------
    medoids : ndarray of shape (K, D), float32 - unit norm
    regions : ndarray of shape (R, D), float32 - unit norm

    Returns
    -------
    ndarray of shape (R,), int64 - 0 .. K - 1
    """
    nearest = np.empty(len(regions), dtype=np.int64)
    for start in range(0, len(regions), _REGIONS_AT_ONCE):
        part = slice(start, start + _REGIONS_AT_ONCE)
        nearest[part] = (regions[part] @ medoids.T).argmax(axis=1)
    return nearest
