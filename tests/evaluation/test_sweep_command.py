from pathlib import Path

import pytest
from typer.testing import CliRunner

from ravl_med.cli import app
from tests.benchmarks.__main__ import app as benchmarks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "3/2"], "--shard must be i/N with i in the range [1, N]"),
        (["--only", "domain=phantom"], "--only domain: expected some of phantoms"),
        (["--only", "strength=2"], "--only strength: expected numbers"),
        (["--merge"], "--merge: the folder holds no finished setting"),
        (["--only", "domain=radiographs"], "--films: radiographs need a folder"),
        (["--only", "domain=mnist"], "--films: mnist need a folder"),
        (["--films", "/some/where"], "--films: expected DOMAIN=FOLDER with one of radiographs"),
        (["--films", "digits=/some/where"], "got 'digits'"),
        (["--films", "nih=/no/such/folder"], "--films nih: there is no such folder"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    outcome = CliRunner().invoke(app, ["evaluate", "--out", str(tmp_path), *arguments])
    assert outcome.exit_code == 2
    assert message in outcome.output
    assert "Traceback" not in outcome.output


def test_pages_without_results_are_one_line(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(benchmarks, ["evaluation", "--out", str(tmp_path)])
    assert outcome.exit_code == 2
    assert "the folder has no evaluation.parquet" in outcome.output
