"""A report in a browser: one file that needs nothing else, for a screen, a phone or paper.

The same blocks as the PDF, so the same words and numbers; figures are SVG and films are data inside
of the file, nothing is fetched. What a reader can do there (open a film, toggle boxes, choose
correlations) is done by a short script, and the page tells the browser to run nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from ravl_med import __version__
from ravl_med.reporting.layout.blocks import Block, status_of
from ravl_med.reporting.layout.html_blocks import body_of, contents_of, text
from ravl_med.reporting.layout.html_script import SCRIPT, SCRIPT_DIGEST, VIEWER
from ravl_med.reporting.layout.html_style import READING_STYLE, STYLE

__all__ = ["draw_html", "draw_reading_html"]

_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{SCRIPT_DIGEST}'; base-uri 'none'; form-action 'none'"
)


def draw_html(blocks: Sequence[Block], run: str, title: str) -> str:
    """Return blocks as a page that stands still: no script, no picture.

    Parameters
    ----------
    blocks : sequence of Block
    run, title : str - of the foot and of the window
    """
    foot = _foot(run, blocks)
    return _page(f"<main>\n{body_of(blocks)}\n</main>", foot, title, STYLE)


def draw_reading_html(blocks: Sequence[Block], run: str, title: str) -> str:
    """Return blocks as a page to read in: films open large, boxes toggle, entries are chosen.

    Parameters
    ----------
    blocks : sequence of Block
    run, title : str - of the foot and of the window
    """
    body = (
        '<a class="skip" href="#main">Skip to the report</a>\n'
        '<nav class="contents" aria-label="Contents"><details><summary>Contents</summary>'
        f"{contents_of(blocks)}</details></nav>\n"
        f'<main id="main" tabindex="-1">\n{body_of(blocks)}\n</main>'
    )
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    end = f"{VIEWER}\n<script>{SCRIPT}</script>\n"
    foot = _foot(run, blocks)
    return _page(body, foot, title, STYLE + READING_STYLE, policy, end)


def _foot(run: str, blocks: Sequence[Block]) -> str:
    return " · ".join(part for part in (text(run, 80), status_of(blocks)) if part)


def _page(body: str, foot: str, title: str, style: str, policy: str = "", end: str = "") -> str:
    version = text(__version__, 20)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{policy}<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="RaVL-Med {version}">
<title>{text(title, 200)}</title>
<style>
{style}</style>
</head>
<body>
{body}
<footer>{foot} · RaVL-Med {version}</footer>
{end}</body>
</html>
"""
