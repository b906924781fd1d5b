"""Text between two marks of a page that people write, renewed from results: README files."""

from __future__ import annotations

from pathlib import Path


def marks(name: str) -> tuple[str, str]:
    """Return the lines that stand before and after a text of that name."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def renew_page(page: Path, name: str, text: str) -> bool:
    """Put a text between its marks on a page; nothing is done where there is none, or no marks.

    Parameters
    ----------
    page : Path - Markdown
    name : str - of the marks
    text : str

    Returns
    -------
    bool - whether the page has the marks
    """
    if not page.is_file():
        return False
    whole = page.read_text(encoding="utf-8")
    first, last = marks(name)
    before, begin, rest = whole.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        return False
    page.write_text(f"{before}{first}\n{text}\n{last}{after}", encoding="utf-8")
    return True
