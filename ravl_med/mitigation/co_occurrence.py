"""What travels with a feature: the lead of a generator, the wires of electrodes.

Removal locates what the model uses. What lies on the same films and was not needed so far would
take the place of the feature as soon as that is dealt out anew; so it has to be dealt out with it.
It is looked for among the clusters of the audit, class by class, in films that the audit explored:
what shows the finding itself goes with the class, not, within a class, with the feature.

References
----------
Mantel and Haenszel, J Natl Cancer Inst 22 (1959), 719-748: test of association over strata; the
difference of shares has its weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

__all__ = ["find_co_occurring"]

_LEVEL = 0.05  # of the test, shared among the clusters


def find_co_occurring(
    holds: NDArray[np.bool_],
    present: NDArray[np.bool_],
    labels: NDArray[np.int64],
    least: float,
) -> NDArray[np.int64]:
    """Find the clusters that films with the feature hold more often, class by class.

    Parameters
    ----------
    holds : ndarray of shape (N, K), bool - film has a region of the cluster
    present : ndarray of shape (N,), bool - film has the feature
    labels : ndarray of shape (N,), int64 - class of the film; -1 for none
    least : float in [0, 1] - rise of the share of films that hold the cluster, with the feature
        against without it, from which a cluster is taken if the rise is also beyond chance; 1 for
        never

    Returns
    -------
    ndarray of shape (k,), int64 - clusters, ascending; the feature's own is among them. None where
    no class has films with and without the feature
    """
    excess = np.zeros(holds.shape[1])
    variance = np.zeros(holds.shape[1])
    weight = 0.0
    for label in np.unique(labels[labels >= 0]):
        stratum = labels == label
        films, having = int(stratum.sum()), int((stratum & present).sum())
        bare = films - having
        if having == 0 or bare == 0:
            continue
        holding = holds[stratum].sum(axis=0)
        excess += holds[stratum & present].sum(axis=0) - having * holding / films
        variance += having * bare * holding * (films - holding) / (films**2 * (films - 1))
        weight += having * bare / films
    if weight == 0.0 or least >= 1.0:
        return np.empty(0, dtype=np.int64)
    beyond = excess > norm.isf(_LEVEL / holds.shape[1]) * np.sqrt(variance)
    return np.flatnonzero(beyond & (excess / weight >= least))
