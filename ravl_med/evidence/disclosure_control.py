"""Disclosure control: counts of few patients are hidden, and what they would follow from.

A cell is a number of patients of one kind, such as men, or films of a class with a feature. One
below the least is hidden, with its films, rates and intervals. Where the total of a row of cells is
shown, hiding one cell does not suffice: the next smallest are hidden as well, until at least two
are, which together hold at least that many patients (complementary suppression). An empty cell is
never hidden, nor why files of the manifest were not taken, since that is said of files.

References
----------
CMS cell size suppression policy (cells of 1 to 10 are not shown, nor what they follow from);
Hundepool et al., "Statistical Disclosure Control" (2012), chapter 4 (secondary suppression).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ravl_med.evidence.audit_result import (
    AuditResult,
    CohortSummary,
    Confounder,
    Dependence,
    DependenceCell,
    LookingCell,
    LookingCheck,
    ModelChecks,
    Regrounding,
    Sensitivity,
    StyleDependence,
)
from ravl_med.evidence.rate_rounding import coarsen_rates
from ravl_med.evidence.results import (
    UNKNOWN,
    Confirmation,
    Counterfactual,
    CrossedAttribute,
    Interval,
    LabelQuality,
    LabelShare,
    PairedChange,
    SpuriousCorrelation,
    StratumGap,
)
from ravl_med.labelling.film_labels import STATED
from ravl_med.storage.documents import Count, class_columns, declared_types

T = TypeVar("T")

HIDDEN = -1
"""Stands for a hidden count; the rates that belong to it are NaN."""

_NAN = math.nan
_BLANKS = ((Count, HIDDEN), (float, _NAN), (Interval, UNKNOWN))


def hidden_cells(counts: Sequence[int], least: int, forced: Collection[int] = ()) -> frozenset[int]:
    """Return the cells of a row that have to be hidden when its total is shown.

    Parameters
    ----------
    counts : sequence of int - patients of each cell
    least : int - smallest count that may be shown; 0 always is
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


def hide_counts(
    counts: Mapping[str, int], patients: Mapping[str, int], least: int
) -> dict[str, int]:
    """Return counts of films by name, those of few patients hidden, and what they follow from.

    `patients` has the same names; a `least` of 0 hides nothing.
    """
    hidden = hidden_cells([patients[name] for name in counts], least)
    return {name: HIDDEN if at in hidden else n for at, (name, n) in enumerate(counts.items())}


def total_of(counts: NDArray[np.int64]) -> int:
    """Return the sum of counts; hidden where one of them is, which would follow from it."""
    return HIDDEN if (counts < 0).any() else int(counts.sum())


def hidden_classes(
    labels: NDArray[np.int64], patients: NDArray[np.int64], classes: int, least: int
) -> frozenset[int]:
    """Return the classes that `hide_small_cells` hides, from labels (N,) and patients (N,)."""
    if least <= 1:
        return frozenset()
    return hidden_cells([len(np.unique(patients[labels == c])) for c in range(classes)], least)


def hide_small_cells(result: AuditResult, least: int) -> AuditResult:
    """Return an audit as it may be shown: counts of few patients hidden, and what they follow from.

    Parameters
    ----------
    least : int - smallest number of patients that may be shown; phantoms are none, and nothing of
        them is hidden

    Returns
    -------
    AuditResult - hidden counts are `HIDDEN`, hidden rates NaN; its `hidden_below` is `least`
    """
    if least <= 1 or result.cohort.synthetic:
        return result
    classes = hidden_cells(_patients_by_class(result), least)
    values = _hidden_values(result, least)
    search = result.discovery
    if search and hidden_cells((search.patients, search.confirmation_patients), least):
        search = _blank(search)
    halved = search is not None and search.films == HIDDEN
    shown = replace(
        result,
        hidden_below=least,
        cohort=_hide_cohort(result.cohort, classes, values, result.classes, least),
        accuracy=_hide_classes(result.accuracy, classes),
        sanity=result.sanity and _hide_findings(result.sanity, classes),
        looking=result.looking
        and _hide_looking(result.looking, {result.classes[c] for c in classes}, least),
        dependence=result.dependence
        and _hide_dependence(result.dependence, {result.classes[c] for c in classes}, least),
        subgroups=tuple(
            _blank(entry) if entry.value in values.get(entry.attribute, ()) else entry
            for entry in result.subgroups
        ),
        confounders=result.confounders
        and tuple(
            hide_confounder(one, values.get(one.attribute, ()), least) for one in result.confounders
        ),
        discovery=search,
        sensitivity=result.sensitivity and _hide_wrong(result.sensitivity, least),
        correlations=tuple(
            _hide_correlation(entry, classes, values, least, halved=halved)
            for entry in result.correlations
        ),
    )
    return coarsen_rates(shown, result, least)


def _blank(row: T, **changes: Any) -> T:
    """Hide every count, rate and interval of a row; its names stay."""
    own: Any = type(row)
    types = declared_types(own)
    hidden = {name: blank for name, kind in types.items() for of, blank in _BLANKS if kind == of}
    made: T = replace(row, **hidden | changes)  # type: ignore[type-var]
    return made


def _hide_classes(table: T, hidden: Collection[int]) -> T:
    """Hide what a table holds of some classes, in all of its columns."""
    columns = {name: _hide_at(getattr(table, name), hidden) for name in class_columns(type(table))}
    made: T = replace(table, **columns)  # type: ignore[type-var]
    return made


def _hide_at(column: Any, hidden: Collection[int]) -> Any:
    """Hide some values of a column: an array, or a tuple of intervals or numbers."""
    if isinstance(column, np.ndarray):
        blank = HIDDEN if column.dtype.kind == "i" else _NAN
        return np.where(np.isin(np.arange(len(column)), list(hidden)), blank, column)
    return tuple(_blank_of(value) if c in hidden else value for c, value in enumerate(column))


def _blank_of(value: Interval | float) -> Interval | float:
    if isinstance(value, Interval):
        return UNKNOWN
    return HIDDEN if isinstance(value, int) else _NAN


def hide_confounder(one: Confounder, hidden: Collection[str], least: int) -> Confounder:
    """Return what may be shown of an attribute and the label, of which some `hidden` values.

    With the sums of its rows and columns known, one number such as Cramér's V gives away the cells
    of a small table. So where a cell is hidden, the numbers are hidden with it, and only those of a
    large cohort are rounded: until a step is worth ten times `least` patients.
    """
    cells = one.patients
    if least <= 1 or cells is None:
        return one
    strongest = one.strongest
    rest = strongest.patients - strongest.with_finding if strongest else 0
    if not hidden and not ((cells > 0) & (cells < least)).any() and not 0 < rest < least:
        return replace(one, patients=None)
    total = float(cells.sum())
    rows, columns = (sums[sums > 0].min() / total for sums in (cells.sum(1), cells.sum(0)))
    rare = columns * (1 - columns)
    step = 10 * least / total * max(1 / math.sqrt(rows * (1 - rows) * rare), 0.5 / rare)
    digits = math.floor(-math.log10(step))
    changes: dict[str, Any] = {
        name: _rounded(value, digits) if digits >= 1 else _blank_of(value)
        for name, kind in declared_types(Confounder).items()
        if kind in (float, Interval)
        for value in (getattr(one, name),)
    }
    changes |= {"patients": None, "strongest": strongest and _blank(strongest)}
    return replace(one, **changes)


def _rounded(value: Interval | float, digits: int) -> Interval | float:
    if isinstance(value, Interval):
        return Interval(round(value.low, digits), round(value.high, digits))
    return round(value, digits)


def _hide_wrong(found: Sensitivity, least: int) -> Sensitivity:
    """Hide how many of the mapped films are called wrongly, where few are, or few are not."""
    local = found.local
    if local is None or not hidden_cells((local.wrong, local.films - local.wrong), least):
        return found
    return replace(found, local=replace(local, wrong=HIDDEN))


def _patients_by_class(result: AuditResult) -> list[int]:
    counts = result.cohort.patients_by_class or result.cohort.images_by_class
    return [counts.get(name, 0) for name in result.classes]


def _hidden_values(result: AuditResult, least: int) -> dict[str, frozenset[str]]:
    """Return the values of each attribute that are hidden in every table of it."""
    cohort, rows = result.cohort, result.subgroups
    counted = cohort.attribute_patients or cohort.attributes
    hidden = {}
    for attribute in {*counted, *(row.attribute for row in rows)}:
        tables = [
            dict(counted.get(attribute, {})),
            {row.value: row.patients for row in rows if row.attribute == attribute},
        ]
        names: frozenset[str] = frozenset()
        for counts in (*tables, *tables):  # what one table hides, the other hides
            forced = [at for at, value in enumerate(counts) if value in names]
            cells = hidden_cells(list(counts.values()), least, forced)
            names |= {value for at, value in enumerate(counts) if at in cells}
        hidden[attribute] = names
    return hidden


def _hide_names(counts: Mapping[str, int], hidden: Collection[str]) -> dict[str, int]:
    return {name: HIDDEN if name in hidden else count for name, count in counts.items()}


def _hide_cohort(
    cohort: CohortSummary,
    hidden: Collection[int],
    values: Mapping[str, Collection[str]],
    classes: tuple[str, ...],
    least: int,
) -> CohortSummary:
    reports = (cohort.radiology_reports, cohort.images - cohort.radiology_reports)
    crossed = cohort.class_patients or cohort.classes_by_attribute
    return replace(
        cohort,
        patients=HIDDEN if 0 < cohort.patients < least else cohort.patients,
        images_by_class=_hide_names(cohort.images_by_class, {classes[c] for c in hidden}),
        patients_by_class=None,
        attributes={
            attribute: _hide_names(counts, values[attribute])
            for attribute, counts in cohort.attributes.items()
        },
        attribute_patients=None,
        classes_by_attribute={
            attribute: _hide_crossed(
                films, crossed[attribute], values.get(attribute, ()), hidden, least
            )
            for attribute, films in cohort.classes_by_attribute.items()
        },
        class_patients=None,
        radiology_reports=HIDDEN if hidden_cells(reports, least) else cohort.radiology_reports,
        leaks=tuple(
            replace(leak, images=HIDDEN, patients=HIDDEN)
            if hidden_cells((leak.patients, cohort.patients - leak.patients), least)
            else leak
            for leak in cohort.leaks
        ),
    )


def _hide_crossed(
    films: Mapping[str, tuple[int, ...]],
    patients: Mapping[str, tuple[int, ...]],
    values: Collection[str],
    classes: Collection[int],
    least: int,
) -> dict[str, tuple[int, ...]]:
    """Hide cells of a table of values and classes; the sums of its rows and columns are shown."""
    cells = np.array([patients[value] for value in films], dtype=np.int64)
    hidden = np.zeros(cells.shape, dtype=np.bool_)
    hidden[[value in values for value in films]] = True
    hidden[:, list(classes)] = True
    before = -1
    while before != hidden.sum():  # what a row hides, a column may have to hide behind
        before = int(hidden.sum())
        for counts, mask in ((cells, hidden), (cells.T, hidden.T)):
            for row, own in zip(counts, mask, strict=True):
                own[list(hidden_cells(row.tolist(), least, np.flatnonzero(own).tolist()))] = True
    hidden &= cells > 0
    return {
        value: tuple(HIDDEN if hide else n for n, hide in zip(films[value], row, strict=True))
        for value, row in zip(films, hidden.tolist(), strict=True)
    }


def _hide_findings(checks: ModelChecks, hidden: Collection[int]) -> ModelChecks:
    findings = tuple(
        _blank(one, flipped=False) if c in hidden else one for c, one in enumerate(checks.findings)
    )
    return replace(checks, findings=findings)


def _hide_dependence(found: Dependence, classes: Collection[str], least: int) -> Dependence:
    """Hide rows of few patients, counts that few others follow from, areas of small classes."""

    def hide(row: DependenceCell | StyleDependence) -> Any:
        if row.patients < least:
            return _blank(row)
        if 0 < found.patients - row.patients < least:
            row = replace(row, films=HIDDEN, patients=HIDDEN)
        if isinstance(row, DependenceCell) and row.finding in classes:
            return replace(row, auroc_before=_NAN, auroc_after=_NAN, auroc_interval=UNKNOWN)
        return row

    hidden: dict[str, Any] = {"films": HIDDEN, "patients": HIDDEN}
    return replace(
        found,
        cells=tuple(map(hide, found.cells)),
        styles=tuple(map(hide, found.styles)),
        **(hidden if found.patients < least else {}),
    )


def _hide_looking(found: LookingCheck, classes: Collection[str], least: int) -> LookingCheck:
    """Hide rows of few patients and of small classes, and counts that few others follow from."""

    def hide(row: LookingCell | Regrounding) -> Any:
        if row.patients < least or (isinstance(row, Regrounding) and row.finding in classes):
            return _blank(row)
        if 0 < found.patients - row.patients < least:
            return replace(row, films=HIDDEN, patients=HIDDEN)
        return row

    small = found.patients < least
    hidden: dict[str, Any] = {"films": HIDDEN, "patients": HIDDEN} if small else {}
    return replace(
        found,
        conditions=tuple(map(hide, found.conditions)),
        grounding=tuple(map(hide, found.grounding)),
        wordings=tuple(map(_blank, found.wordings)) if small else found.wordings,
        **hidden,
    )


def _hide_correlation(
    entry: SpuriousCorrelation,
    small: Collection[int],
    values: Mapping[str, Collection[str]],
    least: int,
    *,
    halved: bool,
) -> SpuriousCorrelation:
    """Hide the classes with a small arm on either half; `small` classes are hidden anyway."""
    cluster, arms = entry.cluster, entry.confirmation.arms
    found, tested = entry.found_patients, arms.patients
    cells = np.stack([
        *((found.present, found.absent) if found else (cluster.n_present, cluster.n_absent)),
        *((tested.present, tested.absent) if tested else (arms.n_present, arms.n_absent)),
    ])  # (4, C)  # fmt: skip
    hidden = {*small, *np.flatnonzero(((cells > 0) & (cells < least)).any(axis=0)).tolist()}
    sides = (cluster.raised_class in hidden, cluster.lowered_class in hidden)
    together = not hidden.isdisjoint(cluster.opposed_classes)
    cluster = _hide_classes(cluster, hidden)
    return replace(
        entry,
        cluster=replace(cluster, opposed_gap=_NAN) if together else cluster,
        confirmation=_hide_test(
            entry.confirmation, hidden, sides, together=together, halved=halved
        ),
        counterfactual=entry.counterfactual
        and _hide_changes(
            entry.counterfactual, least, foreign=bool(hidden - {cluster.raised_class})
        ),
        strata=entry.strata
        and replace(
            entry.strata,
            attributes=tuple(
                hide_strata(one, sides, least, only_two=cells.shape[1] == 2)
                for one in entry.strata.attributes
            ),
        ),
        found_patients=None,
        films_hidden=bool(hidden),
        labels=entry.labels
        and hide_label_cells(
            entry.labels, least, values, (sides[0], together), totals=bool(hidden)
        ),
    )


def _hide_test(
    test: Confirmation,
    hidden: Collection[int],
    sides: tuple[bool, bool],
    *,
    together: bool,
    halved: bool,
) -> Confirmation:
    arms, shift = replace(_hide_classes(test.arms, hidden), patients=None), test.shift
    if together:
        arms = replace(arms, opposed_gap=_NAN, opposed_interval=UNKNOWN)
    if sides[0]:
        shift = replace(shift, raised=_NAN, raised_interval=UNKNOWN)
    if sides[1]:
        shift = replace(shift, lowered=_NAN, lowered_interval=UNKNOWN)
    if halved:
        test = replace(test, films=HIDDEN, patients=HIDDEN)
    return replace(test, arms=arms, shift=shift)


def _hide_changes(tested: Counterfactual, least: int, *, foreign: bool) -> Counterfactual:
    """Hide interventions on few patients; `foreign`: a class that is not raised is hidden."""

    def few(change: PairedChange | None) -> bool:
        return change is not None and 0 < change.patients < least

    removal = tested.removal
    if few(removal.both) or few(tested.transplant):  # what follows from them follows back
        tested = replace(tested, p_value=_NAN, q_value=_NAN)
        removal = replace(removal, imbalance=_NAN, sharper=_NAN, sharper_interval=UNKNOWN)
    removal = replace(removal, called=_NAN if foreign else removal.called)
    hidden = replace(tested, removal=removal)
    return hidden.map_changes(lambda change: _blank(change) if few(change) else change)


def _hidden_rows(
    rows: Sequence[LabelShare | StratumGap], least: int, forced: Iterable[int]
) -> frozenset[int]:
    """Return the rows with few patients with or without the feature, and what they follow from."""
    patients = [row.patients or (row.n_present, row.n_absent) for row in rows]
    hidden = frozenset(forced)
    for _ in range(2):  # what one arm hides, the other hides
        for arm in (0, 1):
            hidden |= hidden_cells([pair[arm] for pair in patients], least, hidden)
    return hidden


def hide_strata(
    crossed: CrossedAttribute, whole: tuple[bool, bool], least: int, *, only_two: bool
) -> CrossedAttribute:
    """Hide small strata of either side; the whole side where the class itself is hidden.

    Where the two classes are all there are, the films of a value are shown elsewhere, so that what
    one side hides follows from the other.

    Parameters
    ----------
    whole : tuple of bool - the raised class is hidden; the lowered class is
    least : int - smallest number of patients that may be shown
    only_two : bool - the task has no third class
    """
    sides = (crossed.raised, crossed.lowered)
    hidden = [
        _hidden_rows(gaps, least, range(len(gaps)) if everything else ())
        for gaps, everything in zip(sides, whole, strict=True)
    ]
    for _ in range(len(crossed.raised) if only_two else 0):
        values = {gaps[at].value for gaps, cells in zip(sides, hidden, strict=True) for at in cells}
        hidden = [
            _hidden_rows(gaps, least, (n for n, gap in enumerate(gaps) if gap.value in values))
            for gaps in sides
        ]
    changes: dict[str, Any] = {}
    for side, gaps, cells, everything in zip(
        ("raised", "lowered"), sides, hidden, whole, strict=True
    ):
        changes[side] = tuple(
            _blank(gap, patients=None) if at in cells else gap for at, gap in enumerate(gaps)
        )
        if everything:
            changes |= {f"{side}_adjusted": _NAN, f"{side}_interval": UNKNOWN}
    return replace(crossed, **changes)


def hide_label_cells(
    labels: LabelQuality,
    least: int,
    values: Mapping[str, Collection[str]],
    sides: tuple[bool, bool],
    *,
    totals: bool,
) -> LabelQuality:
    """Return what may be shown of the labels behind a correlation, without its patients.

    Parameters
    ----------
    least : int - smallest number of patients that may be shown
    values : mapping of attribute to collection of str - values that the table of audited films
        hides; ``"label source"`` and ``"label certainty"`` are looked at
    sides : tuple of bool - the raised class is hidden; an opposed one is
    totals : bool - how many films hold the feature is hidden
    """
    sources = _hide_shares(labels.sources, least, values.get("label source", ()), everything=totals)
    certainty = _hide_shares(
        labels.certainty, least, values.get("label certainty", ()), everything=totals
    )
    # Counts of stated films by side would show the hidden count of all of them.
    stated_hidden = any(row.value == STATED and row.n_present == HIDDEN for row in certainty)
    gaps = {0, 1} if stated_hidden else _hidden_sides(labels, least, sides)
    if stated_hidden:
        labels = replace(labels, difference=_NAN, interval=UNKNOWN)
    if totals:
        labels = replace(labels, n_present=HIDDEN, n_absent=HIDDEN)
    return replace(
        labels,
        sources=sources,
        certainty=certainty,
        not_stated=_hide_share(labels.not_stated, hide=stated_hidden),
        raised=_blank(labels.raised, outcome="hidden") if 0 in gaps else labels.raised,
        lowered=labels.lowered and _blank(labels.lowered, outcome="hidden")
        if 1 in gaps
        else labels.lowered,
        patients=None,
    )


def _hide_shares(
    rows: tuple[LabelShare, ...], least: int, forced: Collection[str], *, everything: bool
) -> tuple[LabelShare, ...]:
    at_once = (at for at, row in enumerate(rows) if everything or row.value in forced)
    hidden = _hidden_rows(rows, least, at_once)
    return tuple(_hide_share(row, hide=at in hidden) for at, row in enumerate(rows))


def _hide_share(row: LabelShare, *, hide: bool) -> LabelShare:
    """Drop the patients of a row, and its counts as well unless it is empty."""
    empty = not any(row.patients or (row.n_present, row.n_absent))
    return _blank(row, patients=None) if hide and not empty else replace(row, patients=None)


def _hidden_sides(labels: LabelQuality, least: int, sides: tuple[bool, bool]) -> frozenset[int]:
    """Find the sides, 0 raised and 1 lowered, whose stated films follow from what is shown."""
    hidden = frozenset(side for side in (0, 1) if sides[side])
    cells: NDArray[np.int64] = (
        labels.patients if labels.patients is not None else np.zeros((3, 2, 2), dtype=np.int64)
    )
    for _ in range(3):
        for row in cells.reshape(3, 4).T.tolist():
            # All other films are shown nowhere by themselves, and can hide a side.
            others = {2} if hidden and row[2] else set()
            hidden |= hidden_cells(row, least, hidden | others)
    return hidden
