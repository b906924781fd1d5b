"""One arm from the audited model to its own: train, choose the epoch, predict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from ravl_med.config.mitigation import MitigationConfig
from ravl_med.config.model import RegionPooling
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.generative import open_generative
from ravl_med.encoders.gradient_checkpointing import checkpoint_gradients
from ravl_med.encoders.opening import open_model_folder
from ravl_med.encoders.questions import Questions
from ravl_med.errors import ConfigError
from ravl_med.evidence.disclosure_control import hide_counts
from ravl_med.evidence.mitigation_result import LearningCurve
from ravl_med.mitigation.arms import AnswerTower, Arm, ImageTower, Objective, Tower, adapt_attention
from ravl_med.mitigation.final_test import Predictions
from ravl_med.mitigation.fine_tuning_set import (
    FineTuningSet,
    GrayFilms,
    RegionTable,
    open_fine_tuning_set,
)
from ravl_med.mitigation.spurious_regions import PseudoGroups, select_by_groups
from ravl_med.mitigation.trainer import Selection, Task, TrainingHistory, fit

_FILMS_AT_ONCE = 64


def predict_films(
    tower: Tower,
    films: GrayFilms,
    rows: NDArray[np.int64],
    classes: Tensor,
    temperature: float,
    share: tuple[int, int] = (0, 1),
) -> NDArray[np.float32]:
    """Return the zero-shot logits (n, C) of films (n,) by a tower, which is set to evaluation mode.

    `share` is the number of this process, from 0, and of all: it does every so many batches of
    films, and the logits of the others are 0.
    """
    tower.eval()
    device = next(tower.parameters()).device
    logits = np.zeros((len(rows), len(classes)), np.float32)
    first, step = share[0] * _FILMS_AT_ONCE, share[1] * _FILMS_AT_ONCE
    with torch.inference_mode():
        for start in range(first, len(rows), step):
            part = slice(start, start + _FILMS_AT_ONCE)
            images = films.inputs(films.read(rows[part])).to(device)
            logits[part] = tower.logits(images, classes, temperature).numpy()
    return logits


def predict_films_and_regions(
    tower: Tower,  # set to evaluation mode
    films: GrayFilms,  # N films
    regions: RegionTable,  # of these films
    classes: Tensor,  # (C, D) unit norm
    temperature: float,  # tau
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Predictions:
    """Return logits and the best-matching region's class of all films."""
    tower.eval()
    device = next(tower.parameters()).device
    logits, best = [np.empty((0, len(classes)), np.float32)], [np.empty(0, np.int64)]
    with torch.inference_mode():
        for start in range(0, len(films), _FILMS_AT_ONCE):
            rows = np.arange(start, min(start + _FILMS_AT_ONCE, len(films)))
            index, film = regions.take(rows)
            counts = np.bincount(film, minlength=len(rows)).tolist()
            boxes = torch.split(torch.from_numpy(regions.boxes[index]).to(device), counts)
            images = films.inputs(films.read(rows)).to(device)
            seen, parts, _ = tower(images, list(boxes))
            if isinstance(tower, AnswerTower):
                logits.append(tower.logits(images, classes, temperature).numpy())
            else:
                logits.append((seen.float().cpu() @ classes.T / temperature).numpy())
            similarity = (parts.float().cpu() @ classes.T).numpy()
            best.append(best_region_class(similarity, film, logits[-1]))
            progress(int(rows[-1]) + 1, len(films))
    return Predictions(np.concatenate(logits), np.concatenate(best))


def best_region_class(
    similarity: NDArray[np.float32], film: NDArray[np.int64], fallback: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return the class of the best-matching region of each film, (n,).

    Similarities are (R, C), their films (R,) 0 .. n - 1; `fallback` (n, C) decides for films
    without a region.
    """
    best = np.full(fallback.shape, -np.inf, dtype=np.float32)
    np.maximum.at(best, film, similarity)
    bare = ~np.isfinite(best[:, 0])
    best[bare] = fallback[bare]
    chosen: NDArray[np.int64] = best.argmax(axis=1).astype(np.int64)
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class SelectionFilms:
    """Films that the best epoch is chosen by: the discovery half of the validation patients."""

    films: GrayFilms  # of the whole validation split
    rows: NDArray[np.int64]  # (n,) those of the discovery half
    labels: NDArray[np.int64]  # (n,)
    groups: PseudoGroups  # of these n films, small ones joined

    @classmethod
    def of(
        cls,
        films: GrayFilms,
        half: NDArray[np.bool_],  # (N,)
        groups: PseudoGroups,
        labels: NDArray[np.int64],
        least: int,
    ) -> SelectionFilms:
        """Take some of N films; groups of fewer than `least` of these are joined."""
        rows = np.flatnonzero(half)
        own = PseudoGroups(groups.names, groups.of_film[rows])
        return cls(films, rows, labels[rows], own.pooled(least).used())

    def count_groups(self, patients: NDArray[np.int64], least: int) -> dict[str, int]:
        """Count the films of each group, by the patients (N,) of the whole split.

        Counts of fewer than `least` patients are hidden.
        """
        own = {name: self.groups.of_film == g for g, name in enumerate(self.groups.names)}
        return hide_counts(
            {name: int(member.sum()) for name, member in own.items()},
            {name: len(np.unique(patients[self.rows[member]])) for name, member in own.items()},
            least,
        )


def open_tower(
    folder: Path, region_pooling: RegionPooling, questions: Questions | None
) -> tuple[Encoder, Tower]:
    """Open a model on the CPU, and its image side as it is trained.

    Raises
    ------
    ModelError
        It does not open.
    """
    if questions is None:
        encoder = open_model_folder(folder, torch.device("cpu"), region_pooling)
        return encoder, ImageTower(encoder.model, region_pooling)
    writing = open_generative(folder, torch.device("cpu"), questions)
    return writing, AnswerTower(writing)


@dataclass(frozen=True, slots=True, eq=False)
class TrainedArm:
    """A trained model, its image side, and how the training went."""

    encoder: Encoder
    tower: Tower
    curve: LearningCurve


@dataclass(frozen=True, slots=True, eq=False)
class ArmTraining:
    """The training of an arm as a job of all processes.

    It is sent to each of them; large things are files that each of them opens.
    """

    arm: Arm
    start: Path  # folder of the audited model
    films: Path | FineTuningSet  # to fine-tune on; the folder of a set where there are others
    selection: SelectionFilms
    classes: NDArray[np.float32]  # (C, D) class texts, unit norm
    config: MitigationConfig
    region_pooling: RegionPooling = "one_pass"
    questions: Questions | None = None  # of a model that writes
    checkpoint: Path | None = None  # training goes on from it where it is

    def __call__(
        self,
        fabric: Fabric,
        progress: Callable[[int, int, str], None] = lambda done, total, note: None,
    ) -> TrainedArm:
        """Fine-tune the audited model in this process, together with the others.

        Raises
        ------
        DataError, ConfigError
            A config that these films or processes cannot follow, or no room for checkpoints, see
            `fit`; films that are gone, see `open_fine_tuning_set`.
        ModelError
            Gradients are to be checkpointed, and the tower has no switch for it.
        """
        films = open_fine_tuning_set(self.films) if isinstance(self.films, Path) else self.films
        encoder, tower = open_tower(self.start, self.region_pooling, self.questions)
        answers = isinstance(tower, AnswerTower)
        if answers and fabric.world_size > 1:
            raise ConfigError(
                f"mitigation: {fabric.world_size} processes; a model with answers is trained by "
                "one. Start the command without torchrun."
            )
        if self.config.gradient_checkpointing:
            checkpoint_gradients(tower.inner if isinstance(tower, AnswerTower) else tower.visual)
        adapted = None
        if self.config.lora_rank:
            torch.manual_seed(self.config.seed)  # all processes begin with the same adapters
            adapted = adapt_attention(tower, self.config.lora_rank)
        classes = torch.from_numpy(self.classes)
        objective = Objective(self.arm, films, classes, self.config, fabric, answers=answers)
        task = Task(
            objective.step, objective.order, partial(self._select, tower, fabric), objective.state
        )
        begun = time.perf_counter()
        history = fit(
            fabric,
            tower,
            len(films),
            task,
            self.config,
            checkpoint=self.checkpoint,
            progress=progress,
        )
        if adapted is not None:
            adapted.merge_and_unload()
        encoder.model.to("cpu").eval()
        tower.eval()
        return TrainedArm(encoder, tower, _curve(history, time.perf_counter() - begun))

    def _select(self, tower: Tower, fabric: Fabric) -> Selection:
        """Judge the present weights by the films that the epoch is chosen by."""
        selection, share = self.selection, (fabric.global_rank, fabric.world_size)
        classes = torch.from_numpy(self.classes)
        logits = predict_films(
            tower, selection.films, selection.rows, classes, self.config.temperature, share
        )
        if fabric.world_size > 1:  # one process has the logits of a film, the others 0
            own = torch.from_numpy(logits).to(fabric.device)
            joined: Any = fabric.all_reduce(own, reduce_op="sum")
            logits = joined.cpu().numpy()
        if not np.isfinite(logits).all():
            return Selection(float("nan"), float("nan"))
        return select_by_groups(selection.groups, logits.argmax(axis=1) == selection.labels)


def _curve(history: TrainingHistory, seconds: float) -> LearningCurve:
    whole = range(len(history.selections))  # an epoch that broke off has no mean
    steps = history.steps
    means = [np.mean(history.losses[i * steps : (i + 1) * steps]) for i in whole]
    return LearningCurve(
        losses=tuple(float(mean) for mean in means),
        worst_group=tuple(s.worst_group for s in history.selections),
        overall=tuple(s.overall for s in history.selections),
        best=-1 if history.best is None else history.best,
        stopped=history.stopped,
        steps=len(history.losses),
        seconds=round(seconds, 1),
    )
