"""The whole tool on phantoms: its trials, bystanders by hand, and a small cohort."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ravl_med.config.loading import Config, load_config
from ravl_med.discovery.ravl import AuditData
from ravl_med.errors import ConfigError
from ravl_med.storage.cache import Cache
from tests.benchmarks import bystanders
from tests.benchmarks.bystanders import confirm_planted, hit_regions
from tests.benchmarks.quickstart import (
    PAGE,
    Trial,
    audit_side_by_side,
    mean_precision,
    measure_audits,
    measure_bystanders,
    phantom_settings,
    plan_trials,
)
from tests.benchmarks.runner import QUICKSTART, Setup


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(QUICKSTART)


def test_every_part_has_its_trials(config: Config) -> None:
    counts = {"planted": 2, "localisation": 1, "bystander": 2}
    assert list(counts) == [part.name for part in PAGE.parts]
    trials = {part: plan_trials(part, count, config) for part, count in counts.items()}
    assert trials["planted"] == [Trial(True, seed, "resnet", (6, 6)) for seed in (0, 1)]
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


def test_the_truth_has_to_be_known() -> None:
    config = load_config(QUICKSTART.with_name("real_radiographs.yaml"))
    with pytest.raises(ConfigError, match=r"cohort\.synthetic and model\.quickstart"):
        phantom_settings(config, Trial(True, 0, "resnet", (6, 6)))


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


def test_a_part_of_it_touches_and_does_not_hit(run: Any) -> None:
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
def test_it_is_accused_by_a_shortcut_that_shows_it_more(
    run: Any, correlations: list[Any], accused: tuple[bool, bool]
) -> None:
    run.result.correlations = correlations
    shown = {name: hit_regions(run, name) for name in ("generator", "marker")}
    assert tuple(bystanders._accused(run, name, shown) for name in shown) == accused


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
    cluster = bystanders._true_cluster(0, images, present, half)
    np.testing.assert_array_equal(cluster.regions, np.flatnonzero(present))
    np.testing.assert_array_equal(cluster.present, present)
    assert (cluster.raised_class, cluster.opposed_classes) == (1, (0,))
    assert cluster.n_present.sum() + cluster.n_absent.sum() == 40


def test_without_a_bystander_there_is_nothing_to_confirm(
    run: Any, config: Config, tmp_path: Path
) -> None:
    run.config = config
    with pytest.raises(ConfigError, match="no bystander"):
        confirm_planted(run, 0, Cache(tmp_path))


@pytest.mark.slow
def test_a_small_cohort_goes_the_whole_way(tmp_path: Path) -> None:
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
            "evidence.effect_films=40",
        ),
    )
    run = Setup(small, Cache(tmp_path), b"k", {"cohorts": 1})
    (row,) = measure_audits("planted", run)
    assert (row["cohort"], row["tower"], row["tiles"], row["seed"]) == (
        "planted", "resnet", "6 x 6", 0,
    )  # fmt: skip
    (null,) = audit_side_by_side(run, [Trial(False, 0, "resnet", (6, 6))])
    assert null["precision_at_10"] is null["overlap"] is None
    generator, marker = measure_bystanders(run)
    assert (generator["thing"], generator["role"]) == ("generator", "planted")
    assert generator["phi"] == pytest.approx(1)
    assert (marker["thing"], marker["role"]) == ("marker", "bystander")
    assert marker["phi"] == pytest.approx(0.8, abs=0.15)
    for row in (generator, marker):
        assert row["used"] is bool(row["shown_by"])
        assert row["untested"] or 0 <= row["q_value"] <= 1
        assert len(row["typical"]) == (0 if row["untested"] else 3)


def test_a_precision_that_is_missing_counts_as_none() -> None:
    assert mean_precision([{"precision_at_10": p} for p in (1.0, None, 0.5)]) == 0.5
