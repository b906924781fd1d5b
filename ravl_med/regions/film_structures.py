"""Anatomy and artifacts of one film: devices, letters, metal, and what was not exposed.

Boxes of letters are refined on the film itself: a letter is a few pixels of 256 wide, so half a
pixel at each side matters, and it stands out from its surroundings, bright or dark.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_opening, find_objects, label

from ravl_med import __version__
from ravl_med.errors import ConfigError
from ravl_med.regions.anatomy import anatomical_names, find_anatomy
from ravl_med.regions.geometry import box_overlap, common_area, mask_extent
from ravl_med.regions.looks import Look, read_look
from ravl_med.regions.segmenter import (
    ANY,
    ARTIFACTS,
    COMPACT,
    LETTERS,
    LINES,
    SIDE,
    Segmentation,
    Segmenter,
    coarse_mask,
    lean_of,
)
from ravl_med.storage.bounded_reading import parse_json
from ravl_med.storage.cache import Cache

Mask = NDArray[np.bool_]
Rows = tuple[slice, slice]

ARTIFACT_NAMES = {
    "generator": "pulse generator",
    "lead": "pacing lead",
    "tube": "tube or line",
    "electrode": "electrode",
    "wire": "wire",
    "marker": "laterality marker",
    "text": "burned-in text",
    "metal": "metal",
    "compact": "foreign object",
    "line": "tube, line or wire",
    "border": "film border",
}
"""The name of each of `ARTIFACTS` in the report. What is foreign and of no sure kind is called a
foreign object, or a tube, line or wire."""

UNSURE_LETTERS = "marker or other foreign object"
"""The name of letters of no sure kind: on real films, devices are taken for letters too."""

NAMES_RIGHT: Mapping[str, tuple[int, int]] = {
    "tube, line or wire": (110, 110),
    "burned-in text": (4, 5),
    "foreign object": (83, 123),
    UNSURE_LETTERS: (77, 83),
}
"""Names of the built-in segmenter that were right on real test films, of those that it gave
(``reports/benchmark/regions.md``)."""

NAMES_RIGHT_PAINTED: Mapping[str, tuple[int, int]] = {
    "pulse generator": (46, 49),
    "metal": (49, 49),
}
"""The same of things painted on those films, for kinds of which they show too few."""

NAME_RECORDS = {
    **{name: f" (right {right} of {given} times on real films)"
       for name, (right, given) in NAMES_RIGHT.items()},
    **{name: f" (right {right} of {given} times where painted on real films)"
       for name, (right, given) in NAMES_RIGHT_PAINTED.items()},
}  # fmt: skip
"""What is said of a name wherever it stands."""

# Shares of the film below which an object is a speck.
_LEAST = {"generator": 9e-4, "text": 1.8e-4, "marker": 3e-4, "electrode": 1e-4, "metal": 8e-5,
          "compact": 8e-5}  # fmt: skip
_LEAST_LINE = 3e-4
_SMALL = frozenset({"compact", *COMPACT})
_SOLID = _SMALL - {"generator"}  # whose box is fitted; a generator is dense in parts
_BESIDE = 0.5  # of the longer side of letters; nearer is what belongs to them
_CORE = 0.9  # quantile of an object's likelihoods that stands for it
_LONG, _SPARSE = 0.35, 0.25  # a box that is longer, and filled less, is cut in two
_SAME, _MUCH = 0.6, 6.0  # an object has one kind; but a letter may lie on a border
_BORDER_ROWS = 0.6  # share of a row that has to be border
_AROUND, _LEAST_AROUND = 0.35, 3  # of a box's sides, and pixels, of the surroundings that count
_STRONG, _HALF = 0.45, 0.5  # of the contrast in a box, from which a pixel is ink, or solid
_THIN = 0.25  # of its smaller side, below which something is no part of it
_FAINT, _TAIL = 0.04, 0.95  # contrast below which nothing stands out, and its quantile
_NEAR = 0.3  # overlap below which another object was found
_FEW = 8  # pixels, too few to know the surroundings


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """An object on a film that is not part of the body."""

    kind: str  # of `ARTIFACTS`
    score: float  # likelihood of its core, at most 1
    box: tuple[float, float, float, float]  # xyxy as shares of the film's width and height
    likely: Mapping[str, float] = field(default_factory=dict)  # of kinds that it may be, the mean
    sure: bool = True  # of letters: the kind is likely enough to be said

    @property
    def name(self) -> str:
        """Return its name in the report."""
        return ARTIFACT_NAMES[self.kind] if self.sure else UNSURE_LETTERS


@dataclass(frozen=True, slots=True, eq=False)
class _Object:
    """A connected object in a map of likelihoods (S, S)."""

    kind: str
    score: float
    rows: Rows
    mask: Mask  # of the rows alone
    side: int
    likely: Mapping[str, float] = field(default_factory=dict)  # of kinds that it may be, the mean
    sure: bool = True

    def box(self) -> tuple[float, float, float, float]:
        """Return its box, xyxy as shares of the film."""
        down, across = self.rows
        edges = (across.start, down.start, across.stop, down.stop)
        x0, y0, x1, y1 = (edge / self.side for edge in edges)
        return x0, y0, x1, y1


def find_artifacts(film: Segmentation) -> tuple[tuple[Artifact, ...], Mask, Mask]:
    """Find artifacts, the most certain first, and where they and the lines among them lie.

    A lead that runs across the chest is several regions, since the box around all of it would be
    mostly chest. An object that is seen as two kinds is the more certain one. Where a segmenter
    tells foreign things from their kinds (`ANY`), one has the name of a kind only where that is
    likely enough (`Segmentation.names`). What is small and close to letters belongs to them.

    Returns
    -------
    artifacts : tuple of Artifact
    foreign, lines : ndarray of shape (SIDE, SIDE), bool
    """
    found: list[_Object] = []
    named = {kind for name, kinds in ANY.items() if name in film.likelihoods for kind in kinds}
    for kind in ARTIFACTS:
        if kind not in film.likelihoods or (kind in named and kind in film.names):
            continue
        found += _strips(film) if kind == "border" else _objects(film, kind)
    kept: list[_Object] = []
    for one in sorted(found, key=lambda found: -found.score):
        # A line fills little of its box, and a border is no thing, so others may lie there.
        loose = one.kind == "border" or _is_line(one)
        rivals = [o for o in kept if o.kind not in ("border", one.kind) and not _is_line(o)]
        if loose or all(_shared(one.box(), other.box()) < _SAME for other in rivals):
            kept.append(one)
    letters = [one for one in kept if one.kind in LETTERS]
    parts = [one for one in kept if one.kind in _SMALL and _is_beside(one, letters)]
    whole = [_mask_of(kept), _mask_of(one for one in kept if _is_line(one))]
    artifacts = [
        Artifact(part.kind, part.score, part.box(), part.likely, part.sure)
        for one in kept
        if one not in parts
        for part in (_cut(film, one) if _is_line(one) else (one,))
    ]
    return tuple(artifacts), whole[0], whole[1]


def _is_line(found: _Object) -> bool:
    return found.kind in (*LINES, "line")


def _is_beside(found: _Object, letters: Sequence[_Object]) -> bool:
    """Return whether something belongs to letters: the plate, the ball or the pin of a marker."""
    box = np.array(found.box())
    for one in letters:
        other = np.array(one.box())
        sides = other[2:] - other[:2]
        gap = np.maximum(other[:2] - box[2:], box[:2] - other[2:]).max()
        if gap <= _BESIDE * sides.max() and _area(found.box()) <= _area(one.box()):
            return True
    return False


def _mask_of(objects: Iterable[_Object]) -> Mask:
    """Return where any of some objects lies, (SIDE, SIDE)."""
    together = np.zeros((SIDE, SIDE), dtype=np.bool_)
    for one in objects:
        mask = np.zeros((one.side, one.side), dtype=np.bool_)
        mask[one.rows] = one.mask
        together |= coarse_mask(mask)
    return together


def _named(film: Segmentation, found: _Object, group: str) -> _Object:
    """Call something foreign by a kind that is likely enough, or its group; letters stay so."""
    if group in LETTERS and group in film.names:
        mean = float(film.likelihoods[group][found.rows][found.mask].mean())
        return replace(found, likely={group: mean}, sure=mean >= film.names[group])
    likely = {
        kind: float(film.likelihoods[kind][found.rows][found.mask].mean())
        for kind in ANY.get(group, ())
        if kind in film.names and kind in film.likelihoods
    }
    best = max(likely, key=lambda kind: likely[kind] - film.names[kind], default=group)
    kind = best if likely and likely[best] >= film.names[best] else group
    return replace(found, kind=kind, likely=likely)


def _shared(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Return the share of the smaller box that lies in the other, where neither is much larger."""
    common, areas = common_area(a, b), (_area(a), _area(b))
    return common / min(areas) if common and max(areas) <= _MUCH * min(areas) else 0.0


def _objects(film: Segmentation, kind: str) -> Iterator[_Object]:
    """Yield the connected objects of a kind that are sure enough."""
    likely = film.likelihoods[kind]
    side = len(likely)
    parts, _ = label(likely > film.edge(kind), structure=np.ones((3, 3)))
    least = side * side * _LEAST.get(kind, _LEAST_LINE)
    for number, (down, across) in enumerate(find_objects(parts), start=1):
        rows = (down, across)
        here = parts[rows] == number
        if here.sum() < least:
            continue
        score = float(np.quantile(likely[rows][here], _CORE))
        if score >= film.found.get(kind, 0.0):
            yield _named(film, _Object(kind, score, rows, here, side), kind)


def _cut(film: Segmentation, found: _Object) -> Iterator[_Object]:
    """Halve a long and thin object until each box is mostly filled; each part has its own name."""
    (down, across), mask, side = found.rows, found.mask, found.side
    sides = mask.shape
    if max(sides) <= _LONG * side or mask.mean() >= _SPARSE:
        yield _named(film, found, "line") if found.likely else found
        return
    axis = int(sides[1] > sides[0])
    half = sides[axis] // 2
    for part in (slice(0, half), slice(half, sides[axis])):
        piece = mask[part] if axis == 0 else mask[:, part]
        if piece.sum() < side * side * _LEAST_LINE:
            continue
        x0, y0, x1, y1 = mask_extent(piece)
        top = down.start + (part.start if axis == 0 else 0)
        left = across.start + (part.start if axis == 1 else 0)
        rows = slice(top + y0, top + y1), slice(left + x0, left + x1)
        yield from _cut(film, replace(found, rows=rows, mask=piece[y0:y1, x0:x1]))


def _strips(film: Segmentation) -> Iterator[_Object]:
    """Find strips along the four sides of a film that were not exposed."""
    likely = film.likelihoods["border"]
    mask = likely > film.edge("border")
    height, width = mask.shape
    full_rows = mask.mean(axis=1) > _BORDER_ROWS
    full_columns = mask.mean(axis=0) > _BORDER_ROWS

    def run(full: NDArray[np.bool_]) -> int:
        return len(full) if full.all() else int(np.argmin(full))

    whole = slice(0, height), slice(0, width)
    for length, rows in (
        (run(full_rows), lambda n: (slice(0, n), whole[1])),
        (run(full_rows[::-1]), lambda n: (slice(height - n, height), whole[1])),
        (run(full_columns), lambda n: (whole[0], slice(0, n))),
        (run(full_columns[::-1]), lambda n: (whole[0], slice(width - n, width))),
    ):
        if length > 1:
            place = rows(length)
            inside = mask[place]
            yield _Object("border", float(likely[place][inside].mean()), place, inside, height)


def refine_box(
    pixels: NDArray[np.float32], box: tuple[float, float, float, float], *, solid: bool = False
) -> tuple[float, float, float, float]:
    """Fit a box to the ink in it; return it unchanged where nothing, or something else, stands out.

    The film is (H, W) in [0, 1]; boxes are xyxy in shares. Of a `solid` halo and wires are no part.
    """
    height, width = pixels.shape
    sides = np.array([width, height, width, height])
    old = np.array(box) * sides
    around = np.maximum(_AROUND * (old[2:] - old[:2]), _LEAST_AROUND)
    low = np.maximum(np.floor(old[:2] - around), 0).astype(int)
    high = np.minimum(np.ceil(old[2:] + around), [width, height]).astype(int)
    crop = pixels[low[1] : high[1], low[0] : high[0]]
    first = np.maximum(np.floor(old[:2]).astype(int) - low, 0)
    last = np.ceil(old[2:]).astype(int) - low
    inner = np.zeros(crop.shape, dtype=np.bool_)
    inner[first[1] : last[1], first[0] : last[0]] = True
    thin = max(3, int((old[2:] - old[:2]).min() * _THIN)) if solid else 0
    ink = _find_ink(crop, inner, thin)
    if ink is None:
        return box
    new = np.array(mask_extent(ink)) + np.tile(low, 2)
    if box_overlap(old, new.astype(np.float64)) < _NEAR:
        return box
    x0, y0, x1, y1 = (new / sides).tolist()
    return x0, y0, x1, y1


def _find_ink(
    crop: NDArray[np.float32], inner: NDArray[np.bool_], thin: int
) -> NDArray[np.bool_] | None:
    """Pixels that stand out from around a box and lie mostly in it; none of what is as `thin`."""
    ring = crop[~inner]
    if ring.size < _FEW or inner.sum() < _FEW:
        return None
    change = crop - np.median(ring)
    bright, dark = np.quantile(change[inner], [_TAIL, 1.0 - _TAIL])
    if -dark > bright:
        change, bright = -change, -dark
    if bright < _FAINT:
        return None
    strong = change > (_HALF if thin else _STRONG) * bright
    strong = binary_opening(strong, np.ones((thin, thin), np.bool_)) if thin else strong
    parts, count = label(strong, structure=np.ones((3, 3)))
    size = np.bincount(parts.ravel(), minlength=count + 1)
    within = np.bincount(parts[inner], minlength=count + 1)
    mostly = np.flatnonzero(within[1:] >= 0.5 * size[1:]) + 1
    return np.isin(parts, mostly) if len(mostly) else None


_PLACES = (
    *(
        f"{side} {part}"
        for part in ("upper lung zone", "middle lung zone", "lower lung zone", "shoulder")
        for side in ("right", "left")
    ),
    "cardiac silhouette",
    "mediastinum",
    "trachea and neck",
    "upper abdomen",
    "outside the body",
)
"""Places that do not overlap, apart from the heart, which lies over the lungs."""

_MEANT = 0.3  # share of a box that has to lie in its place


View = Literal["frontal", "mirrored", "turned", "lateral", "none"]
"""How a film looks: a frontal chest film, one with the heart on the wrong side, one that lies on a
side or on its head, something with lungs that is no frontal view, and no chest film at all."""


@dataclass(frozen=True, slots=True, eq=False)
class FilmStructures:
    """Anatomy and artifacts of a film, which is squashed to a square for all masks (S, S)."""

    anatomy: Mapping[str, Mask]  # of `ANATOMICAL_REGIONS`; empty where it is no frontal chest film
    artifacts: tuple[Artifact, ...]  # the most certain first
    foreign: Mask  # where any artifact lies
    lines: Mask  # where any lead, tube or wire lies
    view: View = "frontal"
    sided: bool = True  # the sides in names are the patient's: they were stated, or can be seen
    picture: NDArray[np.uint8] | None = None  # (S, S), to say how things look

    def region(self, names: Sequence[str]) -> Mask | None:
        """Return where any of some anatomical regions lies, (S, S); None where none was found."""
        found = [
            self.anatomy[part]
            for name in names
            for part in anatomical_names(name)
            if part in self.anatomy
        ]
        if not found:
            return None
        together: Mask = np.any(found, axis=0)
        return together

    def artifacts_in(self, box: Sequence[float]) -> tuple[str, ...]:
        """Return the names of the artifacts that a box, xyxy as shares of the film, holds.

        A box holds an artifact if half of that lies in it, or if it covers a sixth of the box.
        """
        names = [
            artifact.name
            for artifact in self.artifacts
            if common_area(artifact.box, box) >= min(0.5 * _area(artifact.box), _area(box) / 6.0)
        ]
        return tuple(dict.fromkeys(names))

    def place(self, box: Sequence[float]) -> str:
        """Return the place where a box, xyxy as shares of the film, lies; blank where none fits.

        Where the patient's sides are not known, the picture's stand in the name.
        """
        shares = {name: _share(self.anatomy[name], box) for name in _PLACES if name in self.anatomy}
        heart = shares.get("cardiac silhouette", 0.0)
        if heart >= 0.5:
            return "cardiac silhouette"
        best = max(shares, key=lambda name: shares[name], default="")
        return self.call(best) if best and shares[best] >= _MEANT else ""

    def call(self, name: str) -> str:
        """Return an anatomical name as it may be printed: with the patient's side if it is known.

        Segmenters take the left of the picture for the patient's right.
        """
        if self.sided:
            return name
        for side, seen in (("right ", "left"), ("left ", "right")):
            if name.startswith(side):
                return f"{name.removeprefix(side)} at the {seen} of the picture"
        return name

    def look(self, box: Sequence[float]) -> Look | None:
        """Return how what stands out in a box, xyxy as shares of the film, looks, if anything."""
        return None if self.picture is None else read_look(self.picture, box)


_EMPTY: Mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
NOTHING = FilmStructures({}, (), _EMPTY, _EMPTY, "none")
"""The structures of a film about which nothing is known."""


def read_structures(
    segmenter: Segmenter, pixels: NDArray[np.float32], *, left_edge: str = ""
) -> FilmStructures:
    """Find anatomy and artifacts of a film (H, W), float32 in [0, 1].

    Segmenters take the left half of a chest film for the patient's right. A mirrored film, with the
    patient's left (``L``) at its left edge, is turned for them, and their masks are turned back:
    the sides in names are the patient's, the places those of the film. Where the edge is not
    stated, the heart shows the sides, or they stay unknown. What is no frontal chest film has no
    anatomy, and no artifact on it has the name of a kind but letters.
    """
    if left_edge == "L":
        turned = np.ascontiguousarray(pixels[:, ::-1])
        return _turned(read_structures(segmenter, turned, left_edge="R"))
    film: Segmentation = segmenter.segment(pixels)
    anatomy, view = _look_at(segmenter, film, pixels)
    named = film if anatomy else replace(film, names={**film.names, **_NEVER})
    artifacts, foreign, lines = find_artifacts(named)
    refined = tuple(
        replace(one, box=refine_box(pixels, one.box, solid=one.kind in _SOLID))
        if one.kind in (*LETTERS, *_SOLID)
        else one
        for one in artifacts
    )
    stated = left_edge == "R"
    if stated and view == "mirrored":
        view = "frontal"
    sided = stated or (view == "frontal" and _leans(film) >= _LEANS)
    return FilmStructures(anatomy, refined, foreign, lines, view, sided, _picture_of(pixels))


_SHOWN = 512  # side of the picture by which things are described


def _picture_of(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the picture of a film (H, W) by which things are described."""
    shown = np.clip(cv2.resize(pixels, (_SHOWN, _SHOWN), interpolation=cv2.INTER_AREA), 0.0, 1.0)
    picture: NDArray[np.uint8] = np.rint(255.0 * shown).astype(np.uint8)
    return picture


class KeptStructures:
    """Reads structures of films and keeps them in a cache, so that a film is segmented once.

    Masks are kept in bits, some 20 kB a film, under a digest of the pixels, of the segmenter and of
    the version; a file that was changed is read anew.
    """

    def __init__(self, segmenter: Segmenter, cache: Cache) -> None:
        self._segmenter, self._cache = segmenter, cache

    def read(self, pixels: NDArray[np.float32], *, left_edge: str = "") -> FilmStructures:
        """Find anatomy and artifacts of a film (H, W), as `read_structures` does."""
        recipe = f"{__version__} {_RECIPE} {self._segmenter.digest} {left_edge} {pixels.shape}"
        digest = hashlib.sha256(recipe.encode())
        digest.update(np.ascontiguousarray(pixels).data)
        name = digest.hexdigest()[:24]
        kept = self._cache.recall(_KIND, name)
        if kept is not None:
            return replace(_unpacked(kept), picture=_picture_of(pixels))
        found = read_structures(self._segmenter, pixels, left_edge=left_edge)
        with suppress(ConfigError):  # no room: it is segmented again next time
            self._cache.keep(_KIND, name, _packed(found))
        return found


_KIND, _RECIPE = "structures", 2  # of a cache; raised where what is kept is found otherwise


def _packed(film: FilmStructures) -> bytes:
    """Return structures without their picture: a line of JSON, and the bits of the masks."""
    masks = {**film.anatomy, " foreign": film.foreign, " lines": film.lines}
    head = {
        "artifacts": [asdict(one) for one in film.artifacts],
        "masks": [(name, mask.shape) for name, mask in masks.items()],
        "view": film.view,
        "sided": film.sided,
    }
    bits = zlib.compress(b"".join(np.packbits(mask).tobytes() for mask in masks.values()), 1)
    return json.dumps(head, default=float).encode() + b"\n" + bits


def _unpacked(packed: bytes) -> FilmStructures:
    """Return the structures of `_packed`."""
    text, _, bits = packed.partition(b"\n")
    head, rest = parse_json(text), np.frombuffer(zlib.decompress(bits), dtype=np.uint8)
    masks: dict[str, Mask] = {}
    for name, (height, width) in head["masks"]:
        own, rest = np.split(rest, [-(-height * width // 8)])
        whole = np.unpackbits(own, count=height * width).astype(np.bool_)
        masks[name] = whole.reshape(height, width)
    artifacts = tuple(Artifact(**{**one, "box": tuple(one["box"])}) for one in head["artifacts"])
    foreign, lines = masks.pop(" foreign"), masks.pop(" lines")
    return FilmStructures(masks, artifacts, foreign, lines, head["view"], head["sided"])


_NEVER = {kind: 2.0 for kinds in ANY.values() for kind in kinds}  # likelihoods end at 1
# Shares of the film. In a lateral film a segmenter takes front and back for the two lungs, with a
# small or no heart between them, and a narrow spine that is not midway between them.
_LEAST_HEART, _LEAST_SPINE, _OFF_MIDDLE = 0.045, 0.058, 0.1
# How far the heart leans. Of 175 real films that are not mirrored 82 % had 0.025 or more, and 2 %
# -0.05 or less, among them collapsed lungs that pull the heart over.
_LEANS, _LEANS_BACK = 0.025, -0.05


def _look_at(
    segmenter: Segmenter, film: Segmentation, pixels: NDArray[np.float32]
) -> tuple[Mapping[str, Mask], View]:
    """Return the anatomy of a film, if it is one of a chest from the front, and how it looks."""
    anatomy = find_anatomy(film)
    if anatomy and _is_frontal(film):
        return anatomy, "mirrored" if _leans(film) <= _LEANS_BACK else "frontal"
    for turns in (1, 2, 3):
        other = segmenter.segment(np.ascontiguousarray(np.rot90(pixels, turns)))
        if _is_frontal(other) and find_anatomy(other):
            return {}, "turned"
    return {}, "lateral" if anatomy else "none"


def _is_frontal(film: Segmentation) -> bool:
    """Return whether heart and spine lie and are as from the front, if both are looked for."""
    masks = {name: film.mask(name) for name in ("heart", "spine") if name in film.likelihoods}
    least = {"heart": _LEAST_HEART, "spine": _LEAST_SPINE}
    if any(mask.mean() < least[name] for name, mask in masks.items()):
        return False
    lungs = [film.mask(f"{side} lung") for side in ("right", "left")]
    if "spine" not in masks or not all(lung.any() for lung in lungs):
        return True
    right, left, spine = (np.nonzero(mask)[1].mean() for mask in (*lungs, masks["spine"]))
    return abs((spine - right) / (left - right) - 0.5) <= _OFF_MIDDLE if left != right else False


def _leans(film: Segmentation) -> float:
    """Return how far the heart leans to the right of the picture."""
    return lean_of(film.mask("heart"), film.mask("spine")) if film.lean is None else film.lean


def _turned(film: FilmStructures) -> FilmStructures:
    """Mirror all places, left to right; names stay."""
    return replace(
        film,
        anatomy={name: mask[:, ::-1] for name, mask in film.anatomy.items()},
        artifacts=tuple(
            replace(one, box=(1.0 - one.box[2], one.box[1], 1.0 - one.box[0], one.box[3]))
            for one in film.artifacts
        ),
        foreign=film.foreign[:, ::-1],
        lines=film.lines[:, ::-1],
        picture=None if film.picture is None else film.picture[:, ::-1],
    )


def box_of(mask: Mask) -> tuple[float, float, float, float]:
    """Return the box around a mask that is not empty, xyxy as shares of width and height."""
    (height, width), (x0, y0, x1, y1) = mask.shape, mask_extent(mask)
    return x0 / width, y0 / height, x1 / width, y1 / height


def _area(box: Sequence[float]) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _share(mask: Mask, box: Sequence[float]) -> float:
    """Return the share of a box that a mask covers, of at least one pixel."""
    height, width = mask.shape
    x0, y0 = int(box[0] * width), int(box[1] * height)
    x1, y1 = max(x0 + 1, round(box[2] * width)), max(y0 + 1, round(box[3] * height))
    part = mask[y0:y1, x0:x1]
    return float(part.mean()) if part.size else 0.0


def shows_frontal_chest(segmenter: Segmenter, pixels: NDArray[np.float32]) -> bool:
    """Return whether lungs, heart and spine on a film (H, W) look as from the front."""
    film = segmenter.segment(pixels)
    return _is_frontal(film) and bool(find_anatomy(film))
