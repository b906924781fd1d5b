"""The engine of one machine: this process, or workers that are processes of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ravl_med.engine.work import (
    OPENINGS,
    Outcome,
    Work,
    attempt,
    be_quiet,
    brought_down,
    pin_threads,
    settle,
)

__all__ = ["LocalEngine"]

U = TypeVar("U")
R = TypeVar("R")

_LIVES = 5  # workers that a unit may lose: where memory is short, the system kills whom it likes


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """Maps units over processes of this machine.

    Attributes
    ----------
    workers : int - processes; 0: this one does the work
    gpus : tuple of str - devices that workers take turns at; empty: each sees all there are
    """

    workers: int = 0
    gpus: tuple[str, ...] = ()

    def map(self, work: Work[U, R], units: Sequence[U]) -> Iterator[R]:
        """Yield the result of each unit, in their order.

        A worker that dies is replaced and does its unit again.

        Raises
        ------
        RavlMedError
            That of the first unit that has one; EngineError where a unit brings workers down.
        """
        if not self.workers:
            do = (work.here or work.open)()
            yield from map(do, units)
            return
        if not units:
            return
        opened = pickle.dumps(work.open)
        crew = [
            _Worker(opened, work.threads, self.gpus[n % len(self.gpus)] if self.gpus else None)
            for n in range(min(self.workers, len(units)))
        ]
        idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in crew:
            idle.put(worker)

        def ask(unit: bytes) -> Outcome:
            worker = idle.get()
            try:
                return worker.ask(unit)
            finally:
                idle.put(worker)

        threads = ThreadPoolExecutor(len(crew), thread_name_prefix="engine")
        waiting: deque[Future[Outcome]] = deque()
        try:
            waiting.extend(threads.submit(ask, pickle.dumps(unit)) for unit in units)
            for at in range(len(units)):  # what was told of a unit goes with its future
                yield settle(waiting.popleft().result(), work.name, at, len(units))
        finally:
            for future in waiting:
                future.cancel()
            for worker in crew:
                worker.stop()
            threads.shutdown()


class _Worker:
    """One process, started when it is first needed and again after it has died."""

    def __init__(self, opened: bytes, threads: int, gpu: str | None) -> None:
        self._told = (opened, threads, gpu)
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._lock = threading.Lock()
        self._open = self._stopped = False
        self._lost = 0  # since one has last opened what it holds

    def ask(self, unit: bytes) -> Outcome:
        lives = _LIVES
        while lives and self._lost < OPENINGS and (pipe := self._start()) is not None:
            try:
                if not self._open:
                    pipe.recv_bytes()
                    self._open, self._lost = True, 0
                pipe.send_bytes(unit)
                outcome = pickle.loads(pipe.recv_bytes())
                assert isinstance(outcome, Outcome)
                return outcome
            except (OSError, EOFError):  # it has died; what it left unfinished is done again
                lives, self._lost = lives - self._open, self._lost + (not self._open)
                self._end()
        if self._lost >= OPENINGS:
            return brought_down("opening the model", OPENINGS)
        return brought_down("the same unit of work", _LIVES)

    def stop(self) -> None:
        self._stopped = True
        self._end()

    def _start(self) -> Connection | None:
        with self._lock:
            if self._stopped:
                return None
            if self._pipe is None:
                context = multiprocessing.get_context("spawn")
                self._pipe, other = context.Pipe()
                self._process = context.Process(
                    target=_serve, args=(other, *self._told), name="ravl-med worker", daemon=True
                )
                self._process.start()
                other.close()  # so that the pipe ends when the worker does
            return self._pipe

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            pipe, self._pipe = self._pipe, None
            self._open = False
            if process is not None:
                process.kill()
                process.join()
                process.close()
            if pipe is not None:
                pipe.close()


def _serve(pipe: Connection, opened: bytes, threads: int, gpu: str | None) -> None:
    """Answer units until the pipe ends."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt of the run ends it by its pipe
    threading.Thread(target=_end_with_parent, daemon=True).start()
    be_quiet()
    if gpu is not None:  # before PyTorch looks for any
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    pin_threads(threads)
    do = attempt(lambda: pickle.loads(opened)())
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(b"open")
        while True:
            unit = pipe.recv_bytes()
            outcome = do if do.fault else attempt(partial(_do_unit, do.value, unit))
            pipe.send_bytes(pickle.dumps(outcome))
    os._exit(0)  # at once, with the processes that it reads films in


def _do_unit(do: Callable[[Any], Any], unit: bytes) -> Any:
    return do(pickle.loads(unit))


def _end_with_parent() -> None:
    """End this worker when the run is gone, in the middle of a unit too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
