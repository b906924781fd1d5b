"""The map of guidelines: every item once told, every reference leads somewhere."""

import re

import pytest
from pypdf import PdfReader

from ravl_med.reporting.audit.method import checklist_chapter
from ravl_med.reporting.audit.report import audit_blocks
from ravl_med.reporting.layout.blocks import Chapter, Reference, Table, Text

CLAIM = {str(number) for number in range(1, 45)}
PARTS = {3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef", 20: "abc",
         23: "ab", 27: "abc"}  # fmt: skip
TRIPOD = {f"{number}{part}" for number in range(1, 28) for part in PARTS.get(number, ("",))}
NOT = "To be completed by the developer"


def flat(text: str) -> str:
    return " ".join(text.split())


CHAPTERS = (
    "cohort", "performance", "search", "method", "limits", "subgroups", "reproducibility",
    "sign-off",
)  # fmt: skip


def rows(*more: str) -> tuple:
    (table,) = [
        block for block in checklist_chapter([*CHAPTERS, *more]) if isinstance(block, Table)
    ]
    return table.rows


def test_a_row_leads_to_the_first_of_its_chapters_that_is_there():
    for more, key in (((), "search"), (("decisions", "dependence"), None)):
        robust, explained = (
            row[-1].key
            for row in rows(*more)
            if row[0].startswith(("Robustness", "Explainability"))
        )
        assert (robust, explained) == ((key, key) if key else ("dependence", "decisions"))


def items(told: str) -> list[str]:
    """Items of a cell or sentence: ``8a–8c`` is ``8a``, ``8b``, ``8c``."""
    found: list[str] = []
    for part in re.split(r", ", told):
        first, _, last = part.partition("–")
        if not last:
            found.append(first)
        elif first[-1].isdigit():
            found += [str(number) for number in range(int(first), int(last) + 1)]
        else:
            assert first[:-1] == last[:-1], part
            found += [first[:-1] + chr(c) for c in range(ord(first[-1]), ord(last[-1]) + 1)]
    return found


def of_a_manuscript(guideline: str) -> list[str]:
    (text,) = [block.text for block in checklist_chapter(CHAPTERS) if isinstance(block, Text)]
    told = text[text.index("not in the map") :]
    match = re.search(rf"{re.escape(guideline)} ([\da-g, ]+)", told)
    assert match is not None
    return items(match.group(1).strip(" ."))


def test_there_are_44_and_52_items():
    assert (len(CLAIM), len(TRIPOD)) == (44, 52)


@pytest.mark.parametrize(
    ("column", "guideline", "known"), [(1, "CLAIM", CLAIM), (2, "TRIPOD+AI", TRIPOD)]
)
def test_every_item_is_in_the_map_or_named_as_one_of_a_manuscript(column, guideline, known):
    told = [item for row in rows() if row[column] != "–" for item in items(row[column])]
    aside = of_a_manuscript(guideline)
    assert set(told) | set(aside) == known
    assert not set(told) & set(aside)
    twice = {item for item in told if told.count(item) > 1}
    assert twice <= {"23a"}  # performance, and performance in subgroups


def test_what_is_filled_stands_before_what_is_not():
    filled = [not row[4].startswith(NOT) for row in rows()]
    assert filled == sorted(filled, reverse=True)
    assert filled.count(False) == 12
    for row in rows():
        assert set(row[1:4]) != {"–"}
        assert row[4].startswith(NOT) == (row[5] == "–")
        assert row[3] in ("–", "2 (g)")


def test_references_lead_to_chapters_that_are_there(result_of, film, details):
    blocks = audit_blocks(result_of(correlations=0), film, details)
    titles = {block.key: block.title for block in blocks if isinstance(block, Chapter)}
    told = [row[-1] for row in rows() if isinstance(row[-1], Reference)]
    assert {where.key for where in told} <= set(titles) | {"reproducibility"}
    assert all(where.name == titles.get(where.key, "Reproducibility") for where in told)


@pytest.mark.parametrize("correlations", [0, 2])
def test_the_map_stands_on_one_page_and_gives_pages(correlations, result_of, report_of, details):
    folder = report_of(result_of(correlations=correlations), details)
    pages = [flat(page.extract_text()) for page in PdfReader(folder / "report.pdf").pages]
    told = pages[-1][pages[-1].index("Where a reviewer finds") :]
    assert "no claim of conformity" in told
    assert f"Involvement of patients and public – 19 – {NOT} –" in told
    for asked, start in (
        ("limitations; the verdict is on page one", "Limits, and how this was found"),
        ("the date of the run is on page one", "Sign-off"),
    ):
        number = next(at for at, page in enumerate(pages, 1) if page.startswith(start))
        assert re.search(rf"{asked} {number}\b", told), asked
