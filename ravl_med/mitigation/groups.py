"""Groups of films: classes crossed with the presence of the feature, and what travels with it.

Removal locates what the model uses. What lies on the same films and was not needed so far, the lead
of a generator, the wires of electrodes, would take the place of the feature as soon as that is
dealt out anew; so it has to be dealt out with it. It is looked for among the clusters of the audit,
class by class, in films that the audit explored: what shows the finding itself goes with the class.

References
----------
Mantel and Haenszel, J Natl Cancer Inst 22 (1959), 719-748: test of association over strata; the
difference of shares has its weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from ravl_med.mitigation.trainer import Selection

_LEVEL = 0.05  # of the test, shared among the clusters


def find_co_occurring(
    holds: NDArray[np.bool_],
    present: NDArray[np.bool_],
    labels: NDArray[np.int64],
    least: float,
) -> NDArray[np.int64]:
    """Find the clusters (k,) that films with the feature hold more often, class by class.

    `holds` (N, K) says which film has a region of which cluster, `present` (N,) which has the
    feature. A cluster is taken where the share of films that hold it rises by `least` with the
    feature, and beyond chance; 1 takes none. The feature's own cluster is among them.
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


@dataclass(frozen=True, slots=True, eq=False)
class PseudoGroups:
    """Groups of N films."""

    names: tuple[str, ...]
    of_film: NDArray[np.int64]  # (N,) 0 .. G - 1; -1 for films without a class

    @classmethod
    def cross(
        cls,
        labels: NDArray[np.int64],  # (N,) -1 without a class
        present: NDArray[np.bool_],  # (N,)
        classes: tuple[str, ...],
    ) -> PseudoGroups:
        """Cross classes with the presence of any mitigated feature."""
        names = tuple(
            f"{name}, {side} the feature" for name in classes for side in ("without", "with")
        )
        return cls(names, np.where(labels < 0, -1, 2 * labels + present))

    def sizes(self) -> NDArray[np.int64]:
        """Return the films of each group, shape (G,)."""
        return np.bincount(self.of_film[self.of_film >= 0], minlength=len(self.names))

    def pooled(self, least: int) -> PseudoGroups:
        """Return the groups with those of fewer than `least` films joined into one.

        A pool that is still too small joins the smallest other group.
        """
        sizes = self.sizes()
        small = [g for g in np.argsort(sizes, kind="stable") if 0 < sizes[g] < least]
        if not small:
            return self
        rest = [g for g in np.argsort(sizes, kind="stable") if sizes[g] >= least]
        if sizes[small].sum() < least and rest:
            small.append(rest[0])
        number = np.arange(len(self.names))
        number[small] = small[0]
        names = list(self.names)
        names[small[0]] = " + ".join(self.names[g] for g in sorted(small))
        return PseudoGroups(
            tuple(names), np.where(self.of_film < 0, -1, number[np.maximum(self.of_film, 0)])
        )

    def used(self) -> PseudoGroups:
        """Return the groups without those that hold no film."""
        kept = np.flatnonzero(self.sizes())
        number = np.full(len(self.names), -1)
        number[kept] = np.arange(len(kept))
        return PseudoGroups(
            tuple(self.names[g] for g in kept),
            np.where(self.of_film < 0, -1, number[np.maximum(self.of_film, 0)]),
        )

    def accuracy(self, correct: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the accuracy of each group, shape (G,); NaN for an empty one."""
        known = self.of_film >= 0
        sizes = self.sizes()
        right = np.bincount(self.of_film[known], weights=correct[known], minlength=len(self.names))
        share: NDArray[np.float64] = np.full(len(self.names), np.nan)
        np.divide(right, sizes, out=share, where=sizes > 0)
        return share


def sampling_weights(groups: PseudoGroups) -> NDArray[np.float64]:
    """Return the chance of each film to be drawn, shape (N,), so that groups are drawn alike.

    Films without a class are drawn as often as the average film.
    """
    sizes = groups.sizes()
    known = groups.of_film >= 0
    weight = np.zeros(len(groups.of_film))
    weight[known] = 1.0 / sizes[groups.of_film[known]]
    if known.any():
        weight[~known] = weight[known].mean()
    else:
        weight[:] = 1.0
    normal: NDArray[np.float64] = weight / weight.sum()
    return normal


def select_by_groups(groups: PseudoGroups, correct: NDArray[np.bool_]) -> Selection:
    """Judge weights by the worst group, and by all films."""
    accuracy = groups.accuracy(correct)
    known = groups.of_film >= 0
    return Selection(float(np.nanmin(accuracy)), float(correct[known].mean()))
