"""What a model is fine-tuned on: films at its resolution, report embeddings, classes, regions.

Films are read as they are needed, and the large tables may be mapped files, so that the number of
films is bounded by the disk.

Films at the model's resolution in files of some hundred each, which every process reads from.

They are read, not mapped: the films of an epoch come in random order, and a mapped file would count
more and more of itself as memory of the process.

A set to fine-tune on as a folder: written once, and opened by every process of a training.

Small tables are read, large ones mapped, so that the processes of a machine share them; films stay
in the files that they lie in.

    set/labels.npy  present.npy  film-rows.npy
    set/regions.npy  carriers.npy  companions.npy    boxes (M, 4), and beside each *-starts.npy
    set/spurious.npy
    set/texts.npy  text-of-film.npy                  embeddings of the distinct reports
    set/set.json                                     written last: without it there is no set
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ravl_med.encoders.base import Encoder, EncoderInfo
from ravl_med.errors import ConfigError
from ravl_med.storage.files import atomic_write

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
    reports : ReportTable, or Tensor of shape (N, D), float32 - embeddings of the impressions by
        the frozen text tower, unit norm
    labels : ndarray of shape (N,), int64 - class that each film is taught as; -1 for none
    present : ndarray of shape (N,), bool - a region of the mitigated features is on the film
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


_TABLES = ("regions", "carriers", "companions")
_MARK = "set.json"
_SMALL_BYTES = 2**20


def lay_reports(folder: Path, encoder: Encoder, texts: Iterable[str]) -> ReportTable:
    """Embed reports into a folder, equal texts once; neither texts nor embeddings are kept.

    Parameters
    ----------
    encoder : Encoder - its text tower is frozen

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


def lay_set(folder: Path, films: FineTuningSet, told: Mapping[str, Any]) -> None:
    """Write a set into a folder.

    Parameters
    ----------
    folder : Path - `lay_reports` has been here
    films : FineTuningSet - its films are a `FilmShards`
    told : mapping - JSON; what belongs to the set, such as what it was made for

    Raises
    ------
    ConfigError
        The folder cannot be written to.
    """
    gray, reports = films.films.gray, films.reports
    assert isinstance(gray, FilmShards)  # other processes could not reach an array
    assert isinstance(reports, ReportTable)
    for name, values in (
        ("labels", films.labels),
        ("present", films.present),
        ("spurious", films.spurious),
        ("film-rows", films.films.rows),
    ):
        _save(folder / f"{name}.npy", values)
    for name in _TABLES:
        table: RegionTable = getattr(films, name)
        _save(folder / f"{name}.npy", table.boxes)
        _save(folder / f"{name}-starts.npy", table.starts)
    described = {
        "told": dict(told),
        "files": [path.name for path in gray.paths],
        "folder": gray.paths[0].parent.name if gray.paths else "",
        "counts": list(gray.counts),
        "side": films.films.side,
        "mean": list(films.films.mean),
        "std": list(films.films.std),
        "size": int(reports.texts.shape[1]),
    }
    with atomic_write(folder / _MARK) as stream:
        stream.write(json.dumps(described).encode())


def told_with_set(folder: Path) -> Mapping[str, Any] | None:
    """Return what `lay_set` was told of a set; None where there is none, or half of one."""
    try:
        told = json.loads((folder / _MARK).read_text(encoding="utf-8"))["told"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told if isinstance(told, dict) else None


def open_set(folder: Path) -> FineTuningSet:
    """Open a set that `lay_set` has written.

    Raises
    ------
    ConfigError
        It is not there, or a part of it is gone.
    """
    try:
        described = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        gray = FilmShards(
            [folder.parent / described["folder"] / name for name in described["files"]],
            described["counts"],
            described["side"],
        )
        tables = {name: _open_table(folder, name) for name in _TABLES}
        return FineTuningSet(
            films=FilmStore(
                gray,
                np.load(folder / "film-rows.npy"),
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
