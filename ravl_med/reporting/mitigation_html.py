"""The mitigation in a browser: one file that needs nothing else, for a screen, a phone or paper.

The same blocks as the PDF, so the same words and numbers; figures are SVG inside the file, there is
no script and nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from ravl_med import __version__
from ravl_med.evidence.mitigation_result import MitigationResult, VerdictWord
from ravl_med.reporting import mitigation_figures as figures
from ravl_med.reporting.mitigation_blocks import (
    Block,
    Cell,
    Chapter,
    CurvePanels,
    Dots,
    Items,
    Lines,
    MitigationDetails,
    Outcome,
    Reproduction,
    Scale,
    Section,
    Signatures,
    Sized,
    Table,
    Text,
    Title,
)
from ravl_med.reporting.mitigation_pages import mitigation_story
from ravl_med.reporting.mitigation_style import STYLE
from ravl_med.reporting.mitigation_words import OUTCOME_LINES, OUTCOME_WORDS
from ravl_med.reporting.wording import DASH, printable, printable_block

__all__ = ["write_mitigation_html"]

_DOTS = 100.0  # points of the drawing; the page scales it
_PANEL = 160.0


def write_mitigation_html(result: MitigationResult, details: MitigationDetails, path: Path) -> None:
    """Write the report of a mitigation as one HTML file.

    Parameters
    ----------
    result : MitigationResult
    details : MitigationDetails
    path : Path - of the HTML file, UTF-8; the same input gives the same bytes
    """
    story = mitigation_story(result, details)
    body = "\n".join(_element(block) for block in story)
    foot = f"{_text(result.name, 80)} · DRAFT · RaVL-Med {_text(__version__, 20)}"
    path.write_text(
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="RaVL-Med {_text(__version__, 20)}">
<title>{_text(result.title, 200)}</title>
<style>
{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
<footer>{foot}</footer>
</body>
</html>
""",
        encoding="utf-8",
    )


def _text(text: str, limit: int = 1500) -> str:
    """Text as it may stand in an element or an attribute."""
    return escape(printable(text, limit))


def _element(block: Block) -> str:
    """Return a block as HTML."""
    match block:
        case Title(text, below):
            return f'<h1>{_text(text, 120)}</h1>\n<p class="muted">{_text(below, 300)}</p>'
        case Outcome(verdict):
            return _banner(verdict)
        case Chapter(title, key):
            return f'<h2 id="{_text(key, 40)}">{_text(title, 200)}</h2>'
        case Section(title):
            return f"<h3>{_text(title, 200)}</h3>"
        case Text(text, role, limit):
            return f'<p class="{role}">{_text(text, limit)}</p>'
        case Items(items, limit):
            return "<ul>" + "".join(f"<li>{_text(i, limit)}</li>" for i in items) + "</ul>"
        case Table():
            return _table(block)
        case CurvePanels():
            return _panels(block)
        case Signatures(roles):
            return _signatures(roles)
        case Reproduction(tables, config):
            return _reproduction(tables, config)


def _banner(verdict: VerdictWord) -> str:
    fill, text, edge = figures.OUTCOME_LOOK[verdict]
    line = "dashed" if verdict == "nothing_to_do" else "solid"
    look = f"background:{fill};color:{text};border:2px {line} {edge}"
    symbol = _svg(figures.outcome_figure(verdict), hidden=True)
    return (
        f'<div class="verdict" style="{look}">{symbol}'
        f'<div><p class="word">{OUTCOME_WORDS[verdict]}</p>'
        f"<p>{OUTCOME_LINES[verdict]}</p></div>"
        '<p class="draft">DRAFT</p></div>'
    )


def _table(block: Table) -> str:
    head = ""
    if block.headed:
        cells = "".join(_head(column) for column in block.columns)
        head = f"<thead><tr>{cells}</tr></thead>\n"
    rows = block.rows or ((DASH, *[""] * (len(block.columns) - 1)),)
    body = "\n".join(
        "<tr>"
        + "".join(
            _cell(value, block.columns[at], block.limit, first=at == 0)
            for at, value in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    shares = "".join(f'<col style="width:{_length(100 * c.share)}%">' for c in block.columns)
    note = f'\n<p class="muted">{_text(block.note)}</p>' if block.note else ""
    caption = _text(block.caption, 200)
    # The region scrolls by itself on a narrow screen, and by keyboard.
    return (
        f'<div class="wide" role="region" aria-label="{caption}" tabindex="0"><table>'
        f"<caption>{caption}</caption>\n<colgroup>{shares}</colgroup>\n{head}<tbody>\n{body}\n</tbody></table></div>{note}"
    )


def _head(column: Sized) -> str:
    if isinstance(column.head, Scale):
        figure = figures.scale_figure(_DOTS, signed=column.head.signed)
        return f'<th scope="col" class="dots">{_svg(figure)}</th>'
    side = ' class="right"' if column.right else ""
    return f'<th scope="col"{side}>{_text(column.head, 120)}</th>'


def _cell(value: Cell, column: Sized, limit: int, *, first: bool) -> str:
    look = "right" if column.right else "mono" if column.mono else ""
    match value:
        case Dots():
            # The numbers stand in the same row: nothing to read out twice.
            content, look = _svg(figures.dot_figure(value, _DOTS), hidden=True), "dots"
        case Scale(signed):
            content = _svg(figures.scale_figure(_DOTS, signed=signed))
        case Lines(lines, strong):
            texts = [_text(line, limit) for line in lines]
            texts[:1] = [f"<strong>{text}</strong>" if strong else text for text in texts[:1]]
            content = "<br>".join(texts)
        case str():
            content = _text(value, limit)
    of = f' class="{look}"' if look else ""
    return f'<th scope="row"{of}>{content}</th>' if first else f"<td{of}>{content}</td>"


def _panels(block: CurvePanels) -> str:
    shown = "\n".join(
        f"<figure><figcaption>{_text(title, 60)}</figcaption>"
        f"{_svg(figures.curve_figure(curve, _PANEL))}</figure>"
        for title, curve in block.panels
    )
    return (
        f'<h3>{_text(block.caption, 200)}</h3>\n<div class="panels">\n{shown}\n</div>\n'
        f'<p class="muted">{_text(block.note)}</p>'
    )


def _signatures(roles: tuple[str, ...]) -> str:
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("To be signed by", "Name", "Date", "Signature")
    )
    rows = "".join(
        f'<tr><th scope="row">{_text(role, 80)}</th><td></td><td></td><td></td></tr>'
        for role in roles
    )
    return (
        '<table class="signatures"><caption>Signatures</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _reproduction(tables: Mapping[str, Mapping[str, str]], config: str) -> str:
    shown = [
        _table(
            Table(
                caption=title,
                columns=(Sized("", 0.3), Sized("", 0.7, mono=True)),
                rows=tuple(
                    (printable(name, 60), printable(value, 140)) for name, value in entries.items()
                ),
                headed=False,
            )
        )
        for title, entries in tables.items()
    ]
    text = escape(printable_block(config, 105, 600) or DASH)
    return "\n".join(
        [
            '<h2 id="reproducibility">Reproducibility</h2>',
            *shown,
            f"<h3>Effective config</h3>\n<pre>{text}</pre>",
        ]
    )


def _svg(figure: figures.Figure, *, hidden: bool = False) -> str:
    """Return a figure as inline SVG, whose origin is the upper left corner."""
    label = f'role="img" aria-label="{_text(figure.words, 300)}"'
    read = 'aria-hidden="true"' if hidden else label
    shapes = "".join(_shape(shape, figure.height) for shape in figure.shapes)
    width, height = _length(figure.width), _length(figure.height)
    return f'<svg {read} viewBox="0 0 {width} {height}" width="{width}pt">{shapes}</svg>'


def _shape(shape: figures.Path | figures.Mark | figures.Label, height: float) -> str:
    match shape:
        case figures.Path(points, colour, weight, dash, closed):
            kind = "polygon" if closed else "polyline"
            places = " ".join(f"{_length(x)},{_length(height - y)}" for x, y in points)
            dashes = f' stroke-dasharray="{" ".join(map(_length, dash))}"' if dash else ""
            return (
                f'<{kind} points="{places}" fill="none" stroke="{colour}" '
                f'stroke-width="{_length(weight)}"{dashes}/>'
            )
        case figures.Mark(x, y, radius, colour, fill, square, weight):
            look = f'fill="{fill}" stroke="{colour}" stroke-width="{_length(weight)}"'
            if square:
                left, top, side = x - radius, height - y - radius, 2 * radius
                return (
                    f'<rect x="{_length(left)}" y="{_length(top)}" width="{_length(side)}" '
                    f'height="{_length(side)}" {look}/>'
                )
            return (
                f'<circle cx="{_length(x)}" cy="{_length(height - y)}" r="{_length(radius)}" '
                f"{look}/>"
            )
        case figures.Label(x, y, text, anchor, colour, size):
            return (
                f'<text x="{_length(x)}" y="{_length(height - y)}" text-anchor="{anchor}" '
                f'fill="{colour}" font-size="{_length(size)}">{escape(text)}</text>'
            )


def _length(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
