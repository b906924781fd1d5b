"""K-medoids against its GPL reference, the silhouette against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score

from ravl_med.discovery import clustering
from ravl_med.discovery.clustering import (
    assign_regions,
    cluster_regions,
    fit_k_medoids,
    silhouette,
)
from ravl_med.errors import DataError


def unit(points: np.ndarray) -> np.ndarray:
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def blobs(count: int, centres: int, size: int, spread: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(centres, size))
    points = middle[rng.integers(centres, size=count)] + spread * rng.normal(size=(count, size))
    return unit(points)


def cosine_distances(points: np.ndarray) -> np.ndarray:
    distances = np.maximum(1 - points @ points.T, 0).astype(np.float32)
    np.fill_diagonal(distances, 0)
    return distances


POINT_SETS = {
    "well apart": (blobs(300, 6, 16, 0.2, 0), 6),
    "overlapping": (blobs(400, 12, 8, 0.8, 1), 10),
    "no structure": (blobs(300, 1, 32, 100.0, 2), 15),
    "with copies": (np.repeat(blobs(60, 5, 8, 0.5, 3), 5, axis=0), 8),
    "one cluster": (blobs(200, 3, 8, 0.5, 4), 1),
    "many clusters": (blobs(200, 40, 16, 0.3, 5), 40),
}


@pytest.mark.parametrize("name", POINT_SETS)
def test_the_loss_is_within_a_percent_of_the_reference(name):
    """Each is a local search: the best and the mean of five starts stand for it, not one start."""
    kmedoids = pytest.importorskip("kmedoids")
    points, clusters = POINT_SETS[name]
    distances = cosine_distances(points)
    starts = range(5)

    ours = [fit_k_medoids(distances, clusters, seed).loss for seed in starts]
    theirs = [
        kmedoids.fasterpam(distances, clusters, init="random", random_state=seed).loss
        for seed in starts
    ]

    assert min(ours) <= 1.01 * min(theirs)
    assert np.mean(ours) <= 1.01 * np.mean(theirs)
    assert max(ours) <= 1.04 * min(theirs)  # no start ends far off


def test_two_pairs_by_hand():
    # Points on a line at 0, 1, 10, 11 and 12.
    line = np.array([0.0, 1.0, 10.0, 11.0, 12.0], dtype=np.float32)

    fit = fit_k_medoids(np.abs(line[:, None] - line), 2, seed=0)

    left, right = sorted(fit.medoids.tolist())
    assert left in (0, 1)
    assert right == 3
    assert fit.loss == 3  # 1 on the left, 1 + 1 on the right
    assert [fit.assignment[0], fit.assignment[4]] == [
        fit.medoids.tolist().index(left),
        fit.medoids.tolist().index(right),
    ]


@given(st.integers(2, 40), st.data())
def test_a_fit_is_a_partition_that_no_swap_of_one_medoid_improves(count, data):
    clusters = data.draw(st.integers(1, count))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    distances = cosine_distances(unit(rng.normal(size=(count, 3))))

    fit = fit_k_medoids(distances, clusters, seed=1)

    assert len(set(fit.medoids.tolist())) == clusters
    nearest = distances[fit.medoids].min(axis=0)
    np.testing.assert_allclose(distances[fit.medoids[fit.assignment], np.arange(count)], nearest)
    assert fit.loss == pytest.approx(nearest.sum(dtype=np.float64), abs=1e-6)
    for position in range(clusters):
        for other in np.setdiff1d(np.arange(count), fit.medoids):
            swapped = fit.medoids.copy()
            swapped[position] = other
            assert distances[swapped].min(axis=0).sum() >= fit.loss - 1e-4


def test_the_same_seed_gives_the_same_clusters():
    points = blobs(500, 10, 16, 0.7, 0)

    one = cluster_regions(points, range(4, 13, 4), 300, seed=7)
    same = cluster_regions(points, range(4, 13, 4), 300, seed=7)
    other = cluster_regions(points, range(4, 13, 4), 300, seed=8)

    np.testing.assert_array_equal(one.medoids, same.medoids)
    np.testing.assert_array_equal(one.assignment, same.assignment)
    assert one.silhouettes == same.silhouettes
    assert one.medoids.tolist() != other.medoids.tolist()


def test_as_many_clusters_as_points_have_no_loss():
    distances = cosine_distances(blobs(12, 3, 4, 0.5, 0))

    fit = fit_k_medoids(distances, 12, seed=0)

    assert sorted(fit.medoids.tolist()) == list(range(12))
    assert fit.loss == 0


@pytest.mark.parametrize("clusters", [0, 13])
def test_k_out_of_range_is_an_error(clusters):
    with pytest.raises(DataError, match=rf"K must be in the range \[1, 12\].* Got {clusters}\."):
        fit_k_medoids(cosine_distances(blobs(12, 3, 4, 0.5, 0)), clusters, seed=0)


def test_points_that_are_all_equal_are_still_partitioned():
    fit = fit_k_medoids(np.zeros((9, 9), np.float32), 4, seed=0)

    assert len(set(fit.medoids.tolist())) == 4
    assert fit.loss == 0


@pytest.mark.parametrize("name", POINT_SETS)
def test_the_silhouette_is_that_of_scikit_learn(name):
    points, clusters = POINT_SETS[name]
    distances = cosine_distances(points)
    assignment = fit_k_medoids(distances, max(clusters, 2), seed=0).assignment

    expected = silhouette_score(distances.astype(np.float64), assignment, metric="precomputed")

    assert silhouette(distances, assignment) == pytest.approx(expected, abs=1e-5)


def test_the_silhouette_by_hand():
    line = np.array([0.0, 1.0, 10.0], dtype=np.float32)
    distances = np.abs(line[:, None] - line)

    # Point 0: (10 - 1) / 10; point 1: (9 - 1) / 9; point 2 is alone: 0. Cluster 1 is empty.
    expected = (0.9 + 8 / 9 + 0) / 3
    assert silhouette(distances, np.array([0, 0, 2])) == pytest.approx(expected, abs=1e-6)
    assert silhouette(distances, np.array([0, 0, 0])) == 0
    assert silhouette(distances, np.array([2, 1, 0])) == 0


def test_chunks_assign_like_brute_force(monkeypatch):
    points, medoids = blobs(1000, 10, 16, 0.8, 0), blobs(13, 13, 16, 0.1, 1)
    monkeypatch.setattr(clustering, "_CHUNK", 64)

    assignment, similarity = assign_regions(points, medoids)

    brute = np.array([[float(np.dot(p, m)) for m in medoids] for p in points])
    np.testing.assert_allclose(similarity, brute.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(brute[np.arange(1000), assignment], brute.max(axis=1), atol=1e-6)
    assert assignment.dtype == np.int64


def test_planted_clusters_are_found_and_k_with_them():
    rng = np.random.default_rng(0)
    truth = rng.integers(5, size=600)
    points = unit(np.eye(5)[truth] + 0.05 * rng.normal(size=(600, 5)))

    found = cluster_regions(points, range(2, 9), 200, seed=0)

    assert len(found.medoids) == 5
    assert max(found.silhouettes, key=found.silhouettes.get) == 5
    assert len(set(zip(truth.tolist(), found.assignment.tolist(), strict=True))) == 5
    np.testing.assert_allclose(found.similarity[found.medoids], 1, atol=1e-6)
    assert found.assignment[found.medoids].tolist() == list(range(5))


def test_values_of_k_above_the_number_of_regions_are_passed_over():
    told: list[tuple[int, int]] = []
    found = cluster_regions(
        blobs(10, 3, 4, 0.3, 0), range(2, 30, 4), 3000, 0, lambda *done: told.append(done)
    )

    assert list(found.silhouettes) == [2, 6, 10]
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_fewer_regions_than_clusters_is_an_error():
    with pytest.raises(DataError, match=r"has 10 regions; expected at least 20, the smallest K"):
        cluster_regions(blobs(10, 3, 4, 0.3, 0), range(20, 51), 3000, 0)


def test_a_sample_smaller_than_the_smallest_k_is_an_error():
    with pytest.raises(DataError, match=r"fitted on 10 regions.* at least 20.*discovery.sample"):
        cluster_regions(blobs(100, 3, 4, 0.3, 0), range(20, 51), 10, 0)


def test_nan_is_an_error():
    points = blobs(30, 3, 4, 0.3, 0)
    points[[3, 4], 0] = np.nan

    with pytest.raises(DataError, match="2 of 30 region embeddings hold NaN or infinity"):
        cluster_regions(points, [2], 3000, 0)


def test_constant_embeddings_are_an_error():
    with pytest.raises(DataError, match="all 30 region embeddings are equal"):
        cluster_regions(np.tile(unit(np.ones((1, 4))), (30, 1)), [2], 3000, 0)
