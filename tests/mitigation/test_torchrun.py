"""Processes that `torchrun` has started learn what one would, and go on after one of them is lost.

The figures of all arms, both precisions and four processes: `pytest -n 0 -s -m slow` on this file.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loss_curves import learn_all

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
ARMS = ("standard", "ravl", "vl_gdro", "spurious_aware", "counterfactual", "ravl@checkpointed")
FEW = ("vl_gdro", "ravl", "ravl@checkpointed")
HALF = ("ravl@bf16", "counterfactual@bf16", "spurious_aware@bf16")


def run(command: list[str], **more: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}
    environment.pop("LOCAL_WORLD_SIZE", None)
    outcome = subprocess.run(
        command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=600
    )
    assert outcome.returncode == 0, outcome.stderr[-3000:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def launcher(processes: int, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes),
        "--master-addr", "127.0.0.1", "--master-port", str(free_port()), *more,
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in each process that is started here: sums are in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def learned(
    folder: Path, processes: int, arms: tuple[str, ...], *, forked: bool = False
) -> tuple[dict[str, Any], Any]:
    """What several processes say of arms, and the weights that they end with."""
    path = folder / f"{processes}.json"
    script = [str(HERE / "loss_curves.py"), str(path), *arms]
    if forked:
        how = {"FORKED_PROCESSES": str(processes), "MASTER_PORT": str(free_port())}
        run([sys.executable, *script], **how)
    else:
        run([*launcher(processes), *script])
    told = json.loads(path.read_text(encoding="utf-8"))
    return told, torch.load(path.with_suffix(".pt"), weights_only=True)


@pytest.mark.parametrize(
    ("arms", "forked"), [(FEW, True), pytest.param(ARMS, False, marks=pytest.mark.slow)]
)
def test_two_processes_learn_what_one_would(
    tmp_path: Path, arms: tuple[str, ...], forked: bool
) -> None:
    """Forked, they import once; what `torchrun` starts itself takes three times as long."""
    alone, weights = learn_all(arms)
    together, other = learned(tmp_path, 2, arms, forked=forked)
    # The first process decides which epoch was the best; else their weights would part.
    assert alone["agreed"] == together["agreed"] == [0, "budget", 0.0]
    assert alone["refusal"] == [None]
    assert "2 processes with mitigation.freeze_norms false; expected true" in together["refusal"][0]
    for arm in arms:
        assert len(alone[arm]) == 6
        assert len(set(alone[arm])) == 6
        assert together[arm] == pytest.approx(alone[arm], abs=1e-4), arm
        # Adam moves a weight whose gradient is nothing but rounding by a whole step.
        apart = (weights[arm] - other[arm]).abs()
        assert apart.mean() < 1e-6, arm
        assert (apart > 1e-5).double().mean() < 5e-3, arm
    # Computed again for the gradients, it is the same.
    assert together["ravl@checkpointed"] == pytest.approx(together["ravl"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_in_both_precisions(tmp_path: Path, processes: int) -> None:
    arms = (*ARMS, *HALF)
    alone: dict[str, Any]
    alone, weights = learn_all(arms)
    together, other = learned(tmp_path, processes, arms)
    assert together["agreed"] == [0, "budget", 0.0]
    for arm in arms:
        apart = (weights[arm] - other[arm]).abs()
        losses = zip(alone[arm], together[arm], strict=True)
        worst = max(abs(a - b) / abs(a) for a, b in losses)
        print(f"{processes} processes, {arm}: losses {worst:.1e} of their size, weights mean "  # noqa: T201
              f"{apart.mean():.1e}, largest {apart.max():.1e}")  # fmt: skip
        rough = arm in HALF  # a product of two halves of a batch is rounded to 8 bits twice
        assert worst < (5e-3 if rough else 1e-5), arm
        assert apart.mean() < (1e-4 if rough else 1e-6), arm


def goes_on(folder: Path, processes: int, *how: str) -> dict[str, Any]:
    """Train in processes of which one is killed; `torchrun` starts them again."""
    folder.mkdir()
    run([*launcher(processes, "--max-restarts", "1"), "resumed_training.py", str(folder), *how])
    ended: dict[str, Any] = torch.load(folder / "weights.pt", weights_only=True)
    return ended


def require_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Bit for bit."""
    assert len(one["losses"]) == 12
    assert one["losses"] == other["losses"]
    assert one["best"] == other["best"]
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "how"),
    [
        (2, ("step", "5")),  # amid an epoch
        (2, ("write", "3")),
        (2, ("epoch", "2")),
        (4, ("step", "5")),
        (4, ("write", "4")),
    ],
)
def test_a_process_that_is_killed_leaves_the_same_weights(
    tmp_path: Path, processes: int, how: tuple[str, str]
) -> None:
    straight = goes_on(tmp_path / "straight", processes, "step", "99")
    require_same(straight, goes_on(tmp_path / "killed", processes, *how))
