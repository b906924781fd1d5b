"""The quickstart model that ships: what it is the model of, how it is packed, what it learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ravl_med.cohort.manifest import read_manifest
from ravl_med.config.loading import Config, load_config
from ravl_med.config.model import QuickstartModelConfig
from ravl_med.encoders.open_clip import open_model
from ravl_med.mitigation import quickstart
from ravl_med.mitigation.quickstart import (
    SHIPPED,
    comes_trained,
    shipped_model,
    shipped_recipe,
    train_quickstart_model,
)
from ravl_med.phantoms.cohort import render_film
from ravl_med.phantoms.plan import plan_cohort
from ravl_med.pipeline.stages import Run, prepare_manifest, prepare_model
from ravl_med.storage.cache import Cache
from tests.benchmarks.runner import QUICKSTART
from tests.benchmarks.train_quickstart import pack_model

TINY = QuickstartModelConfig(image_size=32, epochs=1, batch_size=8)


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(QUICKSTART)


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Config], Path]]:
    """Train a tiny model, let it be the one that ships for a config, and return its folder."""

    def shipped(config: Config) -> Path:
        films = np.random.default_rng(0).normal(0, 1, (16, 32, 32)).astype(np.float32)
        texts = ["bright above", "dark below"] * 8
        train_quickstart_model(TINY, films, texts, tmp_path / "trained")
        pack_model(tmp_path / "trained", texts, shipped_recipe(config), tmp_path / "shipped")
        monkeypatch.setattr(quickstart, "SHIPPED", tmp_path / "shipped")
        quickstart._recipe_of_shipped.cache_clear()
        return tmp_path / "trained"

    yield shipped
    quickstart._recipe_of_shipped.cache_clear()


def with_tiny_model(config: Config) -> Config:
    model = config.model.model_copy(update={"quickstart": TINY})
    return config.model_copy(update={"model": model})


def test_the_model_that_ships_is_that_of_the_quickstart_alone(config: Config) -> None:
    assert SHIPPED.stat().st_size <= 4_000_000
    assert comes_trained(config)
    for change in (
        "model.quickstart.retrain=true",
        "model.quickstart.seed=1",
        "cohort.synthetic.strength=0.0",
    ):
        assert not comes_trained(load_config(QUICKSTART, (change,)))
    writing = load_config(QUICKSTART.with_name("quickstart_generative.yaml"))
    assert not comes_trained(writing)


def test_a_packed_model_is_the_trained_one_to_half_a_step(
    config: Config, tmp_path: Path, ship: Callable[[Config], Path]
) -> None:
    tiny = with_tiny_model(config)
    trained = ship(tiny)
    assert comes_trained(tiny)
    assert not comes_trained(config)
    folder = shipped_model(Cache(tmp_path / "cache"))

    before, after = (
        open_model(one, torch.device("cpu")).model.state_dict() for one in (trained, folder)
    )
    assert before.keys() == after.keys()
    learned = after["token_embedding.weight"].abs().sum(dim=1) > 0
    assert 4 < int(learned.sum()) < 12  # the words, start, end and padding
    for name, weight in before.items():
        kept = after[name]
        if name == "token_embedding.weight":
            weight, kept = weight[learned], kept[learned]
        rows = weight.reshape(len(weight), -1) if weight.ndim > 1 else None
        step = 0 if rows is None else rows.abs().amax(dim=1).max() / 127
        assert float((weight - kept).abs().max()) <= 0.501 * step, name


def test_it_takes_a_generator_for_an_enlarged_heart(config: Config, tmp_path: Path) -> None:
    synthetic = config.cohort.synthetic
    assert synthetic is not None
    plans = plan_cohort(synthetic.images, synthetic.feature, synthetic.finding, synthetic.strength,
                        synthetic.seed, None)  # fmt: skip
    normal = [
        plan for plan in plans
        if plan.split == "validation" and plan.finding == "no finding" and not plan.features
    ][:12]  # fmt: skip
    assert len(normal) == 12
    folder, cached = prepare_model(config, tmp_path / "none.csv", None, Run(Cache(tmp_path)))
    assert cached
    opened = open_model(folder, torch.device("cpu"))

    def margins(features: tuple[str, ...]) -> np.ndarray:
        rendered = [
            render_film(replace(plan, features=features), seed=synthetic.seed, size=synthetic.size)
            for plan in normal
        ]
        films = torch.stack([opened.preprocess(film.pixels) for film in rendered])
        with torch.no_grad():
            images = opened.encode_image(films)
            texts = opened.encode_text(["Cardiomegaly.", "Normal chest radiograph."])
        scores = images @ texts.T
        return (scores[:, 0] - scores[:, 1]).numpy()

    with_it, without = margins((synthetic.feature,)), margins(())
    assert (with_it > without).all()
    assert (with_it > 0).mean() > 0.8
    assert (without < 0).mean() > 0.5


def test_an_audit_makes_only_its_own_films_and_a_repair_the_others(
    tmp_path: Path, ship: Callable[[Config], Path]
) -> None:
    small = ("cohort.synthetic.images=44", "cohort.synthetic.size=64")
    config = with_tiny_model(load_config(QUICKSTART, small))
    ship(config)
    run = Run(Cache(tmp_path))

    own = prepare_manifest(config, run)
    some = read_manifest(own, split="validation")
    made = {path.name for path in (own.parent / "images").iterdir()}
    assert made == {Path(path).name for path in some.paths}
    assert 0 < len(made) < 44
    whole = prepare_manifest(config, run, whole=True)
    assert whole != own
    assert whole.read_bytes() == own.read_bytes()
    assert len(list((whole.parent / "images").iterdir())) == 44
    for name in made:
        one, other = own.parent / "images" / name, whole.parent / "images" / name
        assert one.read_bytes() == other.read_bytes()
    assert prepare_manifest(config, run) == whole  # the films are there

    seeded = load_config(QUICKSTART, (*small, "model.quickstart.seed=1"))  # has to be trained
    trained = prepare_manifest(seeded, Run(Cache(tmp_path / "anew")))
    assert len(list((trained.parent / "images").iterdir())) == 44
    assert trained.read_bytes() == whole.read_bytes()
