"""Shards with caches of their own, merged: what one run makes, and nothing of another config."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import pytest
import torch
from s3_server import S3Server
from typer.testing import CliRunner, Result

from ravl_med.cli import app
from ravl_med.config.loading import Config, load_config
from ravl_med.encoders import batches
from ravl_med.encoders.batches import BatchEncoder
from ravl_med.errors import ConfigError
from ravl_med.phantoms.cohort import synthesize
from ravl_med.pipeline.shards import Shard, embed, merge
from ravl_med.storage.cache import Cache

RELEVANCE = Path(__file__).parents[2] / "configs" / "relevance" / "chest.yaml"
CONFIG = f"""
name: small
cohort: {{manifest: cohort/manifest.csv, split: null, workers: 0}}
task:
  classes:
    big heart: {{prompts: [Cardiomegaly.], label: {{cardiomegaly: 1}}}}
    other: {{prompts: [Normal.], label: {{cardiomegaly: 0}}}}
model: {{path: model, batch_size: 4, device: cpu, threads: 1}}
regions: {{tiles: [2, 2]}}
evidence: {{relevance: "{RELEVANCE}"}}
"""
SHARDS = 7
PARTS = 10


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms, a small model, and the config of both."""
    import open_clip

    from ravl_med.config.model import QuickstartModelConfig
    from ravl_med.encoders.open_clip import save_model
    from ravl_med.mitigation.quickstart import quickstart_layout

    folder = tmp_path_factory.mktemp("merging")
    synthesize(folder / "cohort", images=40, size=64, seed=3, workers=1)
    layout = quickstart_layout(QuickstartModelConfig(tower="resnet", image_size=64))
    torch.manual_seed(0)
    save_model(open_clip.CLIP(**layout["model_cfg"]), layout, folder / "model")
    (folder / "audit.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_PART", 4)


@pytest.fixture(scope="module")
def config(root: Path) -> Config:
    return load_config(root / "audit.yaml")


@pytest.fixture(scope="module")
def shards(root: Path, config: Config) -> tuple[Path, ...]:
    """The caches of seven machines, one for each shard; tests copy what they change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_PART", 4)
        for number in range(1, SHARDS + 1):
            embed(config, shard=Shard(number, SHARDS), cache=Cache(root / f"shard {number}"))
        embed(config, cache=Cache(root / "whole"))
    return tuple(root / f"shard {number}" for number in range(1, SHARDS + 1))


def files(cache: Path) -> dict[str, bytes]:
    """What travels: all but the films, which stay on their machine."""
    return {
        path.relative_to(cache).as_posix(): path.read_bytes()
        for path in sorted((cache / "embeddings").rglob("*"))
        if path.is_file() and not path.parent.name.endswith(".inputs")
    }


def merged(config: Config, folders, cache: Path, **more):
    return merge(config, [str(folder) for folder in folders], cache=Cache(cache), **more)


def test_seven_shards_merged_are_one_run(root, config, shards, tmp_path, monkeypatch) -> None:
    report = merged(config, shards, tmp_path)
    assert (report.parts, report.before, report.came, report.missing) == (PARTS, 0, PARTS, ())
    assert report.complete
    assert report.lines()[-1] == "The cohort is complete: an audit finds all of it."
    assert files(tmp_path) == files(root / "whole")
    monkeypatch.setattr(BatchEncoder, "encode", _refuse)
    again = embed(config, cache=Cache(tmp_path))
    assert (again.parts_before, again.films) == (PARTS, 0)


def _refuse(*told: object) -> None:
    raise AssertionError("a film was embedded anew")


def test_nothing_is_counted_twice(config, shards, tmp_path) -> None:
    first = merged(config, [shards[0], shards[0], shards[1]], tmp_path, shards=SHARDS)
    assert (first.before, first.came) == (0, 4)  # parts 0 and 7, 1 and 8
    before = files(tmp_path)
    second = merged(config, [*shards[:3], tmp_path], tmp_path, shards=SHARDS)
    assert (second.before, second.came) == (4, 2)
    assert before.items() <= files(tmp_path).items()


def test_the_shards_that_are_to_run_again_are_told(config, shards, tmp_path) -> None:
    report = merged(config, shards[2:6], tmp_path, shards=SHARDS)
    assert report.missing == (0, 1, 6, 7, 8)
    assert not report.complete
    assert report.lines()[-1].endswith(": 1/7, 2/7, 7/7.")
    assert "5 of 10 are here now" in report.lines()[0]


def test_a_damaged_file_is_named_by_its_place_and_left_out(config, shards, tmp_path) -> None:
    shutil.copytree(shards[1], tmp_path / "damaged")
    every = (tmp_path / "damaged").rglob("*.safetensors")
    second = sorted(path for path in every if path.parent.suffix != ".inputs")[1]
    second.write_bytes(second.read_bytes()[:-9])
    folders = [shards[0], tmp_path / "damaged", *shards[2:]]

    report = merged(config, folders, tmp_path / "cache")

    assert report.damaged == ((2, 2, 2),)
    assert report.missing == (8,)
    assert "FOLDER 2: file 2 of 2 is damaged; it was left out." in report.lines()
    assert report.lines()[-1].endswith(": 2/7.")
    assert second.exists()  # it is not ours to take away
    whole = merged(config, [shards[1]], tmp_path / "cache", shards=SHARDS)
    assert (whole.came, whole.complete) == (1, True)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ("model.precision=bf16", r"FOLDER 2 holds embeddings of another model or settings"),
        ("regions.tiles=[4, 1]", r"FOLDER 2 holds embeddings of another model .* regions"),
        ("cohort.split=test", r"FOLDER 2 holds embeddings of another model .* films"),
    ],
)
def test_shards_of_two_configs_are_refused(root, config, shards, tmp_path, changed, match) -> None:
    other = load_config(root / "audit.yaml", (changed,))
    embed(other, shard=Shard(1, 4), cache=Cache(tmp_path / "other"))
    with pytest.raises(ConfigError, match=match) as caught:
        merged(config, [shards[0], tmp_path / "other"], tmp_path / "cache")
    assert "Nothing was merged" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert not (tmp_path / "cache" / "embeddings").exists()


def test_a_cache_of_several_configs_gives_what_is_of_this_one(
    root, config, shards, tmp_path
) -> None:
    shutil.copytree(shards[0], tmp_path / "both")
    other = load_config(root / "audit.yaml", ("model.precision=bf16",))
    embed(other, shard=Shard(1, 4), cache=Cache(tmp_path / "both"))
    report = merged(config, [tmp_path / "both"], tmp_path / "cache", shards=SHARDS)
    assert report.came == 2
    assert files(tmp_path / "cache") == files(shards[0])


@pytest.mark.parametrize("name", ["none", "empty"])
def test_a_folder_without_embeddings_is_refused(config, shards, tmp_path, name) -> None:
    (tmp_path / "empty" / "embeddings").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"FOLDER 1 holds no embeddings"):
        merged(config, [tmp_path / name, shards[0]], tmp_path / "cache")


def test_films_at_once_are_those_that_fit_everywhere(config, shards, tmp_path, monkeypatch) -> None:
    """Memory did not suffice on one of the machines."""
    honest = BatchEncoder._encode

    def short(self: BatchEncoder, films):
        if self.size > 2:
            raise MemoryError
        return honest(self, films)

    with monkeypatch.context() as patch:
        patch.setattr(BatchEncoder, "_encode", short)
        embed(config, shard=Shard(2, SHARDS), cache=Cache(tmp_path / "short"))

    report = merged(config, [shards[0], tmp_path / "short"], tmp_path / "cache", shards=SHARDS)

    assert report.other_size == (1,)
    assert report.came == 2
    assert report.missing == (0, 2, 3, 4, 5, 6, 7, 9)
    assert "FOLDER 1: encoded more films at once than fitted" in "\n".join(report.lines())
    assert embed(config, cache=Cache(tmp_path / "cache")).halved_to == 2


def test_folders_and_the_cache_may_be_in_a_storage(root, shards, s3: S3Server, tmp_path) -> None:
    urls = [
        f"{s3.bucket(f'shard-{uuid.uuid4().hex}', folder, 'kept/')}/kept" for folder in shards[:2]
    ]
    target = s3.bucket(f"cache-{uuid.uuid4().hex}")
    changed = (f"storage.endpoint={s3.endpoint}", f"cache.shared={target}/own")
    there = load_config(root / "audit.yaml", changed)
    report = merged(there, urls, tmp_path / "cache", shards=SHARDS)
    assert report.came == 4
    assert files(tmp_path / "cache") == {**files(shards[0]), **files(shards[1])}
    names = {key for key in s3.objects(target.removeprefix("s3://")) if "filled-by" not in key}
    assert names == {f"own/{name}" for name in files(tmp_path / "cache")}
    again = merged(there, [f"{target}/own"], tmp_path / "elsewhere", shards=SHARDS)
    assert (again.before, again.came) == (4, 0)  # which the shared folder tells
    assert files(tmp_path / "elsewhere") == files(tmp_path / "cache")


@pytest.fixture
def run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def merge_folders(*words: object) -> Result:
        set_cache = f"cache.folder={tmp_path / 'cache'}"
        told = ["merge", str(root / "audit.yaml"), *map(str, words), "--set", set_cache]
        return CliRunner().invoke(app, told)

    return merge_folders


def test_exit_codes(run, shards, tmp_path) -> None:
    outcome = run(*shards[:6], "--shards", SHARDS)
    assert outcome.exit_code == 3
    assert "9 parts of the cohort came, 0 were here; 9 of 10 are here now" in outcome.output
    assert "let an audit do it: 7/7." in outcome.output
    outcome = run(shards[6])
    assert outcome.exit_code == 0, outcome.output
    assert "1 parts of the cohort came, 9 were here" in outcome.output
    outcome = run(tmp_path / "none")
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("error: FOLDER 1 holds no embeddings;")
    assert len(outcome.stderr.splitlines()) == 1
    outcome = run(shards[0], "--shards", "0")
    assert outcome.exit_code == 2
    assert "--shards must be an int in the range [1, inf). Got 0 instead." in outcome.stderr


def test_a_url_that_is_none_is_one_line(run) -> None:
    outcome = run("s3://key:secret@bucket/cache")
    assert outcome.exit_code == 2
    assert outcome.stderr.splitlines() == [
        "error: FOLDER 1: the URL holds a password; credentials come from the environment."
    ]
