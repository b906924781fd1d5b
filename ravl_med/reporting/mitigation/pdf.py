"""The mitigation on paper; see `pages`."""

from __future__ import annotations

from pathlib import Path

from ravl_med.evidence.mitigation_result import MitigationResult
from ravl_med.reporting.audit.details import MitigationDetails
from ravl_med.reporting.layout.pdf import draw_pdf
from ravl_med.reporting.mitigation.pages import mitigation_story

__all__ = ["MitigationDetails", "write_mitigation_pdf"]


def write_mitigation_pdf(result: MitigationResult, details: MitigationDetails, path: Path) -> None:
    """Write the report of a mitigation as a PDF.

    Parameters
    ----------
    result : MitigationResult
    details : MitigationDetails
    path : Path - of the PDF; the same input gives the same bytes
    """
    story = mitigation_story(result, details)
    path.write_bytes(draw_pdf(story, result.name, result.title, f"Mitigation {result.name}"))
