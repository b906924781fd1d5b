"""The films of one split as the audited model sees them: kept, embedded, searched for features.

Films of a split as `film_keeping` has left them in files, joined into one split.

Films of a split, read once by the workers of an engine and kept for a mitigation.

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
from safetensors import safe_open
from safetensors.numpy import save

from ravl_med.cohort.film import Film, FilmReader, reject_duplicate
from ravl_med.cohort.manifest import Cohort, read_manifest
from ravl_med.cohort.table import RejectedFilm
from ravl_med.config.loading import Config
from ravl_med.discovery.detector import nearest_medoids
from ravl_med.discovery.ravl import AuditData
from ravl_med.encoders.base import Encoder, EncoderInfo, using_threads
from ravl_med.encoders.batches import EmbeddedRow, films_a_part, prepare_film, store_films
from ravl_med.engine import Engine, opened_engine
from ravl_med.engine.local import Work
from ravl_med.errors import ConfigError
from ravl_med.evidence.disclosure_control import HIDDEN, hide_counts
from ravl_med.evidence.mitigation_result import SplitSummary
from ravl_med.evidence.results import ConfirmedFeature
from ravl_med.mitigation.fine_tuning_set import FilmShards, FilmStore, RegionTable, gray_levels
from ravl_med.mitigation.spurious_regions import find_features
from ravl_med.pipeline.embedding import FilmEmbedder, FilmUnit
from ravl_med.pipeline.stages import (
    Progress,
    embeddings_root,
    name_parts,
    open_model_of,
    require_films,
)
from ravl_med.regions.proposal import RegionProposer
from ravl_med.storage.cache import Cache
from ravl_med.storage.files import atomic_write
from ravl_med.storage.remote import FilePath

ARRAYS = ".safetensors"
"""Ending of the files with what is known of films; the second of the two of a unit."""

GRAY = ".gray"
"""Ending of the files with their gray levels."""

_JOINED: dict[str, NDArray[Any]] = {
    "position": np.empty(0, np.int64),
    "digest": np.empty((0, 32), np.uint8),
    "size": np.empty((0, 2), np.int64),
    "count": np.empty(0, np.int64),
    "box": np.empty((0, 4), np.float32),
    "input_box": np.empty((0, 4), np.float32),
}


@dataclass(frozen=True, slots=True, eq=False)
class KeptFilms:
    """N films of a split as they lie in files, with R regions.

    Attributes
    ----------
    files : tuple of Path - what is known of the films
    taken : tuple of ndarray of bool - films of each file that are among the N
    shards : FilmShards - gray levels of all films in the files
    rows : ndarray of shape (N,), int64 - those of the shards that are the N films
    positions : ndarray of shape (N,), int64 - in the cohort
    digests : tuple of str, length N - SHA-256 of the pixels
    sizes : ndarray of shape (N, 2), int64 - height and width of the stored matrix
    counts : ndarray of shape (N,), int64 - regions of each film
    boxes, input_boxes : ndarray of shape (R, 4), float32 - xyxy in stored and in input pixels
    rejected : tuple of RejectedFilm - those that could not be read, are there twice, or of which
        the model says NaN or infinity
    """

    files: tuple[Path, ...]
    taken: tuple[NDArray[np.bool_], ...]
    shards: FilmShards
    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
    digests: tuple[str, ...]
    sizes: NDArray[np.int64]
    counts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    input_boxes: NDArray[np.float32]
    rejected: tuple[RejectedFilm, ...]

    def region_parts(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield the embeddings (r, D) of some regions at a time, and which of the R they are."""
        start = 0
        for path, taken in zip(self.files, self.taken, strict=True):
            with safe_open(path, framework="numpy") as stored:
                regions = stored.get_tensor("region")[np.repeat(taken, stored.get_tensor("count"))]
            yield slice(start, start + len(regions)), regions
            start += len(regions)

    def images(self) -> NDArray[np.float32]:
        """Read the embeddings of all films, (N, D)."""
        parts = []
        for path, taken in zip(self.files, self.taken, strict=True):
            with safe_open(path, framework="numpy") as stored:
                parts.append(stored.get_tensor("image")[taken])
        images: NDArray[np.float32] = np.concatenate(parts)
        return images


def is_whole(path: Path, encoder: Encoder) -> bool:
    """Whether both files of a unit are there as they were written."""
    try:
        with safe_open(path, framework="numpy") as stored:
            films, regions = len(stored.get_tensor("position")), stored.get_tensor("count").sum()
            size = encoder.info.embedding_size
            alike = stored.get_slice("region").get_shape() == [int(regions), size]
        gray = path.with_suffix(GRAY).stat().st_size
    except Exception:  # not there; safetensors raises a type of its own for what is damaged
        return False
    return alike and gray == films * encoder.info.image_size**2


def join_files(cohort: Cohort, paths: Sequence[Path], side: int) -> KeptFilms:
    """Join files as one run would have read them: each digest is let through once."""
    seen: set[bytes] = set()
    taken: list[NDArray[np.bool_]] = []
    kept: dict[str, list[NDArray[Any]]] = {name: [like] for name, like in _JOINED.items()}
    rejected: list[RejectedFilm] = []
    for path in paths:
        with safe_open(path, framework="numpy") as stored:
            arrays = {name: stored.get_tensor(name) for name in (*kept, "finite")}
            told = json.loads(stored.metadata()["rejected"])
        rejected += [RejectedFilm(int(row), reason, text) for row, reason, text in told]
        own = np.ones(len(arrays["position"]), dtype=np.bool_)
        for at, position in enumerate(arrays["position"].tolist()):
            key = arrays["digest"][at].tobytes()
            if key in seen:
                rejected.append(reject_duplicate(cohort, position))
            elif not arrays["finite"][at]:
                rejected.append(_not_finite(cohort, position))
            own[at] = key not in seen and arrays["finite"][at]
            seen.add(key)
        of_region = np.repeat(own, arrays["count"])
        for name in kept:
            kept[name].append(arrays[name][of_region if name.endswith("box") else own])
        taken.append(own)
    joined = {name: np.concatenate(parts) for name, parts in kept.items()}
    gray = [path.with_suffix(GRAY) for path in paths]
    return KeptFilms(
        files=tuple(paths),
        taken=tuple(taken),
        shards=FilmShards(gray, [len(own) for own in taken], side),
        rows=np.flatnonzero(np.concatenate([np.empty(0, np.bool_), *taken])),
        positions=joined["position"],
        digests=tuple(digest.tobytes().hex() for digest in joined["digest"]),
        sizes=joined["size"],
        counts=joined["count"],
        boxes=joined["box"],
        input_boxes=joined["input_box"],
        rejected=tuple(rejected),
    )


def _not_finite(cohort: Cohort, position: int) -> RejectedFilm:
    row = int(cohort.rows[position])
    told = f"{cohort.name} row {row}: the model gives NaN or infinity for this film."
    return RejectedFilm(row, "not_finite", told)


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

        with atomic_write(self.folder / f"{unit.name}{GRAY}") as stream:

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
        with atomic_write(self.folder / f"{unit.name}{ARRAYS}") as stream:
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


@dataclass(frozen=True, slots=True, eq=False)
class SplitFilms:
    """N films of a split, with R regions.

    Attributes
    ----------
    cohort : Cohort - those that could be read; labels -1 where no task was given
    kept : KeptFilms - as the audited model sees them
    region_image : ndarray of shape (R,), int64 - film of each region, ascending
    regions : RegionTable - in input pixels
    """

    split: str
    cohort: Cohort
    films: FilmStore
    kept: KeptFilms
    region_image: NDArray[np.int64]
    regions: RegionTable

    def __len__(self) -> int:
        return len(self.cohort)

    def find(self, features: Sequence[ConfirmedFeature]) -> NDArray[np.bool_]:
        """Return which regions hold which feature, (R, F)."""
        found = np.zeros((len(self.region_image), len(features)), dtype=np.bool_)
        for part, regions in self.kept.region_parts():
            found[part] = find_features([f.detector for f in features], regions)
        return found

    def nearest(self, medoids: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the nearest of K medoids (K, D) of each region, (R,)."""
        nearest = np.empty(len(self.region_image), dtype=np.int64)
        for part, regions in self.kept.region_parts():
            nearest[part] = nearest_medoids(medoids, regions)
        return nearest

    def present(self, found: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which films hold a region of which feature, (N, F)."""
        there = np.zeros((len(self), found.shape[1]), dtype=np.bool_)
        np.logical_or.at(there, self.region_image, found)
        return there

    def images(self, predictions: NDArray[np.int64]) -> AuditData:
        """Return the films as counterfactuals want them."""
        return AuditData(
            classes=self.cohort.classes,
            labels=self.cohort.labels,
            predictions=predictions,
            patients=self.cohort.patients,
            sizes=self.kept.sizes,
            region_image=self.region_image,
            region_boxes=self.kept.boxes,
        )

    def summary(self, role: str, least: int, rows: NDArray[np.bool_] | None = None) -> SplitSummary:
        """Count films and patients, of some of the films where `rows` (N,) says so.

        Counts of fewer than `least` patients are hidden, see `small_cells`.
        """
        taken = np.ones(len(self), dtype=np.bool_) if rows is None else rows
        return summarise_split(
            role,
            self.cohort.labels[taken],
            self.cohort.patients[taken],
            self.cohort.classes,
            least,
        )


def summarise_split(
    role: str,
    labels: NDArray[np.int64],
    patients: NDArray[np.int64],
    classes: tuple[str, ...],
    least: int,
) -> SplitSummary:
    """Count films, patients and the films of each class; those of few patients are hidden.

    Parameters
    ----------
    role : str - what the films are for
    labels, patients : ndarray of shape (n,), int64
    least : int - smallest number of patients that may be told; 0 tells all
    """
    member = {name: labels == c for c, name in enumerate(classes)}
    total = len(np.unique(patients))
    return SplitSummary(
        role=role,
        films=len(labels),
        patients=HIDDEN if 0 < total < least else total,
        by_class=hide_counts(
            {name: int(own.sum()) for name, own in member.items()},
            {name: len(np.unique(patients[own])) for name, own in member.items()},
            least,
        ),
    )


def read_split(
    config: Config,
    manifest: FilePath,
    split: str,
    encoder: Encoder,
    reader: FilmReader,
    folder: Path,
    progress: Progress,
    *,
    labelled: bool = True,
    cache: Cache | None = None,
    model: Path | None = None,
    reports: bool = False,
) -> SplitFilms:
    """Read a split once: keep its films at the model's resolution and embed them.

    What an earlier call has kept of the same films in the same folder is found there.

    Parameters
    ----------
    encoder : Encoder - the audited model
    folder : Path - where the films are kept, in a folder of the split's name
    labelled : bool - films need a class by their label columns
    cache : Cache or None - of embeddings
    model : Path or None - folder of the audited model, for workers of the engine
    reports : bool - keep the radiology reports; else they are blank, since they take more memory
        than all else that is known of films

    Raises
    ------
    ConfigError, DataError, EngineError
    """
    listed = read_manifest(
        manifest,
        split=split,
        columns=config.task.columns() if labelled else None,
        labels=config.labels,
        unit=config.cohort.unit,
        roots=config.cohort.roots,
    )
    if not reports:
        listed = replace(listed, radiology_reports=("",) * len(listed))
    own = None if cache is None else embeddings_root(config, cache)
    with using_threads(config.threads), opened_engine(config) as engine:
        kept = keep_films(
            engine,
            config,
            listed,
            (encoder, model),
            reader,
            folder / "embeddings" if own is None else own,
            folder / split,
            lambda done: progress(f"embed films and regions, {split}", done, len(listed)),
        )
    cohort = listed.keep(kept.positions, kept.rejected)
    require_films(cohort, config.gate.max_rejected_fraction)
    region_image = np.repeat(np.arange(len(cohort), dtype=np.int64), kept.counts)
    info = encoder.info
    return SplitFilms(
        split,
        cohort,
        FilmStore(kept.shards, kept.rows, info.mean, info.std),
        kept,
        region_image,
        RegionTable.of(kept.input_boxes, region_image, len(cohort)),
    )
