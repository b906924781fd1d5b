"""The engine of a config: this process, local processes, or actors of a Ray cluster do the work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ravl_med.config.runtime import EngineConfig
from ravl_med.engine.local import LocalEngine
from ravl_med.engine.ray import RayEngine
from ravl_med.errors import ConfigError

Engine = LocalEngine | RayEngine
"""Maps units of work over workers."""


@contextmanager
def opened_engine(engine: EngineConfig, device: str, threads: int | None) -> Iterator[Engine]:
    """Open an engine whose workers run a model on `device`, for as long as it is needed.

    Raises
    ------
    ConfigError
        Its workers would not have the device, or do not fit into the cluster, or there is none.
    EngineError
        Ray does not start.
    """
    if engine.kind == "local":
        yield LocalEngine(engine.workers, _gpus(device) if engine.workers > 1 else ())
        return
    if device != "auto" and device != "cpu" and not engine.gpus_per_worker:
        raise ConfigError(
            f"model.device is {device!r}, and engine.gpus_per_worker is 0: Ray hides every GPU "
            "from such workers. Name a share of a GPU, or set model.device to cpu."
        )
    from ravl_med.engine.ray import joined_cluster

    with joined_cluster(engine, threads or 1) as cpus:
        yield RayEngine(engine.workers, cpus, engine.gpus_per_worker)


def _gpus(device: str) -> tuple[str, ...]:
    """Return the GPUs that local workers share; none where the config names one."""
    if device not in ("auto", "cuda"):
        return ()
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = named.split(",") if named else [str(number) for number in range(count)]
    return tuple(visible[:count]) if count > 1 else ()
