"""Hours and euros by hand, and the measurement behind them on a tiny tower."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravl_med.config.loading import load_config
from tests.benchmarks.scale import projection
from tests.benchmarks.scale.projection import Assumptions, Measured, measure_films, project
from tests.benchmarks.scale.speed_trials import SMALL_TOWER

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
MEASURED = Measured(
    read=0.08, prepare=0.01, encode=0.41, picture=0.36, gflop=40.0, pictures=10_000,
    store_bytes=13_000_000_000, sample=16, search=0.0018, search_films=200_000,
)  # fmt: skip


def value(lines, where: str, what: str) -> float:
    (found,) = [line.value for line in lines if (line.where, line.what) == (where, what)]
    return found


def test_hours_and_euros_on_cpus_by_hand() -> None:
    lines = project(MEASURED, Assumptions(cpu_nodes=2, cpu_cores=10, cpu_euros=3.0, efficiency=0.5))

    embed = 377_110 * 0.5 / (20 * 0.5) / 3600
    change = 10_000 * 0.36 / (6 * 0.5) / 3600
    search = 377_110 * 0.0018 / 3600
    assert value(lines, "CPU nodes", "a film") == pytest.approx(0.5)
    assert value(lines, "CPU nodes", "embedding") == pytest.approx(embed)
    assert value(lines, "CPU nodes", "together") == pytest.approx(embed + change + search)
    assert value(lines, "CPU nodes", "price") == pytest.approx(3.0 * (2 * embed + change + search))


def test_the_slower_of_reading_and_passes_counts_on_gpus() -> None:
    """40 GFLOP at 1,000 x 0.4 TFLOP/s: 0.1 ms. Reading: 18 ms on 10 processors, 0.02 on 9,000."""
    few = project(MEASURED, Assumptions(gpus=1, gpu_cores=10, gpu_tflops=1_000, utilisation=0.4,
                                        efficiency=0.5))  # fmt: skip
    many = project(MEASURED, Assumptions(gpus=1, gpu_cores=9_000, gpu_tflops=1_000,
                                         utilisation=0.4, efficiency=0.5))  # fmt: skip
    assert value(few, "H100 node", "passes of a film") == pytest.approx(0.1)
    assert value(few, "H100 node", "reading a film") == pytest.approx(18.0)
    assert value(few, "H100 node", "embedding") == pytest.approx(377_110 * 0.018 / 3600)
    assert value(many, "H100 node", "embedding") == pytest.approx(377_110 * 0.0001 / 3600)
    together = value(many, "H100 node", "together")
    assert value(many, "H100 node", "price") == pytest.approx(40.0 * together)


def test_every_assumption_is_named(monkeypatch) -> None:
    lines = project(MEASURED, Assumptions())
    assert sum(line.where == "assumed" for line in lines) == len(Assumptions.__dataclass_fields__)
    assert any("part discovery, 200,000 films" in line.how for line in lines)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(projection, "TOWER", SMALL_TOWER)
    monkeypatch.setattr(projection, "_SHAPE", (160, 128))
    monkeypatch.setattr("ravl_med.pipeline.planning._CLUSTERED", (200, 400))


def test_films_are_measured_and_operations_counted(tiny) -> None:
    searches = [{"films": 20, "seconds": 1.0}, {"films": 200, "seconds": 4.0}]
    config = load_config(QUICKSTART, ("discovery.sample=100",))

    measured = measure_films(config, 3, searches, lambda *told: None)

    assert measured.sample == 3
    assert min(measured.read, measured.prepare, measured.encode, measured.picture) > 0
    assert 0.1 < measured.gflop < 5
    assert (measured.search, measured.search_films) == (0.02, 200)
    assert measured.store_bytes == 377_110 * (40 + 17 * 4 * 128)
