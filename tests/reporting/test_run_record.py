"""run.json: enough to do a run again, and no path."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ravl_med import __version__
from ravl_med.config import Config
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.run_folder import config_text
from ravl_med.reporting.run_record import describe_run, describe_thresholds, peak_memory_mb


def config_of(**sections: object) -> Config:
    classes = {"a": {"prompts": ["A."]}, "b": {"prompts": ["B."]}}
    entries: dict[str, object] = {
        "name": "run",
        "cohort": {"manifest": "/patients/doe.csv"},
        "task": {"classes": classes},
        "model": {"path": "/models/clip"},
        "evidence": {"relevance": "/tables/chest.yaml"},
    }
    return Config.model_validate(entries | sections)


@pytest.mark.parametrize("synthetic", [False, True])
def test_a_run_record(result_of: Callable[..., AuditResult], synthetic: bool) -> None:
    config = config_of(discovery={"seed": 3}, evidence={"seed": 4, "relevance": "/t/chest.yaml"})
    if synthetic:
        config = config_of(cohort={"synthetic": {"seed": 5}}, model={"quickstart": {"seed": 6}})
    record = describe_run(config, result_of(), "cd34" * 16, model_cached=synthetic)
    text = json.dumps(record, allow_nan=False)
    for word in ("doe", "/patients", "/models", str(Path.home())):
        assert word not in text
    assert record["tool"] == {"name": "ravl-med", "version": __version__}
    assert record["versions"]["ravl-med"] == __version__
    assert all(record["versions"].values())
    assert record["digests"] == {
        "model": "ab12" * 16,
        "cohort": "cd34" * 16,
        "config": hashlib.sha256(config_text(config, show_paths=False).encode()).hexdigest(),
    }
    planted = {"synthetic cohort": 5, "quickstart model": 6}
    expected = {"discovery": 0, "evidence": 0, **planted} if synthetic else None
    assert record["seeds"] == (expected or {"discovery": 3, "evidence": 4})
    assert record["model_cached"] is synthetic


def test_the_digest_of_the_config_does_not_know_where_films_lie() -> None:
    here, there = config_of(), config_of(cohort={"manifest": "/elsewhere/b.csv"})
    assert config_text(here, show_paths=False) == config_text(there, show_paths=False)


def test_thresholds_are_those_of_the_config() -> None:
    thresholds = describe_thresholds(config_of(gate={"max_gap": 0.15, "min_films": 33}))
    assert thresholds["gate.max_gap"].startswith("15% gap")
    assert thresholds["gate.min_films"] == "33 films a class"
    assert thresholds["evidence.confidence"] == "95%, Bonferroni over all clusters"
    assert thresholds["discovery.min_influence"] == "0.25"


def test_peak_memory_is_that_of_a_process() -> None:
    assert 10 < peak_memory_mb() < 1e6
