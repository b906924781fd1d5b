"""A Ray cluster, started or joined, and the engine whose actors hold the model under Ray Data.

Ray schedules, moves, retries and replaces. Added here is a bound on what it would retry for ever: a
unit that kills each worker which takes it, or a model that cannot be opened.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import secrets
import socket
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ravl_med.config.runtime import EngineConfig
from ravl_med.engine.local import (
    OPENINGS,
    Outcome,
    Work,
    attempt,
    lost_workers_outcome,
    pin_threads,
    settle,
)
from ravl_med.engine.supervisor import silence_output
from ravl_med.errors import ConfigError, EngineError, RavlMedError

U = TypeVar("U")
R = TypeVar("R")

_LIVES = 8  # workers that a unit may lose; nodes may be taken away, which is no fault of the unit
_OPENING = -1
_IN_FLIGHT = 1  # else the first worker that is ready takes units that another could begin with

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
    """Join the cluster of a config, or start one here; yield the CPUs that a worker reserves.

    A Ray of our own listens on the loopback alone, reports nothing to anybody, shows no dashboard,
    and deletes its logs at the end. `threads` is the number of threads of a worker.

    Raises
    ------
    ConfigError
        Ray is not installed, nothing answers at the address, or the workers do not fit.
    EngineError
        Ray does not start here.
    """
    os.environ.update(_QUIET)
    if config.address is None and "ray" not in sys.modules:
        # Ray reads these once. The first lets it use the loopback as this machine's address; the
        # token keeps other users of this machine out, and none is written to the home folder.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "engine.kind is 'ray', which is not installed. Install it (pip install "
            "'.[ray]'), or set engine.kind to local."
        ) from None
    if ray.is_initialized():  # by the caller, in a job of Ray
        yield _fitting(config, threads, ray.nodes())
        return
    with tempfile.TemporaryDirectory(prefix="ravl-", ignore_cleanup_errors=True) as folder:
        try:
            _start(config, folder)
            yield _fitting(config, threads, ray.nodes())
        finally:
            ray.shutdown()


def cpus_a_worker(workers: int, nodes: Sequence[float], threads: int = 1) -> float | None:
    """Return the CPUs that each worker reserves, so that about one is left to Ray's own tasks.

    That is `threads`, or a little less where every CPU is needed; None where the workers do not
    fit. `nodes` are the CPUs of each machine.
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
    """Join a cluster in a thread of its own, since Ray may wait for ever."""
    import ray

    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if address != "auto":
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError, UnicodeError):
        raise ConfigError(
            f"engine.address: nothing answers at {address!r} within {_PATIENCE:g} s; expected the "
            "head of a Ray cluster (ray start --head). Check host and port."
        ) from None
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
    """Keep Ray's own writing to standard error off the terminal."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _fitting(config: EngineConfig, threads: int, nodes: Sequence[Mapping[str, Any]]) -> float:
    """Return the CPUs of a worker; refuse a plan that can never be scheduled."""
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


@dataclass(frozen=True, slots=True)
class RayEngine:
    """Maps units over the actors of the cluster that this process has joined."""

    workers: int  # actors
    cpus: float  # that each of them reserves
    gpus: float = 0.0

    def map(self, work: Work[U, R], units: Sequence[U]) -> Iterator[R]:
        """Yield the result of each unit, in their order.

        Raises
        ------
        RavlMedError
            That of the first unit that has one; EngineError where units bring workers down.
        """
        if not units:
            return
        rows = [{"at": at, "unit": pickle.dumps(unit)} for at, unit in enumerate(units)]
        try:
            for at, row in enumerate(self._stream(pickle.dumps(work.open), work.threads, rows)):
                outcome = pickle.loads(row["outcome"])
                assert isinstance(outcome, Outcome)
                assert row["at"] == at
                yield settle(outcome, work.name, at, len(units))
        except (RavlMedError, GeneratorExit):
            raise
        except Exception as error:  # its message holds traces, and these may hold paths
            raise EngineError(
                f"engine: Ray gave up on {work.name} ({type(error).__name__}); expected a cluster "
                "that lives. What is done is kept: run again, and it goes on from there."
            ) from None

    def _stream(
        self, opened: bytes, threads: int, rows: list[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Let the actors do the rows, in order."""
        import ray

        if ray.util.client.ray.is_connected():  # which Ray Data cannot be driven through
            with _unwarned():
                there = ray.remote(_stream_there).options(num_cpus=0)
                yield from ray.get(there.remote(self, opened, threads, rows))
            return
        count = min(self.workers, len(rows))
        with _unwarned():
            import ray.data

            lives = ray.remote(_Lives).options(num_cpus=0, max_restarts=-1).remote()
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            context.print_on_execution_start = False
            context.execution_options.preserve_order = True
            data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _Worker,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(
                    size=count, max_tasks_in_flight_per_actor=_IN_FLIGHT
                ),
                num_cpus=self.cpus,
                num_gpus=self.gpus or None,
                fn_constructor_args=(opened, threads, count, lives),
            )
            done = iter(data.iter_rows())
            row = next(done, None)
        try:
            while row is not None:
                yield row
                with _unwarned():
                    row = next(done, None)
        finally:
            ray.kill(lives)


def _stream_there(
    engine: RayEngine, opened: bytes, threads: int, rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Let the actors do the rows, from a task of the cluster."""
    silence_output()
    return list(engine._stream(opened, threads, rows))


@contextmanager
def _unwarned() -> Iterator[None]:
    """Keep Ray's warnings about its own code from the users of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Lives:
    """An actor that counts how often each unit, and the opening of the model, was begun in vain."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, at: int) -> int:
        self._begun[at] += 1
        return self._begun[at]

    def end(self, at: int) -> None:
        self._begun[at] = 0


class _Worker:
    """The content of an actor."""

    def __init__(self, opened: bytes, threads: int, workers: int, lives: Any) -> None:
        silence_output()
        pin_threads(threads)
        self._lives, self._threads = lives, threads
        self._do = self._guarded(_OPENING, OPENINGS * workers, lambda: pickle.loads(opened)())

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Do one unit."""
        at, unit = int(batch["at"][0]), bytes(batch["unit"][0])
        pin_threads(self._threads)  # the thread is another one than that which opened the model
        outcome = self._do
        if not outcome.fault:
            outcome = self._guarded(at, _LIVES, lambda: self._do.value(pickle.loads(unit)))
        return {"at": batch["at"], "outcome": np.array([pickle.dumps(outcome)], dtype=object)}

    def _guarded(self, at: int, lives: int, do: Callable[[], Any]) -> Outcome:
        """Do something unless it has killed too many workers that began it."""
        import ray

        if ray.get(self._lives.begin.remote(at)) > lives:
            what = "opening the model" if at == _OPENING else "the same unit of work"
            return lost_workers_outcome(what, lives)
        outcome = attempt(do)
        ray.get(self._lives.end.remote(at))
        return outcome
