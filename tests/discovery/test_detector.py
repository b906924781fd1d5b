"""A feature is found where its medoid is the nearest."""

from __future__ import annotations

import numpy as np

from ravl_med.discovery.candidates import FeatureDetector


def test_the_nearest_medoid_decides_chunk_by_chunk() -> None:
    rng = np.random.default_rng(0)
    medoids = rng.normal(size=(7, 4)).astype(np.float32)
    medoids /= np.linalg.norm(medoids, axis=1, keepdims=True)
    regions = rng.normal(size=(70_001, 4)).astype(np.float32)
    found = FeatureDetector(medoids, 3, 0, None).find(regions)
    for i in (0, 1, 17, 65_535, 65_536, 70_000):
        nearest = max(range(7), key=lambda k: float(regions[i] @ medoids[k]))
        assert found[i] == (nearest == 3)
    assert 0.02 < found.mean() < 0.5
    assert FeatureDetector(medoids, 3, 0, None).find(regions[:0]).shape == (0,)
