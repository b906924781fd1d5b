"""Hits, precision, and the table of the benchmark."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from ravl_med.cache import Cache
from ravl_med.config import load_config
from ravl_med.errors import ConfigError
from ravl_med.evaluation.benchmark import (
    BenchmarkRow,
    run_quickstart_benchmark,
    write_benchmark,
)
from ravl_med.evaluation.truth import TruthCheck, is_hit, precision_at

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("box", "hit"),
    [
        ((2, 2, 4, 4), True),  # inside
        ((9, 0, 11, 2), True),  # half of the smaller one
        ((9.1, 0, 11.1, 2), False),  # a little less
        ((-5, -5, 20, 20), True),  # around
        ((10, 0, 12, 2), False),  # side by side
        ((9, 9, 13, 13), False),  # a corner
    ],
)
def test_a_hit_is_half_of_the_smaller_box(box: tuple[float, ...], hit: bool) -> None:
    region = np.array([0.0, 0.0, 10.0, 10.0])
    assert is_hit(region, np.array(box)) is hit
    assert is_hit(np.array(box), region) is hit


def test_precision_counts_missing_regions_as_misses() -> None:
    assert precision_at([True, False, True, True], 4) == 0.75
    assert precision_at([True, True], 10) == 0.2
    assert precision_at([], 10) == 0.0


def check(**changes: object) -> TruthCheck:
    values: dict[str, object] = {
        "feature": "generator",
        "finding": "cardiomegaly",
        "strength": 0.95,
        "raised_gap": 0.84,
        "lowered_gap": 0.87,
        "precision": 0.9,
        "paper_precision": 0.1,
        "names_finding": True,
        "kind": "shortcut",
        "shortcuts": 1,
    }
    return TruthCheck(**{**values, **changes})  # type: ignore[arg-type]


def test_the_check_reads_as_a_sentence() -> None:
    planted, found = check().lines()
    assert "+84 points with it on cardiomegaly, -87 on the most lowered class" in planted
    assert "names cardiomegaly; of its top 10 regions 90% hit the generator (10%" in found
    assert check(strength=0.0, shortcuts=0).lines() == [
        "nothing was planted; correlations of kind shortcut: 0"
    ]
    assert "none hit" in check(precision=math.nan, kind="none").lines()[1]


def test_the_table_holds_every_row_and_no_nan(tmp_path: Path) -> None:
    planted = BenchmarkRow(
        "planted", "resnet", 0, "fail", 0.659, 0.84, 0.87, "shortcut", True, 1.0, 0.1, 1, 25.0
    )
    null = BenchmarkRow(
        "null", "resnet", 0, "pass", 0.87, 0.01, 0.1, "none", False, math.nan, math.nan, 0, 25.0
    )
    table = write_benchmark([planted, null], tmp_path / "new")
    text = table.read_text(encoding="utf-8")
    assert "| planted | 0 | 65.9% | +84 / -87 points | fail | shortcut, names the finding" in text
    assert "| null | 0 | 87.0% | +1 / -10 points | pass | – | – | 0 |" in text
    rows = json.loads((tmp_path / "new" / "quickstart.json").read_text(encoding="utf-8"))["rows"]
    assert rows[1]["precision_at_10"] is None
    assert rows[0]["seconds"] == 25.0


def test_the_benchmark_needs_known_truth(tmp_path: Path) -> None:
    config = load_config(REPOSITORY / "configs" / "real_radiographs.yaml")
    with pytest.raises(ConfigError, match=r"cohort\.synthetic and model\.quickstart"):
        run_quickstart_benchmark(config, 1, key=b"k", cache=Cache(tmp_path))
