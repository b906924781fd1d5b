"""The two arms of a feature: accuracy and margins with it and without it, with intervals."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.ravl import AuditedTask, GapTable, opposed_gap
from ravl_med.evidence.claims import ArmPatients, Arms, Interval, ScoreShift
from ravl_med.evidence.statistics import PatientBootstrap, count_patients, percentile_interval

__all__ = ["measure_arms", "measure_shift"]


def measure_arms(
    cluster: FeatureCluster,
    task: AuditedTask,
    rows: NDArray[np.int64],
    table: GapTable,
    bootstrap: PatientBootstrap,
    confidence: float,
) -> Arms:
    """Measure accuracy with and without a feature, class by class.

    Parameters
    ----------
    cluster : FeatureCluster
    task : AuditedTask
    rows : ndarray of shape (n,), int64 - the films
    table : GapTable - of this cluster alone, on these films
    bootstrap : PatientBootstrap - over these films
    confidence : float
    """
    classes, opposed = len(task.classes), list(cluster.opposed_classes)
    member = task.labels[rows, None] == np.arange(classes)
    with_it = cluster.present[rows, None]
    draws = np.full((1, 2 * classes), math.nan)
    if len(rows):
        draws = bootstrap.proportions(
            np.hstack([member & with_it, member & ~with_it]), task.correct[rows]
        )
    present, absent = draws[:, :classes], draws[:, classes:]
    has_present, has_absent = table.n_present[0] > 0, table.n_absent[0] > 0
    both = has_present & has_absent
    n_in, n_out = table.n_present[0], table.n_absent[0]
    weight = np.where(both, n_in * n_out / np.maximum(n_in + n_out, 1), 0.0)[opposed]
    together = Interval(math.nan, math.nan)
    if weight.sum() > 0:
        pooled = (present - absent)[:, opposed] @ (weight / weight.sum())
        together = percentile_interval(pooled, confidence)
    return Arms(
        n_present=table.n_present[0],
        n_absent=table.n_absent[0],
        accuracy_present=table.accuracy_present[0],
        accuracy_absent=table.accuracy_absent[0],
        present_interval=_intervals(present, has_present, confidence),
        absent_interval=_intervals(absent, has_absent, confidence),
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
    unknown = Interval(math.nan, math.nan)
    return tuple(
        percentile_interval(draws[:, c], confidence) if known[c] else unknown
        for c in range(draws.shape[1])
    )


def measure_shift(
    cluster: FeatureCluster,
    task: AuditedTask,
    rows: NDArray[np.int64],
    bootstrap: PatientBootstrap,
    confidence: float,
) -> ScoreShift:
    """Measure how far the margin moves with a feature, in the raised and in the lowered class.

    Parameters
    ----------
    cluster : FeatureCluster
    task : AuditedTask
    rows : ndarray of shape (n,), int64 - the films
    bootstrap : PatientBootstrap - over these films
    confidence : float
    """
    lowered = cluster.lowered_class
    unknown = Interval(math.nan, math.nan)
    if lowered is None:
        return ScoreShift(math.nan, unknown, math.nan, unknown)
    scores = np.log(np.maximum(task.image_scores[rows].astype(np.float64), 1e-30))
    margin = scores[:, cluster.raised_class] - scores[:, lowered]
    shifts, intervals = [], []
    for index in (cluster.raised_class, lowered):
        inside = task.labels[rows] == index
        arms = [inside & cluster.present[rows], inside & ~cluster.present[rows]]
        if not all(arm.any() for arm in arms):
            shifts.append(math.nan)
            intervals.append(unknown)
            continue
        draws = [bootstrap.mean(np.where(arm, margin, np.nan)) for arm in arms]
        shifts.append(float(margin[arms[0]].mean() - margin[arms[1]].mean()))
        intervals.append(percentile_interval(draws[0] - draws[1], confidence))
    return ScoreShift(shifts[0], intervals[0], shifts[1], intervals[1])
