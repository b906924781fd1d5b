"""Films as a model reads them, in files of some hundred each that any process opens for itself."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ravl_med.encoders.base import EncoderInfo
from ravl_med.errors import ConfigError

HEAD = 4096
"""Bytes in which the description of a safetensors file of a store ends."""

_OPEN_FILES = 256


class ScratchFolder:
    """A temporary folder that goes when nothing refers to it any more."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="ravl-films-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class KeptFilms:
    """N films as a model reads them, of which a few at a time are read from their files.

    They are read, not mapped: films of an epoch come in random order, and a mapped file would count
    more and more of itself as memory of the process. Another process opens the files by itself.
    """

    def __init__(
        self,
        paths: tuple[Path, ...],  # of an `InputStore`
        places: NDArray[np.int32],  # (N, 2) file of each film and row in it; -1: it is not kept
        side: int,  # S, in pixels
        scratch: ScratchFolder | None = None,  # that the files go with
    ) -> None:
        self.paths, self.places, self.side, self.scratch = paths, places, side, scratch
        self._open: OrderedDict[int, tuple[int, int]] = OrderedDict()  # handle, start of gray
        self._exact: dict[int, tuple[NDArray[np.uint8], NDArray[np.float32]]] = {}

    def __getstate__(self) -> tuple[tuple[Path, ...], NDArray[np.int32], int]:
        return self.paths, self.places, self.side

    def __setstate__(self, state: tuple[tuple[Path, ...], NDArray[np.int32], int]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __del__(self) -> None:
        for handle, _ in getattr(self, "_open", {}).values():
            os.close(handle)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of films, and their sides."""
        return len(self.places), self.side, self.side

    def take(self, films: NDArray[np.int64]) -> KeptFilms:
        """Return some of the films."""
        return KeptFilms(self.paths, self.places[films], self.side, self.scratch)

    def missing(self) -> int:
        """Return how many films are not kept here."""
        return int((self.places[:, 0] < 0).sum())

    def __getitem__(self, films: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read gray levels (n, S, S).

        Raises
        ------
        ConfigError
            A file is gone, or is shorter than it was.
        """
        gray = np.empty((len(films), self.side, self.side), dtype=np.uint8)
        for into, (file, row) in zip(gray, self.places[films].tolist(), strict=True):
            self._read(file, row, into)
        return gray

    def input(self, film: int) -> NDArray[np.float32] | None:
        """Read the model's input (3, S, S) of a film; None where it cannot be made of what is kept.

        Raises
        ------
        ConfigError
            A file is gone, or is shorter than it was.
        """
        file, row = self.places[film].tolist()
        if file < 0:
            return None
        if file not in self._exact:
            from safetensors import safe_open

            with _own_files(), safe_open(self.paths[file], framework="numpy") as stored:
                self._exact[file] = stored.get_tensor("exact"), stored.get_tensor("levels")
        exact, levels = self._exact[file]
        if not exact[row]:
            return None
        made: NDArray[np.float32] = np.take(levels, self[np.array([film])][0], axis=1)
        return made

    def _read(self, file: int, row: int, into: NDArray[np.uint8]) -> None:
        view, done = into.reshape(-1), 0  # of the same memory
        with _own_files():
            handle, start = self._handle(file)
            while done < len(view):
                at = start + row * len(view) + done
                piece = os.pread(handle, len(view) - done, at)
                if not piece:
                    raise OSError("the file ends")
                view[done : done + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
                done += len(piece)

    def _handle(self, file: int) -> tuple[int, int]:
        if file not in self._open:
            handle = os.open(self.paths[file], os.O_RDONLY)
            self._open[file] = handle, tensor_place("gray", os.pread(handle, HEAD, 0))[1]
            if len(self._open) > _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1][0])
        self._open.move_to_end(file)
        return self._open[file]


@contextmanager
def _own_files() -> Iterator[None]:
    """Say in one line that a file with the films of this run is not what it was."""
    try:
        yield
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        why = "No such file or directory" if gone else error.strerror or "it is too short"
        raise ConfigError(
            f"cache: a file of films at the model's resolution cannot be read ({why}); expected it "
            "as this run wrote it. Was cache.folder cleared meanwhile? Start anew."
        ) from None


def gray_levels(image: Tensor, info: EncoderInfo) -> NDArray[np.uint8]:
    """Return a model's input (3, S, S) as gray levels (S, S), which its channels are made of."""
    level = (image[0].numpy() * info.std[0] + info.mean[0]) * 255.0
    levels: NDArray[np.uint8] = np.rint(level).clip(0, 255).astype(np.uint8)
    return levels


def tensor_place(tensor: str, head: bytes) -> tuple[list[int], int, int]:
    """Return the shape of a tensor, and where its bytes start and end in a safetensors file."""
    length = int.from_bytes(head[:8], "little")
    described = json.loads(head[8 : 8 + length])[tensor]
    start, end = described["data_offsets"]
    return described["shape"], 8 + length + start, 8 + length + end
