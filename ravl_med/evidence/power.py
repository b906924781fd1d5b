"""What a cohort could have shown: the smallest gap that the procedure finds.

Cohorts with the films, patients and accuracy of the audited one are simulated, each with a feature
that raises one class and lowers the others by the same gap. Classes are chosen on the discovery
half and tested on the other, under the rules of the audit and at the multiplicity of its
candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.candidates import FeatureCluster, measure_candidate
from ravl_med.discovery.ravl import AuditedTask, performance_gaps
from ravl_med.evidence.audit_result import DetectableGap, Sensitivity
from ravl_med.evidence.confirmation import (
    ConfirmationRules,
    SidedFilms,
    SideTest,
    join_sides,
    split_patients,
)

PREVALENCES = (0.05, 0.10, 0.20, 0.50)
_STEP = 0.02  # gaps are told in steps of two points
_PERMUTATIONS = 999  # of a simulated test; one of the audit has more
_PARTED = 32  # choices of raised and opposed classes whose films are kept parted


@dataclass(frozen=True, slots=True, eq=False)
class CohortDesign:
    """Films, patients and accuracy of a cohort; nothing of what its films show.

    Attributes
    ----------
    labels : ndarray of shape (N,), int64 - class of each film, none negative
    patients : ndarray of shape (N,), int64 - 0 .. P - 1
    accuracy : ndarray of shape (C,), float64 - zero-shot accuracy on each class
    discovery : ndarray of shape (N,), bool - the discovery half
    """

    labels: NDArray[np.int64]
    patients: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    discovery: NDArray[np.bool_]


def design_of(
    task: AuditedTask, patients: NDArray[np.int64], discovery: NDArray[np.bool_]
) -> CohortDesign:
    """Return the design of an audited cohort."""
    rows = np.flatnonzero(task.labels >= 0)
    labels = task.labels[rows]
    right = np.bincount(labels[task.correct[rows]], minlength=len(task.classes))
    total = np.bincount(labels, minlength=len(task.classes))
    local = np.unique(patients[rows], return_inverse=True)[1].astype(np.int64)
    return CohortDesign(labels, local, right / np.maximum(total, 1), discovery[rows])


def plan_design(
    films: int, classes: int, accuracy: float, films_a_patient: float, share: float, seed: int
) -> CohortDesign:
    """Return the design of a cohort that is yet to be collected.

    Classes are equally frequent. Patients have one film or more, by a geometric distribution with
    the given mean, all films of a patient in one class.

    Parameters
    ----------
    accuracy : float - expected zero-shot accuracy on each class
    films_a_patient : float - mean, at least 1
    share : float - of the patients on the discovery half
    """
    rng = np.random.default_rng([seed, 6])
    labels = np.arange(films, dtype=np.int64) % classes
    labels.sort()
    patients = np.zeros(films, dtype=np.int64)
    # A film opens a new patient with probability 1 / mean, and always where the class changes.
    opens = (rng.random(films) < 1.0 / max(films_a_patient, 1.0)) | (
        np.diff(labels, prepend=-1) != 0
    )
    patients = np.cumsum(opens, dtype=np.int64) - 1
    discovery = split_patients(patients, labels, share, seed)
    return CohortDesign(labels, patients, np.full(classes, accuracy), discovery)


def measure_sensitivity(
    design: CohortDesign,
    rules: ConfirmationRules,
    *,
    candidates: int,
    power: float,
    simulations: int,
    clusters: int = 0,
    untested: Mapping[str, int] | None = None,
    prevalences: Sequence[float] = PREVALENCES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sensitivity:
    """Find the smallest gap that is found with the asked power, prevalence by prevalence.

    Parameters
    ----------
    candidates : int - among which the feature has to stand out; at least 1 is charged
    power : float - for example 0.8
    simulations : int - cohorts for each prevalence
    clusters : int - proposed by the audit
    untested : mapping of reason to count - of clusters that no test could reach
    prevalences : sequence of float - share of the patients that carry the feature
    """
    sides = _parted(design)
    found = []
    total = len(prevalences) * simulations
    for number, prevalence in enumerate(prevalences):
        least = np.empty(simulations)
        for run in range(simulations):
            progress(number * simulations + run, total)
            cohort = _Simulation(design, sides, prevalence, rules, (number, run))
            least[run] = cohort.least_gap(max(candidates, 1))
        reached = np.quantile(least, power, method="higher")
        found.append(
            DetectableGap(
                prevalence=float(prevalence),
                gap=float(reached) if np.isfinite(reached) else math.nan,
                power_at_largest=float(np.isfinite(least).mean()),
            )
        )
    progress(total, total)
    reasons = dict(untested or {})
    return Sensitivity(
        power=power,
        simulations=simulations,
        candidates=max(candidates, 1),
        detectable=tuple(found),
        clusters=clusters,
        tested=clusters - sum(reasons.values()),
        untested=reasons,
    )


def simulated_power(
    design: CohortDesign,
    rules: ConfirmationRules,
    *,
    prevalence: float,
    gap: float,
    candidates: int,
    simulations: int,
) -> float:
    """Return the share of simulated cohorts in which a feature with this gap is confirmed."""
    sides = _parted(design)
    hits = sum(
        _Simulation(design, sides, prevalence, rules, (0, run)).finds(gap, max(candidates, 1))
        for run in range(simulations)
    )
    return hits / simulations


def _parted(design: CohortDesign) -> Callable[[int, tuple[int, ...]], SidedFilms]:
    """Return what parts the films of the test by raised and opposed classes, each but once."""

    @lru_cache(maxsize=_PARTED)
    def part(raised: int, opposed: tuple[int, ...]) -> SidedFilms:
        return SidedFilms.of(raised, opposed, design.labels, design.patients, ~design.discovery)

    return part


class _Simulation:
    """One simulated cohort, whose gap can be turned up while all else stays."""

    def __init__(
        self,
        design: CohortDesign,
        sides: Callable[[int, tuple[int, ...]], SidedFilms],
        prevalence: float,
        rules: ConfirmationRules,
        number: tuple[int, int],
    ) -> None:
        self.design, self.sides, self.rules, self.number = design, sides, rules, number
        rng = np.random.default_rng([rules.seed, 5, *number])
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
        design, rules = self.design, self.rules
        classes = len(design.accuracy)
        raises = (design.labels == self.raised) == self.present
        # Half of the gap above and half below the accuracy, moved where that leaves 0 .. 1.
        middle = np.clip(design.accuracy, gap / 2, 1 - gap / 2)[design.labels]
        correct = self.luck < np.where(raises, middle + gap / 2, middle - gap / 2)
        rows = np.flatnonzero(design.discovery)
        table = performance_gaps(
            self.present[rows, None], design.labels[rows], correct[rows], classes
        )
        enough = table.smaller_arm[0] >= rules.min_films
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
        if cluster.raised_class != self.raised or strength[self.raised] <= 0:
            return False
        if not cluster.lowered_classes:
            return False
        if not cluster.strength >= rules.min_strength:
            return False
        return self._confirms(cluster, correct, candidates)

    def _confirms(
        self, cluster: FeatureCluster, correct: NDArray[np.bool_], candidates: int
    ) -> bool:
        design, rules = self.design, self.rules
        names = tuple(map(str, range(len(design.accuracy))))
        rows = np.flatnonzero(~design.discovery)
        table = performance_gaps(
            cluster.present[rows, None], design.labels[rows], correct[rows], len(names)
        )

        def status(side: SideTest, q: float) -> str:
            return join_sides(cluster, names, table, side, q, rules)[0]

        if status(SideTest(0.0, 0.0, 0.0, True), 0.0) != "confirmed":
            return False  # its gaps are too small, whatever the test says
        side = self.sides(cluster.raised_class, cluster.opposed_classes).weigh(
            cluster.present, correct, rules.min_films, _PERMUTATIONS, (rules.seed, 5, *self.number)
        )
        # Its rank among the candidates is not known: the strictest step of Benjamini-Hochberg.
        return status(side, min(1.0, side.p_value * candidates)) == "confirmed"
