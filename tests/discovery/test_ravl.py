"""RaVL's measures against the paper's formulas, written out with loops."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravl_med.config.audit import DiscoveryConfig
from ravl_med.discovery.candidates import (
    Discovery,
    choose_classes,
    discover_correlations,
    stouffer_strength,
)
from ravl_med.discovery.clusters import FeatureClusters, Partition
from ravl_med.discovery.ravl import AuditData, opposed_gap, performance_gaps, strongest_regions
from ravl_med.errors import DataError


@dataclass(frozen=True)
class Rules:
    """What `discover_correlations` is asked."""

    min_influence: float
    min_films: int
    large_gap: float
    paper: bool = False


PAPER = Rules(min_influence=0.25, min_films=1, large_gap=2.0, paper=True)
OURS = Rules(min_influence=0.25, min_films=5, large_gap=0.1)


def proposals(
    *assignments: np.ndarray,
    similarities: Sequence[np.ndarray] | None = None,
    kept: Sequence[tuple[int, int]] | None = None,
) -> FeatureClusters:
    """One partition for each assignment; of its clusters those named by (partition, label)."""
    if kept is None:
        kept = [(p, c) for p, a in enumerate(assignments) for c in range(int(a.max()) + 1)]
    if similarities is None:
        similarities = [np.ones(len(a)) for a in assignments]
    return FeatureClusters(
        partitions=tuple(
            Partition(
                medoids=np.zeros(1 + max([int(a.max(initial=0)), *(c for _, c in kept)]), np.int64),
                assignment=a.astype(np.int32),
                similarity=s.astype(np.float32),
                draw=0,
                loss=0.0,
                silhouette=0.0,
            )
            for a, s in zip(assignments, similarities, strict=True)
        ),
        origin=np.array([p for p, _ in kept], np.int64),
        label=np.array([c for _, c in kept], np.int64),
        folded=((),) * len(kept),
        left_out={},
        silhouettes={},
    )


def task_of(
    labels: Sequence[int] | np.ndarray,
    predictions: Sequence[int] | np.ndarray,
    region_scores: np.ndarray,
) -> AuditData:
    """Films that nobody has put regions on yet."""
    classes, regions = region_scores.shape[1], len(region_scores)
    return AuditData(
        classes=tuple("abcdefgh"[:classes]),
        labels=np.asarray(labels, np.int64),
        predictions=np.asarray(predictions, np.int64),
        patients=np.arange(len(labels)),
        sizes=np.full((len(labels), 2), 100),
        region_image=np.full(regions, -1),
        region_boxes=np.zeros((regions, 4), np.float32),
        region_scores=region_scores,
    )


def discover(
    clusters: FeatureClusters,
    region_image: np.ndarray,
    task: AuditData,
    rules: Rules,
    films: np.ndarray | None = None,
) -> Discovery:
    looked_at = np.ones(len(task.labels), bool) if films is None else films
    present = clusters.presence(region_image, len(task.labels))
    config = DiscoveryConfig(
        protocol="paper" if rules.paper else "pooled", min_influence=rules.min_influence
    )
    return discover_correlations(
        replace(task, region_image=region_image), clusters, present, looked_at, config,
        min_films=rules.min_films, large_gap=rules.large_gap,
    )  # fmt: skip


class Naive:
    """Section 3.1 of the paper and the public code's conventions, image by image."""

    def __init__(
        self,
        clusters: FeatureClusters,
        region_image: np.ndarray,
        task: AuditData,
        films: np.ndarray,
    ) -> None:
        labels, predictions, scores = task.labels, task.predictions, task.region_scores
        images = [i for i in range(len(labels)) if films[i] and labels[i] >= 0]
        regions_of = {
            i: [r for r in range(len(region_image)) if region_image[r] == i] for i in images
        }
        self.clusters, self.classes = range(len(clusters.origin)), range(scores.shape[1])
        self.n: dict[tuple[int, int], tuple[int, int]] = {}
        self.p: dict[tuple[int, int], tuple[float, float]] = {}
        self.weighted: dict[tuple[int, int], float] = {}
        self.influence: dict[int, float] = {}
        for c in self.clusters:
            assignment = clusters.partitions[clusters.origin[c]].assignment
            members = {r for r in range(len(region_image)) if assignment[r] == clusters.label[c]}
            in_cluster = [i for i in images if any(r in members for r in regions_of[i])]
            for y in self.classes:
                inside = [i for i in in_cluster if labels[i] == y]
                outside = [i for i in images if labels[i] == y and i not in in_cluster]
                self.n[c, y] = len(inside), len(outside)
                self.weighted[c, y] = 0.0
                if inside and outside:
                    p_in = sum(predictions[i] == y for i in inside) / len(inside)
                    p_out = sum(predictions[i] == y for i in outside) / len(outside)
                    w = 2 * min(len(inside), len(outside)) / (len(inside) + len(outside))
                    self.p[c, y] = p_in, p_out
                    self.weighted[c, y] = w * (p_in - p_out)
            shares = []
            for y in self.classes:
                led = []
                for i in in_cluster:
                    if labels[i] != y or predictions[i] == y or len(regions_of[i]) == 1:
                        continue
                    loudness = [scores[r, predictions[i]] for r in regions_of[i]]
                    led.append(regions_of[i][loudness.index(max(loudness))] in members)
                if led and self.gap(c, y) < 0:
                    shares.append(sum(led) / len(led))
            self.influence[c] = max(shares, default=-math.inf)

    def gap(self, c: int, y: int) -> float:
        """NaN where a side is empty."""
        p_in, p_out = self.p.get((c, y), (math.nan, math.nan))
        return p_in - p_out

    def evidence(self, c: int, y: int) -> float:
        """Gap over its standard error, one right and one wrong film more on either side."""
        if (c, y) not in self.p:
            return 0.0
        (n_in, n_out), (p_in, p_out) = self.n[c, y], self.p[c, y]
        q_in = (round(p_in * n_in) + 1) / (n_in + 2)
        q_out = (round(p_out * n_out) + 1) / (n_out + 2)
        if (q_in - q_out) * (p_in - p_out) <= 0:
            return 0.0
        variance = q_in * (1 - q_in) / (n_in + 2) + q_out * (1 - q_out) / (n_out + 2)
        return float((q_in - q_out) / math.sqrt(variance))

    def performance_gap(self, c: int) -> float:
        return sum(abs(self.weighted[c, y]) for y in self.classes)

    def survives(self, c: int, least: float) -> bool:
        gaps = [self.gap(c, y) for y in self.classes]
        return self.influence[c] >= least and any(g > 0 for g in gaps) and any(g < 0 for g in gaps)

    def strength(self, c: int, rules: Rules) -> list[float]:
        measure = self.gap if rules.paper else self.evidence
        return [
            measure(c, y) if min(self.n[c, y]) >= rules.min_films else 0.0 for y in self.classes
        ]

    def is_large(self, c: int, rules: Rules) -> bool:
        gaps = [self.gap(c, y) for y in self.classes if min(self.n[c, y]) >= rules.min_films]
        return any(g >= rules.large_gap for g in gaps) and any(g <= -rules.large_gap for g in gaps)

    def candidates(self, rules: Rules) -> set[int]:
        return {
            c
            for c in self.clusters
            if (
                self.survives(c, rules.min_influence)
                or (self.is_large(c, rules) and not rules.paper)
            )
            and max(self.strength(c, rules)) > 0
        }


@st.composite
def cohorts(draw, multi_label):
    """Few films and few levels: many ties, empty arms, images without or with a single region."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = int(rng.integers(1, 40))
    region_image = np.repeat(np.arange(images), [2, *rng.integers(0, 5, size=images - 1)])
    if draw(st.booleans()):
        rng.shuffle(region_image)
    regions = len(region_image)
    levels = draw(st.sampled_from([2, 5, 10_000]))
    assignments, similarities, kept = [], [], []
    for number in range(draw(st.integers(1, 3))):
        k = int(rng.integers(1, 7))
        assignments.append(rng.integers(k, size=regions))
        similarities.append(rng.integers(levels, size=regions) / levels)
        # Near-duplicates are folded; a label without a region may stay.
        kept += [(number, c) for c in range(k) if rng.random() < 0.8]
    clusters = proposals(*assignments, similarities=similarities, kept=kept or [(0, 0)])
    wrong = draw(st.sampled_from([0.0, 0.3, 0.7]))  # or nothing is mispredicted
    planted = np.isin(np.arange(images), region_image[assignments[0] == 0]) & draw(st.booleans())
    tasks = []
    for _ in range(draw(st.integers(2, 3)) if multi_label else 1):
        classes = 2 if multi_label else draw(st.integers(2, 4))
        labels = rng.integers(classes, size=images)
        other = rng.integers(classes, size=images)
        predictions = np.where(rng.random(images) < wrong, other, labels)
        predictions[planted & (rng.random(images) < 0.8)] = 0
        labels[rng.random(images) < draw(st.sampled_from([0.0, 0.3]))] = -1
        scores = rng.integers(levels, size=(regions, classes)) / levels
        tasks.append(task_of(labels, predictions, scores))
    films = rng.random(images) < draw(st.sampled_from([0.6, 1.0]))
    rules = Rules(
        min_influence=draw(st.sampled_from([0.0, 0.25, 0.5])),
        min_films=draw(st.integers(1, 2)),
        large_gap=draw(st.sampled_from([0.1, 0.5, 2.0])),
        paper=draw(st.booleans()),
    )
    return clusters, region_image, tasks, films, rules


def assert_same(found: Discovery, naive: Naive, rules: Rules) -> None:
    """Everything that is measured and chosen, by the paper's formulas."""
    for c in naive.clusters:
        for y in naive.classes:
            assert (found.table.n_present[c, y], found.table.n_absent[c, y]) == naive.n[c, y]
            assert found.table.weighted_gap[c, y] == pytest.approx(naive.weighted[c, y], abs=1e-6)
            expected = pytest.approx(naive.gap(c, y), abs=1e-6, nan_ok=True)
            assert found.table.gap[c, y] == expected
            expected = pytest.approx(naive.evidence(c, y), abs=1e-6)
            assert found.table.standardised_gap[c, y] == expected
        expected = pytest.approx(naive.performance_gap(c), abs=1e-6)
        assert found.table.performance_gap[c] == expected
        assert found.influence[c] == pytest.approx(naive.influence[c], abs=1e-6)
    survivors = {c for c in naive.clusters if naive.survives(c, rules.min_influence)}
    assert found.survivors == len(survivors)
    candidates, own = naive.candidates(rules), {c.cluster for c in found.candidates}
    if rules.paper:  # the top cluster alone
        assert own <= candidates
        assert len(own) == min(1, len(candidates))
        top = max(map(naive.performance_gap, candidates), default=0.0)
        assert all(naive.performance_gap(c) == pytest.approx(top, abs=1e-6) for c in own)
    else:
        assert own == candidates
    ranked = [cluster.performance_gap for cluster in found.candidates]
    assert ranked == sorted(ranked, reverse=True)
    for cluster in found.candidates:
        c, strength = cluster.cluster, naive.strength(cluster.cluster, rules)
        assert cluster.rare == (c not in survivors)
        assert strength[cluster.raised_class] == pytest.approx(max(strength), abs=1e-9)
        assert sorted(cluster.lowered_classes) == [y for y in naive.classes if strength[y] < 0]
        lowered = [strength[y] for y in cluster.lowered_classes]
        assert lowered == pytest.approx(sorted(lowered), abs=1e-9)
        together = [-sum(lowered[:j]) / math.sqrt(j) for j in range(1, len(lowered) + 1)]
        j = len(cluster.opposed_classes)
        expected = naive.evidence(c, cluster.raised_class)
        expected -= sum(naive.evidence(c, y) for y in cluster.opposed_classes) / math.sqrt(j or 1)
        assert cluster.strength == pytest.approx(expected / math.sqrt(2), abs=1e-6)
        assert cluster.opposed_classes == cluster.lowered_classes[:j]
        assert bool(j) == bool(lowered)
        if j:
            assert together[j - 1] == pytest.approx(max(together), abs=1e-9)
            n = [naive.n[c, y] for y in cluster.opposed_classes]
            weight = [n_in * n_out / (n_in + n_out) for n_in, n_out in n]
            gaps = [naive.gap(c, y) for y in cluster.opposed_classes]
            pooled = sum(w * g for w, g in zip(weight, gaps, strict=True)) / sum(weight)
            assert cluster.opposed_gap == pytest.approx(pooled, abs=1e-6)


def assert_members(found: Discovery, clusters: FeatureClusters, region_image: np.ndarray) -> None:
    """Regions and images of a candidate are of all films, whichever were looked at."""
    for cluster in found.candidates:
        partition = clusters.partitions[clusters.origin[cluster.cluster]]
        members = np.flatnonzero(partition.assignment == clusters.label[cluster.cluster])
        assert sorted(cluster.regions.tolist()) == members.tolist()
        assert cluster.similarity.tolist() == partition.similarity[cluster.regions].tolist()
        assert (np.diff(cluster.similarity) <= 0).all()
        inside = set(region_image[members].tolist())
        assert set(np.flatnonzero(cluster.present).tolist()) == inside


@pytest.mark.parametrize("multi_label", [False, True], ids=["multi-class", "multi-label"])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_discovery_is_the_papers(multi_label, data):
    clusters, region_image, tasks, films, rules = data.draw(cohorts(multi_label))

    for task in tasks:
        found = discover(clusters, region_image, task, rules, films)

        assert_same(found, Naive(clusters, region_image, task, films), rules)
        assert_members(found, clusters, region_image)


def test_a_planted_shortcut_by_hand():
    """Six images of two regions each; cluster 1 is the marker that turns class 0 into class 1."""
    region_image = np.repeat(np.arange(6), 2)
    assignment = np.array([0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0])
    scores = np.tile([0.6, 0.4], (12, 1))
    scores[5] = [0.1, 0.9]  # the marker of image 2 is its strongest region for class 1
    task = task_of([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 1], scores)
    clusters = proposals(assignment, similarities=[np.linspace(0, 1, 12)])

    found = discover(clusters, region_image, task, PAPER)

    # Class 0: n 1 and 2, accuracy 0 and 1. Class 1: n 1 and 2, accuracy 1 and 1/2. w = 2/3.
    np.testing.assert_allclose(found.table.gap[1], [-1, 0.5])
    np.testing.assert_allclose(found.table.weighted_gap[1], [-2 / 3, 1 / 3])
    assert found.table.performance_gap[1] == pytest.approx(1)
    assert found.influence.tolist() == [-math.inf, 1]
    assert np.isnan(found.table.gap[0]).all()  # every image holds cluster 0
    assert found.survivors == 1
    (cluster,) = found.candidates
    assert (cluster.cluster, cluster.raised_class, cluster.lowered_class) == (1, 1, 0)
    assert (cluster.lowered_classes, cluster.opposed_classes) == ((0,), (0,))
    assert cluster.opposed_gap == -1
    assert not cluster.rare
    assert cluster.regions.tolist() == [7, 5]
    assert cluster.present.tolist() == [False, False, True, True, False, False]
    assert (cluster.n_present.tolist(), cluster.n_absent.tolist()) == ([1, 1], [2, 2])
    np.testing.assert_allclose(cluster.gap, [-1, 0.5])


def test_a_cluster_at_the_threshold_is_kept_and_below_it_dropped():
    region_image = np.repeat(np.arange(10), 2)
    clusters = proposals(np.array([0, 1] * 5 + [0, 0] * 5))
    scores = np.tile([0.5, 0.5], (20, 1))
    scores[1] = [0.1, 0.9]  # one of the four misled images is led by the cluster: H = 1/4
    task = task_of([0, 0, 0, 0, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 1, 0, 1], scores)

    at, above = (
        discover(clusters, region_image, task, Rules(least, 1, 2.0, paper=True))
        for least in (0.25, 0.26)
    )

    assert [c.influence for c in at.candidates] == [0.25]
    assert (above.candidates, above.survivors) == ((), 0)


def test_nothing_found_is_a_result():
    region_image = np.repeat(np.arange(4), 2)
    labels = np.array([0, 0, 1, 1])
    clusters = proposals(np.array([0, 1, 0, 0] * 2))

    found = discover(clusters, region_image, task_of(labels, labels, np.full((8, 2), 0.5)), PAPER)

    assert (found.candidates, found.survivors) == ((), 0)
    assert found.influence.tolist() == [-math.inf] * 2


@pytest.mark.parametrize("films", [[False] * 4, [True, False, False, False]])
def test_no_film_to_look_at_is_a_result(films):
    region_image = np.repeat(np.arange(4), 2)
    labels = np.array([-1, 0, 1, 1])
    clusters = proposals(np.array([0, 1, 0, 0] * 2))
    task = task_of(labels, 1 - np.abs(labels), np.full((8, 2), 0.5))

    found = discover(clusters, region_image, task, PAPER, np.array(films))

    assert found.candidates == ()
    assert not found.table.n_present.any()


@pytest.mark.parametrize("images", [0, 5])
def test_films_of_a_single_region_are_an_error(images):
    regions = np.arange(images)
    clusters = proposals(np.zeros(images, np.int64), kept=[(0, 0)])
    task = task_of(regions % 2, regions % 2, np.ones((images, 2)))

    with pytest.raises(DataError, match="every film has fewer than 2 regions"):
        discover(clusters, regions, task, PAPER)


def test_the_strongest_region_is_the_first_of_equals_and_none_of_a_single_one():
    region_image = np.array([2, 0, 2, 1, 2, 0])
    scores = np.array([[9, 1], [5, 2], [0, 3], [9, 9], [0, 3], [5, 1]])

    strongest = strongest_regions(region_image, scores, np.array([0, 0, 1, 1]))

    assert strongest.tolist() == [1, -1, 2, -1]  # image 1 has one region, image 3 none


def test_an_empty_arm_by_hand():
    present = np.array([[1, 0, 1], [0, 0, 0], [0, 0, 1]], bool)

    table = performance_gaps(present, np.array([0, 0, 1]), np.array([True, False, True]), 2)

    assert table.n_present.tolist() == [[1, 0], [0, 0], [1, 1]]
    assert table.n_absent.tolist() == [[1, 1], [2, 1], [1, 0]]
    assert table.smaller_arm.tolist() == [[1, 0], [0, 0], [1, 0]]
    np.testing.assert_array_equal(table.gap, [[1, np.nan], [np.nan, np.nan], [1, np.nan]])
    assert table.weighted_gap.tolist() == [[1, 0], [0, 0], [1, 0]]
    # One film right against one wrong: 2/3 against 1/3, each with variance 2/27.
    expected = (1 / 3) / math.sqrt(4 / 27)
    np.testing.assert_allclose(table.standardised_gap, [[expected, 0], [0, 0], [expected, 0]])


def test_gaps_are_the_same_in_any_block(monkeypatch):
    rng = np.random.default_rng(0)
    present, labels = rng.random((50, 4)) < 0.4, rng.integers(-1, 3, 50)
    correct = rng.random(50) < 0.7
    one = performance_gaps(present, labels, correct, 3)
    monkeypatch.setattr("ravl_med.discovery.ravl._ROWS", 7)

    blocks = performance_gaps(present, labels, correct, 3)

    np.testing.assert_array_equal(blocks.n_present, one.n_present)
    np.testing.assert_array_equal(blocks.gap, one.gap)


def test_pseudo_films_never_turn_a_gap_round():
    """9 of 10 right against 89 of 100: a gap of a point, which pseudo-films would make negative."""
    labels = np.repeat([0, 1], [110, 20])
    present = np.repeat([True, False, True, False], [10, 100, 10, 10])
    correct = np.repeat([True, False, True, False, True], [9, 1, 89, 21, 10])

    table = performance_gaps(present[:, None], labels, correct, 2)

    assert table.gap[0, 0] == pytest.approx(0.01)
    assert table.standardised_gap[0, 0] == 0
    assert choose_classes(table.standardised_gap[0]) == (0, (1,), (1,))


@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        ([1.0, -1.0], (0, (1,), (1,))),
        ([0.5, 2.0, -1.0], (1, (2,), (2,))),
        # 3, 5 / sqrt(2) = 3.54, 5.5 / sqrt(3) = 3.18
        ([4.0, -2.0, -3.0, -0.5], (0, (2, 1, 3), (2, 1))),
        ([4.0, -1.0, -1.0, -1.0], (0, (1, 2, 3), (1, 2, 3))),
        ([-3.0, 0.0, 2.0, 2.0], (2, (0,), (0,))),  # the first of equals is raised
        ([1.0, 0.0, 2.0], (2, (), ())),
        ([0.0, 0.0], (0, (), ())),
    ],
)
def test_classes_are_chosen_by_hand(strength, expected):
    assert choose_classes(np.array(strength)) == expected


def test_both_sides_joined_by_hand():
    standardised = np.array([3.0, -1.0, -2.0, 0.5])

    assert stouffer_strength(standardised, 0, (2,)) == pytest.approx(5 / math.sqrt(2))
    both = 3 + 3 / math.sqrt(2)
    assert stouffer_strength(standardised, 0, (2, 1)) == pytest.approx(both / math.sqrt(2))
    assert stouffer_strength(standardised, 3, ()) == pytest.approx(0.5 / math.sqrt(2))


def test_the_gap_of_lowered_classes_together_by_hand():
    """Class 0: 4 and 12 films, gap -1/2. Class 1: 2 and 2, gap -1. Class 2 has no film with it."""
    labels = np.repeat([0, 1, 2], [16, 4, 3])
    present = np.repeat([True, False, True, False], [4, 12, 2, 5])
    correct = np.ones(23, bool)
    correct[[0, 1, 16, 17]] = False
    table = performance_gaps(present[:, None], labels, correct, 3)

    # Weights 4 * 12 / 16 = 3 and 2 * 2 / 4 = 1.
    assert opposed_gap(table, 0, (0,)) == -0.5
    assert opposed_gap(table, 0, (0, 1)) == pytest.approx((3 * -0.5 + 1 * -1) / 4)
    assert opposed_gap(table, 0, (2, 0)) == -0.5
    assert math.isnan(opposed_gap(table, 0, (2,)))
    assert math.isnan(opposed_gap(table, 0, ()))


def two_regions_a_film(
    *groups: tuple[int, bool, int, int], leads: bool = True
) -> tuple[FeatureClusters, np.ndarray, AuditData]:
    """Films from (class, feature, films, hits); cluster 1 is the feature, cluster 0 all else."""
    labels = np.repeat([g[0] for g in groups], [g[2] for g in groups])
    feature = np.repeat([g[1] for g in groups], [g[2] for g in groups])
    correct = np.concatenate([np.arange(g[2]) < g[3] for g in groups])
    classes = int(labels.max()) + 1
    assignment = np.column_stack([np.zeros(len(labels), int), feature]).ravel()
    scores = np.tile([0.2, 0.4 if leads else 0.1], len(labels))
    task = task_of(
        labels,
        np.where(correct, labels, (labels + 1) % classes),
        np.repeat(scores[:, None], classes, axis=1),
    )
    return proposals(assignment), np.repeat(np.arange(len(labels)), 2), task


RARE = [(0, True, 60, 60), (0, False, 1940, 776), (1, True, 60, 30), (1, False, 1940, 1358)]


@pytest.mark.parametrize("leads", [True, False])
def test_a_rare_device_with_a_large_gap_is_a_candidate(leads):
    """A device in 3 % of 4,000 films: +60 and -20 points, and yet G is below 0.05."""
    cohort = two_regions_a_film(*RARE, leads=leads)

    found = discover(*cohort, OURS)

    (cluster,) = found.candidates
    np.testing.assert_allclose(cluster.gap, [0.6, -0.2])
    assert cluster.performance_gap == pytest.approx(0.06 * 0.8)  # below 0.05
    assert (cluster.cluster, cluster.raised_class, cluster.opposed_classes) == (1, 0, (1,))
    assert cluster.influence == (1 if leads else 0)
    assert cluster.rare is (not leads)  # only when RaVL's filter drops it
    assert found.survivors == leads


def test_a_rare_device_needs_both_gaps_and_its_films():
    cohort = two_regions_a_film(*RARE, leads=False)

    for rules in (
        Rules(0.25, 5, 0.21),  # one side has a gap of 20 points
        Rules(0.25, 61, 0.1),
        Rules(0.25, 5, 0.1, paper=True),  # the paper has no such rule
    ):
        assert discover(*cohort, rules).candidates == ()
    assert len(discover(*cohort, Rules(0.25, 60, 0.2 - 1e-9)).candidates) == 1


def test_the_raised_class_needs_films_in_either_choice():
    """Class 0: gap +1 on 2 films; class 1: gap +1/2 on 80; class 2 is lowered."""
    cohort = two_regions_a_film(
        (0, True, 1, 1), (0, False, 1, 0), (1, True, 40, 36), (1, False, 40, 16),
        (2, True, 40, 4), (2, False, 40, 36),
    )  # fmt: skip

    def raised(min_films, *, paper=False):
        (cluster,) = discover(*cohort, Rules(0.25, min_films, 2.0, paper)).candidates
        return cluster.raised_class

    assert raised(1, paper=True) == 0  # the paper's textual attribute
    assert raised(1) == 1
    assert raised(2, paper=True) == raised(2) == 1
    assert discover(*cohort, Rules(0.25, 41, 2.0)).candidates == ()


def test_the_paper_reports_the_top_cluster_alone():
    """Feature in half of the films, once as such and once with a film too many."""
    clusters, region_image, task = two_regions_a_film(
        (0, True, 20, 18), (0, False, 20, 8), (1, True, 20, 4), (1, False, 20, 16)
    )
    feature = clusters.partitions[0].assignment
    blurred = feature.copy()
    blurred[61] = 1  # a film of class 0 without the feature, and wrong
    both = proposals(blurred, feature)

    every = discover(both, region_image, task, OURS)
    top = discover(both, region_image, task, Rules(0.25, 1, 0.1, paper=True))

    assert [c.cluster for c in every.candidates] == [3, 1]
    assert [c.cluster for c in top.candidates] == [3]
    assert top.survivors == every.survivors == 2
    assert top.candidates[0].performance_gap > every.candidates[1].performance_gap


def test_only_the_films_that_are_asked_for_are_measured():
    """The feature turns round on the other half of the films."""
    clusters, region_image, task = two_regions_a_film(
        (0, True, 20, 18), (0, False, 20, 8), (1, True, 20, 4), (1, False, 20, 16),
        (0, True, 20, 8), (0, False, 20, 18), (1, True, 20, 16), (1, False, 20, 4),
    )  # fmt: skip
    films = np.arange(160) < 80

    (first,) = discover(clusters, region_image, task, OURS, films).candidates
    (second,) = discover(clusters, region_image, task, OURS, ~films).candidates

    assert (first.raised_class, second.raised_class) == (0, 1)
    np.testing.assert_allclose(first.gap, [0.5, -0.6])
    np.testing.assert_allclose(second.gap, [-0.5, 0.6])
    assert first.present.sum() == second.present.sum() == 80  # of all films
    assert discover(clusters, region_image, task, OURS).candidates == ()
