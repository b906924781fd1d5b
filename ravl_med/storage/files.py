"""Files of this machine and objects of a storage, read and written without asking which it is.

Files that appear whole or not at all, for their owner alone: a run may end at any moment.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

from ravl_med.errors import ConfigError
from ravl_med.storage.remote import AT_ONCE, FilePath, RemotePath

_DRAFT = ".partial"


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
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


R = TypeVar("R")

_PREFIX = "ravl-object-"
_STALE = 24 * 3600.0  # seconds after which the copy of a process that was killed is nobody's
_CHUNK = 1024  # files that threads are given at a time


@contextmanager
def local_copy(file: FilePath, most: int | None = None) -> Iterator[Path]:
    """Yield a file of this machine; of an object a copy that its owner alone can read.

    The copy goes when the context ends.

    Parameters
    ----------
    most : int or None - bytes that an object may have

    Raises
    ------
    FileNotFoundError, TooLargeError
        Of objects; a path of this machine is yielded as it is.
    ConfigError, StorageError
        See `naming_faults`.
    """
    if isinstance(file, Path):
        yield file
        return
    _sweep()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
        name = file.name.lower()
        ending = ".nii.gz" if name.endswith(".nii.gz") else PurePosixPath(name).suffix[:16]
        copy = Path(folder) / f"object{ending}"
        file.fetch(copy, most)
        yield copy


def read_part(file: FilePath, start: int, end: int) -> bytes:
    """Return bytes of a file that is not blank, up to its end.

    Raises
    ------
    FileNotFoundError, ConfigError, StorageError
    """
    if isinstance(file, RemotePath):
        return file.read_bytes(start, end)
    with file.open("rb") as stream:
        stream.seek(start)
        return stream.read(end - start)


def atomic_write_bytes(file: FilePath, content: bytes, above: int = 1) -> None:
    """Write a file for its owner alone, whole or not at all.

    Parameters
    ----------
    above : int - folders above a file of this machine that are made for their owner alone

    Raises
    ------
    OSError
        A file of this machine cannot be written.
    ConfigError, StorageError
        An object cannot be.
    """
    if isinstance(file, RemotePath):
        file.write_bytes(content)
        return
    for folder in reversed(file.parents[:above]):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def entries(folder: FilePath) -> dict[str, int | None]:
    """Return what lies in a folder, by name, with sizes in bytes; None: a folder.

    A folder that is not there holds nothing, and drafts are no files.

    Raises
    ------
    ConfigError, StorageError
        Of objects.
    """
    if isinstance(folder, RemotePath):
        try:
            return folder.entries()
        except FileNotFoundError:
            return {}
    found: dict[str, int | None] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        with suppress(OSError):  # taken away in this moment
            if not path.name.startswith("."):
                found[path.name] = None if path.is_dir() else path.stat().st_size
    return found


def stamp(file: FilePath) -> str:
    """Return where a file lies, and what changes when its content does.

    Raises
    ------
    ConfigError, StorageError
        Of objects.
    """
    try:
        if isinstance(file, RemotePath):
            return f"{file} {file.stamp()}"
        state = file.stat()
    except (OSError, ValueError):
        return f"{file} missing"
    return f"{file.absolute()} {state.st_size} {state.st_mtime_ns}"


def for_each(do: Callable[[FilePath], R], files: Iterable[FilePath]) -> Iterator[R]:
    """Yield what is made of each file, in order; objects are looked at many at a time.

    Parameters
    ----------
    do : callable - called in threads where some files are objects
    """
    waiting = iter(files)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="storage") as threads:
        while chunk := list(islice(waiting, _CHUNK)):
            far = any(isinstance(file, RemotePath) for file in chunk)
            yield from threads.map(do, chunk) if far else map(do, chunk)


@lru_cache(maxsize=1)
def _sweep() -> None:
    """Take away copies that processes left which were killed; once in a process."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            state = folder.stat()
            own = not hasattr(os, "getuid") or state.st_uid == os.getuid()
            if own and time.time() - state.st_mtime > _STALE:
                shutil.rmtree(folder, ignore_errors=True)
