"""A set to fine-tune on as a folder: written once, and opened by every process of a training.

Small tables are read, large ones mapped, so that the processes of a machine share them; films stay
in the files that they lie in.

    set/labels.npy  present.npy  film-rows.npy
    set/regions.npy  carriers.npy  companions.npy    boxes (M, 4), and beside each *-starts.npy
    set/spurious.npy
    set/texts.npy  text-of-film.npy                  embeddings of the distinct reports
    set/set.json                                     written last: without it there is no set
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravl_med.encoders.base import Encoder
from ravl_med.errors import ConfigError
from ravl_med.mitigation.film_shards import FilmShards
from ravl_med.mitigation.fine_tuning_set import (
    FilmStore,
    FineTuningSet,
    RegionTable,
    ReportTable,
    embed_distinct,
)
from ravl_med.mitigation.whole_files import whole_file

__all__ = ["lay_reports", "lay_set", "open_set", "told_with_set"]

_TABLES = ("regions", "carriers", "companions")
_MARK = "set.json"
_SMALL_BYTES = 2**20


def lay_reports(folder: Path, encoder: Encoder, texts: Iterable[str]) -> ReportTable:
    """Embed reports into a folder, equal texts once; neither texts nor embeddings are kept.

    Parameters
    ----------
    folder : Path
    encoder : Encoder - its text tower is frozen
    texts : iterable of str, length N

    Raises
    ------
    ConfigError
        The folder cannot be written to.
    """
    of_film: list[int] = []
    with whole_file(folder / "texts.f32") as stream:
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
    with whole_file(folder / _MARK) as stream:
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
    with whole_file(path) as stream:
        np.save(stream, values, allow_pickle=False)
