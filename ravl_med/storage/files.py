"""Files of this machine and objects of a storage, read and written the same way.

Files are written whole or not at all, for their owner alone: a run may end at any moment.
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

R = TypeVar("R")

_DRAFT = ".partial"
_PREFIX = "ravl-object-"
_STALE = 24 * 3600.0  # seconds after which the copy of a killed process may be removed
_CHUNK = 1024  # files that threads are given at a time


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream to a file that appears at the path when the context ends without an error.

    An earlier file stays until then, and for good if writing fails. The folder must exist.

    Raises
    ------
    ConfigError
        It cannot be written, because the disk is full or may not be written to.
    """
    try:
        with _draft_of(path) as stream:
            yield stream
    except OSError as error:
        raise _unwritten(error) from None
    except RuntimeError as error:
        # PyTorch reports a full disk as a position that is not the expected one.
        if not isinstance(error.__context__, OSError):
            raise
        raise _unwritten(error.__context__) from None


def atomic_write_bytes(file: FilePath, content: bytes, above: int = 1) -> None:
    """Write a file whole or not at all, and up to `above` missing folders, for their owner alone.

    Raises
    ------
    OSError
        A file of this machine cannot be written.
    ConfigError, StorageError
        An object cannot be written.
    """
    if isinstance(file, RemotePath):
        file.write_bytes(content)
        return
    for folder in reversed(file.parents[:above]):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _draft_of(file) as stream:
        stream.write(content)


@contextmanager
def _draft_of(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream to a hidden file beside the path, which takes its place at the end."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_DRAFT}")
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


def sweep_drafts(folder: Path) -> None:
    """Remove the drafts of runs that were killed, in a folder that no other run writes to."""
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
        "expected a folder with room that may be written to. Earlier files are kept: make "
        "room and go on with --resume, or name another folder in cache.folder."
    )


@contextmanager
def local_copy(file: FilePath, most: int | None = None) -> Iterator[Path]:
    """Yield a local path: the file itself, or a private copy of an object while the context lasts.

    Raises
    ------
    FileNotFoundError, TooLargeError
        For objects, of which `most` bounds the bytes; a local path is yielded unchecked.
    ConfigError, StorageError
        The storage denies access, or does not answer.
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
    """Return the bytes from `start` to `end` of a file, or to its end.

    Raises
    ------
    FileNotFoundError, ConfigError, StorageError
    """
    if isinstance(file, RemotePath):
        return file.read_bytes(start, end)
    with file.open("rb") as stream:
        stream.seek(start)
        return stream.read(end - start)


@contextmanager
def naming_path(key: str, expected: str) -> Iterator[None]:
    """Name what keeps a path of this machine from being read; FileNotFoundError stays.

    Raises
    ------
    ConfigError
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"{key}: cannot be read ({reason}); expected {expected}") from None


def entries(folder: FilePath) -> dict[str, int | None]:
    """Return the sizes in bytes of the files in a folder, by name; None for a folder.

    A missing folder is empty, and drafts are left out.

    Raises
    ------
    ConfigError, StorageError
        For objects.
    """
    if isinstance(folder, RemotePath):
        try:
            return folder.entries()
        except FileNotFoundError:
            return {}
    found: dict[str, int | None] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        with suppress(OSError):  # it may just have been removed
            if not path.name.startswith("."):
                found[path.name] = None if path.is_dir() else path.stat().st_size
    return found


def stamp(file: FilePath) -> str:
    """Return the place of a file, with a mark that changes when its content does.

    Raises
    ------
    ConfigError, StorageError
        For objects.
    """
    try:
        if isinstance(file, RemotePath):
            return f"{file} {file.stamp()}"
        state = file.stat()
    except (OSError, ValueError):
        return f"{file} missing"
    return f"{file.absolute()} {state.st_size} {state.st_mtime_ns}"


def for_each(do: Callable[[FilePath], R], files: Iterable[FilePath]) -> Iterator[R]:
    """Yield the result for each file, in order; objects are handled many at a time, in threads."""
    waiting = iter(files)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="storage") as threads:
        while chunk := list(islice(waiting, _CHUNK)):
            far = any(isinstance(file, RemotePath) for file in chunk)
            yield from threads.map(do, chunk) if far else map(do, chunk)


@lru_cache(maxsize=1)
def _sweep() -> None:
    """Remove copies that killed processes left, once in a process."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            state = folder.stat()
            own = not hasattr(os, "getuid") or state.st_uid == os.getuid()
            if own and time.time() - state.st_mtime > _STALE:
                shutil.rmtree(folder, ignore_errors=True)
