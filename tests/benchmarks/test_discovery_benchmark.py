"""The benchmark of the search, and what a planned cohort could show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from typer.testing import CliRunner, Result

from ravl_med.config.loading import Config, load_config
from ravl_med.errors import ConfigError
from ravl_med.evidence.examination import min_strength_of
from ravl_med.evidence.power import plan_design
from ravl_med.pipeline.power import PlannedCohort, plan_power
from tests.benchmarks.benchmark_file import choose_parts
from tests.benchmarks.cli import benchmark as app
from tests.benchmarks.discovery import benchmark as discovery_benchmark
from tests.benchmarks.discovery import parts as discovery_parts
from tests.benchmarks.discovery import speed as discovery_speed
from tests.benchmarks.discovery import trials as discovery_trials
from tests.benchmarks.discovery.benchmark import PARTS, DiscoveryPlan, run_discovery_benchmark
from tests.benchmarks.discovery.parts import (
    CalibrationRow,
    PowerCell,
    PowerRow,
    accusations_allowed,
    measure_calibration,
    measure_power,
    simulated_power,
    tabulate_power,
)
from tests.benchmarks.discovery.simulation import CohortPlan, Feature
from tests.benchmarks.discovery.speed import SpeedCase, SpeedRow, measure_speed
from tests.benchmarks.discovery.trials import examine_cohort, map_in_children

REPOSITORY = Path(__file__).parents[2]
QUICKSTART = REPOSITORY / "configs" / "quickstart.yaml"
SMALL = CohortPlan(120, (0.5, 0.5), (0.8, 0.8), regions=4, prototypes=6, size=16)


@pytest.fixture(scope="module")
def config() -> Config:
    """Few clusters: the search itself is tested elsewhere."""
    return load_config(
        QUICKSTART,
        ("discovery.clusters=[8]", "discovery.draws=1", "evidence.permutations=99"),
    )


def silent(stage: str, done: int, total: int) -> None:
    pass


def map_here(function: Any, items: Sequence[Any], **options: Any) -> list[Any]:
    return [function(item) for item in items]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_parts, "map_in_children", map_here)
    monkeypatch.setattr(discovery_speed, "map_in_children", map_here)


# --- trials ---------------------------------------------------------------------------------------


def test_the_count_of_workers_changes_no_number(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery_parts, "NULL_PLANS", {"small": SMALL})
    told: list[tuple[str, int, int]] = []
    rows = measure_calibration(config, 4, workers=2, progress=lambda *step: told.append(step))
    assert told == [("null: small", done, 4) for done in range(5)]
    monkeypatch.setattr(discovery_parts, "map_in_children", map_here)
    assert measure_calibration(config, 4, workers=1, progress=silent) == rows
    assert rows[0].cohorts == 4
    assert rows[0].clusters > 0
    assert rows[0].compared == 4


def test_the_same_seed_gives_the_same_trial(config: Config) -> None:
    first, again = (examine_cohort(SMALL, (5, 1), config) for _ in range(2))
    assert first == again


def test_a_strong_feature_is_found_and_named(config: Config) -> None:
    plan = replace(SMALL, films=400, feature=Feature(0.5, 0.5, "others"))
    trial = examine_cohort(plan, (6, 1), config)
    assert trial.found
    assert trial.half_found
    assert trial.confirmed >= 1
    assert trial.strays == trial.confirmed - 1
    assert trial.candidates >= 1
    assert trial.survivors >= 1
    assert trial.published is None
    assert examine_cohort(plan, (6, 1), config, published=True) == replace(trial, published=True)


def test_the_draws_of_intervals_decide_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(SMALL, feature=Feature(0.5, 0.4, "others"))
    few = examine_cohort(plan, (7, 1), config)
    monkeypatch.setattr(discovery_trials, "_DRAWS", 2_000)
    assert examine_cohort(plan, (7, 1), config) == few


def test_an_error_in_a_child_arrives() -> None:
    with pytest.raises(ZeroDivisionError, match="division"):
        map_in_children(partial(divmod, 1), [0], workers=1)


def test_results_are_counted_with_an_exact_interval(
    config: Config, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery_parts, "_PLANTED", ((100, 2, 0.6), (60, 3, 0.1)))
    rows = measure_power(config, 2, workers=1, progress=silent)
    assert [(row.films, row.classes, row.lowered) for row in rows] == [
        (100, 2, "others"),  # with two classes the other one is all others
        (60, 3, "others"),
        (60, 3, "one"),
    ]
    for row in rows:
        interval = stats.binomtest(row.found, 2).proportion_ci(0.95, method="exact")
        assert (row.low, row.high) == (interval.low, interval.high)
        assert row.found <= row.half_found <= 2
    assert [row.needed for row in rows] == [2, 2, 0]


@pytest.mark.parametrize(("cohorts", "allowed"), [(200, 15), (40, 3), (20, 1), (1, 0)])
def test_fifteen_of_two_hundred_may_be_accused(cohorts: int, allowed: int) -> None:
    assert accusations_allowed(cohorts) == allowed


def test_the_table_is_that_of_the_evidence(
    config: Config, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery_parts, "_FILMS", (200,))
    monkeypatch.setattr(discovery_parts, "_CLASSES", (2,))
    monkeypatch.setattr(discovery_parts, "_GAPS", (0.1, 0.6))
    cells = tabulate_power(config, 5, workers=1, progress=silent)
    assert len(cells) == 4 * 2
    design = plan_design(200, 2, 0.8, 1.0, config.evidence.discovery_share, config.evidence.seed)
    power = simulated_power(
        design,
        config.evidence,
        min_strength=min_strength_of(config.discovery),
        prevalence=0.5,
        gap=0.6,
        candidates=10,
        simulations=5,
    )
    assert cells[-1] == PowerCell(200, 2, 0.5, 0.6, power)
    assert power > 0.5


def test_speed_and_memory_are_measured(config: Config, in_this_process: None) -> None:
    (row,) = measure_speed(config, [SpeedCase(100, 4, 32, 2)], progress=silent)
    assert (row.regions, row.films, row.size, row.runs) == (400, 100, 32, 2)
    assert 0 < row.proposing < row.seconds
    assert row.peak_mb >= 0
    assert row.clusters > 0


# --- what is kept ---------------------------------------------------------------------------------

ROWS: dict[str, list[Any]] = {
    "calibration": [
        CalibrationRow("plain", 600, 4, 200, 7, 0.0142, 0.0708, 2, 200, 49, 50, 151.0, 30.0, 15),
        CalibrationRow("tiny", 600, 4, 200, 16, 0.0464, 0.1267, 0, 198, 50, 50, 150.0, 28.0, 15),
    ],
    "power": [
        PowerRow(600, 2, 0.25, "others", 200, 184, 0.8733, 0.9534, 190, 3, 200, 140.0, 20.0, 180),
        PowerRow(600, 4, 0.40, "one", 200, 90, 0.3796, 0.5218, 120, 1, 200, 141.0, 21.0, 0),
    ],
    "table": [PowerCell(300, 2, 0.2, gap, gap * 2) for gap in (0.1, 0.4)],
    "speed": [
        SpeedRow(11_997, 256, 1_333, 10, 3, 3.21, 2.5, 120.0, 200, {"20": 0.31, "40": 0.29}),
        SpeedRow(100_000, 512, 10_000, 10, 3, 8.0, 7.0, 300.0, 210, {}),
        SpeedRow(1_000_000, 512, 100_000, 10, 1, 92.0, 80.0, 1_500.0, 220, {}),
    ],
}


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts whose rows were made by hand."""
    monkeypatch.setattr(discovery_benchmark, "_measure", lambda part, *rest: ROWS[part])


def test_the_markdown_holds_target_beside_reached(
    config: Config, tmp_path: Path, prepared: None
) -> None:
    path = run_discovery_benchmark(config, DiscoveryPlan(), tmp_path / "out")
    lines = path.read_text(encoding="utf-8").splitlines()
    cells = {line.split("|")[1].strip() + line.split("|")[2]: line for line in lines if "|" in line}
    plain, tiny = cells["plain 600, 4 "], cells["tiny 600, 4 "]
    assert "| at most 15 of 200 | 7 of 200 (1.4 to 7.1 %) | yes | 2 of 200 | 200 of 200 |" in plain
    assert "| 200 of 200 | 49 of 50 |" in plain
    assert "| at most 15 of 200 | 16 of 200 (4.6 to 12.7 %) | no |" in tiny
    assert (
        "| 25 points | all other classes | at least 180 of 200 | 184 of 200 (87.3 to 95.3 %) | yes "
        "| 190 of 200 | 3 of 200 |" in cells["600, 2 25 points "]
    )
    assert "| one other class | – | 90 of 200 (38.0 to 52.2 %) | – |" in cells["600, 4 40 points "]
    assert "| 2 | 300 | 20% | 20% | 80% |" in lines
    small = cells["11,997 x 256 1,333 "]
    assert "| at most 4 s | 3.2 s (3) | yes |" in small
    assert small.endswith("| 20: 0.310, 40: 0.290 |")
    assert (
        "| at most 90 s | 92.0 s (1) | no | 80.0 s | at most 2 GB | 1.50 GB | yes |"
        in (cells["1,000,000 x 512 100,000 "])
    )
    assert "10 times the regions take 11.5 times the seconds (10 is linear)." in lines
    assert sum(line.startswith("Made by `ravl-med benchmark discovery ") for line in lines) == 4


def test_parts_that_are_not_run_keep_their_numbers(
    config: Config, tmp_path: Path, prepared: None
) -> None:
    run_discovery_benchmark(config, DiscoveryPlan(("speed", "calibration")), tmp_path)
    before = json.loads((tmp_path / "discovery.json").read_text(encoding="utf-8"))["parts"]
    assert list(before) == ["calibration", "speed"]
    part = before["calibration"]
    assert part["command"] == (
        "ravl-med benchmark discovery configs/quickstart.yaml --parts calibration --cohorts 200"
    )
    assert part["tool"].startswith("ravl-med ")
    assert "cores" in part["machine"]
    assert part["seconds"] >= 0
    path = run_discovery_benchmark(config, DiscoveryPlan(("table",), cohorts=3), tmp_path)
    after = json.loads((tmp_path / "discovery.json").read_text(encoding="utf-8"))["parts"]
    assert list(after) == ["calibration", "table", "speed"]
    assert {name: after[name] for name in before} == before
    assert "7 of 200" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', '{"parts": {"other": {"rows": []}}}'])
def test_a_foreign_json_is_left_alone(
    config: Config, tmp_path: Path, prepared: None, text: str
) -> None:
    (tmp_path / "discovery.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--out: the discovery\.json .* is not one of this"):
        run_discovery_benchmark(config, DiscoveryPlan(("table",)), tmp_path)
    assert (tmp_path / "discovery.json").read_text(encoding="utf-8") == text


def test_a_folder_that_cannot_be_written(config: Config, tmp_path: Path, prepared: None) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--out: "):
        run_discovery_benchmark(config, DiscoveryPlan(("table",)), tmp_path / "file" / "out")


def test_the_million_can_be_left_out(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def measured(config: Config, cases: Sequence[SpeedCase], *, progress: Any) -> list[SpeedRow]:
        seen.extend(case.films * case.regions for case in cases)
        return []

    monkeypatch.setattr(discovery_benchmark, "measure_speed", measured)
    for million in (True, False):
        plan = DiscoveryPlan(("speed",), million=million)
        discovery_benchmark._measure("speed", config, plan, silent)
    assert seen == [11_997, 100_000, 1_000_000, 11_997, 100_000]
    assert DiscoveryPlan(million=False).command("speed").endswith("--parts speed --no-million")


def test_parts_are_read_in_their_order() -> None:
    assert choose_parts("speed, calibration", PARTS) == ("calibration", "speed")


@pytest.mark.parametrize(("text", "got"), [("speed,velocity", "'velocity'"), (" ,", "none")])
def test_unknown_parts_are_refused(text: str, got: str) -> None:
    with pytest.raises(ConfigError, match=f"--parts: expected some of calibration.*got {got}"):
        choose_parts(text, PARTS)


# --- the command line -----------------------------------------------------------------------------


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_the_verb_writes_and_prints(tmp_path: Path, prepared: None) -> None:
    outcome = run("discovery", str(QUICKSTART), "--parts", "speed", "--out", str(tmp_path))
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout.strip() == (tmp_path / "discovery.md").read_text(encoding="utf-8").strip()
    assert "ravl-med benchmark discovery quickstart.yaml --parts speed" in outcome.stdout
    assert str(REPOSITORY) not in outcome.stdout


def test_the_verb_refuses_unknown_parts(tmp_path: Path) -> None:
    outcome = run("discovery", str(QUICKSTART), "--parts", "all", "--out", str(tmp_path))
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("error: --parts: expected some of")
    assert list(tmp_path.iterdir()) == []


def test_a_planned_cohort_is_told_in_a_table_and_a_sentence() -> None:
    outcome = run("power", str(QUICKSTART), "--films", "900", "--simulations", "20")
    assert outcome.exit_code == 0, outcome.output
    lines = outcome.stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["feature", "5%", "10%", "20%", "50%"]
    points = " ".join(lines[3].split()[1:3])
    assert points.endswith(" points")
    assert lines[5:] == [
        "With 900 films, 5 classes and an accuracy of 80%, a feature in 20% of the films is found "
        f"with 80% power from a gap of {points} on. A pass needs 30 points "
        "(gate.max_detectable_gap)."
    ]


def test_what_a_pass_asks_for_is_held_against_a_fifth_of_the_films(config: Config) -> None:
    plan = plan_power(config, PlannedCohort(900, accuracy=0.7, simulations=20))
    assert plan.common.prevalence == 0.2
    assert plan.enough == (plan.common.gap <= 0.3)
    assert replace(plan, asked=plan.common.gap).enough
    assert not replace(plan, asked=plan.common.gap - 0.01).enough
    assert plan.sensitivity.candidates == 20


def test_too_few_films_are_told_as_such(config: Config) -> None:
    plan = plan_power(config, PlannedCohort(40, films_a_patient=2.0, simulations=20))
    assert not plan.enough
    assert "is not found with 80% power, however large its gap" in plan.sentence()
    assert plan.sentence().endswith("(gate.max_detectable_gap): collect more films.")
    assert plan.table()[3].split() == ["20%", "none", "0%"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--films", "9"), "--films: expected a number in the range [10, 1000000]"),
        (("--films", "900", "--accuracy", "80"), "--accuracy: expected a number in the range"),
        (("--films", "900", "--accuracy", "nan"), "got nan."),
        (("--films", "900", "--films-per-patient", "0.5"), "in the range [1, 90]"),
        (("--films", "900", "--candidates", "0"), "--candidates: expected a number 1 or more"),
        (("--films", "900", "--simulations", "3"), "--simulations: expected a number 20 or more"),
    ],
)
def test_numbers_that_describe_no_cohort_are_refused(words: tuple[str, ...], told: str) -> None:
    outcome = run("power", str(QUICKSTART), *words)
    assert outcome.exit_code == 2
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert outcome.stderr.startswith("error: ")
    assert told in outcome.stderr
