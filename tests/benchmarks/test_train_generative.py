"""The weights that the model that writes starts from: a small run, from films to file."""

import json
from pathlib import Path

import numpy as np
import pytest

from ravl_med.config.model import QuickstartModelConfig
from ravl_med.mitigation.generative_quickstart import START
from ravl_med.mitigation.quickstart import RECIPE, read_facts, read_packed
from ravl_med.phantoms.devices import FEATURES
from ravl_med.phantoms.plan import cramers_v
from tests.benchmarks.runner import silent
from tests.benchmarks.train_generative import draw_films, train_start

CLASSES = ("cardiomegaly", "pleural effusion", "pneumothorax", "consolidation", "no finding")


@pytest.mark.long
def test_films_say_what_they_show_and_devices_go_with_nothing() -> None:
    drawn, devices = draw_films(QuickstartModelConfig(tower="vit"), CLASSES, 60, 3, silent)
    assert drawn.films.shape == (60, 96, 96)
    assert len(np.unique(drawn.films.reshape(60, -1).mean(axis=1))) == 60
    assert drawn.films.std() > 0.5
    assert np.bincount(drawn.labels, minlength=5).min() >= 6
    assert devices.shape == (60, len(FEATURES))
    assert np.all(np.abs(devices.mean(axis=0) - 0.5) < 0.25)
    assert cramers_v(drawn.labels == 0, devices[:, 0]) < 0.3
    bright = drawn.films[:, 22:36, 62:78].mean(axis=(1, 2))  # where a generator lies
    assert bright[devices[:, 0]].mean() > bright[~devices[:, 0]].mean() + 0.2
    for label, report in zip(drawn.labels, drawn.reports, strict=True):
        own = CLASSES[label] if label < 4 else "normal"
        assert own.split()[-1] in report.lower() or "cardiopulmonary" in report
        assert not any(word in report.lower() for word in ("pacemaker", "generator", "tube"))


@pytest.mark.slow
def test_a_small_run_gives_the_weights_of_the_image_side(tmp_path: Path) -> None:
    file = tmp_path / "start.safetensors"
    train_start(file, 64, 1, 3, silent)
    assert json.loads(read_facts(file)[RECIPE]) == {"films": 64, "epochs": 1, "seed": 3}
    shipped, weights = read_packed(START), read_packed(file)
    assert {name: w.shape for name, w in weights.items()} == {
        n: w.shape for n, w in shipped.items()
    }
