"""Pictures of an audit: films with boxes and crops of regions, made small, burned-in text hidden.

Text is hidden before a film is shown; the model sees the films as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ravl_med.cohort.dicom_header import Edge
from ravl_med.config.loading import Config
from ravl_med.evidence.audit_result import AuditResult, FilmChange
from ravl_med.evidence.results import BurnedInText, SpuriousCorrelation
from ravl_med.regions.burned_in_text import TextArea, TextSearch, View, open_text_search
from ravl_med.reporting.wording import number, plural, printable
from ravl_med.storage.cache import Cache

Film = Callable[[int], NDArray[np.uint8]]
"""Index of an image to its film, ndarray of shape (H, W), uint8, windowed, MONOCHROME2."""

Box = tuple[float, float, float, float]

CORRELATIONS_SHOWN = 10
"""Correlations that get a page and pictures of their own."""

COMPANIONS_SHOWN = 12
"""Correlations without a page, of which one region is shown."""

PANEL = 4
"""Films of each kind that are shown of a correlation."""

FILM_SIDE, CROP_SIDE = 300, 180
"""Pixels of the long side."""

HIDDEN_LOOK = "Gray in a light outline: text hidden."
"""Stands under films of which some have hidden text."""

_GRAY, _LINE = 112, 224  # of the filling and its outline
_ENDS, _MARGIN, _LEAST = 1.25, 0.25, 2.0  # at its ends, beside it: shares of its height; pixels
_THIN = 500  # pixels of a film for one of the outline
_LARGE_FILM, _LARGE_CROP = 768, 400  # to be looked at on a screen
_CONTEXT = 0.25  # of the region's side, shown around a crop


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A small grey picture with boxes."""

    pixels: NDArray[np.uint8]  # (h, w)
    boxes: tuple[Box, ...]  # as shares of width and height, origin top left
    large: NDArray[np.uint8] | None = None  # (h, w): with more to look at on a screen
    edge: Edge = ""  # side of the patient at the left edge; blank for a crop, or not stated


@dataclass(frozen=True, slots=True, eq=False)
class RegionPicture:
    """The crop of one region."""

    number: int  # its place in the order, from 1
    image_id: str  # pseudonym of the film
    name: str  # what it is, and where; blank for a place in a grid
    effect: float  # removal effect in logits; NaN where it was not measured
    picture: Picture


@dataclass(frozen=True, slots=True, eq=False)
class FilmPicture:
    """A whole film, with the place of the feature where it has it."""

    image_id: str
    answer: str  # label and answer in words; blank where they are not known
    picture: Picture


@dataclass(frozen=True, slots=True, eq=False)
class ChangePictures:
    """A film before and after its feature was taken out, or one was put in."""

    change: FilmChange
    before: FilmPicture
    after: FilmPicture


@dataclass(frozen=True, slots=True)
class FilmPanels:
    """Films of the audit that are shown of a correlation, by their index."""

    mistakes: tuple[int, ...]  # with the feature, and called wrongly
    random: tuple[int, ...]  # with the feature
    without: tuple[int, ...]  # of the same classes as the random ones

    @property
    def all(self) -> tuple[int, ...]:
        """Every one of them once."""
        return tuple(dict.fromkeys((*self.mistakes, *self.random, *self.without)))


@dataclass(frozen=True, slots=True, eq=False)
class CorrelationPictures:
    """What is shown of one correlation."""

    crops: tuple[RegionPicture, ...]  # those with the largest effects
    mistakes: tuple[FilmPicture, ...]
    random: tuple[FilmPicture, ...]
    without: tuple[FilmPicture, ...]
    changes: tuple[ChangePictures, ...]


def shown_correlations(result: AuditResult) -> tuple[SpuriousCorrelation, ...]:
    """Return the correlations that get a page: what counts, then what has to be decided on.

    There may be too many that only count; what has to be decided on has a page, however many.
    """
    asked = [entry for entry in result.correlations if entry.rank in (result.to_decide or ())]
    others = [entry for entry in result.correlations if entry.counts and entry not in asked]
    room = max(0, CORRELATIONS_SHOWN - len(asked))
    return tuple(sorted([*asked, *others[:room]], key=lambda one: (not one.counts, one.rank)))


def companions(result: AuditResult) -> tuple[SpuriousCorrelation, ...]:
    """Return the correlations without a page that travel with one that has a page, by rank."""
    paged = {entry.rank for entry in shown_correlations(result)}
    return tuple(
        entry
        for entry in result.correlations
        if entry.rank not in paged and entry.companion_of in paged
    )


def film_panels(result: AuditResult, correlation: SpuriousCorrelation) -> FilmPanels:
    """Choose films of a correlation: mistakes by how sure the model is, the others at random."""
    answers, cluster = result.answers, correlation.cluster
    rng = np.random.default_rng(int(correlation.correlation_id(result), 16))
    present = np.flatnonzero(cluster.present)
    if answers is None:
        return FilmPanels((), tuple(rng.permutation(present)[:PANEL].tolist()), ())
    called, labels = answers.called, answers.labels
    wrong = present[(called[present] != labels[present]) & (labels[present] >= 0)]
    raised = called[wrong] == cluster.raised_class
    mistakes = wrong[np.lexsort((-answers.score[wrong], ~raised))][:PANEL]
    random = rng.permutation(present)[:PANEL]
    bare = rng.permutation(np.flatnonzero(~cluster.present)).tolist()
    without: list[int] = []
    for film in random.tolist():
        alike = [other for other in bare if labels[other] == labels[film] and other not in without]
        without += alike[:1]
    return FilmPanels(tuple(mistakes.tolist()), tuple(random.tolist()), tuple(without))


def answer_text(result: AuditResult, film: int) -> str:
    """Say what a film is labelled and what the model says of it; blank where it is not known."""
    answers, classes = result.answers, result.classes
    if answers is None:
        return ""
    label, called = int(answers.labels[film]), int(answers.called[film])
    return words_of_answer(
        classes[label] if label >= 0 else "", classes[called], float(answers.score[film])
    )


def words_of_answer(label: str, called: str, score: float) -> str:
    """Return ``✓ edema (0.91)``, or ``✗ labelled normal, called edema (0.77)``."""
    said = f"{printable(called, 30)} ({number(score)})"
    if not label:
        return f"called {said}"
    return f"✓ {said}" if label == called else f"✗ labelled {printable(label, 30)}, called {said}"


def removal_effect(correlation: SpuriousCorrelation) -> NDArray[np.float64]:
    """Return the removal effect of each region of a cluster in logits; NaN where not measured."""
    if correlation.counterfactual is None:
        return np.full(len(correlation.cluster.regions), np.nan)
    return correlation.counterfactual.removal.effect


def _places(result: AuditResult, correlation: SpuriousCorrelation) -> NDArray[np.float32]:
    """Return where the feature lies, (n, 4): where its effect does, else the region itself."""
    located = correlation.located_boxes
    own = result.region_boxes[correlation.cluster.regions]
    return np.where(np.isfinite(located), located, own).astype(np.float32)


def _name(result: AuditResult, region: int) -> str:
    kind = result.region_kinds[int(result.region_kind[region])]
    return "" if kind.source in ("tiles", "windows") else kind.text()


def film_picture(
    film: NDArray[np.uint8],
    boxes: Sequence[Sequence[float]],
    side: int = FILM_SIDE,
    large: int = 0,
    edge: Edge = "",
) -> Picture:
    """Return a film (H, W), uint8, made small, with its boxes (x0, y0, x1, y1) in its pixels.

    `side` and `large` are the longest sides of the picture and of a second one for screens, made
    where the film has more to show; 0: none.
    """
    rows, columns = film.shape
    shares = tuple(_clipped(box, columns, rows) for box in boxes)
    bigger = _shrunk(film, large) if large and max(rows, columns) > side else None
    return Picture(_shrunk(film, side), shares, bigger, edge)


def _shrunk(film: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Bring the longer side to a length at most; a small film keeps its size."""
    rows, columns = film.shape
    scale = min(1.0, side / max(rows, columns))
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    small = Image.fromarray(film).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(small, dtype=np.uint8)


def _clipped(box: Sequence[float], columns: float, rows: float) -> Box:
    shares = np.asarray(box, dtype=np.float64) / (columns, rows, columns, rows)
    x0, y0, x1, y1 = np.clip(shares, 0.0, 1.0).tolist()
    return x0, y0, x1, y1


def crop_picture(
    film: NDArray[np.uint8], box: Sequence[float], side: int = CROP_SIDE, large: int = 0
) -> Picture:
    """Return a region of a film (H, W), uint8, with a quarter of its side around it and its box.

    `side` and `large` are the longest sides of the picture and of a second one for screens, made
    where the region has more to show; 0: none.
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
    """Return which part of a film (H, W) is shown for a box (x0, y0, x1, y1), and how large."""
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
    """Return the films that are shown, each with the boxes that are shown enlarged.

    `count` regions of each correlation are shown. Films after a change follow those of the audit,
    see `with_changes`.
    """
    shown: dict[int, list[tuple[float, ...]]] = {}
    for correlation in (*shown_correlations(result), *companions(result)[:COMPANIONS_SHOWN]):
        paged = correlation.companion_of is None or correlation.counts
        places = _places(result, correlation)
        for at in first_regions(result, correlation, count if paged else 1).tolist():
            boxes = shown.setdefault(int(result.region_image[correlation.cluster.regions[at]]), [])
            boxes.append(tuple(places[at].tolist()))
        for film in film_panels(result, correlation).all if paged else ():
            shown.setdefault(film, [])
    for at, change in _shown_changes(result):
        shown.setdefault(result.image_ids.index(change.image), [])
        shown[len(result.image_ids) + at] = []
    return shown


def _shown_changes(result: AuditResult) -> list[tuple[int, FilmChange]]:
    """Return the changes of correlations that have a page, with their numbers."""
    paged = {entry.rank for entry in shown_correlations(result)}
    return [(at, one) for at, one in enumerate(result.changes) if one.rank in paged]


def with_changes(result: AuditResult, film: Film) -> Film:
    """Return a reader that gives the films after a change too, numbered after those of the audit.

    What a place holds then is set into the film at the resolution that the model sees.
    """

    def read(index: int) -> NDArray[np.uint8]:
        films = len(result.image_ids)
        if index < films:
            return film(index)
        change = result.changes[index - films]
        pixels = film(result.image_ids.index(change.image)).copy()
        rows, columns = pixels.shape
        x0, x1 = (min(max(round(edge), 0), columns) for edge in change.box[::2])
        y0, y1 = (min(max(round(edge), 0), rows) for edge in change.box[1::2])
        if x1 > x0 and y1 > y0:
            patch = Image.fromarray(change.patch).resize((x1 - x0, y1 - y0))
            pixels[y0:y1, x0:x1] = np.asarray(patch)
        return pixels

    return read


def correlation_pictures(
    result: AuditResult,
    correlation: SpuriousCorrelation,
    film: Film,
    count: int,
    *,
    enlarged: bool = False,
) -> CorrelationPictures:
    """Return crops of `count` regions, and films with the feature and without it.

    With `enlarged` each picture also has one to be looked at on a screen.
    """
    large = _LARGE_FILM if enlarged else 0
    panels = film_panels(result, correlation)
    places = _places(result, correlation)
    images = result.region_image[correlation.cluster.regions]
    first: dict[int, int] = {}  # of each film the region with the largest effect
    for at in correlation.order.tolist():
        first.setdefault(int(images[at]), at)

    def whole(index: int) -> FilmPicture:
        boxes = [tuple(places[first[index]].tolist())] if index in first else []
        edge = result.left_edge(index)
        picture = film_picture(film(index), boxes, large=large, edge=edge)
        return FilmPicture(result.image_ids[index], answer_text(result, index), picture)

    return CorrelationPictures(
        crops=region_pictures(result, correlation, film, count, enlarged=enlarged),
        mistakes=tuple(map(whole, panels.mistakes)),
        random=tuple(map(whole, panels.random)),
        without=tuple(map(whole, panels.without)),
        changes=tuple(
            _change_pictures(result, at, change, film, large)
            for at, change in _shown_changes(result)
            if change.rank == correlation.rank
        ),
    )


def first_regions(
    result: AuditResult, correlation: SpuriousCorrelation, count: int
) -> NDArray[np.int64]:
    """Return the positions of at most `count` regions, by effect, of a film each.

    Regions that overlap on a film have the same effect and show the same place.
    """
    films = result.region_image[correlation.cluster.regions[correlation.order]]
    first = np.sort(np.unique(films, return_index=True)[1])
    return correlation.order[first[:count]]


def region_pictures(
    result: AuditResult,
    correlation: SpuriousCorrelation,
    film: Film,
    count: int,
    *,
    enlarged: bool = False,
) -> tuple[RegionPicture, ...]:
    """Return crops of the regions of `first_regions`, each around where its effect lies."""
    picked = first_regions(result, correlation, count)
    regions = correlation.cluster.regions[picked]
    effects, places = removal_effect(correlation)[picked], _places(result, correlation)[picked]
    return tuple(
        RegionPicture(
            at + 1,
            result.image_ids[int(result.region_image[region])],
            _name(result, int(region)),
            float(effects[at]),
            crop_picture(
                film(int(result.region_image[region])),
                places[at].tolist(),
                large=_LARGE_CROP if enlarged else 0,
            ),
        )
        for at, region in enumerate(regions.tolist())
    )


def _change_pictures(
    result: AuditResult, at: int, change: FilmChange, film: Film, large: int
) -> ChangePictures:
    """Return a film before and after, with the place that was changed."""
    index = result.image_ids.index(change.image)
    edge = result.left_edge(index)
    answers = (
        words_of_answer(change.label, change.called, change.score),
        words_of_answer(change.label, change.called_after, change.score_after),
    )
    before, after = (
        FilmPicture(
            change.image,
            answer,
            film_picture(film(number_of), [change.box], large=large, edge=edge),
        )
        for number_of, answer in zip((index, len(result.image_ids) + at), answers, strict=True)
    )
    return ChangePictures(change, before, after)


@dataclass(frozen=True, slots=True, eq=False)
class MaskedFilm:
    """A film that may be shown."""

    pixels: NDArray[np.uint8]  # (H, W)
    hidden: int  # lines of text that are filled
    allowed: bool  # it has words that may be shown


@dataclass(frozen=True, slots=True, eq=False)
class TextMasking:
    """Hides text on films."""

    search: TextSearch

    @classmethod
    def of(cls, config: Config, cache: Cache | None = None) -> TextMasking | None:
        """Return what a config asks for; None where films are shown as they are.

        Phantoms are no patients: nothing is looked for on them. Places of text are kept in a cache,
        if one is given.
        """
        if config.cohort.synthetic is not None or config.privacy.burned_in_text == "show":
            return None
        return cls(open_text_search(config.privacy.shown_words, config.regions, cache))

    def mask(self, film: NDArray[np.uint8], views: Sequence[View] = ()) -> MaskedFilm:
        """Hide the text on a film (H, W), uint8, and on the parts of it that are shown enlarged.

        Where the search fails, all of the film is hidden.
        """
        try:
            areas = self.search.find(film, views)
        except Exception:  # a network can fail on any film, and its message may repeat the text
            return MaskedFilm(np.full_like(film, _GRAY), 1, allowed=False)
        hidden = [area for area in areas if not area.allowed]
        return MaskedFilm(
            hide_areas(film, hidden), len(hidden), allowed=any(area.allowed for area in areas)
        )


def hide_areas(film: NDArray[np.uint8], areas: Sequence[TextArea]) -> NDArray[np.uint8]:
    """Fill areas of a film (H, W), uint8, with a flat gray in a thin outline, as nothing else is.

    Returns
    -------
    ndarray of shape (H, W), uint8 - `film` itself where there is nothing to hide
    """
    if not areas:
        return film
    covered = np.zeros_like(film)
    for area in areas:
        cv2.fillConvexPoly(covered, np.rint(_widened(area.corners)).astype(np.int32), 1)
    thin = 2 * max(1, round(max(film.shape) / _THIN)) + 1
    inner = cv2.erode(covered, np.ones((thin, thin), np.uint8))
    return np.where(inner > 0, _GRAY, np.where(covered > 0, _LINE, film)).astype(np.uint8)


def _widened(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move the corners (4, 2) of a line outwards, along its sides."""
    middle = corners.mean(axis=0)
    across, down = corners[1] - corners[0], corners[3] - corners[0]
    lengths = [float(np.linalg.norm(side)) or 1.0 for side in (across, down)]
    high = min(lengths)
    reach = [
        side * (0.5 + (_LEAST + (_ENDS if length > high else _MARGIN) * high) / length)
        for side, length in zip((across, down), lengths, strict=True)
    ]
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return np.array([middle + a * reach[0] + d * reach[1] for a, d in signs])


def burned_in_sentence(found: BurnedInText | None, *, synthetic: bool) -> str:
    """Say what was done about text on the films that are shown; blank where none could name anyone.

    Without a search (None) films are shown as they are; no patient is on synthetic phantoms.
    """
    if synthetic or (found is not None and not found.films):
        return ""
    if found is None:
        return (
            "Text burned into the films is shown as it is (privacy.burned_in_text): look before "
            "you send."
        )
    left = (
        f"Sides, views and positions are left (privacy.shown_words), on {found.allowed} of them."
        if found.reads
        else "Nothing is left: without OCR (pip install rapidocr onnxruntime) no word can be read."
    )
    return (
        f"Text burned into films: looked for with {found.method} on the "
        f"{plural(found.films, 'film')} shown; {plural(found.areas, 'line')} hidden, on "
        f"{found.masked} of them, under gray in a light outline. {left} The header says that text "
        f"is burned in, (0028,0301), of {found.declared}. No search finds all: look before you "
        "send. The model saw the films as they are."
    )
