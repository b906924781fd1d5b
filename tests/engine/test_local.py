"""Workers of this machine: order, deaths, faults, threads, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_work import Opener

from ravl_med.engine.local import LocalEngine, Work
from ravl_med.errors import DataError, EngineError, ModelError

pytestmark = pytest.mark.long

UNITS = [{"value": value} for value in range(5)]


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2]
    except OSError:
        return False
    return state.split()[0] != "Z"


def test_without_workers_this_process_does_the_work() -> None:
    done = list(LocalEngine().map(Work(Opener()), UNITS))
    assert [unit["value"] for unit in done] == [0, 1, 4, 9, 16]
    assert {unit["process"] for unit in done} == {os.getpid()}


def test_what_this_process_holds_already_is_used() -> None:
    work = Work(Opener(broken="refused"), here=lambda: lambda unit: unit + 1)
    assert list(LocalEngine().map(work, [1, 2])) == [2, 3]


def test_workers_keep_the_order_have_their_threads_and_end(capfd) -> None:
    units = [{"value": value, "sleep": 0.2 * (value == 0)} for value in range(5)]
    done = list(LocalEngine(2).map(Work(Opener(), threads=1), units))
    assert [unit["value"] for unit in done] == [0, 1, 4, 9, 16]
    assert {unit["threads"] for unit in done} == {1}
    workers = {unit["process"] for unit in done}
    assert os.getpid() not in workers
    assert len(workers) == 2
    assert not any(alive(worker) for worker in workers)
    assert capfd.readouterr() == ("", "")


def test_nothing_to_do_starts_nobody() -> None:
    assert list(LocalEngine(2).map(Work(Opener(broken="killed")), [])) == []


def test_the_unit_of_a_worker_that_died_is_done_again(tmp_path) -> None:
    units = [*UNITS, {"value": 5, "die_once": str(tmp_path / "died")}]
    done = list(LocalEngine(2).map(Work(Opener()), units))
    assert (tmp_path / "died").exists()
    assert [unit["value"] for unit in done] == [0, 1, 4, 9, 16, 25]


@pytest.mark.parametrize(("work", "unit", "what"), [
    (Work(Opener()), {"die": True}, "the same unit of work brought 2"),
    (Work(Opener(broken="killed")), {"value": 1}, "opening the model brought 2"),
])  # fmt: skip
def test_what_kills_worker_after_worker_is_given_up(work, unit, what, monkeypatch) -> None:
    monkeypatch.setattr("ravl_med.engine.local._LIVES", 2)
    monkeypatch.setattr("ravl_med.engine.local.OPENINGS", 2)
    with pytest.raises(EngineError, match=f"{what} workers down"):
        list(LocalEngine(1).map(work, [unit]))


def test_who_dies_before_the_work_is_no_fault_of_a_unit(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("ravl_med.engine.local._LIVES", 1)
    (tmp_path / "deaths").write_text("1", "ascii")
    work = Work(Opener(deaths=str(tmp_path / "deaths")))
    assert [unit["value"] for unit in LocalEngine(1).map(work, UNITS)] == [0, 1, 4, 9, 16]
    assert (tmp_path / "deaths").read_text("ascii") == "0"


@pytest.mark.parametrize(("work", "unit", "error", "line"), [
    (Work(Opener()), {"fail": "data"}, DataError, r"^manifest\.csv row 3: no such file\.$"),
    (Work(Opener()), {"fail": "image"}, DataError, r"^the file ends early\.$"),
    (Work(Opener(broken="refused")), {}, ModelError, r"^model: no such folder\.$"),
    (Work(Opener(), name="reading"), {"fail": "other"}, EngineError,
     "engine: reading, unit 2 of 2, ended a worker's attempt with ValueError"),
])  # fmt: skip
def test_an_error_of_a_worker_is_one_line_without_a_name(work, unit, error, line) -> None:
    with pytest.raises(error, match=line) as caught:
        list(LocalEngine(1).map(work, [{"value": 1}, unit]))
    assert "Doe" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)


def test_workers_end_with_a_run_that_is_killed() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from toy_work import Opener\n"
        "from ravl_med.engine.local import LocalEngine, Work\n"
        "units = [{'value': 1}, {'value': 1, 'sleep': 600}]\n"
        "for unit in LocalEngine(1).map(Work(Opener()), units):\n"
        "    print(unit['process'], flush=True)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    worker = int(run.stdout.readline())
    assert alive(worker)
    run.kill()
    run.wait()
    run.stdout.close()
    for _ in range(100):
        if not alive(worker):
            break
        time.sleep(0.1)
    assert not alive(worker)
