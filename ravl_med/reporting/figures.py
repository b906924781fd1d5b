"""Pictures of an audit: films with boxes, crops of regions, accuracy with and without a feature.

The PDF draws its plots itself; here the same plots are made as PNG for slides. No pyplot: figures
have no global state, so that runs in threads do not meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.claims import Interval, SpuriousCorrelation
from ravl_med.reporting.wording import class_name, font_file, percent, printable, signed

__all__ = [
    "CARRIES",
    "CORRELATIONS_SHOWN",
    "CorrelationPictures",
    "FilmPicture",
    "Picture",
    "RegionPicture",
    "correlation_pictures",
    "crop_picture",
    "film_picture",
    "located_boxes",
    "removal_effect",
    "shown_correlations",
    "write_figures",
]

Film = Callable[[int], NDArray[np.uint8]]
Box = tuple[float, float, float, float]

CORRELATIONS_SHOWN = 10
"""Correlations that get a page and pictures of their own."""

CARRIES = " ●"
"""Mark behind the removal effect of a region that carries the feature."""

_FILM_SIDE, _CROP_SIDE = 300, 180  # pixels of the long side
_CONTEXT = 0.25  # of the region's side, shown around a crop
_CAPTION = 30  # pixels under a picture on a contact sheet
_YELLOW, _WHITE, _DARK = (255, 216, 77), (255, 255, 255), (16, 22, 28)
_BLUE, _AMBER = "#0b5fa5", "#d98200"


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A small grey picture with boxes.

    Attributes
    ----------
    pixels : ndarray of shape (h, w), uint8
    boxes : tuple of (x0, y0, x1, y1) - as shares of width and height, origin top left
    located : tuple of (x0, y0, x1, y1) - where their effect lies, as far as it lies elsewhere
    """

    pixels: NDArray[np.uint8]
    boxes: tuple[Box, ...]
    located: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RegionPicture:
    """The crop of one region.

    Attributes
    ----------
    number : int - its place in the order, from 1
    image_id : str - pseudonym of the film
    effect : float - removal effect in logits; NaN where it was not measured
    carries : bool - the effect passes the trimming rule: the region carries the feature
    picture : Picture
    """

    number: int
    image_id: str
    effect: float
    carries: bool
    picture: Picture


@dataclass(frozen=True, slots=True, eq=False)
class FilmPicture:
    """A whole film with the boxes of the regions, by their place in the order."""

    numbers: tuple[int, ...]
    image_id: str
    picture: Picture


@dataclass(frozen=True, slots=True, eq=False)
class CorrelationPictures:
    """What is shown of one correlation."""

    crops: tuple[RegionPicture, ...]
    films: tuple[FilmPicture, ...]


def shown_correlations(result: AuditResult) -> tuple[SpuriousCorrelation, ...]:
    """Return the correlations that get a page: those that count, then the rest, by rank."""
    ranked = sorted(result.correlations, key=lambda entry: (not entry.counts, entry.rank))
    return tuple(ranked[:CORRELATIONS_SHOWN])


def removal_effect(correlation: SpuriousCorrelation) -> NDArray[np.float64]:
    """Return the removal effect of each region of a cluster in logits; NaN where not measured."""
    if correlation.counterfactual is None:
        return np.full(len(correlation.cluster.regions), np.nan)
    return correlation.counterfactual.removal.effect


def located_boxes(correlation: SpuriousCorrelation) -> NDArray[np.float32]:
    """Return where the effect of each region lies (n, 4), stored pixels; NaN where not measured."""
    tested = correlation.counterfactual
    if tested is None or tested.removal.located is None:
        return np.full((len(correlation.cluster.regions), 4), np.nan, dtype=np.float32)
    return tested.removal.located


def _carrying(correlation: SpuriousCorrelation) -> NDArray[np.bool_]:
    """Return which regions of a cluster carry the feature; none where it was not tested."""
    if correlation.counterfactual is None:
        return np.zeros(len(correlation.cluster.regions), dtype=np.bool_)
    return correlation.counterfactual.removal.carries


def film_picture(
    film: NDArray[np.uint8],
    boxes: Sequence[Sequence[float]],
    side: int = _FILM_SIDE,
    located: Sequence[Sequence[float]] = (),
) -> Picture:
    """Return a film made small, with its boxes.

    Parameters
    ----------
    film : ndarray of shape (H, W), uint8
    boxes : sequence of (x0, y0, x1, y1) - in pixels of the film
    side : int - length of the longer side of the picture, at most
    located : sequence of (x0, y0, x1, y1) - boxes where the effect lies
    """
    rows, columns = film.shape
    scale = min(1.0, side / max(rows, columns))
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    shares, drawn = (
        tuple(_clipped(box, columns, rows) for box in every) for every in (boxes, located)
    )
    small = Image.fromarray(film).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return Picture(np.asarray(small, dtype=np.uint8), shares, drawn)


def _clipped(box: Sequence[float], columns: float, rows: float) -> Box:
    x0, y0, x1, y1 = (float(edge) for edge in box)
    return (
        min(max(x0 / columns, 0.0), 1.0),
        min(max(y0 / rows, 0.0), 1.0),
        min(max(x1 / columns, 0.0), 1.0),
        min(max(y1 / rows, 0.0), 1.0),
    )


def crop_picture(film: NDArray[np.uint8], box: Sequence[float], side: int = _CROP_SIDE) -> Picture:
    """Return a region with a quarter of its side around it and the region's own box.

    Parameters
    ----------
    film : ndarray of shape (H, W), uint8
    box : (x0, y0, x1, y1) - in pixels of the film
    side : int - length of the longer side of the picture
    """
    rows, columns = film.shape
    x0, y0, x1, y1 = (float(edge) for edge in box)
    across, down = _CONTEXT * (x1 - x0), _CONTEXT * (y1 - y0)
    left = min(max(math.floor(x0 - across), 0), columns - 1)
    top = min(max(math.floor(y0 - down), 0), rows - 1)
    right = min(max(math.ceil(x1 + across), left + 1), columns)
    bottom = min(max(math.ceil(y1 + down), top + 1), rows)
    width, height = right - left, bottom - top
    scale = side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    cut = Image.fromarray(film[top:bottom, left:right]).resize(size, Image.Resampling.BICUBIC)
    own = _clipped((x0 - left, y0 - top, x1 - left, y1 - top), width, height)
    return Picture(np.asarray(cut, dtype=np.uint8), (own,))


def correlation_pictures(
    result: AuditResult, correlation: SpuriousCorrelation, film: Film, count: int
) -> CorrelationPictures:
    """Return crops of the first `count` regions and the films that they lie on.

    Each film is asked for once; a film that holds several of the regions is shown once.
    """
    picked = correlation.order[:count]
    regions = correlation.cluster.regions[picked]
    effects, carries = removal_effect(correlation)[picked], _carrying(correlation)[picked]
    located = located_boxes(correlation)[picked]
    images = result.region_image[regions]
    crops: dict[int, RegionPicture] = {}
    films: list[FilmPicture] = []
    for image in dict.fromkeys(images.tolist()):  # distinct, in the order of the regions
        pixels = film(image)
        places = np.flatnonzero(images == image).tolist()
        boxes = [tuple(map(float, result.region_boxes[regions[place]])) for place in places]
        for place, box in zip(places, boxes, strict=True):
            crops[place] = RegionPicture(
                place + 1,
                result.image_ids[image],
                float(effects[place]),
                bool(carries[place]),
                crop_picture(pixels, box),
            )
        numbers = tuple(place + 1 for place in places)
        moved = [
            tuple(located[place].tolist())
            for place, box in zip(places, boxes, strict=True)
            if math.isfinite(located[place, 0]) and np.abs(located[place] - box).max() >= 1.0
        ]
        picture = film_picture(pixels, boxes, located=moved)
        films.append(FilmPicture(numbers, result.image_ids[image], picture))
    return CorrelationPictures(tuple(crops[place] for place in sorted(crops)), tuple(films))


def write_figures(result: AuditResult, film: Film, folder: Path) -> None:
    """Write the pictures of a run as PNG files.

    Writes ``accuracy.png`` and, for each correlation that has a page, ``correlation_01_films.png``,
    ``..._crops.png`` and ``..._accuracy.png`` (on held-out patients), numbered by rank.

    Parameters
    ----------
    result : AuditResult
    film : callable - index of an image to its film, ndarray of shape (H, W), uint8, MONOCHROME2
    folder : Path - made if it is missing
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save(_accuracy_figure(result), folder / "accuracy.png")
    for correlation in shown_correlations(result):
        stem = f"correlation_{correlation.rank:02d}"
        pictures = correlation_pictures(result, correlation, film, 10)
        films = [(f"{_numbers(e.numbers)} · {e.image_id}", e.picture) for e in pictures.films]
        crops = [
            (f"{e.number} · {e.image_id} · {signed(e.effect, 2)}{CARRIES * e.carries}", e.picture)
            for e in pictures.crops
        ]
        _contact_sheet(films, _FILM_SIDE).save(folder / f"{stem}_films.png", compress_level=1)
        _contact_sheet(crops, _CROP_SIDE).save(folder / f"{stem}_crops.png", compress_level=1)
        _save(_correlation_figure(result, correlation), folder / f"{stem}_accuracy.png")


def _numbers(numbers: tuple[int, ...]) -> str:
    return ", ".join(str(number) for number in numbers)


def _contact_sheet(
    entries: Sequence[tuple[str, Picture]], side: int, columns: int = 5
) -> Image.Image:
    """Pictures in rows on white, each with its caption below."""
    font = ImageFont.truetype(str(font_file("DejaVuSans")), 11)
    step, rows = side + 12, max(1, math.ceil(len(entries) / columns))
    sheet = Image.new("RGB", (columns * step, rows * (step + _CAPTION)), "white")
    pen = ImageDraw.Draw(sheet)
    for at, (caption, picture) in enumerate(entries):
        height, width = picture.pixels.shape
        left = (at % columns) * step + (step - width) // 2
        top = (at // columns) * (step + _CAPTION) + side - height + 6
        sheet.paste(Image.fromarray(picture.pixels).convert("RGB"), (left, top))
        for box in picture.boxes:
            _outline(pen, box, (left, top, width, height), _YELLOW)
        for box in picture.located:
            _outline(pen, box, (left, top, width, height), _WHITE)
        middle = (at % columns) * step + step // 2
        text = printable(caption, side // 7)
        pen.text((middle, top + height + 6), text, fill=_DARK, font=font, anchor="ma")
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
    pen.rectangle((edges[0] - 1, edges[1] - 1, edges[2] + 1, edges[3] + 1), outline=_DARK, width=4)
    pen.rectangle(edges, outline=colour, width=2)


def _accuracy_figure(result: AuditResult) -> Figure:
    accuracy, classes = result.accuracy, result.task.classes
    figure, axes = _dot_axes([class_name(classes, c, 30) for c in range(len(classes))] + ["all"])
    values = [*accuracy.by_class, accuracy.overall]
    intervals = [*accuracy.by_class_interval, accuracy.overall_interval]
    _dots(axes, values, intervals, 0.0, _BLUE, "o", "accuracy")
    return figure


def _correlation_figure(result: AuditResult, correlation: SpuriousCorrelation) -> Figure:
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
        axes,
        arms.accuracy_absent.tolist(),
        arms.absent_interval,
        0.16,
        _AMBER,
        "s",
        "without it",
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
