"""The tables of a mitigation report: every arm, and the delivered arm class by class.

What a number was before stands beside it with its own interval, that of the audited model on the
same films.
"""

from __future__ import annotations

from ravl_med.evidence.claims import Interval
from ravl_med.evidence.mitigation_result import ArmOutcome, Change, MitigationResult
from ravl_med.reporting.layout.blocks import Cell, Dot, DotLook, Dots, Lines, Scale, Sized, Table
from ravl_med.reporting.layout.learning_curves import epochs_words
from ravl_med.reporting.mitigation.words import (
    ENDED_WORDS,
    accuracy_words,
    arm_kind,
    difference_words,
    score_words,
)
from ravl_med.reporting.wording import DASH, NBSP, estimate, number, percent, plural, printable

__all__ = [
    "SURE_NOTE",
    "accuracy_table",
    "before_after_dots",
    "before_after_table",
    "class_table",
    "curve_table",
    "gap_table",
    "group_table",
    "score_table",
    "subgroup_table",
    "worsened_table",
]

SURE_NOTE = "* the interval of the difference excludes zero."
_NOTHING = Interval(float("nan"), float("nan"))
_BEFORE, _AFTER = "Before (interval)", "After (interval)"
_DIFFERENCE = "Difference, points (interval)"
_SIDE_WORDS = {"raised": "raised by it", "lowered": "lowered by it"}
_MARKS: tuple[tuple[str, DotLook], ...] = (("before", "before"), ("after", "main"))


def _audited(result: MitigationResult) -> ArmOutcome | None:
    """Return the arm of the audited model, whose own intervals are those of `before`."""
    return next((arm for arm in result.arms if arm.role == "before"), None)


def _intervals(arm: ArmOutcome | None) -> dict[str, Interval]:
    """Intervals of an arm by what is measured, under the names that `worsened` gives."""
    if arm is None:
        return {}
    named = {
        "image_overall": arm.image_overall,
        "image_worst": arm.image_worst,
        "region_overall": arm.region_overall,
        "region_worst": arm.region_worst,
        **{f"gap {place}": entry.gap for place, entry in enumerate(arm.gaps)},
        **{f"class {name}": change for name, change in arm.classes.items()},
        **arm.groups,
        **{f"{axis} {value}": change for (axis, value), change in arm.subgroups.items()},
    }
    return {name: change.interval for name, change in named.items()}


def _row(
    name: str, change: Change, before: Interval, *, films: bool = True, signed: bool = False
) -> tuple[Cell, ...]:
    """Name, films, before, after, difference, and the dots of all that."""
    words = estimate if signed else accuracy_words
    return (
        printable(name, 90) or DASH,
        *([f"{change.films:,}"] if films else []),
        words(change.before, before),
        words(change.after, change.interval),
        difference_words(change),
        before_after_dots(change, before, signed=signed),
    )


def before_after_dots(change: Change, before: Interval, *, signed: bool = False) -> Dots:
    """Return what a number was, with its own interval, above what it is."""
    return Dots(
        (
            Dot("before", change.before, before, "before"),
            Dot("after", change.after, change.interval, "main"),
        ),
        signed,
        height=15.0,
    )


def _columns(head: str, *, signed: bool = False) -> tuple[Sized, ...]:
    unit = ", points" if signed else ""
    return (
        Sized(head, 0.2),
        Sized("Films", 0.065, right=True),
        Sized(_BEFORE.replace(" (", f"{unit} ("), 0.18),
        Sized(_AFTER.replace(" (", f"{unit} ("), 0.18),
        Sized(_DIFFERENCE, 0.215),
        Sized(Scale(_MARKS, signed), 0.16),
    )


def before_after_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return the accuracy of the worst group and of all films, of the whole film.

    Parameters
    ----------
    result : MitigationResult
    arm : ArmOutcome - the delivered one
    """
    before = _intervals(_audited(result))
    named = (
        ("Worst group", "image_worst", arm.image_worst),
        ("All films", "image_overall", arm.image_overall),
    )
    return Table(
        caption="Accuracy on the final test, before and after",
        columns=(
            Sized("Measure", 0.13),
            Sized(_BEFORE, 0.18),
            Sized(_AFTER, 0.18),
            Sized(_DIFFERENCE, 0.22),
            Sized(Scale(_MARKS), 0.29),
        ),
        rows=tuple(
            _row(name, change, before.get(key, _NOTHING), films=False)
            for name, key, change in named
        ),
        note=f"Answers to the whole film; {plural(arm.image_overall.films, 'film')}. Intervals by "
        "patient. Worst group: the lowest accuracy among the classes with and without the feature. "
        f"{SURE_NOTE}",
    )


def _arm_cell(arm: ArmOutcome) -> Lines:
    marks = ["DELIVERED"] if arm.delivered else []
    return Lines((printable(arm.title, 60) or DASH, arm_kind(arm), *marks), strong=arm.delivered)


def _measure(change: Change, arm: ArmOutcome, *, score: bool = False) -> Lines:
    words = score_words if score else accuracy_words
    value = words(change.after, change.interval)
    if arm.role == "before" or value == DASH:
        return Lines((value,))
    return Lines((value, difference_words(change, score=score)))


def accuracy_table(result: MitigationResult) -> Table:
    """Return the accuracies of all arms, each with its difference to the audited model."""
    share = 0.2
    return Table(
        caption="Accuracy of every arm",
        columns=(
            Sized("Arm", 1 - 4 * share),
            Sized("Whole film, all films", share),
            Sized("Whole film, worst group", share),
            Sized("Regions, all films", share),
            Sized("Regions, worst group", share),
        ),
        rows=tuple(
            (
                _arm_cell(arm),
                _measure(arm.image_overall, arm),
                _measure(arm.image_worst, arm),
                _measure(arm.region_overall, arm),
                _measure(arm.region_worst, arm),
            )
            for arm in result.arms
        ),
        note="First line: the value (interval). Second line: the difference to the audited model, "
        f"in points (interval); {SURE_NOTE} {DASH}: not measured; a head has no regions of its "
        "own.",
    )


def score_table(result: MitigationResult) -> Table:
    """Return discrimination and calibration of all arms."""
    return Table(
        caption="Discrimination and calibration of every arm",
        columns=(
            Sized("Arm", 0.4),
            Sized("AUROC, higher is better", 0.3),
            Sized("Calibration error, lower is better", 0.3),
        ),
        rows=tuple(
            (
                _arm_cell(arm),
                _measure(arm.auroc, arm, score=True),
                _measure(arm.calibration, arm, score=True),
            )
            for arm in result.arms
        ),
        note="Both between 0 and 1. AUROC: mean over the classes, one against the rest. "
        "Calibration error: mean distance of the model's confidence from its share of right "
        f"answers. Second line: the difference to the audited model (interval); {SURE_NOTE}",
    )


def gap_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return the gap of each mitigated class with minus without the feature, before and after."""
    before = _intervals(_audited(result))
    sides = [
        entry.rank
        for entry in result.mitigated
        for name in (entry.raised_class, entry.lowered_class)
        if name is not None
    ]
    ranks = [f"{rank}: " for rank in sides] if len(sides) == len(arm.gaps) else [""] * len(arm.gaps)
    return Table(
        caption="Gap of accuracy: films with minus films without the feature",
        columns=_columns("Correlation: class" if sides else "Class", signed=True),
        rows=tuple(
            _row(
                f"{rank}{entry.class_name}, {_SIDE_WORDS[entry.side]}",
                entry.gap,
                before.get(f"gap {place}", _NOTHING),
                signed=True,
            )
            for place, (rank, entry) in enumerate(zip(ranks, arm.gaps, strict=True))
        ),
        note="A gap of 0 means that the feature makes no difference. A shortcut gives a positive "
        f"gap to the class that it raises and a negative one to the class that it lowers. "
        f"{SURE_NOTE}",
    )


def class_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return the accuracy of each class, before and after."""
    before = _intervals(_audited(result))
    return Table(
        caption="By class",
        columns=_columns("Class"),
        rows=tuple(
            _row(name, change, before.get(f"class {name}", _NOTHING))
            for name, change in arm.classes.items()
        ),
        note=SURE_NOTE,
    )


def group_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return the accuracy of each class with and without the feature, before and after."""
    before = _intervals(_audited(result))
    return Table(
        caption="By group: class, with and without the feature",
        columns=_columns("Group"),
        rows=tuple(
            _row(name, change, before.get(name, _NOTHING)) for name, change in arm.groups.items()
        ),
        note=f"With several features, “with” means with any of them. {SURE_NOTE}",
    )


def subgroup_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return the accuracy of each value of each attribute, before and after."""
    before = _intervals(_audited(result))
    return Table(
        caption="By subgroup",
        columns=_columns("Attribute and value"),
        rows=tuple(
            _row(f"{axis}: {value}", change, before.get(f"{axis} {value}", _NOTHING))
            for (axis, value), change in arm.subgroups.items()
        ),
        note=SURE_NOTE,
    )


def worsened_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return every class, group and subgroup that got worse, the worst first; none is left out."""
    before = _intervals(_audited(result))
    return Table(
        caption="What got worse, all of it, the worst first",
        columns=(
            Sized("Class, group or subgroup", 0.27),
            Sized("Films", 0.065, right=True),
            Sized(_BEFORE, 0.18),
            Sized(_AFTER, 0.18),
            Sized(_DIFFERENCE, 0.22),
            Sized("Surely", 0.085),
        ),
        rows=tuple(
            (
                *_row(name, change, before.get(name, _NOTHING))[:-1],
                "✗ yes" if change.fell_surely() else "no",
            )
            for name, change in arm.worsened()
        ),
        note="Surely: the whole interval of the difference lies below zero (*). Intervals are not "
        "corrected for the number of rows.",
    )


def curve_table(result: MitigationResult) -> Table:
    """Return how each training went, in numbers."""
    rows = []
    for arm in result.arms:
        curve = arm.curve
        if curve is None:
            continue
        kept = 0 <= curve.best < min(len(curve.worst_group), len(curve.overall))
        losses = [number(loss, 3) for loss in (*curve.losses[:1], *curve.losses[-1:])]
        rows.append(
            (
                _arm_cell(arm),
                epochs_words(curve),
                " to ".join(losses) or DASH,
                percent(curve.worst_group[curve.best], 1) if kept else DASH,
                percent(curve.overall[curve.best], 1) if kept else DASH,
                ENDED_WORDS[curve.stopped],
                f"{curve.steps:,}",
                f"{curve.seconds:,.0f}{NBSP}s",
            )
        )
    return Table(
        caption="Every training in numbers",
        columns=(
            Sized("Arm", 0.25),
            Sized("Kept epoch", 0.09),
            Sized("Loss, first to last", 0.13),
            Sized("Worst group there", 0.11),
            Sized("All films there", 0.1),
            Sized("It ended", 0.14),
            Sized("Steps", 0.08, right=True),
            Sized("Time", 0.1, right=True),
        ),
        rows=tuple(rows),
        note="Accuracies on the selection films, which chose the epoch: they are no estimate of "
        "how well a model does and have no interval. That is what the final test is for.",
    )
