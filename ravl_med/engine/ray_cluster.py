"""A Ray cluster: started on this machine or joined, and whether the workers fit into it."""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ravl_med.config import EngineConfig
from ravl_med.errors import ConfigError, EngineError

__all__ = ["cpus_a_worker", "joined_cluster"]

_PATIENCE = 5.0  # seconds in which an address has to answer
_LONGEST_JOIN = 40.0  # seconds, a little more than Ray's own limit
_STORE_BYTES = 256 * 2**20  # of the objects of a Ray of our own: units and their rows, no films
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
}


@contextmanager
def joined_cluster(config: EngineConfig, threads: int) -> Iterator[float]:
    """Join the cluster of a config, or start one on this machine, for as long as it is needed.

    A Ray of our own listens on the loopback alone, reports nothing to anybody, shows no dashboard,
    and keeps its logs in a folder that goes with it.

    Parameters
    ----------
    config : EngineConfig
    threads : int - of a worker

    Returns
    -------
    context manager of float - CPUs that each worker reserves

    Raises
    ------
    ConfigError
        Ray is not installed, nothing answers at the address, or the workers do not fit.
    EngineError
        Ray does not start here.
    """
    os.environ.update(_QUIET)
    if config.address is None and "ray" not in sys.modules:
        # Ray reads them once: without clusters it takes the loopback for this machine's address;
        # with a token nobody else on this machine reaches it, and none is written to the home.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "engine.kind is 'ray', which is not installed. Install it (pip install "
            "'ravl-med[ray]'), or set engine.kind to local."
        ) from None
    if ray.is_initialized():  # of whoever calls us, in a job of Ray
        yield _fitting(config, threads, ray.nodes())
        return
    with tempfile.TemporaryDirectory(prefix="ravl-", ignore_cleanup_errors=True) as folder:
        try:
            _start(config, folder)
            yield _fitting(config, threads, ray.nodes())
        finally:
            ray.shutdown()


def cpus_a_worker(workers: int, nodes: Sequence[float], threads: int = 1) -> float | None:
    """Return the CPUs that each worker reserves, so that one in all is left to Ray's own tasks.

    Parameters
    ----------
    workers : int
    nodes : sequence of float - CPUs of each machine
    threads : int - of a worker

    Returns
    -------
    float or None - `threads` where there is room, a little less where every CPU is wanted; None
        where the workers do not fit
    """
    wanted = workers * threads
    if wanted > sum(nodes):
        return None
    spare = sum(nodes) - 1.0 if sum(nodes) > 1.0 else sum(nodes) / 2.0
    share = math.floor(100.0 * min(float(threads), spare / workers)) / 100.0
    room = sum(math.floor(cpus / share + 1e-9) for cpus in nodes) if share else 0
    return share if room >= workers else None


def _start(config: EngineConfig, folder: str) -> None:
    import ray

    if config.address is not None:
        _join(config.address)
        return
    try:
        with _silence():
            ray.init(
                include_dashboard=False,
                logging_level=logging.CRITICAL,
                log_to_driver=False,
                object_store_memory=_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
    except Exception as error:
        raise EngineError(
            f"engine: Ray does not start on this machine ({type(error).__name__}); expected it to. "
            "Is memory or room in the temporary folder short? engine.kind local needs none of it."
        ) from None
    if any(not node["NodeManagerAddress"].startswith("127.") for node in ray.nodes()):
        raise EngineError(
            "engine: Ray was loaded before this run and would listen beyond the loopback. Start it "
            "yourself (ray.init, or ray start and engine.address), or load it after the run began."
        )


def _join(address: str) -> None:
    """Join a cluster; Ray may wait for one for ever, so that it is left in a thread of its own."""
    import ray

    if address != "auto":
        _require_answer(address)
    failed: list[BaseException] = []

    def join() -> None:
        try:
            ray.init(address=address, logging_level=logging.CRITICAL, log_to_driver=False)
        except BaseException as error:  # whatever gRPC, the protocol or a version leads to
            failed.append(error)

    thread = threading.Thread(target=join, name="join Ray", daemon=True)
    with _silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thread.start()
        thread.join(_LONGEST_JOIN)
    if failed or thread.is_alive():
        reason = type(failed[0]).__name__ if failed else f"no answer in {_LONGEST_JOIN:g} s"
        raise ConfigError(
            f"engine.address: no Ray cluster can be joined there ({reason}); expected one of Ray "
            f"{ray.__version__} and this version of Python. Check the address, and the token "
            "(RAY_AUTH_MODE, RAY_AUTH_TOKEN) that the cluster asks for."
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what Ray's own code writes to standard error off the terminal."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _require_answer(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError, UnicodeError):
        raise ConfigError(
            f"engine.address: nothing answers at {address!r} within {_PATIENCE:g} s; expected the "
            "head of a Ray cluster (ray start --head). Check host and port."
        ) from None


def _fitting(config: EngineConfig, threads: int, nodes: Sequence[Mapping[str, Any]]) -> float:
    """Return the CPUs of a worker; a plan that can never be scheduled is refused."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    cpus = [float(node.get("CPU", 0.0)) for node in alive]
    each = config.gpus_per_worker
    gpus = [float(node.get("GPU", 0.0)) for node in alive]
    if each and sum(math.floor(count / each + 1e-9) for count in gpus) < config.workers:
        raise ConfigError(
            f"engine: {config.workers} workers of {each:g} GPU do not fit into the cluster, which "
            f"has {sum(gpus):g} on {len(alive)} machines; lower engine.workers or "
            "engine.gpus_per_worker."
        )
    share = cpus_a_worker(config.workers, cpus, threads)
    if share is None:
        raise ConfigError(
            f"engine: {config.workers} workers of {threads} threads do not fit into the cluster, "
            f"which has {sum(cpus):g} CPUs on {len(alive)} machines; expected at most one thread "
            "a CPU. Lower engine.workers or model.threads."
        )
    return share
