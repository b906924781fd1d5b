"""A mitigation under `torchrun`, of which a process, or all of it, is killed on the way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_mitigate import Workplace

SETTINGS = (
    "mitigation.epochs=6", "mitigation.checkpoint_steps=3", "mitigation.patience=20",
    "mitigation.learning_rate=1e-4", "mitigation.compare=[ravl]", "mitigation.heads=false",
    "model.threads=1",
)  # fmt: skip


class Launched:
    """`torchrun` with two processes."""

    def __init__(self, workplace: Workplace, out: str, *more: str) -> None:
        self.workplace, self.out = workplace, workplace.root / out
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        settings = [word for one in SETTINGS for word in ("--set", one)]
        self.log = (workplace.root / f"{out}.log").open("wb")
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
                "--master-addr", "127.0.0.1", "--master-port", port, "--max-restarts", "2",
                "-m", "ravl_med", "mitigate", str(workplace.root / "small.yaml"),
                "--audit", str(workplace.root / "with-generator"), "--out", str(self.out),
                "--set", f"cache.folder={workplace.cache.root}", *settings, *more,
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
                 "XDG_CONFIG_HOME": str(workplace.root / "user")},
            stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def wait_for_checkpoint(self) -> None:
        """Wait until the training is on its way; a checkpoint is written every third step."""
        folder = self.workplace.cache.root / "mitigations"
        until = time.monotonic() + 300
        while not list(folder.glob("*/ravl.ckpt")):
            assert time.monotonic() < until
            assert self.process.poll() is None
            time.sleep(0.02)

    def worker(self, rank: int) -> int:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                told = (folder / "environ").read_bytes().split(b"\0")
            except (OSError, IndexError):
                continue
            if parent == self.process.pid and f"RANK={rank}".encode() in told:
                return int(folder.name)
        raise AssertionError(rank)

    def weights(self) -> bytes:
        """Wait for the end, which is a good one whatever the verdict; return the new weights."""
        code = self.process.wait(600)
        self.log.close()
        assert code == 0, (self.workplace.root / f"{self.out.name}.log").read_text()[-3000:]
        return (self.out / "model" / "open_clip_model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_new_model_is_the_same_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    workplace = Workplace(tmp_path_factory.mktemp("lost"))
    workplace.audited_with(workplace.feature(), name="with-generator")
    straight = Launched(workplace, "straight").weights()

    def lose(rank: int) -> Callable[[Launched], None]:
        return lambda run: os.kill(run.worker(rank), signal.SIGKILL)

    for name, kill in (("first", lose(0)), ("other", lose(1))):
        run = Launched(workplace, name)
        run.wait_for_checkpoint()
        kill(run)
        assert run.weights() == straight, name
    whole = Launched(workplace, "whole")
    whole.wait_for_checkpoint()
    for pid in (whole.process.pid, whole.worker(0), whole.worker(1)):
        os.kill(pid, signal.SIGKILL)
    whole.process.wait(60)
    whole.log.close()
    assert Launched(workplace, "again", "--resume").weights() == straight
    assert not list((workplace.cache.root / "mitigations").iterdir())
