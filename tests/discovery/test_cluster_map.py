"""The map of the clusters: positions by hand, what it keeps, and degenerate sets of medoids."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

from ravl_med.discovery.clusters import ClusterMap, MappedCluster, map_clusters


def directions(count: int, size: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, size))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def mapped(medoids: np.ndarray) -> ClusterMap:
    return map_clusters(medoids, np.arange(1, len(medoids) + 1), {})


def places(found: ClusterMap) -> np.ndarray:
    return np.array([(one.x, one.y) for one in found.clusters]).reshape(-1, 2)


def test_two_clusters_lie_as_far_apart_as_they_are() -> None:
    found = map_clusters(np.eye(2, dtype=np.float32), np.array([7, 3]), {1: 4})
    half = round(math.sqrt(2) / 2, 4)
    assert found.clusters == (
        MappedCluster(0, half, 0.0, 7, None),  # the first of equals is the farthest
        MappedCluster(1, -half, 0.0, 3, 4),
    )
    assert found.kept == pytest.approx(1.0)
    assert math.isnan(found.correlation)  # of one pair there is none


def test_points_of_a_circle_are_shown_as_they_are() -> None:
    angles = np.array([0.0, 0.4, 1.1, 2.9])
    circle = np.stack([np.cos(angles), np.sin(angles), np.zeros(4)], axis=1)
    found = mapped(circle)
    np.testing.assert_allclose(pdist(places(found)), pdist(circle), atol=2e-4)
    assert found.kept == pytest.approx(1.0)
    assert found.correlation == pytest.approx(1.0, abs=1e-6)


def test_it_is_principal_component_analysis_with_fixed_signs() -> None:
    medoids = directions(60, 16)
    found, pca = mapped(medoids), PCA(2, svd_solver="full")
    expected = pca.fit_transform(medoids.astype(np.float64))
    np.testing.assert_allclose(np.abs(places(found)), np.abs(expected), atol=6e-5)
    assert found.kept == pytest.approx(pca.explained_variance_ratio_.sum())
    assert 0 < found.kept < 1
    assert (places(found)[np.abs(places(found)).argmax(axis=0), [0, 1]] > 0).all()
    assert mapped(medoids) == found
    mirrored = mapped(medoids[:, ::-1] * -1)
    np.testing.assert_allclose(places(mirrored), places(found), atol=2e-4)


def test_the_map_adds_no_distance_and_says_how_much_it_keeps() -> None:
    medoids = directions(40, 8, seed=3)
    found = mapped(medoids)
    shown, true = pdist(places(found)), pdist(medoids.astype(np.float64))
    assert (shown <= true + 2e-4).all()
    assert found.kept == pytest.approx((shown**2).sum() / (true**2).sum(), abs=1e-3)
    assert found.correlation == pytest.approx(np.corrcoef(shown, true)[0, 1])


@pytest.mark.parametrize("count", [0, 1])
def test_without_a_pair_there_is_nothing_to_keep(count: int) -> None:
    found = mapped(directions(count, 8))
    assert [(one.x, one.y) for one in found.clusters] == [(0.0, 0.0)] * count
    assert math.isnan(found.kept)
    assert math.isnan(found.correlation)


def test_copies_of_one_medoid_lie_on_one_point() -> None:
    found = mapped(np.repeat(directions(1, 8), 5, axis=0))
    assert not places(found).any()
    assert math.isnan(found.kept)
    assert math.isnan(found.correlation)


def test_medoids_that_are_all_equally_far_apart_cannot_be_shown_whole() -> None:
    found = mapped(np.eye(6, dtype=np.float32))
    assert found.kept == pytest.approx(2 / 5)
    assert math.isnan(found.correlation)
    assert np.isfinite(places(found)).all()


def test_one_dimension_is_enough() -> None:
    found = mapped(np.array([[1.0], [-1.0], [1.0]]))
    assert {one.y for one in found.clusters} == {0.0}
    assert found.kept == pytest.approx(1.0)


def test_five_hundred_clusters() -> None:
    found = mapped(directions(500, 256))
    assert len({(one.x, one.y) for one in found.clusters}) > 490
    assert [one.cluster for one in found.clusters] == list(range(500))
