"""Rates in steps that hold enough patients, so that no small number follows from a rate.

Of 26 films an accuracy of 0.1538 says that 4 were called right. So a rate is shown as the middle of
a step, and a step holds as many patients as the least number that may be shown: whoever knows the
number of films learns that one of that many numerators is behind the rate, and 1 to 10 right, or
wrong, calls look all alike. Numbers that are shown twice, such as a class by several features,
narrow each other; where they leave few numerators for a small one, its pair of rates is hidden.

Intervals and p-values follow from the same counts. An interval is as wide as the exact one and the
steps together, so that it holds the exact one; q is a bound, and p-values are hidden.

References
----------
Hundepool et al., "Statistical Disclosure Control" (2012), chapter 4.5 (rounding, and the attack by
linear programming that it has to stand).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.looking import sentence_of_ignoring
from ravl_med.evidence.mitigation_result import Change
from ravl_med.evidence.results import (
    UNKNOWN,
    AccuracyByPresence,
    ArmPatients,
    Counterfactual,
    CrossedAttribute,
    Interval,
    LabelQuality,
    PairedChange,
    SpuriousCorrelation,
    StatedGap,
    StratumGap,
)

T = TypeVar("T")
Table = TypeVar("Table", bound=Any)

_FEWEST = 5  # steps of an accuracy that stands by itself: the middle of a wider one misleads
_NAN = math.nan
_BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
_NUMBERS = (
    (re.compile(r"q is [\d.]+, above"), "q is above"),
    (re.compile(r"has p = [\d.]+, above"), "has p above"),
    (re.compile(r"\([\d.]+ standard errors, below"), "(standard errors, below"),
)
"""What a reason says of counts, and what is left of it."""


def coarse_rates(rates: Any, films: Any, steps: Any) -> NDArray[np.float64]:
    """Return the middle of the step that each rate lies in; NaN where there are not two steps.

    Parameters
    ----------
    rates, films : (...,) - share of so many films
    steps : (...,) of int - steps between 0 and 1: patients over the least number that may be shown
    """
    rates, films, steps = np.broadcast_arrays(
        np.asarray(rates, dtype=np.float64), np.asarray(films), np.asarray(steps)
    )
    known = np.isfinite(rates) & (steps >= 2) & (films > 0)
    held = np.rint(np.where(known, rates * films, 0)).astype(np.int64)
    step = np.minimum(held * steps // np.maximum(films, 1), steps - 1)
    return np.where(known, (step + 0.5) / np.maximum(steps, 1), _NAN)


def numerators(shown: float, films: int, steps: int) -> tuple[int, int]:
    """Return the least and the largest numerator of so many films that a shown rate stands for."""
    if not math.isfinite(shown):
        return 0, films
    step = math.floor(shown * steps)
    high = films if step == steps - 1 else math.ceil((step + 1) * films / steps) - 1
    return math.ceil(step * films / steps), high


def coarsen_rates(shown: AuditResult, exact: AuditResult, least: int) -> AuditResult:
    """Return an audit whose small counts are hidden, `shown`, with its rates in steps as well.

    Parameters
    ----------
    exact : AuditResult - the same with nothing hidden
    least : int - smallest number of patients that may be shown, and of those in a step
    """
    narrow = _narrowed(exact, least)
    kept = tuple(
        _coarsen_correlation(entry, whole, narrow[at], least)
        for at, (entry, whole) in enumerate(
            zip(shown.correlations, exact.correlations, strict=True)
        )
    )
    shown = replace(
        shown,
        correlations=kept,
        accuracy=_coarsen_accuracy(shown, exact, least),
        subgroups=tuple(
            replace(
                _coarsen(row, row.patients, least, row.films, accuracy="interval"),
                difference=on_grid(row.difference, row.patients // least),
                p_value=_NAN,
                q_value=upper_bound(row.q_value),
            )
            for row in shown.subgroups
        ),
        dependence=shown.dependence
        and replace(
            shown.dependence,
            cells=tuple(
                _coarsen(row, row.patients, least, row.films, flips="flips_interval")
                for row in shown.dependence.cells
            ),
        ),
    )
    return _coarsen_looking(shown, least)


def coarsen_change(change: Change, patients: int, least: int) -> Change:
    """Return an accuracy before and after a mitigation in steps that hold `least` patients."""
    if least <= 1 or not change.films:
        return change
    steps = patients // least
    rates = coarse_rates([change.before, change.after], change.films, steps)
    before, after = (float(rate) for rate in rates)
    step = 1 / steps if steps >= 2 else _NAN
    return replace(
        change,
        before=before,
        after=after,
        difference=after - before,
        interval=widened(after, change.after, change.interval, step),
        difference_interval=widened(
            after - before, change.difference, change.difference_interval, step, least=-1.0
        ),
    )


def coarsen_gap(change: Change, patients: Sequence[int], least: int) -> Change:
    """Return a gap between two arms of so many patients, before and after, in such steps."""
    steps = _joint_steps(patients, least)
    if least <= 1 or not change.films:
        return change
    before, after = (on_grid(value, steps) for value in (change.before, change.after))
    step = 1 / steps if steps else _NAN
    return replace(
        change,
        before=before,
        after=after,
        difference=after - before,
        interval=widened(after, change.after, change.interval, step, least=-1.0),
        difference_interval=widened(
            after - before, change.difference, change.difference_interval, 2 * step, least=-2.0
        ),
    )


def _coarsen(row: T, patients: int, least: int, films: int, **rates: str) -> T:
    """Coarsen rates of a row, each named with its interval."""
    if films < 0:
        return row
    steps, changes = max(patients, 0) // least, dict[str, Any]()
    for name, interval in rates.items():
        rate = getattr(row, name)
        middle = float(coarse_rates(rate, films, steps))
        changes[name] = middle
        changes[interval] = widened(middle, rate, getattr(row, interval), 1 / max(steps, 1))
    made: T = replace(row, **changes)  # type: ignore[type-var]
    return made


def widened(
    shown: float, exact: float, interval: Interval, step: float, *, least: float = 0.0
) -> Interval:
    """Return an interval around a coarse value that holds the exact one, in whole steps.

    `least` is the smallest value that there can be, 0 of a rate and -1 of a difference of rates.
    """
    reach = max(exact - interval.low, interval.high - exact)
    if reach == shown == 0:  # a model beside itself
        return interval
    if not math.isfinite(reach) or not math.isfinite(shown):
        return UNKNOWN
    half = step * math.ceil(reach / step + 1 - 1e-9)
    return Interval(max(shown - half, least), min(shown + half, abs(least) or 1.0))


def on_grid(value: float, steps: float) -> float:
    """Round a difference of rates to whole steps; NaN where there are not two."""
    return round(value * steps) / steps if steps >= 2 and math.isfinite(value) else _NAN


def _joint_steps(patients: Sequence[int], least: int) -> float:
    """Return the steps of a difference of two rates, the harmonic mean of theirs; 0 without two."""
    steps = [int(n) // max(least, 1) for n in patients]
    return 2 / sum(1 / n for n in steps) if min(steps) >= 2 else 0


def upper_bound(q: float) -> float:
    """Return the first of a few round bounds that a p or q is not above."""
    return next((bound for bound in _BOUNDS if q <= bound), _NAN)


def _coarsen_accuracy(shown: AuditResult, exact: AuditResult, least: int) -> Any:
    """Coarsen the accuracy on all films and by class; hidden classes stay hidden."""
    accuracy = shown.accuracy
    counts = exact.cohort.patients_by_class or exact.cohort.images_by_class
    whole = _coarsen(
        accuracy, exact.cohort.patients, least, accuracy.images, overall="overall_interval"
    )
    if exact.cohort.patients // least < _FEWEST:
        whole = replace(whole, overall=_NAN, overall_interval=UNKNOWN)
    rates, intervals = [], []
    for name, films, rate, interval in zip(
        exact.classes, accuracy.images_by_class, accuracy.by_class, accuracy.by_class_interval,
        strict=True,
    ):  # fmt: skip
        steps = counts.get(name, 0) // least
        rates.append(float(coarse_rates(rate, films, steps)))
        intervals.append(widened(rates[-1], rate, interval, 1 / max(steps, 1)))
    called = coarse_rates(accuracy.predicted_share, accuracy.images, exact.cohort.patients // least)
    return replace(
        whole,
        by_class=tuple(rates),
        by_class_interval=tuple(intervals),
        predicted_share=tuple(called.tolist()),
    )


def _coarsen_looking(shown: AuditResult, least: int) -> AuditResult:
    """Coarsen what is answered when something else is shown, and the sentence that says so."""
    found = shown.looking
    if found is None:
        return shown
    cells = tuple(
        _coarsen(
            row, row.patients, least, row.films,
            accuracy="accuracy_interval", unchanged="unchanged_interval",
        )
        for row in found.conditions
    )  # fmt: skip
    sentence = sentence_of_ignoring(cells) if found.ignores else ""
    reasons = tuple(sentence if one == found.ignores else one for one in shown.verdict.reasons)
    return replace(
        shown,
        verdict=replace(shown.verdict, reasons=reasons),
        looking=replace(
            found,
            conditions=cells,
            grounding=tuple(
                _coarsen(row, row.patients, least, row.films, share="interval")
                for row in found.grounding
            ),
            wordings=tuple(
                _coarsen(row, found.patients, least, found.films, unchanged="unchanged_interval")
                for row in found.wordings
            ),
            ignores=sentence,
        ),
    )


def _patients(known: ArmPatients | None, table: Any) -> NDArray[np.int64]:
    """Return the patients with and without a feature, (2, C)."""
    if known is not None:
        return np.stack([known.present, known.absent])
    return np.stack([table.n_present, table.n_absent])


def _coarsen_correlation(
    entry: SpuriousCorrelation, exact: SpuriousCorrelation, narrow: NDArray[np.bool_], least: int
) -> SpuriousCorrelation:
    """Coarsen what a correlation says of right calls; `narrow` (2, C) arms are hidden."""
    test, cluster = entry.confirmation, entry.cluster
    found = _patients(exact.found_patients, exact.cluster)
    tested = _patients(exact.confirmation.arms.patients, exact.confirmation.arms)
    opposed = list(cluster.opposed_classes)
    coarse = _coarsen_arms(cluster, found // least, narrow[0])
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = np.where(cluster.gap == 0, 0.0, cluster.weighted_gap / cluster.gap)
    weighted = np.where(cluster.weighted_gap == 0, 0.0, weight * coarse.gap)
    others = [c for c in range(found.shape[1]) if c != cluster.raised_class]
    called = min(int(found[0, others].sum()), int(tested[0, others].sum())) // least
    return replace(
        entry,
        cluster=replace(
            coarse,
            weighted_gap=weighted,
            performance_gap=float(np.nansum(np.abs(weighted))),
            opposed_gap=_together(coarse, opposed, cluster.opposed_gap),
            influence=round(cluster.influence, 1),
        ),
        confirmation=replace(
            test,
            reasons=tuple(map(_without_numbers, test.reasons)),
            p_raised=_NAN,
            p_lowered=_NAN,
            p_value=_NAN,
            q_value=upper_bound(test.q_value),
            arms=_coarsen_test(test.arms, tested // least, narrow[1], opposed),
        ),
        reasons=tuple(map(_without_numbers, entry.reasons)),
        counterfactual=entry.counterfactual
        and _coarsen_changes(entry.counterfactual, called, least),
        strata=entry.strata
        and replace(
            entry.strata,
            attributes=tuple(_coarsen_crossed(one, least) for one in entry.strata.attributes),
        ),
        labels=entry.labels and _coarsen_labels(entry.labels, exact.labels, least),
    )


def _without_numbers(reason: str) -> str:
    for pattern, left in _NUMBERS:
        reason = pattern.sub(left, reason)
    return reason


def _coarsen_arms(table: Table, steps: NDArray[np.int64], narrow: NDArray[np.bool_]) -> Table:
    present = coarse_rates(table.accuracy_present, table.n_present, steps[0])
    absent = coarse_rates(table.accuracy_absent, table.n_absent, steps[1])
    made: Table = replace(
        table,
        accuracy_present=np.where(narrow, _NAN, present),
        accuracy_absent=np.where(narrow, _NAN, absent),
    )
    return made


def _together(table: Any, opposed: Sequence[int], shown: float) -> float:
    """Return the gap of the opposed classes together, of coarse ones; NaN where it was hidden."""
    n_in, n_out = table.n_present[opposed], table.n_absent[opposed]
    weight = n_in * n_out / np.maximum(n_in + n_out, 1)
    if not math.isfinite(shown) or not weight.sum() > 0:
        return _NAN
    return float((weight * np.where(weight > 0, table.gap[opposed], 0.0)).sum() / weight.sum())


def _coarsen_test(
    arms: AccuracyByPresence,
    steps: NDArray[np.int64],
    narrow: NDArray[np.bool_],
    opposed: Sequence[int],
) -> AccuracyByPresence:
    coarse = _coarsen_arms(arms, steps, narrow)
    size = 1 / np.maximum(steps, 1)  # (2, C)
    gaps = size.mean(axis=0)

    def widen(
        shown: NDArray[np.float64],
        exact: NDArray[np.float64],
        intervals: Sequence[Interval],
        step: NDArray[np.float64],
        least: float,
    ) -> tuple[Interval, ...]:
        rows = zip(shown.tolist(), exact.tolist(), intervals, step.tolist(), strict=True)
        return tuple(widened(*row, least=least) for row in rows)

    together = _together(coarse, opposed, arms.opposed_gap)
    reach = float(gaps[list(opposed)].max()) if opposed else 1.0
    return replace(
        coarse,
        present_interval=widen(
            coarse.accuracy_present, arms.accuracy_present, arms.present_interval, size[0], 0.0
        ),
        absent_interval=widen(
            coarse.accuracy_absent, arms.accuracy_absent, arms.absent_interval, size[1], 0.0
        ),
        gap_interval=widen(coarse.gap, arms.gap, arms.gap_interval, gaps, -1.0),
        opposed_gap=together,
        opposed_interval=widened(
            together, arms.opposed_gap, arms.opposed_interval, reach, least=-1.0
        ),
    )


def _coarsen_changes(tested: Counterfactual, called: int, least: int) -> Counterfactual:
    """Coarsen the shares of decisions that interventions change, and that of wrong calls."""

    def coarsen(change: PairedChange) -> PairedChange:
        if change.pairs < 0:
            return change
        steps = change.patients // least
        share, step = on_grid(change.decisions, steps), 1 / max(steps, 1)
        interval = widened(share, change.decisions, change.decisions_interval, step, least=-1.0)
        return replace(change, decisions=share, decisions_interval=interval)

    removal = tested.removal
    films = called * least  # at least; only the size of a step follows from it
    share = float(coarse_rates(removal.called, max(films, 1) * 1000, called))
    return replace(tested, removal=replace(removal, called=share)).map_changes(coarsen)


def _coarsen_gap_row(row: StratumGap | StatedGap, patients: Sequence[int], least: int) -> Any:
    if row.n_present < 0 or not math.isfinite(row.gap):
        return row
    steps = _joint_steps(patients, least)
    gap = on_grid(row.gap, steps)
    step = 1 / steps if steps else _NAN
    return replace(row, gap=gap, interval=widened(gap, row.gap, row.interval, step, least=-1.0))


def _coarsen_crossed(crossed: CrossedAttribute, least: int) -> CrossedAttribute:
    """Coarsen the gaps of strata, and those over all strata."""
    changes: dict[str, Any] = {}
    for side in ("raised", "lowered"):
        rows: tuple[StratumGap, ...] = getattr(crossed, side)
        counts = [row.patients or (row.n_present, row.n_absent) for row in rows]
        changes[side] = tuple(
            replace(_coarsen_gap_row(row, own, least), patients=None)
            for row, own in zip(rows, counts, strict=True)
        )
        exact, interval = getattr(crossed, f"{side}_adjusted"), getattr(crossed, f"{side}_interval")
        arms = np.maximum(np.array(counts).reshape(-1, 2), 0).sum(axis=0).tolist()
        steps = _joint_steps(arms, least)
        adjusted = on_grid(exact, steps)
        step = 1 / steps if steps else _NAN
        changes[f"{side}_adjusted"] = adjusted
        changes[f"{side}_interval"] = widened(adjusted, exact, interval, step, least=-1.0)
    return replace(crossed, **changes)


def _coarsen_labels(labels: LabelQuality, exact: LabelQuality | None, least: int) -> LabelQuality:
    """Coarsen the gaps on stated labels."""
    counts = exact.patients if exact is not None else None

    def coarsen(row: StatedGap | None, side: int) -> Any:
        own = (row.n_present, row.n_absent) if row is not None else (0, 0)
        known = own if counts is None else counts[side, :, 0].tolist()
        return row and _coarsen_gap_row(row, known, least)

    return replace(labels, raised=coarsen(labels.raised, 0), lowered=coarsen(labels.lowered, 1))


Window = tuple[NDArray[np.int64], NDArray[np.int64]]  # least and largest numerators


def _windows(rates: Any, films: Any, patients: Any, least: int) -> Window:
    """Return the numerators that shown rates stand for."""
    steps = np.asarray(patients) // least
    shown = coarse_rates(rates, films, steps)
    pairs = [
        numerators(float(rate), int(n), int(m))
        for rate, n, m in zip(shown.flat, np.ravel(films), np.ravel(steps), strict=True)
    ]
    low, high = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return low.reshape(shown.shape), high.reshape(shown.shape)


def _narrowed(exact: AuditResult, least: int) -> NDArray[np.bool_]:
    """Find the arms (E, 2, C), found and tested, of which what is shown leaves few small numbers.

    The right calls of a class on a half of the patients are the sum over the arms of every feature,
    and those of both halves are the right calls of the class. A number of these is narrowed where
    fewer than half of a step remain.
    """
    count, classes = len(exact.correlations), len(exact.classes)
    narrow = np.zeros((count, 2, classes), dtype=np.bool_)
    if not count:
        return narrow
    rates, films, patients = np.zeros((3, count, 2, 2, classes))  # correlation, half, arm, class
    halves = np.zeros((count, 2), dtype=np.int64)  # on which half it was found, and tested
    for at, entry in enumerate(exact.correlations):
        halves[at] = (1, 0) if entry.confirmation.swapped else (0, 1)
        for half, table, own in (
            (halves[at, 0], entry.cluster, entry.found_patients),
            (halves[at, 1], entry.confirmation.arms, entry.confirmation.arms.patients),
        ):
            rates[at, half] = np.nan_to_num([table.accuracy_present, table.accuracy_absent])
            films[at, half] = table.n_present, table.n_absent
            patients[at, half] = _patients(own, table)
    films, patients = films.astype(np.int64), patients.astype(np.int64)
    right = np.rint(rates * films).astype(np.int64)
    low, high = _windows(rates, films, patients, least)
    sums = low.sum(axis=2).max(axis=0), high.sum(axis=2).min(axis=0)  # (2, C), of all features
    known = _within_classes(exact, films[0].sum(axis=(0, 1)), sums, least)
    for arm in (0, 1):
        other = 1 - arm
        least_left = np.maximum(low[:, :, arm], known[0] - high[:, :, other])
        most_left = np.minimum(high[:, :, arm], known[1] - low[:, :, other])
        hits = right[:, :, arm]
        misses = films[:, :, arm] - hits
        small = ((hits > 0) & (hits < least)) | ((misses > 0) & (misses < least))
        few = small & (most_left - least_left + 1 < least // 2)
        narrow |= np.take_along_axis(few, halves[:, :, None], axis=1)
    return narrow


def _within_classes(
    exact: AuditResult, films: NDArray[np.int64], sums: Window, least: int
) -> Window:
    """Narrow the right calls of each half and class, (2, C), by those of the class."""
    accuracy, cohort = exact.accuracy, exact.cohort
    counts: Mapping[str, int] = cohort.patients_by_class or cohort.images_by_class
    of = np.asarray(accuracy.images_by_class, dtype=np.int64)
    low, high = _windows(
        np.nan_to_num(accuracy.by_class), of, [counts.get(name, 0) for name in exact.classes], least
    )
    whole = films == of  # else films of the class are in no half
    least_left = np.where(whole, np.maximum(sums[0], low - sums[1][::-1]), sums[0])
    most_left = np.where(whole, np.minimum(sums[1], high - sums[0][::-1]), sums[1])
    return least_left, most_left
