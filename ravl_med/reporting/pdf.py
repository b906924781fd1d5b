"""The audit on paper: what a radiologist and a regulator read.

Verdict first, then who was audited, how well the model does, what was searched, a page or two for
each correlation, and how all of this was found. The pages say what the result holds and nothing
else.

References
----------
Varma et al., RaVL, NeurIPS 2024 (arXiv 2411.04097).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from reportlab.platypus import Flowable

from ravl_med import __version__
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit_history import AuditHistory
from ravl_med.reporting.figures import correlation_pictures, shown_correlations
from ravl_med.reporting.pdf_cohort import cohort_page, performance_page
from ravl_med.reporting.pdf_correlation import correlation_page
from ravl_med.reporting.pdf_method import method_page, reproducibility_page
from ravl_med.reporting.pdf_search import search_page
from ravl_med.reporting.pdf_style import Document
from ravl_med.reporting.pdf_verdict import verdict_page

__all__ = ["ReportDetails", "write_pdf"]


@dataclass(frozen=True, slots=True)
class ReportDetails:
    """What the report prints beside the result, for the sake of doing it again.

    Attributes
    ----------
    date : str or None - of the run
    config_yaml : str - the effective config, paths already replaced
    versions, digests : mapping of name to version or digest
    seeds : mapping of stage to seed
    thresholds : mapping of rule to its threshold, in words
    regions_shown : int - regions of each correlation that are shown
    history : AuditHistory or None - earlier audits of the model on these films; None says nothing
    """

    date: str | None
    config_yaml: str
    versions: Mapping[str, str]
    digests: Mapping[str, str]
    seeds: Mapping[str, int]
    thresholds: Mapping[str, str]
    regions_shown: int = 10
    history: AuditHistory | None = None


def write_pdf(
    result: AuditResult,
    film: Callable[[int], NDArray[np.uint8]],
    details: ReportDetails,
    path: Path,
) -> None:
    """Write the report of an audit.

    Parameters
    ----------
    result : AuditResult
    film : callable - index of an image to its film, ndarray of shape (H, W), uint8, windowed,
        MONOCHROME2; asked once for each film and correlation
    details : ReportDetails
    path : Path - of the PDF; the same input gives the same bytes
    """
    shown = [
        (entry, correlation_pictures(result, entry, film, details.regions_shown))
        for entry in shown_correlations(result)
    ]

    def story(pages: dict[str, int]) -> list[Flowable]:
        made = verdict_page(result, shown, details.date, details.history, pages)
        made += cohort_page(result)
        made += performance_page(result)
        made += search_page(result, pages)
        for entry, pictures in shown:
            made += correlation_page(result, entry, pictures)
        made += method_page(details.thresholds)
        return made + reproducibility_page(
            {
                "Digests": details.digests,
                "Seeds": {name: str(seed) for name, seed in details.seeds.items()},
                "Versions": details.versions,
            },
            details.config_yaml,
        )

    path.write_bytes(Document.render(story, result.name, result.title, __version__))
