"""Child processes that measure, each on its own: their threads, and the most memory they held."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_children(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int = 1,
    threads: int | None = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """Call a function for every item in fresh child processes; results in the order of the items.

    Parameters
    ----------
    function : callable - of a module, so that a child can import it
    threads : int or None - BLAS threads of each child; None leaves them as they are
    progress : callable - called with (items done, items in all)
    """
    progress(0, len(items))
    with (
        _threads_of_children(threads),
        ProcessPoolExecutor(
            max_workers=max(1, min(workers, len(items))),
            mp_context=multiprocessing.get_context("spawn"),
        ) as pool,
    ):
        futures = [pool.submit(function, item) for item in items]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                progress(done, len(items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def side_by_side(
    function: Callable[[Item], Result], items: Sequence[Item], *, at_once: int = 1
) -> Iterator[Result]:
    """Call a function for every item, a child process of one thread a core; yield in order.

    A child takes so many items at once. Who stops asking cancels what has not begun.
    """
    context = multiprocessing.get_context("spawn")
    with _threads_of_children(1), ProcessPoolExecutor(mp_context=context) as pool:
        yield from pool.map(function, items, chunksize=at_once)


@contextmanager
def _threads_of_children(threads: int | None) -> Iterator[None]:
    """Children read these names before they load BLAS; this process has loaded it already."""
    before = {name: os.environ.get(name) for name in _THREADS}
    try:
        if threads is not None:
            os.environ.update(dict.fromkeys(_THREADS, str(threads)))
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def forget_peak() -> float:
    """Set the peak of this process back to what it holds now, where the system can; MB."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_mb()


def peak_mb() -> float:
    """Peak resident memory in MB. A child's ``ru_maxrss`` starts at that of its parent on Linux."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        kilobytes = int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError, UnicodeDecodeError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kilobytes = peak // 1024 if sys.platform == "darwin" else peak
    return kilobytes * 1024 / 1e6
