"""What a model is fine-tuned on: films at its resolution, report embeddings, classes, regions.

A set is a folder, written once and opened by every process of a training. Films stay in the store
that they were read into; the set holds where each of them lies there. They are read as they are
needed, small tables are read and large ones mapped, so that the number of films is bounded by the
disk.

    set/labels.npy  present.npy  places.npy
    set/regions.npy  carriers.npy  companions.npy    boxes (M, 4), and beside each *-starts.npy
    set/spurious.npy
    set/texts.f32  text-of-film.npy                  embeddings of the distinct reports
    set/set.json                                     written last: without it there is no set
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ravl_med.encoders.base import Encoder
from ravl_med.encoders.kept_films import KeptFilms
from ravl_med.errors import ConfigError
from ravl_med.storage.files import atomic_write

_TEXTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class GrayFilms:
    """Films as the model sees them, in one gray channel."""

    gray: NDArray[np.uint8] | KeptFilms
    rows: NDArray[np.int64]  # (N,) those of them that are the films
    mean: tuple[float, ...]  # (3,) of the normalisation of the model's input
    std: tuple[float, ...]  # (3,)

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

    def input(self, row: int) -> NDArray[np.float32]:
        """Return one film as the model reads it, (3, S, S)."""
        return np.asarray(self.inputs(self.read(np.array([row])))[0], dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class RegionTable:
    """Boxes on films, ragged, ordered by film."""

    boxes: NDArray[np.float32]  # (R, 4) xyxy in input pixels
    starts: NDArray[np.int64]  # (N + 1,) boxes of film i are starts[i] to starts[i + 1]

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
        return np.asarray(self.starts[rows + 1] - self.starts[rows])


@dataclass(frozen=True, slots=True, eq=False)
class ReportTable:
    """Reports of N films as embeddings, equal texts once."""

    texts: NDArray[np.float32]  # (T, D) of the distinct texts, unit norm
    of_film: NDArray[np.int64]  # (N,) 0 .. T - 1

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the embeddings of films (n,) as (n, D), float32."""
        return torch.from_numpy(np.array(self.texts[self.of_film[rows.numpy()]]))


@dataclass(frozen=True, slots=True, eq=False)
class FineTuningSet:
    """N films to fine-tune on."""

    films: GrayFilms
    # (N, D) embeddings of the impressions by the frozen text tower, unit norm
    reports: ReportTable | Tensor
    labels: NDArray[np.int64]  # (N,) class that each film is taught as; -1 for none
    present: NDArray[np.bool_]  # (N,) a region of the mitigated features is on the film
    regions: RegionTable
    spurious: NDArray[np.bool_]  # (R,) region belongs to a mitigated feature
    carriers: RegionTable  # where the features were located by removal
    # regions of the clusters that travel with the features, on films that have them
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
    """Yield embeddings (t, D), unit norm, of the texts that differ; the texts are not kept.

    `of_film` is filled with the number of each text among them.
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


_TABLES = ("regions", "carriers", "companions")
_MARK = "set.json"
_SMALL_BYTES = 2**20


def write_reports(folder: Path, encoder: Encoder, texts: Iterable[str]) -> ReportTable:
    """Embed reports into a folder, equal texts once; neither texts nor embeddings are kept.

    Raises
    ------
    ConfigError
        The folder cannot be written to.
    """
    of_film: list[int] = []
    with atomic_write(folder / "texts.f32") as stream:
        for part in embed_distinct(encoder, texts, of_film):
            stream.write(np.ascontiguousarray(part, dtype=np.float32).tobytes())
    _save(folder / "text-of-film.npy", np.array(of_film, dtype=np.int64))
    return _open_reports(folder, encoder.info.embedding_size)


def write_fine_tuning_set(folder: Path, films: FineTuningSet, notes: Mapping[str, Any]) -> None:
    """Write a set whose films are `KeptFilms`, and JSON notes, where `write_reports` has been.

    Raises
    ------
    ConfigError
        The folder cannot be written to.
    """
    gray, reports = films.films.gray, films.reports
    assert isinstance(gray, KeptFilms)  # other processes could not reach an array
    assert isinstance(reports, ReportTable)
    for name, values in (
        ("labels", films.labels),
        ("present", films.present),
        ("spurious", films.spurious),
        ("places", gray.places[films.films.rows]),
    ):
        _save(folder / f"{name}.npy", values)
    for name in _TABLES:
        table: RegionTable = getattr(films, name)
        _save(folder / f"{name}.npy", table.boxes)
        _save(folder / f"{name}-starts.npy", table.starts)
    described = {
        "notes": dict(notes),
        "files": [str(path.absolute()) for path in gray.paths],
        "side": films.films.side,
        "mean": list(films.films.mean),
        "std": list(films.films.std),
        "size": int(reports.texts.shape[1]),
    }
    with atomic_write(folder / _MARK) as stream:
        stream.write(json.dumps(described).encode())


def notes_of_fine_tuning_set(folder: Path) -> Mapping[str, Any] | None:
    """Return the notes of a set; None where there is none, or half of one."""
    try:
        notes = json.loads((folder / _MARK).read_text(encoding="utf-8"))["notes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return notes if isinstance(notes, dict) else None


def open_fine_tuning_set(folder: Path) -> FineTuningSet:
    """Open a set that `write_fine_tuning_set` has written.

    Raises
    ------
    ConfigError
        It is not there, or a part of it is gone.
    """
    try:
        described = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        paths = tuple(map(Path, described["files"]))
        gray = KeptFilms(paths, np.load(folder / "places.npy"), described["side"])
        tables = {name: _open_table(folder, name) for name in _TABLES}
        return FineTuningSet(
            films=GrayFilms(
                gray,
                np.arange(len(gray), dtype=np.int64),
                tuple(described["mean"]),
                tuple(described["std"]),
            ),
            reports=_open_reports(folder, described["size"]),
            labels=np.load(folder / "labels.npy"),
            present=np.load(folder / "present.npy"),
            spurious=_open_array(folder / "spurious.npy"),
            **tables,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"cache: the set to fine-tune on cannot be opened ({type(error).__name__}); expected "
            "the folder as the first process wrote it. Was cache.folder cleared meanwhile? Start "
            "anew."
        ) from None


def _open_table(folder: Path, name: str) -> RegionTable:
    return RegionTable(_open_array(folder / f"{name}.npy"), np.load(folder / f"{name}-starts.npy"))


def _open_array(path: Path) -> NDArray[Any]:
    """Map a large array; read a small one."""
    large = path.stat().st_size > _SMALL_BYTES
    values: NDArray[Any] = np.load(path, mmap_mode="r" if large else None)
    return values


def _open_reports(folder: Path, size: int) -> ReportTable:
    path = folder / "texts.f32"
    texts = np.memmap(path, dtype=np.float32, mode="r").reshape(-1, size)
    return ReportTable(texts, np.load(folder / "text-of-film.npy"))


def _save(path: Path, values: NDArray[Any]) -> None:
    with atomic_write(path) as stream:
        np.save(stream, values, allow_pickle=False)
