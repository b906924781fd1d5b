"""Every deliberate error of the tool, as one tree.

    RavlMedError                  exit code 4
    ├── ConfigError               exit code 2   a config file, a flag or a value in it
    ├── DataError                 exit code 3   a manifest, a film, a report, a label
    │   └── ImageError            exit code 3   one film; the cohort sets it aside
    ├── ModelError                exit code 2   a checkpoint that is not one, or does not fit
    ├── EngineError               exit code 4   workers that died, a cluster that does not answer
    └── StorageError              exit code 4   a storage that does not answer, or is gone

A message says what is wrong, where, what was found, what is allowed, and how to cure it. It never
holds a patient's name, ID, UID, date or file path, since files are named after patients. An image
is named by its manifest row and pseudonym.
"""

from __future__ import annotations

import errno
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a disk, or of a share of it, that has no room left."""

_FULL_MESSAGES = (
    *(f"os error {number})" for number in DISK_FULL),  # of libraries written in Rust
    *(f"[Errno {number}]" for number in DISK_FULL),  # pydicom's own error keeps the old text
    "iostream error",  # PyTorch, which also finds its position to be another than it should be
    "unexpected pos",
)


_JOINERS = "\u200c\u200d\u00ad"


def visible(text: str) -> str:
    """Return text whose control and direction characters are spelled out.

    A terminal would obey them: names of columns, classes, weights and files come from others.
    """
    return "".join(
        c.encode("unicode_escape", "surrogatepass").decode("ascii") if _acts(c) else c for c in text
    )


def _acts(character: str) -> bool:
    if character.isascii():
        return not character.isprintable()
    kind = unicodedata.category(character)
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and character not in _JOINERS)


class RavlMedError(Exception):
    """An error that the tool raises on purpose, with a message for its user."""

    exit_code: ClassVar[int] = 4


class ConfigError(RavlMedError):
    """The config file, a flag, or a value in them cannot be used."""

    exit_code: ClassVar[int] = 2


class DataError(RavlMedError):
    """The cohort cannot be used as it stands."""

    exit_code: ClassVar[int] = 3


class ImageError(DataError):
    """One film cannot be read; `reason` is a short code such as ``truncated``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ModelError(RavlMedError):
    """The model cannot be opened, or is not what the config says."""

    exit_code: ClassVar[int] = 2


class EngineError(RavlMedError):
    """The workers or their cluster failed."""


class StorageError(RavlMedError):
    """The storage did not answer, which is no fault of the files in it."""


def means_disk_full(error: BaseException) -> bool:
    """Return whether an error, or one that it replaces, was caused by a full disk.

    PyTorch, safetensors and others raise errors of their own kinds.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and one.errno in DISK_FULL:
            return True
        if any(text in str(one) for text in _FULL_MESSAGES):
            return True
        left += [one.__cause__, one.__context__]
    return False


@contextmanager
def needing_disk_space(message: str) -> Iterator[None]:
    """Raise ConfigError with a message where the context finds a full disk."""
    try:
        yield
    except Exception as error:
        if not means_disk_full(error):
            raise
        raise ConfigError(message) from None
