"""The chapters of an audit report: the same for paper and for the browser.

Verdict first, then who was audited, how well the model does, what was searched, a page or two for
each correlation, how all of this was found, and who signs it. The pages say what the result holds
and nothing else.

References
----------
Varma et al., RaVL, NeurIPS 2024 (arXiv 2411.04097).
"""

from __future__ import annotations

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.checklist import checklist_chapter
from ravl_med.reporting.audit.cohort import cohort_chapter, performance_chapter
from ravl_med.reporting.audit.correlation import correlation_entry
from ravl_med.reporting.audit.details import ReportDetails
from ravl_med.reporting.audit.method import method_chapter
from ravl_med.reporting.audit.search import search_chapter
from ravl_med.reporting.audit.signing import signing_chapter
from ravl_med.reporting.audit.verdict import verdict_chapter
from ravl_med.reporting.layout.blocks import Block, Reproduction
from ravl_med.reporting.pictures import Film, correlation_pictures, shown_correlations

__all__ = ["audit_story"]


def audit_story(result: AuditResult, film: Film, details: ReportDetails) -> list[Block]:
    """Return the whole report as blocks.

    Parameters
    ----------
    result : AuditResult
    film : callable - index of an image to its film, ndarray of shape (H, W), uint8, windowed,
        MONOCHROME2; asked once for each film and correlation
    details : ReportDetails
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
