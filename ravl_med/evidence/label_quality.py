"""Where the labels behind a correlation come from, and its gaps on stated labels alone.

Portable films get shorter reports: what the report does not mention is blank, and a policy decides
what that counts as. A feature of such films then goes with wrong labels, and the gap that it shows
may be one of the labels. So labels are counted on films with and without a feature, and both gaps
are measured again on films whose labels are stated, by the same function and on the same half.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.ravl import AuditData, performance_gaps
from ravl_med.evidence.confirmation import Candidate
from ravl_med.evidence.effects import measure_by_presence
from ravl_med.evidence.results import (
    UNKNOWN,
    AccuracyByPresence,
    Interval,
    LabelQuality,
    LabelShare,
    StatedGap,
    StatedOutcome,
)
from ravl_med.evidence.statistics import PatientBootstrap, count_patients, percentile_interval
from ravl_med.labelling.film_labels import BLANK, STATED, UNCERTAIN


def measure_label_quality(
    data: AuditData,
    candidate: Candidate,
    arms: AccuracyByPresence,
    *,
    bootstrap: PatientBootstrap,
    min_films: int,
    confidence: float,
) -> LabelQuality | None:
    """Count the labels with and without a feature, and measure its gaps on stated ones alone.

    Labels are counted on all films of the task. The gaps are those of the films of the test, whose
    patients had no part in choosing the candidate, so that they stand beside the gaps of `arms`.
    A side with fewer than `min_films` in its smaller arm is insufficient.

    Parameters
    ----------
    arms : AccuracyByPresence - of its confirmation: the gaps whatever the labels
    bootstrap : PatientBootstrap - of all N films

    Returns
    -------
    LabelQuality or None - None where it is not known where the labels come from
    """
    if not len(data.label_sources) or not len(data.label_certainty):
        return None
    present, used = candidate.cluster.present, data.labels >= 0
    sides = np.column_stack([present & used, ~present & used])
    films = sides.sum(axis=0)
    unstated = data.label_certainty != STATED
    drawn = bootstrap.proportions(sides, unstated)
    not_stated = _share("not stated", unstated, sides, data.patients)
    known = bool(films.all())
    values = [value for value, _ in Counter(data.label_sources[used].tolist()).most_common()]
    raised, lowered = _stated_gaps(
        data, candidate, arms, ~unstated, bootstrap, min_films, confidence
    )
    return LabelQuality(
        n_present=int(films[0]),
        n_absent=int(films[1]),
        sources=tuple(
            _share(value, data.label_sources == value, sides, data.patients) for value in values
        ),
        certainty=tuple(
            _share(value, data.label_certainty == value, sides, data.patients)
            for value in (STATED, UNCERTAIN, BLANK)
        ),
        not_stated=not_stated,
        difference=not_stated.share_present - not_stated.share_absent if known else math.nan,
        interval=percentile_interval(drawn[:, 0] - drawn[:, 1], confidence) if known else UNKNOWN,
        raised=raised,
        lowered=lowered,
        patients=_patients_behind(data, candidate, ~unstated),
    )


def _share(
    value: str, member: NDArray[np.bool_], sides: NDArray[np.bool_], patients: NDArray[np.int64]
) -> LabelShare:
    """Count the films of one kind with and without the feature; `sides` is (N, 2)."""
    inside = sides & member[:, None]
    counts, films = inside.sum(axis=0).tolist(), sides.sum(axis=0).tolist()
    shares = [n / of if of else math.nan for n, of in zip(counts, films, strict=True)]
    who = count_patients(inside, patients).tolist()
    return LabelShare(value, counts[0], counts[1], shares[0], shares[1], (who[0], who[1]))


def _stated_gaps(
    data: AuditData,
    candidate: Candidate,
    arms: AccuracyByPresence,
    stated: NDArray[np.bool_],
    bootstrap: PatientBootstrap,
    min_films: int,
    confidence: float,
) -> tuple[StatedGap, StatedGap | None]:
    """Measure the raised class, and the opposed ones together, on the stated films of the test."""
    cluster = candidate.cluster
    rows = np.flatnonzero(candidate.films & (data.labels >= 0) & stated)
    table = performance_gaps(
        cluster.present[rows, None], data.labels[rows], data.correct[rows], len(data.classes)
    )
    local = np.unique(data.patients[rows], return_inverse=True)[1].astype(np.int64)
    own = PatientBootstrap(local, bootstrap.draws, bootstrap.seed)
    again = measure_by_presence(data, cluster, rows, table, own, confidence)
    raised, opposed = cluster.raised_class, list(cluster.opposed_classes)
    gaps = float(arms.gap[raised]), float(again.gap[raised])
    up = _stated_gap(arms, again, [raised], gaps, again.gap_interval[raised], min_films)
    if not opposed:
        return up, None
    gaps = arms.opposed_gap, again.opposed_gap
    return up, _stated_gap(arms, again, opposed, gaps, again.opposed_interval, min_films)


def _stated_gap(
    arms: AccuracyByPresence,
    again: AccuracyByPresence,
    classes: Sequence[int],
    gaps: tuple[float, float],
    interval: Interval,
    min_films: int,
) -> StatedGap:
    """Compare the gap of some classes on all labels with the one on stated labels."""
    n = [int(counts[list(classes)].sum()) for counts in (again.n_present, again.n_absent)]
    all_n = [int(counts[list(classes)].sum()) for counts in (arms.n_present, arms.n_absent)]
    whole, gap = gaps
    if min(n) < min_films or not math.isfinite(gap):
        return StatedGap(n[0], n[1], math.nan, UNKNOWN, "insufficient")
    outcome: StatedOutcome = "holds"
    if n == all_n:
        outcome = "unchanged"
    elif not interval.excludes_zero():
        outcome = "vanishes"
    elif gap * whole < 0:
        outcome = "turns"
    return StatedGap(n[0], n[1], gap, interval, outcome)


def _patients_behind(
    data: AuditData, candidate: Candidate, stated: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Count patients by side of the test, feature and certainty: (3, 2, 2)."""
    cluster, used = candidate.cluster, data.labels >= 0
    groups = [
        candidate.films & (data.labels == cluster.raised_class),
        candidate.films & np.isin(data.labels, cluster.opposed_classes),
    ]
    groups.append(used & ~groups[0] & ~groups[1])
    member = np.stack(groups, axis=1)[:, :, None, None]
    with_it = np.stack([cluster.present, ~cluster.present], axis=1)[:, None, :, None]
    certain = np.stack([stated, ~stated], axis=1)[:, None, None, :]
    cells = member & with_it & certain
    return count_patients(cells.reshape(len(used), -1), data.patients).reshape(cells.shape[1:])
