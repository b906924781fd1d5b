"""From proposed clusters to ranked correlations, on hand-made films."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ravl_med.config.audit import DiscoveryConfig, EvidenceConfig, GateConfig
from ravl_med.config.cohort import CohortConfig
from ravl_med.config.loading import Config
from ravl_med.config.model import ModelConfig
from ravl_med.config.task import ClassConfig, TaskConfig
from ravl_med.discovery.candidates import ANYWHERE, places_of
from ravl_med.discovery.clusters import FeatureClusters
from ravl_med.discovery.effect_features import EffectFeature
from ravl_med.discovery.ravl import AuditData
from ravl_med.errors import DataError
from ravl_med.evidence import examination
from ravl_med.evidence.counterfactual import CounterfactualModel, Hypothesis
from ravl_med.evidence.counterfactual.effect_maps import Exploration
from ravl_med.evidence.counterfactual.interventions import Windows
from ravl_med.evidence.counterfactual.localisation import RelevanceTable, RelevantPlaces
from ravl_med.evidence.examination import (
    Examination,
    InterventionTools,
    ProposedFeatures,
    assess_correlations,
    confirm_correlations,
    map_films,
    measure_detectable_gap,
    min_strength_of,
    propose_features,
)
from ravl_med.evidence.results import (
    Counterfactual,
    EffectShares,
    Interval,
    PairedChange,
    Removal,
)
from ravl_med.regions.geometry import InputGeometry

CLASSES = ("clear", "heart")
TILES = 4
MODEL = CounterfactualModel(*([None] * 5))
HEART = RelevanceTable({"heart": RelevantPlaces(boxes=((0.2, 0.4, 0.8, 0.9),))})
TOOLS = InterventionTools(MODEL, {False: "of one half", True: "of the other"}, HEART)


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

    def assess(self, found: Examination, config: Config, progress=lambda *step: None, tools=TOOLS):
        return assess_correlations(
            self.data, found.tested, tools, config.evidence, config.gate, progress
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


def test_plain_ravl_lists_what_passes_its_filters_on_all_films(planted):
    subject = planted()
    found = subject.confirm(config_of("ravl"))

    assert found.candidates == len(found.tested) == found.discovery.survivors >= 2
    gaps = [candidate.cluster.performance_gap for candidate, _, _ in found.tested]
    assert gaps == sorted(gaps, reverse=True)
    for candidate, outcome, _ in found.tested:
        assert outcome.status == "not_tested"
        assert "discovery.protocol" in outcome.reasons[0]
        n = candidate.cluster.n_present + candidate.cluster.n_absent
        assert n.sum() == outcome.films == len(subject.data.labels)


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


def change_of(contrast: float, half: float = 0.2, p: float = 0.001) -> PairedChange:
    around = Interval(contrast - half, contrast + half)
    return PairedChange(24, 20, contrast, around, 0.0, contrast, around, 0.1, around, p)


@dataclass
class Asked:
    """What was asked of the maps and of the model; it uses everything, unless p is set."""

    looked_up: list = field(default_factory=list)  # (cluster, maps, bare, films)
    tests: list[Hypothesis] = field(default_factory=list)
    sizes: dict[int, float] = field(default_factory=dict)  # by cluster, 1.0 without
    places: dict[int, float] = field(default_factory=dict)  # by cluster, each its own without
    p_values: dict[int, float] = field(default_factory=dict)  # of each intervention, by cluster
    bare: int = 0  # regions of each, the most similar ones, that do not carry it

    def explore(self, inputs, maps, cluster, bare, films, margin, evidence) -> Exploration:
        """Effects as they are set, on ten films; the spread of the margin is 1."""
        self.looked_up.append((cluster, maps, bare, films))
        count, x = len(cluster.regions), self.places.get(cluster.cluster, 50.0 * cluster.cluster)
        place = np.array([x, 0, x + 10, 10], np.float32)
        return Exploration(
            spread=1.0,
            change=change_of(self.sizes.get(cluster.cluster, 1.0)),
            wrong_calls=None,
            called=0.0,
            effect=np.ones(count),
            located=np.zeros((count, 4), np.float32),
            rows={film: np.array([film]) for film in range(10)},
            places=dict.fromkeys(range(10), place),
            present=np.zeros(10),
            moved=np.zeros(10),
            along=0.0,
            donors=None,
            windows=Windows(np.zeros((1, 4), np.float32), np.zeros(1), np.ones(1)),
        )

    def test(self, model, hypothesis, data, evidence, progress) -> Counterfactual:
        self.tests.append(hypothesis)
        progress(1, 2)
        count = len(hypothesis.cluster.regions)
        effect = np.linspace(1, 2, count)
        p = self.p_values.get(hypothesis.cluster.cluster, 0.001)
        change = change_of(1.0, p=p)
        removal = Removal(
            effect=effect,
            carries=np.arange(count) >= self.bare,
            threshold=0.5,
            spread=1.0,
            explored=hypothesis.explored.change,
            typical=change,
            replaced=change,
            both=change,
            shares=EffectShares(0.0, Interval(0.0, 0.1), 1.0, 3, 0),
            located=np.zeros((count, 4), np.float32),
        )
        return Counterfactual(removal, change, False, (), p_value=min(1.0, 2 * p))


@pytest.fixture
def asked(monkeypatch) -> Asked:
    kept = Asked()
    blank = SimpleNamespace(untouched=lambda films: SimpleNamespace(margin=np.zeros(len(films))))
    monkeypatch.setattr(examination, "prepare_inputs", lambda *args: blank)
    monkeypatch.setattr(examination, "explore_feature", kept.explore)
    monkeypatch.setattr(examination, "measure_counterfactual", kept.test)
    return kept


def holding(found: Examination):
    return [e for e in found.tested if e[1].status in ("confirmed", "raised_only")]


@pytest.mark.parametrize("cross_fit", [False, True])
def test_what_stands_is_looked_up_asked_of_the_model_and_ranked(planted, asked, cross_fit):
    subject, config, told = planted(), config_of(cross_fit=cross_fit), []
    found = subject.confirm(config)
    standing = holding(found)

    correlations = subject.assess(found, config, lambda *args: told.append(args))

    assert len(asked.tests) == len(standing) >= 1
    again = asked.looked_up[len(standing) :]  # with the controls of the whole claim
    assert [one[0] for one in again] == [one[0] for one in asked.looked_up[: len(standing)]]
    rows = zip(again, asked.tests, standing, strict=True)
    for (cluster, maps, bare, films), hypothesis, (candidate, _, _) in rows:
        assert cluster is hypothesis.cluster is candidate.cluster
        assert maps == TOOLS.maps[candidate.swapped]
        np.testing.assert_array_equal(bare, ~cluster.present)
        np.testing.assert_array_equal(hypothesis.bare, ~cluster.present)
        np.testing.assert_array_equal(films, ~candidate.films)
        np.testing.assert_array_equal(hypothesis.discovery, ~candidate.films)
        assert hypothesis.relevant == HEART.find(CLASSES[cluster.raised_class])
    assert told[0] == (f"remove and transplant, feature 1 of {len(standing)}", 1, 2)
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


@pytest.mark.parametrize(("side", "by_effect"), [(25, True), (26, False)])
def test_regions_larger_than_the_smallest_window_stand_by_similarity_those_that_carry_it_first(
    planted, asked, side, by_effect
):
    """The effects that are asked rise from the first region, the most similar, to the last."""
    asked.bare = 3
    subject, config = planted(), config_of()
    boxes = np.tile(np.array([[0, 0, side, side]], np.float32), (len(subject.data.region_boxes), 1))
    large = replace(subject, data=replace(subject.data, region_boxes=boxes))

    first = large.assess(large.confirm(config), config)[0]

    positions = list(range(len(first.cluster.regions)))
    assert first.order.tolist() == (
        positions[::-1] if by_effect else [*positions[3:], *positions[:3]]
    )


def twice(found: Examination, number: int = 9, **outcome) -> Examination:
    """The first of the tested ones, and its copy with a number of its own."""
    candidate, confirmation, also = found.tested[0]
    copy = replace(candidate, cluster=replace(candidate.cluster, cluster=number))
    second = (copy, replace(confirmation, **outcome), ())
    return replace(found, tested=((candidate, confirmation, also), second))


@pytest.mark.parametrize(("most", "enough"), [(10, True), (10_000, False)])
def test_films_that_hold_a_folded_feature_are_no_controls(planted, asked, most, enough):
    """One thing in two clusters; where too few films are without both, one is asked for."""
    subject, config = planted(), config_of(max_pairs=most, min_pairs=10)
    found = twice(subject.confirm(config))
    first, second = found.tested
    own, other = first[0].cluster, second[0].cluster
    moved = replace(other, present=np.roll(own.present, 1))
    found = replace(found, tested=(first, (replace(second[0], cluster=moved), *second[1:])))
    asked.places |= {own.cluster: 7.0, 9: 7.0}

    subject.assess(found, config)

    [hypothesis] = asked.tests
    both = own.present | moved.present
    np.testing.assert_array_equal(hypothesis.bare, ~both if enough else ~hypothesis.cluster.present)
    assert both.sum() > own.present.sum()
    np.testing.assert_array_equal(asked.looked_up[-1][2], hypothesis.bare)


def test_films_with_a_region_like_the_feature_are_no_controls(planted, asked):
    """A third of the films without it have it in a region that lies in another cluster."""
    subject, config = planted(), config_of(max_pairs=10, min_pairs=10)
    found = subject.confirm(config)
    candidate, *_ = found.tested[0]
    data, cluster = subject.data, candidate.cluster
    rng = np.random.default_rng(0)
    hidden = ~cluster.present & (rng.random(len(data.labels)) < 1 / 3)
    embeddings = rng.normal(size=(len(data.region_image), 8)).astype(np.float32)
    embeddings[:, 0] += 5.0  # what all regions share tells nothing of any
    embeddings[cluster.regions, 1] += 6.0
    embeddings[np.searchsorted(data.region_image, np.flatnonzero(hidden)), 1] += 6.0
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)

    subject.assess(found, config, tools=replace(TOOLS, embeddings=embeddings))

    hypothesis = asked.tests[0]
    assert hypothesis.cluster.cluster == cluster.cluster
    assert not (hypothesis.bare & cluster.present).any()
    without = ~cluster.present
    assert 0.2 < hidden[without].mean() < 0.4
    assert hidden[hypothesis.bare].mean() < 0.02
    assert hypothesis.bare[without & ~hidden].mean() > 0.9  # the others stay, whatever they are
    np.testing.assert_array_equal(asked.looked_up[-1][2], hypothesis.bare)


def test_a_feature_that_no_region_has_leaves_all_films_as_controls(planted, asked):
    subject, config = planted(), config_of()
    found = subject.confirm(config)
    candidate, confirmation, also = found.tested[0]
    none = replace(
        candidate.cluster,
        regions=np.empty(0, dtype=np.int64),
        similarity=np.empty(0),
        present=np.zeros_like(candidate.cluster.present),
    )
    found = replace(found, tested=((replace(candidate, cluster=none), confirmation, also),))
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(len(subject.data.region_image), 8)).astype(np.float32)

    subject.assess(found, config, tools=replace(TOOLS, embeddings=embeddings))

    assert asked.looked_up[-1][2].all()


def test_a_feature_without_an_effect_in_the_maps_is_not_tested(planted, asked):
    subject, config = planted(), config_of()
    found = twice(subject.confirm(config))
    asked.sizes[9] = 0.05

    first, second = subject.assess(found, config)

    assert [h.cluster.cluster for h in asked.tests] == [first.cluster.cluster] != [9]
    assert first.counterfactual.q_value == first.counterfactual.p_value  # of one test
    assert math.isnan(second.counterfactual.q_value)
    assert (first.counts, second.counts) == (True, False)
    assert second.counterfactual is not None
    assert not second.counterfactual.tested
    assert second.counterfactual.removal.explored == change_of(0.05)
    [reason] = second.counterfactual.reasons
    assert reason.startswith("An association of the model with its own answer: covering its places")
    assert second.strata is None


@pytest.mark.parametrize(("p", "used"), [(0.024, [True, True]), (0.026, [True, False])])
def test_use_is_decided_at_a_false_discovery_rate_over_all_that_is_tested(planted, asked, p, used):
    """The rate is 5 %; p is twice that of an intervention, and the larger of two is its own q."""
    subject, config = planted(), config_of(fdr=0.05)
    asked.p_values[9] = p

    correlations = subject.assess(twice(subject.confirm(config)), config)

    first, second = (c.counterfactual for c in correlations)
    assert [first.used, second.used] == used
    assert [first.q_value, second.q_value] == pytest.approx([0.004, 2 * p])
    assert (second.shown_by == ("removal", "transplant")) is used[1]
    assert (len(second.reasons) == 0) is used[1]


def test_the_better_of_two_pays_for_both(planted, asked):
    """Alone at p 0.04 it would be used; beside one that does nothing its q is 0.08."""
    subject, config = planted(), config_of(fdr=0.05)
    found = subject.confirm(config)
    own = found.tested[0][0].cluster.cluster
    asked.p_values |= {own: 0.02, 9: 0.6}

    alone = subject.assess(found, config)[0].counterfactual
    pair = [c.counterfactual for c in subject.assess(twice(found), config)]

    assert (alone.used, alone.q_value) == (True, pytest.approx(0.04))
    assert sorted(c.q_value for c in pair) == pytest.approx([0.08, 1.0])
    assert not any(c.used for c in pair)


@pytest.mark.parametrize(("size", "tests"), [(0.19, 1), (0.21, 2)])
def test_an_effect_a_standard_error_below_the_least_is_not_worth_a_test(
    planted, asked, size, tests
):
    """The least is 0.1; the interval is 0.4 wide, which is four errors."""
    subject, config = planted(), config_of(min_effect=0.1)
    asked.sizes[9] = size

    subject.assess(twice(subject.confirm(config)), config)

    assert len(asked.tests) == tests


def test_features_in_one_place_are_tested_once_by_the_one_with_the_largest_effect(planted, asked):
    subject, config = planted(), config_of()
    found = twice(subject.confirm(config))
    own = found.tested[0][0].cluster.cluster
    asked.places |= {own: 0.0, 9: 2.0}
    asked.sizes[9] = 2.0

    correlations = subject.assess(found, config)

    (hypothesis,) = asked.tests
    assert hypothesis.cluster.cluster == 9
    first, second = correlations
    assert first.counterfactual.q_value == first.counterfactual.p_value
    assert (first.cluster.cluster, first.counts) == (9, True)
    assert second.counterfactual.reasons == (
        "Its effect lies in the same place as that of a feature that was tested for both.",
    )
    assert not second.counterfactual.tested
    assert not second.counts


@pytest.mark.parametrize(("status", "both"), [("confirmed", False), ("not_confirmed", True)])
def test_what_is_confirmed_is_tested_beside_what_fits_the_place_better(
    planted, asked, status, both
):
    subject, config = planted(), config_of()
    found = twice(subject.confirm(config), status=status)
    (first, (candidate, confirmation, also)) = found.tested
    proposed = replace(candidate, cluster=replace(candidate.cluster, source="effects"))
    own = first[0].cluster.cluster
    asked.places |= {own: 0.0, 9: 2.0}
    asked.sizes[9] = 2.0

    subject.assess(replace(found, tested=(first, (proposed, confirmation, also))), config)

    assert [h.cluster.cluster for h in asked.tests] == ([own, 9] if both else [9])


def test_what_effects_propose_is_tested_whatever_its_gaps(planted, asked):
    """Without confirmed gaps it has to do harm, and is located only if it does."""
    subject, config = planted(), config_of(gate=GateConfig(max_gap=0.1))
    found = twice(subject.confirm(config), status="not_confirmed", reasons=("q is 0.9.",))
    (first, (candidate, confirmation, also)) = found.tested
    on_others = np.random.default_rng(0).permutation(candidate.cluster.present)  # no gaps at all
    own = replace(candidate.cluster, source="effects", present=on_others)
    proposed = replace(candidate, cluster=own)
    with_it = replace(found, tested=(first, (proposed, confirmation, also)))

    assert subject.assess(found, config)[1].counterfactual is None
    asked.tests.clear()
    second = subject.assess(with_it, config)[1]

    assert [h.cluster.cluster for h in asked.tests] == [first[0].cluster.cluster, 9]
    assert [h.least_harm for h in asked.tests] == [0.0, 0.1]
    assert second.counterfactual.used
    assert (second.counts, second.reasons) == (True, ())  # an artifact that changes answers
    assert second.labels is None


def test_gaps_below_the_gate_are_no_harm_that_a_gap_has_shown(planted, asked):
    subject, strict = planted(), config_of(gate=GateConfig(max_gap=0.95))

    subject.assess(subject.confirm(), strict)

    assert {h.least_harm for h in asked.tests} == {0.95}


def test_without_the_model_nothing_is_looked_up(planted, asked):
    subject, config = planted(), config_of()

    first, *_ = subject.assess(subject.confirm(config), config, tools=None)

    assert (asked.looked_up, asked.tests) == ([], [])
    assert (first.counterfactual, first.counts) == (None, False)
    assert first.reasons[0].startswith("No counterfactual is possible")
    assert first.strata is not None  # all that there is to say why accuracy differs


def test_where_no_film_could_be_mapped_nothing_counts(planted, asked):
    subject, config = planted(), config_of()
    tools = InterventionTools(MODEL, {}, HEART)

    first, *_ = subject.assess(subject.confirm(config), config, tools=tools)

    assert (asked.looked_up, asked.tests) == ([], [])
    assert (first.counterfactual, first.counts) == (None, False)
    assert first.reasons == (
        "Not tested by removal or transplant: no film of the discovery half could be mapped.",
    )
    assert tools.mapped_films().tolist() == []


def test_workers_test_all_features_together(planted, asked):
    """The model names who makes the tests; each is told of as it is done."""
    subject, config, told, sent = planted(), config_of(), [], []

    def spread(hypotheses, data, evidence):
        sent.append((list(hypotheses), data, evidence))
        return (asked.test(None, h, data, evidence, lambda *step: None) for h in hypotheses)

    tools = replace(TOOLS, model=replace(MODEL, spread=spread))
    found = twice(subject.confirm(config))
    correlations = subject.assess(found, config, lambda *args: told.append(args), tools)

    ((hypotheses, data, evidence),) = sent
    assert len(hypotheses) == 2
    assert (data, evidence) == (subject.data, config.evidence)
    assert told == [("remove and transplant", done, 2) for done in range(3)]
    assert all(c.counterfactual.used for c in correlations)


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


def test_without_a_candidate_there_is_no_correlation(subject_of, asked):
    labels = np.arange(80) % 2
    subject = subject_of(labels, np.ones(80, bool), [np.arange(80 * TILES).reshape(80, -1) % 3])
    config = config_of()

    assert subject.assess(subject.confirm(config), config) == ()
    assert (asked.looked_up, asked.tests) == ([], [])


SIDE = 32
CORNER = np.s_[0:8, 0:8]


class CornerEncoder:
    """Goes by how bright the corner is: 1 where it is, 0 where it is not."""

    device = torch.device("cpu")
    info = SimpleNamespace(image_size=SIDE)

    def geometry(self, height, width):
        return InputGeometry.of(height, width, SIDE, "squash")

    def encode_image(self, images):
        seen = images[:, 0, CORNER[0], CORNER[1]].mean(dim=(1, 2))
        return torch.stack([-seen, seen], dim=1)


class Cohort:
    """Films; on every third one a bright corner, which alone the model goes by.

    It calls 1 what has the corner. Regions are sixteen tiles, and the corner is the first; to the
    model it looks like nothing else.
    """

    def __init__(self, data_of, labels):
        rng = np.random.default_rng(3)
        self.n_films = len(labels)
        self.bright = np.arange(self.n_films) % 3 == 0
        x, y = (axis.ravel() for axis in np.meshgrid(np.arange(4) * 8, np.arange(4) * 8))
        boxes = np.stack([x, y, x + 8, y + 8], axis=1).astype(np.float32)
        self.data = data_of(
            labels,
            self.bright == (labels == 1),
            CLASSES,
            sizes=np.full((self.n_films, 2), SIDE),
            region_image=np.repeat(np.arange(self.n_films), 16),
            region_boxes=np.tile(boxes, (self.n_films, 1)),
            region_scores=np.full((self.n_films * 16, 2), 0.5),
        )
        embeddings = rng.normal(0, 0.1, (self.n_films, 16, 8)) + np.eye(8)[0]
        embeddings[self.bright, 0] = np.eye(8)[1] + rng.normal(0, 0.1, (self.bright.sum(), 8))
        embeddings /= np.linalg.norm(embeddings, axis=2, keepdims=True)
        self.embeddings = embeddings.reshape(-1, 8).astype(np.float32)
        self.films = rng.normal(0, 0.05, (self.n_films, 3, SIDE, SIDE)).astype(np.float32)
        self.films[self.bright, :, CORNER[0], CORNER[1]] += 3.0
        self.model = CounterfactualModel(
            CornerEncoder(), self.films.__getitem__, np.eye(2, dtype=np.float32), 1.0, 8
        )


@pytest.fixture
def cohort(data_of) -> Cohort:
    return Cohort(data_of, np.arange(80) // 2 % 2)


def test_films_of_the_discovery_half_are_mapped_and_with_cross_fitting_of_the_other(cohort):
    told = []
    plain, crossed = (
        map_films(
            cohort.data,
            cohort.model,
            config_of(cross_fit=on, effect_films=20).evidence,
            lambda *args: told.append(args),
        )
        for on in (False, True)
    )

    assert (set(plain), set(crossed)) == ({False}, {False, True})
    assert plain[False].films.tolist() == crossed[False].films.tolist()
    halves = [set(crossed[swapped].films.tolist()) for swapped in (False, True)]
    assert [len(half) for half in halves] == [20, 20]
    assert halves[0].isdisjoint(halves[1])
    half = examination.split_patients(cohort.data.patients, cohort.data.labels, 0.5, 0)
    assert half[sorted(halves[0])].all()
    assert not half[sorted(halves[1])].any()
    assert told[-1] == ("map effects", 20, 20)


def test_a_half_without_any_labelled_film_is_not_mapped(cohort):
    labels = np.full(cohort.n_films, -1)
    data = replace(cohort.data, labels=labels)

    assert map_films(data, cohort.model, config_of().evidence, lambda *step: None) == {}


def test_what_moves_the_answer_becomes_a_feature_of_all_films(cohort):
    maps = map_films(
        cohort.data, cohort.model, config_of(effect_films=40).evidence, lambda *step: None
    )[False]

    own = config_of().evidence
    proposed = propose_features(cohort.data, cohort.embeddings, cohort.model, maps, own)

    raised = [feature for feature in proposed.features if feature.raised_class == 1]
    assert len(raised) == 1
    half = np.arange(cohort.n_films) < 40
    found = proposed.measure(cohort.data, half, 7, 5)[proposed.features.index(raised[0])]
    assert found.source == "effects"
    assert found.cluster == 7 + proposed.features.index(raised[0])
    assert found.present.tolist() == cohort.bright.tolist()
    assert set((found.regions % 16).tolist()) == {0}
    assert found.n_present.sum() == 14  # on the films that are asked for


def test_a_film_is_read_once_for_the_textures_of_all_places(cohort):
    asked: list[np.ndarray] = []

    def texture(rows):
        asked.append(rows)
        return np.zeros((len(rows), 2), np.float32)

    direction = np.zeros(cohort.embeddings.shape[1] + 3, np.float32)
    where = places_of(cohort.data.region_shares())
    first, second = np.unique(where)[:2]
    features = tuple(
        EffectFeature(0, direction, 9, 1.0, place) for place in (int(second), int(first), ANYWHERE)
    )
    loose = replace(features[2], direction=direction[:-3])
    proposed = ProposedFeatures((*features[:2], loose), cohort.embeddings, texture)

    proposed.measure(cohort.data, np.ones(cohort.n_films, bool), 0, 5)

    assert asked[0].tolist() == np.flatnonzero((where == first) | (where == second)).tolist()
    later = [set(rows.tolist()) for rows in asked[1:]]
    assert later == [set(np.flatnonzero(where == place).tolist()) for place in (second, first)]


def test_proposed_features_join_the_clusters_of_their_half(cohort, clusters_of):
    maps = map_films(cohort.data, cohort.model, config_of().evidence, lambda *step: None)[False]
    own = config_of().evidence
    proposed = propose_features(cohort.data, cohort.embeddings, cohort.model, maps, own)
    config = config_of()
    alike = clusters_of(np.arange(cohort.n_films * 16) % 16 % 3)

    def sources(features, **discovery):
        found = confirm_correlations(
            cohort.data, alike, config.discovery.model_copy(update=discovery), config.evidence,
            config.gate, lambda *step: None, features,
        )  # fmt: skip
        assert all(not candidate.swapped for candidate, _, _ in found.tested)
        return [candidate.cluster.source for candidate, _, _ in found.tested]

    assert set(sources(None)) <= {"clusters"}
    assert sources(proposed).count("effects") == len(proposed.features) >= 1
    assert set(sources(proposed, propose=("effects",))) == {"effects"}
    assert sources(None, propose=("effects",)) == []


@pytest.mark.parametrize("where", ["on no mapped film", "on every mapped film"])
def test_a_feature_that_the_maps_cannot_compare_is_left_to_the_test(cohort, cluster_of, where):
    """No mapped film has it, or none lacks it: there is nothing to hold against each other."""
    config = config_of(effect_films=20)
    maps = map_films(cohort.data, cohort.model, config.evidence, lambda *step: None)
    mapped = np.isin(np.arange(cohort.n_films), maps[False].films)
    present = mapped if where == "on every mapped film" else ~mapped
    cluster = cluster_of(
        present, cohort.data.labels, cohort.data.correct, regions=np.flatnonzero(present) * 16
    )
    logits = cohort.model.known_logits(cohort.n_films)
    model = replace(cohort.model, audited=logits)
    half = examination.split_patients(cohort.data.patients, cohort.data.labels, 0.5, 0)

    found = examination._explore(model, maps[False], cluster, half, cohort.data, config.evidence)

    assert found.change is None
    assert (found.wrong_calls is None) == (where == "on no mapped film")  # they need no other film
    donors, ordinary = found.donors.films, found.donors.ordinary  # of films that nobody mapped too
    assert len(donors) == len(ordinary) == 20
    assert half[donors].all()
    assert half[ordinary].all()
    assert present[donors].all()
    assert not present[ordinary].any()
    assert examination.is_worth_a_test(found, config.evidence)
    margin = logits[maps[False].films] @ [-1, 1]
    assert found.spread == pytest.approx(margin.std())


def test_the_whole_way_from_maps_to_a_located_shortcut(data_of, clusters_of):
    """The model goes by the corner; another tile comes and goes with it, and is not used.

    RaVL's clusters hold the corner, the tile that goes with it, and the rest; effects propose too.
    """
    rng = np.random.default_rng(5)
    cohort = Cohort(data_of, rng.integers(2, size=480))
    data, along = cohort.data, cohort.bright ^ (rng.random(480) < 0.1)
    tiles = np.zeros((480, 16), int)
    tiles[cohort.bright, 0], tiles[along, 10] = 1, 2
    config = config_of(effect_films=120, max_pairs=40)
    maps = map_films(data, cohort.model, config.evidence, lambda *step: None)
    proposed = propose_features(data, cohort.embeddings, cohort.model, maps[False], config.evidence)
    tools = InterventionTools(cohort.model, maps, HEART)

    found = confirm_correlations(
        data, clusters_of(tiles.ravel()), config.discovery, config.evidence, config.gate,
        lambda *step: None, proposed,
    )  # fmt: skip
    correlations = assess_correlations(
        data, found.tested, tools, config.evidence, config.gate, lambda *step: None
    )

    used = [c for c in correlations if c.counterfactual and c.counterfactual.used]
    assert used
    first, *_ = used
    assert (first.rank, first.counts, first.cluster.raised_class) == (1, True, 1)
    assert first.counterfactual.shown_by == ("removal", "transplant")
    removal = first.counterfactual.removal
    strongest = removal.located[first.order[:10]]
    assert (strongest[:, :2] < 4).all()  # in the corner
    bystanders = [c for c in correlations if c.cluster.cluster == 2]
    assert bystanders
    assert not any(c.counterfactual and c.counterfactual.used for c in bystanders)
