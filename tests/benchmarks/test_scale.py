"""What holds beyond one machine: engines side by side, and targets by hand."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ravl_med.config.loading import load_config
from ravl_med.errors import ConfigError
from ravl_med.storage.cache import Cache
from tests.benchmarks import scale
from tests.benchmarks.audit_process import phantom_audit
from tests.benchmarks.killed_audits import measure_chaos
from tests.benchmarks.runner import QUICKSTART, Setup, silent
from tests.benchmarks.scale import (
    PAGE,
    chaos_lines,
    gains,
    growth,
    measure_sameness,
    memory_lines,
    overheads,
    same_lines,
    search_lines,
    speed_lines,
    summarise,
)

SUMMARY = {"films": 90, "regions": 3_240, "correlations": 5, "tested": 2}


class MadeUpRun:
    def __init__(self, request) -> None:
        self._request = request

    def wait(self):
        engine, shards = self._request.config.engine, self._request.shards
        self._request.result.parent.mkdir(parents=True, exist_ok=True)
        other = b" " if engine.kind == "ray" and engine.workers == 2 else b""
        self._request.result.write_bytes(b"{}" + other)
        assert self._request.report
        assert bool(shards) == (engine.kind == "local" and not engine.workers and shards == 7)
        return SUMMARY


def test_each_engine_and_seven_shards_are_held_against_a_run_alone(monkeypatch) -> None:
    @contextmanager
    def start(request):
        assert not request.cache.exists()
        yield MadeUpRun(request)

    monkeypatch.setattr(scale, "watched_audit", start)
    rows = list(measure_sameness(load_config(QUICKSTART), silent))
    assert [(row["engine"], row["same"]) for row in rows] == [
        ("local, no worker", True), ("local, 1 worker", True), ("local, 2 workers", True),
        ("Ray, 1 worker", True), ("Ray, 2 workers", False), ("7 shards, then an audit", True),
    ]  # fmt: skip
    assert (rows[0]["films"], rows[0]["regions"], rows[0]["tested"], rows[0]["size"]) == (
        90,
        3_240,
        2,
        2,
    )
    assert len({row["digest"] for row in rows}) == 2
    some = list(measure_sameness(load_config(QUICKSTART), silent, ray=False))
    assert len(some) == 4


@pytest.mark.slow
def test_small_audits_are_the_same_whoever_does_the_work_and_whoever_dies(tmp_path: Path) -> None:
    small = (
        "cohort.synthetic.size=96", "model.quickstart.epochs=1", "model.quickstart.image_size=64",
        "discovery.clusters=[4, 8]", "discovery.draws=1", "discovery.min_strength=0",
        "discovery.min_influence=0", "evidence.permutations=99", "evidence.draws=2000",
        "evidence.simulations=20", "evidence.effect_films=20", "evidence.dependence_films=0",
        "evidence.max_pairs=10", "evidence.min_pairs=2", "evidence.min_n=2",
        "evidence.fdr=0.99", "evidence.side_level=0.99", "evidence.min_gap=0", "gate.min_films=1",
        "gate.max_prediction_share=1", "gate.min_prediction_share=0", "gate.min_auroc=0",
    )  # fmt: skip
    config = phantom_audit(load_config(QUICKSTART, small), 400, Cache(tmp_path), silent)
    rows = list(measure_sameness(config, silent, ray=False))
    assert all(row["same"] for row in rows)
    assert rows[0]["films"] > 90
    for row in measure_chaos(config, 2, silent, ray=False, gap=(1.0, 3.0)):
        assert row["hits"] >= 2
        assert row["same"] == row["runs"]


def test_ray_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "find_spec", lambda name: None)
    for name in ("same", "speed", "chaos"):
        with pytest.raises(ConfigError, match="Ray is not installed"):
            PAGE.part(name).measure(Setup(None, None, b""))  # type: ignore[arg-type]


# --- targets --------------------------------------------------------------------------------------


def speed(engine: str, workers: int, rate: float, seconds: float = 9.0) -> dict[str, Any]:
    return {"tower": "T", "engine": engine, "workers": workers, "films": 64, "rounds": 3,
            "rate": rate, "processors": 1.0, "engine_start": 0.0, "model_start": 1.0,
            "seconds": seconds}  # fmt: skip


SPEED = [
    speed("passes alone", 1, 20.0), speed("passes alone", 2, 38.0),
    speed("local", 1, 10.0, 100.0), speed("local", 2, 17.0, 60.0),
    speed("ray", 1, 9.0, 130.0), speed("ray", 2, 14.0, 90.0),
]  # fmt: skip


def test_one_result_that_differs_is_a_miss() -> None:
    rows = [{"engine": "a", "same": True}, {"engine": "b", "same": False}]
    ((about, _, reached, met),) = same_lines(rows)
    assert about == "`result.json`: a; b"
    assert (reached, met) == ("1 of 2 the same", False)


def test_gain_and_overhead_are_those_of_steady_films_a_second() -> None:
    assert [row["gain"] for row in gains(SPEED)] == pytest.approx([1.9, 1.7, 14 / 9])
    found = overheads(SPEED)
    assert [row["more"] for row in found] == pytest.approx([10 / 9 - 1, 17 / 14 - 1])
    assert [row["more_in_all"] for row in found] == pytest.approx([0.3, 0.5])
    lines = list(speed_lines(SPEED))
    assert [line[0].split(",")[0] for line in lines] == [
        "two workers against one", "two workers against one", "Ray's overhead",
    ]  # fmt: skip
    assert [line[3] for line in lines] == [True, False, False]


def test_without_ray_there_is_no_overhead() -> None:
    assert overheads(SPEED[:4]) == []
    assert "overhead" not in PAGE.part("speed").draw(SPEED[:4])


def memory(films: int, run: float, worker: float, reader: float) -> dict[str, Any]:
    return {"films": films, "regions": 16 * films, "workers": 2, "run_mb": run,
            "worker_mb": worker, "reader_mb": reader, "correlations": 8, "tested": 4,
            "seconds": 60.0}  # fmt: skip


def test_memory_is_flat_or_not() -> None:
    rows = [memory(2_000, 900.0, 600.0, 100.0), memory(200_000, 2_100.0, 650.0, 100.0)]
    assert growth(rows, "run_mb") == pytest.approx((100.0, 2_100 / 900))
    assert [met for *_, met in memory_lines(rows)] == [False, True, True]
    text = PAGE.part("memory").draw(rows)
    assert "run 2.33 x (no), worker 1.08 x (yes), reader 1.00 x (yes)" in text
    assert "The run holds 6.1 kB more for each film." in text
    assert growth(rows[:1], "run_mb") is None
    assert "times the films" not in PAGE.part("memory").draw(rows[:1])


def search(films: int, seconds: float, peak: float) -> dict[str, Any]:
    return {"films": films, "patients": films // 6, "regions": 16 * films, "size": 512,
            "classes": 4, "seconds": seconds, "stages": {"clustering": 1.5, "sensitivity": 2.0},
            "before_mb": 700.0, "peak_mb": peak, "clusters": 88, "candidates": 9, "confirmed": 3,
            "found": True, "json_bytes": 90_000}  # fmt: skip


def test_the_search_has_a_target_at_its_size_alone() -> None:
    small, large = search(20_000, 40.0, 1_200.0), search(200_000, 361.0, 2_900.0)
    assert [met for *_, met in search_lines([small, large])] == [False, True]
    assert [met for *_, met in search_lines([search(200_000, 360.0, 2_900.0)])] == [True]
    assert list(search_lines([small])) == []
    assert growth([large, small], "seconds") == pytest.approx((10.0, 9.025))
    assert "| 200,000 | 1.5 s | 2.0 s |" in PAGE.part("discovery").draw([small, large])


def test_runs_that_differ_after_a_kill_are_a_miss() -> None:
    rows = [{"engine": "e", "killed": "run", "hits": 20, "runs": 10, "same": same}
            for same in (10, 9)]  # fmt: skip
    assert [met for *_, met in chaos_lines(rows)] == [True, False]


def test_the_summary_holds_the_parts_that_were_measured() -> None:
    text = summarise({"memory": [memory(2_000, 900.0, 600.0, 100.0)], "speed": SPEED})
    assert text.splitlines()[2].startswith("| two workers against one, T, local | at least 1.7 x")
    assert text.splitlines()[-1].startswith("| memory of the reader, ")
