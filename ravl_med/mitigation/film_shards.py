"""Films at the model's resolution in files of some hundred each, which every process reads from.

They are read, not mapped: the films of an epoch come in random order, and a mapped file would count
more and more of itself as memory of the process.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ravl_med.encoders.base import EncoderInfo
from ravl_med.errors import ConfigError

__all__ = ["FilmShards", "gray_levels"]

_OPEN_FILES = 256


class FilmShards:
    """Films of several files as one array, of which a few are read at a time.

    It can be sent to another process, which opens the files by itself.

    Parameters
    ----------
    paths : sequence of Path - files of films, one gray byte a pixel
    counts : sequence of int - films of each file
    side : int - S, in pixels
    """

    def __init__(self, paths: Sequence[Path], counts: Sequence[int], side: int) -> None:
        self.paths, self.counts, self._side = tuple(paths), tuple(counts), side
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._open: OrderedDict[int, int] = OrderedDict()

    def __getstate__(self) -> tuple[tuple[Path, ...], tuple[int, ...], int]:
        return self.paths, self.counts, self._side

    def __setstate__(self, state: tuple[tuple[Path, ...], tuple[int, ...], int]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __del__(self) -> None:
        for handle in getattr(self, "_open", {}).values():
            os.close(handle)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of films, and their sides."""
        return int(self._starts[-1]), self._side, self._side

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read films (n, S, S), uint8.

        Raises
        ------
        ConfigError
            A file is gone, or is shorter than it was.
        """
        films = np.empty((len(rows), self._side, self._side), dtype=np.uint8)
        files = np.searchsorted(self._starts, rows, side="right") - 1
        for into, file, place in zip(
            films, files.tolist(), rows - self._starts[files], strict=True
        ):
            self._read(file, int(place), into)
        return films

    def _read(self, file: int, place: int, into: NDArray[np.uint8]) -> None:
        view, done = into.reshape(-1), 0  # of the same memory
        try:
            handle = self._handle(file)
            while done < len(view):
                piece = os.pread(handle, len(view) - done, place * len(view) + done)
                if not piece:
                    raise OSError("the file ends")
                view[done : done + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
                done += len(piece)
        except OSError as error:
            raise ConfigError(
                "cache: a file of films at the model's resolution cannot be read "
                f"({error.strerror or 'it is too short'}); expected it as this run wrote it. Was "
                "cache.folder cleared meanwhile? Start anew."
            ) from None

    def _handle(self, file: int) -> int:
        if file not in self._open:
            self._open[file] = os.open(self.paths[file], os.O_RDONLY)
            if len(self._open) > _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(file)
        return self._open[file]


def gray_levels(image: Tensor, info: EncoderInfo) -> NDArray[np.uint8]:
    """Return a model's input (3, S, S) as gray levels (S, S), which its channels are made of."""
    level = (image[0].numpy() * info.std[0] + info.mean[0]) * 255.0
    levels: NDArray[np.uint8] = np.rint(level).clip(0, 255).astype(np.uint8)
    return levels
