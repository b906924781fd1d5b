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
    Leak,
    LocalEffectBound,
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
    PairedChange,
    Removal,
    ReviewDecision,
    ScoreShift,
    SpuriousCorrelation,
    Strata,
)
from ravl_med.evidence.verdict import (
    assess_correlation,
    decide_verdict,
    goes_with_finding,
    kind_of,
    points_for_reviewer,
    rank_correlations,
    with_leaks,
    with_protocol,
)

CLASSES = ("no finding", "cardiomegaly")
NOTHING = Interval(math.nan, math.nan)
EVIDENCE = EvidenceConfig(relevance=Path("unused.yaml"), sign_share=0.5, shortcut_share=0.2)
GATE = GateConfig(max_gap=0.10, max_detectable_gap=0.30, min_tested=0.5, max_local_effect=0.06)
SCORES = Sensitivity(
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
"""Of a model that is known by its scores alone."""
SEEN = replace(SCORES, local=LocalEffectBound(0.03, 0.02, 0.03, 30, 160, 60))


def confirmation_of(status="confirmed", raised=0.4, opposed=-0.4, reasons=()) -> Confirmation:
    """On held-out patients the feature raises cardiomegaly and lowers no finding by so much.

    It goes with cardiomegaly: 70 of 100 films of it have it, and 30 of 100 others.
    """
    arms = AccuracyByPresence(
        n_present=np.array([30, 70]),
        n_absent=np.array([70, 30]),
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


def change_of(contrast=1.0, decisions=0.6, low=0.4) -> PairedChange:
    """Films of 40 patients; `low` is the lower limit of the decisions."""
    around, shown = Interval(contrast - 0.2, contrast + 0.2), Interval(low, 1.0)
    return PairedChange(40, 40, contrast, around, 0.0, contrast, around, decisions, shown, 1e-6)


def counterfactual_of(
    inside=0.0,
    shown_by=("removal", "transplant"),
    effect=(),
    *,
    high=None,
    artifact=0.6,
    size=1.0,
    undone=None,
    called=0.5,
    tried=True,
    turned=0.0,
) -> Counterfactual:
    """Used where an intervention shows it; its effect lies `inside` and in an `artifact`.

    `undone` of the wrong calls that are made on `called` of the films with the feature are undone.
    Interventions change `turned` of the answers at least.
    """
    measured = np.array(effect, float)
    change = change_of(size, low=turned) if tried else None
    upper = Interval(0.0, inside if high is None else high)
    removal = Removal(
        measured,
        measured > 0,
        0.1,
        spread=1.0,
        explored=change,
        both=change,
        wrong_calls=None if undone is None else change_of(decisions=undone),
        called=called,
        shares=EffectShares(inside, upper, artifact, 5, 0) if shown_by else None,
    )
    return Counterfactual(
        removal, change, bool(shown_by), () if shown_by else ("Not used.",), shown_by=shown_by
    )


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


def used(inside: float, *shown_by: str, **more) -> Counterfactual:
    return counterfactual_of(inside, shown_by or ("removal", "transplant"), [1.0] * 5, **more)


UNUSED = counterfactual_of(0.0, (), [0.0] * 5)
UNTRIED = counterfactual_of(0.0, (), [math.nan] * 5, tried=False)
SHORTCUT = used(0.0)
SIGN = used(0.9, "removal", artifact=0.0)
OPEN = used(0.3, artifact=0.4)


@pytest.mark.parametrize(
    ("inside", "artifact", "low", "goes_along", "kind"),
    [
        (0.5, 0.2, 0.6, True, "plausible_sign"),
        (0.9, 0.0, 0.3, True, "plausible_sign"),
        (0.9, 0.0, 0.61, True, "undecided"),  # it has the edges of a thing, as a coin
        (0.9, 0.0, math.nan, True, "undecided"),  # nobody knows
        (0.9, 0.21, 0.3, True, "undecided"),  # some of it lies in artifacts
        (0.49, 0.0, 0.3, True, "undecided"),
        (0.9, 0.0, 0.3, False, "undecided"),
    ],
)
def test_what_raises_other_films_is_a_sign_if_it_is_of_the_body(
    inside, artifact, low, goes_along, kind
):
    shown = used(inside, "removal", "transplant", artifact=artifact)
    removal = replace(shown.removal, sharper=low, sharper_interval=Interval(low, 1.0))
    shown = replace(shown, removal=removal)
    assert kind_of(shown, EVIDENCE, goes_along=goes_along) == kind


@pytest.mark.parametrize(
    ("inside", "high", "artifact", "travels", "goes_along", "kind"),
    [
        (0.05, 0.2, 0.5, True, False, "shortcut"),
        (0.05, 0.2, 0.5, True, True, "shortcut"),  # a device may go with the finding
        (0.05, 0.2, 0.9, False, True, "undecided"),  # it is not shown to do anything elsewhere
        (0.05, 0.5, 0.5, True, True, "shortcut"),  # of an effect that is an artifact's
        (0.05, 0.51, 0.9, True, True, "undecided"),  # hardly inside, and that is not sure
        (0.3, 0.5, 0.6, True, False, "shortcut"),  # mostly outside, on films of any finding
        (0.3, 0.5, 0.6, True, True, "shortcut"),  # artifacts go with what they are planted on
        (0.3, 0.5, 0.6, False, True, "undecided"),
        (0.3, 0.51, 0.6, True, False, "undecided"),
        (0.3, 0.5, 0.49, True, False, "undecided"),  # nothing says that it is foreign
        (0.05, 0.2, 0.49, True, True, "undecided"),  # in other anatomy, not in artifacts
        (0.05, math.nan, 0.9, True, True, "undecided"),  # one patient says nothing of the others
        (0.5, 0.7, 0.3, False, True, "plausible_sign"),
        (0.9, 1.0, 0.0, False, False, "undecided"),  # where it shows, on films of any finding
        (0.9, 1.0, 0.0, True, True, "undecided"),  # where it shows, but it raises other films too
        (0.49, 0.6, 0.0, False, True, "undecided"),
        (math.nan, math.nan, math.nan, True, True, "undecided"),
        (math.nan, math.nan, math.nan, False, True, "undecided"),
    ],
)  # fmt: skip
def test_place_travel_and_company_say_what_a_used_feature_is(
    inside, high, artifact, travels, goes_along, kind
):
    shown = used(inside, "transplant" if travels else "removal", high=high, artifact=artifact)

    assert kind_of(shown, EVIDENCE, goes_along=goes_along) == kind


@pytest.mark.parametrize(("low", "kind"), [(0.6, "plausible_sign"), (0.61, "undecided")])
def test_a_sharp_thing_is_no_sign_because_it_was_not_shown_to_travel(low, kind):
    shown = used(0.9, "removal", artifact=0.0)
    edges = replace(shown.removal, sharper=low + 0.1, sharper_interval=Interval(low, 1.0))

    assert kind_of(replace(shown, removal=edges), EVIDENCE, goes_along=True) == kind


@pytest.mark.parametrize(
    ("inside", "artifact", "goes_along", "kind"),
    [
        (0.8, 0.0, True, "plausible_sign"),
        (0.79, 0.0, True, "undecided"),  # what is sharp has to lie there wholly, or nearly so
        (0.9, 0.21, True, "undecided"),  # some of it lies in artifacts
        (0.9, 0.0, False, "undecided"),
        (0.1, 0.0, True, "shortcut"),  # edges where the finding does not show
    ],
)
def test_edges_say_nothing_of_a_finding_that_has_them(inside, artifact, goes_along, kind):
    """A fracture is sharp and would be one on any film that it is put into."""
    shown = used(inside, artifact=artifact)
    shares = replace(shown.removal.shares, edges=True)
    sharp = {"sharper": 0.9, "sharper_interval": Interval(0.8, 1.0)}
    shown = replace(shown, removal=replace(shown.removal, shares=shares, **sharp))

    assert kind_of(shown, EVIDENCE, goes_along=goes_along) == kind


@pytest.mark.parametrize(
    ("lowered", "artifact", "sharper", "travels", "goes_along", "kind"),
    [
        (0.1, 0.2, 0.6, False, True, "plausible_sign"),
        (0.09, 0.0, 0.3, False, True, "undecided"),  # hardly any of it lies where either shows
        (0.6, 0.21, 0.3, False, True, "undecided"),
        (0.6, 0.0, 0.61, False, True, "undecided"),
        (0.6, 0.0, math.nan, False, True, "undecided"),  # nobody knows whether it has edges
        (0.4, 0.2, 0.6, True, True, "plausible_sign"),  # a sign raises other films as well
        (0.39, 0.0, 0.3, True, True, "undecided"),
        (0.4, 0.21, 0.3, True, True, "undecided"),
        (0.9, 0.0, 0.61, True, True, "shortcut"),  # and so does a thing, which has edges
        (0.6, 0.0, 0.3, True, False, "undecided"),
        (0.6, 0.0, 0.3, False, False, "undecided"),
    ],
)  # fmt: skip
def test_the_lack_of_a_lowered_class_is_a_sign_where_that_shows(
    lowered, artifact, sharper, travels, goes_along, kind
):
    shown = used(0.1, "transplant" if travels else "removal", artifact=artifact)
    shares = replace(shown.removal.shares, lowered=lowered)
    edges = {"sharper": sharper, "sharper_interval": Interval(sharper, 1.0)}
    shown = replace(shown, removal=replace(shown.removal, shares=shares, **edges))

    assert kind_of(shown, EVIDENCE, goes_along=goes_along) == kind


def test_it_has_to_be_tried_on_other_films_before_it_is_said_to_move_none():
    shown = used(0.2, "removal", high=0.5, artifact=0.0)
    edges = {"sharper": 0.3, "sharper_interval": Interval(0.3, 1.0)}
    shown = replace(shown, removal=replace(shown.removal, **edges))

    assert kind_of(shown, EVIDENCE, goes_along=True) == "plausible_sign"
    untried = replace(shown, transplant=None)
    assert kind_of(untried, EVIDENCE, goes_along=True) == "undecided"


@pytest.mark.parametrize(
    ("moves", "inside", "artifact", "sharper", "travels", "kind"),
    [
        (0.5, 0.5, 0.2, 0.6, False, "plausible_sign"),
        (0.62, 0.5, 0.2, 0.6, False, "undecided"),  # 0.38 apart, both within 0.28 of the truth
        (0.5, 0.49, 0.2, 0.6, False, "undecided"),
        (0.5, 0.5, 0.21, 0.6, False, "undecided"),
        (0.5, 0.9, 0.0, 0.61, False, "undecided"),  # a coin that few films could be tried with
        (0.5, 0.9, 0.0, math.nan, False, "undecided"),
        (0.5, 0.9, 0.0, 0.3, True, "undecided"),  # on films of any finding, moving others
    ],
)  # fmt: skip
def test_what_does_less_in_other_films_is_anatomy_and_no_thing(
    moves, inside, artifact, sharper, travels, kind
):
    shown = used(inside, "transplant" if travels else "removal", artifact=artifact)
    within = replace(change_of(1.0), interval=Interval(0.72, 1.28))
    edges = {"sharper": sharper, "sharper_interval": Interval(sharper, 1.0), "both": within}
    moved = replace(change_of(moves), interval=Interval(moves - 0.28, moves + 0.28))
    shown = replace(shown, removal=replace(shown.removal, **edges), transplant=moved)

    assert kind_of(shown, EVIDENCE, goes_along=False) == kind


@pytest.mark.parametrize("what", ["unused", "no place"])
def test_without_use_or_place_the_kind_is_open(what):
    shown = used(0.0)
    removal = shown.removal if what == "unused" else replace(shown.removal, shares=None)
    asked = replace(shown, removal=removal, used=what != "unused")

    for goes_along in (False, True):
        assert kind_of(asked, EVIDENCE, goes_along=goes_along) == "undecided"


def confirmation_on(present, absent) -> Confirmation:
    """Held-out films by class, with the feature and without it."""
    usual = confirmation_of()
    arms = replace(usual.arms, n_present=np.array(present), n_absent=np.array(absent))
    return replace(usual, arms=arms)


@pytest.mark.parametrize(
    ("present", "absent", "p"),
    [
        ([0, 5], [5, 0], 1 / 252),  # of 10 films the 5 with it are those of the finding
        ([0, 4], [4, 0], 1 / 70),
        ([1, 5], [5, 1], 37 / 924),  # 6 x 6 = 36 tables so, and one beyond
        ([5, 0], [0, 5], 1.0),  # it goes with the other finding
        ([0, 0], [5, 5], 1.0),  # on no film
        ([5, 5], [0, 0], 1.0),  # on all
    ],
)
def test_whether_a_feature_goes_with_its_finding_by_hand(present, absent, p):
    one = confirmation_on(present, absent)

    assert goes_with_finding(one, 1) is (p <= 0.01)
    assert not goes_with_finding(one, 0) or present == [5, 0]


def test_what_goes_with_the_finding_is_counted_on_all_other_classes_together():
    """Of 10 films the 5 with it are those of class 2; of each other class alone it is unsure."""
    one = confirmation_on([0, 0, 5], [2, 3, 0])

    assert goes_with_finding(one, 2)
    assert not goes_with_finding(confirmation_on([0, 0, 5], [2, 0, 0]), 2)  # 1 / 21
    assert not goes_with_finding(one, 0)
    assert not goes_with_finding(one, 1)


def test_what_tells_the_finding_from_one_other_goes_with_it_though_all_others_have_it_too():
    """As a clear angle is on films of no finding (0) and of an enlarged heart, not of fluid (2)."""
    one = confirmation_on([20, 20, 4], [10, 10, 26])

    assert not goes_with_finding(one, 0)
    assert goes_with_finding(one, 0, (2,))
    assert not goes_with_finding(one, 0, (1,))
    assert not goes_with_finding(confirmation_on([8, 8, 1], [1, 3, 6]), 0, (2,))  # 0.0056, twice


def test_what_lies_where_the_finding_shows_but_does_not_go_with_it_is_undecided(weigh):
    """70 of 100 films of either class have it, and the interventions are the same."""
    found = [weigh(confirmation_on([n, 70], [100 - n, 30]), SIGN) for n in (30, 70)]

    assert [one.kind for one in found] == ["plausible_sign", "undecided"]
    assert all(one.counts and not one.reasons for one in found)


def test_what_is_confirmed_and_used_counts(weigh):
    strata = Strata(0.1, ())

    found = weigh(counterfactual=SHORTCUT, strata=strata, also=(4, 9))

    assert (found.counts, found.reasons, found.kind) == (True, (), "shortcut")
    assert found.strata is strata
    assert (found.also, found.rank) == ((4, 9), 0)


def test_what_the_model_does_not_use_has_no_kind_and_does_not_count(weigh):
    found = weigh(counterfactual=UNUSED)

    assert (found.counts, found.kind, found.reasons) == (False, "undecided", ("Not used.",))


@pytest.mark.parametrize("status", ["confirmed", "raised_only", "not_confirmed", "not_tested"])
def test_what_was_not_tried_on_the_model_does_not_count(weigh, status):
    found = weigh(confirmation_of(status), None)

    told = ("Not tested by removal or transplant: no film of the discovery half could be mapped.",)
    why = () if status == "confirmed" else (f"Why it is {status}.",)
    assert found.reasons == why + (told if status in ("confirmed", "raised_only") else ())
    assert not found.counts
    assert found.kind == "undecided"
    assert found.counterfactual is None


@pytest.mark.parametrize("status", ["raised_only", "not_confirmed", "not_tested"])
def test_a_used_feature_without_confirmed_gaps_has_a_kind_and_does_not_count(weigh, status):
    found = weigh(confirmation_of(status), SHORTCUT)

    assert (found.counts, found.kind) == (False, "shortcut")
    assert found.reasons == (f"Why it is {status}.",)


@pytest.mark.parametrize("status", ["confirmed", "raised_only", "not_confirmed", "not_tested"])
def test_wrong_calls_that_removal_undoes_are_harm_without_any_gap(weigh, status):
    """Half of the films with it are called wrongly, and a fifth of these calls is its doing."""
    found = weigh(confirmation_of(status, raised=0.05, opposed=-0.02), used(0.0, undone=0.2))

    assert (found.counts, found.reasons) == (True, ())


@pytest.mark.parametrize(
    ("raised", "opposed", "counts"),
    [
        (0.1, 0.05, True),  # raised by 10 points, and lowered by none
        (-0.1, -0.05, False),
        (0.1, 0.1, False),
        (math.nan, 0.1, False),
        (math.nan, -0.1, True),
        (math.nan, math.nan, True),
    ],
)
@pytest.mark.parametrize("inside", [0.0, 0.9])
def test_what_no_mistakes_go_with_does_no_harm(weigh, raised, opposed, counts, inside):
    """Whether it is foreign and changes answers, or undoes wrong calls of any film."""
    found = weigh(
        confirmation_of("not_confirmed", raised, opposed), used(inside, undone=0.9, turned=0.3)
    )

    assert found.counts is counts
    assert any("no mistakes go with it" in reason for reason in found.reasons) is not counts


@pytest.mark.parametrize(
    ("called", "undone", "low"), [(0.5, 0.19, 0.1), (0.5, 0.9, 0.0), (0.0, 1.0, 0.5)]
)
def test_wrong_calls_below_the_gate_or_by_chance_do_not_count(weigh, called, undone, low):
    tested = used(0.0, undone=undone, called=called, artifact=0.1)
    wrong = replace(tested.removal.wrong_calls, decisions_interval=Interval(low, 1.0))
    tested = replace(tested, removal=replace(tested.removal, wrong_calls=wrong))

    found = weigh(confirmation_of("not_confirmed"), tested)

    assert (found.counts, found.reasons) == (False, ("Why it is not_confirmed.",))


@pytest.mark.parametrize(
    ("changes", "low", "counts"),
    [
        ({"artifact": 0.6}, 0.1, True),
        ({"artifact": 0.1, "sharper_interval": Interval(0.7, 1.0)}, 0.1, True),
        ({"artifact": 0.6}, 0.0, False),  # by chance
        ({"artifact": 0.1, "sharper_interval": Interval(0.5, 1.0)}, 0.1, False),  # of the body
        ({"artifact": 0.6, "inside": 0.4}, 0.1, True),  # an artifact over the anatomy
        ({"artifact": 0.1, "inside": 0.9}, 0.1, False),  # in the anatomy
        ({"artifact": 0.6, "called": 0.0}, 0.1, False),  # no film is called so
        ({"artifact": 0.6, "by": ("removal",)}, 0.1, False),  # it does not travel
    ],
)
def test_of_something_foreign_less_harm_than_the_gate_counts(weigh, changes, low, counts):
    more = {"inside": 0.0, "undone": 0.1, "called": 0.5, **changes}
    sharper, by = more.pop("sharper_interval", None), more.pop("by", ())
    tested = used(more.pop("inside"), *by, **more)
    wrong = replace(tested.removal.wrong_calls, decisions_interval=Interval(low, 1.0))
    removal = replace(tested.removal, wrong_calls=wrong)
    if sharper is not None:
        removal = replace(removal, sharper_interval=sharper)

    found = weigh(confirmation_of("not_confirmed"), replace(tested, removal=removal))

    assert found.counts is counts


@pytest.mark.parametrize(
    ("changes", "counts", "kind"),
    [
        ({"artifact": 0.6}, True, "shortcut"),
        ({"artifact": 0.1, "sharp": 0.7}, True, "shortcut"),
        ({"artifact": 0.6, "inside": 0.4}, True, "shortcut"),  # an artifact over the anatomy
        ({"artifact": 0.5, "inside": 0.51}, True, "undecided"),  # as much the anatomy's
        ({"artifact": 0.1, "inside": 0.4, "sharp": 0.7}, True, "undecided"),  # near the anatomy
        ({"artifact": 0.1, "inside": 0.9, "sharp": 0.7}, False, "undecided"),  # an edge of the body
        ({"artifact": 0.1, "sharp": 0.5}, False, "undecided"),  # of the body
        ({"artifact": 0.6, "turned": 0.0}, False, "shortcut"),  # by chance
        ({"artifact": 0.6, "by": ("removal",)}, False, "undecided"),  # it does not travel
    ],
)
def test_something_foreign_that_changes_answers_counts_without_gaps(weigh, changes, counts, kind):
    more = {"inside": 0.0, "turned": 0.1, **changes}
    sharp, by = more.pop("sharp", 0.0), more.pop("by", ())
    tested = used(more.pop("inside"), *by, **more)
    removal = replace(tested.removal, sharper_interval=Interval(sharp, 1.0))

    found = weigh(confirmation_of("raised_only"), replace(tested, removal=removal))

    assert (found.counts, found.kind) == (counts, kind)


def test_only_an_intervention_that_shows_use_changes_answers():
    """Removal changes none by more than chance; a transplant that shows nothing is not asked."""
    tested = used(0.0, "removal")
    changing = change_of(low=0.1)
    assert replace(tested, transplant=changing).changed_answers == 0.0
    assert replace(tested, removal=replace(tested.removal, both=changing)).changed_answers == 0.6
    more = replace(used(0.0, turned=0.1), transplant=replace(changing, decisions=0.7))
    assert more.changed_answers == 0.7  # the larger of the two
    assert replace(used(0.0), transplant=None).changed_answers == 0.0


def test_undone_wrong_calls_do_not_make_a_feature_used(weigh):
    unused = replace(used(0.0, undone=0.9), used=False, reasons=("Not used.",))

    assert weigh(counterfactual=unused).reasons == ("Not used.",)
    assert not weigh(confirmation_of("not_confirmed"), unused).counts


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


def test_what_counts_comes_first_then_kind_effect_status_and_gap(weigh):
    alone, untested = confirmation_of("raised_only"), confirmation_of("not_tested")
    no_gap = confirmation_of("not_confirmed")
    made = {
        "shortcut, large": weigh(counterfactual=used(0.0, size=0.9), performance_gap=0.2),
        "shortcut": weigh(counterfactual=used(0.0, size=0.4), performance_gap=0.9),
        "by wrong calls alone": weigh(no_gap, used(0.0, size=1.2, undone=0.2), performance_gap=1.8),
        "undecided": weigh(counterfactual=OPEN, performance_gap=1.0),
        "sign": weigh(counterfactual=SIGN, performance_gap=1.5),
        "confirmed, unused, large": weigh(counterfactual=UNUSED, performance_gap=0.8),
        "confirmed, unused": weigh(counterfactual=UNUSED, performance_gap=0.7),
        "alone, sign": weigh(alone, SIGN, performance_gap=0.5),
        "alone, shortcut": weigh(alone, SHORTCUT, performance_gap=0.4),
        "not confirmed": weigh(no_gap, None, performance_gap=1.9),
        "not tested": weigh(untested, None, performance_gap=2.0),
    }
    names = {id(found.cluster): name for name, found in made.items()}
    shuffled = [list(made.values())[i] for i in np.random.default_rng(0).permutation(len(made))]

    ranked = rank_correlations(shuffled)

    assert [names[id(found.cluster)] for found in ranked] == list(made)
    assert [found.rank for found in ranked] == list(range(1, 12))
    assert rank_correlations([]) == ()


@pytest.mark.parametrize(("called", "first"), [(0.35, "dear"), (0.4, "confirmed")])
def test_what_surely_makes_more_calls_wrong_comes_first_whatever_its_gaps(weigh, called, first):
    """30 films of other classes have either; of those called so 40 to 100 % are its doing."""
    made = {
        "confirmed": weigh(counterfactual=used(0.0, size=0.9, undone=0.6, called=called)),
        "dear": weigh(confirmation_of("not_tested"), used(0.0, size=0.2, undone=0.6, called=0.9)),
        "few": weigh(confirmation_of("raised_only"), used(0.0, size=0.1, called=0.3)),
    }
    ranked = rank_correlations([replace(one, counts=True) for one in made.values()])

    names = {id(found.cluster): name for name, found in made.items()}
    order = [names[id(found.cluster)] for found in ranked]
    assert order == sorted(order, key=(first, "dear", "confirmed", "few").index)


def test_what_makes_more_calls_right_than_wrong_costs_nothing(weigh):
    helps = used(0.0, size=0.9)
    calls = replace(change_of(decisions=-0.3), decisions_interval=Interval(-0.5, -0.1))
    helps = replace(helps, removal=replace(helps.removal, wrong_calls=calls))

    ranked = rank_correlations(
        [weigh(counterfactual=used(0.0, size=0.2, undone=0.6)), weigh(counterfactual=helps)]
    )

    assert [found.counterfactual.removal.size for found in ranked] == [0.2, 0.9]
    assert rank_correlations([weigh(counterfactual=helps)])[0].rank == 1


def test_what_only_a_transplant_shows_comes_after_what_removal_measured(weigh):
    shown = used(0.0, "transplant")
    unmeasured = replace(shown, removal=replace(shown.removal, both=None))

    ranked = rank_correlations([weigh(counterfactual=unmeasured), weigh(counterfactual=SHORTCUT)])

    assert [found.counterfactual.removal.size for found in ranked] == [
        1.0,
        pytest.approx(math.nan, nan_ok=True),
    ]


def gates_of(verdict: Verdict) -> dict[str, bool]:
    return {gate.name: gate.passed for gate in verdict.gates}


ALL_PASS = {"gate.max_gap": True, "gate.max_local_effect": True}


def test_a_shortcut_fails(weigh):
    verdict = decide_verdict([weigh()], CLASSES, GATE, SEEN)

    assert verdict.name == "fail"
    assert verdict.reasons == (
        "1 shortcut, shown on patients that had no part in the search: the model calls films "
        "cardiomegaly because of a feature that is not part of the finding.",
    )
    assert gates_of(verdict) == ALL_PASS | {"gate.max_gap": False}
    assert verdict.gates[0] == Gate(
        "gate.max_gap",
        False,
        "1 shortcut found; allowed: no shortcut with gaps of 10 points or more, and "
        "nothing foreign that changes more answers than chance explains",
    )


def test_several_shortcuts_name_each_class_once_and_open_points_follow(weigh):
    other = weigh()
    other = replace(other, cluster=replace(other.cluster, raised_class=0))

    verdict = decide_verdict(
        [weigh(), weigh(), other, weigh(counterfactual=OPEN)], CLASSES, GATE, SEEN
    )

    assert verdict.name == "fail"
    assert verdict.reasons[0].startswith("3 shortcuts, shown on patients")
    assert (
        "the model calls films cardiomegaly, no finding because of features" in verdict.reasons[0]
    )
    assert verdict.reasons[1].startswith("1 feature that the model uses could not")
    assert verdict.gates[0].text.startswith("3 shortcuts found, 1 feature undecided;")


def bounded(points: float) -> Sensitivity:
    return replace(SEEN, local=replace(SEEN.local, points=points))


def test_a_shortcut_fails_however_little_could_be_seen(weigh):
    verdict = decide_verdict([weigh()], CLASSES, GATE, bounded(1.0))

    assert verdict.name == "fail"
    assert gates_of(verdict) == dict.fromkeys(ALL_PASS, False)


OPEN_POINTS = {
    "undecided": "1 feature that the model uses could not be classified as a sign or a shortcut "
    "(cardiomegaly): a radiologist decides.",
    "not tried": "1 confirmed association above the limit could not be tested by removal or "
    "transplant (cardiomegaly): accuracy differs with the feature, but something else on the same "
    "films may be the cause.",
}


def open_point(weigh, name: str) -> SpuriousCorrelation:
    return weigh(counterfactual={"undecided": OPEN, "not tried": UNTRIED, "no map": None}[name])


@pytest.mark.parametrize("name", ["undecided", "not tried", "no map"])
def test_what_a_radiologist_has_to_decide_goes_to_review(weigh, name):
    found = open_point(weigh, name)

    verdict = decide_verdict([found], CLASSES, GATE, SEEN)

    told = OPEN_POINTS["undecided" if name == "undecided" else "not tried"]
    assert (verdict.name, verdict.reasons) == ("review", (told,))
    assert gates_of(verdict) == ALL_PASS
    unplaced = ", 1 feature undecided" if name == "undecided" else ""
    assert verdict.gates[0].text.startswith(f"no shortcut found{unplaced};")
    assert verdict.gates[0].open is bool(unplaced)
    unseen = decide_verdict([found], CLASSES, GATE, bounded(1.0))  # a review needs no power
    assert (unseen.name, unseen.reasons) == ("review", verdict.reasons)


def test_open_points_are_told_group_by_group(weigh):
    found = [open_point(weigh, name) for name in ("not tried", "undecided", "undecided")]

    verdict = decide_verdict(found, CLASSES, GATE, SEEN)

    first, second = verdict.reasons
    assert first.startswith("2 features that the model uses could not be classified")
    assert second.startswith("1 confirmed association above the limit")


@pytest.mark.parametrize("left", ["transplant", "both", "maps"])
def test_an_association_of_which_anything_was_measured_asks_nobody(weigh, left):
    """Fills, transplants, or maps that left it out say something of what holds the answer up."""
    removal = replace(UNTRIED.removal, both=change_of(0.0) if left == "both" else None)
    transplant = change_of(0.0) if left == "transplant" else None
    counterfactual = replace(UNTRIED, removal=removal, transplant=transplant, tested=left != "maps")
    found = weigh(counterfactual=counterfactual)

    assert decide_verdict([found], CLASSES, GATE, SEEN).name == "pass"


def silent(weigh, name: str) -> SpuriousCorrelation:
    small = confirmation_of(raised=0.08)
    return {
        "not confirmed": lambda: weigh(confirmation_of("not_confirmed"), None),
        "not tested": lambda: weigh(confirmation_of("not_tested"), None),
        "confirmed, without an effect": lambda: weigh(counterfactual=UNUSED),
        "below the gate": lambda: weigh(small),
        "below the gate and untried": lambda: weigh(small, UNTRIED),
        "alone, unused": lambda: weigh(confirmation_of("raised_only"), UNUSED),
        "alone, not tried": lambda: weigh(confirmation_of("raised_only"), None),
        "alone, used": lambda: weigh(confirmation_of("raised_only"), SHORTCUT),
        "proposed by its effect, harmless": lambda: weigh(
            confirmation_of("not_confirmed"), used(0.0, undone=0.1, artifact=0.1)
        ),
    }[name]()


@pytest.mark.parametrize(
    "name",
    ["not confirmed", "not tested", "confirmed, without an effect", "below the gate",
     "below the gate and untried", "alone, unused", "alone, not tried", "alone, used",
     "proposed by its effect, harmless"],
)  # fmt: skip
def test_what_does_not_count_does_not_decide(weigh, name):
    found = silent(weigh, name)

    verdict = decide_verdict([found], CLASSES, GATE, SEEN)

    assert not found.counts
    assert verdict == decide_verdict([], CLASSES, GATE, SEEN)
    assert verdict.name == "pass"
    assert verdict.reasons == (
        "Of what the model was shown to use, nothing is left that is not the finding itself and "
        "does harm: gaps of 10 points or more, or any where it is foreign.",
    )
    assert gates_of(verdict) == ALL_PASS
    assert decide_verdict([found], CLASSES, GATE, bounded(1.0)).name == "not_auditable"


def test_a_pass_names_the_signs_that_the_model_uses(weigh):
    sign = weigh(counterfactual=SIGN)
    assert (sign.counts, sign.kind) == (True, "plausible_sign")

    one, two = (decide_verdict([sign] * n, CLASSES, GATE, SEEN) for n in (1, 2))

    assert (one.name, two.name) == ("pass", "pass")
    assert one.reasons[1:] == (
        "1 feature that the model uses where the finding itself shows (cardiomegaly), that "
        "goes with it and lacks a mark of things (sharp edges, an effect in "
        "any film they are put into): a sign, as far as can be told.",
    )
    assert two.reasons[1].startswith("2 features that the model uses where")
    assert "that go with it and lack a mark of things" in two.reasons[1]


def test_a_pass_says_that_a_sign_may_be_the_lack_of_a_lowered_class(weigh):
    assert SIGN.removal.shares is not None
    for lowered, said in ((0.004, False), (0.05, True)):
        shares = replace(SIGN.removal.shares, lowered=lowered)
        sign = weigh(counterfactual=replace(SIGN, removal=replace(SIGN.removal, shares=shares)))
        (_, kept) = decide_verdict([sign], CLASSES, GATE, SEEN).reasons
        assert ("(cardiomegaly), or one that it is told from, that goes" in kept) is said


def test_a_reviewer_may_decide_on_all_that_counts_and_on_what_could_not_be_tested(weigh):
    entries = [
        replace(weigh(counterfactual=tested), rank=rank)
        for rank, tested in enumerate([UNTRIED, UNUSED, SIGN, SHORTCUT, OPEN], 1)
    ]

    assert [c.rank for c in points_for_reviewer(entries, GATE)] == [1, 3, 4, 5]


def test_what_a_reviewer_settled_or_condemned_is_no_longer_open(weigh):
    sign, unplaced = (
        replace(weigh(counterfactual=tested), rank=rank) for rank, tested in ((1, SIGN), (2, OPEN))
    )
    settled, condemned = (
        decide_verdict(
            [sign, unplaced],
            CLASSES,
            GATE,
            SEEN,
            rulings=[
                ReviewDecision(rank, word, "", "Seen.", "Dr. A", "2026-11-25", True)
                for rank, word in enumerate(decided, 1)
            ],
        )
        for decided in (("disease", "disease"), ("shortcut", "disease"))
    )

    assert (settled.name, len(settled.reasons)) == ("pass", 1)
    assert condemned.name == "fail"
    assert condemned.reasons[0].startswith("1 shortcut, by the judgement of a reviewer: ")


def test_what_only_a_reviewer_calls_a_shortcut_is_not_said_to_be_used(weigh):
    called = ReviewDecision(1, "shortcut", "", "Seen.", "Dr. A", "2026-11-25", True)
    untried = replace(weigh(counterfactual=UNTRIED), rank=1)
    verdict = decide_verdict([untried], CLASSES, GATE, SEEN, rulings=[called])

    assert verdict.name == "fail"
    assert verdict.reasons[0] == (
        "A reviewer calls correlation 1, a feature that goes with cardiomegaly, a shortcut; the "
        "audit did not show that the model uses it."
    )
    assert verdict.gates[0].text.startswith("no shortcut found, 1 named by a reviewer;")


def test_a_companion_of_what_counts_is_no_open_point(weigh):
    """Confirmed and not tried, and it travels with the correlation of rank 1."""
    sign, bystander = weigh(counterfactual=SIGN), weigh(counterfactual=UNTRIED)
    companion = replace(bystander, companion_of=1, reasons=(*bystander.reasons, "Travels."))

    alone, beside, named = (
        decide_verdict(found, CLASSES, GATE, SEEN)
        for found in ([sign], [sign, bystander], [sign, companion])
    )

    assert alone == named
    assert (alone.name, beside.name) == ("pass", "review")


def test_the_gate_on_local_effects_tells_what_was_found_and_what_is_asked():
    verdict = decide_verdict([], CLASSES, GATE, SEEN)

    assert [gate.text for gate in verdict.gates] == [
        "no shortcut found; allowed: no shortcut with gaps of 10 points or more, and "
        "nothing foreign that changes more answers than chance explains",
        "a local feature not named here may cost up to 3.0 points of accuracy; allowed: at most 6",
    ]


@pytest.mark.parametrize(("points", "passes"), [(0.06, True), (0.061, False), (math.nan, False)])
def test_a_pass_needs_a_bound_on_what_was_not_named(points, passes):
    verdict = decide_verdict([], CLASSES, GATE, bounded(points))

    assert verdict.name == ("pass" if passes else "not_auditable")
    assert gates_of(verdict) == ALL_PASS | {"gate.max_local_effect": passes}
    if not passes:
        assert verdict.reasons == (
            "Too few films: a local feature not named here may cost up to "
            f"{100 * points:.1f} points of accuracy; a pass needs at most 6 "
            "(gate.max_local_effect). Audit more films.",
        )


def test_the_bound_stands_for_the_detectable_gap():
    """With effect maps it does not matter what gaps would have shown."""
    verdict = decide_verdict([], CLASSES, GATE, replace(blind(tested=0), local=SEEN.local))

    assert verdict.name == "pass"
    assert gates_of(verdict) == ALL_PASS


def blind(**changes) -> Sensitivity:
    return replace(SCORES, detectable=(DetectableGap(0.2, math.nan, 0.0),), **changes)


BY_SCORES = {"gate.max_gap": True, "gate.max_detectable_gap": True, "gate.min_tested": True}


def test_the_gates_of_a_black_box_tell_what_was_found_and_what_is_asked():
    verdict = decide_verdict([], CLASSES, GATE, SCORES)

    assert [gate.text for gate in verdict.gates] == [
        "no shortcut found; allowed: no shortcut with gaps of 10 points or more, and "
        "nothing foreign that changes more answers than chance explains",
        "smallest gap these films can detect (feature on 20 % of the films, 80 % power): 30 "
        "points; allowed: at most 30 points",
        "36 of 40 clusters could be tested; at least 50 % required",
    ]


def test_plain_ravl_asks_a_reviewer_at_most():
    passed = decide_verdict([], CLASSES, GATE, SCORES)
    assert passed.name == "pass"
    assert with_protocol(passed, "pooled", 3) == passed
    asked = with_protocol(passed, "ravl", 3)
    assert asked.name == "review"
    assert asked.reasons[0].startswith("Plain RaVL lists 3 feature clusters")
    assert asked.gates == passed.gates
    weak = decide_verdict([], CLASSES, GateConfig(max_detectable_gap=1.0), blind())
    assert with_protocol(weak, "ravl", 1).name == "not_auditable"


def test_a_pass_of_a_black_box_needs_power():
    weak = replace(SCORES, detectable=(*SCORES.detectable[:2], DetectableGap(0.2, 0.32, 0.9)))

    verdict = decide_verdict([], CLASSES, GATE, weak)

    assert verdict.name == "not_auditable"
    assert verdict.reasons == (
        "Too few films: a feature on 20 % of them is found with 80 % power only from 32 points "
        "on; a pass needs 30 points (gate.max_detectable_gap). Audit more films.",
    )
    assert gates_of(verdict) == BY_SCORES | {"gate.max_detectable_gap": False}


def test_a_gap_that_is_never_found_does_not_pass():
    verdict = decide_verdict([], CLASSES, GateConfig(max_detectable_gap=1.0), blind())

    assert verdict.name == "not_auditable"
    assert verdict.reasons == (
        "Too few films: a feature on 20 % of them would not be found with 80 % power, however "
        "large its gap (gate.max_detectable_gap). Audit more films.",
    )
    assert gates_of(verdict) == BY_SCORES | {"gate.max_detectable_gap": False}
    assert "80 % power): not even a gap of 100 points; allowed" in verdict.gates[1].text


def test_the_prevalence_nearest_to_20_percent_is_asked_for():
    near = replace(
        SCORES, detectable=(DetectableGap(0.05, 0.9, 1.0), DetectableGap(0.25, 0.1, 1.0))
    )

    verdict = decide_verdict([], CLASSES, GATE, near)

    assert verdict.name == "pass"
    assert "feature on 25 % of the films, 80 % power): 10 points" in verdict.gates[1].text


@pytest.mark.parametrize(("tested", "passes"), [(20, True), (19, False), (0, False)])
def test_a_pass_of_a_black_box_needs_clusters_that_were_tested(tested, passes):
    verdict = decide_verdict([], CLASSES, GATE, replace(SCORES, tested=tested))

    assert verdict.name == ("pass" if passes else "not_auditable")
    assert gates_of(verdict) == BY_SCORES | {"gate.min_tested": passes}
    if not passes:
        assert verdict.reasons == (
            f"Too few films: {tested} of 40 clusters have enough films to be tested; a pass needs "
            "50 % (gate.min_tested). Audit more films.",
        )


def test_without_any_cluster_nothing_was_looked_for():
    none = replace(SCORES, clusters=0, tested=0, untested={})

    for gate in (GATE, GateConfig(min_tested=0.0)):
        verdict = decide_verdict([], CLASSES, gate, none)
        assert verdict.name == "not_auditable"
        assert gates_of(verdict) == BY_SCORES | {"gate.min_tested": False}


def test_both_reasons_of_an_underpowered_audit_are_told():
    verdict = decide_verdict([], CLASSES, GATE, blind(tested=3))

    assert verdict.name == "not_auditable"
    assert len(verdict.reasons) == 2
    assert gates_of(verdict) == {"gate.max_gap": True} | dict.fromkeys(list(BY_SCORES)[1:], False)


def sanity_of(*doubts: str) -> ModelChecks:
    interval = Interval(0.5, 0.6) if doubts else Interval(0.8, 0.9)
    one = FindingAuroc("heart", 50, 0.55, interval, math.nan, math.nan, flipped=False)
    return ModelChecks(0.55, (one,), (), (), doubts)


def test_a_model_at_chance_can_fail_and_nothing_else(weigh):
    doubt = "The model does not distinguish heart from the other classes."
    shortcut = weigh(counterfactual=SHORTCUT)
    failed = decide_verdict([shortcut], CLASSES, GATE, SEEN, checks=sanity_of(doubt))
    assert (failed.name, failed.reasons[1:]) == ("fail", ())  # a gate says it
    rare = "The model hardly ever calls a film heart."
    known = replace(sanity_of(), doubts=(rare,))
    failed_too = decide_verdict([shortcut], CLASSES, GATE, SEEN, checks=known)
    assert (failed_too.name, failed_too.reasons[1:]) == ("fail", (rare,))
    asked = decide_verdict(
        [weigh(counterfactual=None)], CLASSES, GATE, SEEN, checks=sanity_of(doubt)
    )
    assert (asked.name, asked.reasons[0], len(asked.reasons)) == ("not_auditable", doubt, 2)
    nothing = decide_verdict([], CLASSES, GATE, SEEN, checks=sanity_of(doubt))
    assert (nothing.name, nothing.reasons) == ("not_auditable", (doubt,))
    for verdict in (failed, asked, nothing):
        gate = next(gate for gate in verdict.gates if gate.name == "gate.min_auroc")
        assert not gate.passed
        assert gate.text.startswith("the model distinguishes 0 of 1 findings")
    passed = decide_verdict([], CLASSES, GATE, SEEN, checks=sanity_of())
    assert passed.name == "pass"
    assert passed.gates[1].passed


def test_a_black_box_is_told_of_in_every_verdict(weigh):
    one = weigh(counterfactual=None, black_box=True)
    for found, seen, name in (([], SCORES, "pass"), ([one], SCORES, "review"),
                              ([], blind(), "not_auditable")):  # fmt: skip
        verdict = decide_verdict(found, CLASSES, GATE, seen, black_box=True)
        assert verdict.name == name
        assert verdict.reasons[-1].startswith("No counterfactual is possible")
    assert not one.counts
    assert any(reason.startswith("No counterfactual is possible") for reason in one.reasons)
    passed = decide_verdict([], CLASSES, GATE, SCORES, black_box=True)
    assert passed.reasons[0].startswith(
        "No correlation with gaps of 10 points or more was confirmed"
    )


# Leaks


def leak(place: str = "split finetune", patients: int = 3, share: str = "some") -> Leak:
    return Leak(place, patients, patients, place != "split test", share)


def test_nothing_but_a_fail_is_said_of_patients_that_a_model_was_fitted_on():
    for name in ("pass", "review", "not_auditable"):
        voided = with_leaks(Verdict(name, ("First.", "Second.")), (leak(share="all"),), GATE)
        assert voided.name == "not_auditable"
        assert voided.reasons[0].startswith(
            "All of the audited patients, or their films, are in split finetune too: the model may"
        )
        assert voided.reasons[1:] == ("First.", "Second.")
        assert gates_of(voided) == {"gate.max_leaked_patients": False}
    failed = with_leaks(Verdict("fail", ("First.", "Second.")), (leak(),), GATE)
    assert failed.name == "fail"
    assert [reason.split()[0] for reason in failed.reasons] == ["First.", "Some", "Second."]


def test_leaks_up_to_the_gate_and_into_the_test_split_are_named_alone():
    verdict = Verdict("pass", ("First.",), (Gate("gate.max_gap", True, "x"),))
    gate = GATE.model_copy(update={"max_leaked_patients": 3})
    named = with_leaks(verdict, (leak(), leak("split test", 40, "most")), gate)
    assert named.name == "pass"
    assert named.reasons[2] == (
        "Most of the audited patients, or their films, are in split test too."
    )
    assert gates_of(named) == {"gate.max_gap": True, "gate.max_leaked_patients": True}
    assert with_leaks(verdict, (leak(patients=4),), gate).name == "not_auditable"
    assert with_leaks(verdict, (), gate) == verdict


def test_no_number_of_leaked_patients_stands_in_the_sentences():
    for patients in (1, 7, 30):
        told = with_leaks(Verdict("pass", ()), (leak(patients=patients),), GATE)
        assert not any(char.isdigit() for reason in told.reasons for char in reason)
