"""Where a mitigation works until its run folder is written, and what every stage of it needs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray

from ravl_med import __version__
from ravl_med.config.loading import Config
from ravl_med.config.runtime import EngineConfig
from ravl_med.encoders.base import Encoder
from ravl_med.errors import ConfigError
from ravl_med.evidence.results import ConfirmedFeature
from ravl_med.mitigation.distributed import Processes
from ravl_med.mitigation.spurious_regions import PseudoGroups
from ravl_med.pipeline.embedding import Model
from ravl_med.pipeline.split_films import SplitFilms, read_split
from ravl_med.pipeline.stages import Run
from ravl_med.reporting.files.run_folder import config_text
from ravl_med.storage.cache import Cache
from ravl_med.storage.files import atomic_write, sweep_drafts
from ravl_med.storage.remote import FilePath

_LOCK, _RUN = "lock", "run-id"
_PATIENCE = 75.0  # seconds that network file systems take to show a file, or to let go of a lock
_UNNAMED = "none"  # what torchrun calls a run that nobody has named


@dataclass(frozen=True, slots=True, eq=False)
class WorkFolder:
    """Folder of a mitigation, which all of its processes reach."""

    # films at the model's resolution, checkpoints and the new model; the first process writes
    # there, or workers that it has sent
    folder: Path
    lock: BinaryIO | None = None  # held while this run is at work

    def remove(self) -> None:
        """Take the folder away, once the run is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.lock is not None:
            self.lock.close()


def open_work_folder(
    config: Config, cache: Cache, processes: Processes, *, resume: bool
) -> WorkFolder:
    """Return the folder of a mitigation, in the cache and readable by the owner alone.

    Called by the first process. What an interrupted run of the same config left is kept where
    `resume` asks for it, and where `torchrun` has started the run again after a process or a node
    was lost.

    Raises
    ------
    ConfigError
        Another run is at work there, or some processes do not see the folder.
    """
    folder = cache.open_kind("mitigations") / _digest(config)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    restarted = max(processes.ask(_restarts)) > 0
    run = os.environ.get("TORCHELASTIC_RUN_ID", _UNNAMED)
    same = run != _UNNAMED and _read(folder / _RUN) == run
    with ExitStack() as stack:
        waits = _PATIENCE if restarted or same else 0.0
        lock = stack.enter_context(_take(folder / _LOCK, waits))
        if not (resume or restarted or same):
            for path in folder.iterdir():
                if path.name != _LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        sweep_drafts(folder)
        with atomic_write(folder / _RUN) as stream:
            stream.write(run.encode())
        _require_shared(folder, processes)
        stack.pop_all()  # the lock is held as long as the run
    return WorkFolder(folder, lock)


def torchrun_starts_again() -> bool:
    """Whether `torchrun` would start this process again if it ended with another code than 0."""
    return os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") not in ("", "0")


def _digest(config: Config) -> str:
    """Digest of what the outcome depends on."""
    settings = config.model_copy(
        update={
            "engine": EngineConfig(),
            "mitigation": config.mitigation.model_copy(update={"gradient_checkpointing": False}),
        }
    )
    text = f"{__version__} {config_text(settings, show_paths=True)}"
    manifest = config.cohort.manifest
    if manifest is not None and manifest.is_file():  # other rows are another run
        text += hashlib.sha256(manifest.read_bytes()).hexdigest()
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _restarts(fabric: Fabric) -> int:
    """How often `torchrun` has started the processes of this machine again."""
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return int(count) if count.isdecimal() else 0


def _take(path: Path, patience: float) -> BinaryIO:
    """Take the lock of a folder; it goes with this process, however that ends."""
    stream = path.open("ab")
    path.chmod(0o600)
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return stream
        except BlockingIOError:
            if time.monotonic() >= until:
                stream.close()
                raise ConfigError(
                    "mitigate: another run of the same config is at work in cache.folder; expected "
                    "one at a time. Wait for it, or name another folder (--set cache.folder=DIR)."
                ) from None
            time.sleep(0.5)
        except OSError:  # a file system without locks
            return stream


def _require_shared(folder: Path, processes: Processes) -> None:
    """Refuse a folder that only some of the processes see."""
    token = secrets.token_hex(16)
    mark = folder / f"seen-{token}"
    with atomic_write(mark) as stream:
        stream.write(token.encode())
    seen = processes.ask(partial(_sees, mark, token))
    mark.unlink(missing_ok=True)
    if not all(seen):
        raise ConfigError(
            f"cache.folder: {seen.count(False)} of {len(seen)} processes do not see the folder in "
            "which the first one keeps films, checkpoints and the model; expected one that all "
            "nodes share. Name it in cache.folder."
        )


def _sees(path: Path, token: str, fabric: Fabric) -> bool:
    until = time.monotonic() + _PATIENCE
    while _read(path) != token:
        # The first process itself sees it at once; another one may be on a network file system.
        if fabric.global_rank == 0 or time.monotonic() >= until:
            return False
        time.sleep(0.5)
    return True


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What every stage of a mitigation needs."""

    config: Config
    run: Run
    work: WorkFolder
    manifest: FilePath
    # the audited one, and its folder; None where the config alone says how it is opened
    model: Model
    start: Path  # folder of the audited model
    classes: NDArray[np.float32]  # (C, D) class texts, unit norm
    features: tuple[ConfirmedFeature, ...] = ()  # what is mitigated, once it is chosen

    @property
    def encoder(self) -> Encoder:
        """The audited model, opened."""
        return self.model[0]

    def read(self, split: str, *, labelled: bool = True, reports: bool = False) -> SplitFilms:
        """Read a split, see `read_split`."""
        return read_split(
            self.config,
            self.manifest,
            split,
            self.model,
            self.run,
            self.work.folder,
            labelled=labelled,
            reports=reports,
        )


@dataclass(frozen=True, slots=True, eq=False)
class ExploredFilms:
    """The films of the audit, and which of them are of its discovery half."""

    films: SplitFilms
    half: NDArray[np.bool_]  # (N,)

    def groups(self, features: Sequence[ConfirmedFeature]) -> PseudoGroups:
        """Return classes crossed with the presence of any of the features."""
        cohort, films = self.films.cohort, self.films
        present = np.asarray(films.present(films.find(features)).any(axis=1))
        return PseudoGroups.cross(cohort.labels, present, cohort.classes)
