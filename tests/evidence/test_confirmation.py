"""Confirmation by hand, and how often a null cohort is accused."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ravl_med.config.audit import DiscoveryConfig, EvidenceConfig
from ravl_med.discovery.candidates import discover_correlations
from ravl_med.discovery.ravl import AuditData
from ravl_med.errors import DataError
from ravl_med.evidence.confirmation import (
    Candidate,
    confirm_candidates,
    raised_and_lowered_test,
    split_patients,
)

RULES = EvidenceConfig.model_construct(min_n=10, permutations=999, draws=300)
# (class, feature, films, hits): gaps of +40 and -40 points.
PLANTED = ((0, True, 50, 45), (0, False, 50, 25), (1, True, 50, 20), (1, False, 50, 40))


@pytest.fixture
def confirm(films_of, cluster_of, data_of):
    def one(found, tested, rules=RULES, classes=("clear", "heart"), least=-math.inf, **changes):
        """A cluster that is found on the first films and tested on the others."""
        films = films_of(*found, *tested)
        half = np.arange(len(films[0])) < sum(group[2] for group in found)
        cluster = cluster_of(*films, classes=len(classes), films=half, **changes)
        candidate = Candidate(cluster, ~half)
        data = data_of(*films[1:], classes)
        ((same, confirmation),) = confirm_candidates(data, [candidate], rules, least)
        assert same is candidate
        return confirmation

    return one


def fisher(hits_with: int, films_with: int, hits: int, films: int) -> float:
    """Chance of so many hits or more among the films with the feature."""
    return sum(
        math.comb(films_with, k) * math.comb(films - films_with, hits - k)
        for k in range(hits_with, min(films_with, hits) + 1)
        if hits - k <= films - films_with
    ) / math.comb(films, hits)


def stouffer(*p: float) -> float:
    normal = stats.norm
    return float(normal.sf(sum(normal.isf(value) for value in p) / math.sqrt(len(p))))


def test_a_planted_candidate_is_confirmed_and_its_p_is_by_hand(confirm):
    """Tested on 25, 20, 30 and 20 films: gaps of 0.92 - 0.55 and 0.4 - 0.8."""
    tested = ((0, True, 25, 23), (0, False, 20, 11), (1, True, 30, 12), (1, False, 20, 16))

    found = confirm(PLANTED, tested)

    raised = fisher(23, 25, 34, 45)
    lowered = fisher(16, 20, 28, 50)  # seen from the films without the feature
    assert found.p_raised == pytest.approx(raised)
    assert found.p_lowered == pytest.approx(lowered)
    assert found.p_value == pytest.approx(stouffer(raised, lowered))
    assert found.q_value == found.p_value  # the only candidate
    assert (found.status, found.reasons, found.exact, found.swapped) == (
        "confirmed", (), True, False,
    )  # fmt: skip
    assert (found.films, found.patients) == (95, 95)
    np.testing.assert_allclose(found.arms.gap, [0.92 - 0.55, 0.4 - 0.8])
    assert found.arms.opposed_gap == pytest.approx(-0.4)
    assert found.arms.n_present.tolist() == [25, 30]


def test_q_is_benjamini_hochberg_over_all_candidates(cluster_of, data_of):
    """Five candidates, and one that cannot be tested and costs the others nothing."""
    rng = np.random.default_rng(0)
    films, labels = np.ones(240, bool), rng.integers(2, size=240)
    correct = rng.random(240) < 0.6
    data, candidates = data_of(labels, correct), []
    for strength in (0.5, 0.1, 0.0, 0.3, 0.2):
        agrees = correct == (labels == 0)
        present = np.where(rng.random(240) < strength, agrees, rng.random(240) < 0.5)
        cluster = cluster_of(present, labels, correct, raised_class=0, opposed_classes=(1,))
        candidates.append(Candidate(cluster, films))
    nowhere = replace(candidates[0].cluster, present=np.zeros(240, bool))
    candidates.insert(2, Candidate(nowhere, films))

    found = [c for _, c in confirm_candidates(data, candidates, RULES)]

    untested = found.pop(2)
    assert math.isnan(untested.p_value)
    assert math.isnan(untested.q_value)
    p = [c.p_value for c in found]
    assert len(set(p)) == 5
    assert min(p) < 1e-4
    for c in found:
        rank = {value: place for place, value in enumerate(sorted(p), 1)}
        q = min(1.0, *(value * 5 / rank[value] for value in p if value >= c.p_value))
        assert c.q_value == pytest.approx(q)
    alone = [c for _, c in confirm_candidates(data, candidates[4:], RULES)]
    assert [c.p_value for c in alone] == p[3:]
    assert all(c.q_value < q for c, q in zip(alone, (c.q_value for c in found[3:]), strict=True))


def test_the_raised_side_alone(confirm):
    """No lowered class has enough films where it was found: the raised side stands by itself."""
    found = (PLANTED[0], PLANTED[1], (1, True, 0, 0), (1, False, 100, 80))

    outcome = confirm(found, PLANTED)

    assert outcome.status == "raised_only"
    assert outcome.p_value == outcome.p_raised == pytest.approx(fisher(45, 50, 70, 100))
    assert math.isnan(outcome.p_lowered)
    assert math.isnan(outcome.arms.opposed_gap)
    assert math.isnan(outcome.shift.raised)
    assert outcome.reasons == (
        "Lowered side not tested: no lowered class has enough films on the half it was chosen on.",
    )


def test_too_few_films_on_the_lowered_side(confirm):
    outcome = confirm(PLANTED, (*PLANTED[:2], (1, True, 4, 0), (1, False, 50, 50)))

    assert outcome.status == "raised_only"
    assert outcome.p_value == outcome.p_raised
    assert outcome.reasons == (
        "Lowered side not tested: the lowered side has fewer than 5 films in the smaller arm on "
        "the half it is tested on (evidence.min_n).",
    )


@pytest.mark.parametrize("films", [0, 4])
def test_too_few_films_on_the_raised_side(confirm, films):
    outcome = confirm(PLANTED, ((0, True, 50, 45), (0, False, films, 0), *PLANTED[2:]))

    assert outcome.status == "not_tested"
    assert math.isnan(outcome.p_value)
    assert math.isnan(outcome.q_value)
    assert outcome.p_lowered < 0.01
    assert outcome.reasons == (
        "Not tested: the raised side has fewer than 5 films in the smaller arm on the half it is "
        "tested on (evidence.min_n).",
    )


def test_as_many_films_as_are_needed(confirm):
    tested = ((0, True, 50, 50), (0, False, 5, 0), (1, True, 5, 0), (1, False, 50, 50))

    assert confirm(PLANTED, tested).status == "confirmed"


def test_all_films_with_the_feature(confirm):
    outcome = confirm(PLANTED, ((0, True, 60, 50), (1, True, 60, 20)))

    assert outcome.status == "not_tested"
    assert len(outcome.reasons) == 2
    for side, reason in zip(("raised", "lowered"), outcome.reasons, strict=True):
        assert f"the {side} side has fewer than 5 films in the smaller arm" in reason
    assert np.isnan(outcome.arms.gap).all()


def test_no_film_to_test_on(confirm):
    outcome = confirm(PLANTED, ())

    assert outcome.status == "not_tested"
    assert (outcome.films, outcome.patients) == (0, 0)
    assert math.isnan(outcome.q_value)
    assert outcome.arms.n_present.tolist() == [0, 0]
    assert all(
        math.isnan(i.low) for i in (*outcome.arms.gap_interval, outcome.arms.opposed_interval)
    )


def test_a_raised_sign_that_flips(confirm):
    tested = ((0, True, 50, 25), (0, False, 50, 45), *PLANTED[2:])

    outcome = confirm(PLANTED, tested)

    assert outcome.status == "not_confirmed"
    assert outcome.p_raised > 0.99
    assert "The raised class clear does not keep its sign on held-out patients." in outcome.reasons


def test_a_lowered_sign_that_flips_leaves_the_raised_side(confirm):
    tested = ((0, True, 50, 50), (0, False, 50, 5), (1, True, 50, 31), (1, False, 50, 30))

    outcome = confirm(PLANTED, tested)

    assert outcome.q_value < 0.05  # carried by the raised side
    assert outcome.status == "raised_only"
    assert outcome.reasons == (
        "The lowered side (heart) does not keep its sign on held-out patients.",
    )


def test_a_side_that_shows_nothing_is_not_carried_by_the_other(confirm):
    """Lowered from 0.6 to 0.5 on 50 films: p is 0.2 by itself."""
    tested = ((0, True, 50, 50), (0, False, 50, 5), (1, True, 50, 25), (1, False, 50, 30))

    outcome = confirm(PLANTED, tested)

    assert outcome.q_value < 1e-6
    assert outcome.p_lowered == pytest.approx(0.211, abs=0.001)
    assert outcome.status == "raised_only"
    assert outcome.reasons == (
        "The lowered side (heart) by itself has p = 0.211, above 0.1 (evidence.side_level).",
    )
    assert (
        confirm(PLANTED, tested, RULES.model_copy(update={"side_level": 0.22})).status
        == "confirmed"
    )
    mirrored = [(1 - c, not here, n, hits) for c, here, n, hits in tested]
    other = confirm(PLANTED, mirrored)
    assert other.status == "not_confirmed"
    assert "The raised class clear by itself has p = 0.211" in other.reasons[0]


def test_a_q_above_the_rate(confirm):
    """The strict reader: a rate of one in 10,000."""
    tested = ((0, True, 25, 23), (0, False, 20, 14), (1, True, 30, 12), (1, False, 20, 13))

    outcome = confirm(PLANTED, tested, RULES.model_copy(update={"fdr": 0.0005}))

    assert outcome.status == "not_confirmed"
    assert outcome.reasons == (f"q is {outcome.q_value:.3f}, above 0.0005 (evidence.fdr).",)
    assert confirm(PLANTED, tested).status == "confirmed"


def large(gap: float):
    """2,000 films in an arm: gaps of both sides around 0.8."""
    more, fewer = round(2000 * (0.8 + gap / 2)), round(2000 * (0.8 - gap / 2))
    return (
        (0, True, 2000, more), (0, False, 2000, fewer),
        (1, True, 2000, fewer), (1, False, 2000, more),
    )  # fmt: skip


def test_gaps_below_the_least_one_on_either_half(confirm):
    small, enough = large(0.048), large(0.2)

    assert confirm(small, enough).reasons == (
        "The raised class clear has a gap below 5 points where it was found (evidence.min_gap).",
    )
    outcome = confirm(enough, small)
    assert outcome.q_value < 1e-4  # no doubt that it is there
    assert outcome.status == "not_confirmed"
    assert outcome.reasons == (
        "The raised class clear has a gap below 5 points on held-out patients (evidence.min_gap).",
    )
    lowered = confirm(enough, (*enough[:2], *small[2:]))
    assert lowered.status == "raised_only"
    assert lowered.reasons == (
        "The lowered side (heart) has a gap below 5 points on held-out patients "
        "(evidence.min_gap).",
    )


def test_a_gap_of_exactly_the_least_one_is_enough(confirm):
    """0.9 - 0.8 is below 0.1 in floating point."""
    exact = ((0, True, 2000, 1800), (0, False, 2000, 1600), (1, True, 2000, 1600),
             (1, False, 2000, 1800))  # fmt: skip
    rules = RULES.model_copy(update={"min_gap": 0.1})

    assert confirm(exact, exact, rules).status == "confirmed"
    below = (*exact[:1], (0, False, 2000, 1601), *exact[2:])
    assert confirm(exact, below, rules).status == "not_confirmed"


def test_a_patient_on_both_halves_is_refused(cluster_of, data_of):
    labels = np.arange(80) % 2
    present, correct = labels == 0, np.arange(80) % 3 > 0
    films = np.arange(80) >= 40
    candidate = Candidate(cluster_of(present, labels, correct), films)
    patients = np.arange(80)
    patients[[60, 61]] = [7, 8]

    with pytest.raises(DataError, match="2 patients have films on both halves; expected none"):
        confirm_candidates(data_of(labels, correct, patients=patients), [candidate], RULES)

    labels[[7, 8]] = -1  # those films take no part in the task
    data = data_of(labels, correct, patients=patients)
    ((_, outcome),) = confirm_candidates(data, [candidate], RULES)
    assert outcome.films == 40


def test_without_candidates_there_is_nothing_to_confirm(data_of):
    told = []

    found = confirm_candidates(
        data_of([0, 1], [True, True]), [], RULES, progress=lambda *done: told.append(done)
    )

    assert found == ()
    assert told == [(0, 0)]


def test_many_candidates_are_given_the_draws_that_they_need(cluster_of, data_of):
    """The least p of a drawn test is what the strictest step of Benjamini-Hochberg asks for."""
    patients = np.repeat(np.arange(80), 2)
    labels = patients % 2
    present = patients < 40
    correct = present == (labels == 0)
    data, films = data_of(labels, correct, patients=patients), np.ones(160, bool)
    cluster = cluster_of(present, labels, correct)
    faint = Candidate(replace(cluster, strength=1.0, cluster=99), films)  # needs no draws
    few = RULES.model_copy(update={"permutations": 99})

    for count, draws in ((1, 99), (4, 99), (8, 160)):
        candidates = [Candidate(replace(cluster, cluster=k), films) for k in range(count)]
        found = confirm_candidates(data, [*candidates, faint], few, 1.5)
        for _, outcome in found[:-1]:
            assert not outcome.exact
            assert outcome.p_raised == outcome.p_lowered == 1 / (draws + 1)
            assert outcome.p_raised * count <= few.fdr


def test_what_lies_within_noise_where_it_was_found_is_not_tested(
    confirm, films_of, cluster_of, data_of
):
    """Left untested, in words, and at no cost to the others."""
    outcome = confirm(PLANTED, PLANTED, least=1.64, strength=1.639)

    assert outcome.status == "not_tested"
    assert np.isnan([outcome.p_raised, outcome.p_lowered, outcome.p_value, outcome.q_value]).all()
    assert outcome.reasons == (
        "Not tested: its gaps lie within noise where it was found (1.64 standard errors, below "
        "1.64, discovery.min_strength).",
    )
    assert outcome.arms.gap.tolist() == pytest.approx([0.4, -0.4])  # measured all the same
    assert confirm(PLANTED, PLANTED, least=1.64, strength=1.64).status == "confirmed"
    assert confirm(PLANTED, PLANTED, strength=-5.0).status == "confirmed"

    films = films_of(*PLANTED)
    cluster = cluster_of(*films)
    both = [
        Candidate(replace(cluster, cluster=k, strength=strength), np.ones(200, bool))
        for k, strength in enumerate((5.0, 0.1))
    ]
    found = confirm_candidates(data_of(*films[1:]), both, RULES, 1.64)
    assert found[0][1].q_value == found[0][1].p_value
    assert math.isnan(found[1][1].q_value)


class TestCrossFitting:
    """A strong half and a weak one; found on either, tested on the other."""

    WEAK = ((0, True, 50, 30), (0, False, 50, 27), (1, True, 50, 25), (1, False, 50, 28))
    CROSS = RULES.model_copy(update={"cross_fit": True})

    @pytest.fixture
    def both(self, films_of, cluster_of, data_of):
        films = films_of(*PLANTED, *self.WEAK)
        first = np.arange(400) < 200
        clusters = [cluster_of(*films, films=half, cluster=7) for half in (first, ~first)]
        candidates = [
            Candidate(clusters[0], ~first),
            Candidate(clusters[1], first, swapped=True),
        ]
        return data_of(*films[1:]), candidates

    def test_the_smaller_p_is_doubled_and_its_direction_kept(self, both):
        data, candidates = both
        plain = confirm_candidates(data, candidates, RULES)

        ((winner, outcome),) = confirm_candidates(data, candidates, self.CROSS)

        (_, weak), (_, strong) = plain
        assert strong.p_value < 1e-5 < 0.1 < weak.p_value
        assert winner is candidates[1]
        assert outcome.swapped
        assert outcome.p_value == pytest.approx(2 * strong.p_value)
        assert outcome.q_value == outcome.p_value
        assert (outcome.p_raised, outcome.films) == (strong.p_raised, 200)
        np.testing.assert_array_equal(outcome.arms.gap, strong.arms.gap)
        ((other, _),) = confirm_candidates(data, candidates[::-1], self.CROSS)
        assert other is winner

    def test_a_doubled_p_is_at_most_1(self, films_of, cluster_of, data_of):
        films = films_of((0, True, 40, 20), (0, False, 40, 22), (1, True, 40, 22),
                         (1, False, 40, 20))  # fmt: skip
        cluster = cluster_of(*films, raised_class=0, opposed_classes=(1,))
        candidate = Candidate(cluster, np.ones(160, bool))

        ((_, outcome),) = confirm_candidates(data_of(*films[1:]), [candidate], self.CROSS)

        assert outcome.p_value == outcome.q_value == 1
        assert not outcome.swapped

    @pytest.mark.parametrize("order", [1, -1])
    def test_what_was_tested_wins_over_what_was_not(self, both, order):
        data, (weak, strong) = both
        nowhere = replace(strong.cluster, present=np.zeros(400, bool))

        ((winner, outcome),) = confirm_candidates(
            data, [weak, replace(strong, cluster=nowhere)][::order], self.CROSS
        )

        assert winner is weak
        assert 0.1 < outcome.p_value < 1

    def test_each_cluster_stays_by_itself(self, both):
        data, (weak, strong) = both
        other, third = (
            replace(weak, cluster=replace(weak.cluster, cluster=number)) for number in (8, 9)
        )

        found = confirm_candidates(data, [weak, other, third, strong], self.CROSS)

        assert [entry[0] for entry in found] == [strong, other, third]
        assert [entry[1].swapped for entry in found] == [True, False, False]
        assert found[0][1].q_value == pytest.approx(3 * found[0][1].p_value)  # three, not four


def test_progress_and_the_same_seed(confirm, cluster_of, data_of):
    patients = np.repeat(np.arange(60), 2)
    rng = np.random.default_rng(0)
    present, correct = rng.random((2, 120)) < 0.5
    data = data_of(patients % 2, correct, patients=patients)
    cluster = cluster_of(present, patients % 2, correct, raised_class=0, opposed_classes=(1,))
    candidates = [Candidate(replace(cluster, cluster=k), np.ones(120, bool)) for k in range(2)]
    told = []

    runs = [
        confirm_candidates(data, candidates, rules, progress=lambda *done: told.append(done))
        for rules in (RULES, RULES, RULES.model_copy(update={"seed": 1}))
    ]

    first, again, other = ([c.p_value for _, c in run] for run in runs)
    assert first == again
    assert first != other
    assert first[0] != first[1]  # each cluster has draws of its own
    assert told[:3] == [(0, 2), (1, 2), (2, 2)]


def null_cohort(rng: np.random.Generator, clusters_of) -> tuple:
    """Regions follow the patient and the label; predictions follow the patient and the label.

    Given the label they have nothing to do with each other.
    """
    patients, kinds, tiles = 100, 5, 4
    label = rng.integers(2, size=patients)
    films = rng.integers(2, 7, size=patients)
    who = np.repeat(np.arange(patients), films)
    skill = rng.beta(*np.where(label, [[0.3], [0.1]], [[0.2], [0.15]]))
    correct = rng.random(len(who)) < skill[who]
    assignments = []
    for _ in range(2):
        often = np.array([0.4, 0.25, 0.15, 0.1, 0.1])
        own = np.where(
            label[:, None],
            rng.choice(kinds, size=(patients, tiles), p=often),
            rng.choice(kinds, size=(patients, tiles), p=often[::-1]),
        )[who]
        anew = rng.random(own.shape) < 0.05
        own[anew] = rng.integers(kinds, size=anew.sum())
        assignments.append(own.ravel())
    labels = label[who]
    data = AuditData(
        classes=("clear", "heart"),
        labels=labels,
        predictions=np.where(correct, labels, 1 - labels),
        patients=who,
        sizes=np.full((len(who), 2), 100),
        region_image=np.repeat(np.arange(len(who)), tiles),
        region_boxes=np.zeros((len(who) * tiles, 4), np.float32),
        image_scores=np.full((len(who), 2), 0.5),
        region_scores=rng.random((len(who) * tiles, 2)),
    )
    return data, clusters_of(*assignments)


def test_null_cohorts_are_seldom_accused(clusters_of):
    """From discovery to confirmation, with the influence filter switched off."""
    runs, rng = 60, np.random.default_rng(11)
    accused = found_by_q = by_film = proposed = 0
    for seed in range(runs):
        data, clusters = null_cohort(rng, clusters_of)
        present = clusters.presence(data.region_image, len(data.labels))
        half = split_patients(data.patients, data.labels, 0.5, seed)
        discovery = discover_correlations(
            data, clusters, present, half, DiscoveryConfig(min_influence=0.0),
            min_films=5, large_gap=0.1,
        )  # fmt: skip
        candidates = [Candidate(cluster, ~half) for cluster in discovery.candidates]
        proposed += len(candidates)
        strict = RULES.model_copy(update={"permutations": 99, "draws": 50, "seed": seed})
        outcomes = [c for _, c in confirm_candidates(data, candidates, strict)]
        accused += any(outcome.status == "confirmed" for outcome in outcomes)
        found_by_q += any(outcome.q_value <= RULES.fdr for outcome in outcomes)
        alone = replace(data, patients=np.arange(len(data.labels)))
        p = [
            raised_and_lowered_test(alone, c.cluster, ~half, 5, 99, (seed,)).p_value
            for c in candidates
        ]
        by_film += (stats.false_discovery_control([v for v in p if v == v]) <= RULES.fdr).any()

    plausible = stats.binom.ppf(0.999, runs, RULES.fdr)
    assert proposed >= 3 * runs  # discovery itself does propose
    assert accused <= found_by_q <= plausible
    assert by_film > 1.5 * plausible  # films of one patient are not exchangeable
