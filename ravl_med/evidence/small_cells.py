"""What a report may tell of few patients: counts of them are hidden, and what would tell them.

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
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.evidence.audit_result import Accuracy, AuditResult, CohortSummary, Stratum
from ravl_med.evidence.claims import (
    Arms,
    Confirmation,
    Counterfactual,
    Interval,
    PairedChange,
    SpuriousCorrelation,
)
from ravl_med.evidence.label_cells import hide_label_cells
from ravl_med.evidence.sanity import Sanity
from ravl_med.evidence.strata_cells import hide_strata
from ravl_med.evidence.suppression import HIDDEN, hidden_cells

__all__ = [
    "HIDDEN",
    "hidden_cells",
    "hidden_classes",
    "hide_counts",
    "hide_small_cells",
    "total_of",
]

_NAN = math.nan
_NOTHING = Interval(math.nan, math.nan)


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
    result : AuditResult
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


def _sanity(sanity: Sanity | None, hidden: Collection[int]) -> Sanity | None:
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
        arms=Arms(
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
