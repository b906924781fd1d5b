"""URLs in a config: where they are taken, and what reaches their storage; nothing is secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravl_med.config.loading import Config, load_config
from ravl_med.errors import ConfigError
from ravl_med.storage.remote import RemotePath, StorageAccess

CONFIG = """\
name: chest
cohort: {manifest: "s3://bucket/cohort/manifest.csv", roots: ["gs://other/films", films]}
task:
  classes:
    effusion: {prompts: [Pleural effusion.]}
    no finding: {prompts: [Normal.], label: {effusion: 0}}
model: {path: "s3://bucket/model/"}
evidence: {relevance: relevance.yaml}
cache: {folder: kept, shared: "s3://bucket/ravl-cache"}
storage: {endpoint: "http://minio.local:9000", timeout: 3, retries: 1}
"""


def load(folder: Path, *overrides: str) -> Config:
    path = folder / "audit.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return load_config(path, overrides)


def test_urls_carry_what_led_there_and_how_it_is_reached(tmp_path: Path) -> None:
    config = load(tmp_path)
    access = StorageAccess("http://minio.local:9000", 3.0, 1)
    told = {
        "cohort.manifest": (config.cohort.manifest, "s3://bucket/cohort/manifest.csv"),
        "cohort.roots": (config.cohort.roots[0], "gs://other/films"),
        "model.path": (config.model.path, "s3://bucket/model"),
        "cache.shared": (config.cache.shared, "s3://bucket/ravl-cache"),
    }
    for role, (place, url) in told.items():
        assert isinstance(place, RemotePath)
        assert (place.url, place.access, place.role) == (url, access, role)
    assert config.cohort.roots[1] == tmp_path / "films"
    assert config.cache.folder == tmp_path / "kept"


def test_the_section_may_be_left_out_and_overridden(tmp_path: Path) -> None:
    for override, access in (
        ("storage={}", StorageAccess()),
        ("storage.retries=7", StorageAccess("http://minio.local:9000", 3.0, 7)),
    ):
        manifest = load(tmp_path, override).cohort.manifest
        assert isinstance(manifest, RemotePath)
        assert manifest.access == access


def test_a_checkpoint_and_a_shared_folder_of_this_machine(tmp_path: Path) -> None:
    config = load(
        tmp_path, "model={weights: 's3://b/a.safetensors', architecture: RN50}", "cache.shared=all"
    )
    assert isinstance(config.model.weights, RemotePath)
    assert config.model.weights.role == "model.weights"
    assert config.cache.shared == tmp_path / "all"
    assert load(tmp_path, "cohort.manifest=file:///data/m.csv").cohort.manifest == Path(
        "/data/m.csv"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evidence.relevance='s3://b/r.yaml'", r"evidence\.relevance: a URL; expected a path"),
        ("regions.annotations='s3://b/x.csv'", r"regions\.annotations: a URL; expected a path"),
        ("cache.folder='s3://b/cache'", r"cache\.folder: a URL; expected a path"),
        ("model.scores='s3://b/scores.csv'", r"model\.scores: a URL; expected a path"),
        ("cohort.manifest='s3://'", r"cohort\.manifest: the URL names nothing"),
        ("cohort.manifest=3", r"cohort\.manifest: expected a path or a URL; got int"),
        ("cache.shared='s3://key:hush@b/x'", r"cache\.shared: the URL holds a password"),
        ("cache.embeddings=false", r"cache: shared needs embeddings that are kept"),
        ("storage.endpoint='http://key:hush@minio:9000'", r"storage\.endpoint: expected http://"),
        ("storage.endpoint='minio:9000'", r"storage\.endpoint: expected http://HOST:PORT"),
        ("storage.timeout=0", r"storage\.timeout: .*greater than 0; got 0"),
        ("storage.retries=-1", r"storage\.retries: .*equal to 0; got -1"),
        ("storage.key=hush", r"unknown key 'storage\.key'\. Known keys: endpoint, timeout"),
    ],
)
def test_what_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, override)
    assert "hush" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
