"""Embedding ahead of an audit: shards, workers and runs that were ended make the same files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import read_manifest
from ravl_med.config.loading import Config
from ravl_med.encoders import batches
from ravl_med.engine import opened_engine
from ravl_med.errors import ConfigError, DataError
from ravl_med.phantoms.cohort import synthesize
from ravl_med.pipeline.embedding import embed_with
from ravl_med.pipeline.shards import Shard, embed
from ravl_med.pipeline.stages import Run, most_regions, open_model_of
from ravl_med.regions.proposal import RegionProposer
from ravl_med.storage.cache import Cache

pytestmark = pytest.mark.long

RELEVANCE = Path(__file__).parents[2] / "configs" / "relevance" / "chest.yaml"
CLASSES = ("cardiomegaly", "pleural effusion", "pneumothorax", "consolidation", "no finding")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("embedding")
    synthesize(folder / "cohort", images=60, size=96, seed=3, workers=1)
    return folder


@pytest.fixture(scope="module")
def model(root) -> Path:
    """The folder of a small model with random weights."""
    import open_clip

    from ravl_med.config.model import QuickstartModelConfig
    from ravl_med.encoders.open_clip import save_model
    from ravl_med.mitigation.quickstart import quickstart_layout

    layout = quickstart_layout(QuickstartModelConfig(tower="resnet", image_size=64))
    torch.manual_seed(0)
    save_model(open_clip.CLIP(**layout["model_cfg"]), layout, root / "model")
    return root / "model"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(batches, "_PART", 8)


def config_of(root: Path, model: Path, changed=None, **sections) -> Config:
    plain = {
        "name": "small",
        "cohort": {"manifest": root / "cohort" / "manifest.csv", "split": None, "workers": 0},
        "task": {"name": "t", "classes": {name: {"prompts": [name]} for name in CLASSES}},
        "model": {"path": model, "batch_size": 4, "device": "cpu", **(changed or {})},
        "regions": {"tiles": (2, 2)},
        "evidence": {"relevance": RELEVANCE},
    }
    return Config.model_validate(
        {name: {**plain.get(name, {}), **sections.get(name, {})} if name != "name" else "small"
         for name in {*plain, *sections}}
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_report_tells_films_and_megabytes_a_second(root, model, tmp_path):
    report = embed(config_of(root, model), cache=Cache(tmp_path))
    stored = sum(path.stat().st_size for path in (root / "cohort").rglob("*.dcm"))
    assert report.films == 60
    assert report.megabytes == pytest.approx(stored / 1e6)
    films, megabytes = 60 / report.seconds, report.megabytes / report.seconds
    told = f"{report.seconds:.0f} s: {films:.3g} films and {megabytes:.3g} MB a second."
    assert told in report.lines()


@pytest.mark.parametrize(
    ("broken", "refused"), [(4, [""]), (4, ["", ""]), (30, ["30"]), (30, ["16", "14"])]
)
def test_a_cohort_that_no_audit_takes_is_not_called_complete(
    root, model, tmp_path, broken, refused
):
    folder = shutil.copytree(root / "cohort", tmp_path / "cohort")
    for path in sorted(folder.rglob("*.dcm"))[:broken]:
        path.write_bytes(b"no film")
    config = config_of(root, model, cohort={"manifest": folder / "manifest.csv"})
    for number, lost in enumerate(refused, start=1):
        shard = Shard(number, len(refused))
        if lost:
            with pytest.raises(DataError, match=f"{lost} of 60 films .* .not_dicom {lost}.; exp"):
                embed(config, shard=shard, cache=Cache(tmp_path))
        else:
            embed(config, shard=shard, cache=Cache(tmp_path))
    (folder / "lost.csv").write_text(f"image,patient,{','.join(CLASSES)}\n../x.dcm,1,1,0,0,0,0\n")
    lost = config_of(root, model, cohort={"manifest": folder / "lost.csv"})
    with pytest.raises(DataError, match="none of its 1 rows can be audited"):
        embed(lost, cache=Cache(tmp_path))


def test_any_number_of_shards_makes_the_same_files(root, model, tmp_path):
    config = config_of(root, model)
    made = []
    for count in (1, 2, 3):
        cache = Cache(tmp_path / str(count))
        reports = [embed(config, shard=Shard(n, count), cache=cache) for n in range(1, count + 1)]
        assert sum(report.films for report in reports) == 60
        assert [report.parts_left > 0 for report in reports] == [True] * (count - 1) + [False]
        assert "The cohort is complete" in reports[-1].lines()[-1]
        made.append(files(cache.root))
    assert made[0] == made[1] == made[2]
    assert sum(name.endswith(".safetensors") for name in made[0]) == 8 + 8


def test_an_audit_finds_what_shards_have_made_bit_for_bit(root, model, tmp_path):
    config = config_of(root, model)
    cache = Cache(tmp_path)
    for number in (2, 1):
        embed(config, shard=Shard(number, 2), cache=cache)
    manifest = config.cohort.manifest
    cohort = read_manifest(manifest, split=None, columns=config.task.columns())
    encoder = open_model_of(config, model)

    def embedded(settings, place):
        with opened_engine(settings.engine, settings.model.device, settings.threads) as engine:
            return embed_with(engine, settings, cohort, (encoder, model), Run(place))

    found = embedded(config, cache)
    fresh = embedded(config_of(root, model, cache={"embeddings": False}), Cache(tmp_path / "none"))

    assert (found.found, fresh.found) == (60, 0)
    np.testing.assert_array_equal(found.image, fresh.image)
    np.testing.assert_array_equal(found.region, fresh.region)
    assert found.digests == fresh.digests
    again = embed(config, cache=cache)
    assert (again.films, again.parts, again.parts_before) == (0, 8, 8)


def test_a_film_that_changed_is_embedded_and_the_others_are_not(root, model, tmp_path):
    import shutil

    shutil.copytree(root / "cohort", tmp_path / "cohort")
    config = config_of(tmp_path, model)
    cache = Cache(tmp_path / "cache")
    embed(config, cache=cache)
    manifest = config.cohort.manifest
    first, second = read_manifest(manifest, split=None).paths[:2]
    shutil.copyfile(second, first)

    report = embed(config, cache=cache)

    assert (report.parts, report.parts_before) == (8, 7)
    assert report.rejected == {"duplicate_pixels": 1}
    assert report.films == report.found == 7


def test_other_regions_models_and_precisions_are_other_embeddings(root, model, tmp_path):
    cache = Cache(tmp_path)
    embed(config_of(root, model), cache=cache)
    tiles = embed(config_of(root, model, regions={"tiles": (3, 2)}), cache=cache)
    half = embed(config_of(root, model, changed={"precision": "bf16"}), cache=cache)
    assert (tiles.found, half.found) == (0, 0)
    assert (tiles.films, half.films) == (60, 60)
    names = [path.name for path in (tmp_path / "embeddings").iterdir()]
    assert len(names) == 4
    assert len([name for name in names if name.endswith(".inputs")]) == 1  # films stay the same


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", "1/99999999"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match=r"--shard must be i/N with i in the range \[1, N\]"):
        Shard.parse(text)


def test_a_shard_is_read():
    assert Shard.parse("2/4") == Shard(2, 4)


def test_a_config_that_keeps_nothing_is_refused(root, model, tmp_path):
    for sections in (
        {"cache": {"embeddings": False}},
        {"changed": {"path": None, "factory": "a:b", "allow_code": True}},
    ):
        with pytest.raises(ConfigError, match="this config keeps no embeddings"):
            embed(config_of(root, model, **sections), cache=Cache(tmp_path))


def test_a_device_that_is_not_there_is_one_line(root, model):
    if torch.cuda.is_available():
        pytest.skip("this machine has such a device")
    with pytest.raises(ConfigError, match="'cuda:0', which this machine does not have"):
        open_model_of(config_of(root, model, changed={"device": "cuda:0"}), model)


@pytest.mark.parametrize("regions", [
    {"tiles": (3, 2)}, {"sources": ("windows",)}, {"sources": ("tiles", "windows")},
    {"sources": ("artifacts", "anatomy"), "max_per_image": 5},
    {"sources": ("artifacts",), "max_per_image": 1, "tiles": (4, 4)},
])  # fmt: skip
def test_no_film_has_more_regions_than_are_made_room_for(root, model, regions):
    config = config_of(root, model, regions=regions)
    cohort = read_manifest(config.cohort.manifest, split=None)
    proposer = RegionProposer.of(config.regions, cohort)
    reader = FilmReader.of(config.cohort)
    counts = [len(proposer.propose(reader.film(cohort, index))) for index in range(4)]
    assert max(counts) <= most_regions(config.regions)
    if len(regions.get("sources", ("tiles",))) == 1 and "artifacts" not in str(regions):
        assert max(counts) == most_regions(config.regions)
