"""Intervals by resampling patients, and the area under the ROC curve with its interval.

The patient is the exchangeable unit: all films of a drawn patient come along. Proportions carry
one pseudo-success and one pseudo-failure an arm, drawn like everything else, so that an arm in
which every film is right still has width (Agresti and Caffo's thought in the bootstrap).

References
----------
Efron, Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13 (percentile interval).
Agresti, Caffo, "Simple and effective confidence intervals for proportions and differences of
proportions result from adding two successes and two failures", The American Statistician 54 (2000).
DeLong, DeLong, Clarke-Pearson, "Comparing the areas under two or more correlated ROC curves",
Biometrics 44 (1988). Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics
53 (1997): the same with several films a patient. Hanley, McNeil, "The meaning and use of the area
under a ROC curve", Radiology 143 (1982): the standard error where no film is on the wrong side.
Bell, McCaffrey, "Bias reduction in standard errors for linear regression with multi-stage samples",
Survey Methodology 28 (2002): means of films of few patients with unequal numbers of them.
Clopper, Pearson, "The use of confidence or fiducial limits illustrated in the case of the
binomial", Biometrika 26 (1934): shares in which all patients agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm, rankdata
from scipy.stats import t as student

from ravl_med.evidence.results import Interval

_INFLATION = 0.2, 5.0  # of the variance, by films that share patients and how scores are spread
_INSIDE = 1e-9  # at 0 and 1 the variance vanishes
_UNITS = 2048  # more patients than these are drawn by groups of patients, put together at random
_AT_ONCE = 1000  # draws


def centre_classes(
    values: NDArray[np.float64] | NDArray[np.bool_], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return values of films (n,) less the mean of their class."""
    which = np.unique(labels, return_inverse=True)[1]
    mean = np.bincount(which, values) / np.bincount(which)
    centred: NDArray[np.float64] = values - mean[which]
    return centred


def correlation_of(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the correlation of centred values (n,); 0 where one does not vary."""
    spread = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float(first @ second) / spread if spread else 0.0


def spread_positions(count: int, wanted: int) -> list[int]:
    """Return positions spread evenly over a list of that length, at most so many."""
    places: NDArray[np.float64] = np.linspace(0, count - 1, min(wanted, count))
    return [int(place) for place in np.unique(places.astype(np.int64))]


def auroc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Return the share of pairs in which the positive film has the higher score; ties are halves.

    NaN where one of the two kinds is missing.
    """
    n = int(positive.sum())
    m = len(positive) - n
    if not n or not m:
        return math.nan
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def auroc_interval(
    scores: NDArray[np.floating],
    positive: NDArray[np.bool_],
    patients: NDArray[np.int64],
    confidence: float,
) -> Interval:
    """Return the confidence interval of the AUROC, with patients as clusters.

    It holds the truths from which the area lies no further than chance allows (a score interval),
    so that it has width where no film is on the wrong side, and ends at 0 and 1. NaN where one of
    the two kinds has fewer than two patients.
    """
    groups = [len(np.unique(patients[kind])) for kind in (positive, ~positive)]
    if min(groups) < 2:
        return Interval(math.nan, math.nan)
    area = auroc(scores, positive)
    z = float(norm.ppf(0.5 + confidence / 2))
    inflation = 1.0
    if 0 < area < 1:
        wanted = _clustered_variance(scores, positive, patients)
        inflation = float(np.clip(wanted / _plain_variance(area, *groups), *_INFLATION))

    def beyond(truth: float) -> float:
        """Return how far the area lies from a truth, beyond what chance allows."""
        return abs(area - truth) - z * math.sqrt(inflation * _plain_variance(truth, *groups))

    low = brentq(beyond, 0.0, area - _INSIDE) if area > 0 else 0.0
    high = brentq(beyond, area + _INSIDE, 1.0) if area < 1 else 1.0
    return Interval(float(low), float(high))


def _clustered_variance(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], patients: NDArray[np.int64]
) -> float:
    """Return the variance by structural components, summed over each patient."""
    n, m = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores)
    above = np.empty(len(scores))  # share of the other kind that a film is on the right side of
    above[positive] = (ranks[positive] - rankdata(scores[positive])) / m
    above[~positive] = 1 - (ranks[~positive] - rankdata(scores[~positive])) / n
    area = float(above[positive].mean())
    _, unit = np.unique(patients, return_inverse=True)
    deviation = above - area
    of_positive = np.bincount(unit, np.where(positive, deviation, 0.0))
    of_negative = np.bincount(unit, np.where(positive, 0.0, deviation))
    own = [len(np.unique(unit[kind])) for kind in (positive, ~positive)]
    units = len(of_positive)
    variance = (
        own[0] / (own[0] - 1) * (of_positive**2).sum() / n**2
        + own[1] / (own[1] - 1) * (of_negative**2).sum() / m**2
        + 2 * units / (units - 1) * (of_positive * of_negative).sum() / (n * m)
    )
    return max(float(variance), 0.0)


def _plain_variance(area: float, n: int, m: int) -> float:
    """Return the variance that follows from the area alone, with n and m patients of each kind."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)
    return max(spread, 0.0) / (n * m)


@dataclass(frozen=True, slots=True, eq=False)
class PatientBootstrap:
    """Seeded draws of patients, the same for every statistic."""

    patients: NDArray[np.int64]  # (N,) patient of each image, 0 .. P - 1
    draws: int
    seed: int

    def proportions(self, member: NDArray[np.bool_], hit: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Draw the share of hits (N,) in each of M arms (N, M): (draws, M)."""
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
        """Draw the sums over films of columns (N, M): (draws, M)."""
        return self._draw(list(values.T))

    def _draw(self, columns: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        """Draw the sums over films of each column (N,): from sums by patient, not from films."""
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
        """Draw the mean over films of values (N,), (draws,); NaN values are left out."""
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
    """Return the two-sided percentile interval of draws (B,), Bonferroni-corrected.

    NaN draws are left out.
    """
    known = draws[np.isfinite(draws)]
    if len(known) == 0:
        return Interval(float("nan"), float("nan"))
    tail = (1.0 - confidence) / 2.0 / max(comparisons, 1)
    low, high = np.quantile(known, [tail, 1.0 - tail])
    return Interval(float(low), float(high))


def mean_interval(
    values: NDArray[np.float64],  # (n,) of films
    patients: NDArray[np.int64],  # (n,)
    confidence: float,
) -> Interval:
    """Return the two-sided interval of a mean, patients as clusters (Student's t).

    NaN for fewer than two patients.
    """
    mean, error, freedom = _clustered_mean(values, patients)
    if not freedom:
        return Interval(math.nan, math.nan)
    reach = float(student.isf((1.0 - confidence) / 2.0, freedom)) * error
    return Interval(mean - reach, mean + reach)


def share_interval(
    values: NDArray[np.float64],  # (n,) of films, -1 to 1
    patients: NDArray[np.int64],  # (n,)
    confidence: float,
) -> Interval:
    """Return the interval of a mean of shares; of patients that agree, chance leaves some open."""
    around = mean_interval(values, patients, confidence)
    others = 1.0 - ((1.0 - confidence) / 2.0) ** (1.0 / max(len(np.unique(patients)), 1))
    if math.isnan(around.low) or np.ptp(values) > 0:
        return around
    return Interval(max(around.low - others, -1.0), min(around.high + others, 1.0))


def mean_test(
    values: NDArray[np.float64],  # (n,) of films
    patients: NDArray[np.int64],  # (n,)
    least: float,
) -> float:
    """Return the one-sided p of H0: the mean is at most `least`, patients as clusters.

    Student's t: far out in the tails, where a correction for many tests looks, a bootstrap of few
    patients is too narrow. 1 for fewer than two patients.
    """
    mean, error, freedom = _clustered_mean(values, patients)
    if not freedom:
        return 1.0
    if error == 0.0:
        return float(mean <= least)
    return float(student.sf((mean - least) / error, freedom))


def _clustered_mean(
    values: NDArray[np.float64], patients: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Mean of films, its standard error with patients as clusters, and degrees of freedom.

    The error is CR2 of Bell and McCaffrey: a patient with a large share of the films pulls the mean
    to itself, and its deviation is too small by the root of what is left. Degrees of freedom are
    those of patients of equal weight that would share the films as unevenly; 0 for fewer than two.
    """
    unit = np.unique(patients, return_inverse=True)[1]
    share = np.bincount(unit) / max(len(unit), 1)
    mean = float(values.mean()) if len(values) else math.nan
    if len(share) < 2:
        return mean, math.nan, 0.0
    deviation = np.bincount(unit, values - mean) / np.sqrt(1.0 - share)
    error = float(np.sqrt((deviation**2).sum())) / len(values)
    return mean, error, 1.0 / float((share**2).sum()) - 1.0


def count_patients(member: NDArray[np.bool_], patients: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the patients (n,) of the films in each of M groups (n, M): (M,)."""
    known, unit = np.unique(patients, return_inverse=True)
    counts = np.zeros(member.shape[1], dtype=np.int64)
    for group, column in enumerate(member.T):
        seen = np.zeros(len(known), dtype=np.bool_)
        seen[unit[column]] = True
        counts[group] = seen.sum()
    return counts
