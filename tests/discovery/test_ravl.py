"""RaVL's measures against the paper's formulas, written out with loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravl_med.discovery.clustering import Clustering
from ravl_med.discovery.ravl import discover_correlations, performance_gaps, presence
from ravl_med.errors import DataError

THRESHOLD = 0.25


def naive_stage_1(assignment, region_image, region_scores, labels, predictions, clusters):
    """Section 3.1 of the paper and the public code's conventions, image by image."""
    images, classes = range(len(labels)), range(region_scores.shape[1])
    regions_of = {i: [r for r in range(len(region_image)) if region_image[r] == i] for i in images}
    gaps, weighted, influence = {}, {}, {}
    for c in range(clusters):
        in_cluster = [i for i in images if any(assignment[r] == c for r in regions_of[i])]
        for y in classes:
            inside = [i for i in in_cluster if labels[i] == y]
            outside = [i for i in images if labels[i] == y and i not in in_cluster]
            if not inside or not outside:
                gaps[c, y], weighted[c, y] = None, 0.0
                continue
            p_in = sum(predictions[i] == y for i in inside) / len(inside)
            p_out = sum(predictions[i] == y for i in outside) / len(outside)
            w = 2 * min(len(inside), len(outside)) / (len(inside) + len(outside))
            gaps[c, y], weighted[c, y] = p_in - p_out, w * (p_in - p_out)
        shares = []
        for y in classes:
            if gaps[c, y] is None or gaps[c, y] >= 0:
                continue
            led = []
            for i in in_cluster:
                if labels[i] != y or predictions[i] == y or len(regions_of[i]) == 1:
                    continue
                scores = [region_scores[r, predictions[i]] for r in regions_of[i]]
                strongest = regions_of[i][scores.index(max(scores))]
                led.append(assignment[strongest] == c)
            if led:
                shares.append(sum(led) / len(led))
        influence[c] = max(shares, default=-math.inf)
    return gaps, weighted, influence


@st.composite
def cohorts(draw):
    images, classes = draw(st.integers(1, 14)), draw(st.integers(2, 4))
    clusters = draw(st.integers(1, 6))
    counts = draw(st.lists(st.integers(0, 5), min_size=images, max_size=images))
    counts[draw(st.integers(0, images - 1))] = draw(st.integers(2, 5))
    region_image = np.repeat(np.arange(images), counts)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(classes, size=images)
    wrong = draw(st.booleans())  # or nothing is mispredicted
    predictions = rng.integers(classes, size=images) if wrong else labels.copy()
    levels = draw(st.sampled_from([2, 5, 10_000]))  # few levels: many ties
    scores = rng.integers(levels, size=(len(region_image), classes)) / levels
    similarity = rng.integers(levels, size=len(region_image)) / levels
    assignment = rng.integers(draw(st.integers(1, clusters)), size=len(region_image))
    clustering = Clustering(
        np.zeros(clusters, np.int64), assignment, similarity.astype(np.float32), {}
    )
    return clustering, region_image, scores, labels, predictions


@settings(max_examples=400, deadline=None)
@given(cohorts())
def test_discovery_is_the_papers(cohort):
    clustering, region_image, scores, labels, predictions = cohort
    clusters, classes = len(clustering.medoids), range(scores.shape[1])
    gaps, weighted, influence = naive_stage_1(
        clustering.assignment, region_image, scores, labels, predictions, clusters
    )

    found = discover_correlations(*cohort, min_influence=THRESHOLD)

    for c in range(clusters):
        for y in classes:
            assert found.table.weighted_gap[c, y] == pytest.approx(weighted[c, y], abs=1e-9)
            if gaps[c, y] is None:
                assert math.isnan(found.table.gap[c, y])
            else:
                assert found.table.gap[c, y] == pytest.approx(gaps[c, y], abs=1e-9)
        total = sum(abs(weighted[c, y]) for y in classes)
        assert found.table.performance_gap[c] == pytest.approx(total, abs=1e-9)
        assert found.influence[c] == influence[c]

    known = {c: [gaps[c, y] for y in classes if gaps[c, y] is not None] for c in range(clusters)}
    kept = {
        c
        for c in range(clusters)
        if influence[c] >= THRESHOLD and min(known[c]) < 0 and max(known[c]) > 0
    }
    assert {cluster.cluster for cluster in found.clusters} == kept
    ranked = [cluster.performance_gap for cluster in found.clusters]
    assert ranked == sorted(ranked, reverse=True)
    for cluster in found.clusters:
        c = cluster.cluster
        assert gaps[c, cluster.raised_class] == max(known[c])
        lowered = [gaps[c, y] for y in cluster.lowered_classes]
        assert lowered == sorted(gap for gap in known[c] if gap < 0)
        members = np.flatnonzero(clustering.assignment == c)
        assert sorted(cluster.regions.tolist()) == members.tolist()
        assert cluster.similarity.tolist() == clustering.similarity[cluster.regions].tolist()
        assert (np.diff(cluster.similarity) <= 0).all()
        inside = set(region_image[members].tolist())
        assert set(np.flatnonzero(cluster.present).tolist()) == inside
        assert cluster.influence == influence[c]


def test_a_planted_shortcut_by_hand():
    """Six images of two regions each; cluster 1 is the marker that turns class 0 into class 1."""
    region_image = np.repeat(np.arange(6), 2)
    assignment = np.array([0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0])
    labels = np.array([0, 0, 0, 1, 1, 1])
    predictions = np.array([0, 0, 1, 1, 0, 1])
    scores = np.tile([0.6, 0.4], (12, 1))
    scores[5] = [0.1, 0.9]  # the marker of image 2 is its strongest region for class 1
    clustering = Clustering(np.array([0, 5]), assignment, np.linspace(0, 1, 12, dtype="f4"), {})

    found = discover_correlations(clustering, region_image, scores, labels, predictions, 0.25)

    # Class 0: n 1 and 2, accuracy 0 and 1. Class 1: n 1 and 2, accuracy 1 and 1/2. w = 2/3.
    np.testing.assert_allclose(found.table.gap[1], [-1, 0.5])
    np.testing.assert_allclose(found.table.weighted_gap[1], [-2 / 3, 1 / 3])
    assert found.table.performance_gap[1] == pytest.approx(1)
    assert found.influence.tolist() == [-math.inf, 1]
    assert np.isnan(found.table.gap[0]).all()  # every image holds cluster 0
    (cluster,) = found.clusters
    assert (cluster.cluster, cluster.raised_class, cluster.lowered_classes) == (1, 1, (0,))
    assert cluster.regions.tolist() == [7, 5]
    assert cluster.present.tolist() == [False, False, True, True, False, False]
    assert (cluster.n_present.tolist(), cluster.n_absent.tolist()) == ([1, 1], [2, 2])
    np.testing.assert_allclose(cluster.gap, [-1, 0.5])


def test_a_cluster_at_the_threshold_is_kept_and_below_it_dropped():
    region_image = np.repeat(np.arange(10), 2)
    assignment = np.array([0, 1] * 5 + [0, 0] * 5)
    labels = np.array([0, 0, 0, 0, 1, 0, 0, 1, 1, 1])
    predictions = np.array([1, 1, 1, 1, 1, 0, 0, 1, 0, 1])
    scores = np.tile([0.5, 0.5], (20, 1))
    scores[1] = [0.1, 0.9]  # one of the four misled images is led by the cluster: H = 1/4
    clustering = Clustering(np.array([0, 1]), assignment, np.ones(20, np.float32), {})
    cohort = (clustering, region_image, scores, labels, predictions)

    assert [c.influence for c in discover_correlations(*cohort, 0.25).clusters] == [0.25]
    assert discover_correlations(*cohort, 0.26).clusters == ()


def test_nothing_found_is_a_result():
    region_image = np.repeat(np.arange(4), 2)
    labels = np.array([0, 0, 1, 1])
    clustering = Clustering(np.array([0, 1]), np.array([0, 1, 0, 0] * 2), np.ones(8, "f4"), {})

    found = discover_correlations(
        clustering, region_image, np.full((8, 2), 0.5), labels, labels, 0.25
    )

    assert found.clusters == ()
    assert found.influence.tolist() == [-math.inf] * 2


@pytest.mark.parametrize("images", [0, 5])
def test_films_of_a_single_region_are_an_error(images):
    regions = np.arange(images)
    clustering = Clustering(np.array([0]), np.zeros(images, np.int64), np.ones(images, "f4"), {})

    with pytest.raises(DataError, match="every film has fewer than 2 regions"):
        discover_correlations(clustering, regions, np.ones((images, 2)), regions % 2, regions, 0.25)


def test_presence_and_an_empty_arm_by_hand():
    present = presence(np.array([0, 2, 2]), np.array([0, 0, 2]), 3, 3)

    table = performance_gaps(present, np.array([0, 0, 1]), np.array([True, False, True]), 2)

    assert present.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert table.n_present.tolist() == [[1, 0], [0, 0], [1, 1]]
    assert table.n_absent.tolist() == [[1, 1], [2, 1], [1, 0]]
    np.testing.assert_array_equal(table.gap, [[1, np.nan], [np.nan, np.nan], [1, np.nan]])
    assert table.weighted_gap.tolist() == [[1, 0], [0, 0], [1, 0]]
