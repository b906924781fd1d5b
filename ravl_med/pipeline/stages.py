"""Stages that audit and mitigation share, and the run that they are part of.

The embeddings of a cohort are made and kept in parts, which are named by their films.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med import __version__
from ravl_med.cohort.dicom_header import Edge
from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import Cohort, read_manifest
from ravl_med.cohort.table import RejectedFilm
from ravl_med.config.cohort import RegionsConfig
from ravl_med.config.loading import Config
from ravl_med.encoders.base import Encoder, in_precision, pick_device
from ravl_med.encoders.batches import films_a_part
from ravl_med.encoders.embeddings import Embeddings
from ravl_med.encoders.generative import open_generative
from ravl_med.encoders.local_files import fetch_model
from ravl_med.encoders.opening import open_encoder
from ravl_med.encoders.questions import Questions
from ravl_med.errors import ConfigError, DataError
from ravl_med.mitigation.quickstart import (
    GenerativeTask,
    cached_quickstart_model,
    comes_trained,
    shipped_model,
)
from ravl_med.regions.film_structures import FilmStructures, KeptStructures, read_structures
from ravl_med.regions.proposal import choose_segmenter
from ravl_med.regions.region_set import window_names
from ravl_med.regions.segmenter import Segmenter
from ravl_med.storage.cache import Cache, open_cache
from ravl_med.storage.files import for_each, stamp
from ravl_med.storage.remote import FilePath, RemotePath

_KIND = "embeddings"


def embeddings_root(config: Config, cache: Cache) -> Path | None:
    """Return where embeddings are kept; None where they are not.

    Those of a model that code makes are not: only that code knows whether it is still the same.
    """
    kept = config.cache.embeddings and config.model.factory is None
    return cache.root / _KIND if kept else None


def shared_root(config: Config) -> FilePath | None:
    """Return where embeddings are put that other machines take; None where they are not."""
    kept = config.cache.shared is not None and config.model.factory is None
    return config.cache.shared / _KIND if kept and config.cache.shared is not None else None


def most_regions(config: RegionsConfig) -> int:
    """Return how many regions a film can have."""
    tiles = config.tiles[0] * config.tiles[1]
    most = tiles if "tiles" in config.sources else 0
    if "windows" in config.sources:
        windows = config.windows
        most += sum(len(window_names(side, windows.step)) for side in windows.sides)
    if set(config.sources) - {"tiles", "windows"}:
        most += config.max_per_image
    return max(most, tiles)  # a film without any region takes tiles


def name_parts(config: Config, cohort: Cohort) -> tuple[str, ...]:
    """Name the parts of a cohort by its files, and by how they are read and cut into regions.

    A file counts as the same while its path, size and time of change are, or its entity tag where
    it is an object; its pixels are not read.

    Raises
    ------
    ConfigError, StorageError
        Films lie in a storage that denies access, or does not answer.
    """
    settings = hashlib.sha256(config.regions.model_dump_json().encode())
    settings.update(config.cohort.model_dump_json(exclude={"workers"}).encode())
    if {"anatomy", "artifacts"} & set(config.regions.sources):
        settings.update(choose_segmenter(config.regions).digest.encode())
    if config.regions.annotations is not None:
        settings.update(stamp(config.regions.annotations).encode())
    own = cohort.annotations or ((),) * len(cohort)
    files = zip(cohort.paths, own, strict=True)
    stamps = for_each(stamp, (file for film, more in files for file in (film, *more)))
    names = []
    part = films_a_part(config.model.batch_size)
    for start in range(0, len(cohort), part):
        hasher = settings.copy()
        for film in range(start, min(start + part, len(cohort))):
            frame = cohort.frames[film] if cohort.frames else None
            files_of_film = [next(stamps) for _ in range(1 + len(own[film]))]
            hasher.update(f"{frame} {files_of_film}\n".encode())
        names.append(hasher.hexdigest()[:32])
    return tuple(names)


Progress = Callable[[str, int, int], None]

_HELD_FILMS = 64  # whose anatomy and artifacts are kept, 2 MB each


@dataclass(slots=True)
class Clock:
    """Seconds by stage, and what was done in them."""

    seconds: dict[str, float] = field(default_factory=dict)
    done: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def note(self, stage: str, **amounts: float) -> None:
        """Note what a stage does, such as ``films=1200, megabytes=430.0``."""
        self.done[stage] = amounts

    def throughput(self) -> dict[str, dict[str, float]]:
        """Return, of each stage that has noted it, what it did in a second."""
        return {
            stage: {
                f"{unit}_per_s": float(f"{amount / self.seconds[stage]:.4g}")
                for unit, amount in amounts.items()
            }
            for stage, amounts in self.done.items()
            if self.seconds.get(stage, 0.0) > 0
        }


@dataclass(frozen=True, slots=True)
class Run:
    """What every stage of a run is given: who hears of progress, the clock, the cache, the key."""

    cache: Cache  # of synthetic cohorts, models and embeddings
    progress: Progress = lambda stage, done, total: None
    clock: Clock = field(default_factory=Clock)
    key: bytes = b""  # secret of the pseudonyms

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time a stage."""
        return self.clock.stage(name)

    def staged(self, stage: str) -> Callable[[int, int], None]:
        """Return the progress within a stage: called with (done, total)."""
        return partial(self.progress, stage)


def prepare_manifest(config: Config, run: Run, *, whole: bool = False) -> FilePath:
    """Return the path of the manifest; a synthetic cohort is made first when the cache lacks it.

    Of one whose model comes trained only the films that an audit reads are made, unless it is to be
    whole; the manifest lists them all.
    """
    if config.cohort.manifest is not None:
        return config.cohort.manifest
    from ravl_med.phantoms.cohort import synthesize

    synthetic = config.cohort.synthetic
    assert synthetic is not None  # the config demands one of the two
    recipe = {"version": __version__, **synthetic.model_dump()}
    splits, own = None, config.cohort.split
    if own and not whole and comes_trained(config) and not run.cache.holds("cohorts", recipe):
        recipe["splits"] = splits = [own]

    def make(folder: Path) -> None:
        synthesize(
            folder, splits=splits, **synthetic.model_dump(), progress=run.staged("synthesize films")
        )

    folder, _ = run.cache.folder("cohorts", recipe, make)
    return folder / "manifest.csv"


def list_films(
    config: Config, manifest: FilePath, split: str | None = None, *, labelled: bool = True
) -> Cohort:
    """List the films of a manifest with their labels: those of a split, or that a config audits."""
    return read_manifest(
        manifest,
        split=split or config.cohort.split,
        columns=config.task.columns() if labelled else None,
        labels=config.labels,
        unit=config.cohort.unit,
        roots=config.cohort.roots,
        trained_on=config.model.trained_on,
    )


def prepare_model(
    config: Config, manifest: FilePath, reader: FilmReader, run: Run
) -> tuple[Path | None, bool]:
    """Return the folder of the model, and whether it was there before.

    The quickstart model is trained first when neither the package nor the cache has it; what lies
    in a storage is fetched into the cache. A checkpoint of this machine, or what code makes, has no
    folder; of a checkpoint that was fetched its file is returned.
    """
    if config.model.quickstart is None:
        return _model_here(config, None, run.cache), False
    if comes_trained(config):
        return shipped_model(run.cache), True
    asked = questions_of(config)
    task = None if asked is None else GenerativeTask(asked, config.task.columns())
    return cached_quickstart_model(
        config.model.quickstart, manifest, reader, run.cache, run.progress, task
    )


def questions_of(config: Config) -> Questions | None:
    """Return what the model is asked; None where it is scored by cosines."""
    asked = config.model.answers
    return None if asked is None else Questions(asked, config.task.texts())


def open_model_of(config: Config, folder: Path | None) -> Encoder:
    """Open the model of a config, on its device and in its precision.

    Parameters
    ----------
    folder : Path or None - as `prepare_model` returns it; where that was on another machine, a
        model that lies in a storage is fetched to this one

    Raises
    ------
    ConfigError
        This machine does not have the device.
    ModelError
        The model does not open.
    """
    device = pick_device(config.model.device)
    lacking = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if lacking:
        raise ConfigError(
            f"model.device is {config.model.device!r}, which this machine does not have; expected "
            "auto or cpu here."
        )
    place = _model_here(config, folder, open_cache(config.cache.folder))
    asked = questions_of(config)
    if asked is None:
        return in_precision(open_encoder(config.model, place, device), config.model.precision)
    assert place is not None  # the config demands a folder
    return open_generative(
        place, device, asked, precision=config.model.precision, allow_code=config.model.allow_code
    )


def _model_here(config: Config, folder: Path | None, cache: Cache) -> Path | None:
    """Return where the model lies on this machine; None where it is no folder."""
    if folder is not None and folder.exists():
        return folder
    for place in (config.model.path, config.model.weights):
        if isinstance(place, RemotePath):
            return fetch_model(place, cache)
    return folder or (config.model.path if isinstance(config.model.path, Path) else None)


def films_not_finite(listed: Cohort, embeddings: Embeddings) -> tuple[RejectedFilm, ...]:
    """Return the films for which the model gives NaN or infinity, as set aside."""
    return tuple(
        RejectedFilm(
            row := int(listed.rows[i]),
            "not_finite",
            f"{listed.name} row {row}: the model gives NaN or infinity for this film.",
        )
        for i in embeddings.not_finite
    )


def headers_wanted(config: Config) -> bool | None:
    """Return what DICOM headers add to the attributes; the manifest of phantoms says all."""
    return False if config.cohort.manifest is None else config.cohort.attributes_from_header


def require_films(cohort: Cohort, max_rejected: float) -> None:
    """Refuse a cohort without a usable film, or with more than `max_rejected` of them set aside.

    Raises
    ------
    DataError
    """
    rejected = Counter(film.reason for film in cohort.rejected)
    tried = len(cohort) + rejected.total()
    if len(cohort) and rejected.total() <= max_rejected * tried:
        return
    reasons = rejected if len(cohort) else rejected + Counter(cohort.left_out)
    counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    if len(cohort):
        raise DataError(
            f"{cohort.name}: {rejected.total()} of {tried} films cannot be used ({counts}); "
            f"expected at most {100 * max_rejected:g} % (gate.max_rejected_fraction). First: "
            f"{cohort.rejected[0].message}"
        )
    first = f" First: {cohort.rejected[0].message}" if cohort.rejected else ""
    raise DataError(
        f"{cohort.name}: none of its {cohort.listed} rows can be audited ({counts}); expected "
        f"readable films with a label.{first}"
    )


def require_classes(cohort: Cohort, least: int, split: str | None) -> None:
    """Refuse films of a split with fewer than `least` of a class; none has to be read for that.

    Raises
    ------
    DataError
    """
    counts = np.bincount(cohort.labels, minlength=len(cohort.classes)).tolist()
    few = [
        f"{name} ({count})"
        for name, count in zip(cohort.classes, counts, strict=True)
        if count < least
    ]
    if not few:
        return
    where = cohort.name if split is None else f"{cohort.name}, split {split}"
    left_out = ", ".join(f"{reason} {n}" for reason, n in cohort.left_out.items())
    raise DataError(
        f"{where}: too few films of {', '.join(few)}; expected at least {least} of each class "
        f"(gate.min_films). Of {cohort.listed} rows {len(cohort)} count"
        f"{f' (left out: {left_out})' if left_out else ''}. Add films, choose other classes, or "
        "lower gate.min_films."
    )


def digest_cohort(films: tuple[str, ...], labels: NDArray[np.int64]) -> str:
    """Return the SHA-256 over the digests of films and their labels, whatever their order."""
    digest = hashlib.sha256()
    for film, label in sorted(zip(films, labels.tolist(), strict=True)):
        digest.update(f"{film} {label}\n".encode())
    return digest.hexdigest()


def structure_reader(
    segmenter: Segmenter,
    read_pixels: Callable[[int], NDArray[np.float32]],
    left_edges: Sequence[Edge] = (),
    cache: Cache | None = None,
    held: int | None = _HELD_FILMS,
) -> Callable[[int], FilmStructures]:
    """Return what finds anatomy and artifacts of a film; those of the last films are held, or all.

    `read_pixels` returns (H, W), float32 in [0, 1]; `left_edges` are the patient's sides there, of
    each film, if any are stated. A cache keeps what was found.
    """
    find: Callable[..., FilmStructures] = (
        partial(read_structures, segmenter)
        if cache is None
        else KeptStructures(segmenter, cache).read
    )

    @lru_cache(maxsize=held)
    def read(film: int) -> FilmStructures:
        return find(read_pixels(film), left_edge=left_edges[film] if left_edges else "")

    return read
