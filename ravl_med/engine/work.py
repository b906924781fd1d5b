"""Work in units: what a worker holds, what it makes of a unit, and how a fault comes home.

A unit may be done twice: a worker that dies is replaced, and what it was doing is done again. So
whoever writes a `Work` sees to it that a unit is idempotent, and that what it leaves on disk is
whole and named by its content.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ravl_med.errors import ConfigError, DataError, EngineError, ModelError, StorageError

__all__ = [
    "OPENINGS",
    "Outcome",
    "Work",
    "attempt",
    "be_quiet",
    "brought_down",
    "pin_threads",
    "settle",
]

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
    workers : int
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
    outcome : Outcome
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
