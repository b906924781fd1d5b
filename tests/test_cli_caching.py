"""The verbs about what is kept: nothing that names a patient, nothing removed unasked."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ravl_med.cli import app
from ravl_med.storage.cache import Cache

CONFIG = """
name: small
cohort: {manifest: manifest.csv}
task:
  classes: {a: {prompts: [a]}, b: {prompts: [b]}}
model: {path: model}
evidence: {relevance: relevance.yaml}
cache: {folder: kept/Doe_John}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    (tmp_path / "audit.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path / "audit.yaml"


@pytest.fixture
def cache(config: Path) -> Cache:
    made = Cache(config.parent / "kept" / "Doe_John")
    for kind, days in (("cohorts", 0), ("embeddings", 0), ("embeddings", 40)):
        folder, _ = made.folder(
            kind, {"days": days}, lambda at: (at / "Roe_Jane.bin").write_bytes(bytes(1500))
        )
        for path in (folder / "Roe_Jane.bin", folder):
            os.utime(path, (time.time() - days * 86_400,) * 2)
    return made


def run(*words: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, list(words), input=answer)


def test_the_list_tells_kind_size_and_age_and_no_name(config: Path, cache: Cache) -> None:
    outcome = run("cache", "list", "--config", str(config))
    assert outcome.exit_code == 0, outcome.output
    lines = outcome.output.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["cohorts", "embeddings", "embeddings"]
    assert all("1.5 kB" in line for line in lines[:3])
    assert sum("40.0 days" in line for line in lines) == 1
    assert lines[3].startswith("3 entries, 4.5 kB:")
    assert "Roe" not in outcome.output
    assert run("cache", "list").output.startswith("0 entries")  # the user's own is another


def test_clear_asks_and_no_is_no(config: Path, cache: Cache) -> None:
    outcome = run("cache", "clear", "--config", str(config), answer="n\n")
    assert outcome.exit_code == 1
    assert "Remove 3 entries, 4.5 kB?" in outcome.output
    assert len(list(cache.entries())) == 3
    assert run("cache", "clear", "--config", str(config), answer="y\n").exit_code == 0
    assert list(cache.entries()) == []
    outcome = run("cache", "clear", "--config", str(config))
    assert (outcome.exit_code, outcome.output) == (0, "Nothing to clear.\n")


def test_clear_takes_a_kind_and_an_age(config: Path, cache: Cache) -> None:
    words = ("cache", "clear", "--config", str(config), "--yes")
    assert run(*words, "--kind", "embeddings", "--older-than", "30").exit_code == 0
    assert [entry.kind for entry in cache.entries()] == ["cohorts", "embeddings"]
    assert run(*words, "--kind", "embeddings", "--kind", "models").exit_code == 0
    assert [entry.kind for entry in cache.entries()] == ["cohorts"]


def test_a_kind_that_there_is_not_is_one_line(config: Path, cache: Cache) -> None:
    outcome = run("cache", "clear", "--config", str(config), "--yes", "--kind", "films")
    assert outcome.exit_code == 2
    assert outcome.stderr.strip() == (
        "error: --kind is 'films'; expected one of cohorts, embeddings, evaluation-films, "
        "evaluation-models, mitigations, models, sketches, structures, texts."
    )
    assert len(list(cache.entries())) == 3


def test_a_wrong_shard_is_one_line(config: Path) -> None:
    outcome = run("embed", str(config), "--shard", "0/4")
    assert outcome.exit_code == 2
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert "--shard must be i/N with i in the range [1, N]" in outcome.stderr
