from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.evidence.audit_result import DetectableGap, Sensitivity
from ravl_med.evidence.results import Interval
from ravl_med.reporting import wording
from ravl_med.reporting.audit import sentences
from ravl_med.reporting.audit.history import AuditHistory

NAN = float("nan")


@pytest.mark.parametrize(
    ("given_text", "drawn"),
    [
        ("plain", "plain"),
        ("  two\n\nlines\t", "two lines"),
        ("bell\x07 and \u202eturn", "bell and turn"),
        ("e\u0301", "é"),
        ("肺炎", "U+80BA U+708E"),
        ("a肺b", "a U+80BA b"),
        ("אa", "U+05D0 a"),
        ("97\u00a0%", "97\u00a0%"),
        ("0\u00a0\u0345", "0 U+0345"),
        ("\ud800", "U+D800"),
        ("", ""),
    ],
)
def test_printable(given_text, drawn):
    assert wording.printable(given_text) == drawn


@given(st.text(max_size=200), st.integers(2, 60))
def test_printable_keeps_its_limit_and_its_alphabet(text, limit):
    drawn = wording.printable(text, limit)
    assert len(drawn) <= limit
    assert wording.printable(drawn, limit) == drawn
    assert not any(ord(char) < 32 for char in drawn)


def test_block_wraps_and_is_cut():
    assert wording.printable_block("a: 1\n  b: 22", 4, 9) == "a: 1\n  b:\n 22"
    assert wording.printable_block("x\n" * 9, 4, 2).splitlines()[2].startswith("… (cut here")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wording.percent(0.974), "97\u00a0%"),
        (wording.percent(0.974, 1), "97.4\u00a0%"),
        (wording.percent(NAN), "–"),
        (wording.number(-1.257), "−1.26"),
        (wording.number(-0.001), "0.00"),
        (wording.number(float("-inf")), "–"),
        (wording.signed(2.91, 1), "+2.9"),
        (wording.signed(-2.91, 1), "−2.9"),
        (wording.signed(0.001, 1), "0.0"),
        (wording.spread(Interval(-0.641, -0.48)), "−64 to −48"),
        (wording.spread(Interval(0.33, 0.49), sign=False), "33 to 49"),
        (wording.spread(Interval(NAN, 0.49)), "–"),
        (wording.plural(1, "film"), "1 film"),
        (wording.plural(1200, "class", "es"), "1,200 classes"),
        (wording.listing(["a", "b", "c"], 2), "a, b, and 1 more"),
    ],
)
def test_numbers(text, expected):
    assert text == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00049, "<\u00a00.001"),
        (0.0, "<\u00a00.001"),
        (0.001, "0.001"),
        (0.0314, "0.031"),
        (1.0, "1.000"),
        (NAN, "–"),
    ],
)
def test_probability(value, text):
    assert wording.probability(value) == text


@pytest.mark.parametrize(
    ("value", "bounds", "text"),
    [
        (0.56, (0.481, 0.632), "+56.0 (+48.1\u00a0to\u00a0+63.2)"),
        (-0.56, (-0.632, -0.481), "−56.0 (−63.2\u00a0to\u00a0−48.1)"),
        (0.56, (NAN, 0.632), "+56.0"),
        (NAN, (0.1, 0.2), "–"),
    ],
)
def test_estimate(value, bounds, text):
    assert wording.estimate(value, Interval(*bounds)) == text
    assert wording.estimate(value * 100, Interval(*(100 * b for b in bounds)), scale=1.0) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (13, "13th"),
     (21, "21st"), (112, "112th"), (1002, "1,002nd")],
)  # fmt: skip
def test_ordinal(count, text):
    assert wording.ordinal(count) == text


def test_class_names():
    assert (
        wording.class_names(("a", "b", "c", "d", ""), (3, 0, 4, 1)) == "d, a, class 5, and 1 more"
    )
    assert wording.class_names(("a",), ()) == "–"


@pytest.mark.parametrize(
    ("rank", "outcome", "used"),
    [
        (1, "shortcut", "yes"),
        (3, "confirmed, not shown to be used", "no"),
        (4, "one-sided", "no"),
        (5, "not confirmed", "not tested"),
        (6, "confirmed and used, not counted", "yes"),
        (7, "not tested", "not tested"),
    ],
)
def test_outcome(full_result, rank, outcome, used):
    entry, classes = full_result.correlations[rank - 1], full_result.task.classes
    assert sentences.outcome_text(entry) == outcome
    assert sentences.used_text(entry) == used
    assert sentences.correlation_heading(entry, classes) == (
        f"Correlation {rank}: {outcome} · raises cardiomegaly · lowers no finding, pleural effusion"
    )


def test_only_what_is_used_is_more_than_an_association(full_result):
    for entry in full_result.correlations:
        sentence = sentences.correlation_sentence(entry, full_result.task.classes)
        used = sentences.used_text(entry) == "yes"
        assert ("the model tends to call films cardiomegaly" in sentence) == used
        assert sentence.startswith("Accuracy differs between") == (not used)


def test_the_sentence_holds_the_numbers_of_held_out_patients(full_result):
    entry = full_result.correlations[0]
    arms = entry.confirmation.arms
    sentence = sentences.correlation_sentence(entry, full_result.task.classes)
    for c in (0, *entry.cluster.opposed_classes):
        assert wording.percent(float(arms.accuracy_present[c])) in sentence
        assert wording.percent(float(arms.accuracy_absent[c])) in sentence


def test_fills_that_disagree_and_decisions_that_stay_speak_against(full_result):
    entry, classes = full_result.correlations[0], full_result.task.classes
    tested, removal = entry.counterfactual, entry.counterfactual.removal
    removal = replace(
        removal,
        replaced=replace(removal.replaced, contrast=-0.3),
        both=replace(removal.both, decisions_interval=Interval(-0.1, 0.2)),
    )
    entry = replace(entry, strata=None, counterfactual=replace(tested, removal=removal))
    assert sentences.counter_evidence(entry, classes) == (
        "Counter-evidence: the two fills do not agree in sign."
    )
    weak = replace(
        removal,
        replaced=replace(
            removal.typical, interval=Interval(-0.02, 3.1), decisions_interval=Interval(-0.2, -0.1)
        ),
    )
    doubted = replace(entry, counterfactual=replace(tested, removal=weak))
    said = sentences.counter_evidence(doubted, classes).replace("\u00a0", " ")
    assert "removal (replaced) changes the score by" in said
    assert "(−0.02 to +3.10), not distinguished from 0" in said
    assert "decisions by" in said
    assert "(−20.0 to −10.0) points, the other way." in said
    clean = replace(full_result.correlations[0], strata=None)
    assert sentences.counter_evidence(clean, classes) == (
        "Counter-evidence: none in the measurements below."
    )


def test_what_the_maps_alone_were_asked_was_not_tested(full_result):
    entry = replace(full_result.correlations[2], labels=None)
    assert sentences.counter_evidence(entry, full_result.task.classes) == (
        "Counter-evidence: the model was not tested on the other half."
    )
    assert sentences.use_sentence(entry.counterfactual) == (
        "Used by the model: not shown. " + entry.counterfactual.reasons[0]
    )


@pytest.mark.parametrize(
    ("rank", "shown"), [(1, "removal and transplant"), (2, "transplant"), (6, "removal")]
)
def test_use_is_shown_by_what_showed_it(full_result, rank, shown):
    tested = full_result.correlations[rank - 1].counterfactual
    assert sentences.use_sentence(tested) == f"Used by the model: yes, shown by {shown}."
    assert sentences.use_sentence(None).startswith("Not tested whether the model uses it.")


def test_what_does_not_show_use_is_told_by_every_reason(full_result):
    tested = full_result.correlations[3].counterfactual
    sentence = sentences.use_sentence(tested)
    assert sentence.startswith("Used by the model: not shown. Removing it is not shown")
    assert all(reason in sentence for reason in tested.reasons)
    assert len(tested.reasons) == 2


@pytest.mark.parametrize(
    ("kind", "meaning"),
    [
        ("shortcut", "a shortcut, since it changes the answers to films that it is put into"),
        ("plausible_sign", "it goes with the finding and is not shown to have the sharp edges of a "
                           "thing, so that it is the sign itself, as far as can be told"),
        ("undecided", "it changes the answers to other films, as a shortcut does, and part of it "
                      "may lie where the finding shows, so whether this is a sign or a shortcut is "
                      "open; a radiologist has to look"),
    ],
)  # fmt: skip
def test_a_kind_is_told_with_the_place_of_the_effect(full_result, kind, meaning):
    entry, classes = replace(full_result.correlations[0], kind=kind), full_result.task.classes
    where = (
        "92 % of the effect of removal comes from artifacts, 3 % from anatomy where cardiomegaly "
        "shows, 5 % from elsewhere"
    )
    told = sentences.kind_sentence(entry, classes).replace("\u00a0", " ")
    assert told == f"{where}: {meaning}."
    silent = sentences.kind_sentence(replace(entry, counts=False), classes)
    assert silent.replace("\u00a0", " ") == f"{where}."


def test_what_lies_where_lowered_classes_show_is_said(full_result):
    entry = full_result.correlations[0]
    removal = entry.counterfactual.removal
    removal = replace(removal, shares=replace(removal.shares, lowered=0.02))
    entry = replace(entry, counterfactual=replace(entry.counterfactual, removal=removal))
    entry = replace(entry, kind="plausible_sign")
    said = sentences.kind_sentence(entry, full_result.task.classes).replace("\u00a0", " ")
    assert " from elsewhere (2 % where lowered classes show): " in said
    assert said.endswith(
        "so that it is the sign itself, or the lack of a lowered class, as far as can be told."
    )


@pytest.mark.parametrize(
    ("low", "lowered", "why"),
    [
        (0.7, 0.8, "it is sharp, as a thing is, and is not shown to change the answers to other"),
        (0.5, 0.8, "it lies where the finding or a lowered class shows, and does not go with"),
        (0.5, 0.3, "it does not lie where the finding shows, and is not shown to change"),
    ],
)
def test_what_keeps_a_place_of_a_lowered_class_from_being_a_sign(full_result, low, lowered, why):
    entry = replace(full_result.correlations[0], kind="undecided")
    removal = entry.counterfactual.removal
    shares = replace(removal.shares, inside=0.1, artifact=0.0, lowered=lowered)
    removal = replace(removal, shares=shares, sharper=0.8, sharper_interval=Interval(low, 0.9))
    tested = replace(entry.counterfactual, removal=removal, shown_by=("removal",))
    said = sentences.kind_sentence(replace(entry, counterfactual=tested), full_result.task.classes)
    assert f": {why}" in said


def test_a_sign_that_stays_where_it_is_is_told_so(full_result):
    entry = replace(full_result.correlations[0], kind="plausible_sign")
    tested = entry.counterfactual
    removal = replace(tested.removal, both=tested.transplant)
    tested = replace(tested, removal=removal, shown_by=("removal",))
    stays = replace(entry, counterfactual=tested)
    told = sentences.kind_sentence(stays, full_result.task.classes)
    assert "it goes with the finding and is not shown to raise it in other films, so that" in told


def test_anatomy_that_does_not_go_with_the_finding_is_not_said_to(full_result):
    entry = replace(full_result.correlations[0], kind="plausible_sign")
    tested, arms = entry.counterfactual, entry.confirmation.arms
    alike = np.full(len(arms.n_present), 20)
    entry = replace(
        entry,
        confirmation=replace(
            entry.confirmation, arms=replace(arms, n_present=alike, n_absent=alike)
        ),
        counterfactual=replace(
            tested,
            shown_by=("removal",),
            removal=replace(tested.removal, both=replace(tested.transplant, contrast=9.0)),
        ),
    )
    told = sentences.kind_sentence(entry, full_result.task.classes)
    assert told.endswith(
        ": it does less in other films than in its own and is not shown to have the sharp edges of "
        "a thing, so that it is their anatomy, as far as can be told."
    )


def test_a_sign_of_a_finding_with_edges_is_not_said_to_have_none(full_result):
    entry = replace(full_result.correlations[0], kind="plausible_sign")
    removal = entry.counterfactual.removal
    shares = replace(removal.shares, edges=True)
    removal = replace(removal, shares=shares, sharper_interval=Interval(0.7, 0.9))
    shown = replace(entry, counterfactual=replace(entry.counterfactual, removal=removal))
    told = sentences.kind_sentence(shown, full_result.task.classes)
    assert "goes with the finding, which has sharp edges itself, so that it is the sign" in told


@pytest.mark.parametrize(
    ("edges", "why"),
    [(False, "sharp as a thing is"), (True, "and is not shown to go with it")],
)
def test_what_is_sharp_where_the_finding_shows_is_told_so(full_result, edges, why):
    entry = replace(full_result.correlations[0], kind="undecided")
    tested = entry.counterfactual
    shares = replace(tested.removal.shares, inside=0.9, artifact=0.1, edges=edges)
    removal = replace(tested.removal, shares=shares, sharper_interval=Interval(0.7, 0.9))
    shown = replace(entry, counterfactual=replace(tested, removal=removal))
    told = sentences.kind_sentence(shown, full_result.task.classes)
    assert (
        "changes the answers to other films, as a shortcut does, and lies where the finding shows, "
        f"{why}, so" in told
    )


@pytest.mark.parametrize(
    ("inside", "artifact", "travels", "why"),
    [
        (
            0.9,
            0.1,
            True,
            "it changes the answers to other films, as a shortcut does, and lies where the finding",
        ),
        (
            0.1,
            0.2,
            True,
            "it changes the answers to other films, as a shortcut does, and no artifact is known",
        ),
        (
            0.2,
            0.7,
            True,
            "it changes the answers to other films, as a shortcut does, and part of it may lie",
        ),
        (0.9, 0.1, False, "it lies where the finding shows, and does not go with the finding"),
        (0.1, 0.9, False, "it does not lie where the finding shows, and is not shown to change"),
        (0.1, 0.9, None, "it could not be put into other films"),
        (NAN, NAN, True, "its place says nothing"),
    ],
)
def test_it_is_told_why_a_used_feature_is_undecided(full_result, inside, artifact, travels, why):
    entry = replace(full_result.correlations[0], kind="undecided")
    tested = entry.counterfactual
    shares = replace(tested.removal.shares, inside=inside, artifact=artifact)
    tested = replace(
        tested,
        removal=replace(tested.removal, shares=shares),
        transplant=None if travels is None else tested.transplant,
        shown_by=("removal", "transplant") if travels else ("removal",),
    )
    told = sentences.kind_sentence(replace(entry, counterfactual=tested), full_result.task.classes)
    assert f": {why}" in told
    assert told.endswith("is open; a radiologist has to look.")


def sensitivity(*gaps):
    shares = (0.05, 0.1, 0.2, 0.5)
    detectable = tuple(DetectableGap(p, g, 0.5) for p, g in zip(shares, gaps, strict=True))
    return Sensitivity(0.8, 200, 3, detectable, 20, 20, {})


def test_what_could_have_been_seen():
    both = sentences.detectable_sentences(sensitivity(NAN, NAN, NAN, 0.3))
    assert [text.replace("\u00a0", " ") for text in both] == [
        "A feature in 50 % of the films with a gap of 30 points or more would have been found with "
        "80 % probability.",
        "A feature in 5 % or 10 % or 20 % of the films may have been missed, however large its "
        "gap.",
    ]
    assert len(sentences.detectable_sentences(sensitivity(0.5, 0.4, 0.3, 0.2))) == 1
    assert len(sentences.detectable_sentences(sensitivity(NAN, NAN, NAN, NAN))) == 1


def test_an_audit_under_the_same_settings_says_that_nothing_changed():
    sentence = sentences.history_sentence(AuditHistory(2, (), (), {"pass": 1}))
    assert sentence == (
        "This is the 2nd audit of this model on these films; changed since the last: nothing; "
        "earlier verdicts: 1 pass."
    )


def test_harm_is_counted_in_films_or_in_rates_where_counts_are_hidden(full_result):
    entry = full_result.correlations[0]
    told = sentences.harm_sentence(full_result, entry)
    assert told.startswith(
        "Of 8 films of no finding with it, 2 were called right; without it, 15 of 17."
    )
    hidden = sentences.harm_sentence(replace(full_result, hidden_below=11), entry)
    assert hidden.replace("\u00a0", " ").startswith(
        "Of 8 films of no finding with it, 30 % were called right; without it, 87 % of 17."
    )


@pytest.mark.parametrize(
    ("described", "name"),
    [
        ("92 % pulse generator; 85 % left lung", "a pulse generator"),
        ("92 % ECG leads; 85 % left lung", "ECG leads"),
        ("60 % pulse generator (right in 83 %); x", "a pulse generator"),
        ("85 % left upper lung zone", "a feature over the left upper lung zone"),
        ("bright, round, 12 mm; 40 % right lung", "a bright, round spot 12 mm across"),
        ("dark, 100 mm; all over the picture", "a dark area 100 mm across"),
        ("bright, long and thin, 60 mm", "a bright line 60 mm long"),
        ("dark, in pieces", "a dark spot in pieces"),
        ("long and thin, 20 % of the film's width", "a line 20 % of the film's width long"),
        ("bright, 8 % of the film's width", "a bright area 8 % of the film's width across"),
        ("44 % in the upper left of the picture", "feature 1"),
        ("all over the picture", "feature 1"),
        ("", "feature 1"),
    ],
)
def test_a_feature_is_called_by_its_name_its_look_or_its_number(full_result, described, name):
    entry = full_result.correlations[0]
    result = replace(full_result, descriptions={entry.cluster.cluster: described})
    assert sentences.feature_name(result, entry) == name
