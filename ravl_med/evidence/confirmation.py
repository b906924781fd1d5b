"""Held-out confirmation: candidates are chosen on one half of the patients, tested on the other.

One hypothesis a candidate: on films with the feature the raised class is right more often and the
lowered classes less often. Each of the two is tested by exchange of whole patients within class;
they are joined by Stouffer's method, and the false discovery rate is controlled over all
candidates. A side that shows nothing by itself is not carried by the other.

References
----------
Stouffer et al., "The American Soldier" (1949), volume 1 (sum of normal deviates).
Benjamini, Hochberg, "Controlling the false discovery rate", JRSS B 57 (1995).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.ravl import AuditData, GapTable, opposed_gap, performance_gaps
from ravl_med.errors import DataError
from ravl_med.evidence.effects import measure_by_presence, measure_margin_shift
from ravl_med.evidence.permutation import AlikePatients
from ravl_med.evidence.results import Check, Confirmation, ConfirmationStatus, failed_reasons
from ravl_med.evidence.statistics import PatientBootstrap

_LEAST = np.finfo(np.float64).tiny
_ROUNDING = 1e-9  # 0.9 - 0.8 is a gap of 0.1


def split_patients(
    patients: NDArray[np.int64],  # (N,) patient of each film, 0 .. P - 1
    labels: NDArray[np.int64],  # (N,)
    share: float,
    seed: int,
) -> NDArray[np.bool_]:
    """Split the patients in two, evenly over classes and numbers of films.

    Returns
    -------
    ndarray of shape (N,), bool - film belongs to the discovery half, which gets `share` of the
        patients; all films of a patient are on one half
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
    data: AuditData,
    present: NDArray[np.bool_],  # (N, K) film holds a region of the cluster
    discovery: NDArray[np.bool_],  # (N,) the discovery half
    min_films: int,
) -> Mapping[str, int]:
    """Count the clusters that no test could reach, by reason.

    A cluster can be tested when, on both halves, two classes have `min_films` in the smaller arm.
    """
    reached = np.ones((present.shape[1], len(data.classes)), dtype=np.bool_)
    shares = []
    for half in (discovery, ~discovery):
        rows = np.flatnonzero(half & (data.labels >= 0))
        labels = data.labels[rows]
        table = performance_gaps(
            present[rows], labels, np.zeros(len(rows), bool), len(data.classes)
        )
        reached &= table.smaller_arm >= min_films
        shares.append(table.n_present.sum(axis=1) / max(len(rows), 1))
    share = np.mean(shares, axis=0)
    short = reached.sum(axis=1) < 2
    few = f"fewer than {min_films} films"
    reasons = {
        "in every film": short & (share == 1.0),
        "in no film": short & (share == 0.0),
        f"{few} with the feature in all but one class, on a half": short
        & (share > 0.0)
        & (share <= 0.5),
        f"{few} without the feature in all but one class, on a half": short
        & (share > 0.5)
        & (share < 1.0),
    }
    return {reason: int(flags.sum()) for reason, flags in reasons.items() if flags.any()}


@dataclass(frozen=True, slots=True)
class RaisedLoweredTest:
    """Test of the raised and of the lowered classes; NaN where one of them was not tested."""

    p_raised: float
    p_lowered: float
    p_value: float
    exact: bool
    untested: tuple[str, ...] = field(default=())  # why one was not tested, in words


@dataclass(frozen=True, slots=True, eq=False)
class RaisedLoweredFilms:
    """Films of the raised class and of the opposed ones, for every test on the same patients.

    Which films these are depends on classes and patients alone, so they are put together once for
    all simulated cohorts. A patient with films of several of these classes is taken into the one
    with most of them, the raised one in a tie, so that the two tests are independent.
    """

    two: bool  # there are opposed classes
    # films of the raised class, and of the opposed ones
    rows: tuple[NDArray[np.int64], NDArray[np.int64]]
    alike: tuple[AlikePatients, AlikePatients]  # the same films, put together

    @classmethod
    def of(
        cls,
        raised: int,
        opposed: tuple[int, ...],  # lowered classes that are tested as one; may be empty
        labels: NDArray[np.int64],  # (N,)
        patients: NDArray[np.int64],  # (N,)
        films: NDArray[np.bool_],  # (N,) to test on
    ) -> RaisedLoweredFilms:
        """Choose the films of both tests."""
        own = films & _own_class(raised, opposed, labels, patients, films)
        up = np.flatnonzero(own & (labels == raised))
        down = np.flatnonzero(own & np.isin(labels, opposed))
        alike = (
            AlikePatients.of(patients[up], labels[up]),
            AlikePatients.of(patients[down], labels[down]),
        )
        return cls(bool(opposed), (up, down), alike)

    def test(
        self,
        present: NDArray[np.bool_],  # (N,) film holds the feature
        correct: NDArray[np.bool_],  # (N,)
        min_films: int,
        permutations: int,
        seed: tuple[int, ...],
    ) -> RaisedLoweredTest:
        """Test both; one with fewer than `min_films` in its smaller arm stays untested."""
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
        return RaisedLoweredTest(p[0], p[1], joined, exact, tuple(untested))


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


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A candidate and the films that it is tested on."""

    cluster: FeatureCluster
    films: NDArray[np.bool_]  # (N,) films of patients that had no part in finding it
    swapped: bool = False  # found on the confirmation half (cross-fitting)


def confirm_candidates(
    data: AuditData,
    candidates: Sequence[Candidate],
    evidence: EvidenceConfig,
    min_strength: float = -math.inf,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[tuple[Candidate, Confirmation], ...]:
    """Test every candidate on the patients that did not choose it.

    A candidate below `min_strength` where it was found is not tested: what lies within noise would
    only cost the others their power.

    Returns
    -------
    tuple of (Candidate, Confirmation) - in the order of `candidates`; with cross-fitting one a
        cluster, in the direction that has the smaller p, which is doubled

    Raises
    ------
    DataError
        A patient has films on both halves.
    """
    carried = sum(not candidate.cluster.strength < min_strength for candidate in candidates)
    permutations = max(evidence.permutations, math.ceil(carried / evidence.fdr))
    tested: list[tuple[Candidate, RaisedLoweredTest]] = []
    for done, candidate in enumerate(candidates):
        progress(done, len(candidates))
        cluster = candidate.cluster
        _refuse_shared_patients(data, candidate.films)
        if cluster.strength < min_strength:
            reason = (
                f"its gaps lie within noise where it was found ({cluster.strength:.2f} standard "
                f"errors, below {min_strength:g}, discovery.min_strength)"
            )
            test = RaisedLoweredTest(math.nan, math.nan, math.nan, True, (reason,))
        else:
            seed = (evidence.seed, 4, 0, cluster.cluster, int(candidate.swapped))
            test = raised_and_lowered_test(
                data, cluster, candidate.films, evidence.min_n_on_half, permutations, seed
            )
        tested.append((candidate, test))
    progress(len(candidates), len(candidates))
    if evidence.cross_fit:
        tested = _join_directions(tested)
    q_values = _false_discovery([test.p_value for _, test in tested])
    return tuple(
        (candidate, _conclude(data, candidate, test, q, evidence))
        for (candidate, test), q in zip(tested, q_values, strict=True)
    )


def list_unconfirmed(
    data: AuditData, clusters: Sequence[FeatureCluster], evidence: EvidenceConfig
) -> tuple[tuple[Candidate, Confirmation], ...]:
    """Measure clusters on the films that they were chosen on, and test nothing (plain RaVL)."""
    every = np.ones(len(data.labels), dtype=np.bool_)
    why = "plain RaVL chooses on all films, and leaves none to confirm on (discovery.protocol)"
    test = RaisedLoweredTest(math.nan, math.nan, math.nan, True, (why,))
    listed = [Candidate(cluster, every) for cluster in clusters]
    return tuple((one, _conclude(data, one, test, math.nan, evidence)) for one in listed)


def raised_and_lowered_test(
    data: AuditData,
    cluster: FeatureCluster,
    films: NDArray[np.bool_],  # (N,) to test on
    min_films: int,
    permutations: int,
    seed: tuple[int, ...],
) -> RaisedLoweredTest:
    """Test the raised and the lowered classes of a candidate."""
    own = RaisedLoweredFilms.of(
        cluster.raised_class, cluster.opposed_classes, data.labels, data.patients, films
    )
    return own.test(cluster.present, data.correct, min_films, permutations, seed)


def _refuse_shared_patients(data: AuditData, films: NDArray[np.bool_]) -> None:
    known, most = data.labels >= 0, int(data.patients.max(initial=-1)) + 1
    here, there = (
        np.bincount(data.patients[side & known], minlength=most) for side in (films, ~films)
    )
    shared = np.count_nonzero((here > 0) & (there > 0))
    if shared:
        raise DataError(
            f"confirmation: {shared} patients have films on both halves; expected none, "
            "since a patient must not confirm what was found on the same patient."
        )


def _join_directions(
    tested: Sequence[tuple[Candidate, RaisedLoweredTest]],
) -> list[tuple[Candidate, RaisedLoweredTest]]:
    """Keep the better direction of each cluster, its p doubled."""
    best: dict[int, tuple[Candidate, RaisedLoweredTest]] = {}
    for candidate, test in tested:
        key = candidate.cluster.cluster
        kept = best.get(key)
        if kept is None or _or_one(test.p_value) < _or_one(kept[1].p_value):
            best[key] = (candidate, test)
    return [
        (candidate, replace(test, p_value=min(1.0, 2.0 * test.p_value)))
        if not math.isnan(test.p_value)
        else (candidate, test)
        for candidate, test in best.values()
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
    data: AuditData,
    candidate: Candidate,
    test: RaisedLoweredTest,
    q: float,
    evidence: EvidenceConfig,
) -> Confirmation:
    """Measure the tested films and hold the candidate against the rules."""
    cluster = candidate.cluster
    rows = np.flatnonzero(candidate.films & (data.labels >= 0))
    table = performance_gaps(
        cluster.present[rows, None], data.labels[rows], data.correct[rows], len(data.classes)
    )
    status, reasons = decide_status(cluster, data.classes, table, test, q, evidence)
    local = np.unique(data.patients[rows], return_inverse=True)[1].astype(np.int64)
    bootstrap = PatientBootstrap(local, evidence.draws, evidence.seed)
    return Confirmation(
        status=status,
        reasons=reasons,
        films=len(rows),
        patients=len(np.unique(local)),
        p_raised=test.p_raised,
        p_lowered=test.p_lowered,
        p_value=test.p_value,
        q_value=q,
        exact=test.exact,
        arms=measure_by_presence(data, cluster, rows, table, bootstrap, evidence.confidence),
        shift=measure_margin_shift(data, cluster, rows, bootstrap, evidence.confidence),
        swapped=candidate.swapped,
    )


def decide_status(
    cluster: FeatureCluster,
    classes: Sequence[str],
    table: GapTable,
    test: RaisedLoweredTest,
    q: float,
    evidence: EvidenceConfig,
) -> tuple[ConfirmationStatus, tuple[str, ...]]:
    """Hold a tested candidate against the rules; return its status and what speaks against it.

    The cluster has the gaps where it was found, the table those of this cluster alone on the films
    of the test.
    """
    if math.isnan(test.p_raised):
        return "not_tested", tuple(f"Not tested: {why}." for why in test.untested)
    raised, opposed = cluster.raised_class, cluster.opposed_classes
    against = failed_reasons(
        [
            Check(q <= evidence.fdr, f"q is {q:.3f}, above {evidence.fdr:g} (evidence.fdr)."),
            *_side_checks(
                f"raised class {classes[raised]}",
                float(cluster.gap[raised]),
                float(table.gap[0, raised]),
                test.p_raised,
                evidence,
            ),
        ]
    )
    if against:
        return "not_confirmed", against
    if math.isnan(test.p_lowered):
        return "raised_only", tuple(f"Lowered side not tested: {why}." for why in test.untested)
    against = failed_reasons(
        _side_checks(
            f"lowered side ({', '.join(classes[c] for c in opposed)})",
            -cluster.opposed_gap,
            -opposed_gap(table, 0, opposed),
            test.p_lowered,
            evidence,
        )
    )
    return ("raised_only", against) if against else ("confirmed", ())


def _side_checks(
    side: str, found: float, tested: float, p: float, evidence: EvidenceConfig
) -> list[Check]:
    """Check the gaps of one side where it was found and tested, positive in its direction."""
    if not tested > 0:
        return [Check(False, f"The {side} does not keep its sign on held-out patients.")]
    least = 100 * evidence.min_gap
    return [
        *(
            Check(
                value >= evidence.min_gap - _ROUNDING,
                f"The {side} has a gap below {least:g} points {where} (evidence.min_gap).",
            )
            for value, where in ((found, "where it was found"), (tested, "on held-out patients"))
        ),
        Check(
            p <= evidence.side_level,
            f"The {side} by itself has p = {p:.3f}, above {evidence.side_level:g} "
            "(evidence.side_level).",
        ),
    ]
