"""Embeddings in a folder or a storage that machines without a common file system share.

It is laid out as the store of `embedding_store` is, and holds the same files under the same names,
so that two who write one of them write the same. Of a file that is not here only its keys are read
until one of its films is wanted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from ravl_med.errors import ConfigError
from ravl_med.storage.files import entries, for_each, read_part, write_whole
from ravl_med.storage.remote_path import FilePath

__all__ = ["SharedEmbeddings", "part_number"]

_FILE = re.compile(r"(\d{6,})-[0-9a-f]{24}\.safetensors")
_PIECE = re.compile(r"[0-9a-f]{32}")
_LISTED, _MARK = "listed", "filled-by-ravl-med"
_HEAD = 4096  # bytes in which the description of a file ends
_KEY = 32  # bytes


def part_number(name: str) -> int | None:
    """Return the number of the part of a cohort that a file of a store is of; None: it is none."""
    match = _FILE.fullmatch(name)
    return None if match is None else int(match[1])


class SharedEmbeddings:
    """What a shared folder holds of one recipe.

    Parameters
    ----------
    folder : Path or RemotePath - of the recipe
    own : collection of str - names of files that are here already

    Attributes
    ----------
    files : dict of str to int - files that are there, and their sizes in bytes
    damaged : set of int - numbers of parts with a file that is none, or is cut short

    Raises
    ------
    ConfigError, StorageError
        The storage denies access, or does not answer.
    """

    def __init__(self, folder: FilePath, own: Collection[str] = ()) -> None:
        self.folder = folder
        with _reading():
            there = entries(folder)
        self.files = {
            name: size or 0 for name, size in there.items() if part_number(name) is not None
        }
        self.damaged: set[int | None] = set()
        self._file_of: dict[bytes, str] = {}
        self._done_with: set[str] = set()
        far = [name for name in self.files if name not in own]
        keys = for_each(self._keys, (folder / name for name in far))
        for name, found in zip(far, keys, strict=True):
            if found is None:
                self.damaged.add(part_number(name))
            for key in found or ():
                self._file_of.setdefault(key, name)

    def file_with(self, key: bytes) -> str | None:
        """Return the name of a file that was not here and has a film."""
        name = self._file_of.get(key)
        return None if name in self._done_with else name

    def take(self, name: str) -> bytes:
        """Return the content of a file, once; blank where it has gone.

        Raises
        ------
        ConfigError, StorageError
        """
        self._done_with.add(name)
        try:
            with _reading():
                return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return b""

    def write(self, name: str, content: bytes) -> None:
        """Put a file there, in one step.

        Raises
        ------
        ConfigError, StorageError
        """
        self._put(self.folder / name, content, above=3)
        self.files[name] = len(content)

    def listed(self) -> set[str]:
        """Return the pieces of cohorts that are noted as done, as of now."""
        with _reading():
            return {name for name in entries(self.folder / _LISTED) if _PIECE.fullmatch(name)}

    def list_done(self, piece: str) -> None:
        """Note that a piece of a cohort is done.

        Raises
        ------
        ConfigError, StorageError
        """
        self._put(self.folder / _LISTED / piece, b"", above=4)

    def probe(self) -> None:
        """Write a mark, so that hours of work do not end at a place that takes nothing.

        Raises
        ------
        ConfigError, StorageError
        """
        self._put(self.folder / _MARK, b"", above=3)

    def _put(self, file: FilePath, content: bytes, above: int) -> None:
        try:
            write_whole(file, content, above)
        except FileNotFoundError:
            raise ConfigError(
                "cache.shared: there is no such bucket; expected one that exists. Make it, or name "
                "another one."
            ) from None
        except OSError as error:
            raise ConfigError(
                f"cache.shared: cannot be written to ({error.strerror or type(error).__name__}); "
                "expected a folder with room, or a URL. Name another one."
            ) from None

    def _keys(self, file: FilePath) -> list[bytes] | None:
        """Keys of the films of a file, by two short readings; None where it is damaged."""
        size = self.files[file.name]
        if not size:  # of which no part can be read
            return None
        try:
            with _reading():
                head = read_part(file, 0, _HEAD)
                length = int.from_bytes(head[:8], "little")
                told = json.loads(head[8 : 8 + length])["keys"]
                (count, width), (start, end) = told["shape"], told["data_offsets"]
                start, end = 8 + length + start, 8 + length + end
                if width != _KEY or end - start != count * _KEY or not 0 <= start < end <= size:
                    return None
                keys = read_part(file, start, end)
        except (FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):
            return None
        if len(keys) != count * _KEY:
            return None
        return [keys[at : at + _KEY] for at in range(0, len(keys), _KEY)]


@contextmanager
def _reading() -> Iterator[None]:
    """Name what keeps a file of this machine from being read; FileNotFoundError stays."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(
            f"cache.shared: cannot be read ({error.strerror or type(error).__name__}); expected a "
            "folder of this user, whose files nobody else can read. Name another one."
        ) from None
