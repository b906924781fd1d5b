"""An audit in a process of its own, watched from outside: its stage, its workers, their memory.

`python -m ravl_med.evaluation.scale.audit_process REQUEST` is that process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ravl_med.config.loading import Config
from ravl_med.errors import RavlMedError

_ERRORS = "errors.txt"
_POLL = 0.3  # seconds
_ENDS = 30.0  # seconds in which what a killed run leaves behind has to be gone


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """What a process is asked to do.

    Attributes
    ----------
    config : Config
    cache : Path - root of the cache
    folder : Path - for its result, and what it tells meanwhile
    shards : int - embedded one after the other before the audit; 0: none
    report : bool - draw the report too, and write ``result.json`` as a run folder has it
    """

    config: Config
    cache: Path
    folder: Path
    shards: int = 0
    report: bool = False

    @property
    def result(self) -> Path:
        """Path of ``result.json``."""
        return self.folder / "run" / "result.json"

    def write(self) -> Path:
        """Write what the process reads."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "request.json"
        told = {
            "config": json.loads(self.config.model_dump_json()),
            "cache": str(self.cache),
            "folder": str(self.folder),
            "shards": self.shards,
            "report": self.report,
        }
        path.write_text(json.dumps(told), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> AuditRequest:
        """Read what `write` wrote."""
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            Config.model_validate(told["config"]),
            Path(told["cache"]),
            Path(told["folder"]),
            told["shards"],
            told["report"],
        )


@dataclass(slots=True)
class ProcessPeaks:
    """Peak resident memory of the processes of a run, MB, as far as it was seen.

    Attributes
    ----------
    run : float - the run itself
    workers : dict of process to float - those that hold the model
    readers : dict of process to float - those that read films for them
    """

    run: float = 0.0
    workers: dict[int, float] = field(default_factory=dict)
    readers: dict[int, float] = field(default_factory=dict)


class AuditProcess:
    """A run on its way."""

    def __init__(self, request: AuditRequest) -> None:
        self.request = request
        self.peaks = ProcessPeaks()
        asked = request.write()
        for name in ("stage", "told.json"):
            (request.folder / name).unlink(missing_ok=True)
        # What a killed run leaves in it goes too; short, since Ray's sockets lie below.
        self._temporary = tempfile.mkdtemp(prefix="rs")
        with (request.folder / _ERRORS).open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.scale.audit_process", asked],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "TMPDIR": self._temporary},
            )

    @property
    def pid(self) -> int:
        """The process of the run."""
        return self._process.pid

    @property
    def stage(self) -> str:
        """Stage that the run is in, as its progress calls it; blank before the first."""
        try:
            return (self.request.folder / "stage").read_text(encoding="utf-8")
        except OSError:
            return ""

    def ended(self) -> bool:
        """Tell whether the run has ended; look at the memory of its processes if not."""
        if self._process.poll() is not None:
            return True
        self.peaks.run = max(self.peaks.run, _peak_of(self.pid))
        for process, command in _descendants(self.pid).items():
            kinds = ((_is_worker, self.peaks.workers), (_is_reader, self.peaks.readers))
            for is_one, peaks in kinds:
                if is_one(command):
                    peaks[process] = max(peaks.get(process, 0.0), _peak_of(process))
        return False

    def wait(self) -> dict[str, Any]:
        """Wait for the end, and return what the run has told.

        Raises
        ------
        RavlMedError
            The run failed.
        """
        while not self.ended():
            time.sleep(_POLL)
        if self._process.returncode:
            lines = (self.request.folder / _ERRORS).read_text(encoding="utf-8").strip().splitlines()
            told = lines[-1] if lines else "no message"
            raise RavlMedError(f"benchmark scale: a run failed: {told[:400]}")
        text = (self.request.folder / "told.json").read_text(encoding="utf-8")
        return dict(json.loads(text))

    def workers(self) -> list[int]:
        """Return the processes that hold a model for the run, or open one."""
        return sorted(p for p, words in _descendants(self.pid).items() if _is_worker(words))

    def kill_worker(self, process: int) -> bool:
        """Kill -9 a worker; tell whether it was there."""
        return _kill(process)

    def kill(self) -> bool:
        """Kill -9 the run, wait until its processes are gone too; tell whether it was there.

        Ray's two agents are not waited for: they do no work, and are gone after a minute in which
        they try to tell of the death of their node.
        """
        below = _descendants(self.pid)
        own = {process: _started(process) for process in below if not _is_agent(below[process])}
        there = self._process.poll() is None and _kill(self.pid)
        self._process.wait()
        deadline = time.monotonic() + _ENDS
        while any(began and _started(process) == began for process, began in own.items()):
            if time.monotonic() > deadline:
                raise RavlMedError(
                    "benchmark scale: processes of a killed run are still there after "
                    f"{_ENDS:g} s; expected them to end with it."
                )
            time.sleep(_POLL)
        shutil.rmtree(self._temporary, ignore_errors=True)
        return there


@contextmanager
def watched_audit(request: AuditRequest) -> Iterator[AuditProcess]:
    """Start a run; whatever happens, it does not outlive this."""
    process = AuditProcess(request)
    try:
        yield process
    finally:
        process.kill()


def _kill(process: int) -> bool:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _is_worker(command: str) -> bool:
    of_ray = command.startswith("ray::") and "_Worker" in command
    return of_ray or "ravl_med.engine.local" in command


def _is_reader(command: str) -> bool:
    return "ravl_med.cohort.reading_worker" in command


def _is_agent(command: str) -> bool:
    """Whether it is one of the agents beside a node of Ray, under its name or as it was started."""
    return (
        re.search(r"^ray::\w+Agent|^\S*python[\d.]* .*ray/\S*(agent|agent/main)\.py", command)
        is not None
    )


def _started(process: int) -> str:
    """When a process was started, in ticks: a number is given again; blank where it has ended."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def _descendants(process: int) -> dict[int, str]:
    """Commands of the processes below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(state[1]), []).append(int(entry.name))
    found: dict[int, str] = {}
    waiting = list(children.get(process, ()))
    while waiting:
        one = waiting.pop()
        found[one] = _command_of(one)
        waiting += children.get(one, ())
    return found


def _command_of(process: int) -> str:
    """Words of a process; blank where it is gone or has ended."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return ""
    return words.replace(b"\0", b" ").decode("utf-8", "replace").strip()


def _peak_of(process: int) -> float:
    """Peak resident memory of a process in MB; 0 where it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except (OSError, IndexError, ValueError):
        return 0.0


def _run(request: AuditRequest) -> None:
    """Do what was asked for: what the process does."""
    from ravl_med.evidence.audit_result import result_document
    from ravl_med.pipeline.audit import audit
    from ravl_med.pipeline.shards import Shard, embed
    from ravl_med.reporting.files.audit_run import write_run
    from ravl_med.storage.cache import Cache
    from tests.benchmarks.peak_memory import peak_mb

    cache, last = Cache(request.cache), ""

    def note(stage: str, done: int, total: int) -> None:
        nonlocal last
        if stage != last:
            last = stage
            (request.folder / "stage").write_text(stage, encoding="utf-8")

    for number in range(request.shards, 0, -1):
        embed(request.config, shard=Shard(number, request.shards), cache=cache, progress=note)
    run = audit(request.config, key=b"scale" * 8, cache=cache, progress=note)
    if request.report:
        write_run(run, request.result.parent, date=None, history_root=None)
    else:
        request.result.parent.mkdir(exist_ok=True)
        document = result_document(run.result, request.config.report.regions_listed)
        request.result.write_text(document.model_dump_json(indent=2) + "\n", encoding="utf-8")
    correlations = run.result.correlations
    told = {
        "timings": run.timings,
        "peak_mb": peak_mb(),
        "films": len(run.cohort),
        "regions": len(run.result.region_image),
        "verdict": run.result.verdict.name,
        "correlations": len(correlations),
        "tested": sum(entry.counterfactual is not None for entry in correlations),
    }
    (request.folder / "told.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    try:
        _run(AuditRequest.read(Path(sys.argv[1])))
    except RavlMedError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(1)
