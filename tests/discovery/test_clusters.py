"""Proposals from several K and samples, and the paper's own protocol."""

import math

import kmedoids
import numpy as np
import pytest
from pydantic import ValidationError

from ravl_med.config.audit import DiscoveryConfig
from ravl_med.discovery import clusters as clustering
from ravl_med.discovery.clusters import (
    FeatureClusters,
    cluster_regions,
    paper_clusters,
    propose_clusters,
)
from ravl_med.discovery.k_medoids import cosine_distances, silhouette
from ravl_med.errors import DataError
from tests.benchmarks.simulated_cohorts import draw_embeddings, draw_prototypes


def unit(points: np.ndarray) -> np.ndarray:
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def blobs(count: int, centres: int, size: int, spread: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(centres, size))
    points = middle[rng.integers(centres, size=count)] + spread * rng.normal(size=(count, size))
    return unit(points)


def same(one: FeatureClusters, other: FeatureClusters) -> bool:
    return (
        np.array_equal(one.origin, other.origin)
        and np.array_equal(one.label, other.label)
        and one.folded == other.folded
        and all(
            np.array_equal(a.medoids, b.medoids) and np.array_equal(a.assignment, b.assignment)
            for a, b in zip(one.partitions, other.partitions, strict=True)
        )
    )


# Proposals


def test_each_k_and_each_draw_is_a_partition_of_all_regions():
    points = blobs(900, 12, 16, 0.5, 0)

    found = propose_clusters(points, (5, 12), draws=3, sample=150, seed=0)

    assert [(len(p.medoids), p.draw) for p in found.partitions] == [
        (5, 0), (12, 0), (5, 1), (12, 1), (5, 2), (12, 2)
    ]  # fmt: skip
    for part in found.partitions:
        similarity = points @ points[part.medoids].T
        np.testing.assert_allclose(part.similarity, similarity.max(axis=1), atol=1e-6)
        np.testing.assert_allclose(
            similarity[np.arange(900), part.assignment], similarity.max(axis=1), atol=1e-6
        )
        assert part.assignment[part.medoids].tolist() == list(range(len(part.medoids)))
        assert part.loss == pytest.approx(1 - similarity.max(axis=1).mean(), abs=1e-5)
        assert math.isnan(part.silhouette)
        assert (part.assignment.dtype, part.similarity.dtype) == (np.int32, np.float32)
    assert found.origin.tolist() == sorted(found.origin.tolist())
    assert (found.left_out, found.silhouettes) == ({}, {})
    assert len(found.partitions[0].assignment) == 900


def test_distinct_groups_are_proposed_once_each():
    rng = np.random.default_rng(0)
    truth = rng.integers(6, size=600)
    points = unit(np.eye(6)[truth] + 0.03 * rng.normal(size=(600, 6)))

    found = propose_clusters(points, (6,), draws=3, sample=200, seed=0)

    assert sorted(sorted(found.members(c).tolist()) for c in range(len(found))) == sorted(
        np.flatnonzero(truth == k).tolist() for k in range(6)
    )
    assert [len(names) for names in found.folded] == [2] * 6


@pytest.mark.parametrize("seed", range(3))
def test_a_small_dense_group_is_a_cluster_of_its_own_somewhere(seed):
    """A device on 3 % of the regions amid anatomy without sharp groups."""
    rng = np.random.default_rng(seed)
    anatomy = rng.normal(size=(2000, 6)) @ rng.normal(size=(6, 32))
    points = anatomy + rng.normal(size=(2000, 32))
    planted = np.sort(rng.choice(2000, 60, replace=False))
    points[planted] = 3.0 * rng.normal(size=32) + 0.8 * rng.normal(size=(60, 32))

    found = propose_clusters(unit(points), (10, 20, 40), draws=2, sample=800, seed=seed)

    best = max(range(len(found)), key=lambda c: np.isin(found.members(c), planted).sum())
    members = found.members(best)
    assert np.isin(members, planted).mean() >= 0.95
    assert np.isin(planted, members).mean() >= 0.9


def test_the_same_seed_gives_the_same_clusters():
    points = blobs(700, 10, 16, 0.9, 0)

    one, again, other = (
        propose_clusters(points, (5, 15), draws=2, sample=300, seed=seed) for seed in (7, 7, 8)
    )

    assert same(one, again)
    assert not same(one, other)


def test_a_k_does_not_depend_on_the_others():
    points = blobs(700, 10, 16, 0.9, 0)

    alone = propose_clusters(points, (15,), draws=1, sample=300, seed=0)
    beside = propose_clusters(points, (5, 15, 15), draws=1, sample=300, seed=0)

    assert len(beside.partitions) == 2  # the repeated K once
    np.testing.assert_array_equal(alone.partitions[0].medoids, beside.partitions[1].medoids)


def test_medoids_are_refined_on_more_regions_than_they_were_fitted_on(monkeypatch):
    points = blobs(2000, 30, 16, 0.6, 0)
    refined = propose_clusters(points, (20,), draws=2, sample=150, seed=0)
    monkeypatch.setattr(clustering, "_WIDER", 1)

    fitted = propose_clusters(points, (20,), draws=2, sample=150, seed=0)

    for one, other in zip(refined.partitions, fitted.partitions, strict=True):
        assert one.loss < other.loss


def test_draws_of_all_regions_differ_by_their_start():
    points = blobs(400, 1, 8, 100.0, 0)

    found = propose_clusters(points, (15,), draws=2, sample=400, seed=0)

    one, other = found.partitions
    assert sorted(one.medoids.tolist()) != sorted(other.medoids.tolist())


def test_as_many_clusters_as_regions():
    points = blobs(12, 3, 4, 0.5, 0)

    found = propose_clusters(points, (12,), draws=2, sample=3000, seed=0)

    assert sorted(found.medoids.tolist()) == list(range(12))
    assert all(len(names) == 1 for names in found.folded)
    assert found.partitions[0].loss == pytest.approx(0, abs=1e-6)


def test_a_single_cluster_holds_all_regions():
    found = propose_clusters(blobs(50, 3, 4, 0.5, 0), (1,), draws=1, sample=20, seed=0)

    assert sorted(found.members(0).tolist()) == list(range(50))


def test_copies_of_few_regions_make_no_empty_or_mixed_cluster():
    points = np.repeat(blobs(7, 7, 8, 0.1, 0), 10, axis=0)

    found = propose_clusters(points, (20,), draws=2, sample=60, seed=0)

    # Which of two equal medoids is nearer is a matter of rounding; that it is one of them is not.
    assert all(len(set((found.members(c) // 10).tolist())) == 1 for c in range(len(found)))
    assert {int(m) // 10 for m in found.medoids} == set(range(7))


def test_chunks_change_nothing(monkeypatch):
    points = blobs(1000, 10, 16, 0.8, 0)
    whole = propose_clusters(points, (5, 15), draws=2, sample=300, seed=0)
    monkeypatch.setattr(clustering, "_CHUNK", 64)

    in_chunks = propose_clusters(points, (5, 15), draws=2, sample=300, seed=0)

    assert same(whole, in_chunks)
    for one, other in zip(whole.partitions, in_chunks.partitions, strict=True):
        np.testing.assert_allclose(one.similarity, other.similarity, atol=1e-6)


def test_a_memory_map_gives_what_the_array_gives(tmp_path):
    points = blobs(900, 10, 16, 0.8, 0)
    np.save(tmp_path / "regions.npy", points)
    mapped = np.load(tmp_path / "regions.npy", mmap_mode="r")

    found = propose_clusters(mapped, (5, 15), draws=2, sample=300, seed=0)

    assert same(found, propose_clusters(points, (5, 15), draws=2, sample=300, seed=0))
    assert type(found.partitions[0].similarity) is np.ndarray
    assert type(found.medoids) is np.ndarray


def test_values_of_k_that_cannot_be_used_are_named():
    points = blobs(60, 5, 8, 0.5, 0)

    few = propose_clusters(points, (20, 40, 80), draws=1, sample=3000, seed=0)
    sampled = propose_clusters(points, (20, 40, 80), draws=1, sample=30, seed=0)

    assert few.left_out == {80: "only 60 regions"}
    assert [len(p.medoids) for p in few.partitions] == [20, 40]
    assert sampled.left_out == {
        40: "only 30 regions in the sample",
        80: "only 30 regions in the sample",
    }  # fmt: skip noqa: E501


def test_progress_counts_fits_then_chunks(monkeypatch):
    monkeypatch.setattr(clustering, "_CHUNK", 40)
    told: list[tuple[int, int]] = []

    propose_clusters(
        blobs(100, 3, 4, 0.3, 0), (3, 5), draws=2, sample=50, seed=0,
        progress=lambda *done: told.append(done),
    )  # fmt: skip

    assert told == [(done, 7) for done in range(8)]  # 2 x 2 fits, 3 chunks


# Refusals, the same for both protocols


def propose(points: np.ndarray, smallest: int, sample: int = 3000) -> FeatureClusters:
    return propose_clusters(points, (smallest, 80), draws=1, sample=sample, seed=0)


def paper(points: np.ndarray, smallest: int, sample: int = 3000) -> FeatureClusters:
    return paper_clusters(points, smallest // 2, sample=sample, seed=0)


BOTH = pytest.mark.parametrize("run", [propose, paper])


@BOTH
def test_fewer_regions_than_clusters_is_an_error(run):
    with pytest.raises(DataError, match=r"has 10 regions; expected at least 20, the smallest K"):
        run(blobs(10, 3, 4, 0.3, 0), 20)


@BOTH
def test_a_sample_smaller_than_the_smallest_k_is_an_error(run):
    with pytest.raises(DataError, match=r"fitted on 10 regions.* at least 20.*discovery\.sample"):
        run(blobs(100, 3, 4, 0.3, 0), 20, sample=10)


def test_the_setting_to_lower_is_named():
    with pytest.raises(DataError, match=r"lower discovery\.clusters\."):
        propose(blobs(10, 3, 4, 0.3, 0), 20)
    with pytest.raises(DataError, match=r"lower the number of classes\."):
        paper(blobs(10, 3, 4, 0.3, 0), 20)


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [[3, 21], [0, 29]])
def test_what_is_not_finite_is_an_error(run, value, rows, monkeypatch):
    monkeypatch.setattr(clustering, "_CHUNK", 8)
    points = blobs(30, 3, 4, 0.3, 0)
    points[rows, 0] = value

    with pytest.raises(DataError, match="2 of 30 region embeddings hold NaN or infinity"):
        run(points, 2)


@BOTH
def test_constant_embeddings_are_an_error(run, monkeypatch):
    monkeypatch.setattr(clustering, "_CHUNK", 8)

    with pytest.raises(DataError, match="all 30 region embeddings are equal"):
        run(np.tile(unit(np.ones((1, 4))), (30, 1)), 2)


def test_one_region_that_differs_is_enough(monkeypatch):
    monkeypatch.setattr(clustering, "_CHUNK", 8)
    points = np.tile(unit(np.ones((1, 4))), (30, 1))
    points[29] = [1, 0, 0, 0]

    found = propose_clusters(points, (2,), draws=1, sample=3000, seed=0)

    assert sorted(len(found.members(c)) for c in range(len(found))) == [1, 29]


# The paper's protocol


def test_the_paper_takes_the_k_of_the_best_silhouette():
    rng = np.random.default_rng(0)
    truth = rng.integers(7, size=600)
    points = unit(np.eye(7)[truth] + 0.05 * rng.normal(size=(600, 7)))

    found = paper_clusters(points, 2, sample=200, seed=0)

    assert list(found.silhouettes) == [4, 5, 6, 7, 8, 9, 10]
    assert max(found.silhouettes, key=found.silhouettes.get) == 7
    (only,) = found.partitions
    assert only.silhouette == found.silhouettes[7]
    assert len(set(zip(truth.tolist(), only.assignment.tolist(), strict=True))) == 7
    assert found.origin.tolist() == [0] * 7
    assert found.label.tolist() == list(range(7))
    assert found.folded == ((),) * 7


def test_a_range_of_k_takes_the_place_of_the_classes():
    points = blobs(300, 6, 8, 0.2, 0)
    for protocol in ("paper", "ravl"):
        config = DiscoveryConfig(protocol=protocol, k_range=(5, 8))
        assert list(cluster_regions(points, 2, config).silhouettes) == [5, 6, 7, 8]
    plain = DiscoveryConfig(protocol="ravl")
    assert list(cluster_regions(points, 2, plain).silhouettes) == [4, 5, 6, 7, 8, 9, 10]
    with pytest.raises(ValidationError, match=r"k_range is 9 \.\. 8; expected the smaller K first"):
        DiscoveryConfig(k_range=(9, 8))


def test_the_silhouette_of_the_paper_is_on_the_sample():
    points = blobs(80, 4, 8, 0.6, 0)

    found = paper_clusters(points, 2, sample=3000, seed=0)

    distances = np.maximum(1 - points @ points.T, 0)
    np.fill_diagonal(distances, 0)
    (only,) = found.partitions
    assert only.silhouette == pytest.approx(silhouette(distances, only.assignment), abs=1e-5)


def test_the_paper_leaves_out_what_has_too_few_regions():
    told: list[tuple[int, int]] = []

    found = paper_clusters(
        blobs(7, 3, 4, 0.3, 0), 2, sample=3000, seed=0, progress=lambda *done: told.append(done)
    )

    assert list(found.silhouettes) == [4, 5, 6, 7]
    assert found.silhouettes[7] == 0  # each region a cluster of its own
    assert found.left_out == dict.fromkeys((8, 9, 10), "only 7 regions")
    assert told == [(done, 5) for done in range(6)]


def test_the_paper_begins_at_two_clusters():
    assert min(paper_clusters(blobs(50, 3, 4, 0.3, 0), 1, sample=50, seed=0).silhouettes) == 2


def test_planted_clusters_are_found_and_k_with_them():
    rng = np.random.default_rng(0)
    truth = rng.integers(5, size=600)
    points = unit(np.eye(5)[truth] + 0.05 * rng.normal(size=(600, 5)))

    found = paper_clusters(points, 2, sample=200, seed=0)

    (partition,) = found.partitions
    assert max(found.silhouettes, key=found.silhouettes.get) == len(partition.medoids) == 5
    assert len(set(zip(truth.tolist(), partition.assignment.tolist(), strict=True))) == 5
    np.testing.assert_allclose(partition.similarity[partition.medoids], 1, atol=1e-6)
    assert partition.assignment[partition.medoids].tolist() == list(range(5))


@pytest.mark.slow
def test_the_silhouette_is_that_of_a_fit_on_all_regions() -> None:
    """12,000 regions: medoids of samples stand beside FasterPAM on the whole matrix."""
    rng = np.random.default_rng(0)
    points = np.empty((11_997, 256), dtype=np.float32)
    draw_embeddings(draw_prototypes(25, 256, rng), rng.integers(25, size=len(points)), points, rng)
    distances = cosine_distances(points)
    found = propose_clusters(points, (20, 40, 80), draws=3, sample=3000, seed=0)
    for clusters in (20, 40, 80):
        fit = kmedoids.fasterpam(distances, clusters, random_state=0)
        reference = silhouette(distances, fit.labels.astype(np.int64))
        own = [
            silhouette(distances, part.assignment.astype(np.int64))
            for part in found.partitions
            if len(part.medoids) == clusters
        ]
        print(f"K = {clusters}: {np.mean(own):.4f}, FasterPAM on all {reference:.4f}")  # noqa: T201
        assert np.mean(own) >= reference - 0.01
