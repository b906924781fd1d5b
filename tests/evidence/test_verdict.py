"""Claims and verdicts: what counts, what it is called, how often a null cohort is accused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ravl_med.config import EvidenceConfig, GateConfig
from ravl_med.discovery.clustering import Clustering
from ravl_med.discovery.ravl import discover_correlations
from ravl_med.evidence.relevance import RelevanceTable
from ravl_med.evidence.statistics import PatientBootstrap
from ravl_med.evidence.verdict import (
    AuditedImages,
    EvidenceRules,
    auditability,
    judge,
    measure_accuracy,
    weigh_correlation,
)

CLASSES = ("no finding", "cardiomegaly")
HEART = RelevanceTable({"cardiomegaly": ((0.2, 0.4, 0.8, 0.9),)})
IN_THE_HEART = (40, 50, 60, 70)  # films are 100 x 100
IN_A_CORNER = (0, 0, 20, 20)
ACROSS_ITS_EDGE = (10, 50, 30, 70)  # half of it in x


def rules_of(patients, *, comparisons=10, draws=2_000, relevance=HEART, gate=None, **evidence):
    return EvidenceRules(
        EvidenceConfig(relevance=Path("unused.yaml"), draws=draws, **evidence),
        gate or GateConfig(),
        relevance,
        PatientBootstrap(np.asarray(patients), draws, seed=0),
        comparisons,
    )


def planted(cluster_of, box, *, films=50, effect=2.0):
    """Four groups of films: the feature makes 9 in 10 cardiomegaly, right or wrong."""
    labels = np.repeat([1, 1, 0, 0], films)
    present = np.repeat([True, False, True, False], films)
    called_heart = np.tile(np.arange(films) % 10, 4) < np.repeat([9, 4, 9, 1], films)
    correct = called_heart == (labels == 1)
    cluster = cluster_of(present, labels, correct)
    images = AuditedImages(
        classes=CLASSES,
        labels=labels,
        correct=correct,
        sizes=np.full((len(labels), 2), 100),
        region_image=np.arange(len(labels)),
        region_boxes=np.tile(np.array(box, np.float32), (len(labels), 1)),
    )
    effects = effect + 0.5 * np.random.default_rng(0).normal(size=len(cluster.regions))
    return cluster, effects, images


@pytest.mark.parametrize(
    ("box", "kind", "share"),
    [(IN_A_CORNER, "shortcut", 0), (IN_THE_HEART, "plausible_sign", 1),
     (ACROSS_ITS_EDGE, "undecided", 0.5)],
)  # fmt: skip
def test_a_planted_correlation_counts_and_its_place_names_it(cluster_of, box, kind, share):
    cluster, effect, images = planted(cluster_of, box)
    rules = rules_of(np.arange(200), sign_share=0.6)

    found = weigh_correlation(3, cluster, effect, images, rules)

    assert found.counts
    assert found.reasons == ()
    assert found.kind == kind
    assert found.rank == 3
    assert found.removal.inside_share == pytest.approx(share, abs=0.01)
    assert (cluster.raised_class, cluster.lowered_classes) == (1, (0,))
    np.testing.assert_allclose(cluster.gap, [0.1 - 0.9, 0.9 - 0.4])
    assert found.gap_interval[1].low > 0 > found.gap_interval[0].high
    for c in range(2):
        assert found.gap_interval[c].low < cluster.gap[c] < found.gap_interval[c].high
        within = found.accuracy_present_interval[c]
        assert within.low < cluster.accuracy_present[c] < within.high
    assert found.removal.mean == pytest.approx(effect.mean())
    assert found.removal.interval.low < effect.mean() < found.removal.interval.high


def test_a_class_without_a_place_stays_undecided(cluster_of):
    cluster, effect, images = planted(cluster_of, IN_A_CORNER)

    found = weigh_correlation(
        1, cluster, effect, images, rules_of(np.arange(200), relevance=RelevanceTable({}))
    )

    assert found.counts
    assert found.kind == "undecided"
    assert np.isnan(found.removal.inside_share)


@pytest.mark.parametrize("effect", [0.0, -2.0, float("nan")])
def test_without_a_removal_effect_nothing_counts(cluster_of, effect):
    cluster, effects, images = planted(cluster_of, IN_A_CORNER, effect=effect)

    found = weigh_correlation(1, cluster, effects, images, rules_of(np.arange(200)))

    assert not found.counts
    assert found.kind == "undecided"
    assert np.isnan(found.removal.interval.low) == np.isnan(effect)
    assert found.reasons == ("Removing the regions does not lower the raised class beyond chance.",)


def test_too_few_films_do_not_count(cluster_of):
    cluster, effect, images = planted(cluster_of, IN_A_CORNER)

    found = weigh_correlation(1, cluster, effect, images, rules_of(np.arange(200), min_n=51))

    assert found.reasons == (
        "The raised class cardiomegaly has only 50 films in the smaller arm (evidence.min_n 51).",
        "No lowered class passes (no finding: only 50 films in the smaller arm "
        "(evidence.min_n 51)).",
    )


def test_a_gap_below_the_gate_does_not_count(cluster_of):
    cluster, effect, images = planted(cluster_of, IN_A_CORNER)
    rules = rules_of(np.arange(200), gate=GateConfig(max_gap=0.6))

    found = weigh_correlation(1, cluster, effect, images, rules)

    assert found.reasons == ("The raised class cardiomegaly has a gap below 60% (gate.max_gap).",)


def test_many_films_of_few_patients_do_not_count(cluster_of):
    cluster, effect, images = planted(cluster_of, IN_A_CORNER)
    films = np.arange(200)

    found = weigh_correlation(1, cluster, effect, images, rules_of(films % 10 // 5 + films // 100))

    assert not found.counts
    assert "an interval of the gap that holds 0" in found.reasons[0]


def test_regions_stand_by_effect_and_unmeasured_ones_last_by_similarity(cluster_of):
    cluster, _, images = planted(cluster_of, IN_A_CORNER, films=10)
    cluster = replace(cluster, regions=cluster.regions[:5], similarity=np.array([5, 1, 2, 3, 4.0]))
    effect = np.array([np.nan, 1.0, 3.0, np.nan, 1.0])

    found = weigh_correlation(1, cluster, effect, images, rules_of(np.arange(40)))

    assert found.order.tolist() == [2, 4, 1, 0, 3]


def test_each_image_counts_once_in_the_mean_effect(cluster_of):
    cluster, _, images = planted(cluster_of, IN_A_CORNER, films=10)
    cluster = replace(cluster, regions=np.array([0, 1, 2, 3]), similarity=np.ones(4))
    images = replace(images, region_image=np.array([0, 0, 0, 5] + [1] * 36))

    found = weigh_correlation(
        1, cluster, np.array([1.0, 2.0, 3.0, 8.0]), images, rules_of(np.arange(40))
    )

    assert found.removal.mean == 5  # (2 + 8) / 2


@pytest.mark.parametrize("films_per_patient", [1, 3])
def test_null_cohorts_are_seldom_accused(films_per_patient):
    """Clusters that have nothing to do with the predictions, and removal always "works".

    So the intervals of the gaps alone stand between a null cohort and an accusation, with no
    least gap; the rate is over cohorts, each with five clusters.
    """
    rng = np.random.default_rng(films_per_patient)
    clusters, patients, regions = 5, 80, 4
    films = patients * films_per_patient
    patient = np.repeat(np.arange(patients), films_per_patient)
    accused = off_zero = looked_at = 0
    for _ in range(200):
        labels = rng.integers(2, size=patients)[patient]
        steady = rng.random(patients)[patient] < 0.5  # some patients are right or wrong throughout
        lucky = rng.random(patients)[patient] < 0.75
        right = np.where(steady, lucky, rng.random(films) < 0.75)
        predictions = np.where(right, labels, 1 - labels)
        own = rng.integers(clusters, size=patients)[patient]  # a region that the patient keeps
        assignment = rng.integers(clusters, size=(films, regions))
        assignment[:, 0] = own
        assignment[:, 1:] = np.where(
            rng.random((films, regions - 1)) < 0.7, own[:, None], assignment[:, 1:]
        )
        found = discover_correlations(
            Clustering(
                np.zeros(clusters, np.int64), assignment.ravel(),
                np.ones(films * regions, np.float32), {},
            ),
            np.repeat(np.arange(films), regions),
            rng.random((films * regions, 2)), labels, predictions, 0.0,
        )  # fmt: skip
        images = AuditedImages(
            CLASSES, labels, right, np.full((films, 2), 100),
            np.repeat(np.arange(films), regions),
            np.tile(np.array(IN_A_CORNER, np.float32), (films * regions, 1)),
        )  # fmt: skip
        rules = rules_of(patient, comparisons=clusters, draws=800, gate=GateConfig(max_gap=0.0))
        weighed = [
            weigh_correlation(1, cluster, np.ones(len(cluster.regions)), images, rules)
            for cluster in found.clusters
        ]
        looked_at += len(weighed)
        gaps = [gap for correlation in weighed for gap in correlation.gap_interval]
        off_zero += any(gap.excludes_zero() for gap in gaps)
        accused += any(correlation.counts for correlation in weighed)

    assert looked_at >= 200  # discovery itself does propose
    assert accused <= 0.05 * 200
    # Intervals are corrected for clusters, not for the two classes. Drawing films instead of
    # patients gives 0.16 with three films a patient.
    assert off_zero <= 2 * 0.05 * 200


def correlation(cluster_of, box, **changes):
    cluster, effect, images = planted(cluster_of, box)
    found = weigh_correlation(1, cluster, effect, images, rules_of(np.arange(200)))
    return replace(found, **changes)


def test_a_shortcut_fails(cluster_of):
    sign = correlation(cluster_of, IN_THE_HEART)

    verdict = judge([sign, correlation(cluster_of, IN_A_CORNER)], CLASSES, GateConfig())

    assert verdict.name == "fail"
    assert "1 shortcut above the gate of 10%: the model raises cardiomegaly" in (verdict.reasons[0])


def test_signs_and_undecided_ones_go_to_review(cluster_of):
    sign = correlation(cluster_of, IN_THE_HEART)
    undecided = replace(sign, kind="undecided")

    assert judge([sign], CLASSES, GateConfig()).name == "review"
    verdict = judge([sign, undecided], CLASSES, GateConfig())
    assert verdict.name == "review"
    assert "1 correlation above the gate, where the finding itself shows" in (verdict.reasons[0])
    assert "1 correlation above the gate, not placed as sign or shortcut" in verdict.reasons[1]


def test_what_does_not_count_does_not_decide(cluster_of):
    silent = correlation(cluster_of, IN_A_CORNER, counts=False)

    for correlations in ([], [silent]):
        verdict = judge(correlations, CLASSES, GateConfig())
        assert verdict.name == "pass"
        assert "No correlation above the gate of 10% holds" in verdict.reasons[0]


def accuracy_of(labels, predictions, classes=2):
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    bootstrap = PatientBootstrap(np.arange(len(labels)), 500, seed=0)
    return measure_accuracy(labels, predictions, classes, bootstrap, 0.95)


def test_accuracy_by_hand():
    accuracy = accuracy_of([0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0], classes=3)

    assert accuracy.overall == pytest.approx(4 / 6)
    assert accuracy.by_class[:2] == pytest.approx((3 / 4, 1 / 2))
    assert accuracy.images_by_class == (4, 2, 0)
    assert accuracy.images == 6
    assert accuracy.predicted_share == pytest.approx((4 / 6, 2 / 6, 0))
    assert accuracy.overall_interval.low < 4 / 6 < accuracy.overall_interval.high
    assert np.isnan(accuracy.by_class[2])  # a class without films
    assert np.isnan(accuracy.by_class_interval[2].low)


def test_a_model_that_tells_the_classes_apart_can_be_audited():
    labels = np.arange(100) % 2

    assert auditability(accuracy_of(labels, labels), CLASSES, GateConfig()) == ()


def test_a_class_without_enough_films_cannot_be_audited():
    labels = np.repeat([0, 1], [100, 19])

    (reason,) = auditability(accuracy_of(labels, labels), CLASSES, GateConfig())

    assert reason == "Class cardiomegaly has 19 films; at least 20 are needed (gate.min_films)."
    none = auditability(accuracy_of([0] * 50, [0, 1] * 25), CLASSES, GateConfig())
    assert none == ("Class cardiomegaly has 0 films; at least 20 are needed (gate.min_films).",)


def test_a_stuck_class_and_a_dead_one_cannot_be_audited():
    labels = np.arange(100) % 2

    dead, stuck = auditability(accuracy_of(labels, np.ones(100, int)), CLASSES, GateConfig())

    assert dead.startswith("The model calls 0.0% of the films no finding, below 2%")
    assert stuck.startswith("The model calls 100.0% of the films cardiomegaly, above 98%")
