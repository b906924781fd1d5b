"""A run in a process of its own: its workers are seen, measured and killed, and nothing is left."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ravl_med.config.loading import Config, load_config
from ravl_med.errors import ConfigError, RavlMedError
from ravl_med.storage.cache import Cache
from tests.benchmarks import audit_process
from tests.benchmarks.audit_process import AuditRequest, phantom_audit, watched_audit
from tests.benchmarks.bright_halves import audit_config, measure_memory, write_films
from tests.benchmarks.runner import QUICKSTART, silent

SMALL = (
    "discovery.clusters=[4, 8]", "discovery.draws=1", "discovery.min_strength=0",
    "discovery.min_influence=0", "evidence.fdr=0.9",
    "evidence.permutations=99", "evidence.draws=2000", "evidence.simulations=20",
    "evidence.effect_films=20", "evidence.dependence_films=0", "evidence.max_pairs=10",
    "evidence.min_pairs=2", "evidence.min_n=2",
    "gate.min_auroc=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    manifest = write_films(tmp_path_factory.mktemp("films"), 240)
    return audit_config(load_config(QUICKSTART, SMALL), manifest, 1)


@pytest.mark.slow
def test_memory_is_that_of_each_process_of_a_whole_audit() -> None:
    steps: list[tuple[str, int, int]] = []
    (row,) = measure_memory(
        load_config(QUICKSTART, SMALL), [240], lambda *step: steps.append(step), workers=1
    )
    assert (row["films"], row["regions"], row["workers"]) == (240, 3_840, 1)
    assert row["correlations"] >= 1
    assert 200 < row["worker_mb"] < row["run_mb"] < 3_000
    assert 0 <= row["reader_mb"] < row["worker_mb"]
    assert steps[-1] == ("memory of 240 films", 1, 1)


@pytest.mark.parametrize(("command", "is_one"), [
    ("ray::DashboardAgent", True),
    ("/venv/bin/python -u /venv/lib/python3.11/site-packages/ray/dashboard/agent.py --x", True),
    ("/usr/bin/python3.11 -u /lib/ray/_private/runtime_env/agent/main.py --x", True),
    ("/v/lib/python3.11/ray/raylet --agent=/v/bin/python -u /v/ray/dashboard/agent.py", False),
    ("ray::MapWorker(MapBatches(_Worker))", False),
    ("", False),
])  # fmt: skip
def test_agents_of_ray_are_known_from_what_works(command: str, is_one: bool) -> None:
    assert audit_process._is_agent(command) is is_one


@pytest.mark.slow
def test_workers_are_seen_and_a_killed_run_leaves_nobody(config, tmp_path: Path) -> None:
    request = AuditRequest(config, tmp_path / "cache", tmp_path / "out")
    with watched_audit(request) as process:
        deadline = time.monotonic() + 120
        while not process.workers() and time.monotonic() < deadline:
            time.sleep(0.1)
        (worker,) = process.workers()
        assert not process.ended()
        assert process.kill_worker(worker)
        assert process.kill()
        assert process.workers() == []
        assert not _command(worker)
    assert not request.result.exists()


@pytest.mark.slow
def test_a_run_that_fails_is_one_line(config, tmp_path: Path) -> None:
    cohort = config.cohort.model_copy(update={"manifest": tmp_path / "none.csv"})
    wrong = config.model_copy(update={"cohort": cohort})
    request = AuditRequest(wrong, tmp_path / "cache", tmp_path / "out")
    with (
        watched_audit(request) as process,
        pytest.raises(RavlMedError, match=r"^benchmark scale: a run failed: ConfigError: "),
    ):
        process.wait()


def test_a_request_is_read_as_it_was_written(config, tmp_path: Path) -> None:
    request = AuditRequest(config, tmp_path / "cache", tmp_path / "out", shards=7, report=True)
    assert AuditRequest.read(request.write()) == request


@pytest.mark.parametrize(
    ("command", "worker", "reader"),
    [
        ("python -P -c from ravl_med.engine.local import serve; serve()", True, False),
        ("python -c from multiprocessing.resource_tracker import main;main(5)", False, False),
        ("ray::MapWorker(MapBatches(_Worker))", True, False),
        ("ray::_Lives", False, False),
        ("python -P -c from ravl_med.cohort.reading_worker import main; main()", False, True),
    ],
)
def test_processes_are_known_by_their_command(command, worker, reader) -> None:
    assert audit_process._is_worker(command) is worker
    assert audit_process._is_reader(command) is reader


def test_phantoms_are_audited_as_films_are(tmp_path: Path, monkeypatch) -> None:
    made: list[int] = []

    def prepare(config, run):
        made.append(config.cohort.synthetic.images)
        return tmp_path / "manifest.csv"

    monkeypatch.setattr(audit_process, "prepare_manifest", prepare)
    monkeypatch.setattr(audit_process, "prepare_model", lambda *given: (tmp_path / "model", True))

    config = phantom_audit(load_config(QUICKSTART), 77, Cache(tmp_path), silent)

    assert made == [77]
    assert config.cohort.synthetic is None
    assert config.cohort.manifest == tmp_path / "manifest.csv"
    assert config.cohort.split == "validation"
    assert config.model.path == tmp_path / "model"
    assert (config.model.threads, config.cohort.workers) == (1, 1)


def test_it_asks_for_a_quickstart(tmp_path: Path) -> None:
    config = load_config(QUICKSTART, ("model={path: nowhere}",))
    with pytest.raises(ConfigError, match=r"expected a config with cohort\.synthetic and model"):
        phantom_audit(config, 77, Cache(tmp_path), silent)


def _command(process: int) -> bytes:
    """Command line of a process; blank where it has ended, be it waited for or not."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
