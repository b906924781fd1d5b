"""What may be told of the labels behind a correlation: few patients are hidden, as everywhere.

Cells of a row that may not be told when its total is (complementary suppression).

What may be told of a correlation inside strata: few patients are hidden, as everywhere.

What a report may tell of few patients: counts of them are hidden, and what would tell them.

A cell is a number of patients of one kind, such as men, or films of a class with a feature. One
below the least is hidden, with its films, rates and intervals. Where the total of a row of cells is
told, hiding one tells it: the next smallest are hidden as well, until at least two are, which
together hold at least that many patients (complementary suppression). Nothing is hidden of why
files of the manifest were not taken, since that is said of files, nor of an empty cell.

References
----------
CMS cell size suppression policy (cells of 1 to 10 are not shown, nor what they follow from);
Hundepool et al., "Statistical Disclosure Control" (2012), chapter 4 (secondary suppression).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.evidence.audit_result import (
    Accuracy,
    AuditResult,
    CohortSummary,
    ModelChecks,
    Stratum,
)
from ravl_med.evidence.results import (
    AccuracyByPresence,
    Confirmation,
    Counterfactual,
    CrossedAttribute,
    Interval,
    LabelQuality,
    LabelShare,
    PairedChange,
    SpuriousCorrelation,
    StatedGap,
    StratumGap,
)
from ravl_med.labelling.film_labels import STATED

HIDDEN = -1
"""Stands for a count that is not told; rates that belong to it are NaN."""


def hidden_cells(counts: Sequence[int], least: int, forced: Collection[int] = ()) -> frozenset[int]:
    """Return the cells of a row that may not be told when its total is.

    Parameters
    ----------
    counts : sequence of int - patients of each cell
    least : int - smallest count that may be told; 0 is always told
    forced : collection of int - positions that are hidden whatever they count

    Returns
    -------
    frozenset of int - positions; none, or at least two which hold at least `least`, or every cell
        that is not empty
    """
    hidden = {at for at, count in enumerate(counts) if 0 < count < least or at in forced}
    if not hidden:
        return frozenset()
    others = sorted(
        (at for at, count in enumerate(counts) if count and at not in hidden),
        key=lambda at: (counts[at], at),
    )
    for at in others:
        if len(hidden) >= 2 and sum(counts[cell] for cell in hidden) >= least:
            break
        hidden.add(at)
    return frozenset(hidden)


_NAN = math.nan
_NOTHING = Interval(_NAN, _NAN)


def hide_label_cells(
    labels: LabelQuality,
    least: int,
    values: Mapping[str, Collection[str]],
    sides: tuple[bool, bool],
    *,
    totals: bool,
) -> LabelQuality:
    """Return what may be told of the labels behind a correlation.

    Parameters
    ----------
    least : int - smallest number of patients that may be told
    values : mapping of attribute to collection of str - values that the table of audited films
        hides; ``"label source"`` and ``"label certainty"`` are looked at
    sides : tuple of bool - nothing may be told of the raised class; of an opposed one
    totals : bool - how many films hold the feature may not be told

    Returns
    -------
    LabelQuality - without its patients
    """
    sources = _rows(labels.sources, least, values.get("label source", ()), everything=totals)
    certainty = _rows(labels.certainty, least, values.get("label certainty", ()), everything=totals)
    told = not any(row.value == STATED and row.n_present == HIDDEN for row in certainty)
    # Counts of stated films by side would tell the hidden count of all of them.
    gaps = _hidden_sides(labels, least, sides) if told else frozenset((0, 1))
    if told:
        labels = replace(labels, not_stated=replace(labels.not_stated, patients=None))
    else:
        labels = replace(
            labels, not_stated=_hide(labels.not_stated), difference=_NAN, interval=_NOTHING
        )
    return replace(
        labels,
        n_present=HIDDEN if totals else labels.n_present,
        n_absent=HIDDEN if totals else labels.n_absent,
        sources=sources,
        certainty=certainty,
        raised=_gap(labels.raised) if 0 in gaps else labels.raised,
        lowered=_gap(labels.lowered) if 1 in gaps and labels.lowered else labels.lowered,
        patients=None,
    )


def _rows(
    rows: tuple[LabelShare, ...], least: int, forced: Collection[str], *, everything: bool
) -> tuple[LabelShare, ...]:
    """Hide kinds with few patients on either side of the feature, and what would tell them."""
    told = [row.patients or (row.n_present, row.n_absent) for row in rows]
    hidden = frozenset(at for at, row in enumerate(rows) if everything or row.value in forced)
    for _ in range(2):  # what one arm hides, the other hides
        for arm in (0, 1):
            hidden |= hidden_cells([pair[arm] for pair in told], least, hidden)
    return tuple(
        _hide(row) if at in hidden and any(told[at]) else replace(row, patients=None)
        for at, row in enumerate(rows)
    )


def _hide(row: LabelShare) -> LabelShare:
    if row.n_present == row.n_absent == 0:  # nobody is told of by an empty cell
        return replace(row, patients=None)
    return LabelShare(row.value, HIDDEN, HIDDEN, _NAN, _NAN)


def _gap(gap: StatedGap) -> StatedGap:
    return StatedGap(HIDDEN, HIDDEN, _NAN, _NOTHING, "hidden")


def _hidden_sides(labels: LabelQuality, least: int, sides: tuple[bool, bool]) -> frozenset[int]:
    """Find the sides, 0 raised and 1 lowered, whose stated films may not be told.

    The stated films of all are told, and so are the films of a class: what is left of either row
    follows from it.
    """
    hidden = frozenset(side for side in (0, 1) if sides[side])
    cells: NDArray[np.int64] = (
        labels.patients if labels.patients is not None else np.zeros((3, 2, 2), dtype=np.int64)
    )
    for _ in range(3):
        for row in cells.reshape(3, 4).T.tolist():
            # All other films are told nowhere by themselves, and can hide a side.
            others = {2} if hidden and row[2] else set()
            hidden |= hidden_cells(row, least, hidden | others)
    return hidden


def hide_strata(
    crossed: CrossedAttribute, whole: tuple[bool, bool], least: int, *, only_two: bool
) -> CrossedAttribute:
    """Hide small strata of either side; the whole side where the class itself is hidden.

    Where the two classes are all there are, the films of a value are told elsewhere, so that what
    one side hides the other would tell.

    Parameters
    ----------
    whole : tuple of bool - nothing may be told of the raised class; of the lowered class
    least : int - smallest number of patients that may be told
    only_two : bool - the task has no third class

    Returns
    -------
    CrossedAttribute - hidden counts are `HIDDEN`, hidden rates NaN
    """
    sides = (crossed.raised, crossed.lowered)
    hidden = [
        _hidden_strata(gaps, least, range(len(gaps)) if everything else ())
        for gaps, everything in zip(sides, whole, strict=True)
    ]
    for _ in range(len(crossed.raised) if only_two else 0):
        values = {gaps[at].value for gaps, cells in zip(sides, hidden, strict=True) for at in cells}
        hidden = [
            _hidden_strata(gaps, least, [n for n, gap in enumerate(gaps) if gap.value in values])
            for gaps in sides
        ]
    raised, lowered = (
        tuple(
            StratumGap(gap.value, HIDDEN, HIDDEN, _NAN, _NOTHING) if at in cells else gap
            for at, gap in enumerate(gaps)
        )
        for gaps, cells in zip(sides, hidden, strict=True)
    )
    return replace(
        crossed,
        raised=raised,
        lowered=lowered,
        raised_adjusted=_NAN if whole[0] else crossed.raised_adjusted,
        raised_interval=_NOTHING if whole[0] else crossed.raised_interval,
        lowered_adjusted=_NAN if whole[1] else crossed.lowered_adjusted,
        lowered_interval=_NOTHING if whole[1] else crossed.lowered_interval,
    )


def _hidden_strata(
    gaps: tuple[StratumGap, ...], least: int, forced: Collection[int]
) -> frozenset[int]:
    told = [gap.patients or (gap.n_present, gap.n_absent) for gap in gaps]
    hidden: frozenset[int] = frozenset(forced)
    for _ in range(2):  # what one arm hides, the other hides
        for arm in (0, 1):
            hidden |= hidden_cells([pair[arm] for pair in told], least, hidden)
    return hidden


def hide_counts(
    counts: Mapping[str, int], patients: Mapping[str, int], least: int
) -> dict[str, int]:
    """Return counts of films by name, those of few patients hidden, and what would tell them.

    Parameters
    ----------
    counts, patients : mapping of name to count - films, and their patients, under the same names
    least : int - smallest number of patients that may be told; 0 tells all
    """
    hidden = hidden_cells([patients[name] for name in counts], least)
    return {name: HIDDEN if at in hidden else n for at, (name, n) in enumerate(counts.items())}


def total_of(counts: NDArray[np.int64]) -> int:
    """Return the sum of counts; hidden where one of them is, since it would tell that one."""
    return HIDDEN if (counts < 0).any() else int(counts.sum())


def hidden_classes(
    labels: NDArray[np.int64], patients: NDArray[np.int64], classes: int, least: int
) -> frozenset[int]:
    """Return the classes of which nothing may be told, as `hide_small_cells` finds them.

    Parameters
    ----------
    labels, patients : ndarray of shape (N,), int64
    classes : int - C
    least : int - smallest number of patients that may be told
    """
    if least <= 1:
        return frozenset()
    return hidden_cells([len(np.unique(patients[labels == c])) for c in range(classes)], least)


def hide_small_cells(result: AuditResult, least: int) -> AuditResult:
    """Return an audit as it may be shown: counts of few patients hidden, with what tells them.

    Parameters
    ----------
    least : int - smallest number of patients that may be told; phantoms have none, and of them
        nothing is hidden

    Returns
    -------
    AuditResult - hidden counts are `HIDDEN`, hidden rates NaN; its `hidden_below` is `least`
    """
    if least <= 1 or result.cohort.synthetic:
        return result
    classes = hidden_cells(_patients_by_class(result), least)
    values = _hidden_values(result, least)
    search = result.discovery
    if search is not None and hidden_cells((search.patients, search.confirmation_patients), least):
        search = replace(
            search,
            films=HIDDEN, patients=HIDDEN,
            confirmation_films=HIDDEN, confirmation_patients=HIDDEN,
        )  # fmt: skip
    halved = search is not None and search.films == HIDDEN
    return replace(
        result,
        hidden_below=least,
        cohort=_cohort(result.cohort, classes, values, result.task.classes, least),
        accuracy=_accuracy(result.accuracy, classes),
        sanity=_sanity(result.sanity, classes),
        subgroups=tuple(
            _stratum(entry) if entry.value in values.get(entry.attribute, ()) else entry
            for entry in result.subgroups
        ),
        discovery=search,
        correlations=tuple(
            _correlation(entry, classes, values, least, halved=halved)
            for entry in result.correlations
        ),
    )


def _patients_by_class(result: AuditResult) -> list[int]:
    told = result.cohort.patients_by_class or result.cohort.images_by_class
    return [told.get(name, 0) for name in result.task.classes]


def _hidden_values(result: AuditResult, least: int) -> dict[str, frozenset[str]]:
    """Return the values of each attribute that are hidden in every table of it."""
    cohort, rows = result.cohort, result.subgroups
    told = cohort.attribute_patients or cohort.attributes
    hidden = {}
    for attribute in {*told, *(row.attribute for row in rows)}:
        tables = [
            dict(told.get(attribute, {})),
            {row.value: row.patients for row in rows if row.attribute == attribute},
        ]
        names: frozenset[str] = frozenset()
        for counts in (*tables, *tables):  # what one table hides, the other hides
            forced = [at for at, value in enumerate(counts) if value in names]
            cells = hidden_cells(list(counts.values()), least, forced)
            names |= {value for at, value in enumerate(counts) if at in cells}
        hidden[attribute] = names
    return hidden


def _cohort(
    cohort: CohortSummary,
    hidden: Collection[int],
    values: Mapping[str, Collection[str]],
    classes: tuple[str, ...],
    least: int,
) -> CohortSummary:
    without = cohort.images - cohort.radiology_reports
    return replace(
        cohort,
        patients=HIDDEN if 0 < cohort.patients < least else cohort.patients,
        images_by_class={
            name: HIDDEN if classes.index(name) in hidden else count
            for name, count in cohort.images_by_class.items()
        },
        patients_by_class=None,
        attributes={
            attribute: {
                value: HIDDEN if value in values[attribute] else count
                for value, count in counts.items()
            }
            for attribute, counts in cohort.attributes.items()
        },
        attribute_patients=None,
        classes_by_attribute={
            attribute: _crossed_classes(
                told,
                (cohort.class_patients or cohort.classes_by_attribute)[attribute],
                values.get(attribute, ()),
                hidden,
                least,
            )
            for attribute, told in cohort.classes_by_attribute.items()
        },
        class_patients=None,
        radiology_reports=HIDDEN
        if hidden_cells((cohort.radiology_reports, without), least)
        else cohort.radiology_reports,
    )


def _crossed_classes(
    films: Mapping[str, tuple[int, ...]],
    patients: Mapping[str, tuple[int, ...]],
    values: Collection[str],
    classes: Collection[int],
    least: int,
) -> dict[str, tuple[int, ...]]:
    """Hide cells of a table of values and classes, whose rows and columns have told sums."""
    cells = np.array([patients[value] for value in films], dtype=np.int64)
    hidden = np.zeros(cells.shape, dtype=np.bool_)
    hidden[[value in values for value in films]] = True
    hidden[:, list(classes)] = True
    before = -1
    while before != hidden.sum():  # what a row hides, a column may have to hide behind
        before = int(hidden.sum())
        for counts, mask in ((cells, hidden), (cells.T, hidden.T)):
            for row, told in zip(counts, mask, strict=True):
                told[list(hidden_cells(row.tolist(), least, np.flatnonzero(told).tolist()))] = True
    hidden &= cells > 0  # nobody is told of by an empty cell
    return {
        value: tuple(HIDDEN if hide else n for n, hide in zip(films[value], row, strict=True))
        for value, row in zip(films, hidden.tolist(), strict=True)
    }


def _accuracy(accuracy: Accuracy, hidden: Collection[int]) -> Accuracy:
    def shown(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(_NAN if c in hidden else value for c, value in enumerate(values))

    return replace(
        accuracy,
        by_class=shown(accuracy.by_class),
        by_class_interval=_intervals(accuracy.by_class_interval, hidden),
        images_by_class=tuple(
            HIDDEN if c in hidden else count for c, count in enumerate(accuracy.images_by_class)
        ),
        predicted_share=shown(accuracy.predicted_share),
    )


def _sanity(sanity: ModelChecks | None, hidden: Collection[int]) -> ModelChecks | None:
    if sanity is None:
        return None
    return replace(
        sanity,
        findings=tuple(
            replace(
                one, films=HIDDEN, auroc=_NAN, interval=_NOTHING, lowest=_NAN, highest=_NAN,
                flipped=False,
            )
            if c in hidden
            else one
            for c, one in enumerate(sanity.findings)
        ),
    )  # fmt: skip


def _intervals(intervals: tuple[Interval, ...], hidden: Collection[int]) -> tuple[Interval, ...]:
    return tuple(_NOTHING if c in hidden else one for c, one in enumerate(intervals))


def _stratum(row: Stratum) -> Stratum:
    return replace(
        row, films=HIDDEN, patients=HIDDEN, accuracy=_NAN, interval=_NOTHING,
        difference=_NAN, p_value=_NAN, q_value=_NAN,
    )  # fmt: skip


def _correlation(
    entry: SpuriousCorrelation,
    small: Collection[int],
    values: Mapping[str, Collection[str]],
    least: int,
    *,
    halved: bool,
) -> SpuriousCorrelation:
    """Hide the classes with a small arm on either half; `small` classes are hidden anyway."""
    cluster, arms = entry.cluster, entry.confirmation.arms
    found = (
        (cluster.n_present, cluster.n_absent)
        if entry.found_patients is None
        else (entry.found_patients.present, entry.found_patients.absent)
    )
    tested = (
        (arms.n_present, arms.n_absent)
        if arms.patients is None
        else (arms.patients.present, arms.patients.absent)
    )
    cells = np.stack([*found, *tested])  # (4, C)
    hidden = set(small) | set(np.flatnonzero(((cells > 0) & (cells < least)).any(axis=0)).tolist())
    raised, lowered = cluster.raised_class, cluster.lowered_class
    together = not hidden.isdisjoint(cluster.opposed_classes)
    strata = entry.strata
    if strata is not None:
        sides = (raised in hidden, lowered in hidden)
        two = len(cells[0]) == 2
        crossed = tuple(hide_strata(one, sides, least, only_two=two) for one in strata.attributes)
        strata = replace(strata, attributes=crossed)
    return replace(
        entry,
        cluster=_cluster(cluster, hidden, together=together),
        confirmation=_confirmation(
            entry.confirmation, hidden, (raised, lowered), together=together, halved=halved
        ),
        counterfactual=None
        if entry.counterfactual is None
        else _counterfactual(entry.counterfactual, least),
        strata=strata,
        found_patients=None,
        films_hidden=bool(hidden),
        labels=None
        if entry.labels is None
        else hide_label_cells(
            entry.labels, least, values, (raised in hidden, together), totals=bool(hidden)
        ),
    )


def _masked(values: NDArray[np.float64], hidden: Collection[int]) -> NDArray[np.float64]:
    masked = values.astype(np.float64, copy=True)
    masked[list(hidden)] = _NAN
    return masked


def _counts(values: NDArray[np.int64], hidden: Collection[int]) -> NDArray[np.int64]:
    masked = values.copy()
    masked[list(hidden)] = HIDDEN
    return masked


def _cluster(cluster: FeatureCluster, hidden: Collection[int], *, together: bool) -> FeatureCluster:
    return replace(
        cluster,
        n_present=_counts(cluster.n_present, hidden),
        n_absent=_counts(cluster.n_absent, hidden),
        accuracy_present=_masked(cluster.accuracy_present, hidden),
        accuracy_absent=_masked(cluster.accuracy_absent, hidden),
        weighted_gap=_masked(cluster.weighted_gap, hidden),
        opposed_gap=_NAN if together else cluster.opposed_gap,
    )


def _confirmation(
    test: Confirmation,
    hidden: Collection[int],
    sides: tuple[int, int | None],
    *,
    together: bool,
    halved: bool,
) -> Confirmation:
    arms, shift = test.arms, test.shift
    if sides[0] in hidden:
        shift = replace(shift, raised=_NAN, raised_interval=_NOTHING)
    if sides[1] in hidden:
        shift = replace(shift, lowered=_NAN, lowered_interval=_NOTHING)
    return replace(
        test,
        films=HIDDEN if halved else test.films,
        patients=HIDDEN if halved else test.patients,
        arms=AccuracyByPresence(
            n_present=_counts(arms.n_present, hidden),
            n_absent=_counts(arms.n_absent, hidden),
            accuracy_present=_masked(arms.accuracy_present, hidden),
            accuracy_absent=_masked(arms.accuracy_absent, hidden),
            present_interval=_intervals(arms.present_interval, hidden),
            absent_interval=_intervals(arms.absent_interval, hidden),
            gap_interval=_intervals(arms.gap_interval, hidden),
            opposed_gap=_NAN if together else arms.opposed_gap,
            opposed_interval=_NOTHING if together else arms.opposed_interval,
        ),
        shift=shift,
    )


def _counterfactual(tested: Counterfactual, least: int) -> Counterfactual:
    removal = tested.removal
    return replace(
        tested,
        removal=replace(
            removal,
            median=_change(removal.median, least),
            inpainted=_change(removal.inpainted, least),
        ),
        transplant=_change(tested.transplant, least),
    )


def _change(change: PairedChange | None, least: int) -> PairedChange | None:
    if change is None or not 0 < change.patients < least:
        return change
    return PairedChange(
        HIDDEN, HIDDEN, _NAN, _NAN, _NAN, _NOTHING, _NAN, _NOTHING
    )  # fmt: skip
