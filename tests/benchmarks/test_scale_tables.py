"""The page of scale from made-up numbers: targets stand beside what was reached."""

from __future__ import annotations

import math
from dataclasses import asdict

from tests.benchmarks.scale.chaos_trials import ChaosRow
from tests.benchmarks.scale.discovery_trials import DiscoveryRow
from tests.benchmarks.scale.memory_trials import MemoryRow
from tests.benchmarks.scale.projection import ProjectionLine
from tests.benchmarks.scale.same_trials import SameRow
from tests.benchmarks.scale.speed_trials import SpeedRow
from tests.benchmarks.scale.tables import scale_markdown


def page(part: str, *rows: object) -> str:
    content = {"tool": "t", "machine": "m", "command": "c", "seconds": 1.0}
    told = [{k: None if v != v else v for k, v in asdict(row).items()} for row in rows]
    return scale_markdown({part: {**content, "rows": told}})


def test_a_result_that_differs_is_seen() -> None:
    row = SameRow("local, no worker", 900, 14_400, 12, 6, 41.2, 123_456, "0123456789abcdef", True)
    other = SameRow("Ray, 2 workers", 900, 14_400, 12, 6, 60.0, 123_457, "fedcba9876543210", False)
    text = page("same", row, other)
    assert (
        "| local, no worker | 900, 14,400 | 12, 6 | 41 s | 123,456, 0123456789abcdef | yes |"
    ) in text
    assert "fedcba9876543210 | no |" in text


def test_gain_and_overhead_are_those_of_steady_films_a_second() -> None:
    def row(engine: str, workers: int, rate: float, seconds: float) -> SpeedRow:
        return SpeedRow("T", engine, workers, 1024, 3, rate, 0.9 * workers, 2.0, 3.5, seconds)

    text = page(
        "speed",
        SpeedRow("T", "passes alone", 1, 0, 3, 20.0, math.nan, 0.0, 0.0, 0.0),
        SpeedRow("T", "passes alone", 2, 0, 3, 38.0, math.nan, 0.0, 0.0, 0.0),
        row("local", 1, 10.0, 100.0), row("local", 2, 17.0, 60.0),
        row("ray", 1, 9.0, 130.0), row("ray", 2, 14.0, 90.0),
    )  # fmt: skip
    assert (
        "| T | – | passes alone | 20.0 films/s | 38.0 films/s | 1.90 x | – | – | – | – | – |"
        in text
    )
    assert (
        "| T | 1,024 | local | 10.0 films/s | 17.0 films/s | 1.70 x | at least 1.7 x | yes "
        "| 0.90, 1.80 | 2.0 + 3.5 s, 2.0 + 3.5 s | 100, 60 s |"
    ) in text
    assert "1.56 x | at least 1.7 x | no |" in text
    assert "| T | 1 | +11.1 % | at most 15 % | yes | +30 % |" in text
    assert "| T | 2 | +21.4 % | at most 15 % | no | +50 % |" in text


def test_without_ray_there_is_no_overhead() -> None:
    rows = [SpeedRow("T", "local", n, 1024, 3, 10.0 * n, 1.0 * n, 0.0, 1.0, 9.0) for n in (1, 2)]
    assert "overhead while" not in page("speed", *rows)


def test_memory_is_flat_or_not() -> None:
    least = MemoryRow(2_000, 32_000, 2, 900.0, 600.0, 100.0, 8, 4, 60.0)
    most = MemoryRow(200_000, 3_200_000, 2, 2_100.0, 650.0, 100.0, 8, 4, 1_900.0)
    text = page("memory", least, most)
    assert (
        "| 2,000, 32,000 | 900 MB | 600 MB | 100 MB | at most 2 GB | yes | 8, 4 | 60 s |"
    ) in text
    assert "| at most 2 GB | no | 8, 4 | 1,900 s |" in text
    assert "run 2.33 x (no), worker 1.08 x (yes), reader 1.00 x (yes)" in text
    assert "The run holds 6.1 kB more for each film." in text
    assert "times the films" not in page("memory", least)


def test_the_search_has_a_target_at_its_size_alone() -> None:
    def row(films: int, seconds: float, peak: float) -> DiscoveryRow:
        return DiscoveryRow(
            films, films // 6, 16 * films, 512, 4, seconds, {"clustering": 1.5, "sensitivity": 2.0},
            700.0, peak, 88, 9, 3, True, 90_000,
        )  # fmt: skip

    text = page("discovery", row(20_000, 40.0, 1_200.0), row(200_000, 361.0, 2_900.0))
    assert "| 20,000, 3,333 | 320,000 x 512 | 40 s | – | – | 1.20 GB (0.70)" in text
    assert "| 361 s | at most 360 s | no | 2.90 GB (0.70) | at most 3 GB | yes |" in text
    assert "| films | clustering | sensitivity |" in text
    assert "| 200,000 | 1.5 s | 2.0 s |" in text
    assert "10 times the films take 9.0 times the seconds (10 is linear: yes)." in text


def test_kills_that_hit_are_told() -> None:
    row = ChaosRow("Ray, 2 workers", "worker", 900, 22, 20, 12, 7, 1, 5, 5, 310.0)
    text = page(
        "chaos", row, ChaosRow("local, 2 workers", "run", 900, 20, 20, 10, 9, 1, 10, 9, 9.0)
    )
    assert (
        "| Ray, 2 workers | a worker | 900 | 20 of 22 | 12, 7, 1 | 5 | 5 of 5 | yes | 310 s |"
    ) in text
    assert "| local, 2 workers | the run | 900 | 20 of 20 | 10, 9, 1 | 10 | 9 of 10 | no |" in text


def test_each_step_of_the_projection_is_shown() -> None:
    text = page(
        "projection",
        ProjectionLine("assumed", "H100 of the node", "", 8, ""),
        ProjectionLine("CPU nodes", "embedding", "377,110 x 0.5 s / 3600", 52.376, "hours"),
        ProjectionLine("H100 node", "reading a film", "a / b", 0.25, "ms"),
    )
    assert "| assumed | H100 of the node | – | 8 |" in text
    assert "| CPU nodes | embedding | 377,110 x 0.5 s / 3600 | 52.38 hours |" in text
    assert "| H100 node | reading a film | a / b | 0.25 ms |" in text
