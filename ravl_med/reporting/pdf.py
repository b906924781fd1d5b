"""A report on paper: what a radiologist and a regulator read."""

from __future__ import annotations

from collections.abc import Sequence

from reportlab.platypus import Flowable

from ravl_med import __version__
from ravl_med.reporting.pdf_blocks import flowables
from ravl_med.reporting.pdf_style import Document
from ravl_med.reporting.report_blocks import Block, status_of

__all__ = ["draw_pdf"]


def draw_pdf(blocks: Sequence[Block], run: str, title: str, subject: str) -> bytes:
    """Return blocks as a PDF; the same blocks give the same bytes.

    Parameters
    ----------
    blocks : sequence of Block
    run, title : str - of the footer and of the metadata
    subject : str - of the metadata
    """

    def story(pages: dict[str, int]) -> list[Flowable]:
        return flowables(blocks, pages)

    return Document.render(story, run, title, __version__, subject, status_of(blocks))
