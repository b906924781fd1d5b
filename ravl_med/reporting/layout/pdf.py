"""A report on paper: what a radiologist and a regulator read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reportlab.platypus import Flowable

from ravl_med import __version__
from ravl_med.reporting.layout.blocks import Block, status_of
from ravl_med.reporting.layout.pdf_blocks import flowables
from ravl_med.reporting.layout.pdf_style import Document, Imprint

__all__ = ["draw_pdf"]


def draw_pdf(
    blocks: Sequence[Block],
    run: str,
    title: str,
    subject: str,
    properties: Mapping[str, str] | None = None,
) -> bytes:
    """Return blocks as a PDF; the same blocks give the same bytes.

    Parameters
    ----------
    blocks : sequence of Block
    run, title : str - of the footer and of the metadata
    subject : str - of the metadata
    properties : mapping of name to text, or None - further entries of the metadata
    """

    def story(pages: dict[str, int]) -> list[Flowable]:
        return flowables(blocks, pages)

    status = status_of(blocks)
    imprint = Imprint(run, title, __version__, subject, status, properties or {})
    return Document.render(story, imprint)
