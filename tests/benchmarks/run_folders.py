"""Run folders under reruns and kills: nothing of the user's is touched, and a run stays whole."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ravl_med.errors import ConfigError
from ravl_med.reporting.files import run_folder
from ravl_med.reporting.files.run_folder import draft_folder, prepare_folder, write_json
from tests.benchmarks.runner import Part, Setup
from tests.benchmarks.tables import Column, Row, Table, Target

Progress = Callable[[str, int, int], None]

_FOREIGN = ("report signed.pdf", "notes.txt", "private/notes.txt", "figures/mine.png", ".hidden",
            "review copy.csv")  # fmt: skip
_OWN = ("review.csv", "report.pdf", "private/key.csv")
_FILES = (*_OWN, "result.json", "private/archive.npz", "figures/1.png")
_STEPS = ("rename", "_exchange")  # at which runs are killed by fault injection


def write_run(target: Path, note: str, *, replace: bool = False, wait: float = 0.0) -> None:
    """Write a run of a few files into a folder; `wait` seconds pass after each."""
    with draft_folder(target, replace=replace) as draft:
        for name in _FILES:
            (draft / name).parent.mkdir(mode=0o700, exist_ok=True)
            (draft / name).write_text(f"{note} {name}\n" * 50, encoding="utf-8")
            time.sleep(wait)
        write_json(draft / "run.json", {"tool": {"name": "ravl-med"}, "note": note})


def contents(folder: Path) -> dict[str, str]:
    """Return the digests of all files below a folder by path; of a link where it leads."""
    return {
        path.relative_to(folder).as_posix(): path.readlink().as_posix()
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def measure_reruns(reruns: int, seed: int, progress: Progress) -> Iterator[Row]:
    """Run into folders that hold files of others, with and without ``--replace``."""
    rng = random.Random(seed)
    refused = named = touched = lost = 0
    with tempfile.TemporaryDirectory() as root:
        for number in range(reruns):
            target = Path(root) / str(number) / "run"
            target.parent.mkdir()
            write_run(target, "1")
            theirs = _lay(target, rng)
            before = contents(target)
            try:
                write_run(target, "2")
            except ConfigError as error:
                refused += 1
                named += any(name in str(error) for name in theirs)
            touched += sum(contents(target).get(name) != before[name] for name in theirs)
            write_run(target, "3", replace=True)
            aside = [path for path in target.parent.iterdir() if path != target]
            lost += len(aside) != 1 or contents(aside[0]) != before
            progress("reruns", number + 1, reruns)
    yield {"reruns": reruns, "refused": refused, "named": named, "touched": touched, "lost": lost}


def _lay(target: Path, rng: random.Random) -> list[str]:
    """Lay files of a user into a run folder, or change some; return their names."""
    names = rng.sample(_FOREIGN + _OWN, rng.randint(1, 4))
    for name in names:
        path = target / name
        if name == ".hidden" and rng.random() < 0.5:
            path.symlink_to("/etc/hostname")
        else:
            path.write_bytes(rng.randbytes(rng.choice((0, 10, 5000))))
    return names


def measure_kills(kills: int, at_renames: int, seed: int, progress: Progress) -> Iterator[Row]:
    """Kill runs at any moment, and some at each of their renames, and run again."""
    rng = random.Random(seed)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder) / "a", "0", wait=0.02)
    usual = time.perf_counter() - start
    for how, count in (("at any moment", kills - at_renames), ("at a rename", at_renames)):
        met: Counter[str] = Counter()
        tries = 0
        while met["kills"] < count and tries < 10 * count:
            tries += 1
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder) / "run"
                write_run(target, "1")
                step = 0 if how == "at any moment" else 1 + tries % 3
                death = _Death(step, then=tries % 4 > 1, exchange=tries % 2 == 0)
                if _killed(target, death, rng.uniform(0, 1.2 * usual)):
                    met["kills"] += 1
                    prepare_folder(target)
                    left = contents(target)
                    note = next((n for n in ("1", "2") if _whole(target, n)), "")
                    met["earlier" if note == "1" else "new"] += bool(note)
                    met["broken"] += not note or len(left) != len(_FILES) + 2
                    write_run(target, "3")
                    met["left"] += len([*Path(folder).iterdir()]) - 1
                    progress(f"kills {how}", met["kills"], count)
        names = ("kills", "earlier", "new", "broken", "left")
        yield {"how": how, **{name: met[name] for name in names}}


def _whole(target: Path, note: str) -> bool:
    """Whether all files of a run are there as that run wrote them."""
    return all(
        (target / name).is_file()
        and (target / name).read_text(encoding="utf-8") == f"{note} {name}\n" * 50
        for name in _FILES
    )


@dataclass(frozen=True, slots=True)
class _Death:
    """Where a run is killed by fault injection."""

    step: int  # of those that give folders their names, the first being 1; 0: at none
    then: bool  # right after it, not right before
    exchange: bool  # the system can exchange two folders in one step


def _killed(target: Path, death: _Death, after: float) -> bool:
    """Run in a process that is killed at a step, or after some seconds; say whether it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads
        child = os.fork()
    if not child:
        try:
            _prepare(death)
            write_run(target, "2", wait=0.0 if death.step else 0.02)
        finally:
            os._exit(0)
    if not death.step:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _prepare(death: _Death) -> None:
    """Let this process, which is there for this alone, kill itself at a step."""
    done = 0

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            done += 1
            own = done == death.step
            if own and not death.then:
                os.kill(os.getpid(), signal.SIGKILL)
            made = real(*arguments, **options)
            if own:
                os.kill(os.getpid(), signal.SIGKILL)
            return made

        return step

    if death.step and not death.exchange:  # as on a system that cannot
        run_folder._exchange = lambda one, other: False
    for owner, name in zip((Path, run_folder), _STEPS, strict=True):
        setattr(owner, name, dying(getattr(owner, name)))


def _reruns(setup: Setup) -> Iterator[Row]:
    return measure_reruns(setup.size("reruns"), 0, setup.progress)


def _kills(setup: Setup) -> Iterator[Row]:
    return measure_kills(setup.size("kills"), setup.size("at-renames"), 0, setup.progress)


PARTS = (
    Part(
        "reruns",
        "Runs into folders with files of others",
        "One to four files are laid into a run folder or changed there (a signed PDF, notes, an "
        "edited review, a link), and a run goes there again: it has to stop, to name one of them, "
        "and to touch none. With `--replace` the earlier run has to lie beside the new one, whole.",
        [
            Table(
                Column("reruns", "{reruns}"),
                Column("refused", "{refused}"),
                Column("with a name", "{named}"),
                Target("touched", 0).beside("files touched", "{touched}"),
                Target("lost", 0).beside("not whole beside it", "{lost}", "target ", "met "),
            )
        ],
        _reruns,
        {"reruns": 200},
    ),
    Part(
        "kills",
        "Kills",
        "A run into the folder of an earlier one is killed (SIGKILL): after a random time, or, by "
        "fault injection, at one of the steps that give folders their names, with and without a "
        "system that exchanges two in one step. The next run's preparation has to find the earlier "
        "or the new one whole, and the next run has to leave nothing beside itself.",
        [
            Table(
                Column("killed", "{how}"),
                Column("kills", "{kills}"),
                Column("the earlier run is there", "{earlier}"),
                Column("the new one is", "{new}"),
                Target("broken", 0).beside("neither, whole", "{broken}"),
                Target("left", 0).beside("left beside", "{left}", "target ", "met "),
            )
        ],
        _kills,
        {"kills": 60, "at-renames": 20},
    ),
)
