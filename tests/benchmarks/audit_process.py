"""Audits of phantoms, each in a process of its own that is watched from outside.

Its stage, its workers and their memory are seen, and it can be killed.
`python -m tests.benchmarks.audit_process REQUEST` is that process.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ravl_med.cohort.film import FilmReader
from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError, RavlMedError
from ravl_med.pipeline.stages import Run, prepare_manifest, prepare_model
from ravl_med.storage.cache import Cache
from tests.benchmarks.processes import peak_mb
from tests.benchmarks.runner import Progress

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
    folder : Path - for its result, and what it writes meanwhile
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
        content = {
            "config": json.loads(self.config.model_dump_json()),
            "cache": str(self.cache),
            "folder": str(self.folder),
            "shards": self.shards,
            "report": self.report,
        }
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> AuditRequest:
        """Read what `write` wrote."""
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            Config.model_validate(content["config"]),
            Path(content["cache"]),
            Path(content["folder"]),
            content["shards"],
            content["report"],
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
        for name in ("stage", "summary.json"):
            (request.folder / name).unlink(missing_ok=True)
        # What a killed run leaves in it goes too; short, since Ray's sockets lie below.
        self._temporary = tempfile.mkdtemp(prefix="rs")
        with (request.folder / _ERRORS).open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.audit_process", asked],
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
        """Say whether the run has ended; look at the memory of its processes if not."""
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
        """Wait for the end, and return the summary of the run.

        Raises
        ------
        RavlMedError
            The run failed.
        """
        while not self.ended():
            time.sleep(_POLL)
        if self._process.returncode:
            lines = (self.request.folder / _ERRORS).read_text(encoding="utf-8").strip().splitlines()
            message = lines[-1] if lines else "no message"
            raise RavlMedError(f"benchmark scale: a run failed: {message[:400]}")
        text = (self.request.folder / "summary.json").read_text(encoding="utf-8")
        return dict(json.loads(text))

    def workers(self) -> list[int]:
        """Return the processes that hold a model for the run, or open one."""
        return sorted(p for p, line in _descendants(self.pid).items() if _is_worker(line))

    def kill_worker(self, process: int) -> bool:
        """Kill -9 a worker; say whether it was there."""
        return _kill(process)

    def kill(self) -> bool:
        """Kill -9 the run, wait until its processes are gone too; say whether it was there.

        Ray's two agents are not waited for: they do no work, and are gone after a minute in which
        they try to report the death of their node.
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
    """Command line of a process; blank where it is gone or has ended."""
    try:
        line = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return ""
    return line.replace(b"\0", b" ").decode("utf-8", "replace").strip()


def _peak_of(process: int) -> float:
    """Peak resident memory of a process in MB; 0 where it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except (OSError, IndexError, ValueError):
        return 0.0


ENGINES: Mapping[str, Mapping[str, Any]] = {
    "local, no worker": {"workers": 0},
    "local, 1 worker": {"workers": 1},
    "local, 2 workers": {"workers": 2},
    "Ray, 1 worker": {"kind": "ray", "workers": 1},
    "Ray, 2 workers": {"kind": "ray", "workers": 2},
}
"""Who may do the work, as the section ``engine`` of a config."""


def phantom_audit(config: Config, films: int, cache: Cache, progress: Progress) -> Config:
    """Make phantoms and a quickstart model, and return an audit that takes them as it takes films.

    Parameters
    ----------
    config : Config - with ``cohort.synthetic`` and ``model.quickstart``
    films : int - phantoms, of which 3 in 11 are audited
    cache : Cache - where both are kept

    Raises
    ------
    ConfigError
        The config is not one of a quickstart model.
    """
    if config.cohort.synthetic is None or config.model.quickstart is None:
        raise ConfigError(
            "benchmark scale: expected a config with cohort.synthetic and model.quickstart, such "
            "as configs/quickstart.yaml."
        )
    synthetic = config.cohort.synthetic.model_copy(update={"images": films})
    whole = config.model_copy(
        update={"cohort": config.cohort.model_copy(update={"synthetic": synthetic})}
    )
    run = Run(cache, progress)
    manifest = prepare_manifest(whole, run)
    model, _ = prepare_model(whole, manifest, FilmReader.of(whole.cohort), run)
    return _changed(
        whole,
        cohort={"synthetic": None, "manifest": manifest, "workers": 1},
        model={"quickstart": None, "path": model, "threads": 1, "device": "cpu"},
        privacy={"burned_in_text": "show"},  # no patients, as when they are made by the audit
    )


def _changed(config: Config, **sections: Mapping[str, Any]) -> Config:
    content = config.model_dump(mode="json")
    for name, values in sections.items():
        content[name] = {**content[name], **values}
    return Config.model_validate(content)


@dataclass(slots=True)
class AuditTrials:
    """Audits of one cohort one after the other, each with a cache of its own.

    Attributes
    ----------
    config : Config
    place : Path - folder of all of them
    count : int - that were asked for
    expected : bytes - of the result that the others are held against
    """

    config: Config
    place: Path
    count: int = 0
    expected: bytes = b""

    def request(self, **more: Any) -> AuditRequest:
        """Return a request with an empty cache."""
        self.count += 1
        folder = self.place / f"{self.count:03d}"
        config = _changed(self.config, engine=more.pop("engine", {}))
        return AuditRequest(config, folder / "cache", folder, **more)

    def compare(self, request: AuditRequest) -> bool:
        """Say whether a result is the expected one, and take the run away."""
        found = request.result.read_bytes()
        shutil.rmtree(request.folder)
        return found == self.expected


@contextmanager
def audit_trials(config: Config) -> Iterator[AuditTrials]:
    """Yield the audits of a config; what they have written goes in the end.

    Parameters
    ----------
    config : Config - as `phantom_audit` returns it
    """
    with tempfile.TemporaryDirectory(prefix="ravl-scale-", ignore_cleanup_errors=True) as place:
        yield AuditTrials(config, Path(place))


def _run(request: AuditRequest) -> None:
    """Do what was asked for: what the process does."""
    from ravl_med.evidence.audit_result import result_document
    from ravl_med.pipeline.audit import audit
    from ravl_med.pipeline.shards import Shard, embed
    from ravl_med.reporting.files.audit_run import write_run

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
    summary = {
        "timings": run.timings,
        "peak_mb": peak_mb(),
        "films": len(run.cohort),
        "regions": len(run.result.region_image),
        "verdict": run.result.verdict.name,
        "correlations": len(correlations),
        "tested": sum(entry.counterfactual is not None for entry in correlations),
    }
    (request.folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


if __name__ == "__main__":
    try:
        _run(AuditRequest.read(Path(sys.argv[1])))
    except RavlMedError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(1)
