"""What a planned cohort could show: ``ravl-med power``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ravl_med.cli import app
from ravl_med.config.loading import Config, load_config
from ravl_med.pipeline.planning import PlannedCohort, plan_power

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(QUICKSTART, ("evidence.permutations=99",))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_planned_cohort_is_described_in_a_table_and_a_sentence() -> None:
    outcome = run("power", str(QUICKSTART), "--films", "900", "--simulations", "20")
    assert outcome.exit_code == 0, outcome.output
    lines = outcome.stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["feature", "5", "10", "20", "50"]
    points = " ".join(lines[3].split()[2:4])
    assert re.fullmatch(r"20 % +\d+ points \(\d+ to (\d+|none)\) +\d+ %", lines[3].strip())
    said = (
        "With 900 films, 5 classes, an accuracy of 80 % and 70 candidates, a feature in 20 % of "
        f"the films is found with 80 % power from a gap of {points} on. A pass does not depend on "
        "this gap, but on what only the audit can measure: a local feature that is not named may "
        "cost at most 6 points of accuracy (gate.max_local_effect)."
    )
    assert lines[5] == said


def test_what_a_pass_asks_for_is_held_against_a_fifth_of_the_films(config: Config) -> None:
    plan = plan_power(config, PlannedCohort(900, accuracy=0.7, simulations=20))
    assert plan.common.prevalence == 0.2
    assert plan.enough == (plan.common.gap <= 0.3)
    gates = [
        plan.gate.model_copy(update={"max_detectable_gap": plan.common.gap - less})
        for less in (0.0, 0.01)
    ]
    assert [replace(plan, gate=gate).enough for gate in gates] == [True, False]
    assert plan.sensitivity.candidates == 70


def test_too_few_films_are_said_to_be_too_few(config: Config) -> None:
    plan = plan_power(config, PlannedCohort(40, films_a_patient=2.0, simulations=20))
    assert not plan.enough
    assert "is not found with 80 % power, however large its gap" in plan.sentence()
    assert plan.sentence().endswith("points of accuracy (gate.max_local_effect).")
    scores = replace(plan, by_scores=True)
    assert scores.sentence().endswith("(gate.max_detectable_gap): collect more films.")
    assert plan.table()[3].split() == ["20", "%", "none", "0", "%"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--films: expected how many films are to be collected, or --run"),
        (("--films", "9"), "--films: expected a number in the range [10, 1000000]"),
        (("--films", "900", "--accuracy", "80"), "--accuracy: expected a number in the range"),
        (("--films", "900", "--accuracy", "nan"), "got nan."),
        (("--films", "900", "--films-per-patient", "0.5"), "in the range [1, 90]"),
        (("--films", "900", "--candidates", "0"), "--candidates: expected a number 1 or more"),
        (("--films", "900", "--simulations", "3"), "--simulations: expected a number 20 or more"),
    ],
)
def test_numbers_that_describe_no_cohort_are_refused(
    arguments: tuple[str, ...], message: str
) -> None:
    outcome = run("power", str(QUICKSTART), *arguments)
    assert outcome.exit_code == 2
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert outcome.stderr.startswith("error: ")
    assert message in outcome.stderr
