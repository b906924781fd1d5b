"""Held-out confirmation: candidates are chosen on one half of the patients, tested on the other.

One hypothesis a candidate: on films with the feature the raised class is right more often and the
lowered classes less often. Each side is tested by exchange of whole patients within class; the two
sides are joined by Stouffer's method, and the false discovery rate is controlled over all
candidates of all tasks. A side that shows nothing by itself is not carried by the other.

References
----------
Stouffer et al., "The American Soldier" (1949), volume 1 (sum of normal deviates).
Benjamini, Hochberg, "Controlling the false discovery rate", JRSS B 57 (1995).

Two halves of the patients: one to choose candidates on, one to test them on.

Both sides of a candidate: the raised class, right more often, and the lowered, less often.

Which films belong to a side depends on classes and patients alone. So they are put together once
for all candidates, and simulated cohorts, that raise and lower the same classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.ravl import AuditedTask, GapTable, opposed_gap, performance_gaps
from ravl_med.errors import DataError
from ravl_med.evidence.effects import measure_arms, measure_shift
from ravl_med.evidence.permutation import AlikePatients
from ravl_med.evidence.results import Confirmation, ConfirmationStatus
from ravl_med.evidence.statistics import PatientBootstrap


def split_patients(
    patients: NDArray[np.int64], labels: NDArray[np.int64], share: float, seed: int
) -> NDArray[np.bool_]:
    """Split the patients in two, evenly over classes and numbers of films.

    Parameters
    ----------
    patients : ndarray of shape (N,), int64 - patient of each film, 0 .. P - 1
    labels : ndarray of shape (N,), int64 - class of each film
    share : float - of the patients on the discovery half

    Returns
    -------
    ndarray of shape (N,), bool - film belongs to the discovery half; all films of a patient do
    """
    if len(patients) == 0:
        return np.zeros(0, dtype=np.bool_)
    rng = np.random.default_rng([seed, 3])
    codes = np.unique(labels, return_inverse=True)[1]
    counts = np.zeros((int(patients.max()) + 1, int(codes.max()) + 1), dtype=np.int64)
    np.add.at(counts, (patients, codes), 1)
    # Alike patients stand side by side, so that every class and film count is dealt out evenly.
    order = np.lexsort((rng.random(len(counts)), counts.sum(axis=1), counts.argmax(axis=1)))
    start = rng.random()
    dealt = np.floor(start + share * np.arange(1, len(counts) + 1)) > np.floor(
        start + share * np.arange(len(counts))
    )
    discovery = np.zeros(len(counts), dtype=np.bool_)
    discovery[order] = dealt
    return discovery[patients]


def count_untested(
    present: NDArray[np.bool_],
    task: AuditedTask,
    discovery: NDArray[np.bool_],
    min_films: int,
) -> Mapping[str, int]:
    """Count the clusters that no test could reach, by reason.

    A cluster can be tested when, on both halves, two classes have enough films in the smaller arm.

    Parameters
    ----------
    present : ndarray of shape (N, K), bool
    discovery : ndarray of shape (N,), bool - the discovery half
    min_films : int - films in the smaller arm of a class, on each half
    """
    reached = np.ones((present.shape[1], len(task.classes)), dtype=np.bool_)
    shares = []
    for half in (discovery, ~discovery):
        rows = np.flatnonzero(half & (task.labels >= 0))
        labels = task.labels[rows]
        table = performance_gaps(
            present[rows], labels, np.zeros(len(rows), bool), len(task.classes)
        )
        reached &= table.smaller_arm >= min_films
        shares.append(table.n_present.sum(axis=1) / max(len(rows), 1))
    share = np.mean(shares, axis=0)
    short = reached.sum(axis=1) < 2
    reasons = {
        "in every film": short & (share == 1.0),
        "in no film": short & (share == 0.0),
        f"fewer than {min_films} films with it, in all classes but one, on a half": short
        & (share > 0.0)
        & (share <= 0.5),
        f"fewer than {min_films} films without it, in all classes but one, on a half": short
        & (share > 0.5)
        & (share < 1.0),
    }
    return {reason: int(flags.sum()) for reason, flags in reasons.items() if flags.any()}


_LEAST = np.finfo(np.float64).tiny


@dataclass(frozen=True, slots=True)
class SideTest:
    """Test of both sides of a candidate; NaN where a side was not tested.

    Attributes
    ----------
    untested : tuple of str - why a side was not tested, in words
    """

    p_raised: float
    p_lowered: float
    p_value: float
    exact: bool
    untested: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True, eq=False)
class SidedFilms:
    """Films that the sides of a candidate are tested on.

    A patient with films of several of these classes is taken into the one with most of them, the
    raised one in a tie, so that classes and sides are independent.

    Attributes
    ----------
    two : bool - there are opposed classes
    rows : tuple of two ndarray of int64 - films of the raised class, and of the opposed ones
    alike : tuple of two AlikePatients - the same films, put together
    """

    two: bool
    rows: tuple[NDArray[np.int64], NDArray[np.int64]]
    alike: tuple[AlikePatients, AlikePatients]

    @classmethod
    def of(
        cls,
        raised: int,
        opposed: tuple[int, ...],
        labels: NDArray[np.int64],
        patients: NDArray[np.int64],
        films: NDArray[np.bool_],
    ) -> SidedFilms:
        """Part the films of a test.

        Parameters
        ----------
        opposed : tuple of int - the lowered classes that are tested as one; may be empty
        labels, patients : ndarray of shape (N,), int64
        films : ndarray of shape (N,), bool - films to test on
        """
        own = films & _own_class(raised, opposed, labels, patients, films)
        up = np.flatnonzero(own & (labels == raised))
        down = np.flatnonzero(own & np.isin(labels, opposed))
        alike = (
            AlikePatients.of(patients[up], labels[up]),
            AlikePatients.of(patients[down], labels[down]),
        )
        return cls(bool(opposed), (up, down), alike)

    def weigh(
        self,
        present: NDArray[np.bool_],
        correct: NDArray[np.bool_],
        min_films: int,
        permutations: int,
        seed: tuple[int, ...],
    ) -> SideTest:
        """Test both sides.

        Parameters
        ----------
        present, correct : ndarray of shape (N,), bool - film holds the feature; is predicted right
        min_films : int - films in the smaller arm of a side
        permutations : int - draws where a side is not exact
        """
        untested = []
        p = [math.nan, math.nan]
        exact = True
        if not self.two:
            untested.append("no lowered class has enough films on the half it was chosen on")
        for side, (rows, alike) in enumerate(zip(self.rows, self.alike, strict=True)):
            if side and not self.two:
                continue
            shown = present[rows]
            if min(shown.sum(), (~shown).sum()) < min_films:
                untested.append(
                    f"the {'lowered' if side else 'raised'} side has fewer than {min_films} films "
                    "in the smaller arm on the half it is tested on (evidence.min_n)"
                )
                continue
            test = alike.test(
                shown,
                correct[rows],
                alternative="less" if side else "greater",
                draws=permutations,
                seed=(*seed, side),
            )
            p[side] = test.p_value
            exact &= test.exact
        joined = p[0]
        if not any(math.isnan(value) for value in p):
            # An exact p may underflow to 0, and against a p of 1 the deviates would be inf - inf.
            joined = float(stats.combine_pvalues(np.maximum(p, _LEAST), method="stouffer").pvalue)
        return SideTest(p[0], p[1], joined, exact, tuple(untested))


def raised_and_lowered_test(
    cluster: FeatureCluster,
    task: AuditedTask,
    patients: NDArray[np.int64],
    films: NDArray[np.bool_],
    min_films: int,
    permutations: int,
    seed: tuple[int, ...],
) -> SideTest:
    """Test the raised and the lowered side of a candidate.

    Parameters
    ----------
    patients : ndarray of shape (N,), int64
    films : ndarray of shape (N,), bool - films to test on
    min_films : int - films in the smaller arm of a class
    permutations : int - draws where a side is not exact
    """
    sided = SidedFilms.of(
        cluster.raised_class, cluster.opposed_classes, task.labels, patients, films
    )
    return sided.weigh(cluster.present, task.correct, min_films, permutations, seed)


def _own_class(
    raised: int,
    opposed: tuple[int, ...],
    labels: NDArray[np.int64],
    patients: NDArray[np.int64],
    films: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Whether a film is of the class, among those of the test, that its patient has most of."""
    tested = np.array([raised, *opposed])
    counts = np.zeros((int(patients.max(initial=-1)) + 1, len(tested)), dtype=np.int64)
    for column, index in enumerate(tested):
        counts[:, column] = np.bincount(patients[films & (labels == index)], minlength=len(counts))
    own: NDArray[np.bool_] = labels == tested[counts.argmax(axis=1)][patients]
    return own


_ROUNDING = 1e-9  # 0.9 - 0.8 is a gap of 0.1


@dataclass(frozen=True, slots=True)
class ConfirmationRules:
    """Thresholds of confirmation, fixed before the run.

    Attributes
    ----------
    fdr : float - largest q of a confirmed candidate
    side_level : float - largest p of either side by itself: a shortcut needs both
    min_gap : float - least unweighted gap of both sides, on both halves
    min_films : int - films in the smaller arm of a class, on each half
    permutations : int - draws where a test is not exact; more when many candidates need it
    confidence : float - of intervals
    draws : int - of the bootstrap
    cross_fit : bool - candidates of both directions come in; their p is doubled
    min_strength : float - strength of a candidate where it was found, below which it is not tested:
        what lies within noise would only cost the others their power
    """

    fdr: float
    side_level: float
    min_gap: float
    min_films: int
    permutations: int
    confidence: float
    draws: int
    seed: int
    cross_fit: bool = False
    min_strength: float = -math.inf


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A candidate and the films that it is tested on.

    Attributes
    ----------
    task : int - index of its task
    cluster : FeatureCluster - as it was found
    films : ndarray of shape (N,), bool - films of patients that had no part in finding it
    swapped : bool - found on the confirmation half (cross-fitting)
    """

    task: int
    cluster: FeatureCluster
    films: NDArray[np.bool_]
    swapped: bool = False


def confirm_candidates(
    tasks: Sequence[AuditedTask],
    candidates: Sequence[Candidate],
    patients: NDArray[np.int64],
    rules: ConfirmationRules,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[tuple[Candidate, Confirmation], ...]:
    """Test every candidate of every task on the patients that did not choose it.

    Parameters
    ----------
    candidates : sequence of Candidate - of all tasks; with cross-fitting, of both directions
    patients : ndarray of shape (N,), int64

    Returns
    -------
    tuple of (Candidate, Confirmation) - in the order of `candidates`; with cross-fitting one a
        cluster and task, in the direction that has the smaller p

    Raises
    ------
    DataError
        A patient has films on both halves.
    """
    carried = sum(not candidate.cluster.strength < rules.min_strength for candidate in candidates)
    permutations = max(rules.permutations, math.ceil(carried / rules.fdr))
    tested: list[tuple[Candidate, SideTest]] = []
    for done, candidate in enumerate(candidates):
        progress(done, len(candidates))
        _refuse_shared_patients(candidate.films, tasks[candidate.task], patients)
        if candidate.cluster.strength < rules.min_strength:
            tested.append((candidate, _left_untested(candidate.cluster, rules)))
            continue
        seed = (rules.seed, 4, candidate.task, candidate.cluster.cluster, int(candidate.swapped))
        side = raised_and_lowered_test(
            candidate.cluster,
            tasks[candidate.task],
            patients,
            candidate.films,
            rules.min_films,
            permutations,
            seed,
        )
        tested.append((candidate, side))
    progress(len(candidates), len(candidates))
    if rules.cross_fit:
        tested = _join_directions(tested)
    q_values = _false_discovery([side.p_value for _, side in tested])
    return tuple(
        (candidate, _conclude(candidate, tasks[candidate.task], patients, side, q, rules))
        for (candidate, side), q in zip(tested, q_values, strict=True)
    )


def _left_untested(cluster: FeatureCluster, rules: ConfirmationRules) -> SideTest:
    reason = (
        f"its gaps lie within noise where it was found ({cluster.strength:.2f} standard errors, "
        f"below {rules.min_strength:g}, discovery.min_strength)"
    )
    return SideTest(math.nan, math.nan, math.nan, True, (reason,))


def _refuse_shared_patients(
    films: NDArray[np.bool_], task: AuditedTask, patients: NDArray[np.int64]
) -> None:
    known = task.labels >= 0
    most = int(patients.max(initial=-1)) + 1
    here, there = (np.bincount(patients[side & known], minlength=most) for side in (films, ~films))
    shared = np.count_nonzero((here > 0) & (there > 0))
    if shared:
        raise DataError(
            f"confirmation: {shared} patients have films on both halves; expected none, "
            "since a patient must not confirm what was found on the same patient."
        )


def _join_directions(
    tested: Sequence[tuple[Candidate, SideTest]],
) -> list[tuple[Candidate, SideTest]]:
    """Keep the better direction of each cluster, its p doubled."""
    best: dict[tuple[int, int], tuple[Candidate, SideTest]] = {}
    for candidate, side in tested:
        key = (candidate.task, candidate.cluster.cluster)
        held = best.get(key)
        if held is None or _or_one(side.p_value) < _or_one(held[1].p_value):
            best[key] = (candidate, side)
    return [
        (candidate, replace(side, p_value=min(1.0, 2.0 * side.p_value)))
        if not math.isnan(side.p_value)
        else (candidate, side)
        for candidate, side in best.values()
    ]


def _or_one(p: float) -> float:
    return 1.0 if math.isnan(p) else p


def _false_discovery(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg q-values; NaN for what was not tested."""
    p = np.asarray(p_values, dtype=np.float64)
    q = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        q[known] = stats.false_discovery_control(p[known])
    return [float(value) for value in q]


def _conclude(
    candidate: Candidate,
    task: AuditedTask,
    patients: NDArray[np.int64],
    side: SideTest,
    q: float,
    rules: ConfirmationRules,
) -> Confirmation:
    """Measure the tested films and hold the candidate against the rules."""
    cluster = candidate.cluster
    rows = np.flatnonzero(candidate.films & (task.labels >= 0))
    table = performance_gaps(
        cluster.present[rows, None], task.labels[rows], task.correct[rows], len(task.classes)
    )
    status, reasons = join_sides(cluster, task.classes, table, side, q, rules)
    local = np.unique(patients[rows], return_inverse=True)[1].astype(np.int64)
    bootstrap = PatientBootstrap(local, rules.draws, rules.seed)
    return Confirmation(
        status=status,
        reasons=reasons,
        films=len(rows),
        patients=len(np.unique(local)),
        p_raised=side.p_raised,
        p_lowered=side.p_lowered,
        p_value=side.p_value,
        q_value=q,
        exact=side.exact,
        arms=measure_arms(cluster, task, rows, table, bootstrap, rules.confidence),
        shift=measure_shift(cluster, task, rows, bootstrap, rules.confidence),
        swapped=candidate.swapped,
    )


def join_sides(
    cluster: FeatureCluster,
    classes: Sequence[str],
    table: GapTable,
    side: SideTest,
    q: float,
    rules: ConfirmationRules,
) -> tuple[ConfirmationStatus, tuple[str, ...]]:
    """Hold a tested candidate against the rules.

    Parameters
    ----------
    cluster : FeatureCluster - with the gaps where it was found
    table : GapTable - of this cluster alone, on the films of the test

    Returns
    -------
    reasons : tuple of str - in words; empty when it is confirmed
    """
    if math.isnan(side.p_raised):
        return "not_tested", tuple(f"Not tested: {why}." for why in side.untested)
    objections: list[str] = []
    if not q <= rules.fdr:
        objections.append(f"q is {q:.3f}, above {rules.fdr:g} (evidence.fdr).")
    raised = cluster.raised_class
    objections += _object(
        f"raised class {classes[raised]}",
        float(cluster.gap[raised]),
        float(table.gap[0, raised]),
        side.p_raised,
        rules,
    )
    if objections:
        return "not_confirmed", tuple(objections)
    if math.isnan(side.p_lowered):
        return "raised_only", tuple(f"Lowered side not tested: {why}." for why in side.untested)
    opposed = cluster.opposed_classes
    objections = _object(
        f"lowered side ({', '.join(classes[c] for c in opposed)})",
        -cluster.opposed_gap,
        -opposed_gap(table, 0, opposed),
        side.p_lowered,
        rules,
    )
    return ("raised_only", tuple(objections)) if objections else ("confirmed", ())


def _object(
    side: str, found: float, tested: float, p: float, rules: ConfirmationRules
) -> list[str]:
    """Return what speaks against one side; gaps are positive in its direction."""
    if not tested > 0:
        return [f"The {side} does not keep its sign on held-out patients."]
    objections = []
    for value, where in ((found, "where it was found"), (tested, "on held-out patients")):
        if value < rules.min_gap - _ROUNDING:
            objections.append(
                f"The {side} has a gap below {100 * rules.min_gap:g} points {where} "
                "(evidence.min_gap)."
            )
    if p > rules.side_level:
        objections.append(
            f"The {side} by itself has p = {p:.3f}, above {rules.side_level:g} "
            "(evidence.side_level)."
        )
    return objections
