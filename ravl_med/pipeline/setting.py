"""What every stage of a mitigation needs once it is settled what is mitigated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med.cache import Cache
from ravl_med.cohort.film import FilmReader
from ravl_med.config import Config
from ravl_med.encoders.base import Encoder
from ravl_med.evidence.claims import ConfirmedFeature
from ravl_med.pipeline.stages import Progress
from ravl_med.pipeline.work_folder import WorkFolder

__all__ = ["Setting", "staged"]


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What every stage after the audit needs.

    Attributes
    ----------
    config : Config
    start : Path - folder of the audited model
    model : Path or None - the same, or None where the config alone says how it is opened
    encoder : Encoder - the audited model
    reader : FilmReader
    classes : ndarray of shape (C, D), float32 - class texts, unit norm
    features : tuple of ConfirmedFeature - what is mitigated
    work : WorkFolder
    cache : Cache - of embeddings
    progress : callable - called with (stage, done, total)
    """

    config: Config
    start: Path
    model: Path | None
    encoder: Encoder
    reader: FilmReader
    classes: NDArray[np.float32]
    features: tuple[ConfirmedFeature, ...]
    work: WorkFolder
    cache: Cache
    progress: Progress

    def texts(self) -> torch.Tensor:
        """Return the class texts as a tensor."""
        return torch.from_numpy(self.classes)


def staged(progress: Progress, stage: str) -> Callable[[int, int], None]:
    """Return a progress within a stage: called with (done, total)."""
    return lambda done, total: progress(stage, done, total)
