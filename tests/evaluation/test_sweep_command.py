from pathlib import Path

import pytest
from typer.testing import CliRunner

from ravl_med.cli import app
from tests.benchmarks.cli import benchmark


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "3/2"], "--shard: expected i/N"),
        (["--domains", "phantom"], "--domains: expected some of phantoms"),
        (["--strengths", "2"], "--strengths: expected numbers"),
        (["--merge"], "--merge: the folder holds no finished setting"),
        (["--domains", "radiographs", "--limit", "1"], "--films: radiographs need a folder"),
        (["--domains", "mnist", "--limit", "1"], "--mnist: name the folder"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    outcome = CliRunner().invoke(app, ["evaluate", "--out", str(tmp_path), *arguments])
    assert outcome.exit_code == 2
    assert message in outcome.output
    assert "Traceback" not in outcome.output


def test_pages_without_results_are_one_line(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(benchmark, ["evaluation", "--out", str(tmp_path)])
    assert outcome.exit_code == 2
    assert "the folder has no evaluation.parquet" in outcome.output
