"""A report in a browser: one file that needs nothing else, for a screen, a phone or paper.

The same blocks as the PDF, so the same words and numbers; figures are SVG and films are data inside
of the file, nothing is fetched. What a reader can do there (open a film, toggle boxes, choose
correlations) is done by a short script, and the page tells the browser to run nothing else.

Figures and pictures inside HTML: inline SVG, and films as data in the page.

Blocks in a browser: the HTML of each of them.

Every text passes `printable` and is escaped here, whatever it is and wherever it comes from.

The script of an interactive report: films opened large, boxes toggled, entries chosen.

Without it the page shows everything; it only takes away and enlarges. It is named to the browser by
its digest, so that nothing else can run in the page.

How the HTML of a report looks: the palette of the PDF, for a screen, a phone and paper.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape

from PIL import Image

from ravl_med import __version__
from ravl_med.reporting.layout.blocks import (
    REMARKS,
    SIGN_OFF_HEADS,
    Banner,
    Block,
    Cell,
    Chapter,
    ClusterPlot,
    CurvePanels,
    Dots,
    Entry,
    FilmFigure,
    Flow,
    Items,
    KeptTogether,
    Lines,
    Pictures,
    Reference,
    Reproduction,
    Scale,
    Section,
    SideBySide,
    Signatures,
    SignOff,
    Sized,
    Table,
    Text,
    Title,
    sized,
    status_of,
)
from ravl_med.reporting.layout.figures import (
    BANNER_LOOK,
    Figure,
    Label,
    Linked,
    Mark,
    Path,
    banner_figure,
    curve_figure,
    dot_figure,
    flow_figure,
    scale_figure,
)
from ravl_med.reporting.layout.map_figures import cluster_figure
from ravl_med.reporting.pictures import Box, Picture
from ravl_med.reporting.wording import DASH, printable, printable_block

_BUDGET = 6_500_000  # bytes of all films of a page before they become text, which adds a third
_STEPS = ((768, 82), (640, 80), (512, 78), (400, 74), (300, 66), (220, 50), (150, 40), (90, 30))
_FLOW_WORDS = 2500  # of a flow or a map
_HALO, _BOX, _LOCATED = "#10161c", "#ffd84d", "#ffffff"


@dataclass(frozen=True, slots=True)
class Film:
    """A picture as it stands in a page: its address, which is all of it, and its size."""

    address: str
    width: int
    height: int


def films_of(pictures: Iterable[Picture], budget: int = _BUDGET) -> Mapping[Picture, Film]:
    """Return pictures as JPEG inside of addresses, as large as the budget of a page lets them be.

    Parameters
    ----------
    pictures : iterable of Picture - one that comes again is taken once
    budget : int - bytes of all of them together; at the smallest size it may be passed
    """
    distinct = list(dict.fromkeys(pictures))
    made: list[tuple[bytes, tuple[int, int]]] = []
    for side, quality in _STEPS:
        made = [_jpeg(picture, side, quality) for picture in distinct]
        if sum(len(content) for content, _ in made) <= budget:
            break
    return {
        picture: Film(f"data:image/jpeg;base64,{base64.b64encode(content).decode()}", *size)
        for picture, (content, size) in zip(distinct, made, strict=True)
    }


def _jpeg(picture: Picture, side: int, quality: int) -> tuple[bytes, tuple[int, int]]:
    """Return content and size of a picture whose long side is `side` at most."""
    image = Image.fromarray(picture.pixels if picture.large is None else picture.large)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue(), image.size


def overlay(picture: Picture, width: int, height: int) -> str:
    """Return the boxes of a picture as SVG that lies over it: light lines on dark halos."""

    def outline(box: Box, look: str) -> str:
        x0, y0, x1, y1 = box
        left, top = _length(x0 * width), _length(y0 * height)
        across, down = _length((x1 - x0) * width), _length((y1 - y0) * height)
        return f'<rect x="{left}" y="{top}" width="{across}" height="{down}" {look}/>'

    drawn = ""
    for boxes, colour, line, dash in (
        (picture.boxes, _BOX, 2.0, ""),
        (picture.located, _LOCATED, 1.6, ' stroke-dasharray="5 3"'),
    ):
        halo = f'stroke="{_HALO}" stroke-width="{_length(line + 2.4)}"'
        drawn += "".join(outline(box, halo) for box in boxes)
        look = f'stroke="{colour}" stroke-width="{_length(line)}"{dash}'
        drawn += "".join(outline(box, look) for box in boxes)
    size = f'viewBox="0 0 {width} {height}" preserveAspectRatio="none"'
    return f'<svg class="boxes" aria-hidden="true" {size}>{drawn}</svg>'


def svg(figure: Figure, *, hidden: bool = False, limit: int = 300) -> str:
    """Return a figure as inline SVG, whose origin is the upper left corner.

    Parameters
    ----------
    hidden : bool - what it shows stands beside it; else it is told in words
    limit : int - length of the words
    """
    # Who hears an image hears nothing of what is in it; links have to be heard.
    role = "group" if any(isinstance(shape, Linked) for shape in figure.shapes) else "img"
    label = f'role="{role}" aria-label="{escape(printable(figure.words, limit))}"'
    read = 'aria-hidden="true"' if hidden else label
    shapes = "".join(_shape(shape, figure.height) for shape in figure.shapes)
    width, height = _length(figure.width), _length(figure.height)
    return f'<svg {read} viewBox="0 0 {width} {height}" width="{width}pt">{shapes}</svg>'


def flow(block: Flow) -> str:
    """Return a flow as a figure with a caption; it scrolls by itself on a narrow screen."""
    caption = escape(printable(block.caption, 200))
    return (
        f'<figure class="flow"><figcaption>{caption}</figcaption>'
        f'<div class="wide" role="group" aria-label="{caption}" tabindex="0">'
        f"{svg(flow_figure(block), limit=_FLOW_WORDS)}</div></figure>"
    )


def plot(block: ClusterPlot) -> str:
    """Return a map as a figure with a caption and a note; it scrolls by itself."""
    caption = escape(printable(block.caption, 200))
    return (
        f'<figure class="flow map"><figcaption>{caption}</figcaption>'
        f'<div class="wide" role="group" aria-label="{caption}" tabindex="0">'
        f"{svg(cluster_figure(block), limit=_FLOW_WORDS)}</div>"
        f'<p class="muted">{escape(printable(block.note, 1500))}</p></figure>'
    )


def _shape(shape: Path | Mark | Label | Linked, height: float) -> str:
    match shape:
        case Linked(key, words, _, shapes):
            inner = "".join(_shape(one, height) for one in shapes)
            name = escape(printable(words, 200))
            return f'<a href="#{escape(printable(key, 40))}" aria-label="{name}">{inner}</a>'
        case Path(points, colour, weight, dash, closed, fill):
            kind = "polygon" if closed else "polyline"
            places = " ".join(f"{_length(x)},{_length(height - y)}" for x, y in points)
            dashes = f' stroke-dasharray="{" ".join(map(_length, dash))}"' if dash else ""
            return (
                f'<{kind} points="{places}" fill="{fill or "none"}" stroke="{colour}" '
                f'stroke-width="{_length(weight)}"{dashes}/>'
            )
        case Mark(x, y, radius, colour, fill, square, weight):
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
        case Label(x, y, text, anchor, colour, size, bold):
            weighty = ' font-weight="bold"' if bold else ""
            return (
                f'<text x="{_length(x)}" y="{_length(height - y)}" text-anchor="{anchor}" '
                f'fill="{colour}" font-size="{_length(size)}"{weighty}>{escape(text)}</text>'
            )


def _length(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


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
            case SideBySide(inner, shot):
                yield from (*_pictured(inner), shot.picture)
            case KeptTogether(inner) | Entry(_, _, _, _, inner):
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
        case SideBySide(blocks, shot):
            inner = _inside(blocks, place)
            return f'<div class="beside"><div>\n{inner}\n</div>\n{_shot(shot, place)}</div>'
        case KeptTogether(blocks):
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


def _shot(shot: FilmFigure, place: _Place) -> str:
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


VIEWER = """\
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

SCRIPT = """\
(() => {
"use strict";
const all = (query, from = document) => [...from.querySelectorAll(query)];
const by = (id) => document.getElementById(id);

// Region boxes: one state for the whole page.
const toggles = all("[data-boxes]");
for (const toggle of toggles) {
  toggle.addEventListener("click", () => {
    const bare = document.documentElement.classList.toggle("bare");
    for (const other of toggles) other.setAttribute("aria-pressed", String(!bare));
  });
}

// Entries by mark; "#kind=shortcut" in the address chooses too.
const controls = by("controls");
const entries = all(".entry");
const choices = all('input[name="kind"]');
function show(kind) {
  let shown = 0;
  for (const entry of entries) {
    entry.hidden = kind !== "all" && !entry.dataset.marks.split(" ").includes(kind);
    shown += entry.hidden ? 0 : 1;
  }
  by("shown").textContent = `${shown} of ${entries.length} ${controls.dataset.word} shown`;
}
function choose(kind) {
  const choice = choices.find((one) => one.value === kind);
  if (!choice) return;
  choice.checked = true;
  show(kind);
}
function follow() {
  const asked = /^#kind=([a-z-]+)$/.exec(location.hash);
  if (asked) {
    choose(asked[1]);
    return;
  }
  const target = by(location.hash.slice(1));
  if (target && target.closest(".entry[hidden]")) {
    choose("all");
    target.scrollIntoView();
  }
}
if (controls) {
  controls.hidden = false;
  for (const choice of choices) {
    choice.addEventListener("change", () => {
      show(choice.value);
      try { history.replaceState(null, "", `#kind=${choice.value}`); } catch { /* a local file */ }
    });
  }
  show("all");
  window.addEventListener("hashchange", follow);
  follow();
}

// Films opened large, in a dialog of the browser: Escape closes it, the focus goes back.
const viewer = by("viewer");
const films = all(".film");
let current = null;
function open(film) {
  current = film;
  const frame = by("viewer-frame");
  frame.replaceChildren(...[...film.children].map((part) => part.cloneNode(true)));
  frame.style.setProperty("--ratio", film.style.getPropertyValue("--ratio"));
  by("viewer-name").textContent = film.querySelector("img").alt;
  const alone = siblings().length < 2;
  by("viewer-before").hidden = alone;
  by("viewer-after").hidden = alone;
  if (!viewer.open) {
    viewer.showModal();
    by("viewer-close").focus();
  }
}
function siblings() {
  const group = current.closest(".shots");
  return group ? all(".film", group) : [current];
}
function step(places) {
  const group = siblings();
  open(group[(group.indexOf(current) + places + group.length) % group.length]);
}
if (viewer && viewer.showModal) {
  for (const film of films) {
    film.disabled = false;
    film.addEventListener("click", () => open(film));
  }
  by("viewer-before").addEventListener("click", () => step(-1));
  by("viewer-after").addEventListener("click", () => step(1));
  by("viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  viewer.addEventListener("close", () => { if (current) current.focus(); });
}

// A table that fits needs no stop of its own for the keyboard.
function fit() {
  for (const table of all(".wide")) {
    table.tabIndex = table.scrollWidth > table.clientWidth ? 0 : -1;
  }
}
window.addEventListener("resize", fit);
fit();
})();
"""

SCRIPT_DIGEST = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
"""SHA-256 of the script as a Content-Security-Policy names it."""


STYLE = """\
:root { --ink: #1b2733; --muted: #5a6772; --rule: #ccd4da; }
* { box-sizing: border-box; }
html { font-size: 15px; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; color: var(--ink); background: #ffffff;
  font: 1rem/1.55 "DejaVu Sans", Verdana, "Segoe UI", system-ui, sans-serif;
}
main, footer { max-width: 62rem; margin: 0 auto; padding: 1.2rem 1rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.4rem 0 0.2rem; }
.chapter, .entry > :first-child { font-size: 1.3rem; line-height: 1.3; margin: 2.6rem 0 0.5rem;
  padding-top: 1.2rem; border-top: 2px solid var(--ink); }
.section { font-size: 1rem; margin: 1.4rem 0 0.3rem; }
p { margin: 0.3rem 0 0.6rem; max-width: 48rem; }
ul { margin: 0.2rem 0 0.6rem; padding-left: 1.3rem; max-width: 48rem; }
p, li, h1, .chapter, .entry > :first-child, .section, caption, .mono { overflow-wrap: anywhere; }
.lead { font-size: 1.07rem; }
.muted, footer { color: var(--muted); font-size: 0.85rem; }
.verdict { display: flex; align-items: center; gap: 1rem; padding: 0.9rem 1.1rem;
  margin: 0.9rem 0; border-radius: 6px;
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }
.verdict p { margin: 0; }
.verdict svg { flex: none; }
.verdict .word { font-size: 1.7rem; font-weight: bold; line-height: 1.2; }
.verdict .draft { margin-left: auto; border: 1.5px solid currentColor; border-radius: 4px;
  padding: 0.1rem 0.6rem; font-weight: bold; white-space: nowrap; }
.wide { overflow-x: auto; margin: 1.2rem 0 0.3rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; line-height: 1.4; }
caption { text-align: left; font-weight: bold; font-size: 1rem; padding: 0.2rem 0; }
th, td { text-align: left; vertical-align: middle; padding: 0.28rem 0.7rem 0.28rem 0.15rem;
  border-bottom: 1px solid var(--rule); font-weight: normal; min-width: 3.2rem; }
tbody th { min-width: 8.5rem; }
tbody th.slim { min-width: 2.6rem; }
.link { white-space: nowrap; }
thead th, thead td { vertical-align: bottom; font-weight: bold; font-size: 0.8rem;
  color: var(--muted); border-bottom: 2px solid var(--ink); }
.right { text-align: right; font-variant-numeric: tabular-nums; }
.mono, pre { font-family: "DejaVu Sans Mono", Consolas, monospace; font-size: 0.8rem; }
td.mono { min-width: 8rem; }
.dots { min-width: 12rem; }
.dots svg { width: 12rem; }
pre { overflow-x: auto; padding: 0.7rem; background: #f4f6f8; border-radius: 4px; }
svg { display: block; max-width: 100%; height: auto; font-family: inherit;
  stroke-linecap: round; stroke-linejoin: round; }
.panels { display: flex; flex-wrap: wrap; gap: 1rem 1.2rem; }
.panels figure { flex: 0 0 19rem; max-width: 100%; margin: 0; }
.panels svg { width: 100%; }
figcaption { font-weight: bold; font-size: 0.88rem; }
.dots svg, .flow svg { overflow: visible; }
.flow { margin: 1.4rem 0 0; }
.flow .wide { margin: 0.5rem 0; }
.flow figcaption { font-size: 1rem; }
.flow svg { width: min(100%, 54rem); min-width: 44rem; max-width: none; }
.signatures { margin: 1.4rem 0 0.6rem; }
.signatures tbody td, .signatures tbody th { height: 2.6rem; }
#sign-off ~ .signatures { table-layout: fixed; overflow-wrap: anywhere; }
#sign-off ~ .signatures td + td, #sign-off ~ .signatures th + td {
  border-left: 1px solid var(--rule); }
.remarks { height: 7rem; border: 1px solid var(--rule); }
@media (max-width: 40rem) {
  tbody th { min-width: 5.5rem; }
  tbody th.slim { min-width: 2rem; }
  .verdict { flex-wrap: wrap; }
  .verdict .draft { margin-left: 0; }
}
@page { size: A4; margin: 16mm; }
@media print {
  html { font-size: 10.5px; }
  main, footer { max-width: none; padding: 0; }
  .chapter, .entry > :first-child { break-after: avoid; border-top: 0; }
  #delivered, #arms, #cohort, #performance, #method, #sign-off, .entry { break-before: page; }
  .section, caption { break-after: avoid; }
  tr, figure, .verdict, .signatures, .remarks { break-inside: avoid; }
  thead { display: table-header-group; }
  .wide { overflow: visible; }
  .flow svg { width: 100%; min-width: 0; }
  th, td { padding-right: 0.5rem; min-width: 0; }
  tbody th { min-width: 7rem; }
  tbody th.slim { min-width: 2rem; }
  pre { white-space: pre-wrap; background: none; padding: 0; }
}
"""

READING_STYLE = """\
[hidden] { display: none !important; }
a { color: #0b5fa5; }
:focus-visible { outline: 3px solid #0b5fa5; outline-offset: 2px; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }
.skip { position: absolute; left: 0.5rem; top: -4rem; padding: 0.5rem 0.8rem; z-index: 2;
  background: #ffffff; }
.skip:focus { top: 0.5rem; }
.contents { max-width: 62rem; margin: 0 auto; padding: 0.8rem 1rem 0; font-size: 0.88rem; }
.contents ol { margin: 0.3rem 0; padding-left: 1.3rem; }
.contents summary { display: inline-block; cursor: pointer; font-weight: bold; }
.contents a { display: inline-block; padding: 0.15rem 0; overflow-wrap: anywhere; }
.wide + p:not(.muted) { margin-top: 0.8rem; }
th.inner { padding-left: 0.9rem; }
.beside { display: grid; grid-template-columns: minmax(0, 1fr) 13rem; gap: 1.4rem;
  align-items: start; }
.shots { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr));
  gap: 0.9rem 0.7rem; align-items: end; margin: 0.5rem 0; }
.shot { margin: 0; text-align: center; }
.shot figcaption { font-weight: normal; font-size: 0.78rem; line-height: 1.35; color: var(--muted);
  margin-top: 0.25rem; overflow-wrap: anywhere; }
.film { display: block; position: relative; margin: 0 auto; padding: 0; border: 0; background: none;
  width: min(100%, calc(15rem * var(--ratio))); cursor: zoom-in; }
.film.sided { width: min(100% - 2.4rem, calc(15rem * var(--ratio))); }
.film:disabled { cursor: auto; }
.edge { position: absolute; right: calc(100% + 0.15rem); top: 50%; transform: translateY(-50%);
  width: 1rem; border-radius: 2px; background: #10161c; color: #ffffff;
  font: bold 0.72rem/1rem "DejaVu Sans", Verdana, sans-serif; text-align: center;
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }
.film img, .frame img { display: block; width: 100%; height: auto; }
.boxes { position: absolute; left: 0; top: 0; width: 100%; height: 100%; overflow: visible;
  pointer-events: none; }
.boxes rect { fill: none; vector-effect: non-scaling-stroke; }
.bare .boxes { display: none; }
.controls { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap;
  align-items: center; gap: 0.4rem 1.2rem; padding: 0.5rem 0; margin-top: 2rem;
  background: #ffffff; border-bottom: 1px solid var(--rule); font-size: 0.88rem; }
.controls fieldset { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; margin: 0; padding: 0;
  border: 0; }
.controls legend { float: left; padding: 0.2rem 0; margin-right: 1rem; font-weight: bold; }
.controls label { white-space: nowrap; padding: 0.2rem 0; }
.controls p { margin: 0; color: var(--muted); }
.entry > :first-child { scroll-margin-top: 5rem; }
button.plain { font: inherit; padding: 0.3rem 0.8rem; border: 1.5px solid var(--ink);
  border-radius: 4px; background: #ffffff; color: var(--ink); cursor: pointer; }
button[aria-pressed="true"] { background: var(--ink); color: #ffffff; }
button[aria-pressed="true"]::before { content: "✓ "; }
dialog { border: 0; border-radius: 6px; padding: 0.8rem 1.3rem; max-width: 97vw; max-height: 97vh;
  color: var(--ink); }
dialog::backdrop { background: rgb(16 22 28 / 85%); }
.frame { position: relative; width: min(92vw - 1rem, calc((97vh - 10rem) * var(--ratio)));
  margin: 0 auto 0.6rem; }
dialog p { max-width: 40rem; margin: 0.3rem auto; text-align: center; font-size: 0.88rem;
  overflow-wrap: anywhere; }
.buttons { display: flex; flex-wrap: wrap; gap: 0.5rem; justify-content: center; }
@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }
@media (prefers-reduced-motion: reduce) {
  * { animation: none !important; transition: none !important; }
}
@media (max-width: 52rem) { .shots { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
@media (max-width: 40rem) {
  .beside { grid-template-columns: minmax(0, 1fr); }
  .shots { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .controls { position: static; }
}
@media print {
  .skip, .contents, .controls, dialog { display: none !important; }
  .shots { grid-template-columns: repeat(5, 1fr); }
  .film { width: min(100%, calc(11rem * var(--ratio))); }
  .film.sided { width: min(100% - 2.4rem, calc(11rem * var(--ratio))); }
  .shot { break-inside: avoid; }
  a { color: inherit; text-decoration: none; }
}
"""


_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{SCRIPT_DIGEST}'; base-uri 'none'; form-action 'none'"
)


def draw_html(blocks: Sequence[Block], run: str, title: str) -> str:
    """Return blocks as a page that stands still: no script, no picture.

    Parameters
    ----------
    run, title : str - of the foot and of the window
    """
    foot = _foot(run, blocks)
    return _page(f"<main>\n{body_of(blocks)}\n</main>", foot, title, STYLE)


def draw_reading_html(blocks: Sequence[Block], run: str, title: str) -> str:
    """Return blocks as a page to read in: films open large, boxes toggle, entries are chosen.

    Parameters
    ----------
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
