"""The committed pages: each is what its numbers draw, and names commands that exist."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from ravl_med.cli import app as ravl_med
from tests.benchmarks.__main__ import PAGES
from tests.benchmarks.__main__ import app as benchmarks
from tests.benchmarks.evaluation import draw_blocks, draw_markdown, read_results
from tests.benchmarks.runner import choose_parts, read_sizes
from tests.benchmarks.scale import summarise

REPOSITORY = Path(__file__).parents[2]
PUBLISHED = REPOSITORY / "reports" / "benchmark"
TEXTS = [
    *REPOSITORY.glob("*.md"),
    *(REPOSITORY / "ravl_med").rglob("*.md"),
    *(REPOSITORY / "reports").rglob("*.md"),
    *(REPOSITORY / "ravl_med").rglob("*.py"),
    *(path for path in (REPOSITORY / "tests" / "benchmarks").glob("*.py")
      if not path.name.startswith("test_")),
]  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_its_numbers_draw(name: str) -> None:
    page = PAGES[name]
    content = page.read(PUBLISHED)
    assert list(content) == [part.name for part in page.parts]  # all have been measured
    assert [name for name, part in content.items() if part.get("unfinished")] == []
    assert (PUBLISHED / f"{name}.md").read_text(encoding="utf-8") == page.draw(content)


def test_the_summary_of_scale_is_what_its_numbers_draw() -> None:
    content = PAGES["scale"].read(PUBLISHED)
    drawn = summarise({name: part["rows"] for name, part in content.items()})
    shown = (PUBLISHED / "README.md").read_text(encoding="utf-8")
    assert f"<!-- scale: begin -->\n{drawn}\n<!-- scale: end -->" in shown


def test_the_page_of_the_evaluation_is_what_its_rows_draw() -> None:
    drawn = draw_markdown(draw_blocks(*read_results(PUBLISHED)))
    assert drawn == (PUBLISHED / "evaluation.md").read_text(encoding="utf-8")
    assert "What the first edition said" in drawn


def test_the_list_of_pages_names_them_all() -> None:
    listed = (PUBLISHED / "README.md").read_text(encoding="utf-8")
    for name in (*PAGES, "evaluation"):
        assert f"[`{name}.md`]({name}.md)" in listed
        assert f"`python -m tests.benchmarks {name}" in listed


def _commands(app: typer.Typer) -> dict[str, set[str]]:
    """Options of each command of an application."""
    group = typer.main.get_command(app)
    found = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        options = {option for parameter in command.params for option in parameter.opts}
        found[name] = {*options, "--help"}
    return found


def _named(program: str) -> list[tuple[Path, list[str]]]:
    """Commands of a program between backticks, and at the beginning of a line of a block."""
    pattern = re.compile(rf"(?:`|^ {{0,4}}\$? ?){re.escape(program)} ([^`\n]+)", re.MULTILINE)
    found = []
    for path in TEXTS:
        for text in pattern.findall(path.read_text(encoding="utf-8")):
            parsed = shlex.shlex(text.split("#")[0], posix=True, punctuation_chars=True)
            parsed.whitespace_split = True
            parsed.quotes = parsed.escape = ""
            found.append((path, list(parsed)))
    return found


@pytest.mark.parametrize(
    ("program", "app"), [("ravl-med", ravl_med), ("python -m tests.benchmarks", benchmarks)]
)
def test_no_page_names_a_command_that_does_not_exist(program: str, app: typer.Typer) -> None:
    known = _commands(app)
    named = _named(program)
    assert len(named) > 20
    for path, parts in named:
        name = parts[0].strip(".,;:)\"'")
        if name in ("NAME", "0.1.0") or name.startswith("-"):
            continue
        assert name in known, f"{path.relative_to(REPOSITORY)}: {program} {' '.join(parts)}"
        options = {part.split("=")[0].strip(".,;:)\"'") for part in parts if part.startswith("--")}
        assert options <= known[name], f"{path.relative_to(REPOSITORY)}: {' '.join(parts)}"


def test_parts_and_sizes_of_named_commands_exist() -> None:
    for _, parts in _named("python -m tests.benchmarks"):
        page = PAGES.get(parts[0])
        if page is None:
            continue
        for option, value in pairwise(parts):
            if option == "--parts" and value != "...":
                choose_parts(page, value, {})
            if option == "--size":
                read_sizes(page, [value])
