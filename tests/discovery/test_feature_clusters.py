"""Feature clusters pooled from several partitions: folding, members, presence."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.discovery.clusters import FeatureClusters, Partition, fold_clusters


def partition(assignment: list[int], clusters: int, draw: int = 0) -> Partition:
    """Return a partition whose medoids are the first regions of its clusters."""
    labels = np.array(assignment, dtype=np.int32)
    medoids = [assignment.index(k) if k in assignment else 0 for k in range(clusters)]
    similarity = np.linspace(1, 0.5, len(labels), dtype=np.float32)
    return Partition(np.array(medoids), labels, similarity, draw, 0.25, math.nan)


def folded(overlap: float, *partitions: Partition) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return the clusters kept, by (partition, label), and what was folded into each."""
    origin, label, into = fold_clusters(partitions, overlap)
    names = zip(origin.tolist(), label.tolist(), strict=True)
    return {name: list(members) for name, members in zip(names, into, strict=True)}


# Folding, by hand


def test_equal_clusters_are_folded_and_different_ones_kept():
    one = partition([0, 0, 0, 1, 1, 1, 2, 2], 3)
    other = partition([1, 1, 1, 0, 0, 2, 2, 2], 3)

    # {0, 1, 2} is in both. {3, 4, 5} and {3, 4}: 2/3. {6, 7} and {5, 6, 7}: 2/3. Support decides
    # between equals by size, then by place.
    assert folded(0.5, one, other) == {(0, 0): [(1, 1)], (0, 1): [(1, 0)], (1, 2): [(0, 2)]}
    assert folded(0.7, one, other) == {
        (0, 0): [(1, 1)], (0, 1): [], (0, 2): [], (1, 0): [], (1, 2): []
    }  # fmt: skip


def test_the_overlap_itself_is_enough():
    one = partition([0, 0, 1, 1, 1, 1], 2)
    other = partition([0, 1, 2, 2, 2, 3], 4)

    # {0, 1} and {0}: exactly 1/2; {0, 1} and {1}: exactly 1/2; {2, 3, 4, 5} and {2, 3, 4}: 3/4.
    assert folded(0.5, one, other) == {(0, 0): [(1, 0), (1, 1)], (0, 1): [(1, 2)], (1, 3): []}
    assert folded(0.51, one, other) == {
        (0, 0): [], (0, 1): [(1, 2)], (1, 0): [], (1, 1): [], (1, 3): []
    }  # fmt: skip


def test_what_most_partitions_agree_on_stands_for_the_rest():
    odd = partition([0, 0, 0, 1, 1, 1, 1, 1], 2)  # cuts off {0, 1, 2}
    agreed = [partition([0, 0, 0, 0, 1, 1, 1, 1], 2, draw) for draw in (1, 2)]

    assert folded(0.5, odd, *agreed) == {(1, 0): [(0, 0), (2, 0)], (1, 1): [(0, 1), (2, 1)]}


def test_a_cluster_joins_the_kept_one_that_it_resembles_most():
    # {0 .. 5} is within reach of {0 .. 3} (4/6) and of {0 .. 4} (5/6), which reach each other at
    # 4/5 only.
    parts = [
        partition([0, 0, 0, 0, 1, 1, 1, 1, 1, 1], 2),
        partition([0, 0, 0, 0, 0, 1, 1, 1, 1, 1], 2),
        partition([0, 0, 0, 0, 0, 0, 1, 1, 1, 1], 2),
    ]

    kept = folded(0.82, *parts)

    assert kept == {(0, 0): [], (1, 0): [(2, 0)], (1, 1): [(0, 1)], (2, 1): []}


def test_clusters_of_one_partition_are_never_folded():
    assert folded(0.01, partition([0, 1, 2, 3], 4)) == {(0, k): [] for k in range(4)}


def test_a_cluster_without_regions_is_no_candidate():
    one, other = partition([0, 0, 2, 2], 3), partition([1, 1, 1, 1], 2)

    assert folded(0.5, one, other) == {(1, 1): [(0, 0), (0, 2)]}
    assert folded(0.6, one, other) == {(0, 0): [], (0, 2): [], (1, 1): []}


@given(st.integers(1, 30), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.data())
def test_folding_against_a_naive_walk_over_sets(regions, counts, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    parts = [partition(rng.integers(k, size=regions).tolist(), k) for k in counts]
    sets = {
        (p, k): frozenset(np.flatnonzero(part.assignment == k).tolist())
        for p, part in enumerate(parts)
        for k in range(len(part.medoids))
    }

    def alike(a: tuple[int, int], b: tuple[int, int]) -> float:
        union = sets[a] | sets[b]
        return len(sets[a] & sets[b]) / len(union) if union and a[0] != b[0] else 0.0

    kept = folded(0.5, *parts)

    everywhere = [*kept, *(name for names in kept.values() for name in names)]
    assert sorted(everywhere) == sorted(name for name in sets if sets[name])
    for into, names in kept.items():
        assert all(alike(into, name) >= 0.5 for name in names)
        assert all(alike(name, into) >= alike(name, other) for name in names for other in kept)
        assert all(alike(into, other) < 0.5 for other in kept if other != into)


# Members and presence


@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 4), st.data())
def test_members_and_presence_are_those_of_a_naive_loop(regions, images, clusters, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    parts = tuple(
        Partition(
            rng.integers(regions, size=clusters),
            rng.integers(clusters, size=regions).astype(np.int32),
            rng.choice([0.2, 0.5, 0.9], size=regions).astype(np.float32),
            draw,
            0.5,
            math.nan,
        )
        for draw in range(2)
    )
    origin, label, into = fold_clusters(parts, 0.5)
    found = FeatureClusters(parts, origin, label, into, {})
    region_image = rng.integers(images, size=regions)

    present = found.presence(region_image, images)

    assert len(found) == len(found.medoids) == len(found.folded)
    assert present.shape == (images, len(found))
    assert len(found.partitions[0].assignment) == regions
    for cluster in range(len(found)):
        part = parts[origin[cluster]]
        inside = [r for r in range(regions) if part.assignment[r] == label[cluster]]
        ranked = sorted(inside, key=lambda r: -part.similarity[r])
        assert found.members(cluster).tolist() == ranked
        assert found.sizes[cluster] == len(ranked)
        assert found.similarity_of(cluster).tolist() == part.similarity[ranked].tolist()
        assert found.medoids[cluster] == part.medoids[label[cluster]]
        assert present[:, cluster].tolist() == [
            any(region_image[r] == image for r in inside) for image in range(images)
        ]
