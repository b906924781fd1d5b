"""What a model is fine-tuned on: films at its resolution, report embeddings, classes, regions.

Films lie in a file that is mapped, not read, so that their number is bounded by the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ravl_med.cohort.film import Film
from ravl_med.cohort.manifest import RejectedFilm
from ravl_med.encoders.base import Encoder

__all__ = ["FilmStore", "FineTuningSet", "RegionTable", "embed_reports"]

_TEXTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class FilmStore:
    """Films as the model sees them, in one gray channel.

    Attributes
    ----------
    gray : ndarray of shape (n, S, S), uint8 - mapped from a file
    rows : ndarray of shape (N,), int64 - those of them that are the films
    mean, std : tuple of float, length 3 - normalisation of the model's input
    """

    gray: NDArray[np.uint8]
    rows: NDArray[np.int64]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def keeping(
        cls,
        films: Iterable[Film | RejectedFilm],
        encoder: Encoder,
        path: Path,
    ) -> tuple[Iterator[Film | RejectedFilm], Callable[[Sequence[int]], FilmStore]]:
        """Keep films in a file while they pass to another reader.

        Parameters
        ----------
        films : iterable of Film or RejectedFilm
        encoder : Encoder
        path : Path - of the file; it is written over

        Returns
        -------
        films : iterator - the same films
        store : callable - once all have passed: cohort indices of the films that are wanted, in the
            order of their passing, to the store
        """
        side, info = encoder.info.image_size, encoder.info
        seen: list[int] = []

        def passing() -> Iterator[Film | RejectedFilm]:
            with path.open("wb") as stream:
                for film in films:
                    if isinstance(film, Film):
                        first = encoder.preprocess(film.pixels)[0].numpy()
                        level = (first * info.std[0] + info.mean[0]) * 255.0
                        stream.write(np.rint(level).clip(0, 255).astype(np.uint8).tobytes())
                        seen.append(film.index)
                    yield film

        def store(wanted: Sequence[int]) -> FilmStore:
            shape = (len(seen), side, side)
            gray: NDArray[np.uint8] = (
                np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
                if seen
                else np.empty(shape, np.uint8)
            )
            kept = np.flatnonzero(np.isin(seen, wanted))  # some are set aside after they were read
            return cls(gray, kept, info.mean, info.std)

        return passing(), store

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def side(self) -> int:
        """S, in pixels."""
        return int(self.gray.shape[-1])

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Return films (n, S, S), float32, normalised as the first channel of the input."""
        level = torch.from_numpy(np.ascontiguousarray(self.gray[self.rows[rows]])).float() / 255.0
        return (level - self.mean[0]) / self.std[0]

    def inputs(self, films: Tensor) -> Tensor:
        """Spread films (n, S, S), as `read` gives them, over the channels: (n, 3, S, S)."""
        images = films[:, None].expand(-1, 3, -1, -1)
        if len(set(self.mean)) > 1 or len(set(self.std)) > 1:
            mean, std = (torch.tensor(v, device=films.device)[:, None, None] for v in
                         (self.mean, self.std))  # fmt: skip
            images = (images * self.std[0] + self.mean[0] - mean) / std
        return images.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True, eq=False)
class RegionTable:
    """Boxes on films, ragged, ordered by film.

    Attributes
    ----------
    boxes : ndarray of shape (R, 4), float32 - xyxy in input pixels
    starts : ndarray of shape (N + 1,), int64 - boxes of film i are starts[i] to starts[i + 1]
    """

    boxes: NDArray[np.float32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, boxes: NDArray[np.float32], film: NDArray[np.int64], films: int) -> RegionTable:
        """Make a table of boxes (R, 4) of films (R,), ascending."""
        counts = np.bincount(film, minlength=films)
        return cls(boxes.astype(np.float32), np.concatenate([[0], np.cumsum(counts)]))

    @classmethod
    def empty(cls, films: int) -> RegionTable:
        """Make a table without boxes."""
        return cls(np.empty((0, 4), np.float32), np.zeros(films + 1, np.int64))

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the boxes of films: their positions (r,), and the position of their film (r,)."""
        counts = self.starts[rows + 1] - self.starts[rows]
        film = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(film)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.starts[rows][film] + within, film

    def counts(self) -> NDArray[np.int64]:
        """Return the number of boxes of each film, shape (N,)."""
        return np.diff(self.starts)


@dataclass(frozen=True, slots=True, eq=False)
class FineTuningSet:
    """N films to fine-tune on.

    Attributes
    ----------
    films : FilmStore
    reports : Tensor of shape (N, D), float32 - embeddings of the impressions by the frozen text
        tower, unit norm
    labels : ndarray of shape (N,), int64 - class that each film is taught as; -1 for none
    present : ndarray of shape (N,), bool - a region of the mitigated features is on the film
    regions : RegionTable
    spurious : ndarray of shape (R,), bool - region belongs to a mitigated feature
    carriers : RegionTable - where the features were located by removal
    companions : RegionTable - regions of the clusters that travel with the features, on films that
        have them
    """

    films: FilmStore
    reports: Tensor
    labels: NDArray[np.int64]
    present: NDArray[np.bool_]
    regions: RegionTable
    spurious: NDArray[np.bool_]
    carriers: RegionTable
    companions: RegionTable

    def __len__(self) -> int:
        return len(self.films)


def embed_reports(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """Embed report texts by the frozen text tower as (N, D), float32, equal texts once."""
    known = sorted(set(texts))
    parts = [
        encoder.encode_text(known[i : i + _TEXTS_AT_ONCE]).float().cpu()
        for i in range(0, len(known), _TEXTS_AT_ONCE)
    ]
    place = {text: number for number, text in enumerate(known)}
    return torch.cat(parts)[[place[text] for text in texts]]
