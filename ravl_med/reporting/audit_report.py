"""The report of an audit in a run folder: on paper and for the browser, from one story."""

from __future__ import annotations

from pathlib import Path

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit_pages import audit_story
from ravl_med.reporting.html import draw_reading_html
from ravl_med.reporting.pdf import draw_pdf
from ravl_med.reporting.pictures import Film
from ravl_med.reporting.report_details import ReportDetails

__all__ = ["write_report"]


def write_report(result: AuditResult, film: Film, details: ReportDetails, folder: Path) -> None:
    """Write ``report.pdf`` and ``report.html``: the same words, the same numbers.

    Parameters
    ----------
    result : AuditResult
    film : callable - index of an image to its film, ndarray of shape (H, W), uint8, windowed,
        MONOCHROME2; asked once for each film and correlation
    details : ReportDetails
    folder : Path - the same input gives the same bytes there
    """
    story = audit_story(result, film, details)
    name, title = result.name, result.title
    (folder / "report.pdf").write_bytes(draw_pdf(story, name, title, f"Audit {name}"))
    page = draw_reading_html(story, name, title)
    (folder / "report.html").write_text(page, encoding="utf-8")
