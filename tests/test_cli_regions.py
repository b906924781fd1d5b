"""``ravl-med regions`` as a user meets it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from ravl_med.cli import app
from ravl_med.phantoms.cohort import synthesize

CONFIG = """\
name: small
cohort: {manifest: cohort/manifest.csv, split: test, workers: 0}
task:
  classes:
    cardiomegaly: {prompts: [Cardiomegaly.]}
    no finding: {prompts: [Normal chest radiograph.]}
model: {quickstart: {tower: resnet, image_size: 64, epochs: 1}}
regions: {sources: [windows, tiles]}
evidence: {relevance: chest.yaml}
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    synthesize(folder, images=60, size=64, seed=3, workers=1)
    return folder


@pytest.fixture
def workplace(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small cohort, a config, and its own cache and key; the current one."""
    root = tmp_path / "place"
    shutil.copytree(cohort, root / "cohort")
    (root / "audit.yaml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(root / "config"))
    monkeypatch.chdir(root)
    return root


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["regions", "audit.yaml", *words])


def one_line(outcome: Result, code: int, *parts: str) -> None:
    assert outcome.exit_code == code, outcome.output
    assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr
    assert outcome.stderr.startswith("error: ")
    for part in parts:
        assert part in outcome.stderr


def test_a_sheet_is_written_and_summed_up(workplace: Path) -> None:
    outcome = run("--show", "3")
    assert outcome.exit_code == 0, outcome.output
    summary, path = outcome.output.strip().splitlines()
    assert summary.startswith("3 of ")
    assert summary.endswith("; regions per film: windows 34.0, tiles 36.0. No problems.")
    assert path == "Sheet: reports/small-regions.png"
    assert [p.name for p in (workplace / "reports").iterdir()] == ["small-regions.png"]
    assert not (workplace / "cache" / "ravl-med").exists()  # no model was trained


def test_the_same_seed_draws_the_same_sheet(workplace: Path) -> None:
    words = ("--show", "2", "--split", "all")
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        assert run(*words, "--seed", seed, "--out", f"{name}.png").exit_code == 0
    a, b, c = (np.asarray(Image.open(workplace / f"{name}.png")).tobytes() for name in "abc")
    assert a == b
    assert a != c


def test_nothing_identifying_is_said_and_a_lost_film_is_counted(workplace: Path) -> None:
    manifest = workplace / "cohort" / "manifest.csv"
    table = pd.read_csv(manifest, dtype=str)
    lost = table.index[(table["split"] == "test") & (table["no finding"] == "1")][0]
    (workplace / "cohort" / table.loc[lost, "image"]).unlink()
    outcome = run("--show", "100")
    assert outcome.exit_code == 0, outcome.output
    assert "1 set aside (missing 1)" in outcome.output
    drawn = (workplace / "reports" / "small-regions.png").read_bytes().decode("latin-1")
    names = [*table["patient"], *table["image"], "manifest", str(workplace)]
    assert not [name for name in names if name in outcome.output + drawn]


def test_the_split_is_that_of_the_config_or_the_one_asked_for(workplace: Path) -> None:
    films = [
        int(run("--show", "1", *words).output.split()[2])
        for words in ((), ("--split", "test"), ("--split", "validation"), ("--split", "all"))
    ]
    assert films[0] == films[1] < films[3]
    assert films[2] < films[3]


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("--show", "0"), 2, ("--show", "[1, 100]", "Got 0")),
        (("--show", "101"), 2, ("--show", "[1, 100]", "Got 101")),
        (("--seed", "-1"), 2, ("--seed", "Got -1")),
        (("--split", "training"), 2, ("cohort.split", "'training'")),
        (("--out", "sheet.pdf"), 2, ("--out", ".png")),
        (("--out", "cohort/film.png"), 2, ("--out", "not an earlier contact sheet")),
        (("--set", "regions.source=[tiles]"), 2, ("regions.source", "Did you mean 'sources'?")),
        (("--set", "regions.sources=[annotations]"), 2, ("annotations",)),
        (("--set", "cohort.manifest=empty.csv"), 3, ("empty.csv", "empty")),
    ],
)
def test_bad_input_gets_one_line(
    workplace: Path, words: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    (workplace / "empty.csv").touch()
    Image.new("L", (20, 20)).save(workplace / "cohort" / "film.png")
    one_line(run(*words), code, *parts)
    assert not (workplace / "reports").exists()
