"""The correlations of two runs, matched by what they raise and by the films that they are on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ravl_med.evidence.adjudication import correlation_id
from ravl_med.evidence.claims import Interval, Kind, PairedChange, SpuriousCorrelation
from ravl_med.evidence.small_cells import HIDDEN
from ravl_med.reporting.audit.sentences import outcome_words
from ravl_med.reporting.comparison.compared_run import ComparedRun
from ravl_med.reporting.comparison.shared_films import HIDDEN_PAIR, NOTHING, Paired, SharedFilms

__all__ = [
    "MIN_OVERLAP",
    "ComparedCorrelation",
    "FoundCorrelation",
    "Matching",
    "compare_correlations",
]

MIN_OVERLAP = 0.5
"""Jaccard index of the films with the feature, from which on two correlations are the same."""

Matching = Literal[
    "in_both", "not_confirmed_in_b", "not_found_in_b", "not_confirmed_in_a", "new_in_b"
]


@dataclass(frozen=True, slots=True)
class FoundCorrelation:
    """A correlation as its own run reports it.

    Attributes
    ----------
    rank : int
    correlation_id : str - as in ``result.json``
    outcome : str - what became of it, in words
    description : str - what its regions are, in words; blank where the run does not say
    kind : {"shortcut", "plausible_sign", "undecided"}
    counts, confirmed : bool
    used : bool or None - None where it was not tested
    q_value : float
    lowered_classes : tuple of str - that are tested as one
    raised_gap, lowered_gap : float - on held-out patients
    raised_interval, lowered_interval : Interval
    removal : float - contrast of removal, median fill, in logits; NaN where it was not tested
    removal_interval : Interval
    removal_size : float - contrast of removal, mean of both fills, as a share of the standard
        deviation of the margin, which two models have in common
    ruling : str or None - what a reviewer decided, where it is in force
    """

    rank: int
    correlation_id: str
    outcome: str
    description: str
    kind: Kind
    counts: bool
    confirmed: bool
    used: bool | None
    q_value: float
    lowered_classes: tuple[str, ...]
    raised_gap: float
    raised_interval: Interval
    lowered_gap: float
    lowered_interval: Interval
    removal: float
    removal_interval: Interval
    removal_size: float
    ruling: str | None


@dataclass(frozen=True, slots=True)
class ComparedCorrelation:
    """A correlation that counts, or is confirmed, in A or in B.

    Attributes
    ----------
    raised_class : str
    matching : {"in_both", "not_confirmed_in_b", "not_found_in_b", "not_confirmed_in_a", "new_in_b"}
    overlap : float - Jaccard index of their films; NaN without a match
    a, b : FoundCorrelation or None - None where the run has no candidate that matches
    feature_of : {"A", "B"} - the run whose feature the gaps below are measured with
    films_with_feature : int - compared films that hold it
    raised, lowered : Paired - gap of the raised class, and of the classes that are tested as one,
        on the compared films: accuracy with minus without the feature, for both models
    """

    raised_class: str
    matching: Matching
    overlap: float
    a: FoundCorrelation | None
    b: FoundCorrelation | None
    feature_of: Literal["A", "B"]
    films_with_feature: int
    raised: Paired
    lowered: Paired


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A correlation of a run, on the compared films."""

    run: ComparedRun
    found: SpuriousCorrelation
    present: NDArray[np.bool_]

    @property
    def raised(self) -> str:
        return self.run.classes[self.found.cluster.raised_class]

    @property
    def shown(self) -> bool:
        return self.found.counts or self.found.confirmation.status == "confirmed"


def compare_correlations(
    a: ComparedRun, b: ComparedRun, films: SharedFilms
) -> tuple[ComparedCorrelation, ...]:
    """Match what counts, or is confirmed, in one of two runs with what the other has.

    Parameters
    ----------
    a, b : ComparedRun
    films : SharedFilms

    Returns
    -------
    tuple of ComparedCorrelation - those of A that count, those of B alone that count, then the
        confirmed ones likewise
    """
    of_a, of_b = (
        [_Candidate(run, one, one.cluster.present[rows]) for one in run.result.correlations]
        for run, rows in zip((a, b), films.rows, strict=True)
    )
    made: list[ComparedCorrelation] = []
    matched: set[int] = set()
    for one in of_a:
        if one.shown:
            other, overlap = _best(one, of_b)
            matched |= {other.found.rank} if other else set()
            made.append(_compared(one, other, overlap, one, films))
    for one in of_b:
        if one.shown and one.found.rank not in matched:
            other, overlap = _best(one, of_a)
            made.append(_compared(other, one, overlap, one, films))
    return tuple(sorted(made, key=lambda entry: not _counts(entry)))


def _counts(entry: ComparedCorrelation) -> bool:
    """Whether it counts; one of B alone is not here for what A has of it."""
    sides = (entry.b,) if entry.feature_of == "B" else (entry.a, entry.b)
    return any(one is not None and one.counts for one in sides)


def _best(one: _Candidate, others: Sequence[_Candidate]) -> tuple[_Candidate | None, float]:
    """Return the candidate that shares most films; one that is confirmed goes before any other."""
    near = [
        (other.shown, overlap, other)
        for other in others
        if other.raised == one.raised
        and (overlap := _jaccard(one.present, other.present)) >= MIN_OVERLAP
    ]
    if not near:
        return None, math.nan
    _, overlap, best = max(near, key=lambda entry: entry[:2])
    return best, overlap


def _jaccard(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 0.0


def _compared(
    a: _Candidate | None,
    b: _Candidate | None,
    overlap: float,
    feature: _Candidate,
    films: SharedFilms,
) -> ComparedCorrelation:
    cluster, own = feature.found.cluster, feature.run.classes
    opposed = [films.classes.index(own[c]) for c in cluster.opposed_classes]
    raised = _gap(films, feature.present, [films.classes.index(feature.raised)])
    lowered = _gap(films, feature.present, opposed)
    few = films.hidden(np.column_stack([feature.present, ~feature.present]))
    few |= {0} if HIDDEN in (raised.films, lowered.films) else set()
    return ComparedCorrelation(
        raised_class=feature.raised,
        matching=_matching(a, b),
        overlap=overlap,
        a=_found(a) if a else None,
        b=_found(b) if b else None,
        feature_of="A" if feature is a else "B",
        films_with_feature=HIDDEN if few else int(feature.present.sum()),
        raised=raised,
        lowered=lowered,
    )


def _matching(a: _Candidate | None, b: _Candidate | None) -> Matching:
    if a is None:
        return "new_in_b"
    if b is None:
        return "not_found_in_b"
    if a.shown and b.shown:
        return "in_both"
    return "not_confirmed_in_b" if a.shown else "not_confirmed_in_a"


def _gap(films: SharedFilms, present: NDArray[np.bool_], classes: Sequence[int]) -> Paired:
    """Accuracy with minus without a feature, classes weighted by n_in n_out / n."""
    of_class = films.labels[:, None] == np.asarray(classes, dtype=np.int64)
    with_it, without = of_class & present[:, None], of_class & ~present[:, None]
    if any(films.hidden(np.column_stack(arms)) for arms in zip(with_it.T, without.T, strict=True)):
        return HIDDEN_PAIR
    n_in, n_out = with_it.sum(axis=0), without.sum(axis=0)
    weight = n_in * n_out / np.maximum(n_in + n_out, 1)
    if not weight.sum() > 0:
        return films.paired(math.nan, math.nan, np.empty(0), np.empty(0), int(of_class.sum()))
    weight = weight / weight.sum()
    arms = np.hstack([with_it, without])
    values, draws = films.accuracies(arms), films.drawn(arms)
    half = len(classes)
    # A class that lacks an arm has no gap, and no weight.
    gap_a, gap_b = (float(np.nan_to_num(v[:half] - v[half:]) @ weight) for v in values)
    drawn_a, drawn_b = ((d[:, :half] - d[:, half:]) @ weight for d in draws)
    return films.paired(gap_a, gap_b, drawn_a, drawn_b, int(of_class.sum()))


def _found(one: _Candidate) -> FoundCorrelation:
    found, result, classes = one.found, one.run.result, one.run.classes
    cluster, test, tested = found.cluster, found.confirmation, found.counterfactual
    removal = _contrast(tested.removal.median if tested else None)
    return FoundCorrelation(
        rank=found.rank,
        correlation_id=correlation_id(result, found),
        outcome=outcome_words(found),
        description=result.descriptions.get(cluster.cluster, ""),
        kind=found.kind,
        counts=found.counts,
        confirmed=test.status == "confirmed",
        used=tested.used if tested else None,
        q_value=test.q_value,
        lowered_classes=tuple(classes[c] for c in cluster.opposed_classes),
        raised_gap=float(test.arms.gap[cluster.raised_class]),
        raised_interval=test.arms.gap_interval[cluster.raised_class],
        lowered_gap=test.arms.opposed_gap,
        lowered_interval=test.arms.opposed_interval,
        removal=removal[0],
        removal_interval=removal[1],
        removal_size=tested.removal.size if tested else math.nan,
        ruling=one.run.rulings.get(found.rank),
    )


def _contrast(change: PairedChange | None) -> tuple[float, Interval]:
    return (math.nan, NOTHING) if change is None else (change.contrast, change.interval)
