"""Kills on runs that are made up: who is hit, when, and what is compared."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from ravl_med.config.loading import load_config
from ravl_med.errors import RavlMedError
from tests.benchmarks import killed_audits
from tests.benchmarks.killed_audits import measure_chaos
from tests.benchmarks.runner import QUICKSTART, silent

CONFIG = load_config(QUICKSTART)
EMBEDDING, CHANGING = "embed films and regions", "remove and transplant"


class MadeUpRun:
    """A run that goes on by one look at a time; it writes its result at its end."""

    def __init__(self, request, looks: list[str], result: bytes) -> None:
        self.request, self._looks, self._result = request, list(looks), result
        self.killed: list[int] = []
        self._dead = False

    @property
    def stage(self) -> str:
        return self._looks[0] if self._looks else ""

    def ended(self) -> bool:
        if self._looks and not self._dead:
            self._looks.pop(0)
        return self._dead or not self._looks

    def workers(self) -> list[int]:
        return [11, 12] if self.stage in (EMBEDDING, CHANGING) else []

    def kill_worker(self, process: int) -> bool:
        self.killed.append(process)
        return True

    def kill(self) -> bool:
        there, self._dead = not self._dead and bool(self._looks), True
        return there

    def wait(self):
        assert not self._dead
        self._looks = []
        self.request.result.parent.mkdir(parents=True, exist_ok=True)
        self.request.result.write_bytes(self._result)
        return {"films": 90, "timings": {"embeddings": 0.0, "counterfactuals": 0.0}}


@pytest.fixture
def made_up(monkeypatch):
    """Runs that are made up, in the order in which they were started."""
    runs: list[MadeUpRun] = []
    looks = ["start", *[EMBEDDING] * 6, "cluster regions", *[CHANGING] * 6, "end"]
    results: dict[int, bytes] = {}

    @contextmanager
    def start(request):
        runs.append(MadeUpRun(request, looks, results.get(len(runs), b"{}")))
        yield runs[-1]

    monkeypatch.setattr(killed_audits, "watched_audit", start)
    monkeypatch.setattr(killed_audits.time, "sleep", lambda seconds: None)
    return runs, looks, results


def test_kills_hit_workers_and_runs_in_both_stages(made_up) -> None:
    runs, _, _ = made_up
    steps: list[tuple[str, int, int]] = []

    worker, run = measure_chaos(
        CONFIG, 8, lambda *step: steps.append(step), ray=False, gap=(0.0, 0.0)
    )

    assert (worker["killed"], worker["films"], worker["hits"], worker["tries"]) == (
        "worker",
        90,
        8,
        8,
    )
    assert worker["embedding"] + worker["counterfactuals"] == 8
    assert {process for one in runs for process in one.killed} == {11, 12}
    assert worker["runs"] == worker["same"] >= 1
    assert (run["killed"], run["hits"], run["embedding"], run["counterfactuals"]) == (
        "run",
        8,
        4,
        4,
    )
    assert (run["runs"], run["same"]) == (4, 4)
    assert steps[-1] == ("kill: local, 2 workers, run", 8, 8)


def test_a_result_that_differs_is_counted(made_up) -> None:
    _, _, results = made_up
    results[1] = b"other"

    worker, run = measure_chaos(CONFIG, 1, silent, ray=False, gap=(0.0, 0.0))

    assert (worker["runs"], worker["same"]) == (1, 0)
    assert (run["runs"], run["same"]) == (1, 1)


def test_ray_is_killed_too(made_up) -> None:
    rows = measure_chaos(CONFIG, 2, silent, gap=(0.0, 0.0))
    assert [(row["engine"], row["killed"]) for row in rows] == [
        ("local, 2 workers", "worker"), ("local, 2 workers", "run"),
        ("Ray, 2 workers", "worker"), ("Ray, 2 workers", "run"),
    ]  # fmt: skip


def test_runs_that_are_too_short_are_given_up(made_up) -> None:
    _, looks, _ = made_up
    looks[:] = ["start", "end"]
    with pytest.raises(RavlMedError, match=r"in 3 runs nothing could be killed; expected runs"):
        list(measure_chaos(CONFIG, 1, silent, ray=False, gap=(0.0, 0.0)))
