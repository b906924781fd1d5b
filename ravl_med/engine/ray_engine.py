"""The engine of a Ray cluster: actors that hold the model, under Ray Data.

Ray schedules, moves, retries and replaces. Ours is only to bound what it would retry for ever: a
unit that brings down whoever takes it, or a model that cannot be opened.
"""

from __future__ import annotations

import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

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
from ravl_med.errors import EngineError, RavlMedError

__all__ = ["RayEngine"]

U = TypeVar("U")
R = TypeVar("R")

_LIVES = 8  # workers that a unit may lose; nodes may be taken away, which is no fault of the unit
_OPENING = -1
_IN_FLIGHT = 1  # else the worker that is ready first takes what another could begin with


@dataclass(frozen=True, slots=True)
class RayEngine:
    """Maps units over the actors of the cluster that this process has joined.

    Attributes
    ----------
    workers : int - actors
    cpus, gpus : float - that each of them reserves
    """

    workers: int
    cpus: float
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
    be_quiet()
    return list(engine._stream(opened, threads, rows))


@contextmanager
def _unwarned() -> Iterator[None]:
    """Keep Ray's warnings about its own code from the users of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Lives:
    """An actor that counts how often units were begun, and whether the model was ever opened."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, at: int) -> int:
        self._begun[at] += 1
        return self._begun[at]

    def end(self, at: int) -> None:
        self._begun[at] = 0


class _Worker:
    """What an actor holds."""

    def __init__(self, opened: bytes, threads: int, workers: int, lives: Any) -> None:
        be_quiet()
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
        """Do something unless it has brought down too many workers that began it."""
        import ray

        if ray.get(self._lives.begin.remote(at)) > lives:
            what = "opening the model" if at == _OPENING else "the same unit of work"
            return brought_down(what, lives)
        outcome = attempt(do)
        ray.get(self._lives.end.remote(at))
        return outcome
