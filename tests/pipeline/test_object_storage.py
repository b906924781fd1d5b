"""Cohort, model and embeddings in a real S3: the same bytes as from folders, and named faults."""

from __future__ import annotations

import json
import socket
import tempfile
import uuid
from pathlib import Path

import pytest
import torch
from engine_audits import units_here
from s3_server import S3Server
from typer.testing import CliRunner, Result

from ravl_med.cli import app
from ravl_med.config.loading import Config
from ravl_med.encoders import batches
from ravl_med.encoders.batches import BatchEncoder
from ravl_med.engine.local import LocalEngine
from ravl_med.errors import ConfigError, StorageError
from ravl_med.evidence.audit_result import result_document
from ravl_med.phantoms.cohort import synthesize
from ravl_med.pipeline.audit import audit
from ravl_med.pipeline.shards import Shard, embed
from ravl_med.pipeline.stages import open_model_of
from ravl_med.reporting.audit.history import settings_of
from ravl_med.reporting.files.run_folder import config_text
from ravl_med.storage.cache import Cache

pytestmark = pytest.mark.long

RELEVANCE = Path(__file__).parents[2] / "configs" / "relevance" / "chest.yaml"
FILMS = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms and a small model that knows nothing."""
    import open_clip

    from ravl_med.config.model import QuickstartModelConfig
    from ravl_med.encoders.open_clip import save_model
    from ravl_med.mitigation.quickstart import quickstart_layout

    folder = tmp_path_factory.mktemp("storage")
    synthesize(folder / "cohort", images=FILMS, size=96, seed=3, workers=1)
    layout = quickstart_layout(QuickstartModelConfig(tower="resnet", image_size=64))
    torch.manual_seed(0)
    save_model(open_clip.CLIP(**layout["model_cfg"]), layout, folder / "model")
    return folder


@pytest.fixture(scope="module")
def bucket(root: Path, s3_of_session: S3Server) -> str:
    """The same in a bucket of the server."""
    s3_of_session.start()
    url = s3_of_session.bucket("hospital", root / "cohort", "cohort/")
    for path in (root / "model").iterdir():
        s3_of_session.client.put_object(
            Bucket="hospital", Key=f"model/{path.name}", Body=path.read_bytes()
        )
    return url


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(batches, "_PART", 4)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def shared(s3: S3Server) -> str:
    return f"{s3.bucket(f'cache-{uuid.uuid4().hex}')}/ravl-cache"


def config_of(place: Path | str, s3: S3Server | None = None, **sections) -> Config:
    """The audit of what lies below a folder or a URL."""
    plain = {
        "cohort": {"manifest": f"{place}/cohort/manifest.csv", "split": None, "workers": 0},
        "task": {"name": "t", "classes": {
            "big heart": {"prompts": ["Cardiomegaly."], "label": {"cardiomegaly": 1}},
            "other": {"prompts": ["Normal."], "label": {"cardiomegaly": 0}},
        }},
        "model": {"path": f"{place}/model", "batch_size": 4, "device": "cpu", "threads": 1},
        "regions": {"tiles": (2, 2)},
        "discovery": {"clusters": (4, 8), "draws": 1, "min_strength": 0.0, "min_influence": 0.0},
        "evidence": {"relevance": str(RELEVANCE), "permutations": 99, "draws": 2000,
                     "simulations": 20, "effect_films": 20, "max_pairs": 10, "min_pairs": 2,
                     "dependence_films": 0, "looking_films": 0,
                     "min_n": 2, "fdr": 0.99, "side_level": 0.99, "min_gap": 0.0},
        "gate": {"min_films": 2, "max_prediction_share": 1.0, "min_prediction_share": 0.0,
                 "min_auroc": 0.0},
        "privacy": {"min_cell": 0},
        "storage": {} if s3 is None else {"endpoint": s3.endpoint, "timeout": 5, "retries": 0},
    }  # fmt: skip
    names = {*plain, *sections}
    return Config.model_validate(
        {"name": "s", **{n: {**plain.get(n, {}), **sections.get(n, {})} for n in names}}
    )


def embeddings(cache: Path) -> dict[str, bytes]:
    """What machines share: all but the films, which stay on theirs."""
    found = (cache / "embeddings").rglob("*.safetensors")
    return {
        path.relative_to(cache).as_posix(): path.read_bytes()
        for path in found
        if not path.parent.name.endswith(".inputs")
    }


def result_of(config: Config, cache: Path) -> str:
    run = audit(config, key=b"k" * 32, cache=Cache(cache))
    return result_document(run.result, 50).model_dump_json()


@pytest.fixture(scope="module")
def expected(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, bytes]]:
    """What one process makes of the folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_PART", 4)
        cache = tmp_path_factory.mktemp("expected")
        result = result_of(config_of(root), cache)
    assert json.loads(result)["discovery"] is not None  # which films are searched for
    return result, embeddings(cache)


def test_an_audit_finds_the_same_in_objects(bucket, s3, expected, tmp_path) -> None:
    assert result_of(config_of(bucket, s3), tmp_path / "cache") == expected[0]
    assert embeddings(tmp_path / "cache") == expected[1]
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("here", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_workers_get_what_they_need_by_pickling(
    bucket, s3, shared, expected, tmp_path, monkeypatch, here
) -> None:
    """Their films are read by processes of their own, which know of no storage."""
    if here:
        monkeypatch.setattr(LocalEngine, "map", units_here)
    config = config_of(
        bucket, s3, engine={"workers": 1}, cohort={"workers": 1}, cache={"shared": shared}
    )
    assert result_of(config, tmp_path / "cache") == expected[0]
    assert embeddings(tmp_path / "cache") == expected[1]


def test_shards_that_share_nothing_but_a_storage_fill_one_store(
    root, s3, shared, expected, tmp_path, monkeypatch
) -> None:
    config = config_of(root, s3, cache={"shared": shared})
    left = []
    for number in (3, 1, 2):
        cache = Cache(tmp_path / f"machine {number}")
        report = embed(config, shard=Shard(number, 3), cache=cache)
        left.append(report.parts_left)
        assert report.found == 0
    assert left == [7, 3, 0]
    _, own = shared.removeprefix("s3://").split("/")
    objects = s3.objects(shared.split("/")[2])
    assert {
        key.removeprefix(f"{own}/"): content
        for key, content in objects.items()
        if key.endswith(".safetensors")
    } == expected[1]

    def refuse(*told: object) -> None:
        raise AssertionError("a film was embedded anew")

    monkeypatch.setattr(BatchEncoder, "encode", refuse)
    assert result_of(config, tmp_path / "audit") == expected[0]
    assert embeddings(tmp_path / "audit") == expected[1]
    again = embed(config, cache=Cache(tmp_path / "again"))
    assert (again.parts_before, again.films) == (10, 0)
    assert s3.objects(shared.split("/")[2]) == objects
    assert not [key for key in objects if ".inputs" in key]  # they show patients


def test_a_storage_that_vanishes_ends_the_run_and_it_goes_on(
    bucket, s3, shared, expected, tmp_path
) -> None:
    config, cache = config_of(bucket, s3, cache={"shared": shared}), Cache(tmp_path / "cache")

    def stop(stage: str, done: int, total: int) -> None:
        if done == 18:
            s3.stop()

    with pytest.raises(StorageError, match=r"cannot be reached, or is gone .* run again") as caught:
        embed(config, cache=cache, progress=stop)
    assert "hospital" not in str(caught.value)
    written = embeddings(cache.root)
    assert 0 < len(written) < 10
    assert written.items() <= expected[1].items()
    assert not list(cache.root.rglob(".*"))
    assert list((tmp_path / "temporary").iterdir()) == []

    s3.start()
    report = embed(config, cache=cache)

    assert report.rejected == {}
    assert embeddings(cache.root) == expected[1]
    files = [name for name in s3.objects(shared.split("/")[2]) if name.endswith(".safetensors")]
    assert len(files) == 10


def test_a_missing_film_is_set_aside_by_its_row(root, bucket, s3, tmp_path) -> None:
    lines = (root / "cohort" / "manifest.csv").read_text(encoding="utf-8").splitlines()
    lines[3] = lines[3].replace(".dcm", "-gone.dcm")
    content = "\n".join(lines[:9]).encode()
    s3.client.put_object(Bucket="hospital", Key="cohort/short.csv", Body=content)
    config = config_of(bucket, s3, cohort={"manifest": f"{bucket}/cohort/short.csv"})
    report = embed(config, cache=Cache(tmp_path / "cache"))
    assert (report.rejected, report.films) == ({"missing": 1}, 7)


def test_a_worker_of_another_machine_fetches_the_model(root, bucket, s3, tmp_path) -> None:
    config = config_of(bucket, s3, cache={"folder": tmp_path / "own"})
    encoder = open_model_of(config, tmp_path / "of the machine that sent it")
    assert encoder.info.digest == open_model_of(config_of(root), root / "model").info.digest
    assert len(list((tmp_path / "own" / "models").iterdir())) == 1


def test_a_place_that_cannot_be_written_is_told_before_the_work(root, s3, tmp_path) -> None:
    config = config_of(root, s3, cache={"shared": "s3://no-such-bucket/cache"})
    with pytest.raises(ConfigError, match=r"cache\.shared: there is no such bucket") as caught:
        embed(config, cache=Cache(tmp_path), progress=_refuse)
    assert "no-such-bucket" not in str(caught.value)


def _refuse(stage: str, done: int, total: int) -> None:
    raise AssertionError(stage)


def test_urls_stay_in_the_private_config(root, bucket, s3) -> None:
    config = config_of(bucket, s3, cache={"shared": f"{bucket}/cache"}, cohort={"roots": [bucket]})
    told = config_text(config, show_paths=False)
    assert "s3://" not in told
    for role in ("cohort.manifest", "cohort.roots", "model.path", "cache.shared"):
        assert f"<{role}>" in told
    settings, here = settings_of(config), settings_of(config_of(root))
    assert "s3://" not in json.dumps(settings)
    assert settings["cohort.manifest"] == here["cohort.manifest"]
    private = config_text(config, show_paths=True)
    assert f"{bucket}/cohort/manifest.csv" in private
    assert "a-secret" not in private


CONFIG = """
name: s
cohort: {manifest: %s/cohort/Doe_John.csv}
task: {classes: {a: {prompts: [a], label: {cardiomegaly: 1}}, b: {prompts: [b]}}}
model: {path: %s/model}
evidence: {relevance: %s}
cache: {folder: cache}
storage: {endpoint: "%s", timeout: 0.5, retries: 0}
"""


@pytest.fixture
def run(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def embed_from(url: str, endpoint: str) -> Result:
        path = tmp_path / "audit.yaml"
        path.write_text(CONFIG % (url, url, RELEVANCE, endpoint), encoding="utf-8")
        return CliRunner().invoke(app, ["embed", str(path)])

    return embed_from


def test_a_manifest_that_is_not_there_is_one_line(run, bucket, s3) -> None:
    for url in (bucket, "s3://no-such-bucket"):
        outcome = run(url, s3.endpoint)
        assert outcome.exit_code == 2
        assert outcome.stderr.splitlines() == [
            "error: cohort.manifest: 'Doe_John.csv' does not exist. Expected a bucket and an "
            "object in it; check both names."
        ]


def test_a_server_that_never_answers_is_one_line(run, bucket) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listening:
        outcome = run(bucket, f"http://127.0.0.1:{listening.getsockname()[1]}")
    assert outcome.exit_code == 4
    assert len(outcome.stderr.splitlines()) == 1
    assert "error: cohort.manifest: the storage (s3://) gives no answer" in outcome.stderr
    assert "hospital" not in outcome.output + outcome.stderr


def test_denied_access_is_one_line(run, root, s3) -> None:
    name = f"closed-{uuid.uuid4().hex}"
    url = s3.bucket(name)
    s3.client.put_object(Bucket=name, Key="cohort/Doe_John.csv", Body=b"x")
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject",
                 "Resource": f"arn:aws:s3:::{name}/*"}  # fmt: skip
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    s3.client.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    outcome = run(url, s3.endpoint)
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("error: cohort.manifest: the storage (s3://) denies access;")
    assert name not in outcome.stderr
