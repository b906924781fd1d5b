"""Embeddings made ahead of an audit by processes that share a cohort, and joined into one cache."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import Cohort
from ravl_med.config.loading import Config
from ravl_med.encoders.base import using_threads
from ravl_med.encoders.batches import BatchEncoder, read_size
from ravl_med.encoders.film_store import FilmStore, part_number
from ravl_med.engine import Engine, opened_engine
from ravl_med.errors import ConfigError, DataError
from ravl_med.pipeline import stages
from ravl_med.pipeline.embedding import (
    Model,
    UnitTotals,
    embed_units,
    first_of_each,
    make_units,
    open_batches,
    parts_of_a_unit,
)
from ravl_med.regions.proposal import RegionProposer
from ravl_med.storage.cache import Cache
from ravl_med.storage.files import entries, naming_path
from ravl_med.storage.remote import FilePath, RemotePath, is_url

_MERGED = "a folder that this user may read. What has come is whole: merge again."


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of a cohort a process takes: every `count`-th one."""

    number: int = 1  # 1 to `count`
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
    """What a process has done, and what others still have to do."""

    shard: Shard
    parts: int  # of this shard
    parts_before: int  # those of them that were done before
    parts_left: int  # of the other shards, not done yet
    films: int  # that were read now
    found: int  # those of them that were embedded before
    regions: int  # of all that were read
    megabytes: float  # of their files
    seconds: float  # that they took
    rejected: Mapping[str, int]  # films that could not be read now
    halved_to: int  # films encoded at once, where memory did not suffice for more; 0: it did

    @property
    def reasons(self) -> str:
        """Why films were set aside, and how many."""
        return ", ".join(f"{reason} {n}" for reason, n in sorted(self.rejected.items()))

    def lines(self) -> list[str]:
        """Return the report in lines."""
        lines = [
            f"Shard {self.shard.number}/{self.shard.count}: {self.parts} parts of the cohort, "
            f"{self.parts_before} of them done before.",
            f"{self.films} films with {self.regions} regions read now, {self.found} of them "
            "embedded before.",
        ]
        if self.films and self.seconds > 0:
            lines.append(
                f"{self.seconds:.0f} s: {self.films / self.seconds:.3g} films and "
                f"{self.megabytes / self.seconds:.3g} MB a second."
            )
        if self.rejected:
            lines.append(f"Set aside: {self.reasons}.")
        if self.halved_to:
            lines.append(
                f"Not enough memory: {self.halved_to} films are encoded at a time "
                "(model.batch_size)."
            )
        lines.append(
            f"{self.parts_left} parts are left to the other shards."
            if self.parts_left
            else "The cohort is complete: an audit finds all of it."
        )
        return lines


def embed(
    config: Config,
    *,
    shard: Shard = Shard(),
    cache: Cache,
    progress: stages.Progress = lambda stage, done, total: None,
) -> EmbeddingReport:
    """Embed a shard of the cohort of a config into the cache.

    An audit of the same config finds it there. A run that was ended goes on where it was; memory
    does not grow with the number of films.

    Raises
    ------
    ConfigError, ModelError, DataError, StorageError
        With one clear line; ConfigError also where the config keeps no embeddings.
    """
    root = require_root(config, cache, "embed")
    reader = FilmReader.of(config.cohort)
    run = stages.Run(cache, progress)
    manifest = stages.prepare_manifest(config, run)
    cohort, most = stages.list_films(config, manifest), config.gate.max_rejected_fraction
    stages.require_films(cohort, most)
    with (
        using_threads(config.threads),
        opened_engine(config.engine, config.model.device, config.threads) as engine,
    ):
        folder, _ = stages.prepare_model(config, manifest, reader, run)
        model = (stages.open_model_of(config, folder), folder)
        report = _embed_parts(engine, config, cohort, model, root, shard, run)
    lost, listed = sum(report.rejected.values()), len(cohort) + len(cohort.rejected)
    if lost == len(cohort) or lost + len(cohort.rejected) > most * listed:
        raise DataError(
            f"{cohort.name}: {lost} of {listed} films cannot be used ({report.reasons}); expected "
            f"at most {100 * most:g} % (gate.max_rejected_fraction), else no audit begins."
        )
    return report


def require_root(config: Config, cache: Cache, verb: str) -> Path:
    """Return where embeddings are kept.

    Raises
    ------
    ConfigError
        They are not.
    """
    root = stages.embeddings_root(config, cache)
    if root is None:
        raise ConfigError(
            f"{verb}: this config keeps no embeddings (cache.embeddings is false, or model.factory "
            "makes the model); expected one that does."
        )
    return root


def _embed_parts(
    engine: Engine,
    config: Config,
    cohort: Cohort,
    model: Model,
    root: Path,
    shard: Shard,
    run: stages.Run,
) -> EmbeddingReport:
    batches = open_batches(config, model[0], root)
    batches.store.publish()
    names = stages.name_parts(config, cohort)
    done = batches.store.done(names)
    own = [number for number in range(len(names)) if number % shard.count == shard.number - 1]
    wanted = {number: names[number] for number in own if number not in done}
    proposer = RegionProposer.of(config.regions, cohort)
    parts = parts_of_a_unit(engine, len(wanted))
    units = make_units(config, cohort, proposer, wanted, parts)
    films = sum(len(unit.films) for unit in units)
    start = time.perf_counter()
    totals, seen = UnitTotals(batches.size), set[str]()
    rejected: Counter[str] = Counter()
    found = regions = file_bytes = 0
    for made in embed_units(
        engine,
        config,
        model[1],
        batches,
        units,
        lambda passed: run.progress("embed films and regions", passed, films),
    ):
        totals.add(made)
        numbers = made.table.numbers[first_of_each(made.table, cohort, seen)]
        found += made.table.found
        regions += int(numbers[:, 3].sum())
        file_bytes += int(numbers[:, 5].sum())
        rejected.update(film.reason for _, film in made.table.rejected)
    seconds = time.perf_counter() - start
    others = {names[number] for number in set(range(len(names))) - set(own)}
    return EmbeddingReport(
        shard=shard,
        parts=len(own),
        parts_before=len(own) - len(wanted),
        parts_left=len(others - _listed(root, stages.shared_root(config), totals, batches)),
        films=films - rejected.total(),
        found=found,
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


_KIND, _LISTED = "embeddings", "listed"


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What has come, and what is still missing."""

    folders: int  # that were merged
    parts: int  # of the cohort
    before: int  # those of them that were here
    came: int  # those that came now
    missing: tuple[int, ...]  # numbers of the parts that are not here, from 0
    shards: int  # that the cohort was cut into
    # files that were left out: number of the folder, of the file in it, and how many it has
    damaged: tuple[tuple[int, int, int], ...]
    # folders that are not used: so many films at once as theirs did not fit everywhere
    other_size: tuple[int, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, and nothing was left out."""
        return not self.missing and not self.damaged

    def lines(self) -> list[str]:
        """Return the report in lines."""
        lines = [
            f"{self.folders} folders merged: {self.came} parts of the cohort came, {self.before} "
            f"were here; {self.parts - len(self.missing)} of {self.parts} are here now."
        ]
        for folder, file, files in self.damaged:
            lines.append(f"FOLDER {folder}: file {file} of {files} is damaged; it was left out.")
        for folder in self.other_size:
            lines.append(
                f"FOLDER {folder}: encoded more films at once than fitted into memory elsewhere "
                "(model.batch_size); not used."
            )
        if not self.missing:
            return [*lines, "The cohort is complete: an audit finds all of it."]
        again = sorted({number % self.shards + 1 for number in self.missing})
        shards = ", ".join(f"{number}/{self.shards}" for number in again)
        lines.append(
            f"{len(self.missing)} parts are missing. Run these shards again (ravl-med embed "
            f"--shard) and merge them, or let an audit do it: {shards}."
        )
        return lines


@dataclass(frozen=True, slots=True)
class _Source:
    """A folder that was merged: where its stores lie, and which of them are of this config."""

    number: int
    place: FilePath
    recipes: tuple[str, ...]
    fitting: int


def merge(
    config: Config,
    folders: Sequence[str],  # paths or URLs of caches, or of what `cache.shared` named
    *,
    shards: int | None = None,  # that the cohort was cut into; None: one for each folder
    cache: Cache,
    progress: stages.Progress = lambda stage, done, total: None,
) -> MergeReport:
    """Join what shards have put into other caches into the cache of a config, and its shared twin.

    Nothing is taken where one of the folders is of another model or other settings. Doing it again
    changes nothing.

    Raises
    ------
    ConfigError, ModelError, DataError, StorageError
        With one clear line; ConfigError also where a folder holds no embeddings, or those of
        something else.
    """
    if shards is not None and shards < 1:
        raise ConfigError(f"--shards must be an int in the range [1, inf). Got {shards} instead.")
    root, run = require_root(config, cache, "merge"), stages.Run(cache, progress)
    manifest = stages.prepare_manifest(config, run)
    cohort = stages.list_films(config, manifest)
    with using_threads(config.threads):  # which embeddings depend on
        reader = FilmReader.of(config.cohort)
        folder, _ = stages.prepare_model(config, manifest, reader, run)
        batches = open_batches(config, stages.open_model_of(config, folder), root)
        return _merge(config, folders, shards or len(folders), cohort, batches, run)


def _merge(
    config: Config,
    folders: Sequence[str],
    shards: int,
    cohort: Cohort,
    batches: BatchEncoder,
    run: stages.Run,
) -> MergeReport:
    names, size = stages.name_parts(config, cohort), config.model.batch_size
    sources = [
        _look(_place_of(config, text, number), number, batches, size, set(names))
        for number, text in enumerate(folders, start=1)
    ]
    batches.shrink_to(min(source.fitting for source in sources))
    stores = {store.folder.name: store for store in batches.stores}
    before = batches.store.done(names)
    damaged = list(_take(sources, stores, names, run.progress))
    for store in stores.values():
        store.publish()
    missing = tuple(sorted(set(range(len(names))) - batches.store.done(names)))
    return MergeReport(
        folders=len(sources),
        parts=len(names),
        before=len(before),
        came=len(names) - len(missing) - len(before),
        missing=missing,
        shards=shards,
        damaged=tuple(damaged),
        other_size=tuple(
            source.number for source in sources if batches.store.folder.name not in source.recipes
        ),
    )


def _place_of(config: Config, text: str, number: int) -> FilePath:
    role = f"FOLDER {number}"
    if not is_url(text):
        return Path(text)
    try:
        return RemotePath.parse(text, config.storage.access(), role)
    except ValueError as error:
        raise ConfigError(f"{role}: {error}.") from None


def _look(
    folder: FilePath, number: int, batches: BatchEncoder, largest: int, names: Collection[str]
) -> _Source:
    """Find the stores of this config in a folder; refuse one that is of something else."""
    place = folder / _KIND
    with naming_path(f"FOLDER {number}", _MERGED):
        found = entries(place)
    if not any(size is None for size in found.values()):
        raise ConfigError(
            f"FOLDER {number} holds no embeddings; expected a cache.folder or cache.shared that "
            "ravl-med embed has filled. Nothing was merged."
        )
    sizes = [largest]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    recipes = tuple(name for name in map(batches.folder_of, sizes) if name in found)
    with naming_path(f"FOLDER {number}", _MERGED):
        listed = {piece for name in recipes for piece in entries(place / name / _LISTED)}
    if not recipes or (listed and not listed & set(names)):
        what = "films, regions" if recipes else "model, device, threads"
        raise ConfigError(
            f"FOLDER {number} holds embeddings of another model or settings; expected those that "
            f"this config makes on a machine like this one (other {what} or versions?). Nothing "
            "was merged."
        )
    fitting = read_size(place / batches.size_note, largest)
    return _Source(number, place, recipes, fitting)


def _take(
    sources: Sequence[_Source],
    stores: dict[str, FilmStore],
    names: Sequence[str],
    progress: stages.Progress,
) -> Iterator[tuple[int, int, int]]:
    """Take files and notes that are not here; yield where a damaged file lies."""
    numbers = {name: number for number, name in enumerate(names)}
    for done, source in enumerate(sources):
        progress("merge folders", done, len(sources))
        for recipe in source.recipes:
            if recipe not in stores:
                continue
            store, place = stores[recipe], source.place / recipe
            with naming_path(f"FOLDER {source.number}", _MERGED):
                files = sorted(name for name in entries(place) if part_number(name) is not None)
            here = {path.name for path in store.files()}
            bad = [
                at
                for at, name in enumerate(files, start=1)
                if name not in here and not store.adopt(name, _content(place / name, source))
            ]
            yield from ((source.number, at, len(files)) for at in bad)
            left_out = {part_number(files[at - 1]) for at in bad}
            for piece in sorted(set(entries(place / _LISTED)) & set(names) - store.listed_here()):
                if numbers[piece] not in left_out:
                    store.list_done(piece)
    progress("merge folders", len(sources), len(sources))


def _content(file: FilePath, source: _Source) -> bytes:
    """Read a file of another store; blank where it has gone."""
    try:
        with naming_path(f"FOLDER {source.number}", _MERGED):
            return file.read_bytes()
    except FileNotFoundError:
        return b""
