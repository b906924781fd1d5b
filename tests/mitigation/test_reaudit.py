"""What of the old correlations is left in the new model, and what is new."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ravl_med.discovery.candidates import FeatureDetector
from ravl_med.evidence.audit_result import Gate, Verdict
from ravl_med.evidence.results import ConfirmedFeature, Interval
from ravl_med.mitigation.verdict import compare_reaudit

PRESENT = np.tile([True, True, False, False], 25)
ELSEWHERE = np.tile([True, False, True, False], 25)  # phi of 0 with PRESENT


def feature(rank: int, raised: int) -> ConfirmedFeature:
    detector = FeatureDetector(np.eye(2, dtype=np.float32), 0, raised, None)
    return ConfirmedFeature(rank, "shortcut", True, detector)


def correlation(kind: str, raised: int, present: Any, *, counts: bool = True) -> Any:
    arms = SimpleNamespace(gap=np.array([0.4, 0.2, 0.1]), gap_interval=(Interval(0.3, 0.5),) * 3)
    return SimpleNamespace(
        rank=1,
        kind=kind,
        counts=counts,
        cluster=SimpleNamespace(raised_class=raised, present=present),
        confirmation=SimpleNamespace(arms=arms),
    )


def audit_of(*correlations: Any, gates: tuple[Gate, ...] = (), discovery: Any = True) -> Any:
    return SimpleNamespace(
        task=SimpleNamespace(classes=("a", "b", "c")),
        correlations=correlations,
        verdict=Verdict("review", (), gates),
        discovery=discovery,
        sensitivity=None,
    )


KNOWN = (feature(1, 0), feature(2, 1))


@pytest.mark.parametrize(
    ("found", "remaining", "appeared"),
    [
        (correlation("shortcut", 0, PRESENT), 1, 0),
        (correlation("undecided", 0, PRESENT), 1, 0),  # the same feature, whatever it is called
        (correlation("shortcut", 0, PRESENT, counts=False), 0, 0),
        (correlation("shortcut", 0, ELSEWHERE), 0, 1),  # other films
        (correlation("shortcut", 2, PRESENT), 0, 1),  # another class
        (correlation("plausible_sign", 0, ELSEWHERE), 0, 0),  # a sign is no shortcut
        (correlation("shortcut", 1, PRESENT), 0, 0),  # known before, and left alone
        (correlation("shortcut", 0, PRESENT[:50]), 0, 1),  # other films were read: not the same
    ],
)
def test_old_and_new(found: Any, remaining: int, appeared: int) -> None:
    present = np.column_stack([PRESENT, PRESENT])
    told = compare_reaudit(audit_of(found), KNOWN, KNOWN[:1], present)
    assert (len(told.remaining), len(told.appeared)) == (remaining, appeared)
    for line in (*told.remaining, *told.appeared):
        assert "+40 points (+30 to +50)" in line or "+10 points" in line


def test_an_audit_that_stopped_says_so() -> None:
    told = compare_reaudit(audit_of(), KNOWN, KNOWN, np.column_stack([PRESENT, PRESENT]))
    assert told.remaining == told.appeared == ()
    assert "was not measured" in told.detectable


@pytest.mark.parametrize(
    ("known", "searched"),
    [
        ({}, True),
        ({"discovery": None}, False),  # it ended before the search
        ({"gates": (Gate("gate.max_leaked_patients", True, "none"),)}, True),
        ({"gates": (Gate("gate.max_leaked_patients", False, "all"),)}, False),
        ({"gates": (Gate("gate.max_gap", False, "1 shortcut"),)}, True),
    ],
)
def test_what_was_no_test_is_not_taken_for_one(known: dict[str, Any], searched: bool) -> None:
    told = compare_reaudit(audit_of(**known), KNOWN, KNOWN, np.column_stack([PRESENT, PRESENT]))
    assert told.searched == searched
