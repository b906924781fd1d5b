"""Files that appear whole or not at all, for their owner alone: a run may end at any moment."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ravl_med.errors import ConfigError

__all__ = ["sweep_drafts", "whole_file"]

_DRAFT = ".partial"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream; what was written to it stands under the path when the context has ended well.

    An earlier file there stays until then, and for ever where writing fails.

    Parameters
    ----------
    path : Path - its folder is there

    Raises
    ------
    ConfigError
        It cannot be written, because the disk is full or may not be written to.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_DRAFT}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(path)
            _sync_folder(path.parent)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritten(error) from None
    except RuntimeError as error:
        # PyTorch says of a full disk that its position is not the expected one.
        if not isinstance(error.__context__, OSError):
            raise
        raise _unwritten(error.__context__) from None


def sweep_drafts(folder: Path) -> None:
    """Take away what runs that were killed had begun to write; nobody else writes there."""
    for draft in folder.rglob(f".*{_DRAFT}"):
        draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritten(error: OSError) -> ConfigError:
    return ConfigError(
        f"cache: a file of the mitigation cannot be written ({error.strerror or 'no room'}); "
        "expected a folder with room that may be written to. What was written before stands: make "
        "room and go on with --resume, or name another folder in cache.folder."
    )
