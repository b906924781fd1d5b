"""Films of the other splits, whose pixels are compared with those of the audited ones.

Patients and files that stand in two splits are found in the manifest. A film that was copied,
encoded anew or given to another patient is found by its pixels alone, so that those of the other
splits are read once; the cache keeps what is known of them, 160 bytes a film.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.film import Film, FilmReader
from ravl_med.cohort.manifest import Cohort, list_split, splits_beside
from ravl_med.cohort.near_duplicates import SKETCH_BYTES, SketchIndex
from ravl_med.config.loading import Config
from ravl_med.encoders.embeddings import Embeddings
from ravl_med.pipeline.stages import Run
from ravl_med.storage.files import for_each, stamp
from ravl_med.storage.remote import FilePath

_KIND = "sketches"
_PART = 256  # films of a file of the cache
_ROW = 32 + SKETCH_BYTES  # SHA-256 of the pixels, and the sketch


def find_films_elsewhere(
    config: Config, manifest: FilePath, cohort: Cohort, embeddings: Embeddings, run: Run
) -> Cohort:
    """Return a cohort of N films that knows which of their pixels, or nearly, another split has."""
    left, beyond = config.cohort.compared_films, 0
    elsewhere = dict(cohort.elsewhere)
    if config.cohort.synthetic is not None:  # phantoms of two splits are never one
        return cohort
    reader = FilmReader.of(config.cohort)
    for split in splits_beside(manifest, config.cohort.split):
        others = list_split(manifest, split, config.cohort.roots)
        beyond += max(len(others) - left, 0)
        others = others.keep(np.arange(min(len(others), left)))
        left -= len(others)
        found = _found_in(others, reader, embeddings, run)
        known = elsewhere.get(f"split {split}", np.zeros(len(cohort), dtype=np.bool_))
        if found.any():
            elsewhere[f"split {split}"] = known | found
    return replace(cohort, elsewhere=elsewhere, not_compared=beyond)


def _found_in(
    others: Cohort, reader: FilmReader, embeddings: Embeddings, run: Run
) -> NDArray[np.bool_]:
    """Find the films (N,) of which the same or nearly the same is among others."""
    index = SketchIndex(embeddings.sketches)
    of_digest = {bytes.fromhex(digest): at for at, digest in enumerate(embeddings.digests)}
    same = np.zeros(len(embeddings.digests), dtype=np.bool_)
    done = 0
    for rows in _read_rows(others, reader, run):
        digests = rows[:, :32]
        same[[of_digest[d] for d in map(bytes, digests) if d in of_digest]] = True
        index.look_up(rows[:, 32:])
        done = min(done + _PART, len(others))
        run.progress("compare with other splits", done, len(others))
    return same | index.found


def _read_rows(others: Cohort, reader: FilmReader, run: Run) -> Iterator[NDArray[np.uint8]]:
    """Yield digest and sketch (n, 160) of the films of each part; of unreadable ones nothing."""
    settings = hashlib.sha256(reader.reading.model_dump_json(exclude={"workers"}).encode())
    stamps = for_each(stamp, iter(others.paths))
    with reader.kept_open() as opened:
        for start in range(0, len(others), _PART):
            positions = np.arange(start, min(start + _PART, len(others)))
            hasher = settings.copy()
            for at in positions.tolist():
                frame = others.frames[at] if others.frames else None
                hasher.update(f"{frame} {next(stamps)}\n".encode())
            name = hasher.hexdigest()[:24]
            content = run.cache.recall(_KIND, name)
            if content is None:
                content = b"".join(
                    bytes.fromhex(film.digest) + film.sketch
                    for film in opened.films(others.keep(positions))
                    if isinstance(film, Film)
                )
                run.cache.keep(_KIND, name, content)
            yield np.frombuffer(content, np.uint8).reshape(-1, _ROW)
