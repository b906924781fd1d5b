"""Run by a test: train an arm on the toy set with checkpoints; kill itself at a step if asked to.

Arguments: folder, and perhaps the step at which the process ends by SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from toys import toy_groups, toy_model, toy_set, toy_texts

from ravl_med.mitigation.arms import ARMS, ImageTower, Lesson, Weights
from ravl_med.mitigation.trainer import Recipe, Selection, fit, make_fabric


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    killed_at = int(sys.argv[2]) if len(sys.argv) > 2 else -1
    fabric, films, tower = make_fabric(), toy_set(), ImageTower(toy_model())
    lesson = Lesson(
        ARMS["vl_gdro"], films, toy_groups(films), toy_texts(), Weights(eta=0.5), fabric
    )
    seen: list[int] = []

    def select() -> Selection:
        seen.append(1)
        return Selection(float(tower.visual.conv1.weight.detach().abs().sum()), 0.0)

    def told(done: int, total: int, more: str) -> None:
        if done == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    recipe = Recipe(4, 16, 1e-3, 0, freeze_norms=True, checkpoint_steps=2)
    curve = fit(
        fabric, tower, len(films), lesson.step, recipe, order=lesson.order, select=select,
        checkpoint=folder / "arm.ckpt", state=lesson.state, progress=told,
    )  # fmt: skip
    kept = {"model": tower.state_dict(), "losses": curve.losses, "best": curve.best}
    torch.save(kept, folder / "weights.pt")


if __name__ == "__main__":
    main()
