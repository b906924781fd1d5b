"""Cheap arms: the tower stays as it is, only what its embeddings are compared with changes.

References
----------
Kirichenko, Izmailov, Wilson, "Last layer re-training is sufficient for robustness to spurious
correlations", ICLR 2023 (DFR).
Chuang et al., "Debiasing vision-language models via biased prompts", arXiv 2302.00070 (2023)
(orthogonal projection of text embeddings).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

_DRAWS = 10
_STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01)  # inverse of the regularisation, DFR's grid
_SAME = 1e-6  # share of the largest singular value below which a direction adds nothing


@dataclass(frozen=True, slots=True, eq=False)
class ClassHead:
    """What image embeddings are compared with."""

    weights: NDArray[np.float32]  # (C, D)
    bias: NDArray[np.float32]  # (C,)

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits (N, C) of image embeddings (N, D)."""
        scored: NDArray[np.float32] = images @ self.weights.T + self.bias
        return scored


def retrain_last_layer(
    images: NDArray[np.float32],  # (N, D) unit norm
    labels: NDArray[np.int64],  # (N,) 0 .. C - 1
    groups: NDArray[np.int64],  # (N,)
    classes: int,  # C
    seed: int,
) -> ClassHead | None:
    """Fit a logistic regression on equally large groups, the mean over several draws of them.

    The regularisation is the one whose fit to half of the films has the best worst-group accuracy
    on the other half. None where some class, or some group of more than one film, is missing.
    """
    present = np.unique(groups)
    sizes = np.array([(groups == g).sum() for g in present])
    if len(np.unique(labels)) < classes or sizes.min() < 2:
        return None
    rng = np.random.default_rng([seed, 7])
    first = np.zeros(len(labels), dtype=np.bool_)
    for group in present:
        members = rng.permutation(np.flatnonzero(groups == group))
        first[members[: len(members) // 2]] = True

    def worst(strength: float) -> float:
        head = _fit(images[first], labels[first], groups[first], classes, strength, rng)
        right = head.logits(images[~first]).argmax(axis=1) == labels[~first]
        return min(float(right[groups[~first] == g].mean()) for g in present)

    strength = max(_STRENGTHS, key=worst)
    return _fit(images, labels, groups, classes, strength, rng)


def _fit(
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    classes: int,
    strength: float,
    rng: np.random.Generator,
) -> ClassHead:
    mean, spread = images.mean(axis=0), images.std(axis=0) + 1e-6
    scaled = (images - mean) / spread
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    size = min(len(m) for m in members)
    weights, bias = np.zeros((classes, images.shape[1])), np.zeros(classes)
    for _ in range(_DRAWS):
        rows = np.concatenate([rng.choice(m, size, replace=False) for m in members])
        model = LogisticRegression(C=strength, max_iter=1000)
        model.fit(scaled[rows], labels[rows])
        coefficients, intercepts = model.coef_, model.intercept_
        if classes == 2:  # scikit-learn keeps one row for two classes
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            intercepts = np.concatenate([-intercepts, intercepts]) / 2
        weights += coefficients / _DRAWS
        bias += intercepts / _DRAWS
    weights = weights / spread
    return ClassHead(weights.astype(np.float32), (bias - weights @ mean).astype(np.float32))


def feature_directions(
    parts: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_]]],
) -> NDArray[np.float32]:
    """Return the unit directions (f, D) from ordinary regions to those of each feature.

    Parts of the regions come as embeddings (r, D) and which features they hold (r, F). A feature
    that all regions hold, or none, has no direction.
    """
    held: Any = 0.0
    every: Any = 0.0
    holding, regions = np.zeros(0), 0
    for embedded, found in parts:
        exact = embedded.astype(np.float64)
        held = held + found.T.astype(np.float64) @ exact
        every = every + exact.sum(axis=0)
        holding = found.sum(axis=0) + (holding if len(holding) else 0.0)
        regions += len(found)
    some = np.flatnonzero((holding > 0) & (holding < regions))
    if not len(some):
        return np.empty((0, 0), np.float32)
    count = holding[some, None]
    direction = held[some] / count - (every - held[some]) / (regions - count)
    unit: NDArray[np.float32] = (
        direction / np.linalg.norm(direction, axis=1, keepdims=True)
    ).astype(np.float32)
    return unit


def project_texts(
    classes: NDArray[np.float32], directions: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Project class texts (C, D) onto what is orthogonal to the features' directions (F, D)."""
    axes, sizes, _ = np.linalg.svd(directions.T.astype(np.float64), full_matrices=False)
    basis = axes[:, sizes > _SAME * sizes.max()]  # two features may have one direction
    projected = classes - (classes @ basis) @ basis.T
    norm = np.linalg.norm(projected, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (projected / np.maximum(norm, 1e-12)).astype(np.float32)
    return unit
