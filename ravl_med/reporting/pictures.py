"""Pictures of an audit: films with boxes and crops of regions, made small."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ravl_med.cohort.dicom_header import Edge
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.regions.burned_in_text import View

Film = Callable[[int], NDArray[np.uint8]]
"""Index of an image to its film, ndarray of shape (H, W), uint8, windowed, MONOCHROME2."""

Box = tuple[float, float, float, float]

CORRELATIONS_SHOWN = 10
"""Correlations that get a page and pictures of their own."""

CARRIES = " ●"
"""Mark behind the removal effect of a region that carries the feature."""

FILM_SIDE, CROP_SIDE = 300, 180
"""Pixels of the long side."""

_LARGE_FILM, _LARGE_CROP = 768, 400  # to be looked at on a screen
_CONTEXT = 0.25  # of the region's side, shown around a crop


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A small grey picture with boxes.

    Attributes
    ----------
    pixels : ndarray of shape (h, w), uint8
    boxes : tuple of (x0, y0, x1, y1) - as shares of width and height, origin top left
    located : tuple of (x0, y0, x1, y1) - where their effect lies, as far as it lies elsewhere
    large : ndarray of shape (h, w), uint8, or None - with more to look at on a screen
    edge : Edge - side of the patient at the left edge, drawn beside it; blank for a crop, or where
        it is not stated
    """

    pixels: NDArray[np.uint8]
    boxes: tuple[Box, ...]
    located: tuple[Box, ...] = ()
    large: NDArray[np.uint8] | None = None
    edge: Edge = ""


@dataclass(frozen=True, slots=True, eq=False)
class RegionPicture:
    """The crop of one region.

    Attributes
    ----------
    number : int - its place in the order, from 1
    image_id : str - pseudonym of the film
    name : str - what it is, and where; blank for a place in a grid
    effect : float - removal effect in logits; NaN where it was not measured
    carries : bool - the effect passes the trimming rule: the region carries the feature
    """

    number: int
    image_id: str
    name: str
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


def _carrying(correlation: SpuriousCorrelation) -> NDArray[np.bool_]:
    """Return which regions of a cluster carry the feature; none where it was not tested."""
    if correlation.counterfactual is None:
        return np.zeros(len(correlation.cluster.regions), dtype=np.bool_)
    return correlation.counterfactual.removal.carries


def _name(result: AuditResult, region: int) -> str:
    kind = result.region_kinds[int(result.region_kind[region])]
    return "" if kind.source in ("tiles", "windows") else kind.text()


def film_picture(
    film: NDArray[np.uint8],
    boxes: Sequence[Sequence[float]],
    side: int = FILM_SIDE,
    located: Sequence[Sequence[float]] = (),
    large: int = 0,
    edge: Edge = "",
) -> Picture:
    """Return a film made small, with its boxes.

    Parameters
    ----------
    film : ndarray of shape (H, W), uint8
    boxes : sequence of (x0, y0, x1, y1) - in pixels of the film
    side : int - length of the longer side of the picture, at most
    located : sequence of (x0, y0, x1, y1) - boxes where the effect lies
    large : int - the same for a second, larger picture, if the film has more to show; 0: none
    edge : Edge - side of the patient at the left edge
    """
    rows, columns = film.shape
    shares, drawn = (
        tuple(_clipped(box, columns, rows) for box in every) for every in (boxes, located)
    )
    bigger = _shrunk(film, large) if large and max(rows, columns) > side else None
    return Picture(_shrunk(film, side), shares, drawn, bigger, edge)


def _shrunk(film: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Bring the longer side to a length at most; a small film keeps its size."""
    rows, columns = film.shape
    scale = min(1.0, side / max(rows, columns))
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    small = Image.fromarray(film).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(small, dtype=np.uint8)


def _clipped(box: Sequence[float], columns: float, rows: float) -> Box:
    x0, y0, x1, y1 = (float(edge) for edge in box)
    return (
        min(max(x0 / columns, 0.0), 1.0),
        min(max(y0 / rows, 0.0), 1.0),
        min(max(x1 / columns, 0.0), 1.0),
        min(max(y1 / rows, 0.0), 1.0),
    )


def crop_picture(
    film: NDArray[np.uint8], box: Sequence[float], side: int = CROP_SIDE, large: int = 0
) -> Picture:
    """Return a region with a quarter of its side around it and the region's own box.

    Parameters
    ----------
    film : ndarray of shape (H, W), uint8
    box : (x0, y0, x1, y1) - in pixels of the film
    side : int - length of the longer side of the picture
    large : int - the same for a second picture, if the region has more to show; 0: none
    """
    x0, y0, x1, y1 = (float(edge) for edge in box)
    left, top, right, bottom = crop_view(film.shape, box).box
    width, height = right - left, bottom - top
    scale = side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    whole = film[top:bottom, left:right]
    cut = Image.fromarray(whole).resize(size, Image.Resampling.BICUBIC)
    own = _clipped((x0 - left, y0 - top, x1 - left, y1 - top), width, height)
    bigger = _shrunk(whole, large) if large and max(width, height) > side else None
    return Picture(np.asarray(cut, dtype=np.uint8), (own,), large=bigger)


def crop_view(shape: tuple[int, ...], box: Sequence[float]) -> View:
    """Return which part of a film is shown for a region, and how large at most.

    Parameters
    ----------
    shape : (H, W) - of the film
    box : (x0, y0, x1, y1) - in pixels of the film
    """
    rows, columns = shape
    x0, y0, x1, y1 = (float(edge) for edge in box)
    across, down = _CONTEXT * (x1 - x0), _CONTEXT * (y1 - y0)
    left = min(max(math.floor(x0 - across), 0), columns - 1)
    top = min(max(math.floor(y0 - down), 0), rows - 1)
    right = min(max(math.ceil(x1 + across), left + 1), columns)
    bottom = min(max(math.ceil(y1 + down), top + 1), rows)
    long = max(right - left, bottom - top)
    return View((left, top, right, bottom), max(CROP_SIDE / long, min(1.0, _LARGE_CROP / long)))


def shown_boxes(result: AuditResult, count: int) -> dict[int, list[tuple[float, ...]]]:
    """Return the films that are shown, each with the boxes of the regions that are shown of it.

    Parameters
    ----------
    count : int - regions shown of each correlation
    """
    shown: dict[int, list[tuple[float, ...]]] = {}
    for correlation in shown_correlations(result):
        for region in correlation.cluster.regions[correlation.order[:count]]:
            boxes = shown.setdefault(int(result.region_image[region]), [])
            boxes.append(tuple(result.region_boxes[region].tolist()))
    return shown


def correlation_pictures(
    result: AuditResult,
    correlation: SpuriousCorrelation,
    film: Film,
    count: int,
    *,
    enlarged: bool = False,
) -> CorrelationPictures:
    """Return crops of the first `count` regions and the films that they lie on.

    Each film is asked for once; a film that holds several of the regions is shown once. With
    `enlarged` each picture also has one to be looked at on a screen.
    """
    large = (_LARGE_FILM, _LARGE_CROP) if enlarged else (0, 0)
    picked = correlation.order[:count]
    regions = correlation.cluster.regions[picked]
    effects, carries = removal_effect(correlation)[picked], _carrying(correlation)[picked]
    located = correlation.located_boxes[picked]
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
                _name(result, int(regions[place])),
                float(effects[place]),
                bool(carries[place]),
                crop_picture(pixels, box, large=large[1]),
            )
        numbers = tuple(place + 1 for place in places)
        moved = [
            tuple(located[place].tolist())
            for place, box in zip(places, boxes, strict=True)
            if math.isfinite(located[place, 0]) and np.abs(located[place] - box).max() >= 1.0
        ]
        edge = result.left_edge(image)
        picture = film_picture(pixels, boxes, located=moved, large=large[0], edge=edge)
        films.append(FilmPicture(numbers, result.image_ids[image], picture))
    return CorrelationPictures(tuple(crops[place] for place in sorted(crops)), tuple(films))
