"""The benchmark of reading: the same film in every syntax, tables that say what was met."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ravl_med.cohort.dicom import read_dicom
from tests.benchmarks.cli import benchmark as app
from tests.benchmarks.intake import trials as intake_trials
from tests.benchmarks.intake.tables import intake_markdown
from tests.benchmarks.intake.trials import SYNTAXES, write_films


@pytest.fixture(autouse=True)
def small_films(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_trials, "_HEIGHT", 320)
    monkeypatch.setattr(intake_trials, "_WIDTH", 256)


def test_one_film_in_every_syntax(tmp_path: Path) -> None:
    films = write_films(tmp_path, 1)
    assert set(films) == {name for name, _, _ in SYNTAXES}
    first = read_dicom(films["uncompressed"][0])[0]
    assert first.shape == (320, 256)
    assert 0.2 < first.mean() < 0.8
    for paths in films.values():
        np.testing.assert_array_equal(read_dicom(paths[0])[0], first)


def test_the_command_writes_numbers_and_tables(tmp_path: Path) -> None:
    words = ["intake", "--rounds", "1", "--out", str(tmp_path)]
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    parts = json.loads((tmp_path / "intake.json").read_text(encoding="utf-8"))["parts"]
    assert list(parts) == ["speed", "cores"]
    assert len(parts["speed"]["rows"]) == len(parts["cores"]["rows"]) == len(SYNTAXES)
    assert all(row["ratio"] > 0 for row in parts["speed"]["rows"])
    assert parts["speed"]["command"] == "ravl-med benchmark intake --parts speed --rounds 1"
    assert (tmp_path / "intake.md").read_text(encoding="utf-8") in outcome.output + "\n"


def test_targets_are_held_against_the_numbers() -> None:
    speed = {"syntax": "RLE", "pydicom_ms": 100.0, "ours_ms": 130.0, "ratio": 1.3}
    cores = {"syntax": "RLE", "films": 4, "one_ms": 90.0, "two_ms": 45.0, "gain": 2.0}
    source = {"command": "c", "tool": "t", "machine": "m", "seconds": 1.0}
    text = intake_markdown(
        {
            "speed": {**source, "rows": [{**speed, "with_digest_ms": 150.0, "rounds": 1}]},
            "cores": {**source, "rows": [{**cores, "rounds": 1}]},
        }
    )
    assert "| RLE | 100 | 130 | at most 1.25 | 1.30 | no | 150 |" in text
    assert "| RLE | 90 | 45 | at least 1.7 | 2.00 | yes |" in text
