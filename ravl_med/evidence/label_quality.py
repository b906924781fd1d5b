"""Where the labels behind a correlation come from, and its gaps on certain labels alone.

Portable films get shorter reports: what the report does not mention is blank, and a policy decides
what that counts as. A feature of such films then goes with wrong labels, and the gap that it shows
may be one of the labels. So labels are counted on both sides of a feature, and both gaps are
measured again on films whose labels are stated, by the same function and on the same side of the
test.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.ravl import AuditedTask, performance_gaps
from ravl_med.evidence.confirmation import Candidate
from ravl_med.evidence.effects import measure_arms
from ravl_med.evidence.results import (
    AccuracyByPresence,
    Interval,
    LabelOrigin,
    LabelQuality,
    LabelShare,
    StatedGap,
    StatedOutcome,
)
from ravl_med.evidence.statistics import PatientBootstrap, count_patients, percentile_interval
from ravl_med.labelling.film_labels import BLANK, STATED, UNCERTAIN

_NAN = math.nan
_NOTHING = Interval(_NAN, _NAN)


def origin_of(sources: Sequence[str], certainty: Sequence[str]) -> LabelOrigin | None:
    """Return where labels come from, as arrays; None where it is not known.

    Parameters
    ----------
    sources, certainty : sequence of str, length N - as `Cohort` has them; empty without a task
    """
    if not sources or not certainty:
        return None
    return LabelOrigin(np.array(sources, dtype=np.str_), np.array(certainty, dtype=np.str_))


def measure_label_quality(
    candidate: Candidate,
    arms: AccuracyByPresence,
    task: AuditedTask,
    origin: LabelOrigin,
    *,
    bootstrap: PatientBootstrap,
    min_films: int,
    confidence: float,
) -> LabelQuality:
    """Count the labels on both sides of a feature, and measure its gaps on stated ones alone.

    Labels are counted on all films of the task. The gaps are those of the films of the test, whose
    patients had no part in choosing the candidate, so that they stand beside the gaps of `arms`.

    Parameters
    ----------
    candidate : Candidate - with the films of the test
    arms : AccuracyByPresence - of its confirmation: the gaps whatever the labels
    task : AuditedTask - films with label -1 are left out
    origin : LabelOrigin - of the same N films
    bootstrap : PatientBootstrap - of the same N films
    min_films : int - films in the smaller arm of a side, below which it is insufficient
    confidence : float - for example 0.95
    """
    present, used = candidate.cluster.present, task.labels >= 0
    sides = np.column_stack([present & used, ~present & used])
    films = sides.sum(axis=0)
    unstated = origin.certainty != STATED
    drawn = bootstrap.proportions(sides, unstated)
    not_stated = _share("not stated", unstated, sides, bootstrap.patients)
    known = bool(films.all())
    values = [value for value, _ in Counter(origin.sources[used].tolist()).most_common()]
    raised, lowered = _stated_gaps(
        candidate, arms, task, ~unstated, bootstrap, min_films, confidence
    )
    return LabelQuality(
        n_present=int(films[0]),
        n_absent=int(films[1]),
        sources=tuple(
            _share(value, origin.sources == value, sides, bootstrap.patients) for value in values
        ),
        certainty=tuple(
            _share(value, origin.certainty == value, sides, bootstrap.patients)
            for value in (STATED, UNCERTAIN, BLANK)
        ),
        not_stated=not_stated,
        difference=not_stated.share_present - not_stated.share_absent if known else _NAN,
        interval=percentile_interval(drawn[:, 0] - drawn[:, 1], confidence) if known else _NOTHING,
        raised=raised,
        lowered=lowered,
        patients=_patients_behind(candidate, task, ~unstated, bootstrap.patients),
    )


def _share(
    value: str, member: NDArray[np.bool_], sides: NDArray[np.bool_], patients: NDArray[np.int64]
) -> LabelShare:
    """Count the films of one kind on either side of the feature; `sides` is (N, 2)."""
    inside = sides & member[:, None]
    counts, films = inside.sum(axis=0).tolist(), sides.sum(axis=0).tolist()
    shares = [n / of if of else _NAN for n, of in zip(counts, films, strict=True)]
    who = count_patients(inside, patients).tolist()
    return LabelShare(value, counts[0], counts[1], shares[0], shares[1], (who[0], who[1]))


def _stated_gaps(
    candidate: Candidate,
    arms: AccuracyByPresence,
    task: AuditedTask,
    stated: NDArray[np.bool_],
    bootstrap: PatientBootstrap,
    min_films: int,
    confidence: float,
) -> tuple[StatedGap, StatedGap | None]:
    """Measure the raised class, and the opposed ones together, on the stated films of the test."""
    cluster = candidate.cluster
    rows = np.flatnonzero(candidate.films & (task.labels >= 0) & stated)
    table = performance_gaps(
        cluster.present[rows, None], task.labels[rows], task.correct[rows], len(task.classes)
    )
    local = np.unique(bootstrap.patients[rows], return_inverse=True)[1].astype(np.int64)
    again = measure_arms(
        cluster,
        task,
        rows,
        table,
        PatientBootstrap(local, bootstrap.draws, bootstrap.seed),
        confidence,
    )
    raised = [cluster.raised_class]
    up = _judge(
        arms, again, raised, float(arms.gap[raised[0]]), float(again.gap[raised[0]]),
        again.gap_interval[raised[0]], min_films,
    )  # fmt: skip
    opposed = list(cluster.opposed_classes)
    if not opposed:
        return up, None
    return up, _judge(
        arms, again, opposed, arms.opposed_gap, again.opposed_gap, again.opposed_interval, min_films
    )


def _judge(
    arms: AccuracyByPresence,
    again: AccuracyByPresence,
    classes: Sequence[int],
    whole: float,
    gap: float,
    interval: Interval,
    min_films: int,
) -> StatedGap:
    """Hold the gap of some classes on stated labels against `whole`, the one on all labels."""
    n = [int(counts[list(classes)].sum()) for counts in (again.n_present, again.n_absent)]
    all_n = [int(counts[list(classes)].sum()) for counts in (arms.n_present, arms.n_absent)]
    if min(n) < min_films or not math.isfinite(gap):
        return StatedGap(n[0], n[1], _NAN, _NOTHING, "insufficient")
    outcome: StatedOutcome = "holds"
    if n == all_n:
        outcome = "unchanged"
    elif not interval.excludes_zero():
        outcome = "vanishes"
    elif gap * whole < 0:
        outcome = "turns"
    return StatedGap(n[0], n[1], gap, interval, outcome)


def _patients_behind(
    candidate: Candidate,
    task: AuditedTask,
    stated: NDArray[np.bool_],
    patients: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Count patients by side of the test, feature and certainty: (3, 2, 2)."""
    cluster, used = candidate.cluster, task.labels >= 0
    groups = [
        candidate.films & (task.labels == cluster.raised_class),
        candidate.films & np.isin(task.labels, cluster.opposed_classes),
    ]
    groups.append(used & ~groups[0] & ~groups[1])
    member = np.stack(groups, axis=1)[:, :, None, None]
    with_it = np.stack([cluster.present, ~cluster.present], axis=1)[:, None, :, None]
    certain = np.stack([stated, ~stated], axis=1)[:, None, None, :]
    cells = member & with_it & certain
    return count_patients(cells.reshape(len(used), -1), patients).reshape(cells.shape[1:])
