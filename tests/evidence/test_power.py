"""What a cohort could have shown: targets, and the procedure itself on simulated cohorts."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm

from ravl_med.config.audit import DiscoveryConfig, EvidenceConfig, GateConfig
from ravl_med.discovery.candidates import discover_correlations
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.confirmation import Candidate, confirm_candidates
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.evidence.counterfactual.localisation import RelevanceTable
from ravl_med.evidence.examination import InterventionTools
from ravl_med.evidence.power import (
    PREVALENCES,
    CohortDesign,
    bound_local_effects,
    design_of,
    design_to_collect,
    measure_sensitivity,
)
from ravl_med.evidence.results import Interval
from tests.benchmarks.discovery import simulated_power

RULES = EvidenceConfig.model_construct(min_n=10, permutations=999, draws=50)
STRENGTH = 1.64


def sensitivity_of(design, rules=RULES, simulations=5, power=0.8, **asked):
    evidence = rules.model_copy(update={"simulations": simulations, "power": power})
    return measure_sensitivity(design, evidence, min_strength=STRENGTH, **asked)


def plan(films=600, classes=2, accuracy=0.8, films_a_patient=1.0) -> CohortDesign:
    return design_to_collect(films, classes, accuracy, films_a_patient, 0.5, 0)


def power(
    design, gap, prevalence=0.5, candidates=10, simulations=40, rules=RULES, least=STRENGTH
) -> float:
    return simulated_power(
        design, rules, min_strength=least,
        prevalence=prevalence, gap=gap, candidates=candidates, simulations=simulations,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("films", "classes", "gap"), [(600, 2, 0.25), (600, 4, 0.40), (2400, 4, 0.20)]
)
def test_the_targets_are_met(films, classes, gap):
    """Feature in half of the films, base accuracy 0.8, ten candidates."""
    assert power(plan(films, classes), gap, simulations=60) >= 0.9


def test_power_rises_with_the_gap_the_films_and_the_prevalence():
    small = plan(400)

    by_gap = [power(small, gap) for gap in (0.0, 0.17, 0.3)]
    by_films = [power(plan(films), 0.2) for films in (150, 400, 1200)]
    by_prevalence = [power(small, 0.3, share) for share in (0.03, 0.12, 0.5)]

    for rising in (by_gap, by_films, by_prevalence):
        assert (np.diff(rising) > 0.15).all()
        assert rising[-1] >= 0.9
    assert by_gap[0] <= 0.05


def test_power_falls_with_candidates_classes_and_films_of_one_patient():
    plain = power(plan(400), 0.22)

    assert power(plan(400), 0.22, candidates=1_000) < plain - 0.15
    assert power(plan(400, classes=4), 0.22) < plain - 0.15
    assert power(plan(400, films_a_patient=4.0), 0.22) < plain - 0.15


def test_the_rules_are_those_of_the_audit():
    design = plan(600)

    assert power(design, 0.25) >= 0.9
    assert power(design, 0.25, rules=RULES.model_copy(update={"min_gap": 0.4})) <= 0.1
    assert power(design, 0.25, rules=RULES.model_copy(update={"min_n": 160})) <= 0.1
    assert power(design, 0.25, rules=RULES.model_copy(update={"fdr": 1e-9})) <= 0.1
    assert power(design, 0.25, least=8.0) <= 0.1


def procedure(design: CohortDesign, prevalence: float, gap: float, seed: int, clusters_of) -> bool:
    """The whole procedure on a cohort of its own, with a region that leads every prediction."""
    rng = np.random.default_rng([seed, 99])
    classes, films = len(design.accuracy), len(design.labels)
    feature = (rng.random(int(design.patients.max()) + 1) < prevalence)[design.patients]
    raised = int(rng.integers(classes))
    up = feature == (design.labels == raised)
    chance = design.accuracy[design.labels] + np.where(up, gap / 2, -gap / 2)
    correct = rng.random(films) < chance
    off = rng.integers(1, classes, size=films)
    predictions = np.where(correct, design.labels, (design.labels + off) % classes)
    scores = rng.random((films, 2, classes))
    scores[feature, 1] = 2.0  # the device speaks loudest, and RaVL's influence is 1
    data = AuditData(
        classes=tuple("abcdef"[:classes]),
        labels=design.labels,
        predictions=predictions,
        patients=design.patients,
        sizes=np.full((films, 2), 100),
        region_image=np.repeat(np.arange(films), 2),
        region_boxes=np.zeros((2 * films, 4), np.float32),
        image_scores=np.full((films, classes), 1 / classes),
        region_scores=scores.reshape(-1, classes),
    )
    clusters = clusters_of(np.column_stack([np.zeros(films, int), feature]).ravel(), counts=[2])
    found = discover_correlations(
        data, clusters, clusters.presence(data.region_image, films), design.discovery,
        DiscoveryConfig(), min_films=RULES.min_n_on_half, large_gap=0.1,
    )  # fmt: skip
    candidates = [Candidate(cluster, ~design.discovery) for cluster in found.candidates]
    return any(
        outcome.status == "confirmed" and candidate.cluster.raised_class == raised
        for candidate, outcome in confirm_candidates(data, candidates, RULES, STRENGTH)
    )


@pytest.mark.parametrize(
    ("films", "classes", "films_a_patient", "prevalence", "gap"),
    [(300, 2, 1.0, 0.4, 0.24), (400, 2, 1.6, 0.2, 0.34), (500, 3, 1.0, 0.5, 0.22)],
)
def test_the_quick_simulation_agrees_with_the_procedure(
    films, classes, films_a_patient, prevalence, gap, clusters_of
):
    design, runs = plan(films, classes, 0.75, films_a_patient), 100

    quick = power(design, gap, prevalence, candidates=1, simulations=200)
    real = np.mean([procedure(design, prevalence, gap, run, clusters_of) for run in range(runs)])

    assert 0.2 < quick < 0.9  # where a difference would show
    assert abs(quick - real) <= 3.5 * math.sqrt(quick * (1 - quick) * (1 / runs + 1 / 200))


def test_the_detectable_gap_is_found_with_the_asked_power():
    design = plan(300)

    found = sensitivity_of(design, candidates=10, power=0.8, simulations=40, prevalences=(0.3,))

    (detectable,) = found.detectable
    assert detectable.prevalence == 0.3
    assert detectable.power_at_largest == 1
    assert detectable.gap == pytest.approx(round(50 * detectable.gap) / 50)  # in steps of 2 points
    # The same cohorts, a step around the gap that was found.
    assert power(design, detectable.gap, 0.3, simulations=40) >= 0.8
    assert power(design, detectable.gap - 0.04, 0.3, simulations=40) < 0.8


def test_a_larger_share_needs_a_smaller_gap_and_everything_is_told():
    told = []

    found = sensitivity_of(
        plan(900),
        candidates=0, power=0.8, simulations=12, clusters=40, untested={"a": 3, "b": 5},
        progress=lambda *done: told.append(done),
    )  # fmt: skip

    assert tuple(d.prevalence for d in found.detectable) == PREVALENCES
    gaps = [d.gap for d in found.detectable]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] <= 0.25 < gaps[0]
    assert (found.power, found.simulations) == (0.8, 12)
    assert found.candidates == 1  # at least one is charged
    assert (found.clusters, found.tested, found.untested) == (40, 32, {"a": 3, "b": 5})
    assert told == [(done, 48) for done in range(49)]


def test_without_reasons_every_cluster_was_tested():
    found = sensitivity_of(
        plan(40), candidates=3, power=0.8, simulations=1, clusters=7, prevalences=(0.5,)
    )

    assert (found.candidates, found.tested, found.untested) == (3, 7, {})


@pytest.mark.parametrize(
    "design",
    [
        plan(0),
        plan(8),
        design_to_collect(300, 2, 0.8, 1e9, 0.5, 0),  # one patient a class
        design_to_collect(300, 2, 0.8, 1.0, 0.01, 0),  # hardly anybody to choose on
        CohortDesign(
            np.zeros(300, np.int64), np.arange(300), np.array([0.8, 0.0]), np.arange(300) < 150
        ),  # a single class
    ],
    ids=["no film", "8 films", "two patients", "no discovery half", "one class"],
)
def test_where_nothing_can_be_found_the_gap_is_not_a_number(design):
    found = sensitivity_of(design, candidates=1)

    assert [math.isnan(d.gap) for d in found.detectable] == [True] * 4
    assert [d.power_at_largest for d in found.detectable] == [0] * 4


def test_accuracy_at_its_bounds_leaves_room_for_the_gap():
    """A model that is always right: accuracies of 1 and 0.8, as around 0.9."""
    for bound, inside in ((1.0, 0.9), (0.0, 0.1)):
        found = power(plan(200, accuracy=bound), 0.2)
        assert 0.2 < found < 0.95
        assert found == power(plan(200, accuracy=inside), 0.2)


def test_a_feature_that_works_the_other_way_round_is_not_the_one_that_was_planted():
    assert power(plan(600), -0.4) == 0


def test_the_feature_is_a_trait_of_patients():
    """Six patients a side: at best 1 of 20 exchanges, whatever their 25 films show."""
    patients = np.repeat(np.arange(24), 25)
    design = CohortDesign(
        (patients % 2).astype(np.int64), patients, np.array([0.8, 0.8]), patients % 4 < 2
    )

    assert power(design, 0.6, candidates=10) == 0
    assert power(design, 0.6, candidates=1) > 0.1


def test_the_same_seed_simulates_the_same_cohorts():
    design = plan(120, films_a_patient=1.5)

    def gaps(seed):
        found = sensitivity_of(
            design, RULES.model_copy(update={"seed": seed}),
            candidates=1, power=0.5, simulations=5, prevalences=(0.5, 0.5),
        )  # fmt: skip
        return [d.gap for d in found.detectable]

    assert gaps(1) == gaps(1)
    assert gaps(1) != gaps(2)


@pytest.mark.parametrize(("films", "classes", "mean"), [(600, 4, 1.0), (1000, 3, 2.5), (7, 3, 1.4)])
def test_a_planned_cohort(films, classes, mean):
    design = design_to_collect(films, classes, 0.7, mean, 0.5, 1)

    counts = np.bincount(design.labels, minlength=classes)
    assert counts.sum() == films
    assert np.ptp(counts) <= 1
    assert design.accuracy.tolist() == [0.7] * classes
    patients = int(design.patients.max()) + 1
    assert np.unique(design.patients).tolist() == list(range(patients))
    for patient in range(patients):
        own = design.patients == patient
        assert len(set(design.labels[own].tolist())) == 1
        assert len(set(design.discovery[own].tolist())) == 1
    if films > 100:
        assert films / patients == pytest.approx(mean, rel=0.1)
        assert design.discovery.mean() == pytest.approx(0.5, abs=0.05)
    if mean == 1.0:
        assert patients == films


def test_the_design_of_an_audited_cohort(data_of):
    labels = np.array([0, 0, 0, -1, 1, 1, 2, -1])
    correct = np.array([1, 1, 0, 1, 0, 0, 1, 0], bool)
    patients = np.array([5, 5, 2, 7, 9, 9, 2, 5])
    half = np.array([1, 1, 0, 1, 0, 0, 0, 1], bool)

    design = design_of(data_of(labels, correct, tuple("abcd"), patients=patients), half)

    assert design.labels.tolist() == [0, 0, 0, 1, 1, 2]
    assert design.patients.tolist() == [1, 1, 0, 2, 2, 0]  # renumbered
    assert design.discovery.tolist() == [True, True, False, False, False, False]
    np.testing.assert_allclose(design.accuracy, [2 / 3, 0, 1, 0])  # class 3 has no film


class TestLocalEffects:
    """400 patients, one film each, of two classes; half of them are held out."""

    HALF = np.arange(400) < 200
    MAPPED = np.arange(160)
    LOGITS = np.stack([np.zeros(400), np.arange(400) % 100 / 10.0], axis=1).astype(np.float32)

    def data(self, data_of, wrong=40):
        """So many of 100 films of class 0 are called 1, on either half; all others are right."""
        labels = np.tile(np.repeat([0, 1], 100), 2)
        return data_of(labels, (labels == 1) | (np.arange(400) % 100 >= wrong))

    def unnamed(self, present, tried=None, looked_at=True, moves=None):
        """A feature that raises class 1; `tried` is the share of wrong calls that removal undoes,
        of how many patients, and its upper limit; `moves` is how far it moves the margin at most.
        """
        undone = tried and SimpleNamespace(
            decisions=tried[0],
            patients=tried[1],
            decisions_interval=Interval(-1.0, tried[2] if len(tried) > 2 else tried[0]),
        )
        reach = moves and SimpleNamespace(interval=Interval(0.0, moves))
        removal = SimpleNamespace(wrong_calls=undone, both=None, explored=reach)
        return SimpleNamespace(
            cluster=SimpleNamespace(raised_class=1, present=present),
            counterfactual=SimpleNamespace(removal=removal) if looked_at else None,
        )

    def bound(self, data, *unnamed, mapped=MAPPED):
        return bound_local_effects(data, self.LOGITS, self.HALF, mapped, unnamed)

    def upper(self, share, of):
        """Wilson's one-sided limit of 95 %, by hand."""
        z = norm.isf(0.05)
        middle = share + z**2 / (2 * of)
        reach = z * math.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
        return (middle + reach) / (1 + z**2 / of)

    def test_without_a_feature_only_what_no_effect_proposed_is_left(self, data_of):
        """40 of the 160 mapped films are wrong; six of these are needed for a proposal."""
        found = self.bound(self.data(data_of))

        assert found.unseen == pytest.approx(6 / 40 * self.upper(0.2, 200))
        assert (found.points, found.seen) == (found.unseen, 0.0)
        assert (found.looked_at, found.films, found.wrong) == (0, 160, 40)

    def test_a_feature_costs_the_wrong_calls_that_its_removal_undoes(self, data_of):
        present = np.arange(400) % 100 < 30  # on 30 of the 40 wrong calls of the held-out half
        found = self.bound(self.data(data_of), self.unnamed(present, (0.2, 25)))

        assert found.seen == pytest.approx(60 / 400 * self.upper(0.2, 25))
        assert found.points == found.seen > found.unseen
        assert found.looked_at == 1

    @pytest.mark.parametrize(
        ("known", "looked_at"),
        [
            ({}, 1),
            ({"counts": True}, 0),
            ({"companion_of": 1}, 0),
            ({"kind": "plausible_sign"}, 0),  # of the body, whether it does harm or not
        ],
    )
    def test_a_sign_and_what_is_named_bound_nothing(self, data_of, known, looked_at):
        feature = self.unnamed(np.arange(400) % 100 < 30, (0.2, 25))
        for name, value in {"counts": False, "companion_of": None, "kind": "undecided"}.items():
            setattr(feature, name, known.get(name, value))
        model = CounterfactualModel(*([None] * 5), audited=self.LOGITS)
        maps = {False: SimpleNamespace(films=self.MAPPED)}
        tools = InterventionTools(model, maps, RelevanceTable({}))

        found = tools.bound_unnamed(self.data(data_of), self.HALF, [feature])

        assert found.looked_at == looked_at
        assert bool(found.seen > 0.0) is bool(looked_at)

    def test_the_interval_of_what_was_undone_counts_where_it_is_wider(self, data_of):
        present = np.arange(400) % 100 < 30
        found = self.bound(self.data(data_of), self.unnamed(present, (0.2, 25, 0.7)))

        assert found.seen == pytest.approx(60 / 400 * 0.7)

    def test_the_costliest_feature_is_what_counts(self, data_of):
        present = np.arange(400) % 100 < 30
        cheap, dear = (self.unnamed(present, (share, 25)) for share in (-0.3, 0.4))
        found = self.bound(self.data(data_of), cheap, dear)

        assert found.seen == pytest.approx(60 / 400 * self.upper(0.4, 25))
        assert found.looked_at == 2
        alone = self.bound(self.data(data_of), cheap)  # undone fewer than in the controls: none
        assert alone.seen == pytest.approx(60 / 400 * self.upper(0.0, 25))

    def test_where_wrong_calls_were_too_few_to_try_all_of_them_are_its_doing(self, data_of):
        few = np.arange(400) % 100 < 4
        found = self.bound(self.data(data_of), self.unnamed(few))

        assert found.seen == pytest.approx(8 / 400)

    @pytest.mark.parametrize(("moves", "share"), [(0.95, 10 / 30), (2.0, 21 / 30), (9.0, 1.0)])
    def test_it_undoes_no_call_whose_margin_it_cannot_bridge(self, data_of, moves, share):
        """Wrong calls of each hundred have margins of 0, 0.1, ... 2.9."""
        present = np.arange(400) % 100 < 30
        found = self.bound(self.data(data_of), self.unnamed(present, moves=moves))

        assert found.seen == pytest.approx(60 / 400 * share)
        tried = self.bound(self.data(data_of), self.unnamed(present, (0.0, 25), moves=moves))
        assert tried.seen == pytest.approx(60 / 400 * min(share, self.upper(0.0, 25)))

    def test_a_feature_that_nobody_looked_up_is_no_feature(self, data_of):
        """No gap of it was confirmed, and no effect has proposed it."""
        everywhere = np.ones(400, bool)
        found = self.bound(self.data(data_of), self.unnamed(everywhere, looked_at=False))

        assert (found.seen, found.looked_at) == (0.0, 0)

    def test_a_model_that_is_never_wrong_may_hide_its_rare_errors_only(self, data_of):
        found = self.bound(self.data(data_of, wrong=0))

        assert found.wrong == 0
        assert found.unseen == pytest.approx(self.upper(0.0, 200))
        assert found.points < 0.02

    @pytest.mark.parametrize(("films", "passes"), [(20, False), (400, True)])
    def test_a_tiny_cohort_cannot_pass(self, data_of, films, passes):
        """Always right, and yet ten films say little."""
        labels = np.arange(films) % 2
        data = data_of(labels, np.ones(films, bool))
        half = np.arange(films) < films // 2
        found = bound_local_effects(data, self.LOGITS, half, np.flatnonzero(half), [])

        assert (found.points <= GateConfig().max_local_effect) is passes

    def test_no_film_at_all_bounds_nothing(self, data_of):
        data = data_of(np.array([0, 1]), np.ones(2, bool))
        found = bound_local_effects(
            data, self.LOGITS[:2], np.ones(2, bool), np.empty(0, np.int64), []
        )

        assert (found.points, found.films, found.wrong) == (1.0, 0, 0)

    def test_films_of_one_patient_are_one_observation(self, data_of):
        labels = np.tile([0, 1], 200)
        alone, together = (
            self.bound(data_of(labels, np.arange(400) % 10 > 0, patients=patients))
            for patients in (np.arange(400), np.arange(400) // 20)
        )

        assert together.unseen == pytest.approx(6 / 16 * self.upper(0.1, 10))
        assert together.points > alone.points
