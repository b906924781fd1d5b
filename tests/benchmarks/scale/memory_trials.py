"""Peak memory of an audit and of its workers, whatever the number of films."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ravl_med.config.loading import Config
from tests.benchmarks.scale.audit_process import AuditRequest, watched_audit
from tests.benchmarks.scale.bright_halves import write_films

Progress = Callable[[str, int, int], None]

_WORKERS = 2


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """Peak resident memory of the processes of an audit, mapped files included.

    Attributes
    ----------
    films, regions : int - audited; regions of all of them
    workers : int
    run_mb : float - of the run itself, report and all
    worker_mb : float - of the largest worker
    reader_mb : float - of the largest process that reads films; 0 where none was seen
    correlations, tested : int - in the result; of them tested by counterfactuals
    seconds : float
    """

    films: int
    regions: int
    workers: int
    run_mb: float
    worker_mb: float
    reader_mb: float
    correlations: int
    tested: int
    seconds: float


def measure_memory(
    config: Config, sizes: Sequence[int], progress: Progress, *, workers: int = _WORKERS
) -> list[MemoryRow]:
    """Audit so many films, and so many, each in a process of its own that is watched.

    Everything is real but the tower, see `bright_halves`.

    Parameters
    ----------
    config : Config - its sections discovery, evidence, gate and report
    sizes : sequence of int - films
    progress : callable - called with (stage, done, total)
    workers : int - of the local engine
    """
    rows = []
    for films in sizes:
        with tempfile.TemporaryDirectory(prefix="ravl-scale-") as place:
            folder = Path(place)
            manifest = write_films(
                folder / "films",
                films,
                lambda done, total: progress("write films", done, total),
            )
            request = AuditRequest(
                _config(config, manifest, workers), folder / "cache", folder / "out", report=True
            )
            progress(f"memory of {films:,} films", 0, 1)
            start = time.perf_counter()
            with watched_audit(request) as process:
                told = process.wait()
            progress(f"memory of {films:,} films", 1, 1)
            peaks = process.peaks
            rows.append(
                MemoryRow(
                    films=told["films"],
                    regions=told["regions"],
                    workers=workers,
                    run_mb=round(max(peaks.run, told["peak_mb"]), 1),
                    worker_mb=round(max(peaks.workers.values(), default=0.0), 1),
                    reader_mb=round(max(peaks.readers.values(), default=0.0), 1),
                    correlations=told["correlations"],
                    tested=told["tested"],
                    seconds=round(time.perf_counter() - start, 1),
                )
            )
    return rows


def _config(config: Config, manifest: Path, workers: int) -> Config:
    told = config.model_dump(mode="json")
    told["cohort"] = {"manifest": manifest, "split": None, "workers": 1}
    told["task"] = {
        "name": "brighter half",
        "classes": {side: {"prompts": [side], "label": {side: 1}} for side in ("left", "right")},
    }
    told["model"] = {
        "factory": "tests.benchmarks.scale.bright_halves:open_model",
        "allow_code": True,
        "threads": 1,
        "device": "cpu",
    }
    told["regions"] = {"tiles": (4, 4)}
    told["engine"] = {"workers": workers}
    return Config.model_validate(told)
