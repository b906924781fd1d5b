"""The benchmark of encoders: what it measures holds on a small scale."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ravl_med.config.loading import load_config
from ravl_med.storage.cache import Cache
from tests.benchmarks.encoders import measure_cost, measure_faith
from tests.benchmarks.published_models import PUBLISHED, measure_model
from tests.benchmarks.runner import QUICKSTART, silent
from tests.benchmarks.towers import TOWERS, measure_accuracy

SMALL = (
    "cohort.synthetic.images=160",
    "cohort.synthetic.size=96",
    "cohort.workers=0",
    "model.quickstart.epochs=1",
    "model.quickstart.image_size=64",
    "model.quickstart.batch_size=32",
)


@pytest.mark.slow
def test_a_tower_is_faithful_and_its_cost_is_counted_in_images_alone() -> None:
    (faith,) = measure_faith(2, 0, silent, ("RN50",))
    (cost,) = measure_cost(1, 1, 0, silent, ("RN50",))

    assert min(faith["whole"], faith["image"]) >= 0.999
    assert max(faith["quarter"], faith["others"]) < 0.99  # it tells images apart
    assert "attention-pool query" in faith["pooling"]
    assert (cost["batch"], cost["regions"], cost["rounds"]) == (1, 16, 1)
    assert cost["seconds"] > 0
    assert cost["ratio"] < cost["crops"]  # crops take sixteen passes more
    assert cost["threads"] == torch.get_num_threads()


def test_every_tower_of_vits_has_a_target_of_its_own() -> None:
    assert {name for name, tower in TOWERS.items() if tower.target == 1.3} == {
        "ViT-B/16", "BiomedCLIP", "SigLIP timm", "CLIP Hugging Face", "SigLIP Hugging Face",
    }  # fmt: skip
    assert TOWERS["RN50"].target == 1.4


@pytest.mark.slow
def test_windows_of_phantoms_are_asked(tmp_path: Path) -> None:
    config = load_config(QUICKSTART, SMALL)

    rows = list(measure_accuracy(config, 8, Cache(tmp_path), silent))

    assert [row["tower"] for row in rows] == [
        "quickstart resnet, 64 pixels", "quickstart vit, 64 pixels",
    ]  # fmt: skip
    for row in rows:
        assert (row["films"], row["windows"]) == (8, 72)
        assert all(0 <= share <= 1 for share in (row["whole"], row["regions"], row["crops"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_at_full_size_says_what_its_own_library_says(
    name: str, tmp_path: Path
) -> None:
    row = measure_model(name, tmp_path, 1)

    assert row["difference"] <= 1e-4
    assert row["spread"] > 10 * row["difference"]  # films are told apart
    assert row["finite"]
    assert row["effect"] != 0
    assert row["again"] is None if "swin" in name else row["again"] <= 1e-4
