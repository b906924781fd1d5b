"""The search on simulated cohorts: what is counted, by hand and on small ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from ravl_med.config.loading import Config, load_config
from ravl_med.evidence.examination import min_strength_of
from ravl_med.evidence.power import design_to_collect
from tests.benchmarks import discovery, simulated_cohorts
from tests.benchmarks.discovery import (
    SPEED_CASES,
    SpeedCase,
    accusations_allowed,
    growth,
    measure_calibration,
    measure_power,
    measure_speed,
    simulated_power,
    tabulate_power,
)
from tests.benchmarks.runner import QUICKSTART, Setup, silent
from tests.benchmarks.simulated_cohorts import CohortPlan, Feature, examine_cohort

SMALL = CohortPlan(120, (0.5, 0.5), (0.8, 0.8), regions=4, prototypes=6, size=16)


@pytest.fixture(scope="module")
def config() -> Config:
    """Few clusters: the search itself is tested elsewhere."""
    return load_config(
        QUICKSTART,
        ("discovery.clusters=[8]", "discovery.draws=1", "evidence.permutations=99"),
    )


def map_here(function: Any, items: Sequence[Any], **options: Any) -> list[Any]:
    return [function(item) for item in items]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "map_in_children", map_here)


@pytest.mark.slow  # two processes that load everything
def test_the_count_of_workers_changes_no_number(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "NULL_PLANS", {"small": SMALL})
    steps: list[tuple[str, int, int]] = []
    rows = list(
        measure_calibration(config, 4, workers=2, progress=lambda *step: steps.append(step))
    )
    assert steps == [("null: small", done, 4) for done in range(5)]
    monkeypatch.setattr(discovery, "map_in_children", map_here)
    assert list(measure_calibration(config, 4, workers=1, progress=silent)) == rows
    assert rows[0]["cohorts"] == 4
    assert rows[0]["clusters"] > 0
    assert rows[0]["compared"] == 4


def test_the_same_seed_gives_the_same_trial(config: Config) -> None:
    first, again = (examine_cohort(SMALL, (5, 1), config) for _ in range(2))
    assert first == again


def test_a_strong_feature_is_found_and_named(config: Config) -> None:
    plan = replace(SMALL, films=400, feature=Feature(0.5, 0.5, "others"))
    trial = examine_cohort(plan, (6, 1), config)
    assert trial.found
    assert trial.half_found
    assert trial.confirmed >= 1
    assert trial.strays == trial.confirmed - 1
    assert trial.candidates >= 1
    assert trial.survivors >= 1
    assert trial.published is None
    assert examine_cohort(plan, (6, 1), config, published=True) == replace(trial, published=True)


def test_the_draws_of_intervals_decide_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(SMALL, feature=Feature(0.5, 0.4, "others"))
    few = examine_cohort(plan, (7, 1), config)
    monkeypatch.setattr(simulated_cohorts, "_DRAWS", 2_000)
    assert examine_cohort(plan, (7, 1), config) == few


def test_results_are_counted_with_an_exact_interval(
    config: Config, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "PLANTED", ((100, 2, 0.6), (60, 3, 0.1)))
    rows = list(measure_power(config, 2, workers=1, progress=silent))
    assert [(row["films"], row["classes"], row["lowered"]) for row in rows] == [
        (100, 2, "others"),  # with two classes the other one is all others
        (60, 3, "others"),
        (60, 3, "one"),
    ]
    for row in rows:
        interval = stats.binomtest(row["found"], 2).proportion_ci(0.95, method="exact")
        assert (row["low"], row["high"]) == (interval.low, interval.high)
        assert row["found"] <= row["half_found"] <= 2
    assert [row["needed"] for row in rows] == [2, 2, 0]


@pytest.mark.parametrize(("cohorts", "allowed"), [(200, 15), (40, 3), (20, 1), (1, 0)])
def test_fifteen_of_two_hundred_may_be_accused(cohorts: int, allowed: int) -> None:
    assert accusations_allowed(cohorts) == allowed


def test_the_table_is_that_of_the_evidence(
    config: Config, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_FILMS", (200,))
    monkeypatch.setattr(discovery, "_CLASSES", (2,))
    monkeypatch.setattr(discovery, "_GAPS", (0.1, 0.6))
    cells = tabulate_power(config, 5, workers=1, progress=silent)
    assert len(cells) == 4 * 2
    design = design_to_collect(
        200, 2, 0.8, 1.0, config.evidence.discovery_share, config.evidence.seed
    )
    power = simulated_power(
        design,
        config.evidence,
        min_strength=min_strength_of(config.discovery),
        prevalence=0.5,
        gap=0.6,
        candidates=10,
        simulations=5,
    )
    assert cells[-1] == {
        "films": 200, "classes": 2, "prevalence": 0.5, "gap": 0.6, "power": power,
    }  # fmt: skip
    assert power > 0.5


def test_speed_and_memory_are_measured(config: Config, in_this_process: None) -> None:
    (row,) = measure_speed(config, [SpeedCase(100, 4, 32, 2)], silent)
    assert (row["regions"], row["films"], row["size"], row["runs"]) == (400, 100, 32, 2)
    assert 0 < row["proposing"] < row["seconds"]
    assert row["peak_mb"] >= 0
    assert row["clusters"] > 0


def test_the_largest_case_can_be_left_out(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for most, films in ((1_000_000, [1_333, 10_000, 100_000]), (200_000, [1_333, 10_000])):
        run = Setup(config, None, b"", {"regions": most})  # type: ignore[arg-type]
        assert [case.films for case in discovery._speed_cases(run)] == films
    assert len(SPEED_CASES) == 3


def test_growth_is_between_cases_of_one_size_by_hand() -> None:
    small = {"regions": 100, "size": 512, "seconds": 2.0}
    large = {"regions": 1_000, "size": 512, "seconds": 23.0}
    assert growth([large, small]) == (10.0, 11.5)
    assert growth([large]) is None
    assert growth([large, {**small, "size": 256}]) is None
