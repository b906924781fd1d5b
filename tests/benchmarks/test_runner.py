"""The runner: parts and sizes that are asked for, what is kept, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ravl_med.config.loading import load_config
from ravl_med.errors import ConfigError
from ravl_med.storage.cache import Cache
from tests.benchmarks.__main__ import app
from tests.benchmarks.runner import (
    QUICKSTART,
    Page,
    Part,
    Setup,
    choose_parts,
    read_sizes,
    renew_marked,
    run_page,
)
from tests.benchmarks.tables import Column, Row, Table

BEGIN, END = "<!-- tried: begin -->", "<!-- tried: end -->"
TABLE = Table(Column("number", "{number}"), Column("share", "{share:.2f}"))


def count(setup: Setup) -> Iterator[Row]:
    for number in range(setup.size("films")):
        if number == 9:
            raise KeyboardInterrupt
        yield {"number": number, "share": math.nan}


PAGE = Page(
    "tried",
    "A page",
    "Try it.",
    (
        Part("counted", "Counted", "Rows of {number}.", [TABLE], count, {"films": 2},
             stepwise=True),
        Part("read", "Read", "", [TABLE], lambda setup: [{"number": 5, "share": 0.5}],
             {"sizes": (1, 2)}, {"films": "FILMS.csv"}),
        Part("empty", "Nothing found", "", [lambda rows: "None."], lambda setup: []),
    ),
    lambda parts: f"{len(parts)} parts",
)  # fmt: skip


def run(tmp_path: Path, sizes: Any = None, files: Any = None) -> Setup:
    config = load_config(QUICKSTART)
    return Setup(config, Cache(tmp_path / "cache"), b"key", sizes or {}, files or {})


def kept(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tried.json").read_text(encoding="utf-8"))["parts"]


def test_a_page_is_written_with_the_command_that_repeats_it(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"a\n{BEGIN}\nold\n{END}\nb\n", encoding="utf-8")
    asked = run(tmp_path, {"sizes": (3, 4)}, {"films": Path("/secret/films.csv")})
    path = run_page(PAGE, ("counted", "read", "empty"), tmp_path, asked)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(
        "# A page\n\n## Counted\n\nRows of 0.\n\n| number | share |\n|---:|---:|"
    )
    assert "| 1 | – |" in text
    assert "Made by `python -m tests.benchmarks tried --parts counted --size films=2` (" in text
    assert "--parts read --size sizes=3,4 --films FILMS.csv`" in text
    assert "secret" not in text
    assert text.endswith(" s.\n")
    part = kept(tmp_path)["counted"]
    assert part["rows"] == [{"number": 0, "share": None}, {"number": 1, "share": None}]
    assert part["sizes"] == {"films": 2}
    assert part["tool"].startswith("ravl-med ")
    assert "cores" in part["machine"]
    assert part["seconds"] >= 0
    marked = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert marked == f"a\n{BEGIN}\n3 parts\n{END}\nb\n"


def test_parts_that_are_not_run_keep_their_numbers(tmp_path: Path) -> None:
    run_page(PAGE, ("empty", "counted"), tmp_path, run(tmp_path))
    before = kept(tmp_path)
    assert list(before) == ["counted", "empty"]
    run_page(PAGE, ("read",), tmp_path, run(tmp_path, None, {"films": Path("x")}))
    after = kept(tmp_path)
    assert list(after) == ["counted", "read", "empty"]
    assert {name: after[name] for name in before} == before


def test_a_page_is_drawn_anew_without_measuring(tmp_path: Path) -> None:
    path = run_page(PAGE, ("counted",), tmp_path, run(tmp_path))
    text, content = path.read_text(encoding="utf-8"), kept(tmp_path)
    path.unlink()
    assert choose_parts(PAGE, "none", {}) == ()
    run_page(PAGE, (), tmp_path, run(tmp_path))
    assert path.read_text(encoding="utf-8") == text
    assert kept(tmp_path) == content


def test_what_takes_hours_is_written_row_by_row(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_page(PAGE, ("counted",), tmp_path, run(tmp_path, {"films": 12}))
    assert [row["number"] for row in kept(tmp_path)["counted"]["rows"]] == list(range(9))
    page = run_page(PAGE, (), tmp_path, run(tmp_path))
    assert "rows are missing" in page.read_text(encoding="utf-8")
    run_page(PAGE, ("counted",), tmp_path, run(tmp_path))
    assert "rows are missing" not in page.read_text(encoding="utf-8")


def test_a_part_needs_its_files_and_is_left_out_without_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--films: tried needs FILMS\.csv for its part read"):
        run_page(PAGE, ("read",), tmp_path, run(tmp_path))
    assert choose_parts(PAGE, None, {}) == ("counted", "empty")
    assert choose_parts(PAGE, None, {"films": Path("x")}) == ("counted", "read", "empty")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"rows": []}', '{"parts": {"other": {"rows": [], "sizes": {}}}}',
             '{"parts": {"read": {"rows": []}}}']
)  # fmt: skip
def test_a_foreign_json_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "tried.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--out: the tried\.json .* is not one of this"):
        run_page(PAGE, ("counted",), tmp_path, run(tmp_path))
    assert (tmp_path / "tried.json").read_text(encoding="utf-8") == text


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--out: "):
        run_page(PAGE, ("counted",), tmp_path / "file" / "out", run(tmp_path))


def test_parts_are_read_in_their_order() -> None:
    assert choose_parts(PAGE, "empty, counted", {}) == ("counted", "empty")


@pytest.mark.parametrize(("text", "got"), [("read,velocity", "'velocity'"), (" ,", "nothing")])
def test_unknown_parts_are_refused(text: str, got: str) -> None:
    with pytest.raises(ConfigError, match=f"--parts: expected some of counted, .*; got {got}"):
        choose_parts(PAGE, text, {})


def test_sizes_are_whole_numbers_one_or_several() -> None:
    assert read_sizes(PAGE, ["films=20", "sizes=3, 1"]) == {"films": 20, "sizes": (1, 3)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kills=3", "--size: expected NAME=NUMBER with one of films, sizes; got 'kills=3'"),
        ("films", "--size: films expected a whole number from 1; got ''"),
        ("films=2,3", "--size: films expected a whole number from 1; got '2,3'"),
        ("films=0", "from 1; got '0'"),
        ("sizes=2k", "--size: sizes expected a whole number from 1, or several with commas"),
        ("sizes=1,", "or several with commas; got '1,'"),
        ("films=-5", "got '-5'"),
        ("films=1.5", r"got '1\.5'"),
    ],
)
def test_wrong_sizes_are_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_sizes(PAGE, [text])


@pytest.mark.parametrize("text", ["# A page\n", f"{BEGIN}\nno end\n", f"{END}\n{BEGIN}\n", None])
def test_a_page_without_marks_stays_as_it_is(tmp_path: Path, text: str | None) -> None:
    page = tmp_path / "README.md"
    if text is not None:
        page.write_text(text, encoding="utf-8")
    assert not renew_marked(page, "tried", "new")
    assert not page.exists() if text is None else page.read_text(encoding="utf-8") == text


def test_the_command_prints_the_page_and_refuses_in_one_line(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["labels", "--parts", "none", "--out", str(tmp_path)])
    assert made.exit_code == 0, made.output
    assert made.stdout == (tmp_path / "labels.md").read_text(encoding="utf-8")
    wrong = CliRunner().invoke(app, ["labels", "--parts", "all", "--out", str(tmp_path)])
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("error: --parts: expected some of published, development")
    missing = CliRunner().invoke(app, ["labels", "--parts", "published", "--out", str(tmp_path)])
    assert missing.exit_code == 2
    assert missing.stderr.startswith("error: --reports: labels needs FOLDER")
