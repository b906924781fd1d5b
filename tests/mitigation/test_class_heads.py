"""Heads: what can be done without training a tower."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ravl_med.mitigation.class_heads import feature_direction, project_texts, retrain_last_layer


def planted(
    seed: int, together: float, classes: int, count: int = 600
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Embeddings with a strong spurious axis and a weak true one."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    present = rng.random(count) < np.where(labels == 0, together, 1 - together)
    images = 0.3 * rng.normal(size=(count, 16))
    images[np.arange(count), labels] += 1.0
    images[:, 10] += 3.0 * present
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    return images.astype(np.float32), labels, 2 * labels + present


@pytest.mark.parametrize("classes", [2, 3])
def test_retraining_on_equal_groups_lifts_the_worst_one(classes: int) -> None:
    images, labels, groups = planted(0, 0.9, classes)
    test, truth, of_film = planted(1, 0.5, classes)
    texts = np.eye(classes, 16, dtype=np.float32)
    texts[0, 10] = 1.0  # the class text that the feature is tied to
    naive = (test @ texts.T).argmax(axis=1) == truth
    head = retrain_last_layer(images, labels, groups, classes, seed=0)
    assert head is not None
    assert head.weights.shape == (classes, 16)
    right = head.logits(test).argmax(axis=1) == truth
    worst = [min(hits[of_film == g].mean() for g in np.unique(of_film)) for hits in (naive, right)]
    assert worst[0] < 0.3
    assert worst[1] > 0.85


def test_too_little_to_retrain_on() -> None:
    images, labels, groups = planted(0, 0.9, 2)
    assert (
        retrain_last_layer(images[labels == 0], labels[labels == 0], groups[labels == 0], 2, 0)
        is None
    )
    lonely = groups.copy()
    lonely[0] = 9
    assert retrain_last_layer(images, labels, lonely, 2, 0) is None


def test_texts_lose_the_direction_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    regions = rng.normal(size=(50, 8)).astype(np.float32)
    spurious = np.arange(50) < 20
    regions[spurious, 3] += 10
    direction = feature_direction(regions, spurious)
    assert np.linalg.norm(direction) == pytest.approx(1.0, abs=1e-6)
    assert abs(direction[3]) > 0.95
    texts = rng.normal(size=(4, 8)).astype(np.float32)
    projected = project_texts(texts, direction[None])
    assert projected @ direction == pytest.approx(np.zeros(4), abs=1e-6)
    assert np.linalg.norm(projected, axis=1) == pytest.approx(np.ones(4))
    along = texts - np.outer(texts @ direction, direction)
    cosine = (along * projected).sum(axis=1) / np.linalg.norm(along, axis=1)
    assert cosine == pytest.approx(np.ones(4), abs=1e-6)
