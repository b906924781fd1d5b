"""Films as units of work: what a worker holds, what it is sent, and what comes back of it.

A worker reads films, cuts them into regions and puts their embeddings into the store. Back come the
films and regions without pixels; the run takes the embeddings from the store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.film import Film, FilmReader, reject_duplicate
from ravl_med.cohort.manifest import Cohort
from ravl_med.cohort.table import RejectedFilm
from ravl_med.config.loading import Config
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.batches import (
    BatchEncoder,
    EmbeddedRow,
    films_a_part,
    prepare_film,
    store_films,
)
from ravl_med.encoders.embedding_store import EmbeddingStore
from ravl_med.encoders.embeddings import EmbeddedColumns, Embeddings
from ravl_med.engine import Engine
from ravl_med.engine.local import Work
from ravl_med.errors import ConfigError, EngineError
from ravl_med.pipeline.stages import (
    Progress,
    embeddings_root,
    most_regions,
    name_parts,
    open_model_of,
    shared_root,
)
from ravl_med.regions.proposal import RegionProposer, choose_segmenter
from ravl_med.regions.segmenter import Segmenter
from ravl_med.storage.cache import Cache

_MOST_PARTS = 4  # of a unit; a worker reads ahead within a unit
_UNITS_EACH = 4  # units of a worker at least, so that none waits long for the last


@dataclass(frozen=True, slots=True, eq=False)
class FilmUnit:
    """Some films that a worker embeds at a time.

    Attributes
    ----------
    positions : ndarray of shape (n,), int64 - in the cohort, ascending
    films : Cohort - of these n films, without their reports
    proposer : RegionProposer - of these films, without a segmenter
    part : int - films of a part of the cohort, which makes one file
    """

    positions: NDArray[np.int64]
    films: Cohort
    proposer: RegionProposer
    part: int
    names: Mapping[int, str]


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedUnit:
    """What has become of a unit.

    Attributes
    ----------
    stores : tuple of str - folders that the embeddings lie in
    recipe : str - digest of all that they depend on, but for the films encoded at once
    found : int - films that were embedded before
    size : int - films encoded at once
    """

    rows: tuple[EmbeddedRow | RejectedFilm, ...]
    stores: tuple[str, ...]
    recipe: str
    found: int
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class FilmEmbedder:
    """What a worker holds: the model, its store, and what reads films and finds regions.

    Attributes
    ----------
    segmenter : Segmenter or None - where anatomy or artifacts are asked for
    note : callable - called with the number of films of the unit that have passed
    """

    config: Config
    encoder: Encoder
    batches: BatchEncoder
    reader: FilmReader
    segmenter: Segmenter | None
    note: Callable[[int], None] = lambda done: None

    @classmethod
    def of(
        cls,
        config: Config,
        encoder: Encoder,
        root: Path,
        note: Callable[[int], None] = lambda done: None,
    ) -> FilmEmbedder:
        """Return an embedder with a model that is open; embeddings are kept below `root`."""
        regions, size = config.regions, config.model.batch_size
        wanted = {"anatomy", "artifacts"} & set(regions.sources)
        return cls(
            config,
            encoder,
            BatchEncoder(encoder, root, size, most_regions(regions), shared_root(config)),
            FilmReader.of(config.cohort),
            choose_segmenter(regions) if wanted else None,
            note,
        )

    def embed(self, unit: FilmUnit) -> EmbeddedUnit:
        """Put the films of a unit into the store."""
        proposer = unit.proposer.with_segmenter(self.segmenter)
        rows: list[EmbeddedRow | RejectedFilm] = []

        def keep(done: int, row: EmbeddedRow | RejectedFilm) -> None:
            rows.append(replace(row, prepared=None) if isinstance(row, EmbeddedRow) else row)
            self.note(done)

        def prepare(film: Film) -> EmbeddedRow:
            return prepare_film(
                self.encoder,
                film,
                proposer.propose,
                self.config.regions.min_visible,
                self.batches.store,
            )

        found = store_films(
            self.batches,
            zip(unit.positions.tolist(), self.reader.films(unit.films), strict=True),
            prepare,
            part=unit.part,
            pieces=unit.names,
            note=keep,
        )
        stores = tuple(store.folder.name for store in self.batches.stores)
        return EmbeddedUnit(tuple(rows), stores, self.batches.recipe, found, self.batches.size)


def make_units(
    engine: Engine,
    config: Config,
    cohort: Cohort,
    proposer: RegionProposer,
    names: Mapping[int, str],
) -> list[FilmUnit]:
    """Cut parts of a cohort into units; one for a run that has no workers.

    Parameters
    ----------
    proposer : RegionProposer - of the whole cohort
    names : mapping of part number to name - the parts that are wanted
    """
    numbers = sorted(names)
    each = len(numbers)
    if engine.workers:
        each = min(max(len(numbers) // (_UNITS_EACH * engine.workers), 1), _MOST_PARTS)
    size = films_a_part(config.model.batch_size)
    told = replace(cohort, radiology_reports=("",) * len(cohort), rejected=())
    units = []
    for first in range(0, len(numbers), max(each, 1)):
        mine = numbers[first : first + each]
        spans = [np.arange(n * size, min((n + 1) * size, len(cohort))) for n in mine]
        positions = np.concatenate(spans).astype(np.int64)
        units.append(
            FilmUnit(
                positions,
                told.keep(positions),
                proposer.of_films(positions.tolist()),
                size,
                {number: names[number] for number in mine},
            )
        )
    return units


def embed_units(
    engine: Engine,
    config: Config,
    model: tuple[Encoder, Path | None],
    root: Path,
    units: Sequence[FilmUnit],
    progress: Callable[[int], None],
) -> Iterator[EmbeddedUnit]:
    """Let the workers of an engine embed units, and yield what has become of them, in order.

    Parameters
    ----------
    model : tuple of Encoder and Path or None - opened, and the folder that workers open
    root : Path - of the stores; every worker reaches it under this name
    progress : callable - called with the number of films that have passed

    Raises
    ------
    EngineError
        Workers died, or, once all is done, are not of one kind, so that bits would depend on who
        did what.
    """
    encoder, folder = model
    work: Work[FilmUnit, EmbeddedUnit] = Work(
        open=partial(_open_embedder, config, folder, root),
        here=lambda: FilmEmbedder.of(config, encoder, root, progress).embed,
        threads=config.threads or 1,
        name="embedding of films and regions",
    )
    recipes: set[str] = set()
    passed = 0
    for made in engine.map(work, units):
        recipes.add(made.recipe)
        passed += len(made.rows)
        progress(passed)
        yield made
    if len(recipes) > 1:
        raise EngineError(
            f"engine: the workers are of {len(recipes)} kinds (device, threads or version of "
            "PyTorch), whose embeddings differ in their last bits; expected one kind. Set "
            "model.device, and install the same versions on every machine."
        )


@dataclass(slots=True)
class UnitTotals:
    """What is told of units as they pass, each of which is forgotten then.

    Attributes
    ----------
    stores : dict - folders that the embeddings lie in, in the order in which they were named
    found : int - films that were embedded before
    size : int - films encoded at once: the fewest that a unit was left with
    """

    size: int
    stores: dict[str, None] = field(default_factory=dict)
    found: int = 0

    def of(self, made: Iterable[EmbeddedUnit]) -> Iterator[EmbeddedUnit]:
        """Note each unit, and hand it on."""
        for unit in made:
            self.stores.update(dict.fromkeys(unit.stores))
            self.found += unit.found
            self.size = min(self.size, unit.size)
            yield unit


def embed_with(
    engine: Engine,
    config: Config,
    cohort: Cohort,
    model: tuple[Encoder, Path | None],
    cache: Cache,
    progress: Progress,
) -> Embeddings:
    """Embed the films of a cohort and their regions with the workers of an engine.

    Parameters
    ----------
    model : tuple of Encoder and Path or None - opened, and the folder that workers open
    cache : Cache - what it holds is taken from there, and it keeps the rest

    Raises
    ------
    ConfigError
        Workers of other machines are to share a store, and this config keeps none.
    EngineError
        See `embed_units`.
    """
    kept = embeddings_root(config, cache)
    if kept is None and config.engine.address is not None:
        raise ConfigError(
            "engine.address: the workers of a cluster need a store that all of them reach; this "
            "config keeps no embeddings (cache.embeddings is false, or model.factory makes the "
            "model). Name a folder that they share in cache.folder, or a storage in cache.shared."
        )
    proposer = RegionProposer.of(config.regions, cohort)
    names = dict(enumerate(name_parts(config, cohort)))
    units = make_units(engine, config, cohort, proposer, names)
    size, shared = model[0].info.embedding_size, shared_root(config)
    with nullcontext(kept) if kept is not None else tempfile.TemporaryDirectory() as place:
        root = Path(place)
        if shared is not None:  # before hours of work, and for what a run that ended has left
            most = most_regions(config.regions)
            BatchEncoder(model[0], root, config.model.batch_size, most, shared).store.publish()
        made = embed_units(
            engine,
            config,
            model,
            root,
            units,
            lambda done: progress("embed films and regions", done, len(cohort)),
        )
        totals, columns = UnitTotals(config.model.batch_size), EmbeddedColumns()
        for row in join_rows(cohort, units, totals.of(made)):
            columns.add(row)
        stores = [
            EmbeddingStore(root / name, size, shared and shared / name) for name in totals.stores
        ]
        embeddings = columns.gather(
            lambda key: next(store for store in reversed(stores) if key in store).read(key), size
        )
    return replace(
        embeddings,
        problems={**proposer.unmatched(), **embeddings.problems},
        found=totals.found,
        halved_to=totals.size if totals.size < config.model.batch_size else 0,
    )


def join_rows(
    cohort: Cohort, units: Sequence[FilmUnit], made: Iterable[EmbeddedUnit]
) -> Iterator[EmbeddedRow | RejectedFilm]:
    """Yield the films of units as one run would have read them: each digest is let through once.

    Parameters
    ----------
    cohort : Cohort - the whole of it
    made : iterable of EmbeddedUnit - of the same
    """
    seen: set[str] = set()
    for unit, done in zip(units, made, strict=True):
        for position, row in zip(unit.positions.tolist(), done.rows, strict=True):
            if isinstance(row, RejectedFilm):
                yield row
            elif row.film.digest in seen:
                yield reject_duplicate(cohort, position)
            else:
                seen.add(row.film.digest)
                yield replace(row, film=replace(row.film, index=position))


def _open_embedder(
    config: Config, folder: Path | None, root: Path
) -> Callable[[FilmUnit], EmbeddedUnit]:
    """Open in a worker what it holds until its end; its reading processes end with it."""
    embedder = FilmEmbedder.of(config, open_model_of(config, folder), root)
    opened = _HELD.enter_context(embedder.reader.kept_open())
    return replace(embedder, reader=opened).embed


_HELD = ExitStack()
