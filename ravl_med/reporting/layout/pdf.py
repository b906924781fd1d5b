"""A report on paper: what a radiologist and a regulator read.

Blocks on paper: what the PDF library sets for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reportlab.platypus import CondPageBreak, Flowable, KeepTogether, PageBreak, TableStyle
from reportlab.platypus import Table as Ruled

from ravl_med import __version__
from ravl_med.reporting.layout import pdf_style as style
from ravl_med.reporting.layout.blocks import (
    NEW_PAGE,
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
    status_of,
)
from ravl_med.reporting.layout.figures import curve_figure, dot_figure, flow_figure, scale_figure
from ravl_med.reporting.layout.map_figures import cluster_figure
from ravl_med.reporting.layout.pdf_shapes import (
    BannerFlowable,
    FieldFlowable,
    FigureFlowable,
    FilmFlowable,
    SignatureFlowable,
)
from ravl_med.reporting.layout.pdf_style import WIDTH, Document, Heading, Imprint, gap, paragraph
from ravl_med.reporting.wording import DASH, printable, printable_block

_KEPT_TOGETHER = 14  # rows; a longer table splits over pages
_FEW = 3  # rows
_PADDING = 8.0  # of a cell, left and right together
_PANELS_A_ROW = 3
_BESIDE = 140.0  # points; height of a picture beside text
_LINES_A_PIECE = 10
_SIGNED = (0.23, 0.21, 0.21, 0.13, 0.22)  # of the width: who, name, role, date, signature
_FIELDS = (("name", "Name"), ("role", "Role and institution"), ("date", "Date, as YYYY-MM-DD"))
_FIELD, _REMARKS = 30.0, 110.0

Pages = Mapping[str, int]


def flowables(blocks: Iterable[Block], pages: Pages) -> list[Flowable]:
    """Return blocks as what the PDF library sets.

    Parameters
    ----------
    pages : mapping of the key of a heading to its page - empty on the first pass
    """
    placed: list[Flowable] = []
    before: Block | None = None
    for block in blocks:
        if isinstance(block, Section) and isinstance(before, Table) and not before.titled:
            placed = placed if before.note else placed[:-1]  # a heading has space of its own
        placed += _set(block, pages)
        before = block
    return placed


def _set(block: Block, pages: Pages) -> list[Flowable]:
    match block:
        case Title(text, below):
            heading = Heading(text, "verdict", style="title", limit=120)
            return [heading, paragraph(below, "muted", 300), gap(4)]
        case Banner():
            return [BannerFlowable(block), gap(2)]
        case Chapter(title, key, room):
            return [style.LeavePageOne(), *_room(room), Heading(title, key)]
        case Section(title, room):
            look = "h2_loose" if room else "h2"
            return [*_room(room), paragraph(title, look, 200)]
        case Text():
            return [_paragraph(block, pages)]
        case Items(items, limit):
            return [paragraph(text, "item", limit) for text in items]
        case Table():
            return _table(block, pages)
        case Pictures():
            return _pictures(block)
        case SideBySide():
            return [_beside(block, pages)]
        case KeptTogether(blocks):
            return [KeepTogether(flowables(blocks, pages))]
        case Entry(title, key, _, _, blocks):
            return [PageBreak(), Heading(title, key, 1), *flowables(blocks, pages)]
        case CurvePanels(caption):
            return [CondPageBreak(180), paragraph(caption, "h2_loose"), *_panels(block)]
        case Flow():
            return [_flow(block)]
        case ClusterPlot():
            return [_plot(block)]
        case Signatures(roles):
            return [_signatures(roles)]
        case SignOff():
            return [_sign_off(block)]
        case Reproduction(tables, config):
            return _reproduction(tables, config)


def _room(room: float) -> list[Flowable]:
    if not room:
        return []
    return [PageBreak() if room == NEW_PAGE else CondPageBreak(room)]


def _paragraph(block: Text, pages: Pages) -> Flowable:
    text, page = block.text, pages.get(block.see.key) if block.see else None
    if page:
        text = f"{text.removesuffix('.')} (page {page})."
    return paragraph(text, block.role, block.limit)


def _table(block: Table, pages: Pages) -> list[Flowable]:
    made = _ruled(block, pages)
    note = [gap(2.5), paragraph(block.note, "muted")] if block.note else [gap(4)]
    if not block.titled:
        return [made, *note]
    if len(block.rows) <= _KEPT_TOGETHER:
        return [KeepTogether([paragraph(block.caption, "h2"), made, *note])]
    return [CondPageBreak(150), paragraph(block.caption, "h2_loose"), made, *note]


def _ruled(block: Table, pages: Pages) -> Ruled:
    widths = [column.share * WIDTH for column in block.columns]
    rows: list[Sequence[style.Cell]] = [
        [_cell(value, width, block.limit, pages) for value, width in zip(row, widths, strict=True)]
        for row in block.rows
    ]
    if block.headed:
        rows.insert(0, [_head(c, width) for c, width in zip(block.columns, widths, strict=True)])
    made = style.table(
        rows or [[DASH, *[""] * (len(widths) - 1)]],
        widths,
        right=_where(block, "right"),
        mono=_where(block, "mono"),
        header=block.headed,
        limit=block.limit,
        dense=block.dense,
    )
    joined = [row + block.headed for row in block.joined]
    if len(block.rows) > _FEW:  # no row stands alone on the last page
        joined.append(len(block.rows) - 2 + block.headed)
    made.setStyle(TableStyle([("NOSPLIT", (0, row), (-1, row + 1)) for row in joined]))
    return made


def _where(block: Table, name: str) -> list[int]:
    return [at for at, column in enumerate(block.columns) if getattr(column, name)]


def _head(column: Sized, width: float) -> style.Cell:
    if isinstance(column.head, Scale):
        return FigureFlowable(scale_figure(column.head, width - _PADDING))
    return column.head


def _cell(value: Cell, width: float, limit: int, pages: Pages) -> style.Cell:
    match value:
        case Dots():
            return FigureFlowable(dot_figure(value, width - _PADDING))
        case Lines(lines, strong, inner):
            plain = "cell_inner" if inner else "cell"
            return [
                paragraph(text, "cell_bold" if strong and at == 0 else plain, limit)
                for at, text in enumerate(lines)
            ]
        case Scale():
            return FigureFlowable(scale_figure(value, width - _PADDING))
        case Reference(key):
            return str(pages[key]) if key in pages else DASH
        case str():
            return value


def _pictures(block: Pictures) -> list[Flowable]:
    if not block.shots:
        return []
    width = WIDTH / block.columns - 6
    cells = [_shot(shot, width, block.height, block.line) for shot in block.shots]
    note = paragraph(block.note, "caption") if block.note else None
    return [style.grid(cells, block.columns, note)]


def _shot(shot: FilmFigure, width: float, height: float, line: float) -> list[Flowable]:
    lines = [paragraph(text, "caption", 160) for text in shot.lines]
    return [FilmFlowable(shot.picture, width, height, line), gap(1.5), *lines]


def _beside(block: SideBySide, pages: Pages) -> Flowable:
    # A heading at the top of a column has no space above it.
    left = [gap(9), *flowables(block.blocks, pages)]
    right = [gap(12), *_shot(block.shot, block.share * WIDTH, _BESIDE, 1.4)]
    return style.columns(left, right, 1 - block.share)


def _panels(block: CurvePanels) -> list[Flowable]:
    columns = min(_PANELS_A_ROW, max(len(block.panels), 2))
    width = WIDTH / columns - 6
    cells: list[list[Flowable]] = [
        [paragraph(title, "cell_bold", 60), FigureFlowable(curve_figure(curve, width))]
        for title, curve in block.panels
    ]
    return [style.grid(cells, columns), paragraph(block.note, "muted")]


def _signatures(roles: tuple[str, ...]) -> KeepTogether:
    rows: list[list[style.Cell]] = [["To be signed by", "Name", "Date", "Signature"]]
    rows += [[role, gap(17), "", ""] for role in roles]
    widths = [0.28 * WIDTH, 0.28 * WIDTH, 0.14 * WIDTH, 0.3 * WIDTH]
    made: Ruled = style.table(rows, widths, dense=True)
    return KeepTogether([gap(6), made, gap(5)])


def _flow(block: Flow) -> KeepTogether:
    drawn = FigureFlowable(flow_figure(block))
    return KeepTogether([paragraph(block.caption, "h2"), gap(2), drawn])


def _plot(block: ClusterPlot) -> KeepTogether:
    drawn = FigureFlowable(cluster_figure(block))
    heading, note = paragraph(block.caption, "h2"), paragraph(block.note, "muted")
    return KeepTogether([heading, gap(2), drawn, gap(3), note, gap(3)])


def _sign_off(block: SignOff) -> KeepTogether:
    """Return a row a role, with a field for all that can be filled in, and one for remarks."""
    widths = [share * WIDTH for share in _SIGNED]
    rows: list[list[style.Cell]] = [list(SIGN_OFF_HEADS)]
    for role in block.roles:
        slug = "_".join(printable(role, 40).lower().split())
        fields = [
            FieldFlowable(f"{slug}_{name}", f"{told}: {printable(role, 60)}", width - 6, _FIELD)
            for (name, told), width in zip(_FIELDS, widths[1:], strict=False)
        ]
        signature: style.Cell = [gap(_FIELD - 8), paragraph("external signature", "note")]
        if block.signable:
            told = f"Signature: {printable(role, 60)}"
            signature = SignatureFlowable(f"{slug}_signature", told, widths[-1] - 8, _FIELD)
        rows.append([role, *fields, signature])
    remarks = FieldFlowable(
        "remarks", "Remarks of those who sign", WIDTH, _REMARKS, limit=2000, lines=True
    )
    made: Ruled = style.table(rows, widths)
    heads = [paragraph(title, "h2") for title in ("Signatures", REMARKS)]
    return KeepTogether([heads[0], made, heads[1], remarks])


def _reproduction(tables: Mapping[str, Mapping[str, str]], config: str) -> list[Flowable]:
    blocks: list[Flowable] = [CondPageBreak(200), Heading("Reproducibility", "reproducibility")]
    for title, entries in tables.items():
        rows = [(printable(name, 60), printable(value, 140)) for name, value in entries.items()]
        blocks.append(paragraph(title, "h2"))
        blocks.append(
            style.table(rows, [130, WIDTH - 130], mono=(1,), header=False, limit=140)
            if rows
            else paragraph(DASH)
        )
    lines = (printable_block(config, 105, 600) or DASH).split("\n")
    # In pieces, so that the heading stays with the first one and not with the whole file.
    pieces = [
        "\n".join(lines[at : at + _LINES_A_PIECE]) for at in range(0, len(lines), _LINES_A_PIECE)
    ]
    return [*blocks, paragraph("Effective config", "h2"), *map(style.block, pieces)]


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
    run, title : str - of the footer and of the metadata
    subject : str - of the metadata
    properties : mapping of name to text, or None - further entries of the metadata
    """

    def place(pages: dict[str, int]) -> list[Flowable]:
        return flowables(blocks, pages)

    status = status_of(blocks)
    imprint = Imprint(run, title, __version__, subject, status, properties or {})
    return Document.render(place, imprint)
