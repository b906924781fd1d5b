"""K-medoids against its GPL reference, the silhouette against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score

from ravl_med.discovery.k_medoids import cosine_distances, fit_k_medoids, refine_medoids, silhouette
from ravl_med.errors import DataError


def unit(points: np.ndarray) -> np.ndarray:
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def blobs(count: int, centres: int, size: int, spread: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(centres, size))
    points = middle[rng.integers(centres, size=count)] + spread * rng.normal(size=(count, size))
    return unit(points)


def sheet(count: int, size: int, dimensions: int, spread: float, seed: int) -> np.ndarray:
    """Points on a bent sheet of few dimensions, as embeddings of films are."""
    rng = np.random.default_rng(seed)
    hidden = np.maximum(rng.normal(size=(count, dimensions)) @ rng.normal(size=(dimensions, 64)), 0)
    points = hidden @ rng.normal(size=(64, size)) / 8
    return unit(points + spread * rng.normal(size=(count, size)))


def line_distances(*places: float) -> np.ndarray:
    line = np.array(places, dtype=np.float32)
    return np.abs(line[:, None] - line)


POINT_SETS = {
    "well apart": blobs(700, 60, 64, 0.3, 0),
    "overlapping": blobs(800, 80, 64, 1.5, 1),
    "heavy noise": blobs(600, 80, 64, 4.0, 2),
    "no structure": blobs(600, 1, 8, 100.0, 3),
    "copies": np.repeat(blobs(250, 30, 16, 0.5, 4), 3, axis=0),
    "sheet": sheet(1000, 64, 8, 0.2, 5),
}


@pytest.mark.parametrize("clusters", [20, 40, 80])
@pytest.mark.parametrize("name", POINT_SETS)
def test_the_loss_is_within_half_a_percent_of_the_reference(name, clusters):
    kmedoids = pytest.importorskip("kmedoids")
    distances = cosine_distances(POINT_SETS[name])

    ours = fit_k_medoids(distances, clusters, seed=0, starts=2).loss

    theirs = [
        kmedoids.fasterpam(distances, clusters, init="random", random_state=seed).loss
        for seed in range(4)
    ]
    theirs.append(kmedoids.fasterpam(distances, clusters, init="build").loss)
    assert ours <= 1.005 * min(theirs)


@pytest.mark.parametrize("name", POINT_SETS)
def test_one_cluster_has_the_point_nearest_to_all_as_its_medoid(name):
    distances = cosine_distances(POINT_SETS[name])

    fit = fit_k_medoids(distances, 1, seed=0)

    assert fit.loss == pytest.approx(distances.sum(axis=0, dtype=np.float64).min(), rel=1e-5)
    assert not fit.assignment.any()


@pytest.mark.parametrize("seed", range(5))
def test_two_pairs_by_hand(seed):
    fit = fit_k_medoids(line_distances(0, 1, 10, 11, 12), 2, seed)

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


def test_no_swap_improves_a_fit_whose_pool_is_smaller_than_the_points():
    distances = cosine_distances(POINT_SETS["sheet"])

    fit = fit_k_medoids(distances, 10, seed=0)

    for position in range(10):
        rest = distances[np.delete(fit.medoids, position)].min(axis=0)
        losses = np.minimum(distances, rest).sum(axis=1)
        assert losses.min() >= fit.loss * (1 - 1e-5)


@given(st.integers(1, 25), st.integers(1, 6), st.data())
def test_points_in_copies_are_partitioned(count, different, data):
    """Medoids that coincide leave clusters without points, and swaps without a price."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    places = rng.integers(different, size=count).astype(np.float32)
    distances = line_distances(*places)
    clusters = data.draw(st.integers(1, count))

    fit = fit_k_medoids(distances, clusters, seed=0)

    assert len(set(fit.medoids.tolist())) == clusters
    assert fit.loss == distances[fit.medoids].min(axis=0).sum()
    if clusters >= len(np.unique(places)):
        assert fit.loss == 0


def test_as_many_clusters_as_points_have_no_loss():
    distances = cosine_distances(blobs(12, 3, 4, 0.5, 0))

    fit = fit_k_medoids(distances, 12, seed=0)

    assert sorted(fit.medoids.tolist()) == list(range(12))
    assert fit.medoids[fit.assignment].tolist() == list(range(12))
    assert fit.loss == 0


@pytest.mark.parametrize("clusters", [0, 13])
def test_k_out_of_range_is_an_error(clusters):
    with pytest.raises(DataError, match=rf"K must be in the range \[1, 12\].* Got {clusters}\."):
        fit_k_medoids(cosine_distances(blobs(12, 3, 4, 0.5, 0)), clusters, seed=0)


def test_the_same_seed_gives_the_same_medoids():
    distances = cosine_distances(POINT_SETS["no structure"])

    one, same, other = (fit_k_medoids(distances, 15, seed) for seed in (7, 7, 8))

    np.testing.assert_array_equal(one.medoids, same.medoids)
    np.testing.assert_array_equal(one.assignment, same.assignment)
    assert one.medoids.tolist() != other.medoids.tolist()


def test_the_best_of_the_starts_is_kept():
    distances = cosine_distances(POINT_SETS["no structure"])

    one = np.array([fit_k_medoids(distances, 15, seed).loss for seed in range(6)])
    three = np.array([fit_k_medoids(distances, 15, seed, starts=3).loss for seed in range(6)])

    assert (three <= one).all()
    assert (three < one).any()


def test_the_distances_are_left_as_they_are():
    distances = cosine_distances(POINT_SETS["copies"])
    before = distances.copy()

    fit_k_medoids(distances, 20, seed=0)

    np.testing.assert_array_equal(distances, before)


def test_cosine_distances_are_those_of_a_naive_loop():
    points = blobs(40, 5, 6, 0.5, 0)
    points[7] = points[3]

    distances = cosine_distances(points)

    naive = [[1 - float(np.dot(p, q)) for q in points] for p in points]
    np.testing.assert_allclose(distances, naive, atol=1e-6)
    assert distances.min() == 0
    assert not np.diag(distances).any()
    np.testing.assert_array_equal(distances, distances.T)
    some = cosine_distances(points, np.array([3, 30]))
    np.testing.assert_allclose(some, distances[:, [3, 30]], atol=1e-6)
    assert some[3, 0] == some[30, 1] == 0


def test_a_refinement_moves_to_the_middle_by_hand():
    # Two fans of directions in the plane, in degrees; the middle of each is its medoid.
    angles = np.deg2rad([0, 10, 20, 30, 40, 180, 190, 200, 210, 220])
    points = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)

    assert sorted(refine_medoids(points, np.array([0, 9])).tolist()) == [2, 7]


@pytest.mark.parametrize("name", POINT_SETS)
def test_a_refinement_comes_near_to_a_fit_on_all_points(name):
    points = POINT_SETS[name]
    sample = np.sort(np.random.default_rng(0).choice(len(points), len(points) // 4, replace=False))
    distances = cosine_distances(points)
    of_sample = sample[fit_k_medoids(cosine_distances(points[sample]), 20, seed=0).medoids]
    fitted = fit_k_medoids(distances, 20, seed=0).loss

    refined = refine_medoids(points, of_sample)

    assert len(set(refined.tolist())) == 20
    before, after = (float(distances[m].min(axis=0).sum()) for m in (of_sample, refined))
    assert after < before
    assert after - fitted < 0.7 * (before - fitted)


def test_a_refinement_finds_a_group_that_the_sample_lacks():
    rng = np.random.default_rng(0)
    centres = np.eye(16)
    truth = np.repeat(np.arange(11), [100] * 10 + [5])  # the last group is 0.5 % of the points
    points = unit(centres[truth] + 0.1 * rng.normal(size=(1005, 16)))
    medoids = np.array([*range(0, 1000, 100), 50])  # two in the first group, none in the last

    refined = refine_medoids(points, medoids)

    assert sorted(truth[refined].tolist()) == list(range(11))


@given(st.integers(1, 25), st.integers(1, 6), st.data())
def test_a_refinement_never_raises_the_loss(count, different, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    points = unit(rng.normal(size=(different, 3)))[rng.integers(different, size=count)]
    medoids = rng.permutation(count)[: data.draw(st.integers(1, count))]
    before = medoids.copy()

    refined = refine_medoids(points, medoids)

    np.testing.assert_array_equal(medoids, before)
    assert len(set(refined.tolist())) == len(medoids)
    distances = cosine_distances(points)
    assert distances[refined].min(axis=0).sum() <= distances[medoids].min(axis=0).sum() + 1e-5


@pytest.mark.parametrize("clusters", [2, 15])
@pytest.mark.parametrize("name", POINT_SETS)
def test_the_silhouette_is_that_of_scikit_learn(name, clusters):
    distances = cosine_distances(POINT_SETS[name])
    assignment = fit_k_medoids(distances, clusters, seed=0).assignment
    assignment[:2] = [clusters + 1, clusters + 3]  # two of one point each

    expected = silhouette_score(distances.astype(np.float64), assignment, metric="precomputed")

    assert silhouette(distances, assignment) == pytest.approx(expected, abs=1e-5)


def test_the_silhouette_by_hand():
    distances = line_distances(0, 1, 10)

    # Point 0: (10 - 1) / 10; point 1: (9 - 1) / 9; point 2 is alone: 0. Cluster 1 is empty.
    expected = (0.9 + 8 / 9 + 0) / 3
    assert silhouette(distances, np.array([0, 0, 2])) == pytest.approx(expected, abs=1e-6)
    assert silhouette(distances, np.array([0, 0, 0])) == 0
    assert silhouette(distances, np.array([2, 1, 0])) == 0


def test_the_silhouette_of_points_that_are_all_equal_is_zero():
    assert silhouette(np.zeros((4, 4), np.float32), np.array([0, 0, 1, 1])) == 0
