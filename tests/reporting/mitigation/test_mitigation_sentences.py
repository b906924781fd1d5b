from dataclasses import replace

import mitigation_results as made
import numpy as np
import pytest

from ravl_med.evidence.mitigation_result import MitigatedCorrelation
from ravl_med.mitigation.verdict import compare_reaudit
from ravl_med.reporting.audit.sentences import verdict_name
from ravl_med.reporting.layout.drawings import epochs_text
from ravl_med.reporting.mitigation.report import (
    gone_sentence,
    mitigated_sentence,
    nothing_new,
    worsened_sentence,
)
from ravl_med.reporting.mitigation.tables import arm_kind, difference_text
from ravl_med.reporting.wording import NBSP, accuracy_text, score_text


def plain(text: str) -> str:
    return text.replace(NBSP, " ")


def test_measures_come_with_their_interval():
    assert plain(accuracy_text(0.812, made.Interval(0.76, 0.861))) == "81.2 % (76.0 to 86.1)"
    assert plain(score_text(0.912, made.Interval(0.88, 0.941))) == "0.912 (0.880 to 0.941)"
    assert accuracy_text(made.NAN, made.NOTHING) == "–"
    assert plain(accuracy_text(0.5, made.NOTHING)) == "50.0 %"


def test_a_difference_is_marked_where_its_interval_excludes_zero():
    assert plain(difference_text(made.change(0.5, 0.6, 0.05))) == "+10.0 (+6.0 to +14.0) *"
    assert plain(difference_text(made.change(0.5, 0.52, 0.05))) == "+2.0 (−2.0 to +6.0)"
    assert plain(difference_text(made.change(0.5, 0.4, 0.05), score=True)) == (
        "−0.100 (−0.140 to −0.060) *"
    )
    assert difference_text(made.change(0.5, made.NAN)) == "–"


def test_arms_are_told_apart():
    kinds = {arm.name: arm_kind(arm) for arm in made.arms()}
    assert kinds["before"] == "not changed"
    assert kinds["dfr"] == "published; head, trains no tower"
    assert kinds["ravl"] == "published; tower trained"
    assert kinds["counterfactual"] == "ours; tower trained"


def test_what_was_mitigated():
    entry = MitigatedCorrelation(2, "undecided", False, "a", "b", 3, 4, 5)
    assert mitigated_sentence(entry) == (
        "Correlation 2 of the audit, of undecided kind: with the feature the model tends to call "
        "films a, at the cost of b."
    )
    forced = mitigated_sentence(replace(entry, forced=True, lowered_class=None))
    assert forced.endswith("asks for it (mitigation.force).")
    assert "cost" not in forced
    unconfirmed = mitigated_sentence(replace(entry, forced=True, confirmed=False))
    assert "not confirmed on other patients or on the model, so it may be chance" in unconfirmed


@pytest.mark.parametrize(
    ("fallen", "sentence"),
    [
        ({}, "None of 2 measured classes, groups and subgroups has a lower accuracy than before."),
        (
            {"c": made.change(0.9, 0.5)},
            "1 of 3 measured classes, groups and subgroups has a lower accuracy than before; for "
            "1 of them the whole interval of the difference lies below zero.",
        ),
        (
            {"c": made.change(0.9, 0.899), "d": made.change(0.9, 0.898)},
            "2 of 4 measured classes, groups and subgroups have a lower accuracy than before; for "
            "none of them does the whole interval of the difference lie below zero.",
        ),
        (
            {"c": made.change(0.9, 0.5), "d": made.change(0.9, 0.5), "e": made.change(0.9, 0.89)},
            "3 of 5 measured classes, groups and subgroups have a lower accuracy than before; for "
            "2 of them the whole interval of the difference lies below zero.",
        ),
    ],
)
def test_how_many_got_worse(fallen, sentence):
    risen = {"a": made.change(0.5, 0.6), "b": made.change(0.5, made.NAN)}
    arm = replace(made.arms()[-1], classes=risen | fallen, groups={}, subgroups={})
    assert worsened_sentence(arm) == sentence


def test_the_epoch_that_was_kept_is_counted_from_one():
    curve = made.curve(6, 2, 0.5)
    assert epochs_text(curve) == "3 of 6"
    assert epochs_text(replace(curve, best=-1)) == "none of 6"


def test_what_is_hidden_of_a_correlation_is_not_said(full_result):
    nobody = np.zeros((len(full_result.image_ids), 0), dtype=bool)
    whole, few = (compare_reaudit(full_result, (), (), nobody, least) for least in (0, 11))
    assert whole.appeared[0].startswith("shortcut 1: raises cardiomegaly by +")
    assert few.appeared[0] == "shortcut 1: raises cardiomegaly, of few patients"
    assert len(whole.appeared) == len(few.appeared)


def test_whether_the_shortcut_is_gone():
    reaudit = made.improved().reaudit
    assert gone_sentence(reaudit).startswith("Gone: ")
    assert gone_sentence(replace(reaudit, remaining=("a", "b"))).startswith(
        "Not gone: 2 mitigated shortcuts found again"
    )
    assert gone_sentence(replace(reaudit, verdict="not_auditable")).startswith("Gone: ")
    ended = replace(reaudit, searched=False, appeared=())
    assert gone_sentence(ended).startswith("Not known: ")
    assert nothing_new(ended) == "Not known."
    assert nothing_new(replace(ended, searched=True)).startswith("Nothing: ")
    assert verdict_name("not_auditable") == "Not auditable"
    assert verdict_name("other") == "other"
