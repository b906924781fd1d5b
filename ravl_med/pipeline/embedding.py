"""Embeddings made ahead of an audit, by one process or by several that share a cohort."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ravl_med.cache import Cache
from ravl_med.cohort.film import Film, FilmReader
from ravl_med.cohort.manifest import Cohort, RejectedFilm, read_manifest
from ravl_med.config import Config
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.fixed_batches import BatchEncoder
from ravl_med.encoders.precision import using_threads
from ravl_med.encoders.stored_films import EmbeddedRow, films_a_part, prepare_film, store_films
from ravl_med.errors import ConfigError
from ravl_med.pipeline.cohort_parts import embeddings_root, most_regions, name_parts
from ravl_med.pipeline.stages import Progress, open_model_of, prepare_manifest, prepare_model
from ravl_med.regions.proposal import RegionProposer

__all__ = ["EmbeddingReport", "Shard", "embed"]


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
    ConfigError, ModelError, DataError
        With one clear line; ConfigError also where the config keeps no embeddings.
    """
    root = embeddings_root(config, cache)
    if root is None:
        raise ConfigError(
            "embed: this config keeps no embeddings (cache.embeddings is false, or model.factory "
            "makes the model); expected one that does."
        )
    reader = FilmReader.of(config.cohort)
    manifest = prepare_manifest(config, cache, progress)
    cohort = read_manifest(
        manifest,
        split=config.cohort.split,
        columns=config.task.columns(),
        labels=config.labels,
        unit=config.cohort.unit,
        roots=config.cohort.roots,
    )
    folder, _ = prepare_model(config, manifest, reader, cache, progress)
    with using_threads(config.model.threads):
        encoder = open_model_of(config, folder)
        batches = BatchEncoder(encoder, root, config.model.batch_size, most_regions(config.regions))
        return _embed_parts(config, cohort, reader, encoder, batches, shard, progress)


def _embed_parts(
    config: Config,
    cohort: Cohort,
    reader: FilmReader,
    encoder: Encoder,
    batches: BatchEncoder,
    shard: Shard,
    progress: Progress,
) -> EmbeddingReport:
    names = dict(enumerate(name_parts(config, cohort)))
    done = {number for number, name in names.items() if batches.store.is_listed(name)}
    mine = [number for number in names if number % shard.count == shard.number - 1]
    part = films_a_part(config.model.batch_size)
    wanted = [number for number in mine if number not in done]
    positions = np.concatenate(
        [np.empty(0, np.int64), *(np.arange(n * part, (n + 1) * part) for n in wanted)]
    )
    positions = positions[positions < len(cohort)]
    proposer = RegionProposer.of(config.regions, cohort)
    rejected: Counter[str] = Counter()
    regions = 0

    def note(passed: int, row: EmbeddedRow | RejectedFilm) -> None:
        nonlocal regions
        progress("embed films and regions", passed, len(positions))
        if isinstance(row, RejectedFilm):
            rejected[row.reason] += 1
        else:
            regions += len(row.regions)

    found = store_films(
        batches,
        _films_at(reader, cohort, positions),
        lambda film: prepare_film(
            encoder, film, proposer.propose, config.regions.min_visible, batches.store
        ),
        part=part,
        pieces=names,
        note=note,
    )
    halved = batches.size < config.model.batch_size
    return EmbeddingReport(
        shard=shard,
        parts=len(mine),
        parts_before=len(mine) - len(wanted),
        parts_left=len(set(names) - set(mine) - done),
        films=len(positions) - rejected.total(),
        found=found,
        regions=regions,
        rejected=dict(rejected),
        halved_to=batches.size if halved else 0,
    )


def _films_at(
    reader: FilmReader, cohort: Cohort, positions: NDArray[np.int64]
) -> Iterator[tuple[int, Film | RejectedFilm]]:
    """Read some films of a cohort; each knows its place in the whole of it."""
    films = reader.films(cohort.keep(positions))
    for position, film in zip(positions.tolist(), films, strict=True):
        yield position, replace(film, index=position) if isinstance(film, Film) else film
