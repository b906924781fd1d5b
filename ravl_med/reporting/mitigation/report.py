"""The mitigation in a browser: one file without script or picture; see `pages`.

The mitigation on paper; see `pages`.
"""

from __future__ import annotations

from pathlib import Path

from ravl_med.evidence.mitigation_result import MitigationResult
from ravl_med.reporting.audit.history import MitigationDetails
from ravl_med.reporting.layout.html import draw_html
from ravl_med.reporting.layout.pdf import draw_pdf
from ravl_med.reporting.mitigation.pages import mitigation_story


def write_mitigation_html(result: MitigationResult, details: MitigationDetails, path: Path) -> None:
    """Write the report of a mitigation as one HTML file.

    Parameters
    ----------
    path : Path - of the HTML file, UTF-8; the same input gives the same bytes
    """
    blocks = mitigation_story(result, details)
    path.write_text(draw_html(blocks, result.name, result.title), encoding="utf-8")


def write_mitigation_pdf(result: MitigationResult, details: MitigationDetails, path: Path) -> None:
    """Write the report of a mitigation as a PDF.

    Parameters
    ----------
    path : Path - of the PDF; the same input gives the same bytes
    """
    blocks = mitigation_story(result, details)
    path.write_bytes(draw_pdf(blocks, result.name, result.title, f"Mitigation {result.name}"))
