"""Embeddings on disk: found again by the film, its regions and the model that made them.

A store belongs to one recipe (model, preprocessing, batch shape, threads, device) and holds files
of some hundred films each. A file appears whole or not at all, so that a run may end at any moment:
what it had not finished is made again. Several processes may fill one store.

    embeddings/RECIPE/00007-DIGEST.safetensors    keys (n, 32), starts (n + 1), image, region
    embeddings/RECIPE/listed/DIGEST               a piece of a cohort that is done

A store may have a twin that other machines reach, see `shared_embeddings`: what is finished here is
put there too, and what is there is taken from there.

Embeddings in a folder or a storage that machines without a common file system share.

It is laid out as the store of `embedding_store` is, and holds the same files under the same names,
so that two who write one of them write the same. Of a file that is not here only its keys are read
until one of its films is wanted.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravl_med.errors import ConfigError
from ravl_med.storage.files import atomic_write_bytes, entries, for_each, read_part
from ravl_med.storage.remote import FilePath

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
            atomic_write_bytes(file, content, above)
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


EmbeddedFilm = tuple[bytes, NDArray[np.float32], NDArray[np.float32]]
"""Key of a film, its embedding (D,) and those of its regions (r, D)."""

_SUFFIX = ".safetensors"
_HELD_FILES = 8
_STALE = 24 * 3600.0  # seconds after which a draft is nobody's any more


def film_key(digest: str, boxes: NDArray[np.float32]) -> bytes:
    """Return the SHA-256 of a film and its regions.

    Parameters
    ----------
    digest : str - of the pixels
    boxes : ndarray of shape (r, 4), float32 - regions in stored pixels
    """
    hasher = hashlib.sha256(digest.encode())
    hasher.update(repr(boxes.shape).encode())
    hasher.update(np.ascontiguousarray(boxes, dtype=np.float32).tobytes())
    return hasher.digest()


class EmbeddingStore:
    """The embeddings of one recipe.

    Parameters
    ----------
    folder : Path - made, for its owner alone, when something is written
    size : int - D
    shared : Path, RemotePath or None - folder of the same recipe that other machines reach
    """

    def __init__(self, folder: Path, size: int, shared: FilePath | None = None) -> None:
        self.folder, self._size = folder, size
        self._place: dict[bytes, tuple[Path, int]] = {}
        self._files: OrderedDict[Path, Any] = OrderedDict()
        self._lock = threading.RLock()  # films are looked for while others are written
        self._damaged: set[int | None] = set()  # parts with a file that is, here or there
        if folder.is_dir():
            self._sweep()
            for path in sorted(folder.glob(f"[0-9]*{_SUFFIX}")):
                if not self._index(path):
                    self._damaged.add(part_number(path.name))
        self._shared = None if shared is None else SharedEmbeddings(shared, self._names())
        if self._shared is not None:
            self._damaged |= self._shared.damaged

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, key: bytes) -> bool:
        """Tell whether a film is stored; of others' files the one that holds it is taken now."""
        if key in self._place or self._shared is None:
            return key in self._place
        with self._lock:
            name = self._shared.file_with(key)
            if name is not None:
                self.adopt(name, self._shared.take(name))
            return key in self._place

    def read(self, key: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the embedding (D,) of a film and those of its regions (r, D)."""
        path, row = self._place[key]
        with self._lock:
            stored = self._open(path)
        first, last = stored.get_slice("starts")[row : row + 2].tolist()
        if first == last:  # an empty slice at the end is out of bounds to safetensors
            return stored.get_slice("image")[row], np.empty((0, self._size), np.float32)
        return stored.get_slice("image")[row], stored.get_slice("region")[first:last]

    def write(self, part: int, films: Sequence[EmbeddedFilm]) -> None:
        """Write some films as one file, in one step.

        Parameters
        ----------
        part : int - number of the piece of the cohort; of two files with a film the lower counts

        Raises
        ------
        ConfigError
            The folder cannot be written to.
        """
        from safetensors.numpy import save

        if not films:
            return
        keys = b"".join(film[0] for film in films)
        counts = [len(film[2]) for film in films]
        content = save(
            {
                "keys": np.frombuffer(keys, dtype=np.uint8).reshape(-1, 32),
                "starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
                "image": np.stack([film[1] for film in films]).astype(np.float32),
                "region": np.concatenate([film[2] for film in films]).astype(np.float32),
            }
        )
        name = f"{part:06d}-{hashlib.sha256(keys).hexdigest()[:24]}{_SUFFIX}"
        self.adopt(name, content)
        if self._shared is not None:
            self._shared.write(name, content)

    def adopt(self, name: str, content: bytes) -> bool:
        """Take a file of another store of this recipe, in one step; False where it is damaged.

        Parameters
        ----------
        name : str - that it has there

        Raises
        ------
        ConfigError
            The folder cannot be written to.
        """
        path = self.folder / name
        with self._lock:
            self._files.pop(path, None)
            self._put(path, content)
            whole = self._index(path)
            if whole:
                self._damaged.discard(part_number(name))
            return whole

    def publish(self) -> None:
        """Put into the shared twin what it lacks, so that nothing that was done here is done again.

        Raises
        ------
        ConfigError, StorageError
            It takes nothing, or does not answer.
        """
        if self._shared is None:
            return
        self._shared.probe()
        lacking = [name for name in self._names() if name not in self._shared.files]
        for name in lacking:
            with suppress(FileNotFoundError):  # cleared in this moment
                self._shared.write(name, (self.folder / name).read_bytes())
        for piece in sorted(self.listed_here() - self._shared.listed()):
            self._shared.list_done(piece)

    def is_listed(self, piece: str) -> bool:
        """Return whether a piece of a cohort was done."""
        return piece in self.listed()

    def listed(self) -> set[str]:
        """Return the pieces of cohorts that were done, as of now."""
        there = set() if self._shared is None else self._shared.listed()
        return self.listed_here() | there

    def listed_here(self) -> set[str]:
        """Return those of them that this machine has noted."""
        return {path.name for path in self.folder.glob("listed/[0-9a-f]*")}

    def done(self, names: Sequence[str]) -> set[int]:
        """Return the numbers of the parts of a cohort that are done, and whose files are whole.

        Parameters
        ----------
        names : sequence of str - of its pieces, by number
        """
        listed = self.listed()
        return {number for number, name in enumerate(names) if name in listed} - self._damaged

    def list_done(self, piece: str) -> None:
        """Note that a piece of a cohort is done."""
        self._put(self.folder / "listed" / piece, b"")
        if self._shared is not None:
            self._shared.list_done(piece)

    def files(self) -> Iterator[Path]:
        """Yield every file that is whole, in a fixed order."""
        for pattern in (f"[0-9]*{_SUFFIX}", "listed/[0-9a-f]*"):
            yield from sorted(self.folder.glob(pattern))

    def _names(self) -> list[str]:
        """Names of the files that hold the films which are here."""
        return sorted({path.name for path, _ in self._place.values()})

    def _put(self, path: Path, content: bytes) -> None:
        try:
            atomic_write_bytes(path, content, above=3 + (path.parent != self.folder))
        except OSError as error:
            raise ConfigError(
                f"cache: embeddings cannot be written ({error.strerror or type(error).__name__}); "
                "expected a folder with room that may be written to. Name another one in "
                "cache.folder, or set cache.embeddings to false."
            ) from None

    def _index(self, path: Path) -> bool:
        """Note where the films of a file are; a file that is damaged is taken away."""
        try:
            stored = self._open(path)
            shapes = {name: stored.get_slice(name).get_shape() for name in ("image", "region")}
            keys, starts = stored.get_tensor("keys"), stored.get_tensor("starts")
            whole = (
                keys.shape == (len(starts) - 1, 32)
                and shapes["image"] == [len(keys), self._size]
                and shapes["region"] == [int(starts[-1]), self._size]
            )
        except Exception:  # safetensors raises a type of its own, and whatever a header leads to
            whole = False
        if not whole:
            self._files.pop(path, None)
            path.unlink(missing_ok=True)
            return False
        for row, key in enumerate(keys):
            self._place.setdefault(key.tobytes(), (path, row))
        return True

    def _open(self, path: Path) -> Any:
        from safetensors import safe_open

        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        stored = self._files[path] = safe_open(path, framework="numpy")
        while len(self._files) > _HELD_FILES:
            self._files.popitem(last=False)
        return stored

    def _sweep(self) -> None:
        """Take away drafts of runs that were ended."""
        for pattern in (".*", "listed/.*"):
            for draft in self.folder.glob(pattern):
                with suppress(OSError):
                    if time.time() - draft.stat().st_mtime > _STALE:
                        draft.unlink()
