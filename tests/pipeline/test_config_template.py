"""The config that init writes: YAML that the tool itself reads, whatever a finding is called."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from ravl_med.config.loading import load_config
from ravl_med.pipeline.initialise import write_config

PLAIN: dict[str, Any] = {
    "name": "films",
    "finding": "pleural effusion",
    "source": "reports",
    "model": None,
    "roots": [],
    "batch_size": 8,
}


def written(**named: Any) -> str:
    return write_config(**{**PLAIN, **named})


def test_it_is_a_config(tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(written(roots=["../films, old"]), encoding="utf-8")
    config = load_config(path)
    assert config.cohort.manifest == tmp_path / "manifest.csv"
    assert config.name == "films-demonstration"
    assert config.cohort.split == "validation"
    assert config.cohort.roots == (tmp_path / "../films, old",)
    assert config.labels.source == "reports"
    assert config.task.columns() == {
        "pleural effusion": {"pleural effusion": 1},
        "no pleural effusion": {"pleural effusion": 0},
    }
    assert config.model.quickstart is not None
    assert config.model.quickstart.batch_size == 8


@pytest.mark.parametrize(
    ("finding", "opposite"), [("no finding", "any finding"), ("normal", "abnormal")]
)
def test_what_is_none_has_an_opposite_of_its_own(finding: str, opposite: str) -> None:
    task = YAML(typ="safe", pure=True).load(written(finding=finding))["task"]
    assert list(task["classes"]) == [finding, opposite]
    assert task["classes"][opposite]["prompts"] == [f"{opposite.capitalize()}."]


def test_a_model_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(written(model="../my: model"), encoding="utf-8")
    config = load_config(path)
    assert config.model.path == tmp_path / "../my: model"
    assert config.cohort.split is None


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("2024", "2024"),
        ("Röntgen, ward 3", "R-ntgen-ward-3"),
        ("yes", "yes"),
        ("...", "my-films"),
        ("a" * 90, "a" * 50),
    ],
)
def test_the_run_is_called_after_its_folder(tmp_path: Path, folder: str, name: str) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(written(name=folder, model="../model"), encoding="utf-8")
    assert load_config(path).name == name


def test_without_labels_it_says_what_to_do() -> None:
    text = written(finding="")
    assert "No labels were found" in text
    assert "FINDING:" in text


@example(finding=":0")
@given(finding=st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=30))
def test_any_finding_comes_back_as_it_is(finding: str) -> None:
    task = YAML(typ="safe", pure=True).load(written(finding=finding))["task"]
    assert task["name"] == finding
    assert list(task["classes"]) == [finding, f"no {finding}"]
    assert task["classes"][finding]["label"] == {finding: 1}


@pytest.mark.parametrize("finding", ["yes", "1", "null", "a: b", "# x", "'", '"', "[a]", "{b}"])
def test_findings_that_yaml_would_read_as_something_else(finding: str) -> None:
    task = YAML(typ="safe", pure=True).load(written(finding=finding))["task"]
    assert list(task["classes"]) == [finding, f"no {finding}"]
