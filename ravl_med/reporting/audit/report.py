"""The report of an audit, on paper and for the browser, from one story, and the model's cards."""

from __future__ import annotations

from pathlib import Path

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.details import ReportDetails
from ravl_med.reporting.audit.pages import audit_story
from ravl_med.reporting.cards.chai_card import chai_card, chai_properties
from ravl_med.reporting.cards.hub_card import hub_card
from ravl_med.reporting.layout.html import draw_reading_html
from ravl_med.reporting.layout.pdf import draw_pdf
from ravl_med.reporting.pictures import Film

__all__ = ["write_report"]


def write_report(result: AuditResult, film: Film, details: ReportDetails, folder: Path) -> None:
    """Write ``report.pdf`` and ``report.html``, and the cards of the model: the same numbers.

    ``model_card.xml`` is for the Coalition for Health AI, and lies in the PDF as well;
    ``model_card.md`` is in the layout of the Hugging Face Hub.

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
    card = chai_card(result, details)
    (folder / "model_card.xml").write_text(card, encoding="utf-8")
    (folder / "model_card.md").write_text(hub_card(result, details), encoding="utf-8")
    document = draw_pdf(story, name, title, f"Audit {name}", chai_properties(card))
    (folder / "report.pdf").write_bytes(document)
    page = draw_reading_html(story, name, title)
    (folder / "report.html").write_text(page, encoding="utf-8")
