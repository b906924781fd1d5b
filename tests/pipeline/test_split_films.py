"""Films of a split in files: read once, by whoever, and found again after an interruption."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import list_split
from ravl_med.config.loading import Config
from ravl_med.config.model import QuickstartModelConfig
from ravl_med.discovery.candidates import FeatureDetector
from ravl_med.discovery.ravl import AuditData
from ravl_med.encoders import batches
from ravl_med.encoders.batches import BatchEncoder
from ravl_med.encoders.kept_films import gray_levels
from ravl_med.encoders.open_clip import save_model
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.engine.local import LocalEngine
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.counterfactual import CounterfactualModel, prepare_inputs
from ravl_med.evidence.counterfactual.fills import Interpolation
from ravl_med.evidence.results import ConfirmedFeature
from ravl_med.mitigation.fine_tuning_set import RegionTable
from ravl_med.mitigation.quickstart import quickstart_layout
from ravl_med.mitigation.spurious_regions import locate_carriers
from ravl_med.phantoms.cohort import synthesize
from ravl_med.pipeline import embedding, fine_tuning_films
from ravl_med.pipeline.fine_tuning_films import locate_features
from ravl_med.pipeline.mitigation_setup import Setting, WorkFolder
from ravl_med.pipeline.other_splits import find_films_elsewhere
from ravl_med.pipeline.split_films import SplitFilms, read_split
from ravl_med.pipeline.stages import Run, open_model_of
from ravl_med.storage import files
from ravl_med.storage.cache import Cache

pytestmark = pytest.mark.long

RELEVANCE = Path(__file__).parents[2] / "configs" / "relevance" / "chest.yaml"
CLASSES = ("cardiomegaly", "pleural effusion", "pneumothorax", "consolidation", "no finding")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cohort, a small model, and a manifest in which a film stands twice."""
    folder = tmp_path_factory.mktemp("keeping")
    synthesize(folder / "cohort", images=100, size=96, seed=3, workers=1)
    layout = quickstart_layout(QuickstartModelConfig(tower="resnet", image_size=64))
    torch.manual_seed(0)
    save_model(open_clip.CLIP(**layout["model_cfg"]), layout, folder / "model")
    with (folder / "cohort" / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    (folder / "cohort" / "broken.dcm").write_bytes(b"no film")
    taught = [row for row in rows if row["split"] == "finetune"]
    shutil.copyfile(folder / "cohort" / taught[0]["image"], folder / "cohort" / "again.dcm")
    with (folder / "cohort" / "twice.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        again = {**taught[0], "image": "again.dcm"}
        writer.writerows([*taught, {**taught[-1], "image": "broken.dcm"}, again])
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file hold sixteen films."""
    monkeypatch.setattr(batches, "_PART", 8)


def config_of(root: Path, **sections: Any) -> Config:
    return Config.model_validate(
        {
            "name": "small",
            "cohort": {"manifest": root / "cohort" / "twice.csv", "workers": 0},
            "task": {"name": "t", "classes": {name: {"prompts": [name]} for name in CLASSES}},
            "model": {"path": root / "model", "batch_size": 8, "device": "cpu"},
            "regions": {"tiles": [3, 3]},
            "evidence": {"relevance": RELEVANCE},
            **sections,
        }
    )


def read(config: Config, folder: Path, progress: Callable[..., None] | None = None) -> SplitFilms:
    manifest, model = config.cohort.manifest, config.model.path
    assert manifest is not None
    run = Run(Cache(folder / "cache"), progress or (lambda stage, done, total: None))
    return read_split(
        config, manifest, "finetune", (open_model_of(config, model), model), run, folder
    )


def everything(films: SplitFilms) -> dict[str, np.ndarray]:
    """All that a mitigation takes from a split."""
    kept = films.embeddings
    return {
        "gray": films.films.gray[films.films.rows],
        "images": kept.image,
        "regions": kept.region,
        "digests": np.array(kept.digests),
        "sizes": kept.sizes,
        "boxes": kept.region_boxes,
        "input boxes": films.regions.boxes,
        "region image": kept.region_image,
        "labels": films.cohort.labels,
        "rows": films.cohort.rows,
    }


def require_same(one: SplitFilms, other: SplitFilms) -> None:
    wanted, found = everything(one), everything(other)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert [film.message for film in one.cohort.rejected] == [
        film.message for film in other.cohort.rejected
    ]


def test_films_in_several_files_are_those_of_the_cohort(root: Path, tmp_path: Path) -> None:
    config, told = config_of(root), []
    films = read(config, tmp_path, lambda *more: told.append(more))
    assert len(list((tmp_path / "finetune").iterdir())) == 3
    assert told[-1][1:] == (len(films) + 2, len(films) + 2)
    # The file that is none, and the film that stands twice, in another file than the first time.
    assert [film.reason for film in films.cohort.rejected] == ["not_dicom", "duplicate_pixels"]
    encoder, reader = open_model_of(config, config.model.path), FilmReader.of(config.cohort)
    regions = films.embeddings.region
    for film in (0, 17, len(films) - 1):
        pixels = reader.film(films.cohort, film).pixels
        seen = encoder.preprocess(pixels)
        assert np.array_equal(films.films.gray[films.films.rows[[film]]][0],
                              gray_levels(seen, encoder.info))  # fmt: skip
        own = np.flatnonzero(films.embeddings.region_image == film)
        assert len(own) == 9
        boxes = torch.from_numpy(films.regions.boxes[own])
        image, embedded = encoder.encode_regions(seen[None], [boxes])
        assert films.embeddings.image[film] == pytest.approx(image[0].numpy(), abs=1e-5)
        assert regions[own] == pytest.approx(embedded.numpy(), abs=1e-5)
    medoids = regions[[4, 40, 200]]
    similarity = regions @ medoids.T
    nearest = np.take_along_axis(similarity, films.nearest(medoids)[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(nearest, similarity.max(axis=1), atol=1e-5)  # but for ties


class EndedError(Exception):
    """What ends a run here."""


def test_the_same_pixels_in_two_splits_are_refused_with_their_number(
    root: Path, tmp_path: Path
) -> None:
    films = read(config_of(root), tmp_path)
    others = films.embeddings.digests
    same = replace(films, embeddings=replace(films.embeddings, digests=(*others[:3], "0" * 64)))
    other = replace(films, embeddings=replace(films.embeddings, digests=("1" * 64,)))
    films.require_other_pixels(other, ("test", "validation"))
    with pytest.raises(DataError, match="3 films of split 'test' have the same pixels as films"):
        films.require_other_pixels(same, ("test", "validation"))


def test_a_run_that_was_ended_reads_what_it_lacks(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, count = config_of(root), [0]
    straight = read(config, tmp_path / "straight")
    film = FilmReader.film

    def counted(self: FilmReader, cohort: Any, index: int) -> Any:
        count[0] += 1
        if count[0] == 20:
            raise EndedError("amid the second file")
        return film(self, cohort, index)

    monkeypatch.setattr(FilmReader, "film", counted)
    with pytest.raises(EndedError, match="amid the second file"):
        read(config, tmp_path / "ended")
    assert len(list((tmp_path / "ended" / "finetune").iterdir())) == 1
    require_same(straight, read(config, tmp_path / "ended"))
    films = len(straight) + 2
    assert count[0] == 20 + films - 16
    count[0] = 100
    require_same(straight, read(config, tmp_path / "ended"))
    assert count[0] == 100


@pytest.mark.parametrize(
    "damage", ["finetune", "cache/embeddings/*.inputs", "cache/embeddings/*[!s]"]
)
def test_a_file_that_is_damaged_is_made_again(root: Path, tmp_path: Path, damage: str) -> None:
    """A table of films, their inputs, or their embeddings."""
    config = config_of(root)
    whole = read(config, tmp_path)
    wanted = everything(whole)
    path = sorted(tmp_path.glob(f"{damage}/*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-7])
    found = everything(read(config, tmp_path))
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_films_of_which_the_model_says_nan_are_set_aside(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = read(config_of(root), tmp_path / "straight")
    encode = BatchEncoder.encode
    broken = [0]

    def encoded(self: BatchEncoder, films: Any) -> Any:
        made = encode(self, films)
        broken[0] += 1
        if broken[0] == 3:
            made[1][2][4] = np.nan  # a region of the second film of the third batch
        return made

    monkeypatch.setattr(BatchEncoder, "encode", encoded)
    films = read(config_of(root), tmp_path / "broken")
    assert len(films) == len(straight) - 1
    aside = [film for film in films.cohort.rejected if film.reason == "not_finite"]
    assert [film.row for film in aside] == [straight.cohort.rows[17]]
    assert "the model gives NaN or infinity" in aside[0].message
    wanted, found = everything(straight), everything(films)
    kept = np.arange(len(straight)) != 17
    assert np.array_equal(found["gray"], wanted["gray"][kept])
    assert np.array_equal(found["regions"], wanted["regions"][kept[wanted["region image"]]])


def test_a_full_disk_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(root)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ConfigError, match=r"cannot be written \(No space left on device\)"):
        read(config, tmp_path)


def test_files_that_workers_wrote_elsewhere_are_missed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from machines that do not share the folder."""
    monkeypatch.setattr(embedding, "_PATIENCE", 0.1)
    config = config_of(root, engine={"workers": 2})

    def elsewhere(self: LocalEngine, work: Any, units: Any) -> Any:
        yield from map(work.open.func(config, config.model.path, tmp_path / "elsewhere"), units)

    monkeypatch.setattr(LocalEngine, "map", elsewhere)
    with pytest.raises(
        ConfigError, match=r"cache\.folder: (\d+) of \1 films that workers .* Name it in cache"
    ):
        read(config, tmp_path)


def root_manifest(config: Config) -> Path:
    manifest = config.cohort.manifest
    assert isinstance(manifest, Path)
    return manifest


def located(config: Config, films: SplitFilms, folder: Path) -> tuple[Setting, RegionTable]:
    """Where two made-up features lie in the films."""
    encoder = open_model_of(config, config.model.path)
    medoids = films.embeddings.region[[0, 5, 10, 40, 61, 74, 83, 92, 107, 131]]
    features = tuple(
        ConfirmedFeature(n, "shortcut", True, FeatureDetector(medoids, n, 0, 4)) for n in (0, 1)
    )
    classes = embed_classes(encoder, config.task.texts())
    model = config.model.path
    assert isinstance(model, Path)
    manifest = root_manifest(config)
    setting = Setting(
        config, Run(Cache(folder)), WorkFolder(folder), manifest, (encoder, model), model, classes,
        features,
    )  # fmt: skip
    return setting, locate_features(setting, films, films.find(features))[0]


def test_features_are_located_as_in_the_films_themselves(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unit by unit, in what is kept of the films, and in one go in the films that were read."""
    monkeypatch.setattr(fine_tuning_films, "_FILMS", 7)
    config = config_of(root)
    films = read(config, tmp_path)
    setting, carriers = located(config, films, tmp_path)
    encoder, reader = setting.encoder, FilmReader.of(config.cohort)

    def read_input(film: int) -> np.ndarray:
        return encoder.preprocess(reader.film(films.cohort, film).pixels).numpy()

    naive = [np.empty((0, 5))]
    for number, feature in enumerate(setting.features):
        detector, found = feature.detector, films.find(setting.features)[:, number]
        assert len(np.unique(films.embeddings.region_image[found])) > 7  # more than one unit
        kept, none = films.embeddings, np.zeros(len(films), dtype=np.int64)
        images = AuditData(
            classes=films.cohort.classes, labels=films.cohort.labels, predictions=none,
            patients=films.cohort.patients, sizes=kept.sizes, region_image=kept.region_image,
            region_boxes=kept.region_boxes,
        )  # fmt: skip
        probe = CounterfactualModel(
            encoder,
            read_input,
            setting.classes, config.task.temperature, config.model.batch_size,
        )  # fmt: skip
        sides = detector.raised_class, detector.lowered_class
        film, boxes = locate_carriers(
            prepare_inputs(probe, *sides, images, like=Interpolation(probe.read)), found
        )
        naive.append(np.column_stack([film, boxes]))
    wanted = np.concatenate(naive)
    wanted = wanted[np.argsort(wanted[:, 0], kind="stable")]
    film = np.repeat(np.arange(len(films)), carriers.counts())
    np.testing.assert_allclose(np.column_stack([film, carriers.boxes]), wanted, atol=1e-4)


@pytest.mark.slow
def test_workers_locate_the_same_places(root: Path, tmp_path: Path) -> None:
    alone, spread = (config_of(root, engine={"workers": n}) for n in (1, 2))
    films = read(alone, tmp_path)
    one, other = (located(config, films, tmp_path)[1] for config in (alone, spread))
    np.testing.assert_array_equal(one.boxes, other.boxes)
    np.testing.assert_array_equal(one.starts, other.starts)


@pytest.mark.slow
def test_workers_keep_the_same_films(root: Path, tmp_path: Path) -> None:
    alone = read(config_of(root, engine={"workers": 1}), tmp_path / "one")
    require_same(alone, read(config_of(root, engine={"workers": 2}), tmp_path / "two"))


def test_films_of_other_splits_are_found_by_their_pixels(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy, and a film encoded anew, under names and patients of their own."""
    folder = root / "cohort"
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    audited = [row for row in rows if row["split"] == "validation"]
    shutil.copyfile(folder / audited[2]["image"], folder / "copied.dcm")
    listed = list_split(folder / "manifest.csv", "validation")
    film = FilmReader().film(listed, 5)
    Image.fromarray(film.gray()).save(folder / "anew.jpg", quality=95)
    taught = {**rows[0], "split": "finetune"}
    more = [{**taught, "image": n, "patient": n} for n in ("copied.dcm", "anew.jpg", "none.png")]
    with (folder / "leaky.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows([*rows, *more])
    manifest, told = folder / "leaky.csv", []
    cohort = {"manifest": manifest, "workers": 0, "split": "validation"}
    config = config_of(root, cohort=cohort)
    run = Run(Cache(tmp_path / "cache"), lambda *more: told.append(more))
    model = open_model_of(config, config.model.path), config.model.path
    films = read_split(config, manifest, "validation", model, run, tmp_path)
    found = find_films_elsewhere(config, manifest, films.cohort, films.embeddings, run)
    (place,) = found.elsewhere
    assert place == "split finetune"
    assert np.flatnonzero(found.elsewhere[place]).tolist() == [2, 5]
    assert found.not_compared == 0
    assert told[-1][0] == "compare with other splits"
    assert len(list((tmp_path / "cache" / "sketches").iterdir())) == 2

    monkeypatch.setattr(FilmReader, "film", lambda *asked: pytest.fail("a film is read again"))
    again = find_films_elsewhere(config, manifest, films.cohort, films.embeddings, run)
    assert again.elsewhere[place].tolist() == found.elsewhere[place].tolist()
    few = config_of(root, cohort={**cohort, "compared_films": 0})
    without = find_films_elsewhere(few, manifest, films.cohort, films.embeddings, run)
    assert not without.elsewhere
    assert without.not_compared == len(rows) - len(audited) + 3
