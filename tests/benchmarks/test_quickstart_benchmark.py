"""The benchmark of the whole tool on phantoms: its trials, its tables, what it keeps."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ravl_med.config.loading import Config, load_config
from ravl_med.discovery.ravl import AuditData
from ravl_med.errors import ConfigError
from ravl_med.storage.cache import Cache
from tests.benchmarks.cli import benchmark as app
from tests.benchmarks.quickstart import benchmark as quickstart_benchmark
from tests.benchmarks.quickstart import phantom_things
from tests.benchmarks.quickstart.benchmark import (
    PARTS,
    QuickstartPlan,
    plan_trials,
    run_quickstart_benchmark,
)
from tests.benchmarks.quickstart.phantom_things import ThingRow, hit_regions, weigh_things
from tests.benchmarks.quickstart.trials import AuditRow, Trial, phantom_settings

REPOSITORY = Path(__file__).parents[2]
QUICKSTART = REPOSITORY / "configs" / "quickstart.yaml"
NAN = math.nan

PLANTED = AuditRow(
    "planted", "resnet", "6 x 6", 0, "fail", 0.659, 0.84, 0.87, "shortcut", True, 1.0, 0.8, 0.1,
    0.31, 0.62, 9, 1, 0, 0.28, 25.0,
)  # fmt: skip
NULL = AuditRow(
    "null", "resnet", "6 x 6", 0, "review", 0.87, 0.01, 0.1, "none", False, NAN, NAN, NAN,
    NAN, NAN, 1, 0, 1, NAN, 25.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(QUICKSTART)


# --- trials ---------------------------------------------------------------------------------------


def test_every_part_has_its_trials(config: Config) -> None:
    plan = QuickstartPlan(seeds=2, nulls=3, located=1)
    trials = {part: plan_trials(part, plan, config) for part in PARTS}
    assert trials["planted"] == [Trial(True, seed, "resnet", (6, 6)) for seed in (0, 1)]
    assert trials["null"] == [Trial(False, seed, "resnet", (6, 6)) for seed in (0, 1, 2)]
    assert {(t.tower, t.tiles) for t in trials["localisation"]} == {
        (tower, tiles) for tower in ("resnet", "vit") for tiles in ((4, 4), (6, 6))
    }
    assert [t.bystander for t in trials["bystander"]] == ["marker", "marker"]


def test_a_trial_sets_films_model_and_tiles(config: Config) -> None:
    settings = phantom_settings(config, Trial(False, 3, "vit", (4, 4)))
    films, model = settings.cohort.synthetic, settings.model.quickstart
    assert films is not None
    assert model is not None
    assert (films.strength, films.seed, films.bystander) == (0.0, 3, None)
    assert (model.seed, model.tower) == (3, "vit")
    assert settings.regions.tiles == (4, 4)
    assert settings.evidence == config.evidence


def test_a_bystander_is_laid_on_the_films(config: Config) -> None:
    films = phantom_settings(config, Trial(True, 0, "resnet", (6, 6), "marker")).cohort.synthetic
    assert films is not None
    assert (films.strength, films.bystander) == (0.95, "marker")


def test_the_truth_has_to_be_known(tmp_path: Path) -> None:
    config = load_config(REPOSITORY / "configs" / "real_radiographs.yaml")
    with pytest.raises(ConfigError, match=r"cohort\.synthetic and model\.quickstart"):
        run_quickstart_benchmark(
            config, QuickstartPlan(), tmp_path / "out", key=b"k", cache=Cache(tmp_path)
        )
    assert list(tmp_path.iterdir()) == []


# --- a bystander ----------------------------------------------------------------------------------

CELL = 10.0  # side of a tile of a 2 x 2 film
TRUTH = (
    "image,kind,x0,y0,x1,y1\n"
    "films/0.dcm,generator,0,0,8,8\nfilms/1.dcm,generator,1,1,9,9\n"
    "films/0.dcm,marker,12,12,18,18\nfilms/2.dcm,marker,12,12,18,18\n"
)


def shortcut(regions: list[int], counts: bool = True, kind: str = "shortcut") -> SimpleNamespace:
    return SimpleNamespace(
        counts=counts, kind=kind, cluster=SimpleNamespace(regions=np.array(regions))
    )


@pytest.fixture
def run(tmp_path: Path, config: Config) -> Any:
    """Three films of 2 x 2 tiles; a generator top left on two, a marker bottom right on two."""
    (tmp_path / "truth.csv").write_text(TRUTH, encoding="utf-8")
    tile = np.array([[x, y, x + CELL, y + CELL] for y in (0.0, CELL) for x in (0.0, CELL)])
    return SimpleNamespace(
        config=phantom_settings(config, Trial(True, 0, "resnet", (2, 2), "marker")),
        manifest=tmp_path / "manifest.csv",
        cohort=SimpleNamespace(paths=[tmp_path / "films" / f"{i}.dcm" for i in range(3)]),
        result=SimpleNamespace(
            region_image=np.repeat(np.arange(3), 4),
            region_boxes=np.tile(tile, (3, 1)),
            correlations=[],
        ),
    )


def test_hits_by_hand(run: Any) -> None:
    shown = hit_regions(run, "marker")
    assert np.flatnonzero(shown.regions).tolist() == [3, 11]
    assert shown.films.tolist() == [True, False, True]
    assert np.flatnonzero(shown.touched).tolist() == [3, 11]
    assert np.flatnonzero(hit_regions(run, "generator").touched).tolist() == [0, 4]
    assert not hit_regions(run, "tube").films.any()


def test_a_part_of_a_thing_touches_and_does_not_hit(run: Any) -> None:
    truth = run.manifest.parent / "truth.csv"
    truth.write_text("image,kind,x0,y0,x1,y1\nfilms/0.dcm,tube,2,2,12,9\n", encoding="utf-8")
    shown = hit_regions(run, "tube")
    assert np.flatnonzero(shown.regions).tolist() == [0]
    assert np.flatnonzero(shown.touched).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("correlations", "accused"),
    [
        ([], (False, False)),
        ([shortcut([0, 4, 3])], (True, False)),  # two of the generator, one of the marker
        ([shortcut([0, 3])], (False, False)),
        ([shortcut([3, 11]), shortcut([0, 4])], (True, True)),
        ([shortcut([3, 11], counts=False)], (False, False)),
        ([shortcut([3, 11], kind="undecided")], (False, False)),
    ],
)
def test_a_thing_is_accused_by_a_shortcut_that_shows_it_more(
    run: Any, correlations: list[Any], accused: tuple[bool, bool]
) -> None:
    run.result.correlations = correlations
    shown = {thing: hit_regions(run, thing) for thing in ("generator", "marker")}
    assert tuple(phantom_things._accused(run, thing, shown) for thing in shown) == accused


def test_the_true_cluster_is_measured_on_the_half_that_chooses() -> None:
    films = 80
    labels, present = np.arange(films) % 2, np.arange(films) % 4 < 2
    half = np.arange(films) < 40
    right = np.where(half, present == (labels == 1), ~present)  # the other half says nothing
    images = AuditData(
        classes=("clear", "heart"),
        labels=labels,
        predictions=np.where(right, labels, 1 - labels),
        patients=np.arange(films),
        sizes=np.full((films, 2), 10),
        region_image=np.arange(films),
        region_boxes=np.zeros((films, 4), np.float32),
    )
    cluster = phantom_things._true_cluster(images, present, half)
    np.testing.assert_array_equal(cluster.regions, np.flatnonzero(present))
    np.testing.assert_array_equal(cluster.present, present)
    assert (cluster.raised_class, cluster.opposed_classes) == (1, (0,))
    assert cluster.n_present.sum() + cluster.n_absent.sum() == 40


def test_without_a_bystander_there_is_nothing_to_weigh(
    run: Any, config: Config, tmp_path: Path
) -> None:
    run.config = config
    with pytest.raises(ConfigError, match="no bystander"):
        weigh_things(run, 0, Cache(tmp_path))


def test_a_small_cohort_goes_the_whole_way(config: Config, tmp_path: Path) -> None:
    small = load_config(
        QUICKSTART,
        (
            "cohort.synthetic.images=132",
            "cohort.synthetic.size=64",
            "model.quickstart.epochs=1",
            "model.quickstart.batch_size=16",
            "gate.min_films=2",
            "gate.max_prediction_share=1",
            "gate.min_prediction_share=0",
            "gate.min_auroc=0",
            "discovery.clusters=[6]",
            "discovery.draws=1",
            "evidence.simulations=20",
            "evidence.min_pairs=4",
            "evidence.draws=2000",
            "evidence.max_correlations=1",
        ),
    )
    plan = QuickstartPlan(("planted", "bystander"), seeds=1)
    path = run_quickstart_benchmark(
        small, plan, tmp_path / "out", key=b"k", cache=Cache(tmp_path / "cache")
    )
    kept = json.loads((tmp_path / "out" / "quickstart.json").read_text(encoding="utf-8"))["parts"]
    (row,) = kept["planted"]["rows"]
    assert (row["cohort"], row["tower"], row["tiles"], row["seed"]) == (
        "planted", "resnet", "6 x 6", 0,
    )  # fmt: skip
    generator, marker = kept["bystander"]["rows"]
    assert (generator["thing"], generator["role"]) == ("generator", "planted")
    assert generator["phi"] == pytest.approx(1)
    assert (marker["thing"], marker["role"]) == ("marker", "bystander")
    assert marker["phi"] == pytest.approx(0.8, abs=0.15)
    assert len(generator["removal"]) == 3
    assert "## Bystander" in path.read_text(encoding="utf-8")


# --- what is kept ---------------------------------------------------------------------------------

THINGS = [
    ThingRow(
        "generator", "planted", 0, 1.0, "confirmed", "cardiomegaly", 0.85, -0.87, True,
        (1.04, 0.75, 1.35), (0.63, 0.32, 1.02), (1.57, 1.17, 1.98), True,
    ),
    ThingRow(
        "marker", "bystander", 0, 0.8, "raised_only", "cardiomegaly", 0.4, -0.3, False,
        (0.01, -0.2, 0.2), (0.0, -0.1, 0.1), (), False,
    ),
]  # fmt: skip


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """Audits whose outcome was made by hand; the trials that were asked for."""
    asked: list[Trial] = []

    def audited(config: Config, trial: Trial, **rest: Any) -> tuple[AuditRow, None]:
        asked.append(trial)
        row = PLANTED if trial.planted else NULL
        shortcuts = row.shortcuts if trial.seed != 1 or trial.planted else 1
        precision = 0.9 if trial.tower == "vit" else row.precision_at_10
        named = f"{trial.tiles[0]} x {trial.tiles[1]}"
        return (
            replace(
                row,
                seed=trial.seed,
                tower=trial.tower,
                tiles=named,
                shortcuts=shortcuts,
                precision_at_10=precision,
            ),
            None,
        )

    monkeypatch.setattr(quickstart_benchmark, "audit_phantoms", audited)
    monkeypatch.setattr(quickstart_benchmark, "weigh_things", lambda *rest: THINGS)
    return asked


def test_the_markdown_holds_target_beside_reached(
    config: Config, tmp_path: Path, prepared: list[Trial]
) -> None:
    plan = QuickstartPlan(seeds=1, nulls=20)
    path = run_quickstart_benchmark(config, plan, tmp_path, key=b"k", cache=Cache(tmp_path))
    text = path.read_text(encoding="utf-8")
    assert "- `fail`: 1 of 1 (target: all)" in text
    assert (
        "| 0 | 65.9% | +84 / -87 points | fail | shortcut, names the finding | 1.0 (0.1) "
        "| 9, 1, 0 | 28 points |" in text
    )
    assert "| 0 | 87.0% | +1 / -10 points | review | – | – | 1, 0, 1 | – |" in text
    assert "with a confirmed shortcut: 1 of 20 (0.1 to 24.9 %; target: at most 3; met: yes)" in text
    assert "precision@10, mean of 4: 0.95 (target: at least 0.95; met: yes)" in text
    assert "| vit | 4 x 4 | 0 | at least 0.95 | 0.9 | no | 0.8 | 0.1 | 0.31, 0.62 | fail |" in text
    assert (
        "| generator (planted) | 0 | 1.00 | confirmed, raises cardiomegaly | +85 / -87 points "
        "| +1.04 (+0.75 to +1.35) | +0.63 (+0.32 to +1.02) | +1.57 (+1.17 to +1.98) | yes | used "
        "| yes | yes |" in text
    )
    assert (
        "| marker (bystander) | 0 | 0.80 | raised only, raises cardiomegaly | +40 / -30 points "
        "| +0.01 (-0.20 to +0.20) | +0.00 (-0.10 to +0.10) | not tried | no | not used | yes | no |"
        in text
    )
    assert text.count("Made by `ravl-med benchmark quickstart configs/quickstart.yaml") == 4
    assert "--parts null --nulls 20`" in text
    assert "--parts localisation --located 1`" in text
    assert len(prepared) == 1 + 20 + 4 + 1


def test_parts_that_are_not_run_keep_their_numbers(
    config: Config, tmp_path: Path, prepared: list[Trial]
) -> None:
    for parts in (("null",), ("planted",)):
        plan = QuickstartPlan(parts, seeds=2, nulls=2)
        run_quickstart_benchmark(config, plan, tmp_path, key=b"k", cache=Cache(tmp_path))
    kept = json.loads((tmp_path / "quickstart.json").read_text(encoding="utf-8"))["parts"]
    assert list(kept) == ["planted", "null"]
    assert [row["seed"] for row in kept["null"]["rows"]] == [0, 1]
    assert kept["null"]["rows"][0]["precision_at_10"] is None


def test_what_was_audited_stays_when_it_is_stopped(
    config: Config, tmp_path: Path, prepared: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    audited = quickstart_benchmark.audit_phantoms

    def stopped(config: Config, trial: Trial, **rest: Any) -> Any:
        if trial.seed == 1:
            raise KeyboardInterrupt
        return audited(config, trial, **rest)

    monkeypatch.setattr(quickstart_benchmark, "audit_phantoms", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_quickstart_benchmark(
            config, QuickstartPlan(("null",)), tmp_path, key=b"k", cache=Cache(tmp_path)
        )
    kept = json.loads((tmp_path / "quickstart.json").read_text(encoding="utf-8"))["parts"]
    assert [row["seed"] for row in kept["null"]["rows"]] == [0]


def test_the_verb_prints_what_it_writes(tmp_path: Path, prepared: list[Trial]) -> None:
    words = ["quickstart", str(QUICKSTART), "--parts", "planted", "--seeds", "1"]
    outcome = CliRunner().invoke(app, [*words, "--out", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout == (tmp_path / "quickstart.md").read_text(encoding="utf-8")
    assert str(REPOSITORY) not in outcome.stdout


def test_the_verb_refuses_unknown_parts(tmp_path: Path) -> None:
    words = ["quickstart", str(QUICKSTART), "--parts", "all", "--out", str(tmp_path)]
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("error: --parts: expected some of planted, null")
    assert list(tmp_path.iterdir()) == []
