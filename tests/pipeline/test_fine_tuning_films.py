"""The fine-tuning films of a mitigation are the same with and without a store of embeddings."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from ravl_med.config.loading import Config
from ravl_med.config.model import QuickstartModelConfig
from ravl_med.discovery.candidates import FeatureDetector
from ravl_med.encoders.batches import BatchEncoder
from ravl_med.encoders.kept_films import KeptFilms
from ravl_med.encoders.open_clip import save_model
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.evidence.results import ConfirmedFeature
from ravl_med.mitigation.distributed import Processes, make_fabric
from ravl_med.mitigation.fine_tuning_set import FineTuningSet
from ravl_med.mitigation.quickstart import quickstart_layout
from ravl_med.phantoms.cohort import synthesize
from ravl_med.pipeline.fine_tuning_films import prepare_fine_tuning
from ravl_med.pipeline.mitigation_setup import ExploredFilms, Setting, open_work_folder
from ravl_med.pipeline.shards import embed
from ravl_med.pipeline.split_films import SplitFilms, read_split
from ravl_med.pipeline.stages import Run, open_model_of
from ravl_med.storage.cache import Cache

RELEVANCE = Path(__file__).parents[2] / "configs" / "relevance" / "chest.yaml"
CLASSES = ("cardiomegaly", "pleural effusion", "pneumothorax", "consolidation", "no finding")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cohort and a small model with random weights."""
    folder = tmp_path_factory.mktemp("fine-tuning")
    synthesize(folder / "cohort", images=70, size=96, seed=3, workers=1)
    layout = quickstart_layout(QuickstartModelConfig(tower="resnet", image_size=64))
    torch.manual_seed(0)
    save_model(open_clip.CLIP(**layout["model_cfg"]), layout, folder / "model")
    return folder


def config_of(root: Path, *, kept: bool = True, **model: object) -> Config:
    return Config.model_validate(
        {
            "name": "small",
            "cohort": {"manifest": root / "cohort" / "manifest.csv", "workers": 0},
            "task": {"name": "t", "classes": {name: {"prompts": [name]} for name in CLASSES}},
            "model": {"path": root / "model", "batch_size": 16, "device": "cpu", **model},
            "regions": {"tiles": (2, 2)},
            "evidence": {"relevance": RELEVANCE},
            "cache": {"embeddings": kept},
        }
    )


def prepare(config: Config, cache: Cache, *, resume: bool = False) -> FineTuningSet:
    """What the arms are trained on; the feature is two made-up places of the space."""
    encoder, manifest = open_model_of(config, config.model.path), config.cohort.manifest
    assert manifest is not None
    work = open_work_folder(config, cache, Processes(make_fabric()), resume=resume)
    explored = read_without_a_cache(config, work.folder)
    medoids = explored.embeddings.region[[0, 5, 10]]
    detector = FeatureDetector(medoids, 0, 0, 4)
    setting = Setting(
        config,
        Run(cache),
        work,
        manifest,
        (encoder, root_of(config)),
        root_of(config),
        embed_classes(encoder, config.task.texts()),
        (ConfirmedFeature(1, "shortcut", True, detector),),
    )
    half = np.arange(len(explored)) % 2 == 0
    try:
        return prepare_fine_tuning(setting, ExploredFilms(explored, half)).films
    finally:
        assert work.lock is not None
        work.lock.close()


def read_without_a_cache(config: Config, folder: Path) -> SplitFilms:
    """The validation films, by a store in a folder alone."""
    manifest, root = config.cohort.manifest, root_of(config)
    assert manifest is not None
    off = config.model_copy(update={"cache": config.cache.model_copy(update={"embeddings": False})})
    model = (open_model_of(config, root), root)
    return read_split(off, manifest, "validation", model, Run(Cache(folder / "none")), folder)


def root_of(config: Config) -> Path:
    assert config.model.path is not None
    return config.model.path


def arrays_of(value: object, name: str = "") -> dict[str, np.ndarray]:
    """Every array of a dataclass, and of those in it."""
    if is_dataclass(value):
        found: dict[str, np.ndarray] = {}
        for part in fields(value):
            found |= arrays_of(getattr(value, part.name), f"{name}.{part.name}")
        return found
    if isinstance(value, KeptFilms):
        value = value[np.arange(value.shape[0])]
    return {name: np.asarray(value)}


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of films of each batch that goes through the model."""
    counts: list[int] = []
    encode = BatchEncoder.encode

    def counted(self, films):
        counts.append(len(films))
        return encode(self, films)

    monkeypatch.setattr(BatchEncoder, "encode", counted)
    return counts


def test_the_store_changes_nothing_and_is_read_the_second_time(root, tmp_path, encoded):
    without = prepare(config_of(root, kept=False), Cache(tmp_path / "none"))
    alone = sum(encoded)
    encoded.clear()
    first = prepare(config_of(root), Cache(tmp_path / "kept"))
    made = sum(encoded)
    encoded.clear()

    second = prepare(config_of(root), Cache(tmp_path / "kept"))

    films, explored = len(without), alone - len(without)
    assert films > 20
    assert made == alone
    assert sum(encoded) == explored  # which this test reads without a store
    assert not (tmp_path / "none" / "embeddings").exists()
    wanted = arrays_of(without)
    assert {
        ".regions.boxes",
        ".spurious",
        ".carriers.boxes",
        ".reports.texts",
        ".films.gray",
    } <= set(wanted)
    assert wanted[".spurious"].any()
    for other in (first, second):
        for name, values in arrays_of(other).items():
            np.testing.assert_array_equal(values, wanted[name], err_msg=name)


@pytest.mark.parametrize("threads", [None, 1])
def test_what_was_embedded_ahead_is_found(root, tmp_path, encoded, threads):
    """By the verb, as an audit of that split would; threads are part of a store's recipe."""
    config, cache = config_of(root, threads=threads), Cache(tmp_path)
    split = config.cohort.model_copy(update={"split": "finetune"})
    embed(config.model_copy(update={"cohort": split}), cache=cache)
    ahead = sum(encoded)
    encoded.clear()

    films = prepare(config, cache)

    assert ahead == len(films)
    explored = read_without_a_cache(config, tmp_path / "another")
    assert sum(encoded) == 2 * len(explored)  # the validation films alone, and again just now


def test_another_way_of_embedding_regions_finds_nothing(root, tmp_path, encoded):
    cache = Cache(tmp_path)
    prepare(config_of(root), cache)
    every = sum(encoded)
    encoded.clear()

    prepare(config_of(root, region_pooling="last_stage"), cache)

    assert sum(encoded) == every
    stores = [p.name for p in (tmp_path / "embeddings").iterdir() if p.is_dir()]
    assert len(stores) == 3
    assert len([name for name in stores if name.endswith(".inputs")]) == 1  # films are the same
