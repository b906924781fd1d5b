"""Arrays in mapped files, which may be larger than memory, and memory handed back to the system.

A touched page of a mapped file counts as memory of the process until the system is short of it.
Functions that walk through such an array release its pages regularly; the numbers stay in the file.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from ravl_med.errors import needing_disk_space


def trim_memory() -> None:
    """Hand unused memory of Python, Arrow and glibc back, as far as the system allows."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library has no such function
            ctypes.CDLL(None).malloc_trim(0)


_ROOM_BYTES = 2**20  # arrays above it lie in a file that is mapped
_PART_BYTES = 64 * 2**20
_NO_ROOM = (
    "the temporary folder has no room for {:,.0f} MB of numbers of films and regions; expected it "
    "to hold them while the audit runs. Free some, or name another by TMPDIR."
)
_PICKED = 64  # rows at once: each can bring 2 MB of its neighbours in the file along


def empty_rows(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array to be filled; a large one lies in a mapped file that is deleted with it.

    Raises
    ------
    ConfigError
        The temporary folder has no room for it. Its bytes are reserved at once: a disk that is
        full when a page of a mapped file is written ends the process.
    """
    size = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
    if size <= _ROOM_BYTES:
        return np.empty(shape, dtype)
    with needing_disk_space(_NO_ROOM.format(size / 1e6)), tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return np.asarray(np.memmap(file, dtype=dtype, mode="r+", shape=shape))


def mapped_copy(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy; a large one lies in a mapped file, of which no page is held."""
    copied = empty_rows(array.shape, array.dtype)
    copied[...] = array
    release_pages(copied)
    return copied


def release_pages(array: NDArray[Any]) -> None:
    """Release the pages of a mapped file; an array in memory stays as it is."""
    below: Any = array
    while below is not None and not isinstance(below, mmap.mmap):
        if isinstance(below, np.memmap) and below.mode == "c":
            return  # a private copy: what was changed lies there alone
        below = getattr(below, "base", None)
    if below is not None and hasattr(mmap, "MADV_DONTNEED"):
        below.madvise(mmap.MADV_DONTNEED)


def mapped_parts(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield an array (R, D) in parts that need little memory, and release each after its use."""
    size = max(_PART_BYTES // max(array.itemsize * array[:1].size, 1), 1)
    for start in range(0, len(array), size):
        yield array[start : start + size]
        release_pages(array)


def map_parts(array: NDArray[Any], do: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Return the results (R, ...) of a function of some rows, or none, of an array (R, D)."""
    least = do(array[:0])
    made = np.empty((len(array), *least.shape[1:]), least.dtype)
    done = 0
    for part in mapped_parts(array):
        made[done : done + len(part)] = do(part)
        done += len(part)
    return made


def multiply(array: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the product (R, M) of an array (R, D), part by part, with a small matrix (D, M)."""
    return map_parts(array, lambda part: part @ matrix)


def take_rows(array: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return a copy (n, D) of some rows of an array (R, D) that may lie in a mapped file."""
    taken = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for start in range(0, len(rows), _PICKED):
        part = slice(start, start + _PICKED)
        taken[part] = array[rows[part]]
        release_pages(array)
    return taken
