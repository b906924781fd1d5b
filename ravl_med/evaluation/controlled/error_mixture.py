"""Domino's error-aware mixture: Gaussians over embeddings that share slices with labels and errors.

Written from the paper; the authors' library has had no release since 2022 and stands on one that is
no longer kept.

References
----------
Eyuboglu et al., "Domino: discovering systematic errors with cross-modal embeddings", ICLR 2022
(arXiv 2203.14960), section 4.2 and appendix: P(z, y, yhat | s) = N(z) P(y|s)^g P(yhat|s)^g.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

__all__ = ["ErrorMixture", "fit_error_mixture"]

_FLOOR = 1e-6  # of variances
_TINY = 1e-12
_CLOSE = 1e-4  # change of the mean log-likelihood at which it stops
_LEAST_STEPS = 10  # slices of one cell start alike and take a few steps to part

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ErrorMixture:
    """A fitted mixture of S slices over n points.

    Attributes
    ----------
    share : ndarray of shape (n, S), float64 - posterior of the slices for each point
    density : ndarray of shape (n, S), float64 - log density of the embedding alone
    label, prediction : ndarray of shape (S, C), float64 - their probabilities in each slice
    """

    share: Floats
    density: Floats
    label: Floats
    prediction: Floats

    @property
    def discrepancy(self) -> Floats:
        """How far the predictions of each slice are from its labels, shape (S,)."""
        apart: Floats = np.abs(self.prediction - self.label).max(axis=1)
        return apart


def fit_error_mixture(
    points: NDArray[np.floating],
    labels: NDArray[np.int64],
    predicted: NDArray[np.floating],
    *,
    slices: int = 25,
    weight: float = 10.0,
    steps: int = 50,
    seed: int = 0,
) -> ErrorMixture:
    """Fit the mixture by expectation-maximisation, from slices of one cell of the confusion each.

    Parameters
    ----------
    points : ndarray of shape (n, d) - embeddings, reduced
    labels : ndarray of shape (n,), int64
    predicted : ndarray of shape (n, C) - probabilities of the classes
    slices : int - S
    weight : float - gamma, of labels and of predictions against the embedding
    steps : int - at most
    seed : int - of the noise that tells slices of one cell apart
    """
    classes = predicted.shape[1]
    z = np.asarray(points, dtype=np.float64)
    truth = np.eye(classes)[labels]
    soft = np.asarray(predicted, dtype=np.float64)
    share = _start(labels, soft.argmax(axis=1), classes, slices, seed)
    before = -np.inf
    for step in range(steps):
        size = share.sum(axis=0) + _TINY
        mean = share.T @ z / size[:, None]
        spread = np.maximum(share.T @ z**2 / size[:, None] - mean**2, _FLOOR)
        label, prediction = share.T @ truth / size[:, None], share.T @ soft / size[:, None]
        density = _gaussian(z, mean, spread)
        joint = density + np.log(size / size.sum())
        joint += weight * np.log(truth @ label.T + _TINY)
        joint += weight * np.log(soft @ prediction.T + _TINY)
        total = logsumexp(joint, axis=1)
        share = np.exp(joint - total[:, None])
        after = float(total.mean())
        if step >= _LEAST_STEPS and after - before < _CLOSE:
            break
        before = after
    return ErrorMixture(share, density, label, prediction)


def _start(
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    classes: int,
    slices: int,
    seed: int,
) -> Floats:
    """Responsibilities (n, S): the cells of the confusion matrix in turn, the fullest first."""
    cell = labels * classes + predictions
    order = np.argsort(-np.bincount(cell, minlength=classes**2), kind="stable")
    mine = order[np.arange(slices) % classes**2]
    noise = 0.1 * np.random.default_rng(seed).random((len(cell), slices)) + 1e-3
    share = (cell[:, None] == mine) * (1.0 + 10.0 * noise) + 1e-3 * noise
    normal: Floats = share / share.sum(axis=1, keepdims=True)
    return normal


def _gaussian(z: Floats, mean: Floats, spread: Floats) -> Floats:
    """Log density (n, S) of diagonal Gaussians."""
    scaled = 1.0 / spread
    away = (z**2) @ scaled.T - 2.0 * z @ (mean * scaled).T + (mean**2 * scaled).sum(axis=1)
    density: Floats = -0.5 * (away + np.log(spread).sum(axis=1) + z.shape[1] * np.log(2 * np.pi))
    return density
