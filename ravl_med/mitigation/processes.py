"""The processes of a training: one, or those that `torchrun` has started."""

from __future__ import annotations

import atexit
import gc
import os
from typing import Any

import torch
from lightning_fabric import Fabric

__all__ = ["make_fabric"]


def make_fabric(device: str = "cpu", precision: str = "32-true") -> Fabric:
    """Return the Fabric of this process; under `torchrun` it joins the others.

    Parameters
    ----------
    device : str - ``auto``, ``cpu``, ``mps`` or ``cuda[:i]``
    precision : {"32-true", "bf16-mixed"} - neither needs its gradients scaled
    """
    kind, _, number = device.partition(":")
    chosen: Any = precision
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun has started the processes
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        fabric = Fabric(
            accelerator=kind,
            devices=local,
            num_nodes=world // local,
            strategy="ddp",
            precision=chosen,
        )
    else:
        devices: Any = [int(number)] if number else 1
        fabric = Fabric(accelerator=kind, devices=devices, precision=chosen)
    fabric.launch()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        atexit.register(_leave)
    return fabric


def _leave() -> None:
    """Leave the other processes, and join gloo's threads while there is an interpreter.

    One that still holds a tensor of the last exchange would want the interpreter to let go of it,
    and ends a process that has done its work by SIGABRT.
    """
    gc.collect()  # wrapped modules, in cycles of references, keep the group and its threads
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
