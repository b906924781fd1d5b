"""The search on simulated films, small: what is counted, and what is found."""

from __future__ import annotations

from pathlib import Path

from ravl_med.config.loading import load_config
from tests.benchmarks.scale.discovery_trials import measure_discovery
from tests.benchmarks.scale.simulated_films import FilmsPlan

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SMALL = (
    "discovery.clusters=[8, 16]",
    "discovery.draws=1",
    "discovery.sample=500",
    "evidence.permutations=199",
    "evidence.draws=2000",
    "evidence.simulations=20",
)


def test_a_search_is_timed_stage_by_stage_and_finds_the_feature() -> None:
    told: list[tuple[str, int, int]] = []
    plan = FilmsPlan(4_000, regions=4, size=32)

    (row,) = measure_discovery(load_config(QUICKSTART, SMALL), [plan], lambda *s: told.append(s))

    assert (row.films, row.regions, row.size, row.classes) == (4_000, 16_000, 32, 4)
    assert 500 < row.patients < 900
    assert list(row.stages) == [
        "accuracy", "clustering", "confirmation", "counterfactuals", "subgroups", "sensitivity",
        "result.json",
    ]  # fmt: skip
    assert 0 < sum(row.stages.values()) <= row.seconds + 0.5
    assert 0 < row.before_mb <= row.peak_mb < 3_000
    assert row.clusters >= 8
    assert row.confirmed >= 1
    assert row.found
    assert row.json_bytes > 10_000
    assert told[-1] == ("search 16,000 regions", 2, 2)
