"""Claims and verdicts: what counts, what it is called, and what it makes of the audit."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ravl_med.config.audit import EvidenceConfig, GateConfig
from ravl_med.evidence.audit_result import (
    DetectableGap,
    FindingAuroc,
    Gate,
    ModelChecks,
    Sensitivity,
    Verdict,
)
from ravl_med.evidence.results import (
    AccuracyByPresence,
    Confirmation,
    Counterfactual,
    EffectShares,
    Interval,
    Removal,
    ScoreShift,
    SpuriousCorrelation,
    Strata,
)
from ravl_med.evidence.verdict import assess_correlation, decide_verdict, rank_correlations

CLASSES = ("no finding", "cardiomegaly")
NOTHING = Interval(math.nan, math.nan)
EVIDENCE = EvidenceConfig(relevance=Path("unused.yaml"), sign_share=0.5, shortcut_share=0.2)
GATE = GateConfig(max_gap=0.10, max_detectable_gap=0.30, min_tested=0.5)
SEEN = Sensitivity(
    power=0.8,
    simulations=200,
    candidates=10,
    detectable=(
        DetectableGap(0.05, math.nan, 0.3),
        DetectableGap(0.10, 0.44, 0.95),
        DetectableGap(0.20, 0.30, 1.0),
        DetectableGap(0.50, 0.20, 1.0),
    ),
    clusters=40,
    tested=36,
    untested={"in no film": 4},
)


def confirmation_of(status="confirmed", raised=0.4, opposed=-0.4, reasons=()) -> Confirmation:
    """On held-out patients the feature raises cardiomegaly and lowers no finding by so much."""
    arms = AccuracyByPresence(
        n_present=np.array([50, 50]),
        n_absent=np.array([50, 50]),
        accuracy_present=np.array([0.5 + opposed, 0.5 + raised]),
        accuracy_absent=np.array([0.5, 0.5]),
        present_interval=(NOTHING,) * 2,
        absent_interval=(NOTHING,) * 2,
        gap_interval=(NOTHING,) * 2,
        opposed_gap=opposed,
        opposed_interval=NOTHING,
    )
    shift = ScoreShift(1.0, NOTHING, 1.0, NOTHING)
    if status != "confirmed" and not reasons:
        reasons = (f"Why it is {status}.",)
    return Confirmation(status, reasons, 200, 200, 0.01, 0.01, 0.01, 0.02, True, arms, shift)


def counterfactual_of(share=0.0, used=True, effect=()) -> Counterfactual:
    measured = np.array(effect, float)
    removal = Removal(measured, measured > 0, 0.1, None, None, 1.0, EffectShares(share, 0.0, 5, 0))
    return Counterfactual(removal, None, used, () if used else ("Not used.",))


@pytest.fixture
def weigh(films_of, cluster_of):
    """Class 1 is raised; the cluster has five regions."""
    films = films_of((0, True, 5, 1), (0, False, 5, 4), (1, True, 5, 4), (1, False, 5, 1))

    def one(
        confirmation=None,
        counterfactual="used",
        strata=None,
        also=(),
        gate=GATE,
        black_box=False,
        **changes,
    ) -> SpuriousCorrelation:
        cluster = cluster_of(*films, regions=range(5), **changes)
        assert cluster.raised_class == 1
        return assess_correlation(
            cluster,
            confirmation_of() if confirmation is None else confirmation,
            counterfactual_of(effect=[1.0] * 5) if counterfactual == "used" else counterfactual,
            strata,
            also,
            EVIDENCE,
            gate,
            black_box=black_box,
        )

    return one


def used(share: float) -> Counterfactual:
    return counterfactual_of(share, effect=[1.0] * 5)


UNUSED = counterfactual_of(0.0, used=False, effect=[0.0] * 5)


@pytest.mark.parametrize(
    ("share", "kind"),
    [(0.0, "shortcut"), (0.2, "shortcut"), (0.21, "undecided"), (0.49, "undecided"),
     (0.5, "plausible_sign"), (1.0, "plausible_sign"), (math.nan, "undecided")],
)  # fmt: skip
def test_what_is_confirmed_and_used_counts_and_its_place_names_it(weigh, share, kind):
    strata = Strata(0.1, ())

    found = weigh(counterfactual=used(share), strata=strata, also=(4, 9))

    assert (found.counts, found.reasons, found.kind) == (True, (), kind)
    assert found.strata is strata
    assert (found.also, found.rank) == ((4, 9), 0)


def test_what_the_model_does_not_use_has_no_kind_and_does_not_count(weigh):
    found = weigh(counterfactual=UNUSED)

    assert (found.counts, found.kind, found.reasons) == (False, "undecided", ("Not used.",))


@pytest.mark.parametrize("status", ["confirmed", "raised_only", "not_confirmed", "not_tested"])
def test_what_was_not_tried_on_the_model_does_not_count(weigh, status):
    found = weigh(confirmation_of(status), None)

    told = ("Not tested by counterfactuals: more correlations than 6 (evidence.max_correlations).",)
    why = () if status == "confirmed" else (f"Why it is {status}.",)
    assert found.reasons == why + (told if status in ("confirmed", "raised_only") else ())
    assert not found.counts
    assert found.kind == "undecided"
    assert found.counterfactual is None


def test_the_raised_side_alone_does_not_count_but_has_a_kind(weigh):
    found = weigh(confirmation_of("raised_only"))

    assert not found.counts
    assert found.kind == "shortcut"
    assert found.reasons == ("Why it is raised_only.",)


@pytest.mark.parametrize(
    ("raised", "opposed", "sides"),
    [(0.1, -0.1, []), (0.099, -0.4, ["raised"]), (0.4, -0.099, ["lowered"]),
     (0.05, -0.05, ["raised", "lowered"])],
)  # fmt: skip
def test_gaps_below_the_gate_do_not_count(weigh, raised, opposed, sides):
    found = weigh(confirmation_of(raised=raised, opposed=opposed))

    assert found.reasons == tuple(
        f"The gap of the {side} side on held-out patients is below 10 points (gate.max_gap)."
        for side in sides
    )
    assert found.counts is (not sides)


def test_a_gap_at_the_gate_counts_whatever_its_last_bit(weigh):
    arms = replace(confirmation_of().arms, accuracy_present=np.array([0.8, 0.9]))
    arms = replace(arms, accuracy_absent=np.array([0.9, 0.8]), opposed_gap=-(0.9 - 0.8))
    assert arms.gap[1] < 0.1

    assert weigh(replace(confirmation_of(), arms=arms)).counts
    strict = weigh(replace(confirmation_of(), arms=arms), gate=GateConfig(max_gap=0.11))
    assert len(strict.reasons) == 2


def test_the_gate_is_held_against_held_out_patients_alone(weigh):
    """Where it was found the gaps are 60 points."""
    found = weigh(confirmation_of(raised=0.05))

    np.testing.assert_allclose(found.cluster.gap, [-0.6, 0.6])
    assert not found.counts


def test_regions_stand_by_effect_and_unmeasured_ones_last_by_similarity(weigh):
    effect = [math.nan, 1.0, 3.0, math.nan, 1.0]
    similarity = np.array([5, 1, 2, 3, 4.0])

    found = weigh(counterfactual=counterfactual_of(effect=effect), similarity=similarity)

    assert found.order.tolist() == [2, 4, 1, 0, 3]
    assert weigh(counterfactual=None, similarity=similarity).order.tolist() == [0, 1, 2, 3, 4]


def test_what_counts_comes_first_then_kind_status_and_gap(weigh):
    alone, untested = confirmation_of("raised_only"), confirmation_of("not_tested")
    made = {
        "shortcut, large": weigh(performance_gap=0.9),
        "shortcut": weigh(performance_gap=0.2),
        "undecided": weigh(counterfactual=used(0.3), performance_gap=1.0),
        "sign": weigh(counterfactual=used(0.9), performance_gap=1.5),
        "confirmed, unused, large": weigh(counterfactual=UNUSED, performance_gap=0.8),
        "confirmed, unused": weigh(counterfactual=UNUSED, performance_gap=0.7),
        "alone, sign": weigh(alone, used(0.9), performance_gap=0.5),
        "alone, shortcut": weigh(alone, used(0.0), performance_gap=0.4),
        "not confirmed": weigh(confirmation_of("not_confirmed"), None, performance_gap=1.9),
        "not tested": weigh(untested, None, performance_gap=2.0),
    }
    names = {id(found.cluster): name for name, found in made.items()}
    shuffled = [list(made.values())[i] for i in np.random.default_rng(0).permutation(len(made))]

    ranked = rank_correlations(shuffled)

    assert [names[id(found.cluster)] for found in ranked] == list(made)
    assert [found.rank for found in ranked] == list(range(1, 11))
    assert rank_correlations([]) == ()


def gates_of(verdict: Verdict) -> dict[str, bool]:
    return {gate.name: gate.passed for gate in verdict.gates}


ALL_PASS = {"gate.max_gap": True, "gate.max_detectable_gap": True, "gate.min_tested": True}


def test_a_shortcut_fails(weigh):
    verdict = decide_verdict([weigh()], CLASSES, GATE, SEEN)

    assert verdict.name == "fail"
    assert verdict.reasons == (
        "1 shortcut above the gate of 10%, confirmed on held-out patients: the model raises "
        "cardiomegaly by a feature outside the place where it shows.",
    )
    assert gates_of(verdict) == ALL_PASS | {"gate.max_gap": False}
    assert verdict.gates[0] == Gate(
        "gate.max_gap",
        False,
        "1 confirmed shortcut that the model uses with gaps of 10% or more",
    )


def test_several_shortcuts_name_each_class_once_and_open_points_follow(weigh):
    other = weigh()
    other = replace(other, cluster=replace(other.cluster, raised_class=0))

    verdict = decide_verdict(
        [weigh(), weigh(), other, weigh(counterfactual=used(0.9))], CLASSES, GATE, SEEN
    )

    assert verdict.name == "fail"
    assert verdict.reasons[0].startswith("3 shortcuts above the gate of 10%")
    assert "the model raises cardiomegaly, no finding by" in verdict.reasons[0]
    assert verdict.reasons[1].startswith("1 correlation above the gate, where the finding itself")
    assert verdict.gates[0].text.startswith("3 confirmed shortcuts that")


def blind(**changes) -> Sensitivity:
    return replace(SEEN, detectable=(DetectableGap(0.2, math.nan, 0.0),), **changes)


def test_a_shortcut_fails_however_little_could_be_seen(weigh):
    verdict = decide_verdict([weigh()], CLASSES, GATE, blind(tested=0))

    assert verdict.name == "fail"
    assert gates_of(verdict) == dict.fromkeys(ALL_PASS, False)


def open_point(weigh, name: str) -> SpuriousCorrelation:
    return {
        "sign": lambda: weigh(counterfactual=used(0.9)),
        "undecided": lambda: weigh(counterfactual=used(0.3)),
        "unused": lambda: weigh(counterfactual=UNUSED),
        "not tried": lambda: weigh(counterfactual=None),
        "alone": lambda: weigh(confirmation_of("raised_only")),
    }[name]()


OPEN_POINTS = {
    "sign": "1 correlation above the gate, where the finding itself shows (cardiomegaly): a "
    "radiologist decides whether it is the disease.",
    "undecided": "1 correlation above the gate, not placed as sign or shortcut (cardiomegaly): a "
    "radiologist decides.",
    "unused": "1 confirmed association above the gate that the model was not shown to use "
    "(cardiomegaly): accuracy differs with the feature, and the cause may be something that "
    "travels along.",
    "not tried": "1 confirmed association above the gate that the model was not shown to use "
    "(cardiomegaly): accuracy differs with the feature, and the cause may be something that "
    "travels along.",
    "alone": "1 feature that the model uses and that raises a class (cardiomegaly), without a "
    "lowered class that could be confirmed.",
}


@pytest.mark.parametrize("name", OPEN_POINTS)
def test_what_a_radiologist_has_to_decide_goes_to_review(weigh, name):
    found = open_point(weigh, name)

    verdict = decide_verdict([found], CLASSES, GATE, SEEN)

    assert (verdict.name, verdict.reasons) == ("review", (OPEN_POINTS[name],))
    assert gates_of(verdict) == ALL_PASS
    assert verdict.gates[0].text.startswith("0 confirmed shortcuts")
    unseen = decide_verdict([found], CLASSES, GATE, blind())  # a review needs no power
    assert (unseen.name, unseen.reasons) == ("review", verdict.reasons)


def test_open_points_are_told_group_by_group(weigh):
    found = [open_point(weigh, name) for name in ("alone", "unused", "sign", "undecided", "sign")]

    verdict = decide_verdict(found, CLASSES, GATE, SEEN)

    assert verdict.name == "review"
    starts = ("2 correlations above the gate, where", "1 correlation above the gate, not placed",
              "1 confirmed association", "1 feature")  # fmt: skip
    assert len(verdict.reasons) == 4
    for reason, start in zip(verdict.reasons, starts, strict=True):
        assert reason.startswith(start)


def silent(weigh, name: str) -> SpuriousCorrelation:
    small = confirmation_of(raised=0.08)
    return {
        "not confirmed": lambda: weigh(confirmation_of("not_confirmed"), None),
        "not tested": lambda: weigh(confirmation_of("not_tested"), None),
        "below the gate": lambda: weigh(small),
        "below the gate and unused": lambda: weigh(small, UNUSED),
        "alone, unused": lambda: weigh(confirmation_of("raised_only"), UNUSED),
        "alone, not tried": lambda: weigh(confirmation_of("raised_only"), None),
        "alone, a sign": lambda: weigh(confirmation_of("raised_only"), used(0.9)),
        "alone, below the gate": lambda: weigh(confirmation_of("raised_only", raised=0.09)),
    }[name]()


@pytest.mark.parametrize(
    "name",
    ["not confirmed", "not tested", "below the gate", "below the gate and unused",
     "alone, unused", "alone, not tried", "alone, a sign", "alone, below the gate"],
)  # fmt: skip
def test_what_does_not_count_does_not_decide(weigh, name):
    found = silent(weigh, name)

    verdict = decide_verdict([found], CLASSES, GATE, SEEN)

    assert not found.counts
    assert verdict == decide_verdict([], CLASSES, GATE, SEEN)
    assert verdict.name == "pass"
    assert verdict.reasons == (
        "No correlation above the gate of 10% was confirmed on held-out patients.",
    )
    assert gates_of(verdict) == ALL_PASS
    assert decide_verdict([found], CLASSES, GATE, blind()).name == "not_auditable"


def test_a_companion_of_what_counts_is_no_open_point(weigh):
    """Confirmed and not used, and it travels with the correlation of rank 1."""
    sign, bystander = weigh(counterfactual=used(0.9)), weigh(counterfactual=UNUSED)
    companion = replace(bystander, companion_of=1, reasons=(*bystander.reasons, "Travels."))

    alone, beside, named = (
        decide_verdict(found, CLASSES, GATE, SEEN)
        for found in ([sign], [sign, bystander], [sign, companion])
    )

    assert alone == named
    assert [verdict.name for verdict in (alone, beside)] == ["review"] * 2
    assert len(beside.reasons) == 2


def test_the_gates_tell_what_was_found_and_what_is_asked():
    verdict = decide_verdict([], CLASSES, GATE, SEEN)

    assert [gate.text for gate in verdict.gates] == [
        "0 confirmed shortcuts that the model uses with gaps of 10% or more",
        "gap found with 80% power, feature in 20% of the films: 30 points; asked: at most 30 "
        "points",
        "36 of 40 clusters could be tested; asked: at least 50%",
    ]


def test_a_pass_needs_power():
    weak = replace(SEEN, detectable=(*SEEN.detectable[:2], DetectableGap(0.2, 0.32, 0.9)))

    verdict = decide_verdict([], CLASSES, GATE, weak)

    assert verdict.name == "not_auditable"
    assert verdict.reasons == (
        "Underpowered: a feature in 20% of the films is found with 80% power only from 32 points "
        "on; a pass needs 30 points (gate.max_detectable_gap). Audit more films.",
    )
    assert gates_of(verdict) == ALL_PASS | {"gate.max_detectable_gap": False}


def test_a_gap_that_is_never_found_does_not_pass():
    verdict = decide_verdict([], CLASSES, GateConfig(max_detectable_gap=1.0), blind())

    assert verdict.name == "not_auditable"
    assert verdict.reasons == (
        "Underpowered: a feature in 20% of the films would not be found with 80% power, however "
        "large its gap (gate.max_detectable_gap). Audit more films.",
    )
    assert gates_of(verdict) == ALL_PASS | {"gate.max_detectable_gap": False}
    assert "20% of the films: not even a gap of 100 points; asked" in verdict.gates[1].text


def test_the_prevalence_nearest_to_20_percent_is_asked_for():
    near = replace(SEEN, detectable=(DetectableGap(0.05, 0.9, 1.0), DetectableGap(0.25, 0.1, 1.0)))

    verdict = decide_verdict([], CLASSES, GATE, near)

    assert verdict.name == "pass"
    assert "feature in 25% of the films: 10 points" in verdict.gates[1].text


@pytest.mark.parametrize(("tested", "passes"), [(20, True), (19, False), (0, False)])
def test_a_pass_needs_clusters_that_were_tested(tested, passes):
    verdict = decide_verdict([], CLASSES, GATE, replace(SEEN, tested=tested))

    assert verdict.name == ("pass" if passes else "not_auditable")
    assert gates_of(verdict) == ALL_PASS | {"gate.min_tested": passes}
    if not passes:
        assert verdict.reasons == (
            f"Underpowered: {tested} of 40 clusters have enough films to be tested; a pass needs "
            "50% (gate.min_tested). Audit more films.",
        )


def test_without_any_cluster_nothing_was_looked_for():
    none = replace(SEEN, clusters=0, tested=0, untested={})

    for gate in (GATE, GateConfig(min_tested=0.0)):
        verdict = decide_verdict([], CLASSES, gate, none)
        assert verdict.name == "not_auditable"
        assert gates_of(verdict) == ALL_PASS | {"gate.min_tested": False}


def test_both_reasons_of_an_underpowered_audit_are_told():
    verdict = decide_verdict([], CLASSES, GATE, blind(tested=3))

    assert verdict.name == "not_auditable"
    assert len(verdict.reasons) == 2
    assert gates_of(verdict) == {"gate.max_gap": True} | dict.fromkeys(list(ALL_PASS)[1:], False)


def sanity_of(*doubts: str) -> ModelChecks:
    interval = Interval(0.5, 0.6) if doubts else Interval(0.8, 0.9)
    one = FindingAuroc("heart", 50, 0.55, interval, math.nan, math.nan, flipped=False)
    return ModelChecks(0.55, (one,), (), (), doubts)


def test_a_model_at_chance_can_fail_and_nothing_else(weigh):
    doubt = "Class heart is not told from the others."
    shortcut = weigh(counterfactual=used(0.0))
    failed = decide_verdict([shortcut], CLASSES, GATE, SEEN, checks=sanity_of(doubt))
    assert failed.name == "fail"
    asked = decide_verdict(
        [weigh(counterfactual=None)], CLASSES, GATE, SEEN, checks=sanity_of(doubt)
    )
    assert (asked.name, asked.reasons[0], len(asked.reasons)) == ("not_auditable", doubt, 2)
    nothing = decide_verdict([], CLASSES, GATE, SEEN, checks=sanity_of(doubt))
    assert (nothing.name, nothing.reasons) == ("not_auditable", (doubt,))
    for verdict in (failed, asked, nothing):
        gate = next(gate for gate in verdict.gates if gate.name == "gate.min_auroc")
        assert not gate.passed
        assert gate.text.startswith("0 of 1 findings are told from the others")
    passed = decide_verdict([], CLASSES, GATE, SEEN, checks=sanity_of())
    assert passed.name == "pass"
    assert passed.gates[1].passed


def test_a_black_box_is_told_of_in_every_verdict(weigh):
    for found, seen, name in (([], SEEN, "pass"), ([weigh(counterfactual=None)], SEEN, "review"),
                              ([], blind(), "not_auditable")):  # fmt: skip
        verdict = decide_verdict(found, CLASSES, GATE, seen, black_box=True)
        assert verdict.name == name
        assert verdict.reasons[-1].startswith("No counterfactual is possible")
    one = weigh(counterfactual=None, black_box=True)
    assert not one.counts
    assert any(reason.startswith("No counterfactual is possible") for reason in one.reasons)
