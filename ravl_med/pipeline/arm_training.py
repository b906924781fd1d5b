"""The training of an arm as a job: what each process needs to do its part of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from ravl_med.config import ArmName, MitigationConfig, RegionPooling
from ravl_med.mitigation.arms import ARMS
from ravl_med.mitigation.pseudo_groups import PseudoGroups
from ravl_med.mitigation.set_files import open_set
from ravl_med.mitigation.training import SelectionFilms, TrainedArm, train_arm

__all__ = ["ArmTraining"]


@dataclass(frozen=True, slots=True, eq=False)
class ArmTraining:
    """What is sent to the processes of a training; large things are files that each of them opens.

    Attributes
    ----------
    name : str - of `ARMS`
    start : Path - folder of the audited model
    films : Path - folder of the set to fine-tune on
    groups : tuple of str, length C - classes, which pseudo-groups are made of
    selection : SelectionFilms
    classes : ndarray of shape (C, D), float32 - class texts, unit norm
    config : MitigationConfig
    region_pooling : {"one_pass", "last_stage", "crops"}
    checkpoint : Path
    """

    name: ArmName
    start: Path
    films: Path
    groups: tuple[str, ...]
    selection: SelectionFilms
    classes: NDArray[np.float32]
    config: MitigationConfig
    region_pooling: RegionPooling
    checkpoint: Path

    def __call__(
        self,
        fabric: Fabric,
        progress: Callable[[int, int, str], None] = lambda done, total, told: None,
    ) -> TrainedArm:
        """Train the arm in this process, together with the others.

        Raises
        ------
        ConfigError, DataError, EngineError, ModelError
            See `open_set` and `train_arm`.
        """
        films = open_set(self.films)
        return train_arm(
            ARMS[self.name],
            self.start,
            films,
            PseudoGroups.cross(films.labels, films.present, self.groups),
            self.selection,
            torch.from_numpy(self.classes),
            self.config,
            fabric,
            region_pooling=self.region_pooling,
            checkpoint=self.checkpoint,
            progress=progress,
        )
