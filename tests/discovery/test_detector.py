"""A feature is found where its medoid is the nearest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ravl_med.discovery.candidates import FeatureDetector


def test_the_nearest_medoid_decides_chunk_by_chunk() -> None:
    rng = np.random.default_rng(0)
    medoids = rng.normal(size=(7, 4)).astype(np.float32)
    medoids /= np.linalg.norm(medoids, axis=1, keepdims=True)
    regions = rng.normal(size=(70_001, 4)).astype(np.float32)
    shares = np.tile([0.0, 0.0, 0.25, 0.25], (70_001, 1))
    shares[1::2] += 0.5
    detector = FeatureDetector(medoids, 3, 0, None)
    found = detector.find(regions, shares)
    for i in (0, 1, 17, 65_535, 65_536, 70_000):
        nearest = max(range(7), key=lambda k: float(regions[i] @ medoids[k]))
        assert found[i] == (nearest == 3)
    assert 0.02 < found.mean() < 0.5
    assert detector.find(regions[:0], shares[:0]).shape == (0,)
    placed = replace(detector, place=0).find(regions, shares)
    np.testing.assert_array_equal(placed[::2], found[::2])
    assert not placed[1::2].any()
