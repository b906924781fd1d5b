"""Embeddings that shards have put into folders of their own, joined into the cache of a config."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ravl_med.cache import Cache
from ravl_med.cohort.film import FilmReader
from ravl_med.config import Config
from ravl_med.encoders.embedding_store import EmbeddingStore
from ravl_med.encoders.fixed_batches import BatchEncoder, read_size
from ravl_med.encoders.precision import using_threads
from ravl_med.encoders.shared_embeddings import part_number
from ravl_med.errors import ConfigError
from ravl_med.pipeline.cohort_parts import most_regions, name_parts, shared_root
from ravl_med.pipeline.embedding import listed_cohort, require_root
from ravl_med.pipeline.stages import Progress, open_model_of, prepare_manifest, prepare_model
from ravl_med.storage.files import entries
from ravl_med.storage.remote_path import FilePath, RemotePath, is_url

__all__ = ["MergeReport", "merge"]

_KIND, _LISTED = "embeddings", "listed"


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What has come, and what is still missing.

    Attributes
    ----------
    folders : int - that were merged
    parts, before, came : int - of the cohort; those that were here; those that came
    missing : tuple of int - numbers of the parts that are not here, from 0
    shards : int - that the cohort was cut into
    damaged : tuple of (folder, file, files) - a file that was left out: number of its folder, its
        own in there, and how many there are
    other_size : tuple of int - numbers of folders whose films were encoded so many at once as did
        not fit everywhere; they are not used
    """

    folders: int
    parts: int
    before: int
    came: int
    missing: tuple[int, ...]
    shards: int
    damaged: tuple[tuple[int, int, int], ...]
    other_size: tuple[int, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, and nothing was left out."""
        return not self.missing and not self.damaged

    def lines(self) -> list[str]:
        """Return the report in lines."""
        told = [
            f"{self.folders} folders merged: {self.came} parts of the cohort came, {self.before} "
            f"were here; {self.parts - len(self.missing)} of {self.parts} are here now."
        ]
        for folder, file, files in self.damaged:
            told.append(f"FOLDER {folder}: file {file} of {files} is damaged; it was left out.")
        for folder in self.other_size:
            told.append(
                f"FOLDER {folder}: encoded more films at once than fitted into memory elsewhere "
                "(model.batch_size); not used."
            )
        if not self.missing:
            return [*told, "The cohort is complete: an audit finds all of it."]
        again = sorted({number % self.shards + 1 for number in self.missing})
        shards = ", ".join(f"{number}/{self.shards}" for number in again)
        told.append(
            f"{len(self.missing)} parts are missing. Run these shards again (ravl-med embed "
            f"--shard) and merge them, or let an audit do it: {shards}."
        )
        return told


@dataclass(frozen=True, slots=True)
class _Source:
    """A folder that was merged: where its stores lie, and which of them are of this config."""

    number: int
    place: FilePath
    recipes: tuple[str, ...]
    fitting: int


def merge(
    config: Config,
    folders: Sequence[str],
    *,
    shards: int | None = None,
    cache: Cache,
    progress: Progress = lambda stage, done, total: None,
) -> MergeReport:
    """Join what shards have put into other caches into the cache of a config, and its shared twin.

    Nothing is taken where one of the folders is of another model or other settings. Doing it again
    changes nothing.

    Parameters
    ----------
    config : Config
    folders : sequence of str - paths or URLs of caches, or of what `cache.shared` named
    shards : int or None - that the cohort was cut into; None: one for each folder
    cache : Cache
    progress : callable - called with (stage, done, total)

    Raises
    ------
    ConfigError, ModelError, DataError, StorageError
        With one clear line; ConfigError also where a folder holds no embeddings, or those of
        something else.
    """
    if shards is not None and shards < 1:
        raise ConfigError(f"--shards must be an int in the range [1, inf). Got {shards} instead.")
    root = require_root(config, cache, "merge")
    manifest = prepare_manifest(config, cache, progress)
    cohort = listed_cohort(config, manifest)
    with using_threads(config.threads):
        reader = FilmReader.of(config.cohort)
        folder, _ = prepare_model(config, manifest, reader, cache, progress)
        encoder = open_model_of(config, folder)
        size, most = config.model.batch_size, most_regions(config.regions)
        batches = BatchEncoder(encoder, root, size, most, shared_root(config))
    names = name_parts(config, cohort)
    sources = [
        _look(_place_of(config, text, number), number, batches, size, set(names))
        for number, text in enumerate(folders, start=1)
    ]
    batches.shrink_to(min(source.fitting for source in sources))
    stores = {store.folder.name: store for store in batches.stores}
    before = batches.store.done(names)
    damaged = list(_take(sources, stores, names, progress))
    for store in stores.values():
        store.publish()
    missing = tuple(sorted(set(range(len(names))) - batches.store.done(names)))
    return MergeReport(
        folders=len(sources),
        parts=len(names),
        before=len(before),
        came=len(names) - len(missing) - len(before),
        missing=missing,
        shards=shards or len(sources),
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
    with _reading(number):
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
    with _reading(number):
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
    stores: dict[str, EmbeddingStore],
    names: Sequence[str],
    progress: Progress,
) -> Iterator[tuple[int, int, int]]:
    """Take files and notes that are not here; yield where a damaged file lies."""
    numbers = {name: number for number, name in enumerate(names)}
    for done, source in enumerate(sources):
        progress("merge folders", done, len(sources))
        for recipe in source.recipes:
            if recipe not in stores:
                continue
            store, place = stores[recipe], source.place / recipe
            with _reading(source.number):
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
        with _reading(source.number):
            return file.read_bytes()
    except FileNotFoundError:
        return b""


@contextmanager
def _reading(number: int) -> Iterator[None]:
    """Name what keeps a folder of this machine from being read; FileNotFoundError stays."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(
            f"FOLDER {number}: cannot be read ({error.strerror or type(error).__name__}); expected "
            "a folder that this user may read. What has come is whole: merge again."
        ) from None
