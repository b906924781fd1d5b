"""Memory that was used and is not any more goes back to the system.

What reads a table of very many rows, or takes in what workers send, leaves a heap behind that the
libraries keep for later; a run that holds large arrays beside it never uses it again.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

import pyarrow as pa

__all__ = ["hand_back_memory"]


def hand_back_memory() -> None:
    """Hand back what Python, Arrow and glibc hold and do not use; elsewhere as far as it goes."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library has no such function
            ctypes.CDLL(None).malloc_trim(0)
