"""The engine of one machine: this process, or workers that are processes of their own.

Work in units: what a worker holds, what it makes of a unit, and how a fault comes home.

A unit may be done twice: a worker that dies is replaced, and what it was doing is done again. So
whoever writes a `Work` sees to it that a unit is idempotent, and that what it leaves on disk is
whole and named by its content.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from ravl_med.errors import ConfigError, DataError, EngineError, ModelError, StorageError

U = TypeVar("U")
R = TypeVar("R")

OPENINGS = 8
"""Workers that may die in a row, in one place, while they open what they hold: no unit's fault."""

_DELIBERATE = {
    error.__name__: error
    for error in (ConfigError, DataError, EngineError, ModelError, StorageError)
}
_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True, eq=False)
class Work(Generic[U, R]):
    """What is done to units.

    Attributes
    ----------
    open : callable - makes what a worker holds, such as the opened model, and returns what turns a
        unit into its result; it, units and results can be pickled
    here : callable or None - the same, by what this process holds already; None: `open` is used
    threads : int - of a worker
    name : str - what is done, for messages
    """

    open: Callable[[], Callable[[U], R]]
    here: Callable[[], Callable[[U], R]] | None = None
    threads: int = 1
    name: str = "work"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a unit.

    Attributes
    ----------
    fault : str - name of the error; blank where there is none
    value : object - the result, or the message of a deliberate error; None of any other, whose
        message may name a file
    """

    fault: str
    value: Any = None


def attempt(do: Callable[[], Any]) -> Outcome:
    """Do something in a worker; an error becomes an outcome, so that no trace of it is printed."""
    try:
        return Outcome("", do())
    except tuple(_DELIBERATE.values()) as error:
        names = (kind.__name__ for kind in type(error).__mro__)
        return Outcome(next(name for name in names if name in _DELIBERATE), str(error))
    except Exception as error:  # its message may hold a path, and a path may name a patient
        return Outcome(type(error).__name__)


def brought_down(what: str, workers: int) -> Outcome:
    """Return the outcome of what has ended too many workers.

    Parameters
    ----------
    what : str - ``"opening the model"``, ``"the same unit of work"``
    """
    return Outcome(
        "EngineError",
        f"engine: {what} brought {workers} workers down; expected workers that live. Is memory "
        "short? Lower engine.workers or model.batch_size. Is a film broken? Set cohort.workers to "
        "1 or more, and it is set aside.",
    )


def settle(outcome: Outcome, work: str, at: int, count: int) -> Any:
    """Return the result of a unit, or raise its error in this process.

    Parameters
    ----------
    work : str - what was done
    at, count : int - position of the unit, from 0, and number of units

    Raises
    ------
    RavlMedError
    """
    if not outcome.fault:
        return outcome.value
    if outcome.fault in _DELIBERATE and outcome.value is not None:
        raise _DELIBERATE[outcome.fault](outcome.value)
    raise EngineError(
        f"engine: {work}, unit {at + 1} of {count}, ended a worker's attempt with "
        f"{outcome.fault}. Run again with --set engine.kind=local --set engine.workers=0 --debug "
        "for the traceback, which may hold file names, and report it."
    )


def be_quiet() -> None:
    """Let this worker print nothing: what decoders print may name a patient."""
    warnings.filterwarnings("ignore")
    silence = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(silence, descriptor)


def pin_threads(threads: int) -> None:
    """Let this worker compute in so many threads.

    PyTorch obeys at any time; libraries that are not loaded yet read the environment.
    """
    os.environ.update(dict.fromkeys(_POOLS, str(threads)))
    import torch

    torch.set_num_threads(threads)


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
