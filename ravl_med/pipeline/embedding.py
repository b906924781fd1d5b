"""Embeddings made ahead of an audit, by one process or by several that share a cohort."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ravl_med.cache import Cache
from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import Cohort, RejectedFilm, read_manifest
from ravl_med.config import Config
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.fixed_batches import BatchEncoder
from ravl_med.encoders.precision import using_threads
from ravl_med.engine.opening import Engine, opened_engine
from ravl_med.errors import ConfigError
from ravl_med.pipeline.cohort_parts import embeddings_root, most_regions, name_parts, shared_root
from ravl_med.pipeline.film_units import UnitTotals, embed_units, join_rows, make_units
from ravl_med.pipeline.stages import Progress, open_model_of, prepare_manifest, prepare_model
from ravl_med.regions.proposal import RegionProposer
from ravl_med.storage.files import entries
from ravl_med.storage.remote_path import FilePath

__all__ = ["EmbeddingReport", "Shard", "embed", "listed_cohort", "require_root"]


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of a cohort a process takes: every `count`-th one.

    Attributes
    ----------
    number : int - 1 to `count`
    count : int
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``2/4``.

        Raises
        ------
        ConfigError
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(
                f"--shard must be i/N with i in the range [1, N], such as 2/4. Got {text[:20]!r} "
                "instead."
            )
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class EmbeddingReport:
    """What a process has done, and what others still have to do.

    Attributes
    ----------
    shard : Shard
    parts, parts_before : int - of this shard, and those of them that were done before
    parts_left : int - of the other shards, not done yet
    films, found, regions : int - films that were read now; those of them that were embedded before;
        their regions
    megabytes : float - of their files
    seconds : float - that they took
    rejected : mapping of reason to count - films that could not be read now
    halved_to : int - films encoded at once, where memory did not suffice for more; 0: it did
    """

    shard: Shard
    parts: int
    parts_before: int
    parts_left: int
    films: int
    found: int
    regions: int
    megabytes: float
    seconds: float
    rejected: Mapping[str, int]
    halved_to: int

    def lines(self) -> list[str]:
        """Return the report in lines."""
        told = [
            f"Shard {self.shard.number}/{self.shard.count}: {self.parts} parts of the cohort, "
            f"{self.parts_before} of them done before.",
            f"{self.films} films with {self.regions} regions read now, {self.found} of them "
            "embedded before.",
        ]
        if self.films and self.seconds > 0:
            told.append(
                f"{self.seconds:.0f} s: {self.films / self.seconds:.3g} films and "
                f"{self.megabytes / self.seconds:.3g} MB a second."
            )
        if self.rejected:
            reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(self.rejected.items()))
            told.append(f"Set aside: {reasons}.")
        if self.halved_to:
            told.append(
                f"Memory did not suffice: {self.halved_to} films are encoded at once "
                "(model.batch_size)."
            )
        told.append(
            f"{self.parts_left} parts are left to the other shards."
            if self.parts_left
            else "The cohort is complete: an audit finds all of it."
        )
        return told


def embed(
    config: Config,
    *,
    shard: Shard = Shard(),
    cache: Cache,
    progress: Progress = lambda stage, done, total: None,
) -> EmbeddingReport:
    """Embed a shard of the cohort of a config into the cache.

    An audit of the same config finds it there. A run that was ended goes on where it was; memory
    does not grow with the number of films.

    Parameters
    ----------
    config : Config
    shard : Shard
    cache : Cache
    progress : callable - called with (stage, done, total)

    Raises
    ------
    ConfigError, ModelError, DataError, StorageError
        With one clear line; ConfigError also where the config keeps no embeddings.
    """
    root = require_root(config, cache, "embed")
    reader = FilmReader.of(config.cohort)
    manifest = prepare_manifest(config, cache, progress)
    cohort = listed_cohort(config, manifest)
    with using_threads(config.threads), opened_engine(config) as engine:
        folder, _ = prepare_model(config, manifest, reader, cache, progress)
        model = (open_model_of(config, folder), folder)
        return _embed_parts(engine, config, cohort, model, root, shard, progress)


def require_root(config: Config, cache: Cache, verb: str) -> Path:
    """Return where embeddings are kept.

    Raises
    ------
    ConfigError
        They are not.
    """
    root = embeddings_root(config, cache)
    if root is None:
        raise ConfigError(
            f"{verb}: this config keeps no embeddings (cache.embeddings is false, or model.factory "
            "makes the model); expected one that does."
        )
    return root


def listed_cohort(config: Config, manifest: FilePath) -> Cohort:
    """Return the cohort of a config as its manifest lists it.

    Raises
    ------
    ConfigError, DataError, StorageError
        See `read_manifest`.
    """
    return read_manifest(
        manifest,
        split=config.cohort.split,
        columns=config.task.columns(),
        labels=config.labels,
        unit=config.cohort.unit,
        roots=config.cohort.roots,
    )


def _embed_parts(
    engine: Engine,
    config: Config,
    cohort: Cohort,
    model: tuple[Encoder, Path | None],
    root: Path,
    shard: Shard,
    progress: Progress,
) -> EmbeddingReport:
    shared = shared_root(config)
    batches = BatchEncoder(
        model[0], root, config.model.batch_size, most_regions(config.regions), shared
    )
    batches.store.publish()
    names = name_parts(config, cohort)
    done = batches.store.done(names)
    mine = [number for number in range(len(names)) if number % shard.count == shard.number - 1]
    wanted = {number: names[number] for number in mine if number not in done}
    proposer = RegionProposer.of(config.regions, cohort)
    units = make_units(engine, config, cohort, proposer, wanted)
    films = sum(len(unit.films) for unit in units)
    start = time.perf_counter()
    made = embed_units(
        engine,
        config,
        model,
        root,
        units,
        lambda passed: progress("embed films and regions", passed, films),
    )
    totals = UnitTotals(batches.size)
    rejected: Counter[str] = Counter()
    regions = file_bytes = 0
    for row in join_rows(cohort, units, totals.of(made)):
        if isinstance(row, RejectedFilm):
            rejected[row.reason] += 1
        else:
            regions += len(row.regions)
            file_bytes += row.film.file_bytes
    seconds = time.perf_counter() - start
    others = set(range(len(names))) - set(mine)
    return EmbeddingReport(
        shard=shard,
        parts=len(mine),
        parts_before=len(mine) - len(wanted),
        parts_left=len(
            {names[number] for number in others} - _listed(root, shared, totals, batches)
        ),
        films=films - rejected.total(),
        found=totals.found,
        regions=regions,
        megabytes=file_bytes / 1e6,
        seconds=seconds,
        rejected=dict(rejected),
        halved_to=totals.size if totals.size < config.model.batch_size else 0,
    )


def _listed(
    root: Path, shared: FilePath | None, totals: UnitTotals, batches: BatchEncoder
) -> set[str]:
    """Parts that are done, by this process or on the device of the workers, wherever they lie."""
    stores = {*totals.stores, batches.store.folder.name}
    places = [place / name for place in (root, shared) if place is not None for name in stores]
    return {name for place in places for name in entries(place / "listed")}
