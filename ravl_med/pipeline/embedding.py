"""Films of a cohort through its model, by the workers of an engine.

A worker reads films, cuts them into regions and puts inputs and embeddings into the store. Back
comes a table of films and regions without pixels; the run takes the embeddings from the store.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.film import FilmReader, reject_duplicate
from ravl_med.cohort.manifest import Cohort
from ravl_med.config.loading import Config
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.batches import BatchEncoder, encode_films, films_a_part, open_inputs
from ravl_med.encoders.embeddings import Embeddings, FilmTable
from ravl_med.encoders.film_store import FilmStore, input_key
from ravl_med.encoders.kept_films import ScratchFolder
from ravl_med.engine import Engine
from ravl_med.engine.local import Work
from ravl_med.errors import ConfigError, EngineError
from ravl_med.pipeline import stages
from ravl_med.regions.proposal import RegionProposer, choose_segmenter
from ravl_med.regions.segmenter import Segmenter
from ravl_med.storage.files import atomic_write

_MOST_PARTS = 4  # of a unit; a worker reads ahead within a unit
_UNITS_EACH = 4  # units of a worker at least, so that none waits long for the last
_PARTS_OF_TABLE = 2  # of the cohort in a table that is kept; each is about 256 films
_PATIENCE = 75.0  # seconds that network file systems take to show a file

Model = tuple[Encoder, Path | None]
"""An opened model, and the folder that workers open."""


@dataclass(frozen=True, slots=True, eq=False)
class FilmUnit:
    """Some films that a worker embeds at a time."""

    positions: NDArray[np.int64]  # (n,) in the cohort, ascending
    films: Cohort  # of these n films, without their reports
    proposer: RegionProposer  # of these films, without a segmenter
    part: int  # films of a part of the cohort, which makes one file
    names: Mapping[int, str]  # the parts of the cohort that these films are


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedUnit:
    """What has become of a unit."""

    table: FilmTable
    stores: tuple[str, ...]  # folders that the embeddings lie in
    recipe: str  # digest of all that they depend on, but for the films encoded at once
    size: int  # films encoded at once


@dataclass(slots=True)
class UnitTotals:
    """Where the embeddings of units lie, and the fewest films that were encoded at once."""

    size: int
    stores: dict[str, None] = field(default_factory=dict)

    def add(self, made: EmbeddedUnit) -> None:
        """Note a unit."""
        self.stores.update(dict.fromkeys(made.stores))
        self.size = min(self.size, made.size)


@dataclass(frozen=True, slots=True, eq=False)
class FilmEmbedder:
    """What a worker holds: the model, its store, and what reads films and finds regions."""

    batches: BatchEncoder
    reader: FilmReader
    segmenter: Segmenter | None  # where anatomy or artifacts are asked for
    min_visible: float
    # called with the number of films of the unit that have passed
    progress: Callable[[int], None] = lambda done: None

    @classmethod
    def of(cls, config: Config, batches: BatchEncoder) -> FilmEmbedder:
        """Return the embedder of a config, whose model is open."""
        regions = config.regions
        wanted = {"anatomy", "artifacts"} & set(regions.sources)
        segmenter = choose_segmenter(regions) if wanted else None
        return cls(batches, FilmReader.of(config.cohort), segmenter, regions.min_visible)

    def embed(self, unit: FilmUnit) -> EmbeddedUnit:
        """Put the films of a unit into the store."""
        table = encode_films(
            self.batches,
            zip(unit.positions.tolist(), self.reader.films(unit.films), strict=True),
            unit.proposer.with_segmenter(self.segmenter).with_reader(self.reader).propose,
            min_visible=self.min_visible,
            part=unit.part,
            pieces=unit.names,
            progress=self.progress,
        )
        stores = tuple(store.folder.name for store in self.batches.stores)
        return EmbeddedUnit(table, stores, self.batches.recipe, self.batches.size)


def open_batches(config: Config, encoder: Encoder, root: Path) -> BatchEncoder:
    """Open the stores of a config and its model, below a folder that all workers reach."""
    most = stages.most_regions(config.regions)
    return BatchEncoder(encoder, root, config.model.batch_size, most, stages.shared_root(config))


def make_units(
    config: Config, cohort: Cohort, proposer: RegionProposer, names: Mapping[int, str], parts: int
) -> list[FilmUnit]:
    """Cut the named parts of a cohort into units of so many parts; `proposer` is of all films."""
    numbers, size = sorted(names), films_a_part(config.model.batch_size)
    blank = replace(cohort, radiology_reports=("",) * len(cohort), rejected=())
    units = []
    for first in range(0, len(numbers), parts):
        own = numbers[first : first + parts]
        spans = [np.arange(n * size, min((n + 1) * size, len(cohort))) for n in own]
        positions = np.concatenate(spans).astype(np.int64)
        units.append(
            FilmUnit(
                positions,
                blank.keep(positions),
                proposer.of_films(positions.tolist()),
                size,
                {number: names[number] for number in own},
            )
        )
    return units


def parts_of_a_unit(engine: Engine, parts: int) -> int:
    """Return how many of the parts of a cohort a unit has; all for a run that has no workers."""
    if not engine.workers:
        return max(parts, 1)
    return min(max(parts // (_UNITS_EACH * engine.workers), 1), _MOST_PARTS)


def embed_units(
    engine: Engine,
    config: Config,
    folder: Path | None,  # of the model, as workers open it
    batches: BatchEncoder,  # of this process; its root is reached by every worker under this name
    units: Sequence[FilmUnit],
    progress: Callable[[int], None],  # called with the number of films that have passed
) -> Iterator[EmbeddedUnit]:
    """Let the workers of an engine embed units, and yield what has become of them, in order.

    Raises
    ------
    EngineError
        Workers died, or, once all is done, are not of one kind, so that bits would depend on who
        did what.
    """
    recipes: set[str] = set()
    passed = 0
    with ExitStack() as stack:

        def here() -> Callable[[FilmUnit], EmbeddedUnit]:
            own = FilmEmbedder.of(config, batches)
            reader = stack.enter_context(own.reader.kept_open())
            return replace(own, reader=reader, progress=lambda n: progress(passed + n)).embed

        work: Work[FilmUnit, EmbeddedUnit] = Work(
            open=partial(_open_embedder, config, folder, batches.root),
            here=here,
            threads=config.threads or 1,
            name="embedding of films and regions",
        )
        for unit, made in zip(units, engine.map(work, units), strict=True):
            recipes.add(made.recipe)
            passed += len(unit.positions)
            progress(passed)
            yield made
    if len(recipes) > 1:
        raise EngineError(
            f"engine: the workers are of {len(recipes)} kinds (device, threads or version of "
            "PyTorch), whose embeddings differ in their last bits; expected one kind. Set "
            "model.device, and install the same versions on every machine."
        )


def first_of_each(table: FilmTable, cohort: Cohort, seen: set[str]) -> NDArray[np.bool_]:
    """Return which films (n,) no earlier table had, and set the others aside as duplicates.

    `seen` holds the digests of the films before; those of this table are added.
    """
    keep = np.ones(len(table), dtype=np.bool_)
    positions = table.numbers[:, 0].tolist()
    for at, digest in enumerate(table.digests):
        if digest in seen:
            keep[at] = False
            table.rejected.append((positions[at], reject_duplicate(cohort, positions[at])))
        seen.add(digest)
    return keep


def embed_with(
    engine: Engine,
    config: Config,
    cohort: Cohort,
    model: Model,
    run: stages.Run,
    kept: KeptTables | None = None,
) -> Embeddings:
    """Read films once, and embed them and their regions by the workers of an engine.

    What the cache holds is taken from there, and it keeps the rest. Where tables are kept too,
    films of which there is one are not read again.

    Raises
    ------
    ConfigError
        Workers of other machines are to share a store, and this config keeps none, or they write to
        another one than this process reads.
    EngineError
        See `embed_units`.
    """
    encoder, folder = model
    scratch, root = _root_of(config, run, kept)
    names = dict(enumerate(stages.name_parts(config, cohort)))
    proposer = RegionProposer.of(config.regions, cohort)
    batches = open_batches(config, encoder, root)
    batches.store.publish()  # before hours of work, and for what a run that ended has left
    parts = _PARTS_OF_TABLE if kept else parts_of_a_unit(engine, len(names))
    units = make_units(config, cohort, proposer, names, parts)
    paths = [kept.path(encoder, unit) for unit in units] if kept else []
    tables = [_read_table(path, batches) for path in paths] or [None] * len(units)
    wanted = [unit for unit, table in zip(units, tables, strict=True) if table is None]
    before = len(cohort) - sum(len(unit.positions) for unit in wanted)
    stage = "embed films and regions" + (f", {kept.split}" if kept else "")
    made = embed_units(engine, config, folder, batches, wanted,
                       lambda done: run.progress(stage, before + done, len(cohort)))  # fmt: skip
    totals, joined = UnitTotals(config.model.batch_size), FilmTable()
    seen: set[str] = set()
    for at, table in enumerate(tables):
        if table is None:
            unit = next(made)
            totals.add(unit)
            table = unit.table
            if paths:
                paths[at].parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with atomic_write(paths[at]) as stream:
                    stream.write(table.dump())
        keep = first_of_each(table, cohort, seen)
        if at == 0 and keep.all():  # all there is, where there is one unit
            joined = table
        else:
            joined.extend(table, keep)
    next(made, None)  # it says now whether the workers were of one kind
    embeddings = _take_from_store(engine, config, batches, totals, joined, scratch, kept)
    return replace(
        embeddings,
        problems={**proposer.unmatched(), **embeddings.problems},
        halved_to=totals.size if totals.size < config.model.batch_size else 0,
    )


@dataclass(frozen=True, slots=True)
class KeptTables:
    """Where tables of the films of a split are kept beside the stores."""

    folder: Path  # of this run alone
    split: str

    def path(self, encoder: Encoder, unit: FilmUnit) -> Path:
        """Return the file of a unit: the same while its files, regions and model are."""
        recipe = (encoder.info.digest, encoder.info.region_pooling, *unit.names.values())
        name = hashlib.sha256(repr(recipe).encode()).hexdigest()[:24]
        return self.folder / self.split / f"{name}.safetensors"


def _root_of(
    config: Config, run: stages.Run, kept: KeptTables | None
) -> tuple[ScratchFolder | None, Path]:
    """Return the folder of the stores; where nothing is kept it goes with the embeddings."""
    root = stages.embeddings_root(config, run.cache)
    if root is None and kept is not None:
        root = kept.folder / "embeddings"
    if root is not None:
        return None, root
    if config.engine.address is not None:
        raise ConfigError(
            "engine.address: the workers of a cluster need a store that all of them reach; this "
            "config keeps no embeddings (cache.embeddings is false, or model.factory makes the "
            "model). Name a folder that they share in cache.folder, or a storage in cache.shared."
        )
    scratch = ScratchFolder()
    return scratch, scratch.path


def _read_table(path: Path, batches: BatchEncoder) -> FilmTable | None:
    """Read a table that is kept; None where there is none, or the stores lack one of its films."""
    table = FilmTable.load(path)
    if table is None or not all(key in batches.store for key in table.keys):
        return None
    return table if all(input_key(d) in batches.inputs for d in table.digests) else None


def _take_from_store(
    engine: Engine,
    config: Config,
    batches: BatchEncoder,
    totals: UnitTotals,
    table: FilmTable,
    scratch: ScratchFolder | None,
    kept: KeptTables | None,
) -> Embeddings:
    """Read the embeddings of a table, and find its inputs, which a mitigation needs."""
    info, stores, inputs = batches.encoder.info, batches.stores, batches.inputs
    if engine.workers:  # who have written there
        shared = stages.shared_root(config)
        stores = [
            *stores,
            *(
                FilmStore(
                    batches.root / name, info.embedding_size, shared and shared / name, info.answers
                )
                for name in totals.stores
            ),
        ]
        inputs = open_inputs(batches.encoder, batches.root)
    films = inputs.keep(table.digests)
    until = time.monotonic() + (_PATIENCE if engine.workers else 0.0)
    while kept is not None and films.missing():
        if time.monotonic() >= until:
            raise ConfigError(
                f"cache.folder: {films.missing()} of {len(films)} films that workers of the engine "
                "kept are not seen by the run; expected one folder that all machines share. Name "
                "it in cache.folder, or set engine.kind to local."
            )
        time.sleep(0.5)
        films = open_inputs(batches.encoder, batches.root).keep(table.digests)
    films.scratch = scratch

    def find(key: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return next(store for store in reversed(stores) if store.holds(key)).read(key)

    embeddings = table.gather(find, info.embedding_size, films, info.answers)
    if scratch is not None:  # they are not needed any more; the films are
        for store in stores:
            shutil.rmtree(store.folder, ignore_errors=True)
    return embeddings


def _open_embedder(
    config: Config, folder: Path | None, root: Path
) -> Callable[[FilmUnit], EmbeddedUnit]:
    """Open in a worker what it holds until its end; its reading processes end with it."""
    embedder = FilmEmbedder.of(
        config, open_batches(config, stages.open_model_of(config, folder), root)
    )
    opened = _HELD.enter_context(embedder.reader.kept_open())
    return replace(embedder, reader=opened).embed


_HELD = ExitStack()
