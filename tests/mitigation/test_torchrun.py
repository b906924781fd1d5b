"""Two processes learn what one would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ARMS = ("standard", "ravl", "vl_gdro", "spurious_aware", "counterfactual")


def run(command: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment.pop("LOCAL_WORLD_SIZE", None)
    outcome = subprocess.run(
        command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=300
    )
    assert outcome.returncode == 0, outcome.stderr[-3000:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_two_processes_learn_what_one_would(tmp_path: Path) -> None:
    script, one, two = str(HERE / "loss_curves.py"), tmp_path / "one.json", tmp_path / "two.json"
    run([sys.executable, script, str(one), *ARMS])
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--master-addr", "127.0.0.1", "--master-port", str(free_port()),
    ]  # fmt: skip
    run([*launcher, script, str(two), *ARMS])
    alone, together = (json.loads(path.read_text(encoding="utf-8")) for path in (one, two))
    # The first process decides which epoch was the best; else their weights would part.
    assert alone["agreed"] == together["agreed"] == [0, "budget", 0.0]
    assert alone["refusal"] == [None]
    assert "2 processes with mitigation.freeze_norms false; expected true" in together["refusal"][0]
    for arm in ARMS:
        assert len(alone[arm]) == 6
        assert len(set(alone[arm])) == 6
        assert together[arm] == pytest.approx(alone[arm], abs=1e-4), arm
