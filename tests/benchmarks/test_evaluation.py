import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ravl_med.evaluation.methods import METHODS, OURS
from ravl_med.evaluation.repairs import BEFORE, REPAIRS, ArmOfSetting
from ravl_med.evaluation.sweep import ARMS, RESULTS, _write_rows
from ravl_med.evaluation.trial import MethodRow
from tests.benchmarks.evaluation import write_pages
from tests.benchmarks.evaluation_measures import (
    exact_share,
    false_alarms,
    group_mean,
    score_methods,
    table_of_rows,
    valid_models,
)

Row = dict[str, object]


def made_up_rows(groups: int = 3, domain: str = "phantoms", kind: str = "planted") -> list[Row]:
    rows: list[Row] = []
    for group in range(groups):
        for seed in range(3):
            for place, method in enumerate(METHODS):
                rows.append(
                    {
                        "digest": f"{domain}{kind}{group}{seed}",
                        "group": f"{domain}{kind}{group}",
                        "domain": domain,
                        "kind": kind,
                        "architecture": "resnet" if group % 2 else "vit",
                        "regions": "tiles",
                        "feature": "letter",
                        "finding": "cardiomegaly",
                        "feature_2": "",
                        "finding_2": "",
                        "strength": 0.9,
                        "reached": 0.9,
                        "seed": seed,
                        "version": "0",
                        "accuracy": 0.7,
                        "raised_gap": 0.15 + 0.1 * group,
                        "lowered_gap": 0.5,
                        "valid": kind != "null",
                        "films": 600,
                        "region_count": 21600,
                        "seconds": 20.0,
                        "cpu_seconds": 19.0,
                        "training_seconds": 9.0,
                        "method": method,
                        "precision_10": place / 10 if kind != "null" else math.nan,
                        "precision_25": place / 20,
                        "touching_10": place / 10,
                        "right_class": method == OURS,
                        "accuses": True,
                        "true_rank": int(method == OURS),
                        "tested_true": 1,
                        "confirmed_true": 1,
                        "tested_other": 20,
                        "confirmed_other": 1,
                        "shortcuts": int(kind == "null" and group == 0 and seed == 0),
                        "reviewed": 0,
                        "pairs_found": 1,
                    }
                )
    return rows


def made_up_arms(precision: float = 1.0) -> list[Row]:
    """One group, three seeds: RaVL's worst group is 20 %, ours 60 %, that of most others 15 %."""
    worst = {BEFORE: 0.1, "ravl": 0.2, "counterfactual": 0.6, "alignment": 0.33}
    return [
        {
            "digest": f"phantomsplanted0{seed}",
            "group": "phantomsplanted0",
            "domain": "phantoms",
            "architecture": "vit",
            "strength": 0.9,
            "seed": seed,
            "precision_10": precision,
            "arm": arm,
            "image_overall": 0.8,
            "image_worst": worst.get(arm, 0.15),
            "region_overall": 0.7,
            "region_worst": 0.3,
            "raised_gap": 0.1,
            "lowered_gap": 0.1,
            "seconds": 3.0,
        }
        for seed in range(3)
        for arm in (BEFORE, *REPAIRS)
    ]


def test_a_group_is_valid_when_three_seeds_have_learned() -> None:
    rows = made_up_rows()
    table = table_of_rows(rows)
    assert valid_models(table)["digest"].nunique() == 9
    table.loc[table["digest"] == "phantomsplanted11", "valid"] = False
    assert valid_models(table)["digest"].nunique() == 6
    assert valid_models(table[table["seed"] < 2]).empty


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


def test_scores_by_hand() -> None:
    scores = {s.method: s for s in score_methods(table_of_rows(made_up_rows()))}
    place = METHODS.index("ravl")
    assert scores["ravl"].precision_10.value == pytest.approx(place / 10)
    assert scores["ravl"].found.value == float(place / 10 > 0.6)
    assert scores[OURS].right_class.value == 1.0
    assert scores[OURS].first.value == 1.0


def test_exact_interval_by_the_book() -> None:
    share = exact_share(0, 20)
    assert share.value == 0.0
    assert share.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert math.isnan(exact_share(0, 0).low)


def test_false_alarms_are_counted_by_the_rule_that_credits_finds() -> None:
    rows = made_up_rows(kind="null")
    accused = sum(bool(row["accuses"]) for row in rows if row["method"] == OURS)
    alarms = false_alarms(table_of_rows(rows))
    assert (alarms["phantoms"].count, alarms["phantoms"].total) == (accused, 9)
    assert alarms["all"] == alarms["phantoms"]


def test_pages_are_drawn_from_the_results(tmp_path: Path) -> None:
    rows = made_up_rows() + made_up_rows(kind="null") + made_up_rows(domain="digits")
    rows += made_up_rows(groups=1, kind="two") + made_up_rows(groups=1, kind="global")
    _write_rows(tmp_path / RESULTS, rows, MethodRow)
    arms = made_up_arms()
    _write_rows(tmp_path / ARMS, arms, ArmOfSetting)
    path = write_pages(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "27 models were trained" not in text  # counted, not assumed
    models = len({row["digest"] for row in rows})
    assert f"{models} models were trained" in text
    assert "What these numbers do not show" in text
    assert "% over" not in text  # no gain is claimed
    assert "What each part gains: 3 models of 1 groups" in text
    assert r"| exchange and L\_A | 80.0 (80.0 to 80.0) | 33.0 (33.0 to 33.0) |" in text
    html = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    assert "What these numbers do not show" in html
    assert (tmp_path / "evaluation.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (tmp_path / "evaluation.svg").read_text(encoding="utf-8")
    first = path.read_bytes(), (tmp_path / "evaluation.svg").read_bytes()
    write_pages(tmp_path)
    assert first == (path.read_bytes(), (tmp_path / "evaluation.svg").read_bytes())


def test_pages_of_a_single_invalid_model_do_not_break(tmp_path: Path) -> None:
    row = pd.DataFrame(made_up_rows(groups=1)).iloc[:1].assign(valid=False, method="")
    _write_rows(tmp_path / RESULTS, row.to_dict("records"), MethodRow)
    assert "0 of those belong" in write_pages(tmp_path).read_text(encoding="utf-8")
