"""Run by `torchrun`, and in a test's own process: loss curves of arms on the toy set, as JSON.

Where ``FORKED_PROCESSES`` and ``MASTER_PORT`` are set, it starts so many processes by itself.

Arguments: file to write, then names of arms, with ``@bf16`` or ``@checkpointed`` where they are to
be trained so. Only the first process writes; the weights at the end lie beside it (``.pt``).

One more training is judged by scores of which each process has its own; ``agreed`` says what the
first process took for the best epoch, how it ended, and the largest difference between the weights
of the processes; ``refusal`` what it said to BatchNorm that is not frozen.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor
from toys import toy_model, toy_set, toy_texts

from ravl_med.config.mitigation import MitigationConfig
from ravl_med.encoders.gradient_checkpointing import checkpoint_gradients
from ravl_med.errors import DataError
from ravl_med.mitigation.arms import ARMS, ImageTower, Objective
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.trainer import Selection, Task, TrainingConfig, fit

SCORES = ([0.6, 0.3], [0.2, 0.3], [0.1, 0.2], [0.3, 0.1])


def disagree(fabric: Fabric) -> list[object]:
    films, tower = toy_set(), ImageTower(toy_model())
    lesson = Objective(ARMS["standard"], films, toy_texts(), MitigationConfig(), fabric)
    scores = iter(SCORES[fabric.global_rank])
    curve = fit(
        fabric, tower, len(films),
        Task(lesson.step, select=lambda: Selection(next(scores), 0.0)),
        TrainingConfig(2, 16, 1e-3, 0, freeze_norms=True),
    )  # fmt: skip
    weights = fabric.all_gather(tower.visual.conv1.weight.detach()[None])
    weights = weights.reshape(fabric.world_size, -1)
    return [curve.best, curve.stopped, float((weights - weights[0]).abs().max())]


def refusal(fabric: Fabric) -> str | None:
    """What is said to processes that would each take statistics of their own films."""
    films, tower = toy_set(), ImageTower(toy_model())
    lesson = Objective(ARMS["standard"], films, toy_texts(), MitigationConfig(), fabric)
    try:
        fit(
            fabric,
            tower,
            len(films),
            Task(lesson.step),
            TrainingConfig(1, 16, 1e-3, 0, freeze_norms=False),
        )
    except DataError as error:
        return str(error)
    return None


def refuse_threads_of_gloo() -> None:
    """End with an error where a thread of gloo outlives the interpreter; told by Linux alone."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if any("gloo" in name for name in names):
        os._exit(3)


def learn(fabric: Fabric, name: str, *, checkpointed: bool = False) -> tuple[list[float], Tensor]:
    """Losses of the steps of an arm, and the weights that it ends with."""
    films, tower = toy_set(), ImageTower(toy_model())
    if checkpointed:
        checkpoint_gradients(tower.visual)
    weights = MitigationConfig(cropped=0.3)
    lesson = Objective(ARMS[name], films, toy_texts(), weights, fabric)
    recipe = TrainingConfig(2, 16, 1e-3, 0, freeze_norms=True)
    curve = fit(
        fabric, tower, len(films), Task(lesson.step, lesson.order, state=lesson.state), recipe
    )
    return curve.losses, torch.cat([v.flatten().float() for v in tower.state_dict().values()])


def learn_all(names: Sequence[str]) -> tuple[dict[str, list[object]], dict[str, Tensor]]:
    """What there is to tell, and the weights at the end of each arm."""
    fabric, half = make_fabric(), make_fabric(precision="bf16-mixed")
    curves: dict[str, list[object]] = {}
    weights: dict[str, Tensor] = {}
    for name in names:
        arm, _, how = name.partition("@")
        losses, weights[name] = learn(
            half if how == "bf16" else fabric, arm, checkpointed=how == "checkpointed"
        )
        curves[name] = [*losses]
    curves["agreed"] = disagree(fabric)
    curves["refusal"] = [refusal(fabric)]
    return curves, weights


def fork(processes: int, port: int) -> None:
    """Go on as so many processes, with what `torchrun` tells those that it starts; import once."""
    os.environ |= {
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none",
    }  # fmt: skip
    started = []
    for rank in range(processes):
        process = os.fork()
        if not process:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            return
        started.append(process)
    ends = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started]
    os._exit(int(any(ends)))


def main() -> None:
    if "FORKED_PROCESSES" in os.environ:
        fork(int(os.environ["FORKED_PROCESSES"]), int(os.environ["MASTER_PORT"]))
    atexit.register(refuse_threads_of_gloo)  # before, so that it is asked after all others
    torch.set_num_threads(1)
    curves, weights = learn_all(sys.argv[2:])
    if make_fabric().global_rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(curves), encoding="utf-8")
        torch.save(weights, Path(sys.argv[1]).with_suffix(".pt"))


if __name__ == "__main__":
    main()
