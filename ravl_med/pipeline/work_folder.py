"""Where a mitigation works until its run folder is written."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from lightning_fabric import Fabric

from ravl_med import __version__
from ravl_med.cache import Cache
from ravl_med.config import Config
from ravl_med.reporting.files.run_folder import config_text

__all__ = ["WorkFolder", "open_work_folder"]


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """Folders of a mitigation.

    Attributes
    ----------
    shared : Path - of all processes: checkpoints and the new model, which the first one writes
    own : Path - of this process: films at the model's resolution
    """

    shared: Path
    own: Path


def open_work_folder(config: Config, cache: Cache, fabric: Fabric, *, resume: bool) -> WorkFolder:
    """Return the folders of a mitigation, in the cache and readable by the owner alone.

    Parameters
    ----------
    config : Config - what an interrupted run is told by
    cache : Cache
    fabric : Fabric
    resume : bool - keep what an interrupted run left; else it is thrown away
    """
    text = f"{__version__} {config_text(config, show_paths=True)}"
    manifest = config.cohort.manifest
    if manifest is not None and manifest.is_file():  # other rows are another run
        text += hashlib.sha256(manifest.read_bytes()).hexdigest()
    digest = hashlib.sha256(text.encode()).hexdigest()[:24]
    shared = cache.open_kind("mitigations") / digest
    if fabric.global_rank == 0:
        if not resume:
            shutil.rmtree(shared, ignore_errors=True)
        shared.mkdir(mode=0o700, parents=True, exist_ok=True)
    fabric.barrier()
    own = shared / f"process-{fabric.global_rank}"
    own.mkdir(mode=0o700, exist_ok=True)
    return WorkFolder(shared, own)
