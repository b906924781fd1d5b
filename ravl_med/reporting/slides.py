"""Pictures of an audit as PNG files for slides: films, crops, accuracy with and without a feature.

The PDF draws its plots itself; here the same plots are made by matplotlib. No pyplot: figures have
no global state, so that runs in threads do not meet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from PIL import Image, ImageDraw

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.results import Interval, SpuriousCorrelation
from ravl_med.reporting.contact_sheet import DARK, PLATE, draw_edge, font
from ravl_med.reporting.pictures import (
    CROP_SIDE,
    FILM_SIDE,
    Box,
    Film,
    Picture,
    correlation_pictures,
    shown_correlations,
)
from ravl_med.reporting.wording import EDGE_TEXT, class_name, font_file, percent, printable, signed

REGIONS_ON_SLIDES = 10
"""Regions of each correlation."""

_CAPTION = 30  # pixels under a picture on a contact sheet
_YELLOW = (255, 216, 77)
_BLUE, _AMBER = "#0b5fa5", "#b87000"


def write_figures(result: AuditResult, film: Film, folder: Path) -> None:
    """Write the pictures of a run as PNG files.

    Writes ``accuracy.png`` and, for each correlation that has a page, ``correlation_01_films.png``,
    ``..._crops.png`` and ``..._accuracy.png`` (on held-out patients), numbered by rank.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save(_accuracy_figure(result), folder / "accuracy.png")
    for correlation in shown_correlations(result):
        stem = f"correlation_{correlation.rank:02d}"
        pictures = correlation_pictures(result, correlation, film, REGIONS_ON_SLIDES)
        films = []
        for entry in (*pictures.mistakes, *pictures.random, *pictures.without):
            edge = entry.picture.edge
            unusual = "" if edge == "R" else f" · {EDGE_TEXT[edge]}"
            films.append(((entry.answer, f"{entry.image_id}{unusual}"), entry.picture))
        crops = [
            ((f"{e.number} · {e.image_id} · {signed(e.effect, 2)}",), e.picture)
            for e in pictures.crops
        ]
        _contact_sheet(films, FILM_SIDE).save(folder / f"{stem}_films.png", compress_level=1)
        _contact_sheet(crops, CROP_SIDE).save(folder / f"{stem}_crops.png", compress_level=1)
        _save(correlation_figure(result, correlation), folder / f"{stem}_accuracy.png")


def _contact_sheet(
    entries: Sequence[tuple[tuple[str, ...], Picture]], side: int, columns: int = 5
) -> Image.Image:
    """Pictures in rows on white, each with one or two lines below, and its side beside it."""
    beside = PLATE if any(picture.edge for _, picture in entries) else 0
    step, rows = side + 12 + 2 * beside, max(1, math.ceil(len(entries) / columns))
    row = side + 12 + _CAPTION
    sheet = Image.new("RGB", (columns * step, rows * row), "white")
    pen = ImageDraw.Draw(sheet)
    for at, (lines, picture) in enumerate(entries):
        height, width = picture.pixels.shape
        left = (at % columns) * step + (step - width) // 2
        top = (at // columns) * row + side - height + 6
        sheet.paste(Image.fromarray(picture.pixels).convert("RGB"), (left, top))
        draw_edge(pen, picture.edge, (left, top + height // 2))
        for box in picture.boxes:
            _outline(pen, box, (left, top, width, height), _YELLOW)
        middle = (at % columns) * step + step // 2
        for number, line in enumerate(lines):
            place = (middle, top + height + 4 + 13 * number)
            pen.text(place, printable(line, side // 7), fill=DARK, font=font(11), anchor="ma")
    return sheet


def _outline(
    pen: ImageDraw.ImageDraw,
    box: Box,
    place: tuple[int, int, int, int],
    colour: tuple[int, int, int],
) -> None:
    """Draw a light line on a dark halo."""
    left, top, width, height = place
    x0, y0 = left + round(box[0] * (width - 1)), top + round(box[1] * (height - 1))
    x1, y1 = left + round(box[2] * (width - 1)), top + round(box[3] * (height - 1))
    edges = (x0, y0, max(x1, x0), max(y1, y0))
    pen.rectangle((edges[0] - 1, edges[1] - 1, edges[2] + 1, edges[3] + 1), outline=DARK, width=4)
    pen.rectangle(edges, outline=colour, width=2)


def _accuracy_figure(result: AuditResult) -> Figure:
    accuracy, classes = result.accuracy, result.task.classes
    figure, axes = _dot_axes([class_name(classes, c, 30) for c in range(len(classes))] + ["all"])
    values = [*accuracy.by_class, accuracy.overall]
    intervals = [*accuracy.by_class_interval, accuracy.overall_interval]
    _dots(axes, values, intervals, 0.0, _BLUE, "o", "accuracy")
    return figure


def correlation_figure(result: AuditResult, correlation: SpuriousCorrelation) -> Figure:
    """Draw accuracy by class with a feature and without it, on held-out patients."""
    arms, classes = correlation.confirmation.arms, result.task.classes
    figure, axes = _dot_axes([class_name(classes, c, 30) for c in range(len(classes))])
    _dots(
        axes,
        arms.accuracy_present.tolist(),
        arms.present_interval,
        -0.16,
        _BLUE,
        "o",
        "with the feature",
    )
    _dots(
        axes, arms.accuracy_absent.tolist(), arms.absent_interval, 0.16, _AMBER, "s", "without it"
    )
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=2,
        frameon=False,
        prop=_font(),
        borderaxespad=0.2,
    )
    return figure


def _font() -> FontProperties:
    return FontProperties(fname=str(font_file("DejaVuSans")), size=8)


def _dot_axes(names: list[str]) -> tuple[Figure, Axes]:
    """Axes from 0 to 100 % with one named row a class, the first on top."""
    figure = Figure(figsize=(6.0, 0.9 + 0.32 * len(names)), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], [percent(tick) for tick in (0, 0.25, 0.5, 0.75, 1)])
    axes.set_yticks(range(len(names)), names)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)  # a class may be called "$x$"
        label.set_fontproperties(_font())
    axes.grid(axis="x", color="#ccd4da", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def _dots(
    axes: Axes,
    values: Sequence[float],
    intervals: Sequence[Interval],
    shift: float,
    colour: str,
    marker: str,
    label: str,
) -> None:
    """Dots with their intervals; a class without data has none."""
    rows = np.arange(len(values)) + shift
    low = np.array([interval.low for interval in intervals])
    high = np.array([interval.high for interval in intervals])
    axes.hlines(rows, low, high, colors=colour, linewidth=1.4)
    face = colour if marker == "o" else "white"
    axes.plot(values, rows, marker, color=colour, markerfacecolor=face, markersize=5, label=label)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)  # no window, whatever backend is set
    figure.savefig(path, format="png", metadata={"Software": None})
