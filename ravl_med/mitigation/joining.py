"""How the processes that `torchrun` has started find each other, at every start of a run.

`torchrun` keeps one store for all starts of a run. After a restart the addresses of processes that
were killed still lie in it, and who reads one of them waits at a port that nobody listens at
(pytorch/pytorch#135712). So each start has a part of the store of its own, which the first process
names. It answers every process that says a word of its own; the dead one before it cannot.
"""

from __future__ import annotations

import secrets
import time
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from ravl_med.errors import EngineError

__all__ = ["join_processes"]

_PATIENCE = timedelta(minutes=30)  # PyTorch's own for gloo
_PAUSE = 0.1  # seconds


def join_processes(device: torch.device, patience: timedelta = _PATIENCE) -> None:
    """Join the process group of all that `torchrun` has started, as the default one.

    Parameters
    ----------
    device : torch.device - of this process
    patience : timedelta - for the others

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
    word = secrets.token_hex(8)
    if rank:
        store.set(f"ravl-med/word/{rank}", word)
        start = bytes(store.get(f"ravl-med/start/{word}")).decode()
        store.set(f"ravl-med/here/{start}/{rank}", "")
        return start
    answered: set[str] = set()
    awaited, until = set(range(1, world)), time.monotonic() + patience.total_seconds()
    while awaited:
        for other in sorted(awaited):
            if store.check([f"ravl-med/here/{word}/{other}"]):
                awaited.discard(other)
            elif store.check([f"ravl-med/word/{other}"]):
                said = bytes(store.get(f"ravl-med/word/{other}")).decode()
                if said not in answered:  # of a process that is dead it does no harm
                    store.set(f"ravl-med/start/{said}", word)
                    answered.add(said)
        if awaited and time.monotonic() >= until:
            raise EngineError(
                f"mitigation: {len(awaited)} of {world} processes have not come within "
                f"{patience.total_seconds():.0f} s; expected all that torchrun was told of. Did "
                "they end with an error on their nodes?"
            )
        time.sleep(_PAUSE if awaited else 0.0)
    return word
