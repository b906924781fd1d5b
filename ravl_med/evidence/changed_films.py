"""Films changed in some forty ways: structures that are covered, and styles of whole films.

A structure is covered by continuing its surroundings into it. What is larger than a third of the
input, such as everything but the heart, has no surroundings to speak of: it takes the mean gray of
the film. A blurred film in its place would still show how wide the heart is.

A style is no place, and what regions cannot show. A fixed step, such as gamma 0.7, says how fragile
a model is. Four styles are also measured on every film, and every film is brought to a level one
standard deviation below the mean of the films and to one above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from ravl_med.encoders.base import EncoderInfo
from ravl_med.evidence.audit_result import DependenceGroup
from ravl_med.evidence.counterfactual.fills import fill_mask
from ravl_med.evidence.counterfactual.localisation import (
    RelevanceTable,
    RelevantPlaces,
    box_mask,
    grow_mask,
)
from ravl_med.regions.film_structures import FilmStructures
from ravl_med.regions.geometry import mask_extent
from ravl_med.regions.segmenter import LETTERS

Picture = NDArray[np.float32]  # (3, S, S) input of the model
Gray = NDArray[np.float64]  # (S, S), 0 is black and 1 is white
Mask = NDArray[np.bool_]  # (S, S)

_NAN = math.nan
_EDGE = 0.08  # of the film's sides
_LARGE = 1 / 3  # share of the input from which a mask takes the mean
_RIM = 0.03  # of a film's side: an enlarged heart shows at its border
_HALO = 0.015  # a blurred rim of a device is the device
_OUTSIDE = 0.05  # of the range from black to white: what a resize adds
_BLUR, _NOISE = 0.012, 0.05  # sigma as a share of the input's side; standard deviation of the gray
_GAMMAS = (0.7, 1.4)
_SEARCH = math.log(8.0)  # the largest gamma that is looked for
_DARK = 0.02  # of the range, above the darkest of a film: not exposed
_STAYS = 1e-3  # standard deviation below which a style is the same on all films
_ANATOMY = {
    "heart": ("cardiac silhouette",),
    "left lung": ("left lung",),
    "right lung": ("right lung",),
    "mediastinum": ("mediastinum",),
    "diaphragm": ("hemidiaphragms",),
    "background": ("outside the body",),
}


@dataclass(frozen=True, slots=True, eq=False)
class ChangedFilm:
    """A film of the sample as the model reads it."""

    number: int
    picture: Picture
    inside: Mask  # the film; the rest of the input is padding
    structures: FilmStructures
    carry: Callable[[Mask], Mask]  # a mask of the film to its input
    black: NDArray[np.float32]  # (3, 1, 1), what is black in each channel
    white: NDArray[np.float32]

    @property
    def gray(self) -> Gray:
        """The film as gray values; channels of a film differ by scale and offset alone."""
        first = self.picture[0].astype(np.float64)
        gray: Gray = (first - self.black[0]) / (self.white[0] - self.black[0])
        return gray

    def with_gray(self, gray: Gray) -> Picture:
        """Return the picture of other gray values, from black to white; padding stays."""
        bounded = np.clip(gray, 0.0, 1.0).astype(np.float32)
        changed = self.black + bounded * (self.white - self.black)
        picture: Picture = np.where(self.inside, changed, self.picture).astype(np.float32)
        return picture

    def cover(self, mask: Mask) -> Picture:
        """Cover a mask: by its surroundings, or by the mean gray where it is large."""
        mask = mask & self.inside
        if mask.mean() <= _LARGE:
            return fill_mask(self.picture, mask)
        return self.with_gray(np.where(mask, self.gray[self.inside].mean(), self.gray))


Made = tuple[Picture, float]  # and the share of the film that is covered; NaN for a style


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """A way to change films; `make` returns None where a film lacks what is to be changed."""

    group: DependenceGroup
    name: str
    findings: tuple[int, ...]  # that it is of interest for
    make: Callable[[ChangedFilm], Made | None]
    steps: float = _NAN  # size in standard deviations over the films


def most_changes(findings: int) -> int:
    """Return in how many ways a film is changed, at most."""
    structures, styles = len(_ANATOMY) + 4, 2 * len(_GAMMAS) + 5
    return structures + 2 * findings + styles + len(STYLE_ENDS)


def black_and_white(
    info: EncoderInfo, picture: Picture
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what is black and white in the input, by the normalisation that the model states.

    Where the values of the film do not fit it, they are the darkest and brightest of the film.
    """
    mean, std = (
        np.resize(np.array(v, np.float32), 3)[:, None, None] for v in (info.mean, info.std)
    )
    black, white = -mean / std, (1.0 - mean) / std
    slack = _OUTSIDE * (white - black)
    if np.all(picture >= black - slack) and np.all(picture <= white + slack):
        return black, white
    low, high = (f(axis=(1, 2), keepdims=True) for f in (picture.min, picture.max))
    return low, np.where(high > low, high, low + 1.0).astype(np.float32)


def structure_changes(findings: tuple[int, ...]) -> list[Change]:
    """Cover each structure of a film, and everything but its border."""
    named = [
        Change("structure", name, findings, partial(_cover_anatomy, names=names))
        for name, names in _ANATOMY.items()
    ]
    return [
        *named,
        Change("structure", "text and markers", findings, _cover_letters),
        Change("structure", "devices", findings, _cover_devices),
        Change("structure", "border", findings, _cover_border),
        Change("anatomy", "border alone", findings, partial(_cover_border, all_else=True)),
    ]


def _covered(film: ChangedFilm, mask: Mask) -> Made | None:
    """Cover a mask of the film; None where the model sees nothing of it, or nothing else."""
    own = film.carry(mask) & film.inside
    if not own.any() or own.sum() == film.inside.sum():
        return None
    return film.cover(own), float(own.sum() / film.inside.sum())


def _cover_anatomy(film: ChangedFilm, names: Sequence[str]) -> Made | None:
    found = film.structures.region(names)
    return None if found is None else _covered(film, grow_mask(found, _HALO))


def _cover_letters(film: ChangedFilm) -> Made | None:
    return _covered(film, grow_mask(_letters(film.structures), _HALO))


def _cover_devices(film: ChangedFilm) -> Made | None:
    other = film.structures.foreign & ~_letters(film.structures, ("border", *LETTERS))
    kinds = {one.kind for one in film.structures.artifacts}
    return _covered(film, grow_mask(other, _HALO)) if kinds - {"border", *LETTERS} else None


def _cover_border(film: ChangedFilm, *, all_else: bool = False) -> Made | None:
    border = np.ones_like(film.structures.foreign)
    height, width = border.shape
    high, wide = max(1, round(_EDGE * height)), max(1, round(_EDGE * width))
    border[high:-high, wide:-wide] = False
    return _covered(film, ~border if all_else else border)


def _letters(film: FilmStructures, kinds: Sequence[str] = LETTERS) -> Mask:
    """Return the boxes of the artifacts of some kinds."""
    mask = np.zeros_like(film.foreign)
    for one in film.artifacts:
        if one.kind in kinds:
            mask |= box_mask(mask.shape, one.box)
    return mask


def anatomy_changes(
    classes: Sequence[str], findings: tuple[int, ...], relevance: RelevanceTable
) -> list[Change]:
    """Cover all places where a finding shows, then all else; findings of the same places once."""
    sharing: dict[RelevantPlaces, list[int]] = {}
    for finding in findings:
        places = relevance.find(classes[finding])
        if places is not None:
            sharing.setdefault(places, []).append(finding)
    return [
        Change("anatomy", name, tuple(own), partial(_cover_relevant, places=places, all_else=rest))
        for places, own in sharing.items()
        for name, rest in (("relevant covered", False), ("relevant alone", True))
    ]


def _cover_relevant(film: ChangedFilm, places: RelevantPlaces, *, all_else: bool) -> Made | None:
    mask = _relevant_mask(film, places)
    return None if mask is None else _covered(film, ~mask if all_else else mask)


def cover_places(film: ChangedFilm, places: RelevantPlaces, spare: RelevantPlaces) -> Made | None:
    """Cover the places of findings but for others that stay; None where the film lacks them."""
    mask, kept = _relevant_mask(film, places), _relevant_mask(film, spare)
    return None if mask is None or kept is None else _covered(film, mask & ~kept)


def _relevant_mask(film: ChangedFilm, places: RelevantPlaces) -> Mask | None:
    mask = np.zeros_like(film.structures.foreign)
    if places.anatomy:
        found = film.structures.region(places.anatomy)
        if found is None:
            return None
        mask |= grow_mask(found, _RIM)
    for box in places.boxes:
        mask |= box_mask(mask.shape, box)
    if places.artifacts:
        mask |= grow_mask(film.structures.foreign, _HALO)
    return mask


def style_changes(findings: tuple[int, ...], levels: StyleLevels, seed: int) -> Iterator[Change]:
    """Give fixed steps of style; exposure is also said in natural standard deviations."""
    steps: list[tuple[str, Callable[[ChangedFilm], Gray], float]] = [
        (f"{style} {size:g}", partial(change, size=size), abs(math.log(size)) / spread)
        for style, change in (("gamma", _raise_gamma), ("contrast", _stretch))
        for size in _GAMMAS
        for spread in (levels.spread[style] if levels.varies(style) else _NAN,)
    ]
    plain: list[tuple[str, Callable[[ChangedFilm], Gray]]] = [
        ("blur", _blur),
        ("noise", partial(_add_noise, seed=seed)),
        ("horizontal flip", lambda film: film.gray[:, ::-1]),
        ("border crop", _crop_border),
        ("invert", lambda film: 1.0 - film.gray),
    ]
    for name, change, size in [*steps, *((name, change, _NAN) for name, change in plain)]:
        yield Change("style", name, findings, partial(_restyle, change=change), size)


def _restyle(film: ChangedFilm, change: Callable[[ChangedFilm], Gray]) -> Made:
    return film.with_gray(change(film)), _NAN


def _raise_gamma(film: ChangedFilm, size: float) -> Gray:
    raised: Gray = np.clip(film.gray, 0.0, 1.0) ** size
    return raised


def _stretch(film: ChangedFilm, size: float) -> Gray:
    mean = film.gray[film.inside].mean()
    stretched: Gray = mean + size * (film.gray - mean)
    return stretched


def _add_noise(film: ChangedFilm, seed: int) -> Gray:
    rng = np.random.default_rng([seed, film.number])
    return film.gray + rng.normal(0.0, _NOISE, film.gray.shape)


def _blur(film: ChangedFilm) -> Gray:
    sigma = _BLUR * len(film.gray)
    return np.asarray(cv2.GaussianBlur(film.gray, (0, 0), sigma), dtype=np.float64)


def _crop_border(film: ChangedFilm) -> Gray:
    """Cut the outermost part of the film off and stretch the rest."""
    x0, y0, x1, y1 = mask_extent(film.inside)
    gray = film.gray
    cut_x, cut_y = max(1, round(_EDGE * (x1 - x0))), max(1, round(_EDGE * (y1 - y0)))
    kept = gray[y0 + cut_y : y1 - cut_y, x0 + cut_x : x1 - cut_x]
    gray[y0:y1, x0:x1] = cv2.resize(kept, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    return gray


@dataclass(frozen=True, slots=True)
class _Style:
    """How a style is measured on gray values inside a film, and brought to a level."""

    measure: Callable[[Gray, Mask, float], float]  # and a mean gray that gamma is measured from
    bring: Callable[[Gray, Mask, float, float, float], Gray]  # from a level to another


def _measure_gamma(gray: Gray, inside: Mask, middle: float) -> float:
    """Return the log of the gamma for a mean gray of `middle`; high is bright, NaN is none."""
    values, counts = np.unique(np.rint(255 * np.clip(gray[inside], 0, 1)), return_counts=True)
    share, low, high = counts / counts.sum(), -_SEARCH, _SEARCH
    for _ in range(30):
        half = (low + high) / 2
        mean = float(share @ (values / 255.0) ** math.exp(half))
        low, high = (half, high) if mean > middle else (low, half)
    return low if abs(low) < 0.99 * _SEARCH else _NAN


def _measure_contrast(gray: Gray, inside: Mask, middle: float) -> float:
    spread = float(gray[inside].std())
    return math.log(spread) if spread > _STAYS else _NAN


def _bring_contrast(gray: Gray, inside: Mask, middle: float, old: float, new: float) -> Gray:
    mean = gray[inside].mean()
    stretched: Gray = mean + math.exp(new - old) * (gray - mean)
    return stretched


def _frame_sides(gray: Gray, inside: Mask) -> tuple[tuple[int, int, int, int], Gray]:
    """Return how many lines of each side (t, b, l, r) are as dark as the darkest, and the film."""
    x0, y0, x1, y1 = mask_extent(inside)
    film = gray[y0:y1, x0:x1]
    dark = film <= film.min() + _DARK
    rows, columns = dark.all(axis=1), dark.all(axis=0)
    ends = [int(np.argmin(line)) for line in (rows, rows[::-1], columns, columns[::-1])]
    return (ends[0], ends[1], ends[2], ends[3]), film


def _measure_frame(gray: Gray, inside: Mask, middle: float) -> float:
    """Return the width of the border that is not exposed, as a share of a film's sides."""
    (top, bottom, left, right), film = _frame_sides(gray, inside)
    return 0.5 * float((top + bottom) / len(film) + (left + right) / film.shape[1])


def _bring_frame(gray: Gray, inside: Mask, middle: float, old: float, new: float) -> Gray:
    """Give every side a border of the same width; what was darker than that mirrors the inside."""
    (top, bottom, left, right), film = _frame_sides(gray, inside)
    high, wide = film.shape
    inner = film[top : high - bottom, left : wide - right]
    whole = np.pad(inner, ((top, bottom), (left, right)), mode="reflect")
    edge_y, edge_x = round(max(new, 0.0) * high), round(max(new, 0.0) * wide)
    framed = np.full_like(film, film.min())
    kept = slice(edge_y, high - edge_y), slice(edge_x, wide - edge_x)
    framed[kept] = whole[kept]
    x0, y0, x1, y1 = mask_extent(inside)
    made = gray.copy()
    made[y0:y1, x0:x1] = framed
    return made


STYLES: Mapping[str, _Style] = {
    "brightness": _Style(
        lambda gray, inside, middle: float(gray[inside].mean()),
        lambda gray, inside, middle, old, new: gray + (new - old),
    ),
    "gamma": _Style(
        _measure_gamma,
        lambda gray, inside, middle, old, new: np.clip(gray, 0, 1) ** math.exp(old - new),
    ),
    "contrast": _Style(_measure_contrast, _bring_contrast),
    "frame": _Style(_measure_frame, _bring_frame),
}
STYLE_ENDS = tuple(f"{style} {end}" for style in STYLES for end in ("low", "high"))


@dataclass(frozen=True, slots=True, eq=False)
class StyleLevels:
    """The styles of the n films of a sample, and their low and high levels."""

    films: NDArray[np.int64]  # (n,)
    measured: Mapping[str, NDArray[np.float64]]  # (n,) by style; NaN where it has no measure
    middle: float  # median of the mean gray of the films
    spread: Mapping[str, float]

    @classmethod
    def of(cls, films: NDArray[np.int64], read: Callable[[], Iterable[ChangedFilm]]) -> StyleLevels:
        """Measure every film; `read` gives them anew each time."""
        middle = float(np.median([film.gray[_exposed(film)].mean() for film in read()]))
        rows = [
            [style.measure(film.gray, _exposed(film, name), middle)
             for name, style in STYLES.items()]
            for film in read()
        ]  # fmt: skip
        measured = dict(zip(STYLES, np.array(rows).T, strict=True))
        spread = {
            name: float(np.nanstd(values)) if np.isfinite(values).any() else 0.0
            for name, values in measured.items()
        }
        return cls(films, measured, middle, spread)

    def varies(self, style: str) -> bool:
        """Whether the films differ in a style."""
        return self.spread[style] > _STAYS

    def level(self, style: str, end: str) -> float:
        """Return the low or the high level of a style."""
        measured = self.measured[style]
        if not np.isfinite(measured).any():
            return _NAN
        side = -1.0 if end == "low" else 1.0
        level = float(np.nanmean(measured)) + side * self.spread[style]
        return max(level, 0.0) if style == "frame" else level

    def changes(self, findings: tuple[int, ...]) -> list[Change]:
        """Bring every film to either level of every style that varies."""
        return [
            Change("style", f"{style} {end}", findings, partial(self._bring, style=style, end=end))
            for style in STYLES
            for end in ("low", "high")
        ]

    def _bring(self, film: ChangedFilm, style: str, end: str) -> Made | None:
        old = float(self.measured[style][np.searchsorted(self.films, film.number)])
        if not (self.varies(style) and math.isfinite(old)):
            return None
        new, inside = self.level(style, end), _exposed(film, style)
        gray = STYLES[style].bring(film.gray, inside, self.middle, old, new)
        return film.with_gray(gray), _NAN


def _exposed(film: ChangedFilm, style: str = "") -> Mask:
    """Return the film without a border that was not exposed; all of it where that is the style."""
    if style == "frame":
        return film.inside
    (top, bottom, left, right), inner = _frame_sides(film.gray, film.inside)
    x0, y0, _, _ = mask_extent(film.inside)
    mask = np.zeros_like(film.inside)
    high, wide = inner.shape
    mask[y0 + top : y0 + high - bottom, x0 + left : x0 + wide - right] = True
    return mask
