"""Area under the ROC curve with an interval by patient.

References
----------
DeLong, DeLong, Clarke-Pearson, "Comparing the areas under two or more correlated ROC curves",
Biometrics 44 (1988). Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics
53 (1997): the same with several films a patient. Hanley, McNeil, "The meaning and use of the area
under a ROC curve", Radiology 143 (1982): the standard error where no film is on the wrong side.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

from ravl_med.evidence.claims import Interval

__all__ = ["auroc", "auroc_interval"]

_INFLATION = (
    0.2,
    5.0,
)  # of the variance, by films that share patients and by how scores are spread
_INSIDE = 1e-9  # at 0 and 1 the variance vanishes


def auroc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Return the share of pairs in which the positive film has the higher score; ties are halves.

    Parameters
    ----------
    scores : ndarray of shape (N,)
    positive : ndarray of shape (N,), bool

    Returns
    -------
    float - NaN where one of the two kinds is missing
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
    so that it has width where no film is on the wrong side, and ends at 0 and 1.

    Parameters
    ----------
    scores : ndarray of shape (N,)
    positive : ndarray of shape (N,), bool
    patients : ndarray of shape (N,), int64 - 0 .. P - 1
    confidence : float - for example 0.95

    Returns
    -------
    Interval - NaN where one of the two kinds has fewer than two patients
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
    """Return the variance that the area alone tells, of `n` positive and `m` negative patients."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)
    return max(spread, 0.0) / (n * m)
