"""Every page of very large and of hostile reports, read by place: as somebody looks at them.

Text stays inside of the margins, lies on no other text, and no heading ends a page.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pypdf
import pytest
from hostile_results import HOSTILE, hostile_result
from reportlab.pdfbase import pdfmetrics

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.results import Interval
from ravl_med.reporting.audit.history import AuditHistory, ReportDetails
from ravl_med.reporting.audit.report import write_report
from ravl_med.reporting.layout.blocks import REMARKS
from ravl_med.reporting.layout.pdf_style import MONO, SANS, SANS_BOLD, WIDTH

LEFT = (595.28 - WIDTH) / 2
RIGHT, LOW, HIGH = LEFT + WIDTH, 50.0, 842.0 - 40.0
FONTS = {"DejaVuSans-Bold": SANS_BOLD, "DejaVuSansMono": MONO, "DejaVuSans": SANS}
HEADINGS = (9.0, 13.5)
LONG = ("Enlarged cardiomediastinum after surgery", "胸部X線", "مستشفى", "🫀 heart", "x" * 10_000,
        "<img src=http://x>", "Pneumoperitoneum")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """A run of text on a page."""

    text: str
    font: str
    size: float
    x: float
    y: float

    @property
    def right(self) -> float:
        text = self.text.rstrip()
        # The library sets spaces up to a twentieth closer where a word fits by that.
        closer = 0.05 * text.count(" ") * pdfmetrics.stringWidth(" ", self.font, self.size)
        return self.x + pdfmetrics.stringWidth(text, self.font, self.size) - closer

    @property
    def heads(self) -> bool:
        return self.font == SANS_BOLD and self.size in HEADINGS


def runs_of(page: pypdf.PageObject) -> list[Run]:
    """The text of a page with its places, without the footer."""
    found: list[Run] = []

    def seen(text: str, cm: Sequence[float], tm: Sequence[float], font: Any, size: float) -> None:
        if not text.strip() or font is None:
            return
        name = str(font.get("/BaseFont", "")).split("+")[-1]
        x = tm[4] * cm[0] + cm[4]
        y = tm[5] * cm[3] + cm[5]
        if y > LOW:
            found.append(Run(text.strip("\n"), FONTS.get(name, SANS), round(size, 2), x, y))

    page.extract_text(visitor_text=seen)
    return found


def large_result(
    result_of: Callable[..., AuditResult], correlations: int, classes: int, subgroups: int
) -> AuditResult:
    """An audit of such a size, with texts of every kind."""
    names = [f"{LONG[at % len(LONG)][:9_990]} {at}" for at in range(classes)]
    result = result_of(names, correlations=correlations)
    base = result.subgroups[0]
    rows = tuple(
        replace(
            base,
            attribute=("site", "manufacturer", "view", LONG[at % len(LONG)])[at % 4],
            value=f"value {at}" if at % 3 else LONG[at % len(LONG)],
            accuracy=at % 100 / 100,
            interval=Interval(max(at % 100 - 6, 0) / 100, min(at % 100 + 6, 100) / 100),
        )
        for at in range(subgroups)
    )
    return replace(result, subgroups=rows)


Pages = Callable[[str], list[list[Run]]]


@pytest.fixture(scope="module")
def pages(
    result_of: Callable[..., AuditResult],
    film: Any,
    details: ReportDetails,
    tmp_path_factory: pytest.TempPathFactory,
) -> Pages:
    """A report to its runs of text by page."""
    past = AuditHistory(12, tuple((t, t, t) for t in HOSTILE * 3), HOSTILE, {HOSTILE[0]: 2})
    bad = replace(
        details,
        config_yaml="\n".join(HOSTILE),
        versions=dict.fromkeys(HOSTILE, HOSTILE[3]),
        thresholds=dict.fromkeys(HOSTILE, HOSTILE[4]),
        history=past,
    )
    reports: dict[str, Callable[[], tuple[AuditResult, ReportDetails]]] = {
        "large": lambda: (large_result(result_of, 40, 30, 150), details),
        "very large": lambda: (large_result(result_of, 100, 60, 1_000), details),
        "hostile": lambda: (hostile_result(result_of(HOSTILE, 12)), bad),
        "null": lambda: (result_of(correlations=0), details),
    }

    @cache
    def read(name: str) -> list[list[Run]]:
        result, told = reports[name]()
        folder: Path = tmp_path_factory.mktemp(name.replace(" ", "-"))
        write_report(result, film, told, folder)
        document = pypdf.PdfReader(io.BytesIO((folder / "report.pdf").read_bytes()))
        return [runs_of(page) for page in document.pages]

    return read


NAMES = pytest.mark.parametrize(
    "name", ["large", pytest.param("very large", marks=pytest.mark.slow), "hostile", "null"]
)


@NAMES
def test_text_stays_inside_of_the_margins(pages: Pages, name: str) -> None:
    assert sum(map(len, pages(name))) > 200
    outside = [
        (number, run)
        for number, page in enumerate(pages(name), 1)
        for run in page
        if run.x < LEFT - 0.5 or run.right > RIGHT + 0.5 or run.y > HIGH
    ]
    assert outside == []


@NAMES
def test_no_heading_ends_a_page(pages: Pages, name: str) -> None:
    headings = 0
    for number, page in enumerate(pages(name), 1):
        for run in page:
            if run.heads and run.text != REMARKS:  # below it lies a field
                headings += 1
                below = [one for one in page if one.y < run.y - 4 and not one.heads]
                assert below, (number, run)
    assert headings > 15


@NAMES
def test_no_text_lies_on_other_text(pages: Pages, name: str) -> None:
    on_map = {str(rank) for rank in range(1, 101)}  # numbers in their boxes are read apart
    for number, page in enumerate(pages(name), 1):
        runs = sorted((run for run in page if run.text not in on_map), key=lambda run: -run.y)
        for at, run in enumerate(runs):
            for other in runs[at + 1 :]:
                if run.y - other.y > 0.55 * max(run.size, other.size):
                    break
                apart = run.right <= other.x + 0.6 or other.right <= run.x + 0.6
                assert apart, (number, run, other)
