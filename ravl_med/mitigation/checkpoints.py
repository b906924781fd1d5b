"""Checkpoints of a training: written by the first process, read by all of them.

A checkpoint is there whole or not at all, and the one before it until then. Nothing in it has to be
unpickled.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from ravl_med.errors import DataError, EngineError
from ravl_med.mitigation.whole_files import whole_file

__all__ = ["read_checkpoint", "write_checkpoint"]

_TRIES = 90  # a second each: network file systems show a file that was replaced half a minute late


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint in place of the last one.

    Parameters
    ----------
    path : Path
    state : mapping - tensors, numbers, texts, lists and mappings of them; `epoch` and
        `done_in_epoch` tell where it was

    Raises
    ------
    ConfigError
        The disk is full, or may not be written to; the last checkpoint stays.
    """
    with whole_file(path) as stream:
        torch.save(dict(state), stream)


def read_checkpoint(path: Path, fabric: Fabric) -> dict[str, Any] | None:
    """Read a checkpoint, the same one in all processes.

    Parameters
    ----------
    path : Path
    fabric : Fabric - all processes call at the same point

    Returns
    -------
    dict or None - on the CPU; None where there is none

    Raises
    ------
    DataError
        It is not a checkpoint, or is damaged.
    EngineError
        A process does not see the one that the first process sees.
    """
    for _ in range(_TRIES):
        state = _read(path) if path.is_file() else None
        place = None if state is None else (state["epoch"], state["done_in_epoch"])
        if fabric.world_size == 1 or _agree(fabric, place):
            return state
        time.sleep(1.0)
    raise EngineError(
        f"mitigation: process {fabric.global_rank + 1} of {fabric.world_size} does not see the "
        f"checkpoint that the first one sees, after {_TRIES} s; expected one cache.folder that all "
        "nodes share."
    )


def _agree(fabric: Fabric, place: tuple[int, int] | None) -> bool:
    """Whether all processes are at the same place."""
    first = fabric.broadcast(place)
    alike: Any = fabric.all_reduce(
        torch.tensor(float(place == first), device=fabric.device), reduce_op="min"
    )
    return bool(alike > 0.5)


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        int(state["epoch"]), int(state["done_in_epoch"])
    except Exception as error:  # torch, zipfile and pickle raise many types here
        raise DataError(
            f"--resume: the checkpoint cannot be read ({type(error).__name__}); expected one that "
            "this version wrote. Start anew, without --resume."
        ) from None
    return state
