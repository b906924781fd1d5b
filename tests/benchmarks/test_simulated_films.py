"""Films at the level of embeddings: drawn the same again, and with the feature that was planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ravl_med.config.loading import load_config
from tests.benchmarks import simulated_films
from tests.benchmarks.runner import QUICKSTART
from tests.benchmarks.simulated_films import (
    FEATURE,
    FilmsPlan,
    draw_films,
    measure_discovery,
    open_films,
)

SMALL = (
    "discovery.clusters=[8, 16]",
    "discovery.draws=1",
    "discovery.sample=500",
    "evidence.permutations=199",
    "evidence.draws=2000",
    "evidence.simulations=20",
)

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


@pytest.mark.slow
def test_a_search_is_timed_stage_by_stage_and_finds_the_feature(monkeypatch) -> None:
    monkeypatch.setattr(
        simulated_films, "map_in_children", lambda work, plans, **_: [work(one) for one in plans]
    )
    steps: list[tuple[str, int, int]] = []
    plan = FilmsPlan(4_000, regions=4, size=32)

    (row,) = measure_discovery(load_config(QUICKSTART, SMALL), [plan], lambda *s: steps.append(s))

    assert (row["films"], row["regions"], row["size"], row["classes"]) == (4_000, 16_000, 32, 4)
    assert 500 < row["patients"] < 900
    assert list(row["stages"]) == [
        "accuracy", "clustering", "confirmation", "counterfactuals", "subgroups", "sensitivity",
        "result.json",
    ]  # fmt: skip
    assert 0 < sum(row["stages"].values()) <= row["seconds"] + 0.5
    assert 0 < row["before_mb"] <= row["peak_mb"] < 3_000
    assert row["clusters"] >= 8
    assert row["confirmed"] >= 1
    assert row["found"]
    assert row["json_bytes"] > 10_000
    assert steps[-1] == ("search 16,000 regions", 2, 2)
