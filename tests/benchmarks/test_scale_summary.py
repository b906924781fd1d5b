"""The table that stands on the page of all benchmarks: it is made from what was measured."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.benchmarks.marked_page import marks
from tests.benchmarks.scale.chaos_trials import ChaosRow
from tests.benchmarks.scale.discovery_trials import DiscoveryRow
from tests.benchmarks.scale.memory_trials import MemoryRow
from tests.benchmarks.scale.projection import ProjectionLine
from tests.benchmarks.scale.same_trials import SameRow
from tests.benchmarks.scale.speed_trials import SpeedRow
from tests.benchmarks.scale.summary import MARKED, scale_summary

PUBLISHED = Path(__file__).parents[2] / "reports" / "benchmark"


def summary(part: str, *rows: object) -> list[str]:
    return scale_summary({part: {"rows": [asdict(row) for row in rows]}}).splitlines()[2:]


def test_the_page_shows_the_committed_results() -> None:
    parts = json.loads((PUBLISHED / "scale.json").read_text(encoding="utf-8"))["parts"]
    begin, end = marks(MARKED)
    shown = (PUBLISHED / "README.md").read_text(encoding="utf-8")
    assert f"{begin}\n{scale_summary(parts)}\n{end}" in shown


def test_one_result_that_differs_is_a_miss() -> None:
    one = SameRow("local, no worker", 900, 14_400, 12, 6, 41.2, 9, "01", True)
    other = SameRow("Ray, 2 workers", 900, 14_400, 12, 6, 60.0, 8, "fe", False)
    assert summary("same", one, other) == [
        "| `result.json`: local, no worker; Ray, 2 workers | the same bytes | 1 of 2 the same "
        "| no |"
    ]


def test_gain_is_met_and_an_overhead_with_two_workers_is_not() -> None:
    def row(engine: str, workers: int, rate: float) -> SpeedRow:
        return SpeedRow("T", engine, workers, 64, 3, rate, 1.0, 0.0, 1.0, 9.0)

    rows = [row("passes alone", 1, 20.0), row("passes alone", 2, 38.0)]
    rows += [row("local", 1, 10.0), row("local", 2, 17.0), row("ray", 1, 9.5), row("ray", 2, 14.0)]
    told = "at least 1.7 x |"
    assert summary("speed", *rows) == [
        f"| two workers against one, T, local | {told} 1.70 x; one uses 1.00 processors | yes |",
        f"| two workers against one, T, ray | {told} 1.47 x; one uses 1.00 processors | no |",
        "| Ray's overhead, T, with 1 and 2 workers | at most 15 % | 5.3 % and 21.4 % | no |",
    ]


@pytest.mark.parametrize(
    ("run_mb", "told"),
    [
        (990.0, "0.90, 0.99 GB; 1.10 x | yes |"),
        (1_800.0, "0.90, 1.80 GB; 2.00 x | no |"),
        (2_100.0, "0.90, 2.10 GB; 2.33 x | no |"),
    ],
)
def test_memory_has_to_be_small_and_flat(run_mb: float, told: str) -> None:
    least = MemoryRow(2_000, 32_000, 2, 900.0, 600.0, 100.0, 8, 4, 60.0)
    most = MemoryRow(200_000, 3_200_000, 2, run_mb, 650.0, 100.0, 8, 4, 1_900.0)
    run, worker, _ = summary("memory", most, least)
    assert (
        run == f"| memory of the run, 2,000 and 200,000 films | at most 2 GB; flat: 1.1 x | {told}"
    )
    assert worker.endswith("| 0.60, 0.65 GB; 1.08 x | yes |")


@pytest.mark.parametrize(
    ("seconds", "peak", "search", "linear"),
    [(300.0, 2_900.0, "yes", "yes"), (300.0, 3_100.0, "no", "yes"), (500.0, 900.0, "no", "no")],
)
def test_the_search_has_seconds_and_memory(
    seconds: float, peak: float, search: str, linear: str
) -> None:
    def row(films: int, seconds: float, peak: float) -> DiscoveryRow:
        return DiscoveryRow(
            films, films // 6, 16 * films, 512, 4, seconds, {}, 700.0, peak, 88, 9, 3, True, 90_000
        )

    size, growth = summary("discovery", row(20_000, 40.0, 800.0), row(200_000, seconds, peak))
    assert size.startswith("| 200,000 films x 16 regions x 512, search to `result.json` |")
    assert size.endswith(f"| {search} |")
    assert growth.endswith(f"| linear: 10 x | {seconds / 40:.1f} x | {linear} |")


def test_deaths_and_the_arithmetic_of_nodes() -> None:
    chaos = ChaosRow("Ray, 2 workers", "run", 225, 20, 19, 10, 9, 0, 10, 9, 99.0)
    assert summary("chaos", chaos) == [
        "| `kill -9` of the whole run, 19 times: Ray, 2 workers | the same `result.json` "
        "| 9 of 10 runs | no |"
    ]
    lines = summary(
        "projection",
        ProjectionLine("measured", "the model", "one thread", 0.3, "s"),
        ProjectionLine("H100 node", "price", "40 x 0.35", 14.0, "euros"),
    )
    assert lines[-1] == "| H100 node | price | 40 x 0.35 | 14 euros |"
    assert not any("the model" in line for line in lines)
