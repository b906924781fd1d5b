"""The processes of a training: one, or those that `torchrun` has started.

The first one leads. What takes hours and no gradient it does alone, with the workers of an engine
where the config names some. The others wait for what it asks them to do, above all to train an arm.

`torchrun` keeps one store for all starts of a run. After a restart the addresses of processes that
were killed still lie in it, and who reads one of them waits at a port that nobody listens at
(pytorch/pytorch#135712). So each start has a part of the store of its own, which the first process
names. It answers every process by a token of that process; the dead one before it cannot.
"""

from __future__ import annotations

import atexit
import gc
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from ravl_med.errors import EngineError

_JOINING_TIMEOUT = timedelta(minutes=30)  # PyTorch's own for gloo
_PAUSE = 0.1  # seconds


def join_processes(device: torch.device, patience: timedelta = _JOINING_TIMEOUT) -> None:
    """Join the process group of all that `torchrun` has started, as the default one.

    Raises
    ------
    EngineError
        Some of them do not come.
    """
    store, rank, world = next(rendezvous("env://", timeout=patience))
    own = PrefixStore(_agree_on_start(store, rank, world, patience), store)
    more: dict[str, Any] = {}
    if device.type == "cuda":
        torch.cuda.set_device(device)
        more["device_id"] = device
    distributed.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        store=own,
        rank=rank,
        world_size=world,
        timeout=patience,
        **more,
    )


def _agree_on_start(store: Store, rank: int, world: int, patience: timedelta) -> str:
    """Return what this start is called, the same to all of its processes and to no other's."""
    token = secrets.token_hex(8)
    if rank:
        store.set(f"ravl-med/token/{rank}", token)
        start = bytes(store.get(f"ravl-med/start/{token}")).decode()
        store.set(f"ravl-med/here/{start}/{rank}", "")
        return start
    answered: set[str] = set()
    awaited, until = set(range(1, world)), time.monotonic() + patience.total_seconds()
    while awaited:
        for other in sorted(awaited):
            if store.check([f"ravl-med/here/{token}/{other}"]):
                awaited.discard(other)
            elif store.check([f"ravl-med/token/{other}"]):
                named = bytes(store.get(f"ravl-med/token/{other}")).decode()
                if named not in answered:  # of a process that is dead it does no harm
                    store.set(f"ravl-med/start/{named}", token)
                    answered.add(named)
        if awaited and time.monotonic() >= until:
            raise EngineError(
                f"mitigation: {len(awaited)} of {world} processes have not come within "
                f"{patience.total_seconds():.0f} s; expected all that torchrun is to start. Did "
                "they end with an error on their nodes?"
            )
        time.sleep(_PAUSE if awaited else 0.0)
    return token


T = TypeVar("T")

_FIRST_PROCESS_TIMEOUT = timedelta(
    days=7
)  # for the first process; one that has died is noticed at once
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "socket")


def make_fabric(device: str = "cpu", precision: str = "32-true", *, alone: bool = False) -> Fabric:
    """Return the Fabric of this process; under `torchrun` it joins the others, or works `alone`.

    `device` is ``auto``, ``cpu``, ``mps`` or ``cuda[:i]``. Neither precision needs its gradients
    scaled.
    """
    kind, _, number = device.partition(":")
    chosen: Any = precision
    if "LOCAL_WORLD_SIZE" not in os.environ or alone:
        devices: Any = [int(number)] if number else 1
        own = LightningEnvironment()  # it does not ask what torchrun has left in the environment
        fabric = Fabric(accelerator=kind, devices=devices, precision=chosen, plugins=[own])
        fabric.launch()
        return fabric
    local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    fabric = Fabric(
        accelerator=kind, devices=local, num_nodes=world // local, strategy="ddp", precision=chosen
    )
    if not distributed.is_initialized():
        join_processes(fabric.strategy.root_device)
        atexit.register(_leave)
    fabric.launch()
    return fabric


class Processes:
    """Those that work together: the first one asks, the others do what it asks for.

    All of them make this object at the same point. As a context of the first one it lets the others
    go at its end.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self._busy = False
        # A group of its own: the one that gradients are exchanged in has to give up sooner.
        self._group: Any = (
            distributed.new_group(backend="gloo", timeout=_FIRST_PROCESS_TIMEOUT)
            if fabric.world_size > 1
            else None
        )

    @property
    def first(self) -> bool:
        """Whether this one leads."""
        return self.fabric.global_rank == 0

    @property
    def count(self) -> int:
        """How many there are."""
        return self.fabric.world_size

    def together(self, job: Callable[[Fabric], T], here: Callable[[Fabric], T] | None = None) -> T:
        """Do a job in all processes at once, and return what the first one has made.

        The job can be pickled; the first process does `here` instead, where it is given.

        Raises
        ------
        EngineError
            Another process has ended.
        """
        with self._working():
            self._send((job, False))
            return (here or job)(self.fabric)

    def ask(self, job: Callable[[Fabric], T]) -> list[T]:
        """Do a job in all processes at once, and return what each has made, in their order.

        Raises
        ------
        EngineError
            Another process has ended.
        """
        with self._working():
            self._send((job, True))
            return self._gather(job(self.fabric))

    def serve(self) -> None:
        """Do what the first process asks for, until it lets this one go.

        Raises
        ------
        EngineError
            Another process has ended.
        """
        with self._working():
            while True:
                message: list[Any] = [None]
                distributed.broadcast_object_list(message, src=0, group=self._group)
                if message[0] is None:
                    return
                job, wanted = message[0]
                made = job(self.fabric)
                if wanted:
                    self._gather(made)
                del job, made  # a trained tower, which nobody here wants

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        if self.first and not self._busy:  # else the others are in the middle of a job
            with suppress(RuntimeError):  # one of them is gone already
                self._send(None)

    def _send(self, message: Any) -> None:
        if self._group is not None:
            distributed.broadcast_object_list([message], src=0, group=self._group)

    def _gather(self, made: T) -> list[T]:
        if self._group is None:
            return [made]
        gathered: list[Any] = [None] * self.count
        distributed.all_gather_object(gathered, made, group=self._group)
        return gathered

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Say in one line that another process is gone."""
        self._busy = True
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or not self._is_loss(error):
                raise
            raise EngineError(
                f"mitigation: another of the {self.count} processes has ended, and this one with "
                "it; expected all of them to stay. It has said why, unless it was killed. torchrun "
                "--max-restarts starts them again, and they go on from the last checkpoint; by "
                "hand, --resume does."
            ) from None
        self._busy = False

    def _is_loss(self, error: RuntimeError) -> bool:
        if self._group is None:
            return False
        message = str(error).lower()
        return isinstance(error, distributed.DistError) or any(sign in message for sign in _LOST)


def _leave() -> None:
    """Leave the other processes, and join gloo's threads while there is an interpreter.

    One that still holds a tensor of the last exchange would want the interpreter to let go of it,
    and ends a process that has done its work by SIGABRT.
    """
    gc.collect()  # wrapped modules, in cycles of references, keep the group and its threads
    if distributed.is_initialized():
        distributed.destroy_process_group()
