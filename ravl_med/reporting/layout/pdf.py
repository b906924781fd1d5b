"""A report on paper: what a radiologist and a regulator read."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence

from reportlab import platypus
from reportlab.platypus import CondPageBreak, Flowable, PageBreak, TableStyle

from ravl_med import __version__
from ravl_med.reporting.layout import blocks, pdf_style
from ravl_med.reporting.layout.columns import PADDING, column_widths
from ravl_med.reporting.layout.drawings import draw_curve, draw_dots, draw_flow, draw_scale
from ravl_med.reporting.layout.map_drawing import draw_clusters
from ravl_med.reporting.layout.pdf_shapes import (
    BannerFlowable,
    ChoiceFlowable,
    DrawingFlowable,
    FieldFlowable,
    FilmFlowable,
    SignatureFlowable,
)
from ravl_med.reporting.layout.pdf_style import WIDTH, Document, Heading, Imprint, gap, paragraph
from ravl_med.reporting.tables import reproduction_tables
from ravl_med.reporting.wording import DASH, printable

_ONE_PAGE = 14  # rows; a longer table splits over pages
_FEW = 3  # rows
_TABLE_START, _ENOUGH = 110.0, 80.0  # that a heading wants below it: of a table, of anything
_PAGE = pdf_style.HEIGHT - 1.0
_A_ROW, _PANELS_A_ROW = {"large": 2, "film": 4, "region": 5}, 3
_HEIGHTS = {"large": (160.0, 104.0), "film": (88.0, 84.0), "region": (60.0, 36.0)}  # and compact
_LINES = {"large": 1.4, "film": 1.1, "region": 0.8}  # weight of the boxes
_THUMBNAIL = 34.0
_BESIDE, _BESIDE_SHARE = 140.0, 0.3  # of a figure beside text: height, share of the width
_DOT_HEIGHTS = {1: (10.0, 13.0), 2: (13.5, 15.0)}  # by number of dots: dense, with more air
_CONFIG = "config.yaml"
_ATTACHED = f"The effective config is attached to this file as {_CONFIG}."
_SIGNED = (0.23, 0.21, 0.21, 0.13, 0.22)  # of the width: who, name, role, date, signature
_SIGNED_SHORT = (0.28, 0.28, 0.14, 0.3)
_FIELDS = (("name", "Name"), ("role", "Role and institution"), ("date", "Date, as YYYY-MM-DD"))
_FIELD, _REMARKS, _RADIO = 30.0, 84.0, 11.0

Pages = Mapping[str, int]
"""Page of each heading by its key; empty on the first pass."""


def flowables(
    content: Iterable[blocks.Block], pages: Pages, *, breaks: bool = True
) -> list[Flowable]:
    """Return blocks as what the PDF library sets; without breaks all of them stay together."""
    parts = [(block, _set(block, pages)) for block in content]
    placed: list[Flowable] = []
    before: blocks.Block | None = None
    for at, (block, made) in enumerate(parts):
        if (
            isinstance(block, blocks.Section)
            and isinstance(before, blocks.Table)
            and not before.titled
        ):
            placed = placed if before.note else placed[:-1]  # a heading has space of its own
        if breaks and isinstance(block, (blocks.Chapter, blocks.Section)):
            placed += _break(block, made, parts[at + 1 :])
        placed += made
        before = block
    return placed


def _break(
    block: blocks.Chapter | blocks.Section,
    made: list[Flowable],
    after: Sequence[tuple[blocks.Block, list[Flowable]]],
) -> list[Flowable]:
    """Return what begins a page before a heading where its start would not fit on this one."""
    leave = [pdf_style.LeavePageOne()] if isinstance(block, blocks.Chapter) else []
    start = block.start if isinstance(block, blocks.Chapter) else "flow"
    if start == "page":
        return [*leave, PageBreak()]
    room = _height(made) + _start_height([one for _, placed in after for one in placed])
    if start == "whole":
        whole = list(made)
        for following, placed in after:
            if isinstance(following, (blocks.Chapter, blocks.Entry, blocks.Reproduction)):
                break
            whole += placed
        height = _height(whole)
        room = height if height <= _PAGE else room
    return [*leave, CondPageBreak(room)]


def _height(placed: Iterable[Flowable]) -> float:
    """Return how high flowables are, one below the other, in points."""
    height = 0.0
    for one in placed:
        if isinstance(one, platypus.KeepTogether):
            height += _height(one._content)  # type: ignore[attr-defined]  # no public way to it
        else:
            height += one.wrap(WIDTH, 10 * _PAGE)[1] + one.getSpaceBefore() + one.getSpaceAfter()
    return height


def _start_height(placed: Iterable[Flowable]) -> float:
    """Return how high the start of flowables is: their words, as far as the rows of a table."""
    height = 0.0
    for one in placed:
        if isinstance(one, PageBreak) or height > _ENOUGH:
            break
        if isinstance(one, platypus.Table):
            whole, start = _height([one]), _TABLE_START
            while start < whole and not one.split(WIDTH, start):  # a row of films is high
                start += 10.0
            return height + min(whole, start)
        height += _height([one])
        if isinstance(one, platypus.KeepTogether):
            break
    return height


def _set(block: blocks.Block, pages: Pages) -> list[Flowable]:  # noqa: C901 - a case a block
    match block:
        case blocks.Title(text, below):
            heading = Heading(text, "verdict", style="title", limit=120)
            return [heading, paragraph(below, "muted", 300), gap(4)]
        case blocks.Banner():
            return [BannerFlowable(block), gap(7)]
        case blocks.Chapter(title, key):
            return [Heading(title, key)]
        case blocks.Section(title):
            return [paragraph(title, "h2", 200)]
        case blocks.Text():
            return [_paragraph(block, pages)]
        case blocks.Items(items, limit):
            return [paragraph(text, "item", limit) for text in items]
        case blocks.Table():
            return _table(block, pages)
        case blocks.FigureGrid():
            return _figures(block)
        case blocks.SideBySide():
            return [_beside(block, pages)]
        case blocks.KeepTogether(content):
            return [platypus.KeepTogether(flowables(content, pages, breaks=False))]
        case blocks.Entry(title, key, _, _, content):
            return [PageBreak(), Heading(title, key, 1), *flowables(content, pages)]
        case blocks.CurvePanels(caption):
            return [CondPageBreak(180), paragraph(caption, "h2"), *_panels(block)]
        case blocks.Flow(caption):
            return [_drawn(caption, DrawingFlowable(draw_flow(block)))]
        case blocks.ClusterPlot(caption):
            note = [gap(3), paragraph(block.note, "muted"), gap(3)]
            return [_drawn(caption, DrawingFlowable(draw_clusters(block, WIDTH)), *note)]
        case blocks.SignOff():
            return [_sign_off(block)]
        case blocks.Reproduction(tables):
            return _reproduction(tables, pages)


def _paragraph(block: blocks.Text, pages: Pages) -> Flowable:
    text, page = block.text, pages.get(block.see.key) if block.see else None
    if page:
        text = f"{text.removesuffix('.')} (page {page})."
    return paragraph(text, block.role, block.limit)


def _drawn(caption: str, *drawn: Flowable) -> Flowable:
    return platypus.KeepTogether([paragraph(caption, "h2"), gap(2), *drawn])


def _table(block: blocks.Table, pages: Pages) -> list[Flowable]:
    made = _ruled(block, pages)
    note = [gap(2.5), paragraph(block.note, "muted")] if block.note else [gap(4)]
    if not block.titled:
        return [made, *note]
    caption = paragraph(block.caption, "h2")
    if len(block.rows) <= _ONE_PAGE:
        return [platypus.KeepTogether([caption, made, *note])]
    return [CondPageBreak(150), caption, made, *note]


def _ruled(block: blocks.Table, pages: Pages) -> platypus.Table:
    widths = column_widths(block)
    rows: list[Sequence[pdf_style.Cell]] = [
        [_cell(value, width, block, pages) for value, width in zip(row, widths, strict=True)]
        for row in block.rows
    ]
    if block.headed:
        rows.insert(0, [_head(c, width) for c, width in zip(block.columns, widths, strict=True)])
    made = pdf_style.table(
        rows or [[DASH, *[""] * (len(widths) - 1)]],
        widths,
        right=[at for at, column in enumerate(block.columns) if column.kind == "number"],
        mono=[at for at, column in enumerate(block.columns) if column.kind == "code"],
        header=block.headed,
        limit=block.limit,
        dense=block.dense,
    )
    joined = [row + block.headed for row in block.joined]
    if len(block.rows) > _FEW:  # no row stands alone on the last page
        joined.append(len(block.rows) - 2 + block.headed)
    made.setStyle(TableStyle([("NOSPLIT", (0, row), (-1, row + 1)) for row in joined]))
    return made


def _head(column: blocks.Column, width: float) -> pdf_style.Cell:
    if isinstance(column.head, blocks.Scale):
        return DrawingFlowable(draw_scale(column.head, width - PADDING))
    return column.head


def _cell(value: blocks.Cell, width: float, table: blocks.Table, pages: Pages) -> pdf_style.Cell:
    match value:
        case blocks.Dots(dots):
            height = _DOT_HEIGHTS[min(len(dots), 2)][not table.dense]
            return DrawingFlowable(draw_dots(value, width - PADDING, height))
        case blocks.Lines(lines, strong, indented):
            plain = "cell_indented" if indented else "cell"
            return [
                paragraph(text, "cell_bold" if strong and at == 0 else plain, table.limit)
                for at, text in enumerate(lines)
            ]
        case blocks.Scale():
            return DrawingFlowable(draw_scale(value, width - PADDING))
        case blocks.Thumbnail(picture):
            return FilmFlowable(picture, width - PADDING, _THUMBNAIL, 0.7, value.alt)
        case blocks.Reference(key):
            return str(pages[key]) if key in pages else DASH
        case str():
            return value


def _figures(block: blocks.FigureGrid) -> list[Flowable]:
    if not block.figures:
        return []
    columns = _A_ROW[block.kind]
    width, height = WIDTH / columns - 6, _HEIGHTS[block.kind][block.compact]
    cells = [_figure(one, width, height, _LINES[block.kind]) for one in block.figures]
    note = paragraph(block.note, "caption") if block.note else None
    return [pdf_style.grid(cells, columns, note)]


def _figure(figure: blocks.Figure, width: float, height: float, line: float) -> list[Flowable]:
    lines = [paragraph(text, "caption", 160) for text in figure.lines]
    film = FilmFlowable(figure.picture, width, height, line, printable(figure.alt, 300))
    return [film, gap(1.5), *lines]


def _beside(block: blocks.SideBySide, pages: Pages) -> Flowable:
    # A heading at the top of a column has no space above it.
    left = [gap(9), *flowables(block.content, pages, breaks=False)]
    right = [gap(12), *_figure(block.figure, _BESIDE_SHARE * WIDTH, _BESIDE, 1.4)]
    return pdf_style.columns(left, right, 1 - _BESIDE_SHARE)


def _panels(block: blocks.CurvePanels) -> list[Flowable]:
    columns = min(_PANELS_A_ROW, max(len(block.panels), 2))
    width = WIDTH / columns - 6
    cells: list[list[Flowable]] = [
        [paragraph(title, "cell_bold", 60), DrawingFlowable(draw_curve(curve, width))]
        for title, curve in block.panels
    ]
    return [pdf_style.grid(cells, columns), paragraph(block.note, "muted")]


def _sign_off(block: blocks.SignOff) -> Flowable:
    """Return a row a role: blank in the short form, else with a field for all to be filled in."""
    widths = [share * WIDTH for share in (_SIGNED_SHORT if block.short else _SIGNED)]
    rows: list[list[pdf_style.Cell]] = [list(block.heads)]
    if block.short:
        rows += [[role, gap(17), "", ""] for role in block.roles]
        return platypus.KeepTogether([gap(6), pdf_style.table(rows, widths, dense=True), gap(5)])
    for role in block.roles:
        slug, name = _slug(role), printable(role, 60)
        fields = [
            FieldFlowable(f"{slug}_{key}", f"{label}: {name}", width - 6, _FIELD)
            for (key, label), width in zip(_FIELDS, widths[1:], strict=False)
        ]
        signature: pdf_style.Cell = [gap(_FIELD - 8), paragraph("external signature", "note")]
        if block.signable:
            signature = SignatureFlowable(
                f"{slug}_signature", f"Signature: {name}", widths[-1] - 8, _FIELD
            )
        rows.append([role, *fields, signature])
    remarks = FieldFlowable(
        "remarks",
        "Conditions, and remarks of those who sign",
        WIDTH,
        _REMARKS,
        limit=2000,
        lines=True,
    )
    parts: list[tuple[str, Flowable]] = [
        *([(blocks.CHOICES, _choices(block))] if block.choices else []),
        (blocks.REMARKS, remarks),
        ("Signatures", pdf_style.table(rows, widths)),
    ]
    return platypus.KeepTogether(
        [one for title, part in parts for one in (paragraph(title, "h2"), part)]
    )


def _choices(block: blocks.SignOff) -> platypus.Table:
    """Return a row a role, with a button for each choice, of which one can be taken."""
    first = _SIGNED[0]
    other = (1 - first) / max(len(block.choices), 1)
    widths = [first * WIDTH, *[other * WIDTH] * len(block.choices)]
    rows: list[list[pdf_style.Cell]] = [["", *block.choices]]
    for role in block.roles:
        name = f"{_slug(role)}_decision"
        rows.append(
            [
                role,
                *(
                    ChoiceFlowable(name, _slug(choice), f"Decision: {printable(role, 60)}", _RADIO)
                    for choice in block.choices
                ),
            ]
        )
    return pdf_style.table(rows, widths)


def _slug(text: str) -> str:
    return "_".join(printable(text, 40).lower().split())


def _reproduction(tables: Mapping[str, Mapping[str, str]], pages: Pages) -> list[Flowable]:
    heading = [CondPageBreak(200), Heading("Reproducibility", "reproducibility")]
    shown = [one for table in reproduction_tables(tables) for one in _table(table, pages)]
    return [*heading, *shown, paragraph(_ATTACHED, "muted")]


def draw_pdf(
    content: Sequence[blocks.Block],
    run: str,
    title: str,
    subject: str,
    properties: Mapping[str, str] | None = None,
    *,
    date: str | None = None,
) -> bytes:
    """Return blocks as a PDF with tags for screen readers; the same blocks give the same bytes.

    The footer names the run; title, subject, properties and date are entries of the metadata. The
    date is that of the run, such as 2026-11-25; another text is none.
    """

    def place(pages: dict[str, int]) -> list[Flowable]:
        return flowables(content, pages)

    status = blocks.status_of(content)
    configs = [block.config_yaml for block in content if isinstance(block, blocks.Reproduction)]
    attached = {_CONFIG: configs[0].encode()} if configs else {}
    imprint = Imprint(
        run, title, __version__, subject, status, properties or {}, attached, _day(date)
    )
    return Document.render(place, imprint)


def _day(text: str | None) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text or "")
    except ValueError:
        return None
