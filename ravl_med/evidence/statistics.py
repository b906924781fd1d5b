"""Intervals by resampling patients.

The patient is the exchangeable unit: all films of a drawn patient come along. Proportions carry
one pseudo-success and one pseudo-failure an arm, drawn like everything else, so that an arm in
which every film is right still has width (the thought of Agresti and Caffo, carried into the
bootstrap).

References
----------
Efron, Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13 (percentile interval).
Agresti, Caffo, "Simple and effective confidence intervals for proportions and differences of
proportions result from adding two successes and two failures", The American Statistician 54 (2000).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.evidence.audit_result import Interval

__all__ = ["PatientBootstrap", "percentile_interval"]

_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True, eq=False)
class PatientBootstrap:
    """Seeded draws of patients, the same for every statistic that is asked of them.

    Attributes
    ----------
    patients : ndarray of shape (N,), int64 - patient of each image, 0 .. P - 1
    draws : int
    seed : int
    """

    patients: NDArray[np.int64]
    draws: int
    seed: int

    def proportions(self, member: NDArray[np.bool_], hit: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Draw the share of hits in each of M arms.

        Parameters
        ----------
        member : ndarray of shape (N, M), bool - image belongs to the arm
        hit : ndarray of shape (N,), bool

        Returns
        -------
        ndarray of shape (draws, M), float64
        """
        totals = self._by_patient(member.astype(np.float64))
        hits = self._by_patient((member & hit[:, None]).astype(np.float64))
        rng = np.random.default_rng([self.seed, 1])
        parts = []
        for weights in self._weights():
            n, x = weights @ totals, weights @ hits
            success = rng.poisson(1.0, n.shape)
            failure = rng.poisson(1.0, n.shape)
            size = n + success + failure
            share = np.divide(x + success, size, out=np.full_like(n, 0.5), where=size > 0)
            parts.append(share)
        return np.concatenate(parts)

    def totals(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Draw the sums over images of M columns; the columns of one call share their draws.

        Patients with equal sums can stand for each other, so that kinds of patients are drawn,
        which are few however many the patients are.

        Parameters
        ----------
        values : ndarray of shape (N, M), float64

        Returns
        -------
        ndarray of shape (draws, M), float64
        """
        sums = np.ascontiguousarray(self._by_patient(values))
        rows = sums.view(np.dtype((np.void, sums.itemsize * sums.shape[1])))[:, 0]
        _, first, count = np.unique(rows, return_index=True, return_counts=True)
        rng = np.random.default_rng([self.seed, 2])
        block = max(1, _CELLS_AT_ONCE // len(count))
        sizes = [min(block, self.draws - start) for start in range(0, self.draws, block)]
        drawn = (rng.multinomial(len(sums), count / len(sums), size=size) for size in sizes)
        return np.concatenate([kinds.astype(np.float64) @ sums[first] for kinds in drawn])

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Draw the mean over images of values; NaN values are left out.

        Parameters
        ----------
        values : ndarray of shape (N,), float64

        Returns
        -------
        ndarray of shape (draws,), float64 - NaN where a draw holds no value
        """
        known = np.isfinite(values)
        sums = self._by_patient(np.where(known, values, 0.0)[:, None])
        counts = self._by_patient(known[:, None].astype(np.float64))
        parts = []
        for weights in self._weights():
            total, n = (weights @ sums)[:, 0], (weights @ counts)[:, 0]
            parts.append(np.divide(total, n, out=np.full_like(total, np.nan), where=n > 0))
        return np.concatenate(parts)

    def _by_patient(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum (N, M) over the images of each patient: (P, M)."""
        count = int(self.patients.max(initial=-1)) + 1
        sums = np.zeros((count, values.shape[1]))
        np.add.at(sums, self.patients, values)
        return sums

    def _weights(self) -> Iterator[NDArray[np.float64]]:
        """How often each patient was drawn, in blocks of draws: (b, P)."""
        count = int(self.patients.max(initial=-1)) + 1
        rng = np.random.default_rng([self.seed, 0])
        block = max(1, min(self.draws, _CELLS_AT_ONCE // max(count, 1)))
        share = np.full(count, 1.0 / count)
        for start in range(0, self.draws, block):
            size = min(block, self.draws - start)
            yield rng.multinomial(count, share, size=size).astype(np.float64)


def percentile_interval(
    draws: NDArray[np.float64], confidence: float, comparisons: int = 1
) -> Interval:
    """Return the two-sided percentile interval, Bonferroni-corrected.

    Parameters
    ----------
    draws : ndarray of shape (B,), float64 - NaN draws are left out
    confidence : float - for example 0.95
    comparisons : int - how many intervals are looked at together
    """
    known = draws[np.isfinite(draws)]
    if len(known) == 0:
        return Interval(float("nan"), float("nan"))
    tail = (1.0 - confidence) / 2.0 / max(comparisons, 1)
    low, high = np.quantile(known, [tail, 1.0 - tail])
    return Interval(float(low), float(high))
