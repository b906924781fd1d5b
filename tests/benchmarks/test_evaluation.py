import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ravl_med.evaluation.methods import CHOSEN, METHODS, OPTIONS, OURS
from ravl_med.evaluation.repairs import BEFORE, CLEAN, GUESS, REPAIRS, ArmOfSetting
from ravl_med.evaluation.settings import RECIPE, SEEDS, TRIED
from ravl_med.evaluation.sweep import ARMS, RESULTS, _write_rows
from ravl_med.evaluation.trial import MethodRow
from tests.benchmarks.evaluation import write_pages
from tests.benchmarks.evaluation_measures import (
    accused,
    best_options,
    exact_share,
    finds_at,
    gain_over_best,
    group_mean,
    published,
    ratio_of_means,
    score_methods,
    table_of_rows,
    tried,
    valid_models,
)

Row = dict[str, object]


def made_up_rows(
    groups: int = 3,
    domain: str = "phantoms",
    kind: str = "planted",
    seeds: tuple[int, ...] = SEEDS,
) -> list[Row]:
    rows: list[Row] = []
    for group in range(groups):
        for seed in seeds:
            for place, method in enumerate(METHODS):
                rows.append(
                    {
                        "digest": f"{domain}{kind}{group}{seed}",
                        "group": f"{domain}{kind}{group}",
                        "domain": domain,
                        "kind": kind,
                        "architecture": "resnet" if group % 2 else "vit",
                        "feature": "disc",
                        "place": "heart",
                        "inside": True,
                        "radius": 0.05,
                        "contrast": 0.8,
                        "finding": "cardiomegaly",
                        "feature_2": "",
                        "finding_2": "",
                        "strength": 0.9,
                        "reached": 0.9,
                        "seed": seed,
                        "version": "0",
                        "recipe": RECIPE,
                        "accuracy": 0.7,
                        "bare": 0.7,
                        "majority": 0.2,
                        "leak": 0.1,
                        "use": 0.2 * group,
                        "problem": "",
                        "raised_gap": 0.15 + 0.1 * group,
                        "lowered_gap": 0.5,
                        "valid": kind != "null",
                        "films": 600,
                        "region_count": 21600,
                        "seconds": 20.0,
                        "cpu_seconds": 19.0,
                        "training_seconds": 9.0,
                        "method": method,
                        "option": CHOSEN[method].label() if method in CHOSEN else "",
                        "precision_10": place / 20 if kind != "null" else math.nan,
                        "precision_25": place / 20,
                        "touching_10": place / 10,
                        "fitted_10": place / 10 if kind != "null" else math.nan,
                        "right_class": method == OURS,
                        "decides": method in ("ravl", OURS),
                        "accuses": method == "ravl"
                        or (method == OURS and (kind != "null" or group + seed == SEEDS[0])),
                        "asks": False,
                        "harm": 0.5 if kind != "null" else 0.1 * group,
                        "true_rank": int(method == OURS),
                        "verdict": ("fail" if kind != "null" else "pass") if method == OURS else "",
                        "tested_true": 1,
                        "confirmed_true": 1,
                        "tested_other": 20,
                        "confirmed_other": 1,
                        "pairs_found": 1,
                        "items": "[]",
                    }
                )
    return rows


def made_up_arms(precision: float = 1.0) -> list[Row]:
    """One group, three seeds: RaVL's worst group is 20 %, ours 60 %, that of most others 15 %."""
    worst = {BEFORE: 0.1, CLEAN: 0.7, "ravl": 0.2, "counterfactual": 0.6, "alignment": 0.33}
    return [
        {
            "digest": f"phantomsplanted0{seed}",
            "group": "phantomsplanted0",
            "domain": "phantoms",
            "architecture": "vit",
            "strength": 0.9,
            "seed": seed,
            "recipe": RECIPE,
            "precision_10": precision,
            "bare": 0.7,
            "majority": 0.2,
            "reason": "",
            "arm": arm,
            "image_overall": 0.8,
            "image_worst": worst.get(arm, 0.15),
            "region_overall": 0.7,
            "region_worst": 0.3,
            "raised_gap": 0.1,
            "lowered_gap": 0.1,
            "smallest": 31,
            "seconds": 3.0,
        }
        for seed in SEEDS
        for arm in (BEFORE, GUESS, CLEAN, *REPAIRS)
    ]


def test_a_group_is_valid_when_three_seeds_have_learned() -> None:
    rows = made_up_rows()
    table = table_of_rows(rows)
    assert valid_models(table)["digest"].nunique() == 9
    table.loc[table["digest"] == f"phantomsplanted1{SEEDS[1]}", "valid"] = False
    assert valid_models(table)["digest"].nunique() == 6
    assert valid_models(table[table["seed"] < SEEDS[2]]).empty


def test_null_settings_are_not_valid_and_do_not_fail() -> None:
    table = table_of_rows(made_up_rows(kind="null"))
    assert valid_models(table).empty


def test_mean_by_hand_and_its_interval_is_over_groups() -> None:
    values = np.array([0.0, 0.0, 1.0, 1.0])
    mean = group_mean(values, ["a", "a", "b", "b"])
    assert mean.value == 0.5
    assert (mean.low, mean.high) == (0.0, 1.0)  # two groups alone: either can be all that is drawn
    assert mean.models == 4
    assert math.isnan(group_mean(np.empty(0), []).value)


def test_one_group_has_a_mean_and_no_interval() -> None:
    mean = group_mean(np.array([0.5, 1.0]), ["a", "a"])
    assert (mean.value, mean.models) == (0.75, 2)
    assert math.isnan(mean.low)
    assert math.isnan(mean.high)
    closed = ratio_of_means(np.array([0.1, 0.3]), np.array([0.4, 0.4]), ["a", "a"])
    assert closed.value == pytest.approx(0.5)
    assert math.isnan(closed.low)


def test_scores_by_hand() -> None:
    scores = {s.method: s for s in score_methods(table_of_rows(made_up_rows()))}
    place = METHODS.index("ravl")
    assert scores["ravl"].fitted_10.value == pytest.approx(place / 10)
    assert scores["ravl"].cut_10.value == pytest.approx(place / 20)
    assert scores["ravl"].found.value == float(place / 10 > 0.6)
    assert scores[OURS].right_class.value == 1.0
    assert scores[OURS].first.value == 1.0


def test_exact_interval_by_the_book() -> None:
    share = exact_share(0, 20)
    assert share.value == 0.0
    assert share.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert math.isnan(exact_share(0, 0).low)


def test_one_event_is_counted_for_planted_and_clean_models() -> None:
    clean, planted = (accused(table_of_rows(made_up_rows(kind=k))) for k in ("null", "planted"))
    assert (clean[OURS].count, clean[OURS].total) == (1, 9)
    assert (planted[OURS].count, planted[OURS].total) == (9, 9)
    assert set(clean) == {"ravl", OURS}  # the others have no rule


def test_finds_as_the_gate_moves_by_hand() -> None:
    planted = table_of_rows(made_up_rows())
    clean = table_of_rows(made_up_rows(kind="null"))  # claims of 0, 0.1 and 0.2, three of each
    assert finds_at(planted, clean, OURS, 0.0) == 1.0
    assert finds_at(planted, clean, "ravl", 0.0) == 0.0  # wrong in class
    planted.loc[planted["seed"] == SEEDS[0], "harm"] = 0.15
    assert finds_at(planted, clean, OURS, 0.0) == pytest.approx(2 / 3)
    assert finds_at(planted, clean, OURS, 0.34) == 1.0
    assert math.isnan(finds_at(planted, clean[:0], OURS, 0.0))


def test_gain_over_the_best_published_method_by_hand() -> None:
    best, gain = gain_over_best(table_of_rows(made_up_rows()), "fitted_10")
    assert best == "ravl"
    ours, theirs = METHODS.index(OURS), METHODS.index("ravl")
    assert gain.value == pytest.approx((ours - theirs) / 10)


def test_the_best_option_is_of_what_was_tried() -> None:
    table = table_of_rows(made_up_rows(seeds=TRIED))
    own = table[table["method"] == "ravl"]
    other = own.assign(option=OPTIONS["ravl"][2].label(), fitted_10=1.0)
    both = pd.concat([table, other])
    assert best_options(tried(both))["ravl"] == OPTIONS["ravl"][2].label()
    assert len(published(both)) == 0


def test_the_distance_closed_by_hand() -> None:
    gained, distance = np.array([0.1, 0.3]), np.array([0.4, 0.4])
    closed = ratio_of_means(gained, distance, ["a", "b"])
    assert closed.value == pytest.approx(0.5)
    assert (closed.low, closed.high) == (pytest.approx(0.25), pytest.approx(0.75))
    assert math.isnan(ratio_of_means(gained, np.zeros(2), ["a", "b"]).value)


def test_pages_are_drawn_from_the_results(tmp_path: Path) -> None:
    rows = made_up_rows() + made_up_rows(kind="null") + made_up_rows(domain="digits")
    rows += [row | {"place": ""} for row in made_up_rows(groups=1, domain="nih")]
    rows += made_up_rows(groups=1, kind="two") + made_up_rows(groups=1, kind="style")
    guessing = made_up_rows(groups=1, domain="garments", kind="null")
    rows += [row | {"bare": 0.34} for row in guessing]  # of which the largest class is 20 %
    _write_rows(tmp_path / RESULTS, rows, MethodRow)
    arms = made_up_arms()
    _write_rows(tmp_path / ARMS, arms, ArmOfSetting)
    path = write_pages(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "27 models were trained" not in text  # counted, not assumed
    models = len({row["digest"] for row in rows})
    assert f"{models} models were trained" in text
    assert "What the first edition said" in text
    assert "no decision rule" in text
    assert "| RaVL-Med passes |  |  | 12 of 12 (" in text
    assert "| RaVL-Med passes a model that knows its classes |  |  | 9 of 9 (" in text
    assert "What each part gains: 3 models of 1 group," in text
    assert r"| exchange and L\_A | 80.0 (one group) | 33.0 (one group) |" in text
    assert "| 83.3 (one group) |" in text  # (0.6 - 0.1) / (0.7 - 0.1)
    assert "phantoms: less the best published method, RaVL, as published | at least 0 |" in text
    assert "| its own place | 3 |" in text  # letters, and devices of phantoms
    assert "0 to 10 | 0" not in text  # no row without a model
    assert "| up to 0.1 | " in text  # of use, 0 in the first group
    assert "-inf" not in text
    html = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    assert "What the first edition said" in html
    assert (tmp_path / "evaluation.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (tmp_path / "evaluation.svg").read_text(encoding="utf-8")
    first = path.read_bytes(), (tmp_path / "evaluation.svg").read_bytes()
    write_pages(tmp_path)
    assert first == (path.read_bytes(), (tmp_path / "evaluation.svg").read_bytes())


def test_pages_of_a_single_invalid_model_do_not_break(tmp_path: Path) -> None:
    row = pd.DataFrame(made_up_rows(groups=1)).iloc[:1].assign(valid=False, method="")
    _write_rows(tmp_path / RESULTS, row.to_dict("records"), MethodRow)
    assert "0 of those belong" in write_pages(tmp_path).read_text(encoding="utf-8")
