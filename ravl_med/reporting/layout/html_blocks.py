"""Blocks in a browser: the HTML of each of them.

Every text passes `printable` and is escaped here, whatever it is and wherever it comes from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape

from ravl_med.reporting.layout.blocks import (
    REMARKS,
    SIGN_OFF_HEADS,
    Banner,
    Beside,
    Block,
    Cell,
    Chapter,
    ClusterPlot,
    CurvePanels,
    Dots,
    Entry,
    Flow,
    Items,
    Kept,
    Lines,
    Pictures,
    Reference,
    Reproduction,
    Scale,
    Section,
    Shot,
    Signatures,
    SignOff,
    Sized,
    Table,
    Text,
    Title,
    sized,
)
from ravl_med.reporting.layout.figure_shapes import (
    BANNER_LOOK,
    banner_figure,
    dot_figure,
    scale_figure,
)
from ravl_med.reporting.layout.html_figures import Film, films_of, flow, overlay, plot, svg
from ravl_med.reporting.layout.learning_curves import curve_figure
from ravl_med.reporting.pictures import Picture
from ravl_med.reporting.wording import DASH, printable, printable_block

__all__ = ["body_of", "contents_of", "text"]

_DOTS = 100.0  # points of the drawing; the page scales it
_PANEL = 160.0
_UNBROKEN = 32  # characters of a word in a cell
_SLIM = 0.1  # share of the width; a first column with less holds numbers, no names


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a block stands: the level of a heading there, and the films of the page."""

    level: int = 2
    films: Mapping[Picture, Film] = field(default_factory=dict)

    def below(self) -> _Place:
        return replace(self, level=self.level + 1)


def text(raw: str, limit: int = 1500) -> str:
    """Return text as it may stand in an element or an attribute."""
    return escape(printable(raw, limit))


def _wrapping(raw: str, limit: int) -> str:
    """Return text of a cell; what has no room for a line break for long gets some."""
    words = printable(raw, limit).split(" ")
    return " ".join(
        "<wbr>".join(escape(word[at : at + _UNBROKEN]) for at in range(0, len(word), _UNBROKEN))
        for word in words
    )


def body_of(blocks: Sequence[Block]) -> str:
    """Return blocks as the content of a page; headings go down step by step."""
    return "\n".join(_elements(blocks, _Place(films=films_of(_pictured(blocks)))))


def contents_of(blocks: Iterable[Block]) -> str:
    """Return links to the chapters and entries of a page."""
    links = []
    for block in blocks:
        match block:
            case Chapter(title, key) | Entry(title, key):
                links.append(f'<li><a href="#{text(key, 40)}">{text(title, 200)}</a></li>')
            case Reproduction():
                links.append('<li><a href="#reproducibility">Reproducibility</a></li>')
            case _:
                continue
    return f"<ol>{''.join(links)}</ol>"


def _pictured(blocks: Iterable[Block]) -> Iterator[Picture]:
    for block in blocks:
        match block:
            case Pictures(shots):
                yield from (shot.picture for shot in shots)
            case Beside(inner, shot):
                yield from (*_pictured(inner), shot.picture)
            case Kept(inner) | Entry(_, _, _, _, inner):
                yield from _pictured(inner)
            case _:
                continue


def _elements(blocks: Iterable[Block], place: _Place) -> Iterator[str]:
    """Give the HTML of blocks; what follows the head of a chapter stands below it."""
    blocks = list(blocks)
    entries = [block for block in blocks if isinstance(block, Entry)]
    for block in blocks:
        if entries and block is entries[0]:
            yield _controls(entries)
        yield _element(block, place)
        if isinstance(block, Chapter):
            place = replace(place, level=3)


def _inside(blocks: Iterable[Block], place: _Place) -> str:
    return "\n".join(_elements(blocks, place))


def _element(block: Block, place: _Place) -> str:
    """Return a block as HTML."""
    match block:
        case Title(title, below):
            return f'<h1>{text(title, 120)}</h1>\n<p class="muted">{text(below, 300)}</p>'
        case Banner():
            return _banner(block)
        case Chapter(title, key):
            return f'<h2 class="chapter" id="{text(key, 40)}">{text(title, 200)}</h2>'
        case Section(title):
            return _section(title, place)
        case Text():
            return f'<p class="{block.role}">{_sentence(block)}</p>'
        case Items(items, limit):
            return "<ul>" + "".join(f"<li>{text(i, limit)}</li>" for i in items) + "</ul>"
        case Table():
            return _table(block)
        case Pictures():
            return _pictures(block, place)
        case Beside(blocks, shot):
            inner = _inside(blocks, place)
            return f'<div class="beside"><div>\n{inner}\n</div>\n{_shot(shot, place)}</div>'
        case Kept(blocks):
            return _inside(blocks, place)
        case Entry():
            return _entry(block, place)
        case CurvePanels():
            return _panels(block, place)
        case Flow():
            return flow(block)
        case ClusterPlot():
            return plot(block)
        case Signatures(roles):
            return _signatures(
                "Signatures", ("To be signed by", "Name", "Date", "Signature"), roles
            )
        case SignOff(roles, _):
            return _sign_off(roles, place)
        case Reproduction(tables, config):
            return _reproduction(tables, config)


def _section(title: str, place: _Place) -> str:
    return f'<h{place.level} class="section">{text(title, 200)}</h{place.level}>'


def _sentence(block: Text) -> str:
    told = text(block.text, block.limit)
    if block.see is None:
        return told
    return f"{told.removesuffix('.')} ({_link(block.see)})."


def _link(to: Reference) -> str:
    return f'<a href="#{text(to.key, 40)}">{text(to.name, 60)}</a>'


def _banner(banner: Banner) -> str:
    fill, colour, edge = BANNER_LOOK[banner.tone]
    line = "dashed" if banner.tone == "open" else "solid"
    look = f"background:{fill};color:{colour};border:2px {line} {edge}"
    return (
        f'<div class="verdict" style="{look}">{svg(banner_figure(banner), hidden=True)}'
        f'<div><p class="word">{text(banner.word)}</p>'
        f"<p>{text(banner.line)}</p></div>"
        f'<p class="draft">{banner.status}</p></div>'
    )


def _entry(entry: Entry, place: _Place) -> str:
    marks, key = " ".join(map(_slug, entry.marks)), text(entry.key, 40)
    return (
        f'<section class="entry" data-marks="{marks}" aria-labelledby="{key}">\n'
        f'<h{place.level} id="{key}">{text(entry.title, 200)}</h{place.level}>\n'
        f"{_inside(entry.blocks, place.below())}\n</section>"
    )


def _slug(mark: str) -> str:
    return re.sub(r"[^a-z]+", "-", mark.lower()).strip("-")


def _controls(entries: Sequence[Entry]) -> str:
    """Return what chooses entries and toggles boxes; a script shows it, without one all is seen."""
    counts: dict[str, int] = {"all": len(entries)}
    for entry in entries:
        for mark in entry.marks:
            counts[mark] = counts.get(mark, 0) + 1
    choices = "".join(
        f'<label><input type="radio" name="kind" value="{_slug(mark)}"'
        f"{' checked' if mark == 'all' else ''}> {text(mark, 40)} ({count})</label>"
        for mark, count in counts.items()
    )
    word = text(f"{entries[0].word}s", 40)
    return (
        f'<div class="controls" id="controls" data-word="{word}" hidden>\n'
        f"<fieldset><legend>Show {word}</legend>{choices}</fieldset>\n"
        '<button type="button" class="plain" data-boxes aria-pressed="true">Region boxes</button>\n'
        '<p role="status" id="shown"></p>\n</div>'
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
    shares = "".join(f'<col style="width:{100 * c.share:.2f}%">' for c in block.columns)
    note = f'\n<p class="muted">{text(block.note)}</p>' if block.note else ""
    caption = text(block.caption, 200)
    unseen = "" if block.titled else ' class="unseen"'
    # The table scrolls by itself on a narrow screen, and by keyboard.
    return (
        f'<div class="wide" role="group" aria-label="{caption}" tabindex="0"><table>'
        f"<caption{unseen}>{caption}</caption>\n<colgroup>{shares}</colgroup>\n{head}<tbody>\n"
        f"{body}\n</tbody></table></div>{note}"
    )


def _head(column: Sized) -> str:
    if isinstance(column.head, Scale):
        return f'<th scope="col" class="dots">{svg(scale_figure(column.head, _DOTS))}</th>'
    if not column.head:
        return "<td></td>"
    side = ' class="right"' if column.right else ""
    return f'<th scope="col"{side}>{text(column.head, 120)}</th>'


def _cell(value: Cell, column: Sized, limit: int, *, first: bool) -> str:
    look = "right" if column.right else "mono" if column.mono else ""
    if first and column.share < _SLIM:
        look = f"{look} slim".strip()
    match value:
        case Dots():
            # The numbers stand in the same row: nothing to read out twice.
            content, look = svg(dot_figure(value, _DOTS), hidden=True), "dots"
        case Scale():
            content = svg(scale_figure(value, _DOTS))
        case Lines(lines, strong, inner):
            texts = [_wrapping(line, limit) for line in lines]
            texts[:1] = [f"<strong>{told}</strong>" if strong else told for told in texts[:1]]
            content, look = "<br>".join(texts), "inner" if inner else look
        case Reference():
            content, look = _link(value), "link"
        case str():
            content = text(value, limit) if column.mono else _wrapping(value, limit)
    of = f' class="{look}"' if look else ""
    return f'<th scope="row"{of}>{content}</th>' if first and content else f"<td{of}>{content}</td>"


def _pictures(block: Pictures, place: _Place) -> str:
    shots = "\n".join(_shot(shot, place) for shot in block.shots)
    note = f'\n<p class="muted">{text(block.note)}</p>' if block.note else ""
    return f'<div class="shots">\n{shots}\n</div>{note}'


def _shot(shot: Shot, place: _Place) -> str:
    """Return a picture that a script lets open; its boxes lie over it and scale."""
    film = place.films[shot.picture]
    caption = "<br>".join(text(line, 160) for line in shot.lines)
    edge, look = shot.picture.edge, "film"
    letter = ""
    if edge:  # beside the film; who cannot see it has its words
        letter, look = f'<span class="edge" aria-hidden="true">{edge}</span>', "film sided"
    return (
        '<figure class="shot">'
        f'<button type="button" class="{look}" aria-haspopup="dialog" disabled '
        f'style="--ratio:{film.width / film.height:.3f}">'
        f'<img src="{film.address}" width="{film.width}" height="{film.height}" decoding="async" '
        f'alt="{text(shot.alt, 300)}">{overlay(shot.picture, film.width, film.height)}{letter}'
        "</button>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _panels(block: CurvePanels, place: _Place) -> str:
    shown = "\n".join(
        f"<figure><figcaption>{text(title, 60)}</figcaption>"
        f"{svg(curve_figure(curve, _PANEL))}</figure>"
        for title, curve in block.panels
    )
    return (
        f'{_section(block.caption, place)}\n<div class="panels">\n{shown}\n</div>\n'
        f'<p class="muted">{text(block.note)}</p>'
    )


def _signatures(caption: str, heads: Sequence[str], roles: tuple[str, ...]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rows = "".join(
        f'<tr><th scope="row">{text(role, 80)}</th>{"<td></td>" * (len(heads) - 1)}</tr>'
        for role in roles
    )
    return (
        f'<table class="signatures"><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _sign_off(roles: tuple[str, ...], place: _Place) -> str:
    """Return cells to write in on paper: no field that would keep nothing of what is typed."""
    table = _signatures("Signatures", SIGN_OFF_HEADS, roles)
    return f'{table}\n{_section(REMARKS, place)}\n<div class="remarks"></div>'


def _reproduction(tables: Mapping[str, Mapping[str, str]], config: str) -> str:
    shown = [
        _table(
            Table(
                caption=title,
                columns=sized(("", ""), (130, 0), mono=(1,)),
                rows=tuple(
                    (printable(name, 60), printable(value, 140)) for name, value in entries.items()
                ),
                headed=False,
            )
        )
        for title, entries in tables.items()
    ]
    told = escape(printable_block(config, 105, 600) or DASH)
    return "\n".join(
        [
            '<h2 class="chapter" id="reproducibility">Reproducibility</h2>',
            *shown,
            f'<h3 class="section">Effective config</h3>\n'
            f'<pre tabindex="0" role="group" aria-label="Effective config">{told}</pre>',
        ]
    )
