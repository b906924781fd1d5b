"""Engines side by side: what is compared, on runs that are made up and on small ones."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from ravl_med.config.loading import load_config
from ravl_med.errors import ConfigError
from ravl_med.storage.cache import Cache
from tests.benchmarks.scale import phantom_audits, same_trials
from tests.benchmarks.scale.chaos_trials import measure_chaos
from tests.benchmarks.scale.phantom_audits import phantom_audit
from tests.benchmarks.scale.same_trials import measure_sameness

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
TOLD = {"films": 90, "regions": 3_240, "correlations": 5, "tested": 2}


class MadeUpRun:
    def __init__(self, request) -> None:
        self._request = request

    def wait(self):
        engine, shards = self._request.config.engine, self._request.shards
        self._request.result.parent.mkdir(parents=True, exist_ok=True)
        other = b" " if engine.kind == "ray" and engine.workers == 2 else b""
        self._request.result.write_bytes(b"{}" + other)
        assert self._request.report
        assert bool(shards) == (engine.kind == "local" and not engine.workers and shards == 7)
        return TOLD


def test_each_engine_and_seven_shards_are_held_against_a_run_alone(monkeypatch) -> None:
    @contextmanager
    def start(request):
        assert not request.cache.exists()
        yield MadeUpRun(request)

    monkeypatch.setattr(same_trials, "watched_audit", start)
    rows = measure_sameness(load_config(QUICKSTART), lambda *step: None)
    assert [(row.engine, row.same) for row in rows] == [
        ("local, no worker", True), ("local, 1 worker", True), ("local, 2 workers", True),
        ("Ray, 1 worker", True), ("Ray, 2 workers", False), ("7 shards, then an audit", True),
    ]  # fmt: skip
    assert (rows[0].films, rows[0].regions, rows[0].tested, rows[0].size) == (90, 3_240, 2, 2)
    assert len({row.digest for row in rows}) == 2
    some = measure_sameness(load_config(QUICKSTART), lambda *step: None, ray=False)
    assert len(some) == 4


def test_phantoms_are_audited_as_films_are(tmp_path: Path, monkeypatch) -> None:
    made: list[int] = []

    def prepare(config, run):
        made.append(config.cohort.synthetic.images)
        return tmp_path / "manifest.csv"

    monkeypatch.setattr(phantom_audits, "prepare_manifest", prepare)
    monkeypatch.setattr(phantom_audits, "prepare_model", lambda *given: (tmp_path / "model", True))

    config = phantom_audit(load_config(QUICKSTART), 77, Cache(tmp_path), lambda *step: None)

    assert made == [77]
    assert config.cohort.synthetic is None
    assert config.cohort.manifest == tmp_path / "manifest.csv"
    assert config.cohort.split == "validation"
    assert config.model.path == tmp_path / "model"
    assert (config.model.threads, config.cohort.workers) == (1, 1)


def test_it_asks_for_a_quickstart(tmp_path: Path) -> None:
    config = load_config(QUICKSTART, ("model={path: nowhere}",))
    with pytest.raises(ConfigError, match=r"expected a config with cohort\.synthetic and model"):
        phantom_audit(config, 77, Cache(tmp_path), lambda *step: None)


@pytest.mark.slow
def test_small_audits_are_the_same_whoever_does_the_work_and_whoever_dies(tmp_path: Path) -> None:
    small = (
        "cohort.synthetic.size=96", "model.quickstart.epochs=1", "model.quickstart.image_size=64",
        "discovery.clusters=[4, 8]", "discovery.draws=1", "discovery.min_strength=0",
        "discovery.min_influence=0", "evidence.permutations=99", "evidence.draws=2000",
        "evidence.simulations=20", "evidence.max_removals=10", "evidence.max_pairs=10",
        "evidence.min_pairs=2", "evidence.min_n=2", "evidence.max_correlations=2",
        "evidence.fdr=0.99", "evidence.side_level=0.99", "evidence.min_gap=0", "gate.min_films=1",
        "gate.max_prediction_share=1", "gate.min_prediction_share=0", "gate.min_auroc=0",
    )  # fmt: skip
    config = phantom_audit(load_config(QUICKSTART, small), 400, Cache(tmp_path), lambda *step: None)
    rows = measure_sameness(config, lambda *step: None, ray=False)
    assert all(row.same for row in rows)
    assert rows[0].films > 90
    for row in measure_chaos(config, 2, lambda *step: None, ray=False, gap=(1.0, 3.0)):
        assert row.hits >= 2
        assert row.same == row.runs
