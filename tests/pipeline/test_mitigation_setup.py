"""Who may work in a folder, and what is kept there from run to run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from ravl_med.mitigation.distributed import Processes, make_fabric
from ravl_med.pipeline import mitigation_setup
from ravl_med.pipeline.mitigation_setup import WorkFolder, open_work_folder, torchrun_starts_again
from ravl_med.storage.cache import Cache

RELEVANCE = Path(__file__).parents[2] / "configs" / "relevance" / "chest.yaml"


def config(**sections: Any) -> Config:
    return Config.model_validate(
        {
            "name": "small",
            "cohort": {"synthetic": {}},
            "task": {"name": "t", "classes": {c: {"prompts": [c]} for c in ("one", "two")}},
            "model": {"quickstart": {}},
            "evidence": {"relevance": RELEVANCE},
            **sections,
        }
    )


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., WorkFolder]:
    """Open a folder as a run would, with a film in it, and let go of its lock as at its end."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)

    def opened(of: Config | None = None, *, resume: bool = False) -> WorkFolder:
        processes = Processes(make_fabric())
        made = open_work_folder(of or config(), Cache(tmp_path), processes, resume=resume)
        assert made.lock is not None
        made.lock.close()
        return made

    return opened


def left(made: WorkFolder) -> None:
    (made.folder / "finetune").mkdir()
    (made.folder / "finetune" / "a.gray").write_bytes(b"film")
    (made.folder / ".arm.ckpt.12345678.partial").write_bytes(b"half")


def is_kept(made: WorkFolder) -> bool:
    assert not list(made.folder.glob(".*.partial"))
    return (made.folder / "finetune" / "a.gray").is_file()


def test_only_what_is_asked_for_is_kept(work: Callable[..., WorkFolder]) -> None:
    first = work()
    assert first.folder.stat().st_mode & 0o777 == 0o700
    left(first)
    again = work(resume=True)
    assert again.folder == first.folder
    assert is_kept(again)
    assert not is_kept(work())


def test_what_torchrun_starts_again_goes_on(
    work: Callable[..., WorkFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    left(work())
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert is_kept(work())
    # A node that was replaced counts from 0; its run has the same name.
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    made = work()
    assert not is_kept(made)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "4711")
    work()
    left(made)
    assert is_kept(work())
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "4712")
    assert not is_kept(work())


def test_who_does_the_work_makes_no_other_run(work: Callable[..., WorkFolder]) -> None:
    folder = work().folder
    assert work(config(engine={"workers": 3})).folder == folder
    assert work(config(mitigation={"gradient_checkpointing": True})).folder == folder
    assert work(config(mitigation={"learning_rate": 1e-3})).folder != folder


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    processes, cache = Processes(make_fabric()), Cache(tmp_path)
    first = open_work_folder(config(), cache, processes, resume=False)
    (first.folder / "film").write_bytes(b"of the first")
    for resume in (False, True):
        with pytest.raises(
            ConfigError,
            match=r"another run of the same config is at work in cache\.folder; expected",
        ):
            open_work_folder(config(), cache, processes, resume=resume)
    assert (first.folder / "film").read_bytes() == b"of the first"
    first.remove()
    assert not first.folder.exists()
    open_work_folder(config(), cache, processes, resume=False).remove()


@pytest.mark.long
def test_a_killed_run_lets_go_of_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import os, sys; from pathlib import Path;"
        "from ravl_med.pipeline.mitigation_setup import _take;"
        "held = _take(Path(sys.argv[1]), 0.0); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], timeout=120).returncode == -9
    mitigation_setup._take(path, 0.0).close()


def test_a_folder_that_some_processes_do_not_see_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes of another node look into a folder of that node."""
    monkeypatch.setattr(mitigation_setup, "_PATIENCE", 0.2)
    there = SimpleNamespace(global_rank=1)

    class Nodes(Processes):
        def ask(self, job: Any) -> list[Any]:
            if job is mitigation_setup._restarts:
                return [job(self.fabric)] * 4
            elsewhere = job.func, tmp_path / "elsewhere" / job.args[0].name, job.args[1]
            others = [elsewhere[0](*elsewhere[1:], there) for _ in range(3)]
            return [job(self.fabric), *others]

    with pytest.raises(
        ConfigError,
        match=r"cache\.folder: 3 of 4 processes do not see the folder .* Name it in cache",
    ):
        open_work_folder(config(), Cache(tmp_path), Nodes(make_fabric()), resume=False)


@pytest.mark.parametrize(("told", "again"), [(None, False), ("0", False), ("3", True)])
def test_torchrun_says_whether_it_would_start_again(
    told: str | None, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHELASTIC_MAX_RESTARTS", raising=False)
    if told is not None:
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", told)
    assert torchrun_starts_again() is again
