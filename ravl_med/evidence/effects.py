"""Counts and accuracies of the audited films: overall, by class, with a feature and without."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.manifest import Cohort
from ravl_med.config.audit import GateConfig
from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.ravl import AuditData, GapTable, opposed_gap
from ravl_med.evidence.audit_result import Accuracy, CohortSummary, Leak
from ravl_med.evidence.results import UNKNOWN, AccuracyByPresence, ArmPatients, Interval, ScoreShift
from ravl_med.evidence.statistics import PatientBootstrap, count_patients, percentile_interval

NOT_STATED = "not stated"
_BAND_STARTS = (0, 18, 40, 60, 80)
_BANDS = ("0-17", "18-39", "40-59", "60-79", "80+")
_PER_YEAR = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}


def measure_accuracy(
    labels: NDArray[np.int64],  # (N,)
    predictions: NDArray[np.int64],  # (N,)
    classes: int,
    bootstrap: PatientBootstrap,  # of the same N films
    confidence: float,
) -> Accuracy:
    """Measure zero-shot accuracy overall and class by class."""
    correct = predictions == labels
    member = np.column_stack([np.ones(len(labels), bool), np.eye(classes, dtype=bool)[labels]])
    draws = bootstrap.proportions(member, correct)
    counts = member.sum(axis=0)
    intervals = _intervals(draws, counts > 0, confidence)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = (member & correct[:, None]).sum(axis=0) / counts
    predicted = np.bincount(predictions, minlength=classes) / max(len(predictions), 1)
    return Accuracy(
        overall=float(shares[0]),
        overall_interval=intervals[0],
        images=len(labels),
        by_class=tuple(float(v) for v in shares[1:]),
        by_class_interval=intervals[1:],
        images_by_class=tuple(int(n) for n in counts[1:]),
        predicted_share=tuple(float(v) for v in predicted),
    )


def check_auditability(
    accuracy: Accuracy, classes: Sequence[str], gate: GateConfig
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return why an audit cannot go on, and why it can end in nothing better than a fail.

    It cannot with too few films in a class, or where one gets almost all predictions: there are no
    gaps at all. That one gets almost none may be the work of a shortcut to another.
    """
    stops = [
        f"{name}: fewer than {gate.min_films} films, the least an audit needs (gate.min_films). "
        "Add films, or choose another finding."
        for name, count in zip(classes, accuracy.images_by_class, strict=True)
        if count < gate.min_films
    ]
    rare = []
    for name, share in zip(classes, accuracy.predicted_share, strict=True):
        if accuracy.images and share > gate.max_prediction_share:
            stops.append(
                f"The model calls more than {100 * gate.max_prediction_share:g} % of the films "
                f"{name} (gate.max_prediction_share): it does not distinguish the classes. Check "
                "prompts and preprocessing."
            )
        elif accuracy.images and share < gate.min_prediction_share:
            rare.append(name)
    least = f"{100 * gate.min_prediction_share:g} % of the films"  # how many may not be shown
    doubt = (
        f"The model hardly ever calls a film {', '.join(rare)}: less than {least} each "
        "(gate.min_prediction_share). Check the prompts."
    )
    return tuple(stops), (doubt,) if rare else ()


def measure_by_presence(
    data: AuditData,
    cluster: FeatureCluster,
    rows: NDArray[np.int64],  # (n,) films
    table: GapTable,  # of this cluster alone, on these films
    bootstrap: PatientBootstrap,  # over these films
    confidence: float,
) -> AccuracyByPresence:
    """Measure accuracy with and without a feature, class by class."""
    classes, opposed = len(data.classes), list(cluster.opposed_classes)
    member = data.labels[rows, None] == np.arange(classes)
    with_it = cluster.present[rows, None]
    draws = np.full((1, 2 * classes), math.nan)
    if len(rows):
        draws = bootstrap.proportions(
            np.hstack([member & with_it, member & ~with_it]), data.correct[rows]
        )
    present, absent = draws[:, :classes], draws[:, classes:]
    n_in, n_out = table.n_present[0], table.n_absent[0]
    both = (n_in > 0) & (n_out > 0)
    weight = np.where(both, n_in * n_out / np.maximum(n_in + n_out, 1), 0.0)[opposed]
    together = UNKNOWN
    if weight.sum() > 0:
        pooled = (present - absent)[:, opposed] @ (weight / weight.sum())
        together = percentile_interval(pooled, confidence)
    return AccuracyByPresence(
        n_present=n_in,
        n_absent=n_out,
        accuracy_present=table.accuracy_present[0],
        accuracy_absent=table.accuracy_absent[0],
        present_interval=_intervals(present, n_in > 0, confidence),
        absent_interval=_intervals(absent, n_out > 0, confidence),
        gap_interval=_intervals(present - absent, both, confidence),
        opposed_gap=opposed_gap(table, 0, opposed),
        opposed_interval=together,
        patients=ArmPatients(
            count_patients(member & with_it, bootstrap.patients),
            count_patients(member & ~with_it, bootstrap.patients),
        ),
    )


def _intervals(
    draws: NDArray[np.float64], known: NDArray[np.bool_], confidence: float
) -> tuple[Interval, ...]:
    """Interval of each column of (B, C) draws; without bounds where nothing is known."""
    return tuple(
        percentile_interval(draws[:, c], confidence) if known[c] else UNKNOWN
        for c in range(draws.shape[1])
    )


def measure_margin_shift(
    data: AuditData,
    cluster: FeatureCluster,
    rows: NDArray[np.int64],  # (n,) films
    bootstrap: PatientBootstrap,  # over these films
    confidence: float,
) -> ScoreShift:
    """Measure how far the margin moves with a feature, in the raised and in the lowered class."""
    lowered = cluster.lowered_class
    if lowered is None:
        return ScoreShift(math.nan, UNKNOWN, math.nan, UNKNOWN)
    scores = np.log(np.maximum(data.image_scores[rows].astype(np.float64), 1e-30))
    margin = scores[:, cluster.raised_class] - scores[:, lowered]
    shifts, intervals = [], []
    for index in (cluster.raised_class, lowered):
        inside = data.labels[rows] == index
        arms = [inside & cluster.present[rows], inside & ~cluster.present[rows]]
        if not all(arm.any() for arm in arms):
            shifts.append(math.nan)
            intervals.append(UNKNOWN)
            continue
        draws = [bootstrap.mean(np.where(arm, margin, np.nan)) for arm in arms]
        shifts.append(float(margin[arms[0]].mean() - margin[arms[1]].mean()))
        intervals.append(percentile_interval(draws[0] - draws[1], confidence))
    return ScoreShift(shifts[0], intervals[0], shifts[1], intervals[1])


def summarise_cohort(cohort: Cohort, applied: Sequence[str], *, synthetic: bool) -> CohortSummary:
    """Count the audited films by class and attribute, and the others by reason.

    Parameters
    ----------
    applied : sequence of str, length N - how stored values became pixels
    """
    values = {
        name: [age_band(v) if name == "age" else v or NOT_STATED for v in column]
        for name, column in cohort.attributes.items()
    }
    by_class = {name: _count_classes(column, cohort) for name, column in values.items()}
    values["pixels"] = list(applied)
    if cohort.label_sources:
        values["label source"] = list(cohort.label_sources)
        values["label certainty"] = list(cohort.label_certainty)
    patients = cohort.patients.tolist()
    members = {name: cohort.labels == c for c, name in enumerate(cohort.classes)}
    return CohortSummary(
        listed=cohort.listed,
        left_out=dict(cohort.left_out),
        rejected=dict(Counter(film.reason for film in cohort.rejected)),
        rejected_rows=tuple((f.row, f.reason, f.message) for f in cohort.rejected),
        images=len(cohort),
        patients=len(np.unique(cohort.patients)),
        images_by_class={name: int(own.sum()) for name, own in members.items()},
        attributes={name: dict(Counter(column).most_common()) for name, column in values.items()},
        radiology_reports=sum(bool(text) for text in cohort.radiology_reports),
        synthetic=synthetic,
        patients_by_class={
            name: len(np.unique(cohort.patients[own])) for name, own in members.items()
        },
        attribute_patients={
            name: dict(Counter(value for value, _ in set(zip(column, patients, strict=True))))
            for name, column in values.items()
        },
        classes_by_attribute={name: films for name, (films, _) in by_class.items()},
        class_patients={name: patients for name, (_, patients) in by_class.items()},
        leaks=tuple(_leak(cohort, place, films) for place, films in cohort.elsewhere.items()),
        not_compared=cohort.not_compared,
    )


def _leak(cohort: Cohort, place: str, films: NDArray[np.bool_]) -> Leak:
    patients, of = (len(np.unique(cohort.patients[own])) for own in (films, films | True))
    share: Literal["some", "most", "all"] = "most" if 2 * patients > of else "some"
    return Leak(
        place=place,
        images=int(films.sum()),
        patients=patients,
        fitted=place in ("split finetune", "model.trained_on"),
        share="all" if patients == of else share,
    )


def _count_classes(
    column: Sequence[str], cohort: Cohort
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Count films, and patients, of each class by value, the most frequent value first."""
    member = cohort.labels[:, None] == np.arange(len(cohort.classes))
    films, patients = {}, {}
    for value, _ in Counter(column).most_common():
        inside = member & (np.array(column) == value)[:, None]
        films[value] = tuple(inside.sum(axis=0).tolist())
        patients[value] = tuple(count_patients(inside, cohort.patients).tolist())
    return films, patients


def age_band(value: str) -> str:
    """Name the band of an age: years, or a DICOM age string such as ``063Y`` or ``018M``.

    Children stand apart, since a film of a child is another examination; adults stand in bands of
    twenty years: decades would leave too few films to compare in most audits, and ages above 89
    must not be shown in any case.
    """
    text = value.strip().upper()
    per_year = _PER_YEAR.get(text[-1:], 0.0)
    try:
        years = float(text[:-1] if per_year else text) / (per_year or 1.0)
    except ValueError:
        return NOT_STATED
    if not 0 <= years < np.inf:
        return NOT_STATED
    return _BANDS[bisect_right(_BAND_STARTS, years) - 1]
