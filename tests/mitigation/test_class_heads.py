"""Heads: what can be done without training a tower."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ravl_med.mitigation import arms
from ravl_med.mitigation.arms import (
    ClassHead,
    feature_directions,
    project_texts,
    retrain_last_layer,
)


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
    direction = feature_directions([(regions, spurious[:, None])])[0]
    assert np.linalg.norm(direction) == pytest.approx(1.0, abs=1e-6)
    assert abs(direction[3]) > 0.95
    texts = rng.normal(size=(4, 8)).astype(np.float32)
    projected = project_texts(texts, direction[None])
    assert projected @ direction == pytest.approx(np.zeros(4), abs=1e-6)
    assert np.linalg.norm(projected, axis=1) == pytest.approx(np.ones(4))
    along = texts - np.outer(texts @ direction, direction)
    cosine = (along * projected).sum(axis=1) / np.linalg.norm(along, axis=1)
    assert cosine == pytest.approx(np.ones(4), abs=1e-6)
    from_elsewhere = regions + np.array([9, 0, 0, 0, 0, 0, 0, 0], np.float32)
    there = [(from_elsewhere[part], spurious[part, None]) for part in (slice(7), slice(7, 50))]
    assert feature_directions(there)[0] == pytest.approx(direction, abs=1e-5)


def test_directions_are_of_the_features_that_some_regions_hold_and_some_do_not() -> None:
    rng = np.random.default_rng(2)
    regions = rng.normal(size=(30, 4)).astype(np.float32)
    found = rng.random((30, 4)) < [0.0, 0.4, 1.1, 0.7]
    wanted = [
        regions[found[:, i]].mean(axis=0) - regions[~found[:, i]].mean(axis=0) for i in (1, 3)
    ]
    parts = [(regions[:9], found[:9]), (regions[9:9], found[9:9]), (regions[9:], found[9:])]
    directions = feature_directions(parts)
    for direction, raw in zip(directions, wanted, strict=True):
        assert direction == pytest.approx(raw / np.linalg.norm(raw), abs=1e-5)
    assert len(feature_directions([(regions, found[:, [0, 2]])])) == 0


def test_features_of_one_direction_are_projected_once() -> None:
    rng = np.random.default_rng(1)
    texts, plane = (rng.normal(size=(n, 8)).astype(np.float32) for n in (4, 2))
    plane /= np.linalg.norm(plane, axis=1, keepdims=True)
    once = project_texts(texts, plane)
    assert once @ plane.T == pytest.approx(np.zeros((4, 2)), abs=1e-6)
    assert project_texts(texts, plane[[0, 1, 0, 1]]) == pytest.approx(once, abs=1e-5)
    assert project_texts(texts, plane[[0, 0]]) == pytest.approx(
        project_texts(texts, plane[:1]), abs=1e-5
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_on_equal_groups_it_is_plain_logistic_regression(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arms, "_STRENGTHS", (0.1,))
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(2 * classes), 10)
    labels = groups // 2
    scale = np.geomspace(0.1, 10, 6)
    images = ((rng.normal(size=(len(groups), 6)) + labels[:, None]) * scale + 3).astype(np.float32)
    head = retrain_last_layer(images, labels, groups, classes, 0)
    assert head is not None
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    wanted = model.fit(images, labels).decision_function(images)
    found = head.logits(images)
    if classes == 2:
        assert found[:, 1] - found[:, 0] == pytest.approx(wanted, abs=2e-3)
    else:
        apart = found - found.mean(axis=1, keepdims=True)
        assert apart == pytest.approx(wanted - wanted.mean(axis=1, keepdims=True), abs=2e-3)


def test_the_strength_is_that_of_the_best_worst_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """All strengths but one err on all films of one small group, and on nothing else."""
    labels = np.repeat([0, 0, 1, 1], [20, 2, 20, 20])
    groups = np.repeat([0, 1, 2, 3], [20, 2, 20, 20])
    images = np.eye(4, dtype=np.float32)[groups]
    fits: list[tuple[int, float]] = []

    def fake(
        shown: NDArray[np.float32], of: object, in_group: NDArray[np.int64], count: int,
        strength: float, rng: object,
    ) -> ClassHead:  # fmt: skip
        assert (shown.argmax(axis=1) == in_group).all()
        fits.append((len(shown), strength))
        right = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], np.float32)
        if strength != 0.03:
            right[:, 1] = right[::-1, 1]
        return ClassHead(right, np.zeros(2, np.float32))

    monkeypatch.setattr(arms, "_fit", fake)
    assert retrain_last_layer(images, labels, groups, 2, 0) is not None
    halves = [(31, strength) for strength in (1.0, 0.3, 0.1, 0.03, 0.01)]
    assert fits == [*halves, (62, 0.03)]  # chosen on one half, fitted on all
