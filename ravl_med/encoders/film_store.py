"""Films on disk as one model reads them: inputs and embeddings, found again by what they are of.

A film is found by the digest of its pixels, its embeddings by that and by its regions. A folder
belongs to one recipe and holds files of some hundred films each. A file appears whole or not at
all, so that a run may end at any moment, and several processes may fill one store.

    embeddings/RECIPE/00007-DIGEST.safetensors          keys (n, 32), starts (n + 1), image, region
    embeddings/RECIPE/listed/DIGEST                     a piece of a cohort that is done
    embeddings/RECIPE.inputs/00007-DIGEST.safetensors   keys (n, 32), gray (n, S, S), levels, exact

Each file holds the SHA-256 of its tensors and of the recipe (``digest``), which is checked when the
file is found: one that was changed, or comes from elsewhere, is taken away and made again.

Embeddings may have a twin in a folder or a storage that other machines reach: what is finished here
is put there too, and what is there is taken from there. Inputs show patients and stay here.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ravl_med.encoders.base import EncoderInfo
from ravl_med.encoders.kept_films import HEAD, KeptFilms, gray_levels, tensor_place
from ravl_med.errors import ConfigError
from ravl_med.storage.files import atomic_write_bytes, entries, for_each, naming_path, read_part
from ravl_med.storage.remote import FilePath

EmbeddedFilm = tuple[bytes, NDArray[np.float32], NDArray[np.float32]]
"""Key of a film, its embedding (D,) and those of its regions (r, D).

Behind that of the film stand the answers (C,) of a model that scores the classes itself.
"""

KeptInput = tuple[bytes, NDArray[np.uint8], bool]
"""Digest of a film, its gray levels (S, S), and whether its input can be made of these again."""

_SUFFIX = ".safetensors"
_FILE = re.compile(r"(\d{6,})-[0-9a-f]{24}\.safetensors")
_PIECE = re.compile(r"[0-9a-f]{32}")
_LISTED, _MARK = "listed", "filled-by-ravl-med"
_KEY = 32  # bytes
_HELD_FILES = 8
_PRIVATE = "a folder of this user, whose files nobody else can read. Name another one."
_STALE = 24 * 3600.0  # seconds after which a draft is nobody's any more


def part_number(name: str) -> int | None:
    """Return the number of the part of a cohort that a file of a store is of; None: it is none."""
    match = _FILE.fullmatch(name)
    return None if match is None else int(match[1])


def film_key(digest: str, boxes: NDArray[np.float32]) -> bytes:
    """Return the SHA-256 of a film, by the digest of its pixels, and its regions (r, 4)."""
    hasher = hashlib.sha256(digest.encode())
    hasher.update(repr(boxes.shape).encode())
    hasher.update(np.ascontiguousarray(boxes, dtype=np.float32).tobytes())
    return hasher.digest()


def input_key(digest: str) -> bytes:
    """Return what the input of a film is found by: the SHA-256 of the digest of its pixels."""
    return hashlib.sha256(digest.encode()).digest()


def digest_tensors(tensors: Mapping[str, NDArray[Any]], origin: str) -> bytes:
    """Return the SHA-256 of named tensors and of where they come from."""
    hasher = hashlib.sha256(origin.encode())
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name])
        hasher.update(f"{name} {values.dtype} {values.shape}".encode())
        hasher.update(values.data.cast("B") if values.size else b"")
    return hasher.digest()


class _PartFiles:
    """Files of one folder, its owner's alone, with an entry for each film, found by a key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: set[int | None] = set()  # parts with a file that was taken away
        self._place: dict[bytes, tuple[Path, int]] = {}
        self._files: OrderedDict[Path, Any] = OrderedDict()
        self._lock = threading.RLock()  # films are looked for while others are written
        if folder.is_dir():
            self._sweep()
            for path in sorted(folder.glob(f"[0-9]*{_SUFFIX}")):
                if not self._index(path):
                    self.damaged.add(part_number(path.name))

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, key: bytes) -> bool:
        return key in self._place

    def names(self) -> list[str]:
        """Return the names of the files that films are found in."""
        return sorted({path.name for path, _ in self._place.values()})

    def _is_whole(self, stored: Any, keys: NDArray[np.uint8]) -> bool:
        """Whether the tensors of a file belong to its keys; may raise whatever it likes."""
        raise NotImplementedError

    def _save(
        self, part: int, keys: bytes, tensors: Mapping[str, NDArray[Any]]
    ) -> tuple[str, bytes]:
        """Return name and content of a file."""
        from safetensors.numpy import save

        named = {"keys": np.frombuffer(keys, dtype=np.uint8).reshape(-1, _KEY), **tensors}
        digest = digest_tensors(named, self.folder.name)
        named["digest"] = np.frombuffer(digest, dtype=np.uint8)
        return f"{part:06d}-{hashlib.sha256(keys).hexdigest()[:24]}{_SUFFIX}", save(named)

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
            if not path.is_file():  # a pipe would be waited for
                raise ValueError(path.name)
            stored = self._open(path)
            keys = stored.get_tensor("keys")
            whole = (
                keys.shape == (len(keys), _KEY)
                and self._is_whole(stored, keys)
                and self._is_unchanged(stored)
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

    def _is_unchanged(self, stored: Any) -> bool:
        names = [name for name in stored.keys() if name != "digest"]  # noqa: SIM118
        made = digest_tensors({name: stored.get_tensor(name) for name in names}, self.folder.name)
        return bool(stored.get_tensor("digest").tobytes() == made)

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


class FilmStore(_PartFiles):
    """The embeddings (D,) of films and regions by one recipe: model, batch shape, threads, device.

    `shared` is the folder of the same recipe that other machines reach; `answers` is how many
    numbers stand behind the embedding of a film.
    """

    def __init__(
        self, folder: Path, size: int, shared: FilePath | None = None, answers: int = 0
    ) -> None:
        self._size, self._answers = size, answers
        self._not_finite: set[bytes] = set()  # films with NaN or infinity, which are made again
        super().__init__(folder)
        self._shared = None if shared is None else SharedFilms(shared, self.names())
        if self._shared is not None:
            self.damaged |= self._shared.damaged

    def __contains__(self, key: bytes) -> bool:
        """Whether a film is stored; of others' files the one that holds it is taken now.

        One whose numbers are not finite counts as missing, see `holds`.
        """
        if key in self._not_finite:
            return False
        if key in self._place or self._shared is None:
            return key in self._place
        with self._lock:
            name = self._shared.file_with(key)
            if name is not None:
                self.adopt(name, self._shared.take(name))
            return key in self._place

    def holds(self, key: bytes) -> bool:
        """Whether a film can be read, be its numbers finite or not."""
        return key in self._place or key in self

    def read(self, key: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what is stored of a film, see `EmbeddedFilm`."""
        path, row = self._place[key]
        with self._lock:
            stored = self._open(path)
        first, last = stored.get_slice("starts")[row : row + 2].tolist()
        if first == last:  # an empty slice at the end is out of bounds to safetensors
            return stored.get_slice("image")[row], np.empty((0, self._size), np.float32)
        return stored.get_slice("image")[row], stored.get_slice("region")[first:last]

    def write(self, part: int, films: Sequence[EmbeddedFilm]) -> None:
        """Write some films as one file, in one step; of two files with a film the lower counts.

        Raises
        ------
        ConfigError
            The folder cannot be written to.
        """
        if not films:
            return
        counts = [len(film[2]) for film in films]
        tensors: dict[str, NDArray[Any]] = {
            "starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            "image": np.stack([film[1] for film in films]).astype(np.float32),
            "region": np.concatenate([film[2] for film in films]).astype(np.float32),
        }
        name, content = self._save(part, b"".join(film[0] for film in films), tensors)
        self.adopt(name, content)
        if self._shared is not None:
            self._shared.write(name, content)

    def adopt(self, name: str, content: bytes) -> bool:
        """Take a file of another store of this recipe, in one step; False where it is damaged.

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
                self.damaged.discard(part_number(name))
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
        for name in self.names():
            if name not in self._shared.files:
                with suppress(FileNotFoundError):  # cleared in this moment
                    self._shared.write(name, (self.folder / name).read_bytes())
        for piece in sorted(self.listed_here() - self._shared.listed()):
            self._shared.list_done(piece)

    def listed(self) -> set[str]:
        """Return the pieces of cohorts that were done, as of now."""
        there = set() if self._shared is None else self._shared.listed()
        return self.listed_here() | there

    def listed_here(self) -> set[str]:
        """Return those of them that this machine has noted."""
        return {path.name for path in self.folder.glob(f"{_LISTED}/[0-9a-f]*")}

    def done(self, names: Sequence[str]) -> set[int]:
        """Return the numbers of the parts of a cohort, named in order, that are done and whole."""
        listed = self.listed()
        return {number for number, name in enumerate(names) if name in listed} - self.damaged

    def list_done(self, piece: str) -> None:
        """Note that a piece of a cohort is done."""
        self._put(self.folder / _LISTED / piece, b"")
        if self._shared is not None:
            self._shared.list_done(piece)

    def files(self) -> Iterator[Path]:
        """Yield every file that is whole, in a fixed order."""
        for pattern in (f"[0-9]*{_SUFFIX}", f"{_LISTED}/[0-9a-f]*"):
            yield from sorted(self.folder.glob(pattern))

    def _is_whole(self, stored: Any, keys: NDArray[np.uint8]) -> bool:
        shapes = {name: stored.get_slice(name).get_shape() for name in ("image", "region")}
        starts = stored.get_tensor("starts")
        whole = (
            len(starts) == len(keys) + 1
            and shapes["image"] == [len(keys), self._size + self._answers]
            and shapes["region"] == [int(starts[-1]), self._size]
        )
        if whole:
            finite = np.isfinite(stored.get_tensor("image")).all(axis=1)
            broken = np.flatnonzero(~np.isfinite(stored.get_tensor("region")).all(axis=1))
            finite[np.searchsorted(starts, broken, side="right") - 1] = False
            self._not_finite.update(key.tobytes() for key in keys[~finite])
        return bool(whole)


class SharedFilms:
    """Embeddings of one recipe in a folder or a storage that other machines reach.

    It is laid out as the store is, and holds the same files under the same names, so that two who
    write one of them write the same. Of a file that is not among `own` names, only its keys are
    read until one of its films is wanted.

    Raises
    ------
    ConfigError, StorageError
        The storage denies access, or does not answer; so do all methods.
    """

    def __init__(self, folder: FilePath, own: Collection[str] = ()) -> None:
        self.folder = folder
        with naming_path("cache.shared", _PRIVATE):
            there = entries(folder)
        self.files = {
            name: size or 0 for name, size in there.items() if part_number(name) is not None
        }
        self.damaged: set[int | None] = set()  # parts with a file that is none, or cut short
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
        """Return the content of a file, once; blank where it has gone."""
        self._done_with.add(name)
        try:
            with naming_path("cache.shared", _PRIVATE):
                return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return b""

    def write(self, name: str, content: bytes) -> None:
        """Put a file there, in one step."""
        self._put(self.folder / name, content, above=3)
        self.files[name] = len(content)

    def listed(self) -> set[str]:
        """Return the pieces of cohorts that are noted as done, as of now."""
        with naming_path("cache.shared", _PRIVATE):
            return {name for name in entries(self.folder / _LISTED) if _PIECE.fullmatch(name)}

    def list_done(self, piece: str) -> None:
        """Note that a piece of a cohort is done."""
        self._put(self.folder / _LISTED / piece, b"", above=4)

    def probe(self) -> None:
        """Write a mark, so that hours of work do not end at a place that takes nothing."""
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
            with naming_path("cache.shared", _PRIVATE):
                (count, width), start, end = tensor_place("keys", read_part(file, 0, HEAD))
                if width != _KEY or end - start != count * _KEY or not 0 <= start < end <= size:
                    return None
                keys = read_part(file, start, end)
        except (FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):
            return None
        if len(keys) != count * _KEY:
            return None
        return [keys[at : at + _KEY] for at in range(0, len(keys), _KEY)]


class InputStore(_PartFiles):
    """The inputs of one model: a gray byte a pixel, and what number each gray level stands for.

    Models shrink a film in gray bytes and normalise it level by level then, so that its input
    (3, S, S) of float32 can be made of the bytes again, bit for bit; that is checked film by film.
    """

    def __init__(self, folder: Path, info: EncoderInfo) -> None:
        self._info = info
        self._levels = np.full((3, 256), np.nan, dtype=np.float32)
        super().__init__(folder)

    def pack(self, digest: str, image: Tensor) -> KeptInput:
        """Return what is kept of the input (3, S, S) of a film."""
        gray, values = gray_levels(image, self._info), image.numpy()
        exact = np.array_equal(np.take(self._levels, gray, axis=1), values)
        if not exact:  # a level that was not seen before
            levels = self._levels.copy()
            levels[:, gray] = values
            levels = np.where(np.isnan(self._levels), levels, self._levels)
            exact = np.array_equal(np.take(levels, gray, axis=1), values)
            self._levels = levels if exact else self._levels
        return input_key(digest), gray, exact

    def write(self, part: int, films: Sequence[KeptInput]) -> None:
        """Write some films as one file, in one step.

        Raises
        ------
        ConfigError
            The folder cannot be written to.
        """
        if not films:
            return
        used = np.zeros(256, dtype=np.bool_)
        for _, gray, exact in films:
            if exact:
                used[np.unique(gray)] = True
        tensors: dict[str, NDArray[Any]] = {
            "gray": np.stack([film[1] for film in films]),
            "exact": np.array([film[2] for film in films], dtype=np.uint8),
            # Of these films alone: the same bytes whatever was read before.
            "levels": np.where(used, self._levels, np.float32(np.nan)),
        }
        name, content = self._save(part, b"".join(film[0] for film in films), tensors)
        with self._lock:
            self._put(self.folder / name, content)
            self._index(self.folder / name)

    def keep(self, digests: Sequence[str]) -> KeptFilms:
        """Return the films of these digests; those that are not here cannot be read."""
        number: dict[Path, int] = {}
        places = np.full((len(digests), 2), -1, dtype=np.int32)
        for film, digest in enumerate(digests):
            found = self._place.get(input_key(digest))
            if found is not None:
                places[film] = number.setdefault(found[0], len(number)), found[1]
        return KeptFilms(tuple(number), places, self._info.image_size)

    def _is_whole(self, stored: Any, keys: NDArray[np.uint8]) -> bool:
        side = self._info.image_size
        wanted = {"gray": [len(keys), side, side], "exact": [len(keys)], "levels": [3, 256]}
        return all(stored.get_slice(name).get_shape() == shape for name, shape in wanted.items())
