"""One process alone; several are asked in `test_torchrun`."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

from ravl_med.errors import DataError, EngineError
from ravl_med.mitigation.distributed import Processes, make_fabric


def job(number: int, fabric: Fabric) -> int:
    return number + fabric.world_size


def test_one_process_asks_itself() -> None:
    with Processes(make_fabric()) as processes:
        assert processes.first
        assert processes.count == 1
        assert processes.ask(partial(job, 4)) == [5]
        assert processes.together(partial(job, 4)) == 5
        assert processes.together(partial(job, 4), lambda fabric: 7) == 7


def test_what_torchrun_has_left_in_the_environment_is_nothing_to_one_that_is_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "2")
    fabric = make_fabric(alone=True)
    assert (fabric.world_size, fabric.global_rank) == (1, 0)


def test_errors_of_a_job_are_its_own() -> None:
    def fail(error: Exception, fabric: Fabric) -> None:
        raise error

    for error in (DataError("of films"), RuntimeError("gloo, but alone"), ValueError("any")):
        with pytest.raises(type(error), match=str(error)), Processes(make_fabric()) as processes:
            processes.together(partial(fail, error))


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"), True),
        (torch.distributed.DistBackendError("NCCL error in: somewhere"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (torch.OutOfMemoryError("gloo had no memory"), False),
    ],
)
def test_the_loss_of_another_process_is_said(error: Exception, lost: bool) -> None:
    alone: Any = make_fabric()
    processes = Processes(alone)
    processes._group = SimpleNamespace()  # as if there were another one
    processes.fabric = SimpleNamespace(world_size=2, global_rank=1)  # type: ignore[assignment]

    def work() -> None:
        with processes._working():
            raise error

    if lost:
        with pytest.raises(EngineError, match=r"another of the 2 processes has ended.*--resume"):
            work()
    else:
        with pytest.raises(type(error), match=str(error)[:10]):
            work()
