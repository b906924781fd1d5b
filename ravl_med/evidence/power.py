"""What a cohort could have shown: the smallest gap that the procedure finds, and what it may cost.

Cohorts with the films, patients and accuracy of the audited one are simulated, each with a feature
that raises one class and lowers the others by the same gap. Classes are chosen on the discovery
half and tested on the other, by the rules of the audit and at the multiplicity of its candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, binomtest

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.candidates import FeatureCluster, measure_candidate
from ravl_med.discovery.effect_features import FEWEST_FILMS
from ravl_med.discovery.ravl import AuditData, performance_gaps
from ravl_med.evidence.audit_result import DetectableGap, LocalEffectBound, Sensitivity
from ravl_med.evidence.confirmation import (
    RaisedLoweredFilms,
    RaisedLoweredTest,
    decide_status,
    split_patients,
)
from ravl_med.evidence.counterfactual.interventions import wrongly_called
from ravl_med.evidence.counterfactual.model_inputs import class_margin
from ravl_med.evidence.results import Interval, SpuriousCorrelation

PREVALENCES = (0.05, 0.10, 0.20, 0.50)
_STEP = 0.02  # gaps are given in steps of two points
_PERMUTATIONS = 999  # of a simulated test; one of the audit has more
_SURE = 0.95  # of an upper limit
_HELD = 32  # choices of raised and opposed classes whose films are kept

FilmsOfClasses = Callable[[int, tuple[int, ...]], RaisedLoweredFilms]


@dataclass(frozen=True, slots=True, eq=False)
class CohortDesign:
    """Films, patients and accuracy of a cohort; nothing of what its films show."""

    labels: NDArray[np.int64]  # (N,) class of each film, none negative
    patients: NDArray[np.int64]  # (N,) 0 .. P - 1
    accuracy: NDArray[np.float64]  # (C,) zero-shot accuracy on each class
    discovery: NDArray[np.bool_]  # (N,) the discovery half

    def films_of_classes(self) -> FilmsOfClasses:
        """Return what chooses the films of a test by raised and opposed classes, each but once."""

        @lru_cache(maxsize=_HELD)
        def choose(raised: int, opposed: tuple[int, ...]) -> RaisedLoweredFilms:
            return RaisedLoweredFilms.of(
                raised, opposed, self.labels, self.patients, ~self.discovery
            )

        return choose


def design_of(data: AuditData, discovery: NDArray[np.bool_]) -> CohortDesign:
    """Return the design of an audited cohort; `discovery` (N,) is its discovery half."""
    rows = np.flatnonzero(data.labels >= 0)
    labels = data.labels[rows]
    right = np.bincount(labels[data.correct[rows]], minlength=len(data.classes))
    total = np.bincount(labels, minlength=len(data.classes))
    local = np.unique(data.patients[rows], return_inverse=True)[1].astype(np.int64)
    return CohortDesign(labels, local, right / np.maximum(total, 1), discovery[rows])


def design_to_collect(
    films: int, classes: int, accuracy: float, films_a_patient: float, share: float, seed: int
) -> CohortDesign:
    """Return what power is simulated for: the design of a cohort that is yet to be collected.

    Classes are equally frequent and alike in accuracy. Patients have one film or more, by a
    geometric distribution with the given mean, all films of a patient in one class; `share` of the
    patients are on the discovery half.
    """
    rng = np.random.default_rng([seed, 6])
    labels = np.arange(films, dtype=np.int64) % classes
    labels.sort()
    # A film opens a new patient with probability 1 / mean, and always where the class changes.
    opens = (rng.random(films) < 1.0 / max(films_a_patient, 1.0)) | (
        np.diff(labels, prepend=-1) != 0
    )
    patients = np.cumsum(opens, dtype=np.int64) - 1
    discovery = split_patients(patients, labels, share, seed)
    return CohortDesign(labels, patients, np.full(classes, accuracy), discovery)


def design_like(
    labels: NDArray[np.int64],  # (N,) of an audited cohort
    patients: NDArray[np.int64],  # (N,)
    accuracy: NDArray[np.float64],  # (C,)
    films: int,
    share: float,
    seed: int,
) -> CohortDesign:
    """Return the design of a cohort of about so many films like an audited one.

    Of as many films it is that cohort itself; else patients are drawn of it, with all their films.
    """
    if films == len(labels):
        return CohortDesign(
            labels, patients, accuracy, split_patients(patients, labels, share, seed)
        )
    rng = np.random.default_rng([seed, 7])
    own = np.bincount(patients)
    drawn = rng.integers(len(own), size=max(1, 2 * films))
    drawn = drawn[: 1 + int(np.searchsorted(np.cumsum(own[drawn]), films))]
    order, starts = np.argsort(patients, kind="stable"), np.cumsum(own) - own
    rows = [order[starts[one] : starts[one] + own[one]] for one in drawn.tolist()]
    who = np.repeat(np.arange(len(drawn)), own[drawn])
    chosen = labels[np.concatenate(rows)]
    return CohortDesign(chosen, who, accuracy, split_patients(who, chosen, share, seed))


def measure_sensitivity(
    design: CohortDesign,
    evidence: EvidenceConfig,
    *,
    min_strength: float,
    candidates: int,
    clusters: int = 0,
    untested: Mapping[str, int] | None = None,
    prevalences: Sequence[float] = PREVALENCES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sensitivity:
    """Find the smallest gap that is found with the wanted power, prevalence by prevalence.

    Parameters
    ----------
    candidates : int - among which the feature has to stand out; at least 1 is charged
    clusters : int - proposed by the audit
    untested : mapping of reason to count - of clusters that no test could reach
    prevalences : sequence of float - share of the patients that carry the feature
    """
    films, simulations = design.films_of_classes(), evidence.simulations
    found = []
    total = len(prevalences) * simulations
    for number, prevalence in enumerate(prevalences):
        least = np.empty(simulations)
        for run in range(simulations):
            progress(number * simulations + run, total)
            cohort = SimulatedCohort(
                design, films, prevalence, evidence, min_strength, (number, run)
            )
            least[run] = cohort.least_gap(max(candidates, 1))
        reached = np.quantile(least, evidence.power, method="higher")
        found.append(
            DetectableGap(
                prevalence=float(prevalence),
                gap=float(reached) if np.isfinite(reached) else math.nan,
                power_at_largest=float(np.isfinite(least).mean()),
                interval=_quantile_interval(least, evidence.power, evidence.confidence),
            )
        )
    progress(total, total)
    reasons = dict(untested or {})
    return Sensitivity(
        power=evidence.power,
        simulations=simulations,
        candidates=max(candidates, 1),
        detectable=tuple(found),
        clusters=clusters,
        tested=clusters - sum(reasons.values()),
        untested=reasons,
    )


def _quantile_interval(values: NDArray[np.float64], share: float, confidence: float) -> Interval:
    """Return the interval of a quantile by order statistics; infinite values are no bound."""
    tails = (1.0 - confidence) / 2.0
    ranks = np.asarray(binom.ppf([tails, 1.0 - tails], len(values), share)).astype(np.int64)
    low, high = np.sort(values)[np.clip(ranks, 0, len(values) - 1)].tolist()
    return Interval(*(bound if math.isfinite(bound) else math.nan for bound in (low, high)))


class SimulatedCohort:
    """One simulated cohort, whose gap can be turned up while all else stays."""

    def __init__(
        self,
        design: CohortDesign,
        films: FilmsOfClasses,
        prevalence: float,
        evidence: EvidenceConfig,
        min_strength: float,
        number: tuple[int, int],
    ) -> None:
        self.design, self.films, self.evidence = design, films, evidence
        self.min_strength, self.number = min_strength, number
        rng = np.random.default_rng([evidence.seed, 5, *number])
        patients = int(design.patients.max(initial=-1)) + 1
        self.present = (rng.random(patients) < prevalence)[design.patients]
        self.luck = rng.random(len(design.labels))
        self.raised = int(rng.integers(len(design.accuracy)))

    def least_gap(self, candidates: int) -> float:
        """Return the smallest gap that is found among so many candidates; inf where none is."""
        low, high = 1, round(1.0 / _STEP) + 1
        while low < high:
            middle = (low + high) // 2
            if self.finds(middle * _STEP, candidates):
                high = middle
            else:
                low = middle + 1
        return high * _STEP if high * _STEP <= 1.0 else math.inf

    def finds(self, gap: float, candidates: int) -> bool:
        """Tell whether the feature is confirmed, with the right raised class."""
        design = self.design
        classes = len(design.accuracy)
        raises = (design.labels == self.raised) == self.present
        # Half of the gap above and half below the accuracy, moved where that leaves 0 .. 1.
        middle = np.clip(design.accuracy, gap / 2, 1 - gap / 2)[design.labels]
        correct = self.luck < np.where(raises, middle + gap / 2, middle - gap / 2)
        rows = np.flatnonzero(design.discovery)
        table = performance_gaps(
            self.present[rows, None], design.labels[rows], correct[rows], classes
        )
        enough = table.smaller_arm[0] >= self.evidence.min_n_on_half
        strength = np.where(enough, table.standardised_gap[0], 0.0)
        cluster = measure_candidate(
            0,
            self.present,
            table,
            strength,
            regions=np.empty(0, np.int64),
            similarity=np.empty(0),
            influence=1.0,
        )
        chosen = cluster.raised_class == self.raised and strength[self.raised] > 0
        if not chosen or not cluster.lowered_classes or not cluster.strength >= self.min_strength:
            return False
        return self._confirms(cluster, correct, candidates)

    def _confirms(
        self, cluster: FeatureCluster, correct: NDArray[np.bool_], candidates: int
    ) -> bool:
        design, evidence = self.design, self.evidence
        names = tuple(map(str, range(len(design.accuracy))))
        rows = np.flatnonzero(~design.discovery)
        table = performance_gaps(
            cluster.present[rows, None], design.labels[rows], correct[rows], len(names)
        )

        def confirmed(test: RaisedLoweredTest, q: float) -> bool:
            return decide_status(cluster, names, table, test, q, evidence)[0] == "confirmed"

        if not confirmed(RaisedLoweredTest(0.0, 0.0, 0.0, True), 0.0):
            return False  # its gaps are too small, whatever the test says
        seed = (evidence.seed, 5, *self.number)
        test = self.films(cluster.raised_class, cluster.opposed_classes).test(
            cluster.present, correct, evidence.min_n_on_half, _PERMUTATIONS, seed
        )
        # Its rank among the candidates is not known: the strictest step of Benjamini-Hochberg.
        return confirmed(test, min(1.0, test.p_value * candidates))


def bound_local_effects(
    data: AuditData,
    logits: NDArray[np.float32],  # (N, C)
    discovery: NDArray[np.bool_],  # (N,) the discovery half
    mapped: NDArray[np.int64],  # films whose effects were mapped
    unnamed: Sequence[SpuriousCorrelation],
) -> LocalEffectBound:
    """Bound what a local feature that is not named may cost, in accuracy on these films.

    It costs at most what it makes the model call wrongly, for it makes calls right as well: films
    of other classes that are found to have it and are called as the class that it raises. Removing
    it undoes those of its making: as many as of those tried, with a margin that it could bridge.
    """
    known = data.labels >= 0
    held = ~discovery & known
    patients = len(np.unique(data.patients[held]))
    wrong = int((known & ~data.correct)[mapped].sum())
    missed = min(1.0, FEWEST_FILMS / max(wrong, 1))
    errors = _upper_share(float((~data.correct)[held].mean()) if held.any() else 1.0, patients)
    costs = []
    for one in unnamed:
        if one.counterfactual is None:  # no gap was confirmed, and no effect has proposed it
            continue
        wrong_calls = known & one.cluster.present & wrongly_called(data, one.cluster)
        costs.append(wrong_calls.sum() / known.sum() * _most_undone(one, logits[wrong_calls]))
    seen, unseen = max(costs, default=0.0), missed * errors
    points = max(seen, unseen)
    return LocalEffectBound(points, seen, unseen, len(costs), len(mapped), wrong)


def _most_undone(one: SpuriousCorrelation, logits: NDArray[np.float32]) -> float:
    """Return the upper limit of the share of wrong calls (n, C) that removing a feature undoes."""
    assert one.counterfactual is not None
    removal = one.counterfactual.removal
    limits = [1.0]
    if removal.wrong_calls is not None:
        tried = removal.wrong_calls
        least = _upper_share(max(tried.decisions, 0.0), tried.patients)  # where nothing varies
        limits.append(max(least, tried.decisions_interval.high))
    change = removal.both or removal.explored
    if change is not None and len(logits):
        margin = class_margin(logits, one.cluster.raised_class, None)
        limits.append(float((margin <= change.interval.high).mean()))
    return min(limits)


def _upper_share(share: float, of: int) -> float:
    """Return the one-sided upper limit of a share of so many patients (Wilson)."""
    if of < 1:
        return 1.0
    found = binomtest(min(round(share * of), of), of)
    return float(found.proportion_ci(2.0 * _SURE - 1.0, method="wilson").high)
