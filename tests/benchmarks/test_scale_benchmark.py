"""The command: what it asks of each part, and what it keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ravl_med.errors import ConfigError
from tests.benchmarks.cli import benchmark as app
from tests.benchmarks.scale import benchmark
from tests.benchmarks.scale.benchmark import ScalePlan, read_sizes
from tests.benchmarks.scale.memory_trials import MemoryRow
from tests.benchmarks.scale.projection import Measured
from tests.benchmarks.scale.same_trials import SameRow

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SAME = SameRow("local, no worker", 900, 14_400, 12, 6, 41.2, 123_456, "0123456789abcdef", True)


@pytest.fixture
def asked(monkeypatch) -> dict[str, object]:
    """What the parts were asked for; none is measured."""
    given: dict[str, object] = {}

    def same(config, progress, *, ray):
        given["same"] = config, ray
        return [SAME]

    def memory(config, sizes, progress):
        given["memory"] = sizes
        return [MemoryRow(films, 16 * films, 2, 900.0, 600.0, 90.0, 4, 2, 9.0) for films in sizes]

    def measured(config, sample, searches, progress):
        given["projection"] = sample, searches
        return Measured(0.1, 0.01, 0.4, 0.3, 40.0, 100, 10**9, sample, 0.002, 0)

    monkeypatch.setattr(benchmark, "phantom_audit", lambda config, films, *rest: films)
    monkeypatch.setattr(benchmark, "measure_sameness", same)
    monkeypatch.setattr(benchmark, "measure_memory", memory)
    monkeypatch.setattr(benchmark, "measure_films", measured)
    return given


def run(out: Path, *words: str):
    command = ["scale", str(QUICKSTART), "--out", str(out), *words]
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 0, outcome.output
    return json.loads((out / "scale.json").read_text(encoding="utf-8"))["parts"]


def test_parts_keep_their_numbers_and_say_how_they_were_made(asked, tmp_path: Path) -> None:
    run(tmp_path, "--parts", "same", "--same-films", "440", "--no-ray")
    parts = run(tmp_path, "--parts", "memory", "--memory-films", "300,30")

    assert asked == {"same": (440, False), "memory": (30, 300)}
    assert list(parts) == ["same", "memory"]
    assert parts["same"]["command"] == (
        "ravl-med benchmark scale quickstart.yaml --parts same --same-films 440 --no-ray"
    )
    assert parts["memory"]["command"] == (
        "ravl-med benchmark scale quickstart.yaml --parts memory --memory-films 30,300"
    )
    text = (tmp_path / "scale.md").read_text(encoding="utf-8")
    assert "| local, no worker | 900, 14,400 |" in text
    assert "10 times the films, memory" in text


def test_the_projection_takes_the_search_that_was_measured(asked, tmp_path: Path) -> None:
    (tmp_path / "scale.json").write_text('{"parts": {"discovery": {"rows": [{"films": 7}]}}}')
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(benchmark, "scale_markdown", lambda parts: "")
        parts = run(tmp_path, "--parts", "projection", "--sample", "3", "--gpu-euros", "12.5")
    assert asked["projection"] == (3, [{"films": 7}])
    rows = {(row["where"], row["what"]): row["value"] for row in parts["projection"]["rows"]}
    assert rows["assumed", "the H100 node, an hour"] == 12.5
    assert "--gpu-euros 12.5" in parts["projection"]["command"]


def test_ray_that_is_asked_for_has_to_be_there(asked, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    command = ["scale", str(QUICKSTART), "--out", str(tmp_path), "--parts", "same"]
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 2
    assert "--no-ray" in outcome.output
    assert asked == {}


@pytest.mark.parametrize("text", ["", "2000,", "2k", "0", "-5", "1.5"])
def test_sizes_are_whole_numbers(text) -> None:
    with pytest.raises(ConfigError, match=r"^--memory-films: expected whole numbers from 1"):
        read_sizes(text, "--memory-films")


def test_every_part_tells_a_command_that_repeats_it() -> None:
    plan = ScalePlan()
    for part in benchmark.PARTS:
        words = plan.command(part).split()
        assert words[:3] == ["ravl-med", "scale"]
        assert words[words.index("--parts") + 1] == part
        assert len(words) > 6
