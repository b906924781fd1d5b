"""One arm from the audited model to its own: train, choose the epoch, and answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from ravl_med.config import MitigationConfig, RegionPooling
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.gradient_checkpointing import checkpoint_gradients
from ravl_med.encoders.opening import open_folder
from ravl_med.evidence.mitigation_result import LearningCurve
from ravl_med.mitigation.answers import ask_films
from ravl_med.mitigation.arms import Arm, ImageTower, Lesson, Weights
from ravl_med.mitigation.fine_tuning_set import FilmStore, FineTuningSet
from ravl_med.mitigation.pseudo_groups import PseudoGroups, select_by_groups
from ravl_med.mitigation.trainer import Curve, Recipe, Selection, fit

__all__ = ["SelectionFilms", "TrainedArm", "recipe_of", "train_arm", "weights_of"]


@dataclass(frozen=True, slots=True, eq=False)
class SelectionFilms:
    """Films that the best epoch is chosen by: the discovery half of the validation patients.

    Attributes
    ----------
    films : FilmStore - of the whole validation split
    rows : ndarray of shape (n,), int64 - those of the discovery half
    labels : ndarray of shape (n,), int64
    groups : PseudoGroups - of these n films, small ones joined
    """

    films: FilmStore
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    groups: PseudoGroups


@dataclass(frozen=True, slots=True, eq=False)
class TrainedArm:
    """A trained model, its image side, and how the training went."""

    encoder: Encoder
    tower: ImageTower
    curve: LearningCurve


def recipe_of(config: MitigationConfig) -> Recipe:
    """Return the recipe that every arm shares."""
    return Recipe(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
        weight_decay=config.weight_decay,
        accumulate=config.accumulate,
        patience=config.patience,
        judged=config.judged,
        freeze_norms=config.freeze_norms,
        checkpoint_steps=config.checkpoint_steps,
    )


def weights_of(config: MitigationConfig) -> Weights:
    """Return the constants of the objectives."""
    return Weights(
        clip=config.clip_weight,
        temperature=config.temperature,
        denominator=config.denominator,
        reduction=config.reduction,
        eta=config.eta,
        exchange_share=config.exchange_share,
        cropped=config.cropped,
    )


def train_arm(
    arm: Arm,
    start: Path,
    films: FineTuningSet,
    groups: PseudoGroups,
    selection: SelectionFilms,
    classes: Tensor,
    config: MitigationConfig,
    fabric: Fabric,
    *,
    region_pooling: RegionPooling = "one_pass",
    checkpoint: Path | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, told: None,
) -> TrainedArm:
    """Fine-tune the audited model by an arm.

    Parameters
    ----------
    arm : Arm
    start : Path - folder of the audited model
    films : FineTuningSet
    groups : PseudoGroups - of the fine-tuning films
    selection : SelectionFilms
    classes : Tensor of shape (C, D), float32 - class texts, unit norm
    config : MitigationConfig
    fabric : Fabric
    region_pooling : {"one_pass", "last_stage", "crops"} - how regions are embedded
    checkpoint : Path or None - training goes on from it where it is
    progress : callable - called with (steps done, steps in all, what is to be told)

    Raises
    ------
    DataError, ConfigError
        A recipe that these films or processes cannot follow, or no room for checkpoints, see `fit`.
    ModelError
        Gradients are to be checkpointed, and the tower has no switch for it.
    """
    encoder = open_folder(start, torch.device("cpu"), region_pooling)
    tower = ImageTower(encoder.model, region_pooling)
    if config.gradient_checkpointing:
        checkpoint_gradients(tower.visual)
    lesson = Lesson(arm, films, groups, classes, weights_of(config), fabric)

    def select() -> Selection:
        share = (fabric.global_rank, fabric.world_size)
        logits = ask_films(
            tower, selection.films, selection.rows, classes, config.temperature, share
        )
        if fabric.world_size > 1:  # each film was asked by one process, and is 0 to the others
            asked = torch.from_numpy(logits).to(fabric.device)
            joined: Any = fabric.all_reduce(asked, reduce_op="sum")
            logits = joined.cpu().numpy()
        if not np.isfinite(logits).all():
            return Selection(float("nan"), float("nan"))
        return select_by_groups(selection.groups, logits.argmax(axis=1) == selection.labels)

    begun = time.perf_counter()
    curve = fit(
        fabric,
        tower,
        len(films),
        lesson.step,
        recipe_of(config),
        order=lesson.order,
        select=select,
        checkpoint=checkpoint,
        state=lesson.state,
        progress=progress,
    )
    encoder.model.to("cpu").eval()
    tower.eval()
    return TrainedArm(encoder, tower, _describe(curve, time.perf_counter() - begun))


def _describe(curve: Curve, seconds: float) -> LearningCurve:
    whole = range(len(curve.selections))  # an epoch that broke off has no mean
    means = [np.mean(curve.losses[i * curve.steps : (i + 1) * curve.steps]) for i in whole]
    return LearningCurve(
        losses=tuple(float(mean) for mean in means),
        worst_group=tuple(s.worst_group for s in curve.selections),
        overall=tuple(s.overall for s in curve.selections),
        best=-1 if curve.best is None else curve.best,
        stopped=curve.stopped,
        steps=len(curve.losses),
        seconds=round(seconds, 1),
    )
