"""A disk that is full, whichever library finds out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ravl_med.errors import ConfigError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors of a disk, or of a share of it, that has no room left."""

_WORDS = (
    *(f"os error {number})" for number in FULL),  # as libraries written in Rust tell them
    *(f"[Errno {number}]" for number in FULL),  # pydicom raises a new error with the old one's text
    "iostream error",  # PyTorch, which also finds its position to be another than it should be
    "unexpected pos",
)


def says_full(error: BaseException) -> bool:
    """Tell whether an error, or what it was raised in place of, is that of a full disk.

    PyTorch and safetensors raise errors of their own kinds.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and one.errno in FULL:
            return True
        if any(word in str(one) for word in _WORDS):
            return True
        left += [one.__cause__, one.__context__]
    return False


@contextmanager
def needing_room(told: str) -> Iterator[None]:
    """Raise ConfigError with a line where what is done in the context finds a full disk."""
    try:
        yield
    except Exception as error:
        if not says_full(error):
            raise
        raise ConfigError(told) from None
