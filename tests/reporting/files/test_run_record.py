"""run.json: enough to do a run again, and no path."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ravl_med import __version__
from ravl_med.config.loading import Config
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.history import AuditHistory
from ravl_med.reporting.files.run_folder import config_text
from ravl_med.reporting.files.run_record import (
    describe_run,
    describe_thresholds,
    digest_regions,
    digest_settings,
    peak_memory_mb,
)


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
    record = describe_run(
        config, result_of(), ("cd34" * 16, "ef56" * 16), model_cached=synthetic, history=None
    )
    text = json.dumps(record, allow_nan=False)
    for word in ("doe", "/patients", "/models", str(Path.home())):
        assert word not in text
    assert record["tool"] == {"name": "ravl-med", "version": __version__}
    assert record["versions"]["ravl-med"] == __version__
    assert all(record["versions"].values())
    without_mitigation = config_text(config, show_paths=False, without=("mitigation",))
    assert record["digests"] == {
        "model": "ab12" * 16,
        "cohort": "cd34" * 16,
        "segmenter": "ef56" * 16,
        "config": hashlib.sha256(without_mitigation.encode()).hexdigest(),
        "settings": digest_settings(config),
        "regions": digest_regions(result_of().region_boxes, result_of().region_image),
    }
    assert "mitigation" not in without_mitigation
    planted = {"synthetic cohort": 5, "quickstart model": 6}
    expected = {"discovery": 0, "evidence": 0, **planted} if synthetic else None
    assert record["seeds"] == (expected or {"discovery": 3, "evidence": 4})
    assert record["model_cached"] is synthetic


def test_the_digest_of_the_config_does_not_know_where_films_lie() -> None:
    here, there = config_of(), config_of(cohort={"manifest": "/elsewhere/b.csv"})
    assert config_text(here, show_paths=False) == config_text(there, show_paths=False)


def test_the_digest_of_the_settings_is_of_what_a_finding_can_depend_on() -> None:
    boxes, films = np.ones((2, 4), np.float32), np.arange(2)
    assert digest_regions(boxes, films) == digest_regions(boxes.copy(), films.copy())
    assert digest_regions(boxes, films) != digest_regions(2 * boxes, films)
    assert digest_regions(boxes, films) != digest_regions(boxes, films[::-1])
    digest = digest_settings(config_of())
    assert digest_settings(config_of(mitigation={"epochs": 7})) == digest
    assert digest_settings(config_of(report={"regions": 3})) == digest
    assert digest_settings(config_of(evidence={"seed": 4, "relevance": "/t/a.yaml"})) != digest


def test_what_came_before(result_of: Callable[..., AuditResult]) -> None:
    changed = (("gate.max_gap", 0.1, 0.3), ("regions.tiles", [6, 6], [4, 4]))
    history = AuditHistory(4, changed, ("gate.max_gap", "gate.min_n"), {"fail": 2, "pass": 1})
    record = describe_run(config_of(), result_of(), ("cd34" * 16, "ef56" * 16), False, history)
    read = json.loads(json.dumps(record, allow_nan=False))
    assert read["audit_number"] == 4
    assert read["changed_keys"] == [
        {"key": "gate.max_gap", "before": 0.1, "now": 0.3},
        {"key": "regions.tiles", "before": [6, 6], "now": [4, 4]},
    ]
    assert read["ever_changed_keys"] == ["gate.max_gap", "gate.min_n"]
    assert read["earlier_verdicts"] == {"fail": 2, "pass": 1}


def test_every_threshold_is_told_in_order() -> None:
    config = config_of()
    thresholds = describe_thresholds(config)
    asked = [
        f"{section}.{key}"
        for section in ("gate", "evidence", "discovery")
        for key in type(getattr(config, section)).model_fields
        if key not in ("seed", "relevance", "accepted")  # told among seeds and in the config
    ]
    assert set(thresholds) == set(asked)
    assert [key.partition(".")[0] for key in thresholds] == [key.partition(".")[0] for key in asked]
    assert all(len(text) < 120 for text in thresholds.values())  # a row of a table


def test_thresholds_are_those_of_the_config() -> None:
    config = config_of(
        gate={"max_gap": 0.125, "min_films": 33},
        evidence={"relevance": "/t/chest.yaml", "fdr": 0.01, "draws": 12_000},
        discovery={"clusters": [25, 50], "draws": 2},
    )
    thresholds = describe_thresholds(config)
    assert thresholds["gate.max_gap"].startswith(
        "a correlation counts with a gap of 12.5 % or more"
    )
    assert thresholds["gate.min_films"] == "at least 33 films of each class, else not auditable"
    assert thresholds["gate.max_local_effect"] == (
        "a pass needs that a local feature that was not named costs at most 6 % of accuracy"
    )
    assert "a pass needs that a gap of 30 % would" in thresholds["gate.max_detectable_gap"]
    assert thresholds["evidence.fdr"] == "q at most 0.01 over all candidates"
    assert thresholds["evidence.side_level"].startswith("p at most 0.1 of the raised")
    assert thresholds["evidence.draws"] == "12,000 bootstrap draws of patients"
    assert thresholds["evidence.confidence"].startswith("95 % intervals by patient")
    assert thresholds["discovery.clusters"] == "K of 25, 50"
    assert thresholds["discovery.min_influence"].startswith("influence H of at least 0.25")


def test_thresholds_of_the_paper_name_what_it_does_not_use() -> None:
    thresholds = describe_thresholds(config_of(discovery={"protocol": "paper"}))
    unused = {key for key, text in thresholds.items() if text.startswith("not used")}
    assert unused == {
        "discovery.propose",
        "discovery.clusters",
        "discovery.draws",
        "discovery.merge_overlap",
        "discovery.min_strength",
    }
    assert thresholds["discovery.protocol"].startswith("that of the paper")
    crossed = config_of(evidence={"relevance": "/t/chest.yaml", "cross_fit": True})
    assert describe_thresholds(crossed)["evidence.cross_fit"] == "both ways, p doubled"


def test_peak_memory_is_that_of_a_process() -> None:
    assert 10 < peak_memory_mb() < 1e6
