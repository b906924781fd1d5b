"""Train an arm on the toy set with checkpoints; as a process of its own, kill it on the way.

Arguments: folder, ``step`` or ``epoch``, and the number at which the process ends by SIGKILL: right
after that step, or while that epoch is judged.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from toys import toy_groups, toy_model, toy_set, toy_texts

from ravl_med.mitigation.arms import ARMS, ImageTower, Lesson, Weights
from ravl_med.mitigation.processes import make_fabric
from ravl_med.mitigation.trainer import Recipe, Selection, fit


def train(folder: Path, unit: str = "", number: int = 0) -> None:
    """Three steps an epoch; checkpoints after every second step and after each epoch."""
    fabric, films, tower = make_fabric(), toy_set(), ImageTower(toy_model())
    lesson = Lesson(
        ARMS["vl_gdro"], films, toy_groups(films), toy_texts(), Weights(eta=0.5), fabric
    )
    done_steps = [0]

    def select() -> Selection:
        if unit == "epoch" and done_steps[0] == 3 * number:
            os.kill(os.getpid(), signal.SIGKILL)
        return Selection(float(tower.visual.conv1.weight.detach().abs().sum()), 0.0)

    def told(done: int, total: int, more: str) -> None:
        done_steps[0] = done
        if unit == "step" and done == number:
            os.kill(os.getpid(), signal.SIGKILL)

    recipe = Recipe(4, 16, 1e-3, 0, freeze_norms=True, checkpoint_steps=2)
    curve = fit(
        fabric, tower, len(films), lesson.step, recipe, order=lesson.order, select=select,
        checkpoint=folder / "arm.ckpt", state=lesson.state, progress=told,
    )  # fmt: skip
    kept = {"model": tower.state_dict(), "losses": curve.losses, "best": curve.best}
    torch.save(kept, folder / "weights.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
