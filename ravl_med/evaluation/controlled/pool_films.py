"""What the films of every domain have in common: pixels, classes, patients and splits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FINETUNE",
    "PRETRAIN",
    "SIDE",
    "TEST",
    "VALIDATION",
    "PoolFilms",
    "deal_splits",
    "set_aside",
]

SIDE = 96
"""Side of a film in pixels."""

FINETUNE, VALIDATION, TEST, PRETRAIN = 0, 1, 2, 3
"""Splits: to fine-tune on, to audit, for the final test of a mitigation, and to pre-train on."""


@dataclass(frozen=True, slots=True, eq=False)
class PoolFilms:
    """N films without a thing.

    Attributes
    ----------
    pixels : ndarray of shape (N, SIDE, SIDE), uint8
    labels : ndarray of shape (N,), int64
    patients : ndarray of shape (N,), int64 - a patient has films of one class, in one split
    split : ndarray of shape (N,), int64 - `FINETUNE`, `VALIDATION`, `TEST` or `PRETRAIN`
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]
    split: NDArray[np.int64]

    def rows(self, split: int) -> NDArray[np.int64]:
        """Return the films of a split."""
        return np.flatnonzero(self.split == split).astype(np.int64)


def deal_splits(
    patients: NDArray[np.int64],
    labels: NDArray[np.int64],
    shares: tuple[float, float],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Deal whole patients out to the splits, class by class.

    Parameters
    ----------
    patients, labels : ndarray of shape (N,), int64
    shares : tuple of float - of the patients of each class to audit and to test; the rest is to
        fine-tune on
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of shape (N,), int64
    """
    known, first = np.unique(patients, return_index=True)
    dealt = np.full(int(known.max()) + 1, FINETUNE, dtype=np.int64)
    for label in np.unique(labels):
        own = rng.permutation(known[labels[first] == label])
        audited = round(shares[0] * len(own))
        dealt[own[:audited]] = VALIDATION
        dealt[own[audited : audited + round(shares[1] * len(own))]] = TEST
    split: NDArray[np.int64] = dealt[patients]
    return split


def set_aside(films: PoolFilms, share: float, rng: np.random.Generator) -> PoolFilms:
    """Set a share of the patients to fine-tune on aside, to pre-train on."""
    rows = films.rows(FINETUNE)
    dealt = deal_splits(films.patients[rows], films.labels[rows], (share, 0.0), rng)
    split = films.split.copy()
    split[rows[dealt == VALIDATION]] = PRETRAIN
    return replace(films, split=split)
