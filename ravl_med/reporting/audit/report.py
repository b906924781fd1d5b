"""The report of an audit, on paper and for the browser, from one story, and the model's cards.

The chapters of an audit report: the same for paper and for the browser.

Verdict first, then who was audited, how well the model does, what was searched, a page or two for
each correlation, how all of this was found, and who signs it. The pages say what the result holds
and nothing else.

References
----------
Varma et al., RaVL, NeurIPS 2024 (arXiv 2411.04097).
"""

from __future__ import annotations

from pathlib import Path

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.cohort import cohort_chapter, performance_chapter
from ravl_med.reporting.audit.correlation import correlation_entry
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.method import checklist_chapter, method_chapter, signing_chapter
from ravl_med.reporting.audit.search import search_chapter
from ravl_med.reporting.audit.verdict import verdict_chapter
from ravl_med.reporting.cards.chai import chai_card, chai_properties
from ravl_med.reporting.cards.hub import hub_card
from ravl_med.reporting.layout.blocks import Block, Reproduction
from ravl_med.reporting.layout.html import draw_reading_html
from ravl_med.reporting.layout.pdf import draw_pdf
from ravl_med.reporting.pictures import Film, correlation_pictures, shown_correlations


def audit_story(result: AuditResult, film: Film, details: ReportDetails) -> list[Block]:
    """Return the whole report as blocks.

    Parameters
    ----------
    film : callable - index of an image to its film, ndarray of shape (H, W), uint8, windowed,
        MONOCHROME2; asked once for each film and correlation
    """
    shown = [
        (entry, correlation_pictures(result, entry, film, details.regions_shown, enlarged=True))
        for entry in shown_correlations(result)
    ]
    return [
        *verdict_chapter(result, shown, details.date, details.history),
        *cohort_chapter(result),
        *performance_chapter(result),
        *search_chapter(result),
        *(correlation_entry(result, entry, pictures) for entry, pictures in shown),
        *method_chapter(result, details.thresholds),
        Reproduction(
            {
                "Digests": details.digests,
                "Seeds": {name: str(seed) for name, seed in details.seeds.items()},
                "Versions": details.versions,
            },
            details.config_yaml,
        ),
        *checklist_chapter(),
        *signing_chapter(result, details.digests),
    ]


def write_report(result: AuditResult, film: Film, details: ReportDetails, folder: Path) -> None:
    """Write ``report.pdf`` and ``report.html``, and the cards of the model: the same numbers.

    ``model_card.xml`` is for the Coalition for Health AI, and lies in the PDF as well;
    ``model_card.md`` is in the layout of the Hugging Face Hub.

    Parameters
    ----------
    film : callable - index of an image to its film, ndarray of shape (H, W), uint8, windowed,
        MONOCHROME2; asked once for each film and correlation
    folder : Path - the same input gives the same bytes there
    """
    blocks = audit_story(result, film, details)
    name, title = result.name, result.title
    card = chai_card(result, details)
    (folder / "model_card.xml").write_text(card, encoding="utf-8")
    (folder / "model_card.md").write_text(hub_card(result, details), encoding="utf-8")
    document = draw_pdf(blocks, name, title, f"Audit {name}", chai_properties(card))
    (folder / "report.pdf").write_bytes(document)
    page = draw_reading_html(blocks, name, title)
    (folder / "report.html").write_text(page, encoding="utf-8")
