"""Both sides of a candidate: the raised class, right more often, and the lowered, less often.

Which films belong to a side depends on classes and patients alone. So they are put together once
for all candidates, and simulated cohorts, that raise and lower the same classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.ravl import AuditedTask
from ravl_med.evidence.exchange import AlikePatients

__all__ = ["SideTest", "SidedFilms", "weigh_sides"]

_LEAST = np.finfo(np.float64).tiny


@dataclass(frozen=True, slots=True)
class SideTest:
    """Test of both sides of a candidate; NaN where a side was not tested.

    Attributes
    ----------
    p_raised, p_lowered, p_value : float
    exact : bool
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
        raised : int
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
        seed : tuple of int
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


def weigh_sides(
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
    cluster : FeatureCluster
    task : AuditedTask
    patients : ndarray of shape (N,), int64
    films : ndarray of shape (N,), bool - films to test on
    min_films : int - films in the smaller arm of a class
    permutations : int - draws where a side is not exact
    seed : tuple of int
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
