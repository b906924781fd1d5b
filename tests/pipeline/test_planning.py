"""The cost of an audit told beforehand: arithmetic that adds up, and lines for bad input."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from ravl_med.cli import app
from ravl_med.config.loading import load_config
from ravl_med.encoders.film_store import FilmStore
from ravl_med.errors import ConfigError, DataError
from ravl_med.phantoms.cohort import synthesize
from ravl_med.pipeline.planning import CostPlan, plan_cost
from ravl_med.pipeline.shards import embed
from ravl_med.storage.cache import Cache

RELEVANCE = Path(__file__).parents[2] / "configs" / "relevance" / "chest.yaml"
CONFIG = f"""
name: small
cohort: {{manifest: cohort/manifest.csv, split: null, workers: 0}}
task:
  name: t
  classes:
    big heart: {{prompts: [Cardiomegaly.], label: {{cardiomegaly: 1}}}}
    other: {{prompts: [Normal.], label: {{cardiomegaly: 0}}}}
model: {{path: model, batch_size: 4, device: cpu, threads: 1}}
regions: {{tiles: [2, 3]}}
discovery: {{clusters: [4], draws: 1, sample: 200}}
evidence: {{relevance: {RELEVANCE}}}
cache: {{folder: kept}}
privacy: {{burned_in_text: show}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    import open_clip

    from ravl_med.config.model import QuickstartModelConfig
    from ravl_med.encoders.open_clip import save_model
    from ravl_med.mitigation.quickstart import quickstart_layout

    folder = tmp_path_factory.mktemp("planning")
    synthesize(folder / "cohort", images=40, size=96, seed=3, workers=1)
    layout = quickstart_layout(QuickstartModelConfig(tower="resnet", image_size=64))
    torch.manual_seed(0)
    save_model(open_clip.CLIP(**layout["model_cfg"]), layout, folder / "model")
    (folder / "audit.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def plan(root) -> CostPlan:
    return plan_cost(load_config(root / "audit.yaml"), sample=6, cache=Cache(root / "kept"))


def test_a_plan_counts_and_keeps_nothing(root, plan):
    assert (plan.films, plan.regions, plan.sample, plan.rejected) == (40, 40 * 6, 6, 0)
    assert not (root / "kept").exists()
    assert min(plan.read_seconds, plan.region_seconds, plan.encode_seconds) > 0
    assert min(plan.map_seconds, plan.structure_seconds) > 0
    assert plan.text_seconds == 0
    assert plan.worker_bytes > 1e8


def test_what_it_says_of_the_disk_is_what_is_written(root, plan, tmp_path):
    embed(load_config(root / "audit.yaml"), cache=Cache(tmp_path))
    written = list((tmp_path / "embeddings").glob("*/[0-9]*.safetensors"))
    size = sum(path.stat().st_size for path in written)
    assert plan.store_bytes == pytest.approx(size, rel=0.02)
    files = [path for path in written if not path.parent.name.endswith(".inputs")]
    assert sum(len(FilmStore(path.parent, plan.embedding_size)) for path in files) == 40


def test_hours_grow_with_films_and_fall_with_workers(root, plan):
    config = load_config(root / "audit.yaml", ("engine.kind=ray", "engine.workers=5"))
    more = plan_cost(config, films=1_000_000, workers=10, sample=2, cache=Cache(root / "kept"))
    assert (more.films, more.regions, more.workers) == (1_000_000, 6_000_000, 10)
    film = more.read_seconds + more.region_seconds + more.encode_seconds
    assert more.embed_hours == pytest.approx(1_000_000 * film / 10 / 3600)
    assert more.run_bytes - more.worker_bytes == 2**30  # the rest lies in a mapped file
    assert "with 10 workers" in "\n".join(more.lines())


def test_workers_beyond_the_processors_of_this_machine_are_not_counted(root):
    config = load_config(root / "audit.yaml", ("engine.workers=1000",))
    some = plan_cost(config, sample=1, cache=Cache(root / "kept"))
    assert some.workers == some.cores


def test_the_verb_prints_a_table_or_json(root, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "user"))
    words = ["plan", str(root / "audit.yaml"), "--sample", "2"]
    table = CliRunner().invoke(app, words)
    assert table.exit_code == 0, table.output
    assert table.stdout.splitlines()[0].split() == ["films", "40"]
    named = [line.split("  ")[0] for line in table.stdout.splitlines()]
    assert named[4:12] == [
        "embedding", "looking", "clusters", "effects", "counterfactuals", "dependence",
        "all of these", "report",
    ]  # fmt: skip
    told = CliRunner().invoke(app, [*words, "--json", "--films", "1000"])
    document = json.loads(told.stdout)
    assert (document["films"], document["regions"]) == (1000, 6000)


def test_unreadable_films_are_counted_or_refused(root, tmp_path):
    shutil.copytree(root / "cohort", tmp_path / "cohort")
    shutil.copytree(root / "model", tmp_path / "model")
    (tmp_path / "audit.yaml").write_text(CONFIG, encoding="utf-8")
    config = load_config(tmp_path / "audit.yaml")
    films = [tmp_path / "cohort" / name
             for name in pd.read_csv(tmp_path / "cohort" / "manifest.csv")["image"]]  # fmt: skip
    films[0].write_bytes(b"no film")
    some = plan_cost(config, sample=3, cache=Cache(tmp_path / "kept"))
    assert (some.sample, some.rejected) == (2, 1)
    assert "2 films, 1 more set aside" in some.lines()[-1]
    for film in films:
        film.write_bytes(b"no film")
    with pytest.raises(DataError, match=r"^manifest\.csv: none of a sample of 3 films can be read"):
        plan_cost(config, sample=3, cache=Cache(tmp_path / "kept"))


def test_each_stage_costs_what_it_is_asked(root, plan):
    words = ("evidence.looking_films=0", "evidence.dependence_films=0", "evidence.effect_films=20",
             "privacy.burned_in_text=mask")  # fmt: skip
    less = plan_cost(load_config(root / "audit.yaml", words), sample=2, cache=Cache(root / "kept"))
    assert less.looking_hours == less.dependence_hours == 0
    assert min(plan.looking_hours, plan.dependence_hours, plan.counterfactual_hours) > 0
    assert plan.effect_hours == pytest.approx(40 * plan.map_seconds / 3600)
    assert less.effect_hours == pytest.approx(20 * less.map_seconds / 3600)
    assert less.text_seconds > 0
    assert "per film shown, to look for text" in "\n".join(less.lines())


@pytest.mark.parametrize("name", ["workers", "films", "sample"])
def test_a_number_below_one_is_refused(root, name):
    with pytest.raises(ConfigError, match=rf"^--{name} must be an int in the range \[1, inf\)"):
        plan_cost(load_config(root / "audit.yaml"), **{name: 0}, cache=Cache(root / "kept"))


def test_hours_minutes_and_seconds_are_told_as_such(plan):
    hours = {"embed_hours": 3.21, "cluster_hours": 0.5, "counterfactual_hours": 0.001}
    text = "\n".join(replace(plan, **hours).lines())
    assert "3.2 hours" in text
    assert "30.0 minutes" in text
    assert "3.6 seconds" in text
