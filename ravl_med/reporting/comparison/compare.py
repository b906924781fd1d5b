"""Two audits side by side: what differs between two models on the same films, and how surely.

Correlations are matched by what they raise and by the films that they are on.

Films are the same where their pseudonyms are. Both models are measured on the same films and
resampled with the same draws of patients, so that the interval of a difference knows that they are
alike; two runs that say the same of every film differ by 0 (0 to 0).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.disclosure_control import HIDDEN, hidden_cells
from ravl_med.evidence.rate_rounding import coarse_rates, on_grid, upper_bound, widened
from ravl_med.evidence.results import UNKNOWN, Interval, Kind, PairedChange, SpuriousCorrelation
from ravl_med.evidence.statistics import PatientBootstrap, percentile_interval
from ravl_med.reporting.audit.sentences import outcome_text
from ravl_med.reporting.comparison import runs
from ravl_med.reporting.layout.blocks import Status
from ravl_med.storage.documents import BY_CLASS, Count, result_type

COMPARISON_SCHEMA_VERSION = "1.1"
"""Of ``comparison.json``: major.minor; the major changes when a name goes."""

MIN_OVERLAP = 0.5
"""Jaccard index of the films with the feature, from which on two correlations are the same."""

Matching = Literal[
    "in_both", "not_confirmed_in_b", "not_found_in_b", "not_confirmed_in_a", "new_in_b"
]


@result_type()
class FoundCorrelation:
    """A correlation as its own run reports it."""

    rank: int = Field(description="in its run")
    correlation_id: str = Field(description="as in its result.json")
    outcome: str = Field(description="what became of it, in words")
    description: str = Field(description="what its regions are called; blank: not said")
    kind: Kind = Field(description="by where the removal effect lies")
    counts: bool = Field(description="it decides the verdict of its run")
    confirmed: bool = Field(description="it holds on held-out patients")
    used: bool | None = Field(description="by the model; null: not tested")
    q_value: float = Field(description="Benjamini-Hochberg over the candidates of its run")
    lowered_classes: tuple[str, ...] = Field(description="that are tested together as one")
    raised_gap: float = Field(description="of the raised class, on its held-out patients")
    raised_interval: Interval
    lowered_gap: float = Field(description="of the lowered classes, on its held-out patients")
    lowered_interval: Interval
    removal: float = Field(
        description="fall of the margin beyond a control, median fill, logits; null: not tested"
    )
    removal_interval: Interval
    removal_size: float = Field(
        description="the same, mean of both fills, over the standard deviation of the margin"
    )
    ruling: str | None = Field(description="decision of a reviewer that is in force")


@result_type()
class ComparedCorrelation:
    """A correlation that counts, or is confirmed, in one of the runs."""

    raised_class: str = Field(description="class that the feature raises")
    matching: Matching = Field(
        description="what the other run has of it: the same raised class on the same films"
    )
    overlap: float = Field(description="Jaccard index of the films with it; null: no match")
    a: FoundCorrelation | None = Field(description="null: no candidate of A matches")
    b: FoundCorrelation | None = Field(description="null: no candidate of B matches")
    feature_of: Literal["A", "B"] = Field(description="whose feature the gaps below are of")
    films_with_feature: Count = Field(description="compared films that hold it")
    raised: runs.Paired = Field(
        description="gap of the raised class on the compared films, those it was found on included"
    )
    lowered: runs.Paired = Field(description="the same of the lowered classes together")


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A correlation of a run, on the compared films."""

    run: runs.ComparedRun
    found: SpuriousCorrelation
    present: NDArray[np.bool_]

    @property
    def raised(self) -> str:
        return self.run.classes[self.found.cluster.raised_class]

    @property
    def shown(self) -> bool:
        return self.found.counts or self.found.confirmation.status == "confirmed"


def compare_correlations(
    a: runs.ComparedRun, b: runs.ComparedRun, films: runs.SharedFilms
) -> tuple[ComparedCorrelation, ...]:
    """Match what counts, or is confirmed, in one of two runs with what the other has.

    Those of A that count come first, then those of B alone that count, then the confirmed ones
    likewise.
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
    films: runs.SharedFilms,
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


def _gap(
    films: runs.SharedFilms, present: NDArray[np.bool_], classes: Sequence[int]
) -> runs.Paired:
    """Accuracy with minus without a feature, classes weighted by n_in n_out / n."""
    of_class = films.labels[:, None] == np.asarray(classes, dtype=np.int64)
    with_it, without = of_class & present[:, None], of_class & ~present[:, None]
    if any(films.hidden(np.column_stack(arms)) for arms in zip(with_it.T, without.T, strict=True)):
        return runs.HIDDEN_PAIR
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
    removal = _contrast(tested.removal.both if tested else None)
    return FoundCorrelation(
        rank=found.rank,
        correlation_id=found.correlation_id(result),
        outcome=outcome_text(found),
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
    return (math.nan, UNKNOWN) if change is None else (change.contrast, change.interval)


Outcome = Literal["same_decisions", "no_difference_shown", "a_more_accurate", "b_more_accurate"]

_CONFIDENCE = 0.95
_DRAWS = 10_000
_CELLS = ("both_right", "only_a", "only_b", "both_wrong")


@result_type()
class FilmCounts:
    """Which films are compared; they are the same where their pseudonyms are."""

    compared: Count = Field(description="films in both runs that bear the same label")
    patients: Count = Field(description="that they belong to")
    only_a: Count = Field(description="films of A that are not in B")
    only_b: Count = Field(description="films of B that are not in A")
    other_label: int = Field(description="films in both that bear another label in B; left out")
    joined: int = Field(description="patients of one run that the other splits, taken as one")


@result_type()
class WorstClass:
    """Accuracy on the class that each model does worst on."""

    change: runs.Paired
    class_a: str = Field(description="worst class of A")
    class_b: str = Field(description="worst class of B")


@result_type(
    members="schema_version outcome status a b task films settings overall worst by_class"
    " agreement agreement_interval agreement_by_class p_value one_film_a_patient correlations"
    " min_overlap confidence draws seed hidden_below",
    doc="Two audits side by side.",
    eq=False,
)
class Comparison:
    """Everything that a comparison says; differences are B minus A."""

    a: runs.RunFacts
    b: runs.RunFacts
    task: str = Field(description="of both")
    classes: tuple[str, ...]
    films: FilmCounts
    settings: tuple[runs.Setting, ...] = Field(description="that differ; empty: none does")
    outcome: Outcome = Field(description="what the interval of the difference of accuracy shows")
    overall: runs.Paired = Field(description="accuracy on all compared films")
    worst: WorstClass
    by_class: Annotated[tuple[runs.Paired, ...], BY_CLASS] = Field(
        description="accuracy on the films of each class"
    )
    agreement: runs.Agreement
    agreement_interval: Interval = Field(description="[low, high] of agreement.same_share")
    agreement_by_class: Annotated[tuple[runs.Agreement, ...], BY_CLASS]
    p_value: float = Field(
        description="two-sided, exact, of the difference of accuracy: the answers of both models "
        "exchanged patient by patient"
    )
    one_film_a_patient: bool = Field(description="true: that test is McNemar's exact test")
    correlations: tuple[ComparedCorrelation, ...] = Field(
        description="what counts or is confirmed in a run; what counts comes first"
    )
    confidence: FiniteFloat = Field(description="of every interval")
    draws: int = Field(description="bootstrap draws of patients")
    seed: int = Field(description="of the draws")
    hidden_below: int = Field(
        default=0,
        description="counts of fewer patients, and what they follow from, are null; 0: none is",
    )

    @property
    def schema_version(self) -> str:
        """Major.minor; the major changes when a name goes."""
        return COMPARISON_SCHEMA_VERSION

    @property
    def min_overlap(self) -> FiniteFloat:
        """Least Jaccard index of the films of two features that are one."""
        return MIN_OVERLAP

    @property
    def status(self) -> Status:
        """FINAL where both runs are."""
        return "FINAL" if self.a.status == self.b.status == "FINAL" else "DRAFT"


def compare_runs(folder_a: Path, folder_b: Path) -> Comparison:
    """Compare two audits: of two models on the same films, or of one before and after.

    Raises
    ------
    ConfigError
        One is no run of an audit, or they audit different tasks.
    DataError
        A file cannot be used, or the runs have no film in common.
    """
    a, b = runs.open_run(folder_a, "RUN_A"), runs.open_run(folder_b, "RUN_B")
    _refuse_other_task(a, b)
    films, counts = _shared(a, b)
    every = np.ones(films.count, dtype=np.bool_)
    member = np.column_stack([every, films.labels[:, None] == np.arange(len(a.classes))])
    overall, *by_class = films.shares(member)
    few = films.hidden(member[:, 1:])
    by_class = [runs.HIDDEN_PAIR if c in few else paired for c, paired in enumerate(by_class)]
    agreed = films.agreement(every)
    made = Comparison(
        a=runs.facts_of(a),
        b=runs.facts_of(b),
        task=a.result.task.name,
        classes=a.classes,
        films=counts,
        settings=runs.differing_settings(a, b),
        outcome=_outcome(overall, agreed),
        overall=overall,
        worst=_worst(films, member, by_class),
        by_class=tuple(by_class),
        agreement=agreed,
        agreement_interval=percentile_interval(
            films.bootstrap.proportions(every[:, None], films.same)[:, 0], films.confidence
        ),
        agreement_by_class=tuple(
            runs.HIDDEN_AGREEMENT if c in few else films.agreement(own)
            for c, own in enumerate(member.T[1:])
        ),
        p_value=runs.swap_test(*films.correct, films.patients),
        one_film_a_patient=len(np.unique(films.patients)) == films.count,
        correlations=compare_correlations(a, b, films),
        confidence=films.confidence,
        draws=films.bootstrap.draws,
        seed=films.bootstrap.seed,
        hidden_below=films.least,
    )
    return _coarsen(made, films) if films.least > 1 else made


def _outcome(overall: runs.Paired, agreed: runs.Agreement) -> Outcome:
    if agreed.same == agreed.films:
        return "same_decisions"
    if not overall.interval.excludes_zero():
        return "no_difference_shown"
    return "b_more_accurate" if overall.difference > 0 else "a_more_accurate"


def _coarsen(made: Comparison, films: runs.SharedFilms) -> Comparison:
    """Return a comparison as it may be shown: rates in steps, small counts of films hidden."""
    least, share = films.least, len(np.unique(films.patients)) / films.count

    def coarsen(pair: runs.Paired, *, gap: bool = False) -> runs.Paired:
        if pair.films < 0:
            return pair
        steps = int(pair.films * share) // least // (2 if gap else 1)
        step, low = 1 / max(steps, 1), -1.0 if gap else 0.0
        a, b = (
            on_grid(rate, steps) if gap else float(coarse_rates(rate, pair.films, steps))
            for rate in (pair.a, pair.b)
        )
        return replace(
            pair,
            a=a,
            a_interval=widened(a, pair.a, pair.a_interval, step, least=low),
            b=b,
            b_interval=widened(b, pair.b, pair.b_interval, step, least=low),
            difference=b - a,
            interval=widened(b - a, pair.difference, pair.interval, step, least=low - 1),
        )

    by_class = [_hide_counts(one, least) for one in made.agreement_by_class]
    counts = np.array([[getattr(one, name) for name in _CELLS] for one in by_class])
    agreed = _hide_counts(made.agreement, least, np.flatnonzero((counts < 0).any(axis=0)).tolist())
    return replace(
        made,
        overall=coarsen(made.overall),
        worst=replace(made.worst, change=coarsen(made.worst.change)),
        by_class=tuple(map(coarsen, made.by_class)),
        agreement=agreed,
        agreement_interval=made.agreement_interval if agreed.same >= 0 else UNKNOWN,
        agreement_by_class=tuple(by_class),
        p_value=upper_bound(made.p_value),
        correlations=tuple(
            replace(
                one, raised=coarsen(one.raised, gap=True), lowered=coarsen(one.lowered, gap=True)
            )
            for one in made.correlations
        ),
    )


def _hide_counts(
    agreed: runs.Agreement, least: int, forced: Collection[int] = ()
) -> runs.Agreement:
    """Hide small counts of an agreement, and what they would follow from."""
    if agreed.films < 0:
        return agreed
    counts = [getattr(agreed, name) for name in _CELLS]
    hidden = hidden_cells(counts, least, [at for at in forced if counts[at]])
    changes = {_CELLS[at]: HIDDEN for at in hidden}
    if hidden or hidden_cells((agreed.same, agreed.films - agreed.same), least):
        changes["same"] = HIDDEN
    return replace(agreed, **changes)


def _refuse_other_task(a: runs.ComparedRun, b: runs.ComparedRun) -> None:
    if a.result.task.name != b.result.task.name:
        raise ConfigError(
            f"RUN_B: its task is {b.result.task.name[:40]!r}, that of RUN_A is "
            f"{a.result.task.name[:40]!r}; expected two audits of one task."
        )
    if set(a.classes) != set(b.classes):
        apart = sorted(set(a.classes) ^ set(b.classes))
        raise ConfigError(
            f"RUN_B: its classes are not those of RUN_A ({apart[0][:40]!r} is in one of them "
            "alone); expected two audits of one task."
        )


def _shared(a: runs.ComparedRun, b: runs.ComparedRun) -> tuple[runs.SharedFilms, FilmCounts]:
    """Return the films of both runs, in the order of A and with the classes of A."""
    where = {key: at for at, key in enumerate(b.films)}
    pairs = [(at, where[key]) for at, key in enumerate(a.films) if key in where]
    if not pairs:
        raise DataError(
            "the two runs have no film in common: pseudonyms agree only between audits of the same "
            "films under the same key (the user's key of this tool). Audit both on one machine."
        )
    at_a, at_b = np.array(pairs, dtype=np.int64).T
    to_a = np.array([a.classes.index(name) for name in b.classes])
    alike = a.labels[at_a] == to_a[b.labels[at_b]]
    if not alike.any():
        raise DataError(
            "no film that is in both runs bears the same label in both. Audit both with the same "
            "manifest."
        )
    at_a, at_b = at_a[alike], at_b[alike]
    patients, joined = _patients(a.patients[at_a], b.patients[at_b])
    evidence = [a.config.get("evidence.draws"), b.config.get("evidence.draws")]
    draws = max([n for n in evidence if isinstance(n, int)], default=_DRAWS)
    seed = a.config.get("evidence.seed", 0)
    films = runs.SharedFilms(
        classes=a.classes,
        rows=(at_a, at_b),
        labels=a.labels[at_a],
        predictions=(a.predictions[at_a], to_a[b.predictions[at_b]]),
        patients=patients,
        bootstrap=PatientBootstrap(patients, draws, seed),
        confidence=_CONFIDENCE,
        least=max(a.result.hidden_below, b.result.hidden_below),
    )
    counts = FilmCounts(
        compared=len(at_a),
        patients=HIDDEN if patients.max() + 1 < films.least else int(patients.max()) + 1,
        only_a=len(a.films) - len(pairs),
        only_b=len(b.films) - len(pairs),
        other_label=int((~alike).sum()),
        joined=joined,
    )
    return films, counts


def _patients(of_a: NDArray[np.int64], of_b: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Return patient numbers of (n,) films; two that either run takes for one are one."""
    _, in_a = np.unique(of_a, return_inverse=True)
    _, in_b = np.unique(of_b, return_inverse=True)
    many_a, many_b = int(in_a.max()) + 1, int(in_b.max()) + 1
    links = sparse.coo_matrix(
        (np.ones(len(in_a)), (in_a, many_a + in_b)), shape=(many_a + many_b,) * 2
    )
    count, of = connected_components(links, directed=False)
    _, patients = np.unique(of[in_a], return_inverse=True)
    return patients.astype(np.int64), max(many_a, many_b) - int(count)


def _worst(
    films: runs.SharedFilms, member: NDArray[np.bool_], by_class: Sequence[runs.Paired]
) -> WorstClass:
    """Return the lowest accuracy of a class that has films, for each model its own."""
    known = [c for c, paired in enumerate(by_class) if paired.films > 0]
    if not known:
        return WorstClass(runs.HIDDEN_PAIR, "", "")
    draws_a, draws_b = (draws[:, 1:][:, known].min(axis=1) for draws in films.drawn(member))
    lowest_a = min(known, key=lambda c: by_class[c].a)
    lowest_b = min(known, key=lambda c: by_class[c].b)
    change = films.paired(by_class[lowest_a].a, by_class[lowest_b].b, draws_a, draws_b, films.count)
    return WorstClass(change, films.classes[lowest_a], films.classes[lowest_b])
