"""The table of the README is made from the committed results and from nothing else."""

from pathlib import Path

import pytest
from made_up_sweep import made_up_arms, made_up_rows

from ravl_med.evaluation.controlled.sweep import RESULTS, read_results
from ravl_med.evaluation.controlled.sweep_front import MARKED, front_text
from ravl_med.evaluation.marked_page import marks

REPOSITORY = Path(__file__).parents[3]
PUBLISHED = REPOSITORY / "reports" / "benchmark"


def test_a_row_a_method_a_column_a_domain_and_ours_is_bold() -> None:
    rows = [
        *made_up_rows(),
        *made_up_rows(2, domain="radiographs"),
        *made_up_rows(4, domain="radiographs", kind="null"),
    ]
    told, _, heads, _, *lines = front_text(rows).splitlines()

    assert told.startswith("27 small models were trained, 15 of them valid")
    assert heads == (
        "| precision@10 | phantoms, 9 models | real radiographs, 6 models | accuses a clean model |"
    )
    assert [line.split(" | ")[0] for line in lines[:2]] == [
        "| Random regions",
        "| Distilling Failures",
    ]
    assert lines[-1].startswith(
        "| **RaVL-Med** | **1.00 (1.00 to 1.00)** | **1.00 (1.00 to 1.00)**"
    )
    assert lines[-1].endswith("**1 of 12 (0.2 to 38.5 %)** |")
    assert "| 12 of 12 (73.5 to 100.0 %) |" in lines[0]


def test_a_domain_without_a_valid_model_has_no_column() -> None:
    rows = [{**row, "valid": False} for row in made_up_rows(domain="digits")]

    assert "digits" not in front_text([*made_up_rows(), *rows])


def test_repairs_of_what_was_found_right_stand_below() -> None:
    told = front_text(made_up_rows(), made_up_arms()).splitlines()
    heads, _, *lines = told[told.index("", 2) + 1 :]
    assert heads.startswith("| fine-tuned away from what was found, 3 models | worst group, % |")
    assert [line.split(" | ")[0] for line in lines] == [
        "| before", "| standard fine-tuning", "| RaVL", "| **RaVL-Med**",
    ]  # fmt: skip
    assert lines[-1] == (
        "| **RaVL-Med** | **60 (60 to 60)** | **80 (80 to 80)** | **30 (30 to 30)** |"
    )
    wrong = made_up_arms(precision=0.5)
    assert front_text(made_up_rows(), wrong) == front_text(made_up_rows())
    others = made_up_rows(domain="digits")  # the repaired models are not among the valid ones
    assert front_text(others, made_up_arms()) == front_text(others)


def test_the_readme_shows_the_committed_results() -> None:
    if not (PUBLISHED / RESULTS).is_file():
        pytest.skip("no sweep is published yet")
    rows, arms = read_results(PUBLISHED)
    shown = (REPOSITORY / "README.md").read_text(encoding="utf-8")

    begin, end = marks(MARKED)
    assert f"{begin}\n{front_text(rows, arms)}\n{end}" in shown
