"""From proposed clusters to ranked correlations, on hand-made films."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ravl_med.config.audit import DiscoveryConfig, EvidenceConfig, GateConfig
from ravl_med.config.cohort import CohortConfig
from ravl_med.config.loading import Config
from ravl_med.config.model import ModelConfig
from ravl_med.config.task import ClassConfig, TaskConfig
from ravl_med.discovery.clusters import FeatureClusters
from ravl_med.discovery.ravl import AuditData
from ravl_med.errors import DataError
from ravl_med.evidence import examination
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.evidence.counterfactual.localisation import RelevanceTable, RelevantPlaces
from ravl_med.evidence.examination import (
    Examination,
    assess_correlations,
    choose_for_intervention,
    confirm_correlations,
    measure_detectable_gap,
    min_strength_of,
)
from ravl_med.evidence.results import Counterfactual, EffectShares, Removal

CLASSES = ("clear", "heart")
TILES = 4
MODEL = CounterfactualModel(*([None] * 5))
HEART = RelevanceTable({"heart": RelevantPlaces(boxes=((0.2, 0.4, 0.8, 0.9),))})


def config_of(protocol="pooled", min_strength=1.64, gate=None, **evidence) -> Config:
    settings = {"relevance": Path("unused.yaml"), "draws": 2_000, "simulations": 20}
    return Config(
        name="hand-made",
        cohort=CohortConfig(manifest=Path("unused.csv")),
        task=TaskConfig(classes={name: ClassConfig(prompts=(name,)) for name in CLASSES}),
        model=ModelConfig(path=Path("unused")),
        discovery=DiscoveryConfig(protocol=protocol, min_strength=min_strength),
        evidence=EvidenceConfig(**settings | evidence),
        gate=GateConfig() if gate is None else gate,
    )


@dataclass(frozen=True, eq=False)
class Subject:
    """Films and their proposed clusters."""

    data: AuditData
    clusters: FeatureClusters

    def confirm(self, config: Config | None = None, progress=lambda *step: None) -> Examination:
        config = config or config_of()
        return confirm_correlations(
            self.data, self.clusters, config.discovery, config.evidence, config.gate, progress
        )

    def assess(self, found: Examination, config: Config, progress=lambda *step: None):
        return assess_correlations(
            self.data, found, MODEL, HEART, config.evidence, config.gate, progress
        )

    def sensitivity(self, found: Examination, config: Config, progress=lambda *step: None):
        return measure_detectable_gap(self.data, found, config.discovery, config.evidence, progress)


@pytest.fixture
def subject_of(data_of, clusters_of):
    def make(
        labels: np.ndarray,
        correct: np.ndarray,
        assignments: list[np.ndarray],
        tiles: int = TILES,
    ) -> Subject:
        """Every film has so many tiles; the last one speaks loudest for everything."""
        films = len(labels)
        data = data_of(
            labels,
            correct,
            CLASSES,
            region_scores=np.tile(np.arange(tiles)[:, None] / tiles, (films, len(CLASSES))),
            region_image=np.repeat(np.arange(films), tiles),
            region_boxes=np.tile(np.array([[0, 0, 20, 20]], np.float32), (films * tiles, 1)),
            attributes={"view": np.tile(["AP", "PA"], films)[:films]},
        )
        return Subject(data, clusters_of(*(a.ravel() for a in assignments)))

    return make


@pytest.fixture
def planted(subject_of):
    """200 patients; the device turns 9 in 10 films to heart and sits on the last tile.

    The first partition holds it as cluster 1, the second as cluster 1 with a few tiles more, and
    cluster 2 of the second is of a third of the films, whatever is on them.
    """

    def make(films: int = 200, seed: int = 0) -> Subject:
        rng = np.random.default_rng(seed)
        labels, device = rng.integers(2, size=films), rng.random(films) < 0.5
        called = rng.random(films) < np.where(device, 0.9, np.where(labels == 1, 0.4, 0.1))
        first, second = np.zeros((films, TILES), int), np.zeros((films, TILES), int)
        first[device, -1] = second[device, -1] = 1
        second[rng.random(films) < 0.05, 0] = 1
        second[rng.random(films) < 0.3, 1] = 2
        return subject_of(labels, called == (labels == 1), [first, second])

    return make


def test_a_planted_cluster_is_confirmed_and_its_duplicate_folded(planted):
    subject, told = planted(), []

    found = subject.confirm(progress=lambda *args: told.append(args))

    candidate, outcome, also = found.tested[0]
    assert outcome.status == "confirmed"
    assert outcome.q_value < 0.001
    assert {candidate.cluster.cluster, *also} == {1, 3}
    assert (candidate.cluster.raised_class, candidate.cluster.opposed_classes) == (1, (0,))
    assert candidate.cluster.influence == 1
    assert not any(c.cluster.cluster in (1, 3) for c, _, _ in found.tested[1:])
    chosen = found.discovery.candidates
    assert len(chosen) == len(found.tested) + len(also)
    assert found.candidates == sum(c.cluster.strength >= 1.64 for c, _, _ in found.tested) >= 1
    np.testing.assert_array_equal(candidate.films, ~found.half)
    assert outcome.films == (~found.half).sum() == 100
    # Copies are folded before the test, and are not charged for.
    assert told[0] == ("confirm on held-out patients", 0, len(found.tested))
    assert told[-1] == ("confirm on held-out patients", len(found.tested), len(found.tested))
    # Discovery saw its own half alone.
    n = candidate.cluster.n_present + candidate.cluster.n_absent
    assert n.sum() == found.half.sum() == 100


def test_the_paper_carries_one_cluster_by_its_largest_gap(planted):
    found = planted().confirm(config_of("paper"))

    ((candidate, outcome, also),) = found.tested
    assert found.candidates == 1
    assert found.discovery.survivors >= 2
    assert candidate.cluster.cluster in (1, 3)
    assert outcome.status == "confirmed"
    assert also == ()


def test_cross_fitting_looks_from_both_halves(planted):
    subject = planted()
    labels = subject.data.labels

    plain, crossed = (subject.confirm(config_of(cross_fit=on)) for on in (False, True))

    assert crossed.candidates > plain.candidates
    np.testing.assert_array_equal(crossed.half, plain.half)
    candidate, outcome, also = crossed.tested[0]
    assert outcome.status == "confirmed"
    assert {candidate.cluster.cluster, *also} == {1, 3}
    for entry, result, _ in crossed.tested:
        half = crossed.half if entry.swapped else ~crossed.half
        np.testing.assert_array_equal(entry.films, half)
        assert result.swapped == entry.swapped
        for label in range(2):  # found on the films that it is not tested on
            own = ~half & (labels == label)
            assert entry.cluster.n_present[label] == (entry.cluster.present & own).sum()
    assert {entry.swapped for entry, _, _ in crossed.tested} == {False, True}


def test_the_gate_proposes_rare_devices(planted):
    """A large gap is a candidate whatever its influence; the gate says what is large."""
    subject = planted()
    deaf = subject.data.region_scores.copy()
    deaf[TILES - 1 :: TILES] = -1  # the device never leads
    subject = replace(subject, data=replace(subject.data, region_scores=deaf))

    (candidate, outcome, _), *_ = subject.confirm().tested
    none = subject.confirm(config_of(gate=GateConfig(max_gap=0.95)))

    assert candidate.cluster.rare
    assert outcome.status == "confirmed"
    assert all(c.cluster.cluster not in (1, 3) for c, _, _ in none.tested)


def test_a_null_cohort_confirms_nothing(subject_of):
    rng = np.random.default_rng(4)
    labels = rng.integers(2, size=300)
    assignments = [rng.integers(6, size=(300, TILES)) for _ in range(2)]

    subject = subject_of(labels, rng.random(300) < 0.7, assignments)

    found, carried = subject.confirm(config_of(min_strength=0.0)), subject.confirm()

    assert found.candidates == len(found.discovery.candidates) > 2
    assert all(outcome.status == "not_confirmed" for _, outcome, _ in found.tested)
    # What lies within noise is listed as not tested, and not charged for.
    assert len(carried.discovery.candidates) == found.candidates
    strong = [c for c in carried.discovery.candidates if c.strength >= 1.64]
    assert carried.candidates == len(strong) < found.candidates
    for candidate, outcome, _ in carried.tested:
        weak = candidate.cluster.strength < 1.64
        assert outcome.status == ("not_tested" if weak else "not_confirmed")
        assert ("within noise" in outcome.reasons[0]) == weak


@pytest.mark.parametrize("seed", range(6))
def test_one_patient_is_never_confirmed(planted, seed):
    """All films fall on one half: nothing to choose on, or nothing to test on."""
    subject = planted()
    subject = replace(subject, data=replace(subject.data, patients=np.zeros(200, np.int64)))
    config = config_of(seed=seed)

    found = subject.confirm(config)
    sensitivity = subject.sensitivity(found, config)

    assert found.half.all() or not found.half.any()
    assert (found.candidates > 0) == found.half.all()
    for _, outcome, _ in found.tested:
        assert outcome.status == "not_tested"
        assert (outcome.films, outcome.patients) == (0, 0)
        assert all("films in the smaller arm" in reason for reason in outcome.reasons)
    assert sensitivity.tested == 0
    assert all(math.isnan(d.gap) for d in sensitivity.detectable)


def test_films_of_one_region_cannot_be_searched(subject_of):
    labels = np.arange(40) % 2
    subject = subject_of(labels, labels == 0, [labels[:, None]], tiles=1)

    with pytest.raises(DataError, match="every film has fewer than 2 regions"):
        subject.confirm()


def test_a_feature_in_all_films_has_no_candidate_and_is_told(subject_of):
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=120)
    everywhere = np.tile(np.arange(TILES), (120, 1))
    subject = subject_of(labels, rng.random(120) < 0.7, [everywhere])
    config = config_of()

    found = subject.confirm(config)
    sensitivity = subject.sensitivity(found, config)

    assert (found.candidates, found.tested, found.discovery.survivors) == (0, (), 0)
    assert (sensitivity.clusters, sensitivity.tested) == (4, 0)
    assert sensitivity.untested == {"in every film": 4}
    assert sensitivity.candidates == 1


def test_what_could_have_been_seen(planted):
    subject, config, told = planted(), config_of(), []
    found = subject.confirm(config)

    sensitivity = subject.sensitivity(found, config, lambda *args: told.append(args))

    assert sensitivity.clusters == len(subject.clusters) == 5
    assert sensitivity.untested == {"in every film": 2}  # cluster 0 of either partition
    assert sensitivity.candidates == found.candidates
    assert (sensitivity.simulations, sensitivity.power) == (20, 0.8)
    assert sensitivity.detectable[-1].gap < 1
    assert told[-1] == ("simulate what could be seen", 80, 80)


def test_the_paper_tests_what_it_finds():
    assert min_strength_of(DiscoveryConfig(min_strength=1.2)) == 1.2
    assert min_strength_of(DiscoveryConfig(min_strength=1.2, protocol="paper")) == -math.inf
    assert [EvidenceConfig(relevance=Path("x"), min_n=n).min_n_on_half for n in (10, 11)] == [5, 6]


@pytest.fixture
def asked(monkeypatch):
    """The model says yes to everything; what it was asked is kept."""
    calls = []

    def answer(model, hypothesis, data, evidence, progress):
        calls.append((model, hypothesis, data, evidence))
        progress(1, 2)
        effect = np.linspace(1, 2, len(hypothesis.cluster.regions))
        removal = Removal(effect, effect > 0, 0.5, None, None, 1.0, EffectShares(0.0, 1.0, 3, 0))
        return Counterfactual(removal, None, True, ())

    monkeypatch.setattr(examination, "measure_counterfactual", answer)
    return calls


@pytest.mark.parametrize("cross_fit", [False, True])
def test_what_stands_is_asked_of_the_model_and_ranked(planted, asked, cross_fit):
    subject, config, told = planted(), config_of(cross_fit=cross_fit), []
    found = subject.confirm(config)
    standing = [e for e in found.tested if e[1].status in ("confirmed", "raised_only")]

    correlations = subject.assess(found, config, lambda *args: told.append(args))

    assert len(asked) == len(standing) >= 1
    for (*given, evidence), (candidate, _, _) in zip(asked, standing, strict=True):
        model, hypothesis, data = given
        assert model is MODEL
        assert data is subject.data
        assert evidence is config.evidence
        assert hypothesis.cluster is candidate.cluster
        np.testing.assert_array_equal(hypothesis.discovery, ~candidate.films)
        raised = CLASSES[candidate.cluster.raised_class]
        assert hypothesis.relevant == HEART.find(raised)
        assert hypothesis.comparisons == len(standing)
    assert told[0] == (f"remove and transplant, correlation 1 of {len(standing)}", 1, 2)
    first = correlations[0]
    assert (first.rank, first.counts, first.kind) == (1, True, "shortcut")
    assert {first.cluster.cluster, *first.also} == {1, 3}
    assert first.order[0] == len(first.cluster.regions) - 1  # the largest effect
    assert first.strata is not None
    assert [crossed.attribute for crossed in first.strata.attributes] == ["view"]
    assert [c.rank for c in correlations] == list(range(1, len(found.tested) + 1))
    for correlation in correlations:
        stands = correlation.confirmation.status in ("confirmed", "raised_only")
        assert (correlation.counterfactual is None) == (correlation.strata is None) == (not stands)
        assert correlation.labels is None  # nobody knows where they come from


def test_a_gap_that_only_doubtful_labels_make_is_told_as_one(subject_of, asked):
    """A model that ignores the device: reports of such films are short, others hedge.

    What a short report leaves out counts as clear, what another hedges counts as heart.
    """
    films = 600
    rng = np.random.default_rng(2)
    truth, device = rng.integers(2, size=films), rng.random(films) < 0.5
    called = np.where(rng.random(films) < 0.9, truth, 1 - truth)
    blank = device & (truth == 1) & (rng.random(films) < 0.6)
    uncertain = ~device & (truth == 0) & (rng.random(films) < 0.6)
    labels = np.where(blank, 0, np.where(uncertain, 1, truth))
    certainty = np.where(blank, "blank", np.where(uncertain, "uncertain", "stated"))
    tiles = np.zeros((films, TILES), int)
    tiles[device, -1] = 1
    plain = subject_of(labels, called == labels, [tiles])
    sources = np.where(blank, "report: impression", "report: findings and impression")
    data = replace(plain.data, label_sources=sources, label_certainty=certainty)
    subject = replace(plain, data=data)
    config = config_of()
    found = subject.confirm(config)

    first, *_ = subject.assess(found, config)
    (same, *_) = plain.assess(found, config)

    arms = first.confirmation.arms
    assert first.confirmation.status == "confirmed"
    assert arms.gap[first.cluster.raised_class] > 0.2
    assert arms.opposed_gap < -0.2
    assert first.labels is not None
    assert first.labels.raised.outcome == first.labels.lowered.outcome == "vanishes"
    assert abs(first.labels.raised.gap) < 0.1
    assert {row.value for row in first.labels.sources} == set(sources.tolist())
    assert (first.labels.n_present, first.labels.n_absent) == (device.sum(), (~device).sum())
    assert same.labels is None
    assert same.confirmation.arms.opposed_gap == arms.opposed_gap


def test_only_so_many_are_asked_of_the_model(planted, asked):
    """One device, told twice, and one question; the second is on the same films."""
    subject = planted()
    config = config_of(max_correlations=1)
    found = subject.confirm(config)
    candidate, *rest = found.tested[0]
    twice = replace(found, tested=((candidate, *rest), (replace(candidate), *rest)))

    first, second = subject.assess(twice, config)

    assert len(asked) == 1
    assert first.counts
    assert not second.counts
    assert second.counterfactual is None
    assert second.reasons == (
        "Not tested by counterfactuals: more correlations than 1 (evidence.max_correlations).",
        "It cannot be told apart from the feature of correlation 1: of one side, no films "
        "have the one without the other.",
    )
    assert (first.companion_of, second.companion_of) == (None, 1)


def test_without_a_candidate_there_is_no_correlation(subject_of, asked):
    labels = np.arange(80) % 2
    subject = subject_of(labels, np.ones(80, bool), [np.arange(80 * TILES).reshape(80, -1) % 3])
    config = config_of()

    assert subject.assess(subject.confirm(config), config) == ()
    assert asked == []


def test_what_the_filters_keep_and_what_they_drop_take_turns():
    """Six dropped ones with smaller p do not push out the one that leads predictions."""

    def entry(name: str, status: str, *, dropped: bool, source: str = "clusters"):
        cluster = SimpleNamespace(rare=dropped, source=source)
        return SimpleNamespace(cluster=cluster), SimpleNamespace(status=status), (name,)

    tested = [
        *(entry(f"dropped {n}", "confirmed", dropped=True) for n in range(6)),
        entry("refuted", "not_confirmed", dropped=False),
        entry("device", "confirmed", dropped=False),
        entry("one side", "raised_only", dropped=False),
    ]
    chosen = [also[0] for _, _, also in choose_for_intervention(tested, 6)]
    assert chosen == ["device", "dropped 0", "one side", "dropped 1", "dropped 2", "dropped 3"]
    assert len(choose_for_intervention(tested, 20)) == 8
    proposed = entry("proposed", "not_confirmed", dropped=False, source="effects")
    assert [also[0] for _, _, also in choose_for_intervention([*tested, proposed], 1)] == [
        "device", "proposed",
    ]  # fmt: skip
    assert choose_for_intervention(tested[6:7], 6) == []
