"""Embeddings on disk: found again by the film, its regions and the model that made them.

A store belongs to one recipe (model, preprocessing, batch shape, threads, device) and holds files
of some hundred films each. A file appears whole or not at all, so that a run may end at any moment:
what it had not finished is made again. Several processes may fill one store.

    embeddings/RECIPE/00007-DIGEST.safetensors    keys (n, 32), starts (n + 1), image, region
    embeddings/RECIPE/listed/DIGEST               a piece of a cohort that is done
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravl_med.errors import ConfigError

__all__ = ["EmbeddedFilm", "EmbeddingStore", "film_key"]

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
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self._size = folder, size
        self._place: dict[bytes, tuple[Path, int]] = {}
        self._files: OrderedDict[Path, Any] = OrderedDict()
        if folder.is_dir():
            self._sweep()
            for path in sorted(folder.glob(f"[0-9]*{_SUFFIX}")):
                self._index(path)

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, key: bytes) -> bool:
        return key in self._place

    def read(self, key: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the embedding (D,) of a film and those of its regions (r, D)."""
        path, row = self._place[key]
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
        films : sequence of EmbeddedFilm

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
        path = self.folder / f"{part:06d}-{hashlib.sha256(keys).hexdigest()[:24]}{_SUFFIX}"
        self._files.pop(path, None)
        self._put(path, content)
        self._index(path)

    def is_listed(self, piece: str) -> bool:
        """Return whether a piece of a cohort was done."""
        return (self.folder / "listed" / piece).is_file()

    def list_done(self, piece: str) -> None:
        """Note that a piece of a cohort is done."""
        self._put(self.folder / "listed" / piece, b"")

    def files(self) -> Iterator[Path]:
        """Yield every file that is whole, in a fixed order."""
        for pattern in (f"[0-9]*{_SUFFIX}", "listed/[0-9a-f]*"):
            yield from sorted(self.folder.glob(pattern))

    def _put(self, path: Path, content: bytes) -> None:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            for folder in (self.folder.parents[1], self.folder.parent, self.folder, path.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cache: embeddings cannot be written ({error.strerror or type(error).__name__}); "
                "expected a folder with room that may be written to. Name another one in "
                "cache.folder, or set cache.embeddings to false."
            ) from None

    def _index(self, path: Path) -> None:
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
            return
        for row, key in enumerate(keys):
            self._place.setdefault(key.tobytes(), (path, row))

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
