"""Films of a split, read once by the workers of an engine and kept for a mitigation.

Some hundred films make two files: their gray levels at the model's resolution, and what is known of
them, regions and embeddings among it. The second is written when the first is there, and says that
both are done; a run that was ended goes on after the last of them. No table of a split that grows
with regions times embedding size is ever in memory as a whole.

    finetune/DIGEST.gray          (n, S, S) bytes
    finetune/DIGEST.safetensors   position, digest, size, count, finite, box, input_box, image,
                                  region
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from ravl_med.cohort.film import Film, FilmReader
from ravl_med.cohort.manifest import Cohort, RejectedFilm
from ravl_med.config import Config
from ravl_med.encoders.base import Encoder, EncoderInfo
from ravl_med.encoders.stored_films import EmbeddedRow, films_a_part, prepare_film, store_films
from ravl_med.engine.opening import Engine
from ravl_med.engine.work import Work
from ravl_med.errors import ConfigError
from ravl_med.mitigation.film_shards import gray_levels
from ravl_med.mitigation.whole_files import whole_file
from ravl_med.pipeline.cohort_parts import name_parts
from ravl_med.pipeline.film_units import FilmEmbedder, FilmUnit
from ravl_med.pipeline.kept_films import ARRAYS, GRAY, KeptFilms, is_whole, join_files
from ravl_med.pipeline.stages import open_model_of
from ravl_med.regions.proposal import RegionProposer

__all__ = ["keep_films"]

_PATIENCE = 75.0  # seconds that network file systems take to show a file
_PARTS = 2  # of the cohort in a file; each is about 256 films


def keep_films(
    engine: Engine,
    config: Config,
    cohort: Cohort,
    model: tuple[Encoder, Path | None],
    reader: FilmReader,
    root: Path,
    folder: Path,
    progress: Callable[[int], None],
) -> KeptFilms:
    """Read, cut into regions, embed and keep the films of a cohort.

    Parameters
    ----------
    engine : Engine - of several workers, each does some of the files
    config : Config
    cohort : Cohort - its reports are not needed
    model : tuple of Encoder and Path or None - opened, and the folder that workers open
    reader : FilmReader - of this process
    root : Path - of the embeddings that are kept from run to run
    folder : Path - of the files; all workers reach both under these names
    progress : callable - called with the number of films that have passed

    Raises
    ------
    ConfigError
        The folder cannot be written to, or workers write to another one than this process reads.
    EngineError
        Workers died.
    """
    encoder, model_folder = model
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    units = list(_cut(config, cohort, encoder))
    paths = [folder / f"{unit.name}{ARRAYS}" for unit in units]
    wanted = [unit for unit, path in zip(units, paths, strict=True) if not is_whole(path, encoder)]
    before = len(cohort) - sum(len(unit.films.positions) for unit in wanted)
    with nullcontext(reader) if engine.workers else reader.kept_open() as opened:
        passed = [before]
        own = FilmEmbedder.of(config, encoder, root, lambda done: progress(passed[0] + done))
        work: Work[_Unit, int] = Work(
            open=partial(_open_keeper, config, model_folder, root, folder),
            here=lambda: _Keeper(replace(own, reader=opened), folder).keep,
            threads=config.threads or 1,
            name="reading and embedding of films",
        )
        for count in engine.map(work, wanted):
            passed[0] += count
            progress(passed[0])
    _require_files(paths, _PATIENCE if engine.workers else 0.0)
    return join_files(cohort, paths, encoder.info.image_size)


@dataclass(frozen=True, slots=True, eq=False)
class _Unit:
    """Films of a file, and what it is called."""

    films: FilmUnit
    name: str


def _cut(config: Config, cohort: Cohort, encoder: Encoder) -> Iterator[_Unit]:
    """Cut a cohort into files, the same ones however many workers there are."""
    names = dict(enumerate(name_parts(config, cohort)))
    proposer = RegionProposer.of(config.regions, cohort)
    told = replace(cohort, radiology_reports=("",) * len(cohort), rejected=())
    size = films_a_part(config.model.batch_size)
    for first in range(0, len(names), _PARTS):
        mine = [number for number in range(first, first + _PARTS) if number in names]
        end = min((mine[-1] + 1) * size, len(cohort))
        positions = np.arange(mine[0] * size, end, dtype=np.int64)
        own = {number: names[number] for number in mine}
        films = FilmUnit(
            positions, told.keep(positions), proposer.of_films(positions.tolist()), size, own
        )
        recipe = (encoder.info.digest, encoder.info.region_pooling, *own.values())
        yield _Unit(films, hashlib.sha256(repr(recipe).encode()).hexdigest()[:24])


@dataclass(slots=True)
class _Passed:
    """What is known of the films of a file as they come by."""

    info: EncoderInfo
    rows: list[EmbeddedRow] = field(default_factory=list)
    boxes: list[NDArray[np.float32]] = field(default_factory=list)
    rejected: list[RejectedFilm] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Keeper:
    """What a worker holds."""

    embedder: FilmEmbedder
    folder: Path

    def keep(self, unit: _Unit) -> int:
        """Write the files of a unit; return its number of films."""
        encoder, batches = self.embedder.encoder, self.embedder.batches
        proposer = unit.films.proposer.with_segmenter(self.embedder.segmenter)
        passed = _Passed(encoder.info)

        def note(done: int, row: EmbeddedRow | RejectedFilm) -> None:
            if isinstance(row, RejectedFilm):
                passed.rejected.append(row)
                return
            passed.rows.append(replace(row, prepared=None))
            geometry = encoder.geometry(*row.size)
            passed.boxes.append(geometry.to_input(row.regions.boxes))
            self.embedder.note(done)

        with whole_file(self.folder / f"{unit.name}{GRAY}") as stream:

            def prepare(film: Film) -> EmbeddedRow:
                row = prepare_film(
                    encoder,
                    film,
                    proposer.propose,
                    self.embedder.config.regions.min_visible,
                    batches.store,
                )
                seen = row.prepared.image if row.prepared else encoder.preprocess(film.pixels)
                stream.write(gray_levels(seen, encoder.info).tobytes())
                return row

            store_films(
                batches,
                zip(
                    unit.films.positions.tolist(),
                    self.embedder.reader.films(unit.films.films),
                    strict=True,
                ),
                prepare,
                part=unit.films.part,
                pieces=unit.films.names,
                note=note,
            )
        arrays = _arrays(passed, unit.films.positions, batches.find)
        told = {"rejected": json.dumps([[r.row, r.reason, r.message] for r in passed.rejected])}
        with whole_file(self.folder / f"{unit.name}{ARRAYS}") as stream:
            stream.write(save(arrays, metadata=told))
        return len(unit.films.positions)


def _arrays(
    passed: _Passed,
    positions: NDArray[np.int64],
    find: Callable[[bytes], tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> dict[str, NDArray[Any]]:
    rows, size = passed.rows, passed.info.embedding_size
    found = [find(row.key) for row in rows]
    nothing = np.empty((0, size), np.float32)
    no_box = np.empty((0, 4), np.float32)
    finite = [bool(np.isfinite(i).all() and np.isfinite(r).all()) for i, r in found]
    digests = b"".join(bytes.fromhex(row.film.digest) for row in rows)
    return {
        "position": np.array([positions[row.film.index] for row in rows], dtype=np.int64),
        "digest": np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32),
        "size": np.array([row.size for row in rows], dtype=np.int64).reshape(-1, 2),
        "count": np.array([len(row.regions) for row in rows], dtype=np.int64),
        "finite": np.array(finite, dtype=np.uint8),
        "box": np.concatenate([no_box, *(row.regions.boxes for row in rows)]).astype(np.float32),
        "input_box": np.concatenate([no_box, *passed.boxes]).astype(np.float32),
        "image": np.concatenate([nothing, *(image[None] for image, _ in found)]),
        "region": np.concatenate([nothing, *(regions for _, regions in found)]),
    }


def _require_files(paths: Sequence[Path], patience: float) -> None:
    """Refuse files that workers wrote where this process does not see them."""
    until = time.monotonic() + patience
    while missing := [path for path in paths if not path.is_file()]:
        if time.monotonic() >= until:
            raise ConfigError(
                f"cache.folder: {len(missing)} of {len(paths)} files of films that workers of the "
                "engine wrote are not seen by the run; expected one folder that all machines "
                "share. Name it in cache.folder, or set engine.kind to local."
            )
        time.sleep(0.5)


def _open_keeper(
    config: Config, model: Path | None, root: Path, folder: Path
) -> Callable[[_Unit], int]:
    """Open in a worker what it holds until its end; its reading processes end with it."""
    embedder = FilmEmbedder.of(config, open_model_of(config, model), root)
    opened = _HELD.enter_context(embedder.reader.kept_open())
    return _Keeper(replace(embedder, reader=opened), folder).keep


_HELD = ExitStack()
