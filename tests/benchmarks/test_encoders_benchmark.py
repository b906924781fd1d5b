"""The benchmark of encoders: what it measures holds on a small scale, targets beside numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ravl_med.config.loading import load_config
from ravl_med.errors import ConfigError
from ravl_med.storage.cache import Cache
from tests.benchmarks.cli import benchmark as app
from tests.benchmarks.encoders.accuracy import measure_accuracy
from tests.benchmarks.encoders.benchmark import PARTS, EncodersPlan, run_encoders_benchmark
from tests.benchmarks.encoders.tables import encoders_markdown
from tests.benchmarks.encoders.towers import TOWERS
from tests.benchmarks.encoders.trials import measure_cost, measure_faith

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


SMALL = (
    "cohort.synthetic.images=160",
    "cohort.synthetic.size=96",
    "cohort.workers=0",
    "model.quickstart.epochs=1",
    "model.quickstart.image_size=64",
    "model.quickstart.batch_size=32",
)


def quiet(stage: str, done: int, total: int) -> None:
    pass


def test_a_tower_is_faithful_and_its_cost_is_told_in_images_alone() -> None:
    (faith,) = measure_faith(2, 0, quiet, ("RN50",))
    (cost,) = measure_cost(1, 1, 0, quiet, ("RN50",))

    assert min(faith.whole, faith.image) >= 0.999
    assert max(faith.quarter, faith.others) < 0.99  # it tells images apart
    assert "attention-pool query" in faith.pooling
    assert (cost.batch, cost.regions, cost.rounds) == (1, 16, 1)
    assert cost.seconds > 0
    assert cost.ratio < cost.crops  # crops take sixteen passes more
    assert cost.threads == torch.get_num_threads()


def test_every_tower_of_vits_has_a_target_of_its_own() -> None:
    assert {name for name, tower in TOWERS.items() if tower.target == 1.3} == {
        "ViT-B/16", "BiomedCLIP", "SigLIP timm", "CLIP Hugging Face", "SigLIP Hugging Face",
    }  # fmt: skip
    assert TOWERS["RN50"].target == 1.4


@pytest.mark.slow
def test_windows_of_phantoms_are_asked(tmp_path: Path) -> None:
    config = load_config(QUICKSTART, SMALL)

    rows = measure_accuracy(config, 8, Cache(tmp_path), quiet)

    assert [row.tower for row in rows] == [
        "quickstart resnet, 64 pixels", "quickstart vit, 64 pixels",
    ]  # fmt: skip
    for row in rows:
        assert (row.films, row.windows) == (8, 72)
        assert all(0 <= share <= 1 for share in (row.whole, row.regions, row.crops))


def test_the_command_writes_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in set(TOWERS) - {"RN50"}:
        monkeypatch.delitem(TOWERS, name)
    out = tmp_path / "out"
    words = ["--parts", "cost,faithful", "--images", "2", "--batch", "1", "--rounds", "1"]

    outcome = CliRunner().invoke(app, ["encoders", str(QUICKSTART), *words, "--out", str(out)])

    assert outcome.exit_code == 0, outcome.output
    parts = json.loads((out / "encoders.json").read_text(encoding="utf-8"))["parts"]
    assert list(parts) == ["faithful", "cost"]
    assert parts["cost"]["command"] == (
        "ravl-med benchmark encoders --parts cost --batch 1 --rounds 1"
    )
    text = (out / "encoders.md").read_text(encoding="utf-8")
    assert "| CLIP RN50 (open_clip) |" in text
    assert str(tmp_path) not in text


def test_targets_stand_beside_what_was_reached() -> None:
    part = {"tool": "t", "machine": "m", "command": "c", "seconds": 1.0}
    faith = {"tower": "A", "pooling": "p", "images": 8, "whole": 0.9985, "image": 1.0,
             "quarter": 0.5, "others": 0.4}  # fmt: skip
    cost = {"tower": "A", "pooling": "p", "batch": 4, "regions": 16, "threads": 1, "rounds": 5,
            "seconds": 1.0, "ratio": 1.29, "crops": 17.0, "target": 1.3}  # fmt: skip
    said = {"tower": "A", "films": 9, "windows": 81, "whole": 0.9, "regions": 0.8, "crops": 0.82}
    text = encoders_markdown(
        {
            "faithful": {**part, "rows": [faith]},
            "cost": {**part, "rows": [cost, {**cost, "ratio": 1.31}, {**cost, "target": None}]},
            "accuracy": {**part, "rows": [said, {**said, "regions": 0.78}]},
        }
    )

    assert "| at least 0.999 | 0.998500 | no | 1.000000 | 0.500 | 0.400 |" in text
    assert "| 4, 1 | 1.00 s | at most 1.3 x | 1.29 x | yes | 17.0 x |" in text
    assert "| at most 1.3 x | 1.31 x | no |" in text
    assert "| – | 1.29 x | – | 17.0 x |" in text
    assert "| 82.0% | at least 79.0% | 80.0% | yes |" in text
    assert "| at least 79.0% | 78.0% | no |" in text


def test_it_asks_for_a_quickstart(tmp_path: Path) -> None:
    config = load_config(QUICKSTART, ("model={path: nowhere}",))

    with pytest.raises(ConfigError, match=r"expected a config with cohort\.synthetic and model"):
        run_encoders_benchmark(config, EncodersPlan(PARTS), tmp_path, cache=Cache(tmp_path))
