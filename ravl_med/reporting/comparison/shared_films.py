"""The films that two runs share, and what both models do on them, measured alike.

References
----------
McNemar, "Note on the sampling error of the difference between correlated proportions or
percentages", Psychometrika 12 (1947). With one film a patient `swap_test` is its exact form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ravl_med.evidence.claims import Interval
from ravl_med.evidence.small_cells import HIDDEN, hidden_cells
from ravl_med.evidence.statistics import PatientBootstrap, count_patients, percentile_interval

__all__ = [
    "HIDDEN_AGREEMENT",
    "HIDDEN_PAIR",
    "NOTHING",
    "Agreement",
    "Paired",
    "SharedFilms",
    "swap_test",
]

NOTHING = Interval(float("nan"), float("nan"))
_NAN = float("nan")

Two = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Paired:
    """A measure of both models on the same films.

    Attributes
    ----------
    films : int - that it is measured on; -1 where that may not be told, and nothing of them
    a, b : float - NaN where nothing could be measured
    a_interval, b_interval : Interval - bootstrap by patient
    difference : float - b minus a
    interval : Interval - of the difference, the same draws for both
    """

    films: int
    a: float
    a_interval: Interval
    b: float
    b_interval: Interval
    difference: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often two models are right together.

    Attributes
    ----------
    films : int - -1 where nothing of them may be told
    same : int - films with the same decision, right or wrong
    both_right, only_a, only_b, both_wrong : int - films; they sum to `films`
    """

    films: int
    same: int
    both_right: int
    only_a: int
    only_b: int
    both_wrong: int

    @property
    def same_share(self) -> float:
        """Share of films with the same decision; NaN without any."""
        return self.same / self.films if self.films > 0 else math.nan


HIDDEN_PAIR = Paired(HIDDEN, _NAN, NOTHING, _NAN, NOTHING, _NAN, NOTHING)
HIDDEN_AGREEMENT = Agreement(*(HIDDEN,) * 6)
"""Of few patients, nothing is told."""


@dataclass(frozen=True, slots=True, eq=False)
class SharedFilms:
    """The n films of both runs that bear the same label.

    Attributes
    ----------
    classes : tuple of str, length C
    rows : two ndarrays of shape (n,), int64 - their places in run A and in run B
    labels : ndarray of shape (n,), int64
    predictions : two ndarrays of shape (n,), int64 - class with the highest score, of A and of B
    patients : ndarray of shape (n,), int64 - 0 .. P - 1
    bootstrap : PatientBootstrap - over these films
    confidence : float
    least : int - counts of fewer patients are hidden; 0: none is
    """

    classes: tuple[str, ...]
    rows: tuple[NDArray[np.int64], NDArray[np.int64]]
    labels: NDArray[np.int64]
    predictions: tuple[NDArray[np.int64], NDArray[np.int64]]
    patients: NDArray[np.int64]
    bootstrap: PatientBootstrap
    confidence: float
    least: int = 0

    @property
    def count(self) -> int:
        """Number of films."""
        return len(self.labels)

    @property
    def correct(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each model is right on each film."""
        in_a, in_b = self.predictions
        return in_a == self.labels, in_b == self.labels

    @property
    def same(self) -> NDArray[np.bool_]:
        """Whether both models decide alike, rightly or wrongly."""
        alike: NDArray[np.bool_] = self.predictions[0] == self.predictions[1]
        return alike

    def drawn(self, member: NDArray[np.bool_]) -> Two:
        """Draw the accuracy of both models in each of M arms (n, M), as (draws, M) each."""
        in_a, in_b = (self.bootstrap.proportions(member, right) for right in self.correct)
        return in_a, in_b

    def shares(self, member: NDArray[np.bool_]) -> tuple[Paired, ...]:
        """Measure the accuracy in each of M arms.

        Parameters
        ----------
        member : ndarray of shape (n, M), bool
        """
        draws_a, draws_b = self.drawn(member)
        in_a, in_b = self.accuracies(member)
        return tuple(
            self.paired(float(in_a[m]), float(in_b[m]), draws_a[:, m], draws_b[:, m], films)
            for m, films in enumerate(member.sum(axis=0).tolist())
        )

    def accuracies(self, member: NDArray[np.bool_]) -> Two:
        """Return the accuracy of both models in each of M arms, (M,) each; NaN without a film."""
        films = member.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            in_a, in_b = ((member & right[:, None]).sum(axis=0) / films for right in self.correct)
        return in_a, in_b

    def hidden(self, member: NDArray[np.bool_]) -> frozenset[int]:
        """Return which of M groups of films, (n, M), with a known total may not be told of."""
        if not self.least:
            return frozenset()
        return hidden_cells(count_patients(member, self.patients).tolist(), self.least)

    def agreement(self, member: NDArray[np.bool_]) -> Agreement:
        """Count on which of the films `member`, (n,), the two models agree."""
        in_a, in_b = self.correct
        return Agreement(
            films=int(member.sum()),
            same=int((member & self.same).sum()),
            both_right=int((member & in_a & in_b).sum()),
            only_a=int((member & in_a & ~in_b).sum()),
            only_b=int((member & ~in_a & in_b).sum()),
            both_wrong=int((member & ~in_a & ~in_b).sum()),
        )

    def paired(
        self,
        a: float,
        b: float,
        draws_a: NDArray[np.float64],
        draws_b: NDArray[np.float64],
        films: int,
    ) -> Paired:
        """Return two values with the intervals of (B,) draws each; none where one is unknown."""
        if not films or not np.isfinite(a + b):
            return Paired(films, a, NOTHING, b, NOTHING, b - a, NOTHING)
        return Paired(
            films,
            a,
            percentile_interval(draws_a, self.confidence),
            b,
            percentile_interval(draws_b, self.confidence),
            b - a,
            percentile_interval(draws_b - draws_a, self.confidence),
        )


def swap_test(
    right_a: NDArray[np.bool_], right_b: NDArray[np.bool_], patients: NDArray[np.int64]
) -> float:
    """Test whether one of two models is right more often, by exchange of their answers.

    Under the null hypothesis the two models' answers on a patient may be exchanged, all films of
    the patient together; the distribution over all exchanges is computed whole, not drawn.

    Parameters
    ----------
    right_a, right_b : ndarray of shape (N,), bool
    patients : ndarray of shape (N,), int64

    Returns
    -------
    float - exact two-sided p; 1 where both are right on equally many films
    """
    gain = np.bincount(patients, weights=right_b.astype(np.float64) - right_a)
    sums = np.rint(gain).astype(np.int64)
    chances = np.ones(1)  # of each total, from -(len - 1) / 2 on
    for size, count in zip(*np.unique(np.abs(sums[sums != 0]), return_counts=True), strict=True):
        own = np.zeros(2 * size * count + 1)
        own[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, own)
    totals = np.arange(len(chances)) - len(chances) // 2
    return float(min(chances[np.abs(totals) >= abs(int(sums.sum()))].sum(), 1.0))
