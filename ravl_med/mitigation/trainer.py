"""The training loop: what every fine-tuning of the tool goes through, whatever it learns.

Lightning Fabric places model and batches, sets the precision, and joins processes that `torchrun`
started. The loop adds warm-up and cosine, selection of the best epoch, early stopping, a stop at
the last good weights where the loss is no longer finite, and checkpoints, whole or not at all, that
resume to the same weights. All processes draw the same random numbers for the whole batch and each
works on its part, so that two of them learn what one would.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ravl_med.config.mitigation import MitigationConfig
from ravl_med.errors import DataError, EngineError
from ravl_med.storage.files import atomic_write


def batch_norms_of(module: nn.Module) -> list[nn.Module]:
    """Return the parts that keep statistics of batches."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


@contextmanager
def kept_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the statistics of BatchNorm while gradients are computed.

    Where these are checkpointed, films pass the norms a second time on the way back.
    """
    kept = [
        (buffer, buffer.clone())
        for norm in batch_norms_of(module)
        if norm.training
        for buffer in norm.buffers(recurse=False)
    ]
    yield
    for buffer, value in kept:
        buffer.copy_(value)


_TRIES = 90  # a second each: network file systems show a file that was replaced half a minute late


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint in place of the last one.

    It holds tensors, numbers and texts, lists and mappings of them; `epoch` and `done_in_epoch` say
    where it was.

    Raises
    ------
    ConfigError
        The disk is full, or may not be written to; the last checkpoint stays.
    """
    with atomic_write(path) as stream:
        torch.save(dict(state), stream)


def read_checkpoint(path: Path, fabric: Fabric) -> dict[str, Any] | None:
    """Read a checkpoint, onto the CPU and the same one in all processes; None where there is none.

    All processes call at the same point.

    Raises
    ------
    DataError
        It is not a checkpoint, or is damaged.
    EngineError
        A process does not see the one that the first process sees.
    """
    for _ in range(_TRIES):
        state = _read(path) if path.is_file() else None
        place = None if state is None else (state["epoch"], state["done_in_epoch"])
        if fabric.world_size == 1 or _agree(fabric, place):
            return state
        time.sleep(1.0)
    raise EngineError(
        f"mitigation: process {fabric.global_rank + 1} of {fabric.world_size} does not see the "
        f"checkpoint that the first one sees, after {_TRIES} s; expected one cache.folder that all "
        "nodes share."
    )


def _agree(fabric: Fabric, place: tuple[int, int] | None) -> bool:
    """Whether all processes are at the same place."""
    first = fabric.broadcast(place)
    alike: Any = fabric.all_reduce(
        torch.tensor(float(place == first), device=fabric.device), reduce_op="min"
    )
    return bool(alike > 0.5)


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        int(state["epoch"]), int(state["done_in_epoch"])
    except Exception as error:  # torch, zipfile and pickle raise many types here
        raise DataError(
            f"--resume: the checkpoint cannot be read ({type(error).__name__}); expected one that "
            "this version wrote. Start anew, without --resume."
        ) from None
    return state


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trained parameters by their decay: matrices, and biases, norms and scales."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def warm_cosine(step: int, total: int) -> float:
    """Return the share of the peak: warm-up over a tenth of the steps, then half a cosine to 0."""
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


Progress = Callable[[int, int, str], None]
Order = Callable[[int, torch.Generator], Tensor]
Step = Callable[[nn.Module, Tensor, slice, int, torch.Generator], Tensor]
"""Module, rows of the whole batch (B,), this process's part, epoch and generator to a loss."""
Stopped = Literal["budget", "early", "diverged"]


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How a model is fine-tuned; `MitigationConfig` has the same fields, and says what they are."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    weight_decay: float = 0.05
    accumulate: int = 1
    patience: int | None = None  # None: it stops at the end of its budget alone
    judged: int = 1
    freeze_norms: bool = False
    checkpoint_steps: int = 500


@dataclass(frozen=True, slots=True)
class Selection:
    """What an epoch is judged by: larger is better, ties go by `overall`.

    NaN says that the model no longer gives finite answers.
    """

    worst_group: float
    overall: float


@dataclass(slots=True)
class TrainingHistory:
    """What happened: the loss of each step, the selection of each epoch, and how it ended."""

    losses: list[float] = field(default_factory=list)  # one a step
    steps: int = 0  # of an epoch
    # one an epoch, where there is a selection
    selections: list[Selection] = field(default_factory=list)
    # epoch whose weights the model has now, from 0; None without a selection
    best: int | None = None
    stopped: Stopped = "budget"


def permute(count: int, generator: torch.Generator) -> Tensor:
    """Return all films in random order (count,)."""
    return torch.randperm(count, generator=generator)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is trained."""

    step: Step  # see `Step`
    order: Order = permute  # number of films wanted and generator to the rows of an epoch (n,)
    # the selection of the present weights; the best epoch's are kept
    select: Callable[[], Selection] | None = None
    # what `step` keeps from batch to batch, and a checkpoint with it
    state: dict[str, Tensor] = field(default_factory=dict)


def fit(
    fabric: Fabric,
    module: nn.Module,
    count: int,
    task: Task,
    config: TrainingConfig | MitigationConfig,
    *,
    checkpoint: Path | None = None,
    progress: Progress = lambda done, total, note: None,
) -> TrainingHistory:
    """Train a module on `count` films in place; it is in evaluation mode afterwards.

    What has no gradient is not trained. Where there is a checkpoint, training goes on from it.

    Raises
    ------
    DataError
        Fewer films than one batch, a batch that the processes cannot share evenly, or statistics of
        BatchNorm that they would not share; a checkpoint of something else.
    ConfigError
        The disk is too full for a checkpoint.
    """
    _require_batches(fabric.world_size, module, count, config)
    optimiser = torch.optim.AdamW(decay_groups(module, config.weight_decay), lr=1.0)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):  # a third faster on CPU
            lay_out: Any = part.to  # its stubs do not know memory formats
            lay_out(memory_format=torch.channels_last)
    wrapped, wrapped_optimiser = fabric.setup(module, optimiser)
    loop = _Loop(fabric, wrapped, wrapped_optimiser, count, task, config)
    loop.run(checkpoint, progress)
    module.eval()
    return loop.history


def _require_batches(
    world: int, module: nn.Module, count: int, config: TrainingConfig | MitigationConfig
) -> None:
    """Refuse films or settings that the processes cannot make a step of."""
    size = config.batch_size * config.accumulate
    if count < size:
        raise DataError(
            f"fine-tuning: {count} films; expected at least {size}, one step. Add films to the "
            "fine-tuning split or lower the batch size."
        )
    if config.batch_size % world:
        raise DataError(
            f"fine-tuning: a batch of {config.batch_size} films for {world} processes; expected a "
            "multiple of their number. Change mitigation.batch_size."
        )
    if world > 1 and not config.freeze_norms and batch_norms_of(module):
        raise DataError(
            f"fine-tuning: {world} processes with mitigation.freeze_norms false; expected true, "
            "since each process would take statistics of its own part of a batch. Freeze them, or "
            "run one process."
        )


class _Loop:
    """State of a training; everything that a checkpoint has to hold."""

    def __init__(
        self,
        fabric: Fabric,
        module: Any,
        optimiser: Any,
        count: int,
        task: Task,
        config: TrainingConfig | MitigationConfig,
    ) -> None:
        self.fabric, self.module, self.optimiser = fabric, module, optimiser
        self.count, self.task, self.config = count, task, config
        self.generator = torch.Generator().manual_seed(config.seed)
        self.history = TrainingHistory()
        self.epoch, self.done_in_epoch, self.waited = 0, 0, 0
        self.rows = torch.empty(0, dtype=torch.int64)
        self.best: dict[str, Tensor] | None = None  # without a selection: the last epoch's
        size = config.batch_size * config.accumulate
        self.per_epoch = count // size
        self.history.steps = self.per_epoch
        self.total = self.per_epoch * config.epochs
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            getattr(optimiser, "optimizer", optimiser),
            lambda step: config.learning_rate * warm_cosine(step, self.total),
        )

    def run(self, checkpoint: Path | None, progress: Progress) -> None:
        start = self._weights()  # before a checkpoint is read: what an interrupted run had too
        state = None if checkpoint is None else read_checkpoint(checkpoint, self.fabric)
        if state is not None:
            if self.fabric.world_size > 1:
                self._settle_exchange()
            self._restore(state)
        while self.epoch < self.config.epochs and self.history.stopped == "budget":
            if not self._train_epoch(checkpoint, progress):
                self.history.stopped = "diverged"
                break
            if checkpoint is not None:
                self._save(checkpoint)
        if self.best is not None or self.history.stopped == "diverged":
            _load_weights(self.module, self.best or start)

    def _train_epoch(self, checkpoint: Path | None, progress: Progress) -> bool:
        """Train and select, from where the epoch is; False where numbers are no longer finite."""
        if self.done_in_epoch == 0:
            self.rows = self.task.order(self.count, self.generator)
        self._train_mode()
        note = self._describe_last()
        while self.done_in_epoch < self.per_epoch:
            if not self._advance():
                return False
            done = len(self.history.losses)
            progress(done, self.total, note)
            if checkpoint is not None and done % self.config.checkpoint_steps == 0:
                self._save(checkpoint)
        self.epoch, self.done_in_epoch = self.epoch + 1, 0
        if self.task.select is None:
            self.best = self._weights()
            return True
        return self._select(self.task.select)

    def _describe_last(self) -> str:
        if not self.history.selections:
            return ""
        last = self.history.selections[-1]
        return f"worst group {100 * last.worst_group:.0f} %, overall {100 * last.overall:.0f} %"

    def _train_mode(self) -> None:
        self.module.train()
        if self.config.freeze_norms:
            for part in batch_norms_of(self.module):
                part.eval()

    def _own_part(self) -> slice:
        """Part of a batch that is this process's."""
        part = self.config.batch_size // self.fabric.world_size
        return slice(self.fabric.global_rank * part, (self.fabric.global_rank + 1) * part)

    def _settle_exchange(self) -> None:
        """Exchange gradients once, for nothing: later ones are summed in another order."""
        self._train_mode()
        rows = torch.arange(self.config.batch_size)
        loss = self.task.step(self.module, rows, self._own_part(), 0, torch.Generator())
        self.fabric.backward(loss)
        self.optimiser.zero_grad(set_to_none=True)

    def _advance(self) -> bool:
        """Make one step; False, and no step, where loss or gradient are not finite."""
        size, own = self.config.batch_size, self._own_part()
        first = self.done_in_epoch * size * self.config.accumulate
        self.optimiser.zero_grad(set_to_none=True)
        # For towers with dropout, which draws from here: the same at this step in every run.
        torch.manual_seed(self.config.seed + len(self.history.losses))
        total = 0.0
        for turn in range(self.config.accumulate):
            batch = self.rows[first + turn * size : first + (turn + 1) * size]
            last = turn + 1 == self.config.accumulate
            with self.fabric.no_backward_sync(self.module, enabled=not last):
                loss = self.task.step(self.module, batch, own, self.epoch, self.generator)
                with kept_statistics(self.module):
                    self.fabric.backward(loss / self.config.accumulate)
            total += float(loss.detach()) / self.config.accumulate
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        if not (math.isfinite(total) and bool(torch.isfinite(norm))):
            self.optimiser.zero_grad(set_to_none=True)
            return False
        self.optimiser.step()
        self.scheduler.step()
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                if name.endswith("logit_scale") and parameter.requires_grad:
                    parameter.clamp_(0.0, math.log(100.0))
        self.history.losses.append(total)
        self.done_in_epoch += 1
        return True

    def _select(self, select: Callable[[], Selection]) -> bool:
        """Judge the epoch; False where the model no longer gives finite answers."""
        self.module.eval()
        found = self.fabric.broadcast(select())  # processes that disagree would wait for ever
        if not math.isfinite(found.worst_group):
            return False
        self.history.selections.append(found)
        now, best = len(self.history.selections) - 1, self.history.best
        # Until there are enough epochs to judge by, the latest is the best.
        if best is None or now < self._judged() or self._score(now) > self._score(best):
            self.history.best, self.waited = now, 0
            self.best = self._weights()
        else:
            self.waited += 1
            if self.config.patience is not None and self.waited >= self.config.patience:
                self.history.stopped = "early"
        return True

    def _judged(self) -> int:
        return min(self.config.judged, self.config.epochs)

    def _score(self, epoch: int) -> tuple[float, float]:
        """Mean selection of an epoch and those before it: one worst group is a few dozen films."""
        seen = self.history.selections[max(epoch + 1 - self._judged(), 0) : epoch + 1]
        return fmean(s.worst_group for s in seen), fmean(s.overall for s in seen)

    def _weights(self) -> dict[str, Tensor]:
        return copy.deepcopy(_trained_weights(self.module))

    def _save(self, path: Path) -> None:
        if self.fabric.global_rank:
            return
        state = {
            "model": _trained_weights(self.module),
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "generator": self.generator.get_state(),
            "rows": self.rows,
            "best": self.best or {},
            "epoch": self.epoch,
            "done_in_epoch": self.done_in_epoch,
            "waited": self.waited,
            "losses": self.history.losses,
            "selections": [[s.worst_group, s.overall] for s in self.history.selections],
            "best_epoch": -1 if self.history.best is None else self.history.best,
            "stopped": self.history.stopped,
            "kept": dict(self.task.state),
            "config": self._settings(),
            "count": self.count,
        }
        write_checkpoint(path, state)

    def _settings(self) -> str:
        """Return all settings that the weights depend on."""
        return repr({f.name: getattr(self.config, f.name) for f in fields(TrainingConfig)})

    def _restore(self, state: Mapping[str, Any]) -> None:
        if state["config"] != self._settings() or state["count"] != self.count:
            raise DataError(
                "--resume: the checkpoint was written under another config or for other films. "
                "Resume with the config that it was started with, or start anew."
            )
        _load_weights(self.module, state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.generator.set_state(state["generator"])
        self.rows, self.best = state["rows"], state["best"] or None
        for name, value in state["kept"].items():
            self.task.state[name] = value.to(self.fabric.device)
        self.epoch, self.done_in_epoch = state["epoch"], state["done_in_epoch"]
        self.waited, self.history.losses = state["waited"], state["losses"]
        self.history.selections = [Selection(*pair) for pair in state["selections"]]
        self.history.best = None if state["best_epoch"] < 0 else state["best_epoch"]
        self.history.stopped = state["stopped"]


def _trained_weights(module: Any) -> dict[str, Tensor]:
    """Return what training changes, buffers with it: a frozen decoder may be most of a model."""
    inner = getattr(module, "module", module)
    named = inner.named_parameters(remove_duplicate=False)  # words that are tied to the answers
    frozen = {name for name, weight in named if not weight.requires_grad}
    return {name: value for name, value in inner.state_dict().items() if name not in frozen}


def _load_weights(module: Any, state: Mapping[str, Tensor]) -> None:
    if state.keys() != _trained_weights(module).keys():
        raise DataError(
            "--resume: the checkpoint holds other weights than are trained now. Start anew, "
            "without --resume."
        )
    getattr(module, "module", module).load_state_dict(state, strict=False)  # what is frozen stays
