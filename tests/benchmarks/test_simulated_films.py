"""Films at the level of embeddings: drawn the same again, and with the feature that was planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.scale.simulated_films import FEATURE, FilmsPlan, draw_films, open_films

PLAN = FilmsPlan(3_000, regions=4, size=8)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    draw_films(PLAN, folder)
    return open_films(PLAN, folder)


def test_the_same_plan_draws_the_same(simulated, tmp_path: Path) -> None:
    draw_films(PLAN, tmp_path)
    again = open_films(PLAN, tmp_path)
    np.testing.assert_array_equal(again.embeddings.region, simulated.embeddings.region)
    np.testing.assert_array_equal(again.scores.region, simulated.scores.region)
    assert again.cohort.attributes == simulated.cohort.attributes


def test_they_are_what_an_audit_holds(simulated) -> None:
    cohort, embeddings, scores = simulated.cohort, simulated.embeddings, simulated.scores
    assert len(cohort) == len(embeddings.digests) == len(scores.image) == 3_000
    assert embeddings.region.shape == (12_000, 8)
    np.testing.assert_allclose(np.linalg.norm(embeddings.region, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(scores.image.argmax(axis=1), scores.predictions)
    assert embeddings.region_boxes.shape == (12_000, 4)
    assert [kind.source for kind in embeddings.kinds] == ["tiles"] * 4
    films_a_patient = np.bincount(cohort.patients)
    assert 4.5 < films_a_patient.mean() < 7
    assert films_a_patient.max() > 20
    assert isinstance(np.asarray(embeddings.region).base, np.memmap)


def test_the_feature_raises_one_class_and_lowers_the_others(simulated) -> None:
    cohort, predictions = simulated.cohort, simulated.scores.predictions
    carries = np.zeros(len(cohort), bool)
    carries[simulated.embeddings.region_image[simulated.kinds == FEATURE]] = True
    assert 0.1 < carries.mean() < 0.3
    right = predictions == cohort.labels
    gaps = [
        right[carries & (cohort.labels == c)].mean() - right[~carries & (cohort.labels == c)].mean()
        for c in range(4)
    ]
    assert gaps[0] > 0.12
    assert max(gaps[1:]) < -0.12
