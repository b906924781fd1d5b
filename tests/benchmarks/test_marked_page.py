"""Text between marks is renewed, and a page without marks stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.marked_page import marks, renew_page

BEGIN, END = marks("a name")


def test_what_stands_between_the_marks_is_renewed_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter\n", encoding="utf-8")

    assert renew_page(page, "a name", "new")

    assert page.read_text(encoding="utf-8") == f"# Before\n\n{BEGIN}\nnew\n{END}\n\nAfter\n"


@pytest.mark.parametrize("text", ["# A page\n", f"{BEGIN}\nno end\n", f"{END}\n{BEGIN}\n", None])
def test_a_page_without_marks_stays_as_it_is(tmp_path: Path, text: str | None) -> None:
    page = tmp_path / "README.md"
    if text is not None:
        page.write_text(text, encoding="utf-8")

    assert not renew_page(page, "a name", "new")
    assert not page.exists() if text is None else page.read_text(encoding="utf-8") == text
