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

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravl_med.evidence.claims import Interval

__all__ = ["PatientBootstrap", "count_patients", "percentile_interval"]

_UNITS = 2048  # more patients than these are drawn by groups of patients, put together at random
_AT_ONCE = 1000  # draws


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
        arms = member.shape[1]
        drawn = self._draw([*member.T, *(arm & hit for arm in member.T)])
        n, x = drawn[:, :arms], drawn[:, arms:]
        rng = np.random.default_rng([self.seed, 1])
        success, failure = rng.poisson(1.0, n.shape), rng.poisson(1.0, n.shape)
        size = n + success + failure
        share: NDArray[np.float64] = np.full_like(n, 0.5)
        np.divide(x + success, size, out=share, where=size > 0)
        return share

    def totals(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Draw the sums over images of M columns.

        Parameters
        ----------
        values : ndarray of shape (N, M), float64 or bool

        Returns
        -------
        ndarray of shape (draws, M), float64
        """
        return self._draw(list(values.T))

    def _draw(self, columns: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        """Draw the sums over images of each column (N,): from sums by patient, not from images."""
        patients = int(self.patients.max(initial=-1)) + 1
        units = min(patients, _UNITS)
        unit = self.patients
        if units < patients:
            unit = np.random.default_rng([self.seed, 3]).permutation(patients)[unit] % units
        sums = np.empty((units, len(columns)))
        for number, column in enumerate(columns):
            sums[:, number] = np.bincount(unit, column, units)
        # Sums of films are whole numbers, exact in float32; a mean loses its seventh digit.
        exact, times = sums.astype(np.float32), _draw_units(units, self.draws, self.seed)
        drawn = np.empty((self.draws, len(columns)))
        for start in range(0, self.draws, _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            drawn[part] = times[part].astype(np.float32) @ exact
        return drawn

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
        drawn = self.totals(np.column_stack([np.where(known, values, 0.0), known]))
        total, n = drawn[:, 0], drawn[:, 1]
        mean: NDArray[np.float64] = np.full_like(total, np.nan)
        np.divide(total, n, out=mean, where=n > 0)
        return mean


@lru_cache(maxsize=2)
def _draw_units(units: int, draws: int, seed: int) -> NDArray[np.uint16]:
    """How often each patient (or group of patients) was drawn: (draws, units), small integers."""
    rng = np.random.default_rng([seed, 0])
    drawn = np.empty((draws, units), dtype=np.uint16)
    share = np.full(units, 1.0 / max(units, 1))
    for start in range(0, draws, _AT_ONCE):
        size = min(_AT_ONCE, draws - start)
        drawn[start : start + size] = rng.multinomial(units, share, size=size)
    drawn.flags.writeable = False
    return drawn


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


def count_patients(member: NDArray[np.bool_], patients: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the patients of the films in each of M groups.

    Parameters
    ----------
    member : ndarray of shape (n, M), bool - the film is in the group
    patients : ndarray of shape (n,), int64

    Returns
    -------
    ndarray of shape (M,), int64
    """
    known, unit = np.unique(patients, return_inverse=True)
    counts = np.zeros(member.shape[1], dtype=np.int64)
    for group, column in enumerate(member.T):
        seen = np.zeros(len(known), dtype=np.bool_)
        seen[unit[column]] = True
        counts[group] = seen.sum()
    return counts
