"""Audits whose workers, or which themselves, are killed: the result is that of an untouched one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ravl_med.config.loading import Config
from ravl_med.errors import RavlMedError
from tests.benchmarks.audit_process import (
    ENGINES,
    AuditProcess,
    AuditTrials,
    audit_trials,
    watched_audit,
)
from tests.benchmarks.runner import Progress
from tests.benchmarks.tables import Row

_GAP = (6.0, 18.0)  # seconds between two kills of workers: about what one takes to do a unit again
_LOOK = 0.2  # seconds
_FRUITLESS = 3  # runs in a row in which nothing was hit, after which it is given up


def measure_chaos(
    config: Config,
    kills: int,
    progress: Progress,
    *,
    ray: bool = True,
    gap: tuple[float, float] = _GAP,
    seed: int = 0,
) -> Iterator[Row]:
    """Kill -9 workers, and whole runs, and compare what comes of it with an untouched run.

    Parameters
    ----------
    config : Config - as `phantom_audit` returns it
    kills : int - of workers, and of runs, for each engine
    ray : bool - Ray too
    gap : tuple of float - least and most seconds between two kills of workers
    seed : int - of moments and victims

    Raises
    ------
    RavlMedError
        A run failed, or nothing can be hit.
    """
    names = ["local, 2 workers", *(["Ray, 2 workers"] if ray else [])]
    with audit_trials(config) as trials:
        request = trials.request(engine={"workers": 2})
        with watched_audit(request) as process:
            untouched = process.wait()
        trials.expected = request.result.read_bytes()
        for number, name in enumerate(names):
            rng = np.random.default_rng([seed, 2 * number])
            chaos = _Chaos(trials, ENGINES[name], kills, rng)
            for killed in ("worker", "run"):

                def note(hits: int, stage: str = f"kill: {name}, {killed}") -> None:
                    progress(stage, hits, kills)

                start = time.perf_counter()
                count = chaos.kill_workers(gap, note) if killed == "worker" else (
                    chaos.kill_runs(untouched["timings"], note)
                )  # fmt: skip
                seconds = round(time.perf_counter() - start, 1)
                about = {"engine": name, "killed": killed, "films": untouched["films"]}
                yield {**about, **count.row(), "seconds": seconds}


@dataclass(slots=True)
class _Count:
    """What kills have met."""

    tries: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    same: int = 0

    def row(self) -> Row:
        hits = self.hits.total()
        inside = {stage: self.hits[stage] for stage in ("embedding", "counterfactuals")}
        return {
            "tries": self.tries,
            "hits": hits,  # kills that found something to kill
            **inside,
            "elsewhere": hits - sum(inside.values()),
            "runs": self.runs,
            "same": self.same,
        }


@dataclass(slots=True)
class _Chaos:
    """Kills of one engine."""

    trials: AuditTrials
    engine: Mapping[str, Any]
    kills: int
    rng: np.random.Generator

    def kill_workers(self, gap: tuple[float, float], note: Callable[[int], None]) -> _Count:
        """Kill random workers at random moments, in as many runs as that takes."""
        count, fruitless = _Count(), 0
        while count.hits.total() < self.kills:
            before = count.hits.total()
            request = self.trials.request(engine=self.engine)
            with watched_audit(request) as process:
                while self._sleep(process, self.rng.uniform(*gap)):
                    workers = process.workers()
                    if not workers or count.hits.total() >= self.kills:
                        continue
                    stage = _stage_of(process)
                    count.tries += 1
                    if process.kill_worker(int(self.rng.choice(workers))):
                        count.hits[stage] += 1
                        note(count.hits.total())
                process.wait()
            count.runs += 1
            count.same += self.trials.compare(request)
            fruitless = 0 if count.hits.total() > before else fruitless + 1
            gap = (gap[0] / 2, gap[1] / 2) if fruitless else gap
            _require_luck(fruitless)
        return count

    def kill_runs(self, seconds: Mapping[str, float], note: Callable[[int], None]) -> _Count:
        """Kill runs in turns: in the embedding, then in the counterfactuals, then let one finish.

        `seconds` are those of the stages of a run that nobody touched.
        """
        count, fruitless = _Count(), 0
        while count.hits.total() < self.kills:
            before = count.hits.total()
            request = self.trials.request(engine=self.engine)
            for stage, name in (("embedding", "embeddings"), ("counterfactuals",) * 2):
                if count.hits.total() >= self.kills:
                    break
                with watched_audit(request) as process:
                    while not process.ended() and _stage_of(process) != stage:
                        time.sleep(_LOOK)
                    if self._sleep(process, self.rng.uniform(0.0, seconds.get(name, 0.0))):
                        count.tries += 1
                        at = _stage_of(process)
                        if process.kill():
                            count.hits[at] += 1
                            note(count.hits.total())
            with watched_audit(request) as process:
                process.wait()
            count.runs += 1
            count.same += self.trials.compare(request)
            fruitless = 0 if count.hits.total() > before else fruitless + 1
            _require_luck(fruitless)
        return count

    def _sleep(self, process: AuditProcess, seconds: float) -> bool:
        """Sleep; say whether the run still goes on then."""
        until = time.monotonic() + seconds
        while not process.ended():
            if time.monotonic() >= until:
                return True
            time.sleep(min(_LOOK, seconds))
        return False


def _stage_of(process: AuditProcess) -> str:
    """Stage in which something is killed: with workers before any is named, it is the embedding."""
    stage = process.stage
    if stage.startswith("remove and transplant"):
        return "counterfactuals"
    if stage == "embed films and regions" or (not stage and process.workers()):
        return "embedding"
    return stage or "start"


def _require_luck(fruitless: int) -> None:
    if fruitless >= _FRUITLESS:
        raise RavlMedError(
            f"benchmark scale: in {fruitless} runs nothing could be killed; expected runs that "
            "last long enough. Raise --size chaos-films."
        )
