"""A report in a browser: one file that needs nothing else, for a screen, a phone or paper.

The same blocks as the PDF, so the same words and numbers; drawings are SVG and films are data in
the file, nothing is fetched. Every text passes `printable` and is escaped. What a reader can do
there (open a film, toggle boxes, choose correlations) is done by ``report.js``, which is named by
its digest, so that nothing else can run in the page; without it the page shows everything.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from html import escape
from importlib.resources import files

from ravl_med import __version__
from ravl_med.reporting.layout import blocks, drawings
from ravl_med.reporting.layout.columns import column_widths
from ravl_med.reporting.layout.html_figures import Film, films_of, html_text, overlay, svg
from ravl_med.reporting.layout.map_drawing import draw_clusters
from ravl_med.reporting.layout.pdf_style import WIDTH
from ravl_med.reporting.pictures import Picture
from ravl_med.reporting.tables import reproduction_tables
from ravl_med.reporting.wording import DASH, printable, printable_block

_LONG_ALT = 2500  # characters that say what a flow or a map shows
_DOTS = 100.0  # points of the drawing; the page scales it
_PANEL = 160.0
_UNBROKEN = 32  # characters of a word in a cell


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a block stands: the level of a heading there, and the films of the page."""

    level: int = 2
    films: Mapping[Picture, Film] = field(default_factory=dict)

    def below(self) -> _Place:
        return replace(self, level=self.level + 1)


def _wrapping(raw: str, limit: int) -> str:
    """Return text of a cell; what has no room for a line break for long gets some."""
    parts = printable(raw, limit).split(" ")
    return " ".join(
        "<wbr>".join(escape(part[at : at + _UNBROKEN]) for at in range(0, len(part), _UNBROKEN))
        for part in parts
    )


def _drawn(drawing: drawings.Drawing, caption: str, look: str, note: str = "") -> str:
    """Return a drawing as a figure with a caption; it scrolls by itself on a narrow screen."""
    name = html_text(caption, 200)
    below = f'\n<p class="muted">{html_text(note)}</p>' if note else ""
    return (
        f'<figure class="{look}"><figcaption>{name}</figcaption>'
        f'<div class="wide" role="group" aria-label="{name}" tabindex="0">'
        f"{svg(drawing, limit=_LONG_ALT)}</div>{below}</figure>"
    )


def body_of(content: Sequence[blocks.Block]) -> str:
    """Return blocks as the content of a page; headings go down step by step."""
    return "\n".join(_elements(content, _Place(films=films_of(_pictured(content)))))


def contents_of(content: Iterable[blocks.Block]) -> str:
    """Return links to the chapters and entries of a page."""
    links = []
    for block in content:
        match block:
            case blocks.Chapter(title, key) | blocks.Entry(title, key):
                links.append(
                    f'<li><a href="#{html_text(key, 40)}">{html_text(title, 200)}</a></li>'
                )
            case blocks.Reproduction():
                links.append('<li><a href="#reproducibility">Reproducibility</a></li>')
            case _:
                continue
    return f"<ol>{''.join(links)}</ol>"


def _pictured(content: Iterable[blocks.Block]) -> Iterator[Picture]:
    for block in content:
        match block:
            case blocks.FigureGrid(figures):
                yield from (figure.picture for figure in figures)
            case blocks.SideBySide(inner, figure):
                yield from (*_pictured(inner), figure.picture)
            case blocks.KeepTogether(inner) | blocks.Entry(_, _, _, _, inner):
                yield from _pictured(inner)
            case blocks.Table(_, _, rows):
                cells = (cell for row in rows for cell in row)
                yield from (one.picture for one in cells if isinstance(one, blocks.Thumbnail))
            case _:
                continue


def _elements(content: Iterable[blocks.Block], place: _Place) -> Iterator[str]:
    """Give the HTML of blocks; what follows the head of a chapter stands below it."""
    content = list(content)
    entries = [block for block in content if isinstance(block, blocks.Entry)]
    for block in content:
        if entries and block is entries[0]:
            yield _controls(entries)
        yield _element(block, place)
        if isinstance(block, blocks.Chapter):
            place = replace(place, level=3)


def _inside(content: Iterable[blocks.Block], place: _Place) -> str:
    return "\n".join(_elements(content, place))


def _element(block: blocks.Block, place: _Place) -> str:  # noqa: C901 - a case a block
    """Return a block as HTML."""
    match block:
        case blocks.Title(title, below):
            return f'<h1>{html_text(title, 120)}</h1>\n<p class="muted">{html_text(below, 300)}</p>'
        case blocks.Banner():
            return _banner(block)
        case blocks.Chapter(title, key):
            return f'<h2 class="chapter" id="{html_text(key, 40)}">{html_text(title, 200)}</h2>'
        case blocks.Section(title):
            return _section(title, place)
        case blocks.Text():
            return f'<p class="{block.role}">{_sentence(block)}</p>'
        case blocks.Items(items, limit):
            return "<ul>" + "".join(f"<li>{html_text(i, limit)}</li>" for i in items) + "</ul>"
        case blocks.Table():
            return _table(block, place)
        case blocks.FigureGrid():
            return _figures(block, place)
        case blocks.SideBySide(content, figure):
            inner = _inside(content, place)
            return f'<div class="beside"><div>\n{inner}\n</div>\n{_figure(figure, place)}</div>'
        case blocks.KeepTogether(content):
            return _inside(content, place)
        case blocks.Entry():
            return _entry(block, place)
        case blocks.CurvePanels():
            return _panels(block, place)
        case blocks.Flow(caption):
            return _drawn(drawings.draw_flow(block), caption, "flow")
        case blocks.ClusterPlot(caption):
            return _drawn(draw_clusters(block), caption, "flow map", block.note)
        case blocks.SignOff():
            return _sign_off(block, place)
        case blocks.Reproduction(tables, config):
            return _reproduction(tables, config)


def _section(title: str, place: _Place) -> str:
    return f'<h{place.level} class="section">{html_text(title, 200)}</h{place.level}>'


def _sentence(block: blocks.Text) -> str:
    sentence = html_text(block.text, block.limit)
    if block.see is None:
        return sentence
    return f"{sentence.removesuffix('.')} ({_link(block.see)})."


def _link(to: blocks.Reference) -> str:
    return f'<a href="#{html_text(to.key, 40)}">{html_text(to.name, 60)}</a>'


def _banner(banner: blocks.Banner) -> str:
    fill, colour, edge = drawings.BANNER_LOOK[banner.tone]
    line = "dashed" if banner.tone == "open" else "solid"
    look = f"background:{fill};color:{colour};border:2px {line} {edge}"
    return (
        f'<div class="verdict" style="{look}">{svg(drawings.draw_symbol(banner), hidden=True)}'
        f'<div><p class="word">{html_text(banner.title)}</p>'
        f"<p>{html_text(banner.line)}</p></div>"
        f'<p class="draft">{banner.status}</p></div>'
    )


def _entry(entry: blocks.Entry, place: _Place) -> str:
    marks, key = " ".join(map(_slug, entry.marks)), html_text(entry.key, 40)
    return (
        f'<section class="entry" data-marks="{marks}" aria-labelledby="{key}">\n'
        f'<h{place.level} id="{key}">{html_text(entry.title, 200)}</h{place.level}>\n'
        f"{_inside(entry.content, place.below())}\n</section>"
    )


def _slug(mark: str) -> str:
    return re.sub(r"[^a-z]+", "-", mark.lower()).strip("-")


def _controls(entries: Sequence[blocks.Entry]) -> str:
    """Return what chooses entries and toggles boxes; a script shows it, without one all is seen."""
    counts: dict[str, int] = {"all": len(entries)}
    for entry in entries:
        for mark in entry.marks:
            counts[mark] = counts.get(mark, 0) + 1
    choices = "".join(
        f'<label><input type="radio" name="kind" value="{_slug(mark)}"'
        f"{' checked' if mark == 'all' else ''}> {html_text(mark, 40)} ({count})</label>"
        for mark, count in counts.items()
    )
    noun = html_text(f"{entries[0].noun}s", 40)
    return (
        f'<div class="controls" id="controls" data-word="{noun}" hidden>\n'
        f"<fieldset><legend>Show {noun}</legend>{choices}</fieldset>\n"
        '<button type="button" class="plain" data-boxes aria-pressed="true">Region boxes</button>\n'
        '<p role="status" id="shown"></p>\n</div>'
    )


def _table(block: blocks.Table, place: _Place) -> str:
    head = ""
    if block.headed:
        cells = "".join(_head(column) for column in block.columns)
        head = f"<thead><tr>{cells}</tr></thead>\n"
    rows = block.rows or ((DASH, *[""] * (len(block.columns) - 1)),)
    body = "\n".join(
        "<tr>"
        + "".join(
            _thumbnail(value, place)
            if isinstance(value, blocks.Thumbnail)
            else _cell(value, block.columns[at], block.limit, first=at == 0)
            for at, value in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    widths = column_widths(block)
    shares = "".join(f'<col style="width:{100 * one / WIDTH:.2f}%">' for one in widths)
    note = f'\n<p class="muted">{html_text(block.note)}</p>' if block.note else ""
    caption = html_text(block.caption, 200)
    unseen = "" if block.titled else ' class="unseen"'
    headed = ' class="headed"' if block.headed else ""
    # The table scrolls by itself on a narrow screen, and by keyboard.
    return (
        f'<div class="wide" role="group" aria-label="{caption}" tabindex="0"><table{headed}>'
        f"<caption{unseen}>{caption}</caption>\n<colgroup>{shares}</colgroup>\n{head}<tbody>\n"
        f"{body}\n</tbody></table></div>{note}"
    )


def _head(column: blocks.Column) -> str:
    if isinstance(column.head, blocks.Scale):
        return f'<th scope="col" class="dots">{svg(drawings.draw_scale(column.head, _DOTS))}</th>'
    if not column.head:
        return "<td></td>"
    side = ' class="right"' if column.kind == "number" else ""
    return f'<th scope="col"{side}>{html_text(column.head, 120)}</th>'


def _thumbnail(cell: blocks.Thumbnail, place: _Place) -> str:
    figure = blocks.Figure(cell.picture, cell.alt, ())
    return f'<td class="thumb">{_figure(figure, place)}</td>'


def _cell(value: blocks.Words, column: blocks.Column, limit: int, *, first: bool) -> str:
    look = {"number": "right", "code": "mono"}.get(column.kind, "")
    if first and column.kind in ("number", "status"):
        look = f"{look} slim".strip()
    match value:
        case blocks.Dots():
            # The numbers stand in the same row: nothing to read out twice.
            height = 6.5 * len(value.dots) + 1.0
            content, look = svg(drawings.draw_dots(value, _DOTS, height), hidden=True), "dots"
        case blocks.Scale():
            content = svg(drawings.draw_scale(value, _DOTS))
        case blocks.Lines(lines, strong, indented):
            texts = [_wrapping(line, limit) for line in lines]
            texts[:1] = [f"<strong>{one}</strong>" if strong else one for one in texts[:1]]
            content, look = "<br>".join(texts), "inner" if indented else look
        case blocks.Reference():
            content, look = _link(value), "link"
        case str():
            content = html_text(value, limit) if column.kind == "code" else _wrapping(value, limit)
    of = f' class="{look}"' if look else ""
    if first and content:
        return f'<th scope="row"{of}>{content}</th>'
    return f"<td{of}{_named(column)}>{content}</td>"


def _named(column: blocks.Column) -> str:
    """Return the head of a column as an attribute, which stands before a cell on a phone."""
    head = column.head if isinstance(column.head, str) else ""
    return f' data-head="{html_text(head, 120)}"' if head else ""


def _figures(block: blocks.FigureGrid, place: _Place) -> str:
    figures = "\n".join(_figure(figure, place) for figure in block.figures)
    note = f'\n<p class="muted">{html_text(block.note)}</p>' if block.note else ""
    kind = "films" if block.kind == "film" else block.kind
    return f'<div class="shots {kind}">\n{figures}\n</div>{note}'


def _figure(figure: blocks.Figure, place: _Place) -> str:
    """Return a picture that a script lets open; its boxes lie over it and scale."""
    picture, film = figure.picture, place.films[figure.picture]
    boxes = overlay(picture, film.width, film.height)
    lines = "<br>".join(html_text(line, 160) for line in figure.lines)
    caption = f"<figcaption>{lines}</figcaption>" if lines else ""
    edge, look = figure.picture.edge, "film"
    letter = ""
    if edge:  # beside the film; who cannot see it has its words
        letter, look = f'<span class="edge" aria-hidden="true">{edge}</span>', "film sided"
    return (
        '<figure class="shot">'
        f'<button type="button" class="{look}" aria-haspopup="dialog" disabled '
        f'style="--ratio:{film.width / film.height:.3f}">'
        f'<img src="{film.address}" width="{film.width}" height="{film.height}" decoding="async" '
        f'alt="{html_text(figure.alt, 300)}">{boxes}{letter}'
        "</button>"
        f"{caption}</figure>"
    )


def _panels(block: blocks.CurvePanels, place: _Place) -> str:
    shown = "\n".join(
        f"<figure><figcaption>{html_text(title, 60)}</figcaption>"
        f"{svg(drawings.draw_curve(curve, _PANEL))}</figure>"
        for title, curve in block.panels
    )
    return (
        f'{_section(block.caption, place)}\n<div class="panels">\n{shown}\n</div>\n'
        f'<p class="muted">{html_text(block.note)}</p>'
    )


def _sign_off(block: blocks.SignOff, place: _Place) -> str:
    """Return cells to write in on paper: no field that would keep nothing of what is typed."""
    head = "".join(f'<th scope="col">{name}</th>' for name in block.heads)
    rows = "".join(
        f'<tr><th scope="row">{html_text(role, 80)}</th>{"<td></td>" * (len(block.heads) - 1)}</tr>'
        for role in block.roles
    )
    table = (
        '<table class="signatures"><caption>Signatures</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )
    if block.short:
        return table
    choices = "".join(f'<th scope="col">{html_text(one, 60)}</th>' for one in block.choices)
    boxes = '<td><span class="box"></span></td>' * len(block.choices)
    decided = "".join(
        f'<tr><th scope="row">{html_text(role, 80)}</th>{boxes}</tr>' for role in block.roles
    )
    chosen = (
        f'<table class="signatures"><caption>{blocks.CHOICES}</caption>'
        f"<thead><tr><td></td>{choices}</tr></thead><tbody>{decided}</tbody></table>\n"
    )
    return (
        f"{chosen if block.choices else ''}"
        f'{_section(blocks.REMARKS, place)}\n<div class="remarks"></div>\n{table}'
    )


def _reproduction(tables: Mapping[str, Mapping[str, str]], config: str) -> str:
    shown = [_table(table, _Place()) for table in reproduction_tables(tables)]
    lines = escape(printable_block(config, 105, 600) or DASH)
    return "\n".join(
        [
            '<h2 class="chapter" id="reproducibility">Reproducibility</h2>',
            *shown,
            "<details><summary>Effective config</summary>\n"
            f'<pre tabindex="0" role="group" aria-label="Effective config">{lines}</pre></details>',
        ]
    )


_VIEWER = """\
<dialog id="viewer" aria-labelledby="viewer-name">
<div class="frame" id="viewer-frame"></div>
<p id="viewer-name"></p>
<div class="buttons">
<button type="button" class="plain" id="viewer-before">Previous</button>
<button type="button" class="plain" id="viewer-after">Next</button>
<button type="button" class="plain" data-boxes aria-pressed="true">Region boxes</button>
<button type="button" class="plain" id="viewer-close">Close</button>
</div>
</dialog>"""


def resource(name: str) -> str:
    """Return a file of this package as text."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def content_policy(script: str = "report.js", connect: str = "'none'") -> str:
    """Return the Content-Security-Policy of a page: it runs nothing but this script."""
    digest = base64.b64encode(hashlib.sha256(resource(script).encode()).digest()).decode()
    asks = "" if connect == "'none'" else f"connect-src {connect}; "
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"{asks}script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def draw_html(content: Sequence[blocks.Block], run: str, title: str, *, still: bool = False) -> str:
    """Return blocks as a page to read in: films open large, boxes toggle, entries are chosen.

    A page that stands still has no script, no picture and no contents. The foot names the run.
    """
    body, policy, end = body_of(content), "", ""
    if still:
        body = f"<main>\n{body}\n</main>"
    else:
        body = (
            '<a class="skip" href="#main">Skip to the report</a>\n'
            '<nav class="contents" aria-label="Contents"><details open><summary>Contents</summary>'
            f'{contents_of(content)}<p class="muted">For paper, print report.pdf.</p></details>'
            "</nav>\n"
            f'<main id="main" tabindex="-1">\n{body}\n</main>'
        )
        policy = f'<meta http-equiv="Content-Security-Policy" content="{content_policy()}">\n'
        end = f"{_VIEWER}\n<script>{resource('report.js')}</script>\n"
    foot = " · ".join(part for part in (html_text(run, 80), blocks.status_of(content)) if part)
    version = html_text(__version__, 20)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{policy}<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="RaVL-Med {version}">
<title>{html_text(title, 200)}</title>
<style>
{resource("report.css")}</style>
</head>
<body>
{body}
<footer>{foot} · RaVL-Med {version}</footer>
{end}</body>
</html>
"""
