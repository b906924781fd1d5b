"""The tables of a mitigation report: every arm, and the delivered arm class by class.

What a number was before stands beside it with its own interval, that of the audited model on the
same films.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ravl_med.evidence.mitigation_result import ArmOutcome, Change, MitigationResult
from ravl_med.evidence.results import UNKNOWN, Interval
from ravl_med.reporting import wording
from ravl_med.reporting.layout.blocks import Column, Lines, Table, columns
from ravl_med.reporting.layout.drawings import epochs_text
from ravl_med.reporting.tables import paired_columns, paired_row

_ENDED = {
    "budget": "after its last epoch",
    "early": "early, no more gain",
    "diverged": "it diverged",
}
_SIDES = {"raised": "raised by it", "lowered": "lowered by it"}
_SURE = f"{wording.NBSP}*"
_SURE_NOTE = "* the interval of the difference excludes zero."
_NAMES = {"before": "Before", "after": "After", "difference": "Difference, points (interval)"}


def difference_text(change: Change, *, score: bool = False) -> str:
    """Return the difference to the audited model with its interval, marked where it is sure.

    A score is printed with three decimals and not in points.
    """
    decimals, scale = (3, 1.0) if score else (1, 100.0)
    text = wording.estimate(change.difference, change.difference_interval, decimals, scale=scale)
    return text + (_SURE if change.difference_interval.excludes_zero() else "")


def arm_kind(arm: ArmOutcome) -> str:
    """Say what an arm is: audited, published or ours, whether it trains a tower."""
    if arm.role == "before":
        return "not changed"
    whose = "published" if arm.published else "ours"
    kind = "head, trains no tower" if arm.role == "head" else "tower trained"
    return f"{whose}; {kind}"


def _audited_intervals(result: MitigationResult) -> dict[str, Interval]:
    """Intervals of the audited model by what is measured, under the names that `worsened` gives."""
    arm = next((arm for arm in result.arms if arm.role == "before"), None)
    if arm is None:
        return {}
    named = {
        "image_overall": arm.image_overall,
        "image_worst": arm.image_worst,
        **{f"gap {place}": entry.gap for place, entry in enumerate(arm.gaps)},
        **{f"class {name}": change for name, change in arm.classes.items()},
        **arm.groups,
        **{f"{axis} {value}": change for (axis, value), change in arm.subgroups.items()},
    }
    return {name: change.interval for name, change in named.items()}


def _changes_table(
    result: MitigationResult,
    caption: str,
    head: str,
    changes: Iterable[tuple[str, str, Change]],
    note: str,
    *,
    signed: bool = False,
    films: bool = True,
) -> Table:
    """Return measures before and after: what it is called, its name at `worsened`, the change."""
    audited = _audited_intervals(result)
    unit = ", points (interval)" if signed else " (interval)"
    rows = [
        paired_row(
            wording.printable(name, 90) or wording.DASH,
            f"{change.films:,}" if films else None,
            (
                ("before", change.before, audited.get(key, UNKNOWN)),
                ("after", change.after, change.interval),
            ),
            difference_text(change),
            signed=signed,
        )
        for name, key, change in changes
    ]
    heads = paired_columns(head, _NAMES, unit, films=films, signed=signed)
    return Table(caption, heads, rows, note)


def before_after_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return the accuracy of an arm on the worst group and on all films, of the whole film."""
    return _changes_table(
        result,
        "Accuracy on the final test, before and after",
        "Measure",
        (
            ("Worst group", "image_worst", arm.image_worst),
            ("All films", "image_overall", arm.image_overall),
        ),
        f"Answers to the whole film; {wording.plural(arm.image_overall.films, 'film')}. Intervals "
        "by patient. Worst group: the lowest accuracy among the classes with and without the "
        f"feature. {_SURE_NOTE}",
        films=False,
    )


def gap_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return the gap of each mitigated class with minus without the feature, before and after."""
    sides = [
        entry.rank
        for entry in result.mitigated
        for name in (entry.raised_class, entry.lowered_class)
        if name is not None
    ]
    ranks = [f"{rank}: " for rank in sides] if len(sides) == len(arm.gaps) else [""] * len(arm.gaps)
    return _changes_table(
        result,
        "Gap of accuracy: films with minus films without the feature",
        "Correlation: class" if sides else "Class",
        (
            (f"{rank}{entry.class_name}, {_SIDES[entry.side]}", f"gap {place}", entry.gap)
            for place, (rank, entry) in enumerate(zip(ranks, arm.gaps, strict=True))
        ),
        "A gap of 0 means that the feature makes no difference. A shortcut gives a positive gap "
        f"to the class that it raises and a negative one to the class that it lowers. {_SURE_NOTE}",
        signed=True,
    )


def worsened_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return every class, group and subgroup that got worse, the worst first; none is left out."""
    table = _changes_table(
        result,
        "What got worse, all of it, the worst first",
        "Class, group or subgroup",
        ((name, name, change) for name, change in arm.worsened()),
        "Surely: the whole interval of the difference lies below zero (*). Intervals are not "
        "corrected for the number of rows.",
    )
    surely = ["✗ yes" if change.fell_surely() else "no" for _, change in arm.worsened()]
    rows = [(*row[:-1], text) for row, text in zip(table.rows, surely, strict=True)]
    return replace(table, columns=[*table.columns[:-1], Column("Surely", "status")], rows=rows)


def part_tables(result: MitigationResult, arm: ArmOutcome) -> list[Table]:
    """Return the accuracy of each class, group and subgroup, before and after."""
    classes = [(name, f"class {name}", change) for name, change in arm.classes.items()]
    groups = [(name, name, change) for name, change in arm.groups.items()]
    subgroups = [
        (f"{axis}: {value}", f"{axis} {value}", change)
        for (axis, value), change in arm.subgroups.items()
    ]
    features = f"With several features, “with” means with any of them. {_SURE_NOTE}"
    caption = "By group: class, with and without the feature"
    tables = [
        _changes_table(result, "By class", "Class", classes, _SURE_NOTE),
        _changes_table(result, caption, "Group", groups, features),
        _changes_table(result, "By subgroup", "Attribute and value", subgroups, _SURE_NOTE),
    ]
    return tables if subgroups else tables[:2]


def _arm_cell(arm: ArmOutcome) -> Lines:
    marks = ["DELIVERED"] if arm.delivered else []
    return Lines(
        (wording.printable(arm.title, 60) or wording.DASH, arm_kind(arm), *marks),
        strong=arm.delivered,
    )


def _measure(change: Change, arm: ArmOutcome, *, score: bool = False) -> Lines:
    write = wording.score_text if score else wording.accuracy_text
    value = write(change.after, change.interval)
    if arm.role == "before" or value == wording.DASH:
        return Lines((value,))
    return Lines((value, difference_text(change, score=score)))


def accuracy_table(result: MitigationResult) -> Table:
    """Return the accuracies of all arms, each with its difference to the audited model."""
    heads = (
        "Whole film, all films",
        "Whole film, worst group",
        "Regions, all films",
        "Regions, worst group",
    )
    return Table(
        caption="Accuracy of every arm",
        columns=(Column("Arm", "wide"), *columns("interval", *heads)),
        rows=[
            (
                _arm_cell(arm),
                _measure(arm.image_overall, arm),
                _measure(arm.image_worst, arm),
                _measure(arm.region_overall, arm),
                _measure(arm.region_worst, arm),
            )
            for arm in result.arms
        ],
        note="First line: the value (interval). Second line: the difference to the audited model, "
        f"in points (interval); {_SURE_NOTE} {wording.DASH}: not measured; a head has no regions "
        "of its own.",
    )


def score_table(result: MitigationResult) -> Table:
    """Return discrimination and calibration of all arms."""
    heads = ("Arm", "AUROC, higher is better", "Calibration error, lower is better")
    return Table(
        caption="Discrimination and calibration of every arm",
        columns=columns("wide", *heads),
        rows=[
            (
                _arm_cell(arm),
                _measure(arm.auroc, arm, score=True),
                _measure(arm.calibration, arm, score=True),
            )
            for arm in result.arms
        ],
        note="Both between 0 and 1. AUROC: mean over the classes, one against the rest. "
        "Calibration error: mean distance of the model's confidence from its share of right "
        f"answers. Second line: the difference to the audited model (interval); {_SURE_NOTE}",
    )


def curve_table(result: MitigationResult) -> Table:
    """Return how each training went, in numbers."""
    rows = []
    for arm in result.arms:
        curve = arm.curve
        if curve is None:
            continue
        kept = 0 <= curve.best < min(len(curve.worst_group), len(curve.overall))
        losses = [wording.number(loss, 3) for loss in (*curve.losses[:1], *curve.losses[-1:])]
        rows.append(
            (
                _arm_cell(arm),
                epochs_text(curve),
                " to ".join(losses) or wording.DASH,
                wording.percent(curve.worst_group[curve.best], 1) if kept else wording.DASH,
                wording.percent(curve.overall[curve.best], 1) if kept else wording.DASH,
                _ENDED[curve.stopped],
                f"{curve.steps:,}",
                f"{curve.seconds:,.0f}{wording.NBSP}s",
            )
        )
    return Table(
        caption="Every training in numbers",
        columns=(
            Column("Arm", "wide"),
            Column("Kept epoch"),
            Column("Loss, first to last"),
            Column("Worst group there"),
            Column("All films there"),
            Column("It ended"),
            Column("Steps", "number"),
            Column("Time", "number"),
        ),
        rows=rows,
        note="Accuracies on the selection films, which chose the epoch: they are no estimate of "
        "how well a model does and have no interval. That is what the final test is for.",
    )
