"""Counterfactuals as units of work: who makes them changes no byte of the result."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from engine_audits import config_of, result_of, units_here
from PIL import Image

from ravl_med.cohort.film import FilmReader
from ravl_med.config.loading import Config
from ravl_med.engine.local import LocalEngine
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.pipeline import audited_model, stages
from ravl_med.pipeline.audit import audit
from ravl_med.storage.cache import Cache

pytestmark = pytest.mark.long

FILMS = 240
NAMED = 4  # films of a feature that are segmented, of `MOST_REGIONS`


@pytest.fixture(scope="module")
def crosses(tmp_path_factory) -> Path:
    """Films of which a half are bright on the left; a cross in a corner leads a model to the right.

    As in `test_audited_model`, but fewer.
    """
    folder = tmp_path_factory.mktemp("crosses")
    rng, rows = np.random.default_rng(0), []
    for film in range(FILMS):
        side, cross = film % 2, (film // 2) % 3 == 0
        level = np.full((64, 64), 0.35) + 0.03 * rng.normal(size=(64, 64))
        level[:, 32 * side : 32 * side + 32] += 0.03 + 0.04 * rng.normal()
        if cross:
            level[48:, :16] = 0.1 * np.maximum(np.eye(16), np.eye(16)[::-1])
        name = f"film{film:03d}.png"
        Image.fromarray((255 * level.clip(0, 1)).astype(np.uint8)).save(folder / name)
        rows.append({"image": name, "patient": film, "report": "", "left": 1 - side, "right": side})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder


@pytest.fixture(autouse=True)
def few_are_segmented(monkeypatch):
    monkeypatch.setattr("ravl_med.pipeline.audit.MOST_REGIONS", NAMED)


def crossed(root: Path, **engine) -> Config:
    return config_of(
        root,
        cohort={"manifest": root / "manifest.csv", "workers": 0},
        task={"classes": {"left": {"prompts": ["left"]}, "right": {"prompts": ["right"]}}},
        model={"path": None, "factory": "halves_model:right", "allow_code": True},
        regions={"tiles": (4, 4)},
        discovery={"clusters": (16, 32), "min_influence": 0.0},
        evidence={
            "max_pairs": 20,
            "effect_films": 40,
            "dependence_films": 0,
            "fdr": 0.5,
            "min_effect": 0.0,
        },
        gate={"max_prediction_share": 1.0},
        engine=engine,
    )


@pytest.mark.parametrize("here", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_counterfactuals_do_not_depend_on_the_engine(crosses, tmp_path, monkeypatch, here):
    expected = result_of(crossed(crosses), tmp_path / "one")
    told = json.loads(expected)
    assert any(entry["removal"] and entry["removal"]["both"] for entry in told["correlations"])
    if here:
        monkeypatch.setattr(LocalEngine, "map", units_here)
    assert result_of(crossed(crosses, workers=2), tmp_path / "two") == expected


def test_a_film_is_decoded_once_before_the_report(crosses, tmp_path, monkeypatch):
    """Counterfactuals and model checks read it as it was kept, bit for bit the model's input."""
    decoded: Counter[int] = Counter()
    segmented: Counter[int] = Counter()  # in all pixels, for which a film is decoded again
    models: list[CounterfactualModel] = []
    film, reader, spread = FilmReader.film, stages.structure_reader, audited_model.spread_hypotheses

    def counted(self, cohort, index):
        decoded[index] += 1
        return film(self, cohort, index)

    def counting(segmenter, read_pixels, *rest):
        def read(index):
            segmented[index] += 1
            return read_pixels(index)

        return reader(segmenter, read, *rest)

    def kept(model, *rest):
        models.append(model)
        return spread(model, *rest)

    monkeypatch.setattr(FilmReader, "film", counted)
    monkeypatch.setattr("ravl_med.pipeline.audited_model.structure_reader", counting)
    monkeypatch.setattr("ravl_med.pipeline.audit.spread_hypotheses", kept)
    run = audit(crossed(crosses), key=bytes(32), cache=Cache(tmp_path))
    first = run.result.correlations[0].counterfactual
    assert first is not None
    assert first.tested
    assert first.removal.both is not None  # held-out films were filled, and the maps are made
    assert len(decoded) == FILMS
    assert set((decoded - segmented).values()) == {1}
    shown: set[int] = set()  # what counts is named by what lies under the regions that carry it
    for correlation in run.result.correlations:
        if correlation.counts and correlation.counterfactual is not None:
            carries = correlation.counterfactual.removal.carries
            rows = [row for row in correlation.order if carries[row]][:NAMED]
            shown |= set(run.result.region_image[correlation.cluster.regions[rows]].tolist())
    assert 0 < len(shown) < FILMS
    assert set(segmented) == shown
    assert set(segmented.values()) == {1}
    [model] = models  # what was said of films as they are would be said again
    again = model.logits(map(model.read, range(FILMS)))
    np.testing.assert_allclose(model.audited, again, atol=1e-3)
    assert np.ptp(again[:, 0]) > 1
