"""Pseudo-groups: the class of a film crossed with the presence of what is mitigated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.mitigation.trainer import Selection

__all__ = ["PseudoGroups", "sampling_weights", "select_by_groups"]


@dataclass(frozen=True, slots=True, eq=False)
class PseudoGroups:
    """Groups of N films.

    Attributes
    ----------
    names : tuple of str, length G
    of_film : ndarray of shape (N,), int64 - 0 .. G - 1; -1 for films without a class
    """

    names: tuple[str, ...]
    of_film: NDArray[np.int64]

    @classmethod
    def cross(
        cls,
        labels: NDArray[np.int64],
        present: NDArray[np.bool_],
        classes: tuple[str, ...],
    ) -> PseudoGroups:
        """Cross classes with the presence of any mitigated feature.

        Parameters
        ----------
        labels : ndarray of shape (N,), int64 - -1 without a class
        present : ndarray of shape (N,), bool
        classes : tuple of str, length C
        """
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
