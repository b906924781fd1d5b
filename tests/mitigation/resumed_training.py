"""Train an arm on the toy set with checkpoints; as a process of its own, kill it on the way.

Arguments: folder, ``step``, ``epoch`` or ``write``, and the number at which the process ends by
SIGKILL: right after that step, while that epoch is judged, or in the middle of that checkpoint.
Several such pairs are trainings one after the other, each in a fork of this process; the folder is
copied as each leaves it, to ``<folder>-0``, ``<folder>-1`` and so on.
Under `torchrun` it is the last process that is killed, but for ``write``, which the first one does;
what `torchrun` has started again is not killed any more.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import torch
from toys import toy_model, toy_set, toy_texts

from ravl_med.config.mitigation import MitigationConfig
from ravl_med.mitigation import trainer
from ravl_med.mitigation.arms import ARMS, ImageTower, Objective
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.trainer import Selection, Task, TrainingConfig, fit


def train(folder: Path, unit: str = "", number: int = 0) -> None:
    """Three steps an epoch; checkpoints after every second step and after each epoch."""
    fabric, films, tower = make_fabric(), toy_set(), ImageTower(toy_model())
    lesson = Objective(ARMS["vl_gdro"], films, toy_texts(), MitigationConfig(eta=0.5), fabric)
    done_steps = [0]
    killed = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0" and fabric.global_rank == (
        0 if unit == "write" else fabric.world_size - 1
    )
    if unit == "write" and killed:
        kill_in_write(number)

    def select() -> Selection:
        if killed and unit == "epoch" and done_steps[0] == 3 * number:
            os.kill(os.getpid(), signal.SIGKILL)
        return Selection(float(tower.visual.conv1.weight.detach().abs().sum()), 0.0)

    def told(done: int, total: int, more: str) -> None:
        done_steps[0] = done
        if killed and unit == "step" and done == number:
            os.kill(os.getpid(), signal.SIGKILL)

    recipe = TrainingConfig(4, 16, 1e-3, 0, freeze_norms=True, checkpoint_steps=2)
    curve = fit(
        fabric, tower, len(films), Task(lesson.step, lesson.order, select, lesson.state), recipe,
        checkpoint=folder / "arm.ckpt", progress=told,
    )  # fmt: skip
    kept = {"model": tower.state_dict(), "losses": curve.losses, "best": curve.best}
    if fabric.global_rank == 0:
        torch.save(kept, folder / "weights.pt")


def kill_in_write(number: int) -> None:
    """Let this process end when half of a checkpoint is on the disk."""
    written, save = [0], torch.save

    def half(state: object, stream: BinaryIO) -> None:
        written[0] += 1
        if written[0] < number:
            save(state, stream)
            return
        content = io.BytesIO()
        save(state, content)
        stream.write(content.getvalue()[: content.tell() // 2])
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    trainer.torch.save = half


def killed_in_turn(folder: Path, kills: list[tuple[str, int]]) -> None:
    """Train in a fork for each; only what is killed as it was told to be is well."""
    for turn, (unit, number) in enumerate(kills):
        process = os.fork()
        if not process:
            train(folder, unit, number)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            sys.exit(f"{unit} {number}: not killed")
        shutil.copytree(folder, folder.with_name(f"{folder.name}-{turn}"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    kills = [(unit, int(number)) for unit, number in zip(*[iter(sys.argv[2:])] * 2, strict=True)]
    if len(kills) > 1:
        killed_in_turn(Path(sys.argv[1]), kills)
    else:
        train(Path(sys.argv[1]), *kills[0])
