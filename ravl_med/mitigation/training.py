"""One arm from the audited model to its own: train, choose the epoch, and answer.

What a tower says of many films: logits, and the class of the best-matching region.

The training of an arm as a job: what each process needs to do its part of it.
"""

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
from torch import Tensor, nn

from ravl_med.config.mitigation import ArmName, MitigationConfig
from ravl_med.config.model import RegionPooling
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.gradient_checkpointing import checkpoint_gradients
from ravl_med.encoders.opening import open_folder
from ravl_med.evidence.mitigation_result import LearningCurve
from ravl_med.mitigation.arms import ARMS, Arm, ImageTower, Objective, Weights
from ravl_med.mitigation.final_test import Answered
from ravl_med.mitigation.fine_tuning_set import FilmStore, FineTuningSet, RegionTable, open_set
from ravl_med.mitigation.groups import PseudoGroups, select_by_groups
from ravl_med.mitigation.trainer import Selection, TrainingConfig, TrainingHistory, fit

_FILMS_AT_ONCE = 64


def ask_films(
    tower: nn.Module,
    films: FilmStore,
    rows: NDArray[np.int64],
    classes: Tensor,
    temperature: float,
    share: tuple[int, int] = (0, 1),
) -> NDArray[np.float32]:
    """Return the zero-shot logits (n, C) of films.

    Parameters
    ----------
    tower : nn.Module - an `ImageTower`; it is asked in evaluation mode
    rows : ndarray of shape (n,), int64
    classes : Tensor of shape (C, D), float32 - unit norm
    temperature : float - tau
    share : tuple of int - number of this process, from 0, and of all; it asks every so many batches
        of films, and the others' logits are 0
    """
    tower.eval()
    device = next(tower.parameters()).device
    logits = np.zeros((len(rows), len(classes)), np.float32)
    first, step = share[0] * _FILMS_AT_ONCE, share[1] * _FILMS_AT_ONCE
    with torch.inference_mode():
        for start in range(first, len(rows), step):
            part = slice(start, start + _FILMS_AT_ONCE)
            seen, _, _ = tower(films.inputs(films.read(rows[part])).to(device))
            logits[part] = (seen.float().cpu() @ classes.T / temperature).numpy()
    return logits


def ask_films_and_regions(
    tower: nn.Module,
    films: FilmStore,
    regions: RegionTable,
    classes: Tensor,
    temperature: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Answered:
    """Return logits and the best-matching region's class of all films.

    Parameters
    ----------
    tower : nn.Module - an `ImageTower`; it is asked in evaluation mode
    films : FilmStore - N films
    regions : RegionTable - of these films
    classes : Tensor of shape (C, D), float32 - unit norm
    temperature : float - tau
    """
    tower.eval()
    device = next(tower.parameters()).device
    logits, best = [np.empty((0, len(classes)), np.float32)], [np.empty(0, np.int64)]
    with torch.inference_mode():
        for start in range(0, len(films), _FILMS_AT_ONCE):
            rows = np.arange(start, min(start + _FILMS_AT_ONCE, len(films)))
            index, film = regions.take(rows)
            counts = np.bincount(film, minlength=len(rows)).tolist()
            boxes = torch.split(torch.from_numpy(regions.boxes[index]).to(device), counts)
            seen, parts, _ = tower(films.inputs(films.read(rows)).to(device), list(boxes))
            logits.append((seen.float().cpu() @ classes.T / temperature).numpy())
            similarity = (parts.float().cpu() @ classes.T).numpy()
            best.append(best_region_class(similarity, film, logits[-1]))
            progress(int(rows[-1]) + 1, len(films))
    return Answered(np.concatenate(logits), np.concatenate(best))


def best_region_class(
    similarity: NDArray[np.float32], film: NDArray[np.int64], fallback: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return the class of the best-matching region of each film, (n,).

    Parameters
    ----------
    similarity : ndarray of shape (R, C)
    film : ndarray of shape (R,), int64 - 0 .. n - 1
    fallback : ndarray of shape (n, C) - decides for films without a region
    """
    best = np.full(fallback.shape, -np.inf, dtype=np.float32)
    np.maximum.at(best, film, similarity)
    bare = ~np.isfinite(best[:, 0])
    best[bare] = fallback[bare]
    chosen: NDArray[np.int64] = best.argmax(axis=1).astype(np.int64)
    return chosen


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


def recipe_of(config: MitigationConfig) -> TrainingConfig:
    """Return the recipe that every arm shares."""
    return TrainingConfig(
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
    start : Path - folder of the audited model
    groups : PseudoGroups - of the fine-tuning films
    classes : Tensor of shape (C, D), float32 - class texts, unit norm
    region_pooling : {"one_pass", "last_stage", "crops"} - how regions are embedded
    checkpoint : Path or None - training goes on from it where it is

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
    lesson = Objective(arm, films, groups, classes, weights_of(config), fabric)

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


def _describe(curve: TrainingHistory, seconds: float) -> LearningCurve:
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


@dataclass(frozen=True, slots=True, eq=False)
class ArmTraining:
    """What is sent to the processes of a training; large things are files that each of them opens.

    Attributes
    ----------
    name : str - of `ARMS`
    start : Path - folder of the audited model
    films : Path - folder of the set to fine-tune on
    groups : tuple of str, length C - classes, which pseudo-groups are made of
    classes : ndarray of shape (C, D), float32 - class texts, unit norm
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
