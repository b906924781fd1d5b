"""A feature is found where its medoid is the nearest."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from ravl_med.discovery.candidates import FeatureCluster, FeatureDetector, measure_candidate
from ravl_med.discovery.clusters import propose_clusters
from ravl_med.discovery.effect_features import EffectFeature, detect_feature
from ravl_med.discovery.ravl import performance_gaps


def test_the_nearest_medoid_decides_chunk_by_chunk() -> None:
    rng = np.random.default_rng(0)
    medoids = rng.normal(size=(7, 4)).astype(np.float32)
    medoids /= np.linalg.norm(medoids, axis=1, keepdims=True)
    regions = rng.normal(size=(70_001, 4)).astype(np.float32)
    shares = np.tile([0.0, 0.0, 0.25, 0.25], (70_001, 1))
    detector = FeatureDetector(medoids, 3, 0, None)
    found = detector.find(regions, shares, no_texture)
    for i in (0, 1, 17, 65_535, 65_536, 70_000):
        nearest = max(range(7), key=lambda k: float(regions[i] @ medoids[k]))
        assert found[i] == (nearest == 3)
    assert 0.02 < found.mean() < 0.5
    assert detector.find(regions[:0], shares[:0], no_texture).shape == (0,)


def no_texture(rows: np.ndarray) -> np.ndarray:
    raise AssertionError(f"the texture of {len(rows)} regions was measured for nothing")


def test_at_a_place_embedding_texture_and_offset_decide_chunk_by_chunk() -> None:
    rng = np.random.default_rng(0)
    regions = rng.normal(size=(140_001, 4)).astype(np.float32)
    looks = rng.normal(size=(140_001, 2)).astype(np.float32)
    shares = np.tile([0.0, 0.0, 0.25, 0.25], (140_001, 1))
    shares[1::2] += 0.5
    direction = rng.normal(size=7).astype(np.float32)
    medoids = np.stack([np.zeros_like(direction), direction])
    measured = []

    def texture(rows: np.ndarray) -> np.ndarray:
        measured.append(rows)
        return np.asarray(looks[rows])

    found = FeatureDetector(medoids, 1, 0, None, place=0).find(regions, shares, texture)

    np.testing.assert_array_equal(np.concatenate(measured), np.arange(0, 140_001, 2))
    assert len(measured) == 2
    assert not found[1::2].any()
    for i in (0, 2, 65_536, 131_070, 131_072, 140_000):
        exact = float(regions[i] @ direction[:4] + looks[i] @ direction[4:6] + direction[6])
        assert found[i] == (exact > 0)
    older = FeatureDetector(medoids[:, :4], 1, 0, None, place=0)  # of an audit without textures
    alone = older.find(regions, shares, texture)
    np.testing.assert_array_equal(alone[::2], (regions @ direction[:4] > 0)[::2])


def test_a_feature_is_found_whichever_search_has_proposed_it() -> None:
    rng = np.random.default_rng(1)
    regions = rng.normal(size=(200, 6)).astype(np.float32)
    regions /= np.linalg.norm(regions, axis=1, keepdims=True)
    clusters = propose_clusters(regions, (4,), draws=1, sample=200, seed=0)
    features = [EffectFeature(0, regions[k], 9, 1.0, place) for k, place in ((3, -1), (5, 12))]
    shares = np.tile([0.0, 0.0, 0.1, 0.1], (200, 1))
    nobody = np.zeros(200, dtype=np.bool_)
    table = performance_gaps(nobody[:, None], np.zeros(200, np.int64), nobody, 2)

    def candidate(number: int, source: Literal["clusters", "effects"]) -> FeatureCluster:
        measured = measure_candidate(
            0, nobody, table, np.array([1.0, 0.0]),
            regions=np.arange(0), similarity=np.empty(0), influence=0.0,
        )  # fmt: skip
        return replace(measured, cluster=number, source=source)

    own = detect_feature(candidate(2, "clusters"), clusters, regions, features)
    found = own.find(regions, shares, no_texture)
    assert set(np.flatnonzero(found)) == set(clusters.members(2))
    other = detect_feature(candidate(len(clusters) + 1, "effects"), clusters, regions, features)
    assert other.place == 12
    nowhere = other.find(regions, shares, lambda rows: np.zeros((len(rows), 0), np.float32))
    assert nowhere.sum() == 0  # all regions lie elsewhere
    assert replace(other, place=-1).find(regions, shares, no_texture)[5]
