"""What a model is fine-tuned on: films at its resolution, report embeddings, classes, regions.

Films are read as they are needed, and the large tables may be mapped files, so that the number of
films is bounded by the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ravl_med.encoders.base import Encoder
from ravl_med.mitigation.film_shards import FilmShards

__all__ = [
    "FilmStore",
    "FineTuningSet",
    "RegionTable",
    "ReportTable",
    "embed_distinct",
    "embed_reports",
]

_TEXTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class FilmStore:
    """Films as the model sees them, in one gray channel.

    Attributes
    ----------
    gray : ndarray of shape (n, S, S), uint8, or FilmShards - which are read as they are needed
    rows : ndarray of shape (N,), int64 - those of them that are the films
    mean, std : tuple of float, length 3 - normalisation of the model's input
    """

    gray: NDArray[np.uint8] | FilmShards
    rows: NDArray[np.int64]
    mean: tuple[float, ...]
    std: tuple[float, ...]

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
        counts = self.counts_of(rows)
        film = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(film)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.starts[rows][film] + within, film

    def counts(self) -> NDArray[np.int64]:
        """Return the number of boxes of each film, shape (N,)."""
        return np.diff(self.starts)

    def counts_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of boxes of films (n,), shape (n,)."""
        counts: NDArray[np.int64] = self.starts[rows + 1] - self.starts[rows]
        return counts


@dataclass(frozen=True, slots=True, eq=False)
class ReportTable:
    """Reports of N films as embeddings, equal texts once.

    Attributes
    ----------
    texts : ndarray of shape (T, D), float32 - of the distinct texts, unit norm
    of_film : ndarray of shape (N,), int64 - 0 .. T - 1
    """

    texts: NDArray[np.float32]
    of_film: NDArray[np.int64]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the embeddings of films (n,) as (n, D), float32."""
        return torch.from_numpy(np.array(self.texts[self.of_film[rows.numpy()]]))


@dataclass(frozen=True, slots=True, eq=False)
class FineTuningSet:
    """N films to fine-tune on.

    Attributes
    ----------
    films : FilmStore
    reports : ReportTable, or Tensor of shape (N, D), float32 - embeddings of the impressions by
        the frozen text tower, unit norm
    labels : ndarray of shape (N,), int64 - class that each film is taught as; -1 for none
    present : ndarray of shape (N,), bool - a region of the mitigated features is on the film
    regions : RegionTable
    spurious : ndarray of shape (R,), bool - region belongs to a mitigated feature
    carriers : RegionTable - where the features were located by removal
    companions : RegionTable - regions of the clusters that travel with the features, on films that
        have them
    """

    films: FilmStore
    reports: ReportTable | Tensor
    labels: NDArray[np.int64]
    present: NDArray[np.bool_]
    regions: RegionTable
    spurious: NDArray[np.bool_]
    carriers: RegionTable
    companions: RegionTable

    def __len__(self) -> int:
        return len(self.films)


def embed_reports(encoder: Encoder, texts: Iterable[str]) -> ReportTable:
    """Embed report texts of N films by the frozen text tower, equal texts once."""
    of_film: list[int] = []
    parts = list(embed_distinct(encoder, texts, of_film))
    return ReportTable(np.concatenate(parts), np.array(of_film, dtype=np.int64))


def embed_distinct(
    encoder: Encoder, texts: Iterable[str], of_film: list[int]
) -> Iterator[NDArray[np.float32]]:
    """Embed each text at its first appearance; the texts are not kept.

    Parameters
    ----------
    encoder : Encoder
    texts : iterable of str, length N
    of_film : list of int - filled with the number of each text among the distinct ones

    Yields
    ------
    ndarray of shape (t, D), float32 - of the next distinct texts, unit norm
    """
    known: dict[bytes, int] = {}
    waiting: list[str] = []
    for text in texts:
        digest = hashlib.sha256(text.encode()).digest()
        if digest not in known:
            known[digest] = len(known)
            waiting.append(text)
        of_film.append(known[digest])
        if len(waiting) == _TEXTS_AT_ONCE:
            yield _embed(encoder, waiting)
            waiting = []
    if waiting:
        yield _embed(encoder, waiting)


def _embed(encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
    embedded: NDArray[np.float32] = encoder.encode_text(texts).float().cpu().numpy()
    return embedded
