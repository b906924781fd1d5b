"""Run by `torchrun`, and by a test as it is: loss curves of arms on the toy set, as JSON.

Arguments: file to write, then names of arms. Only the first process writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from toys import toy_groups, toy_model, toy_set, toy_texts

from ravl_med.mitigation.arms import ARMS, ImageTower, Lesson, Weights
from ravl_med.mitigation.trainer import Recipe, fit, make_fabric


def main() -> None:
    torch.set_num_threads(1)
    fabric = make_fabric()
    films = toy_set()
    curves = {}
    for name in sys.argv[2:]:
        tower = ImageTower(toy_model())
        lesson = Lesson(
            ARMS[name], films, toy_groups(films), toy_texts(), Weights(cropped=0.3), fabric
        )
        recipe = Recipe(2, 16, 1e-3, 0, freeze_norms=True)
        curve = fit(
            fabric, tower, len(films), lesson.step, recipe, order=lesson.order, state=lesson.state
        )
        curves[name] = curve.losses
    if fabric.global_rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
