"""The mitigation in a browser: one file without script or picture; see `mitigation_pages`."""

from __future__ import annotations

from pathlib import Path

from ravl_med.evidence.mitigation_result import MitigationResult
from ravl_med.reporting.html import draw_html
from ravl_med.reporting.mitigation_pages import mitigation_story
from ravl_med.reporting.report_details import MitigationDetails

__all__ = ["write_mitigation_html"]


def write_mitigation_html(result: MitigationResult, details: MitigationDetails, path: Path) -> None:
    """Write the report of a mitigation as one HTML file.

    Parameters
    ----------
    result : MitigationResult
    details : MitigationDetails
    path : Path - of the HTML file, UTF-8; the same input gives the same bytes
    """
    story = mitigation_story(result, details)
    path.write_text(draw_html(story, result.name, result.title), encoding="utf-8")
