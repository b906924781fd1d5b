"""One audit by every engine: who does the work changes no byte of ``result.json``."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from ravl_med.config.loading import Config
from tests.benchmarks.scale.audit_process import watched_audit
from tests.benchmarks.scale.phantom_audits import ENGINES, audit_trials

Progress = Callable[[str, int, int], None]

_SHARDS = 7


@dataclass(frozen=True, slots=True)
class SameRow:
    """An audit, and whether its ``result.json`` is that of a run without workers.

    Attributes
    ----------
    engine : str
    films, regions : int - audited
    correlations, tested : int - in the result; those of them that were tested by counterfactuals
    seconds : float - of the whole run
    size : int - bytes of ``result.json``
    digest : str - first digits of its SHA-256
    same : bool
    """

    engine: str
    films: int
    regions: int
    correlations: int
    tested: int
    seconds: float
    size: int
    digest: str
    same: bool


def measure_sameness(config: Config, progress: Progress, *, ray: bool = True) -> list[SameRow]:
    """Audit the same films by every engine, and after seven shards, and compare what was written.

    Parameters
    ----------
    config : Config - as `phantom_audit` returns it
    progress : callable - called with (stage, done, total)
    ray : bool - Ray too
    """
    engines = {name: engine for name, engine in ENGINES.items() if ray or "Ray" not in name}
    engines[f"{_SHARDS} shards, then an audit"] = {}
    rows: list[SameRow] = []
    with audit_trials(config) as trials:
        for name, engine in engines.items():
            progress("the same result", len(rows), len(engines))
            shards = 0 if engine else _SHARDS
            request = trials.request(engine=engine, shards=shards, report=True)
            start = time.perf_counter()
            with watched_audit(request) as process:
                told = process.wait()
            seconds = time.perf_counter() - start
            written = request.result.read_bytes()
            trials.expected = trials.expected or written
            rows.append(
                SameRow(
                    engine=name,
                    films=told["films"],
                    regions=told["regions"],
                    correlations=told["correlations"],
                    tested=told["tested"],
                    seconds=round(seconds, 1),
                    size=len(written),
                    digest=hashlib.sha256(written).hexdigest()[:16],
                    same=trials.compare(request),
                )
            )
    progress("the same result", len(engines), len(engines))
    return rows
