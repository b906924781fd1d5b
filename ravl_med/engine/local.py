"""The engine of one machine: this process, or worker processes that are replaced when they die.

A unit of work may be done twice: a worker that dies is replaced, and the unit that it was doing is
done again. A `Work` therefore has to be idempotent, and the files that it leaves have to be whole
and named by their content.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from ravl_med.engine.supervisor import READY, Child, Crew, receive, send, take_over_pipes
from ravl_med.errors import ConfigError, DataError, EngineError, ModelError, StorageError

U = TypeVar("U")
R = TypeVar("R")

OPENINGS = 8
"""Workers that may die in a row before they are open: that is no fault of a unit."""

_DELIBERATE = {
    error.__name__: error
    for error in (ConfigError, DataError, EngineError, ModelError, StorageError)
}
_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True, eq=False)
class Work(Generic[U, R]):
    """A function of units, and how a worker opens it; `open`, units and results can be pickled."""

    open: Callable[[], Callable[[U], R]]  # opens the model, say, and returns the function
    here: Callable[[], Callable[[U], R]] | None = None  # the same from what this process holds
    threads: int = 1  # of a worker
    name: str = "work"  # for messages


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a unit, or its error."""

    fault: str  # name of the error; blank where there is none
    value: Any = None  # the result, or the message of a deliberate error; others may name a file


def attempt(do: Callable[[], Any]) -> Outcome:
    """Call a function in a worker; an error becomes an outcome, so that no trace is printed."""
    try:
        return Outcome("", do())
    except tuple(_DELIBERATE.values()) as error:
        names = (kind.__name__ for kind in type(error).__mro__)
        return Outcome(next(name for name in names if name in _DELIBERATE), str(error))
    except Exception as error:  # its message may hold a path, and a path may name a patient
        return Outcome(type(error).__name__)


def lost_workers_outcome(what: str, workers: int) -> Outcome:
    """Return the outcome of something that has killed too many workers."""
    return Outcome(
        "EngineError",
        f"engine: {what} brought {workers} workers down; expected workers that live. Is memory "
        "short? Lower engine.workers or model.batch_size. Is a film broken? Set cohort.workers to "
        "1 or more, and it is set aside.",
    )


def settle(outcome: Outcome, work: str, at: int, count: int) -> Any:
    """Return the result of unit `at` (from 0) of `count`, or raise its error in this process."""
    if not outcome.fault:
        return outcome.value
    if outcome.fault in _DELIBERATE and outcome.value is not None:
        raise _DELIBERATE[outcome.fault](outcome.value)
    raise EngineError(
        f"engine: {work}, unit {at + 1} of {count}, ended a worker's attempt with "
        f"{outcome.fault}. Run again with --set engine.kind=local --set engine.workers=0 --debug "
        "for the traceback, which may hold file names, and report it."
    )


def pin_threads(threads: int) -> None:
    """Set the threads of PyTorch, and of libraries that this worker has not loaded yet."""
    os.environ.update(dict.fromkeys(_POOLS, str(threads)))
    import torch

    torch.set_num_threads(threads)


_LIVES = 5  # workers that a unit may lose: when memory is short, the system kills any of them


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """Maps units over processes of this machine."""

    workers: int = 0  # 0: this process does the work
    gpus: tuple[str, ...] = ()  # that workers take turns at; empty: each sees all there are

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
        children = [
            _Worker(opened, work.threads, self.gpus[n % len(self.gpus)] if self.gpus else None)
            for n in range(min(self.workers, len(units)))
        ]
        crew = Crew(children, len(children), "engine")

        def ask(unit: bytes) -> Outcome:
            with crew.borrowed() as worker:
                return worker.ask(unit)

        try:
            outcomes = crew.map(ask, map(pickle.dumps, units), len(units))
            for at, outcome in enumerate(outcomes):
                yield settle(outcome, work.name, at, len(units))
        finally:
            crew.close()


class _Worker(Child):
    """A process that holds what `Work.open` opened."""

    def __init__(self, opened: bytes, threads: int, gpu: str | None) -> None:
        greeting = pickle.dumps((opened, threads))
        super().__init__(
            "ravl_med.engine.local:serve",
            len(greeting).to_bytes(8, "little") + greeting,
            [folder or str(Path.cwd()) for folder in sys.path],
            {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu},
        )
        self._lost = 0  # workers since one has last opened what it holds

    def ask(self, unit: bytes) -> Outcome:
        lives = _LIVES
        while lives and self._lost < OPENINGS:
            opened = False
            try:
                pipes = self.start()
                if pipes is None:
                    break
                opened, self._lost = True, 0
                send(pipes[0], unit)
                outcome = pickle.loads(receive(pipes[1]))
                assert isinstance(outcome, Outcome)
                return outcome
            except (OSError, EOFError, ValueError):  # it has died; its unit is done again
                lives, self._lost = lives - opened, self._lost + (not opened)
                self.end()
        if self._lost >= OPENINGS:
            return lost_workers_outcome("opening the model", OPENINGS)
        return lost_workers_outcome("the same unit of work", _LIVES)


def serve() -> None:
    """Do units of work until the run ends, in a worker process."""
    requests, answers = take_over_pipes()
    opened, threads = pickle.loads(receive(requests))
    units: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_units, args=(requests, units), daemon=True).start()
    pin_threads(threads)
    do = attempt(lambda: pickle.loads(opened)())
    answers.write(READY)
    answers.flush()
    while True:
        unit = units.get()
        outcome = do if do.fault else attempt(partial(_do_unit, do.value, unit))
        send(answers, pickle.dumps(outcome))


def _read_units(requests: IO[bytes], units: queue.SimpleQueue[bytes]) -> None:
    """Pass units on; end this process with the run, in the middle of a unit too."""
    try:
        while True:
            units.put(receive(requests))
    finally:
        os._exit(0)  # at once, with the processes that it reads films in


def _do_unit(do: Callable[[Any], Any], unit: bytes) -> Any:
    return do(pickle.loads(unit))
