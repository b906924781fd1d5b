"""Text burned into a film: where it is, and whether it may be shown; its content leaves no search.

Text is found by OCR: RapidOCR with the PP-OCR networks that its package ships. They are named by
path, so that nothing is ever fetched, and run on one thread. The whole film is read at twice the
size at which a report shows it, and each part that is shown by itself at twice the size of that,
from the stored pixels with their contrast equalised. Without OCR, rows of small objects that stand
out alike, and the text that a segmenter finds, all count as text that is not allowed.

References
----------
RapidOCR (Apache-2.0); PaddleOCR, PP-OCR networks (Apache-2.0); Liao et al., Real-time scene text
detection with differentiable binarization, AAAI 2020.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import astuple, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ravl_med import __version__
from ravl_med.config.cohort import RegionsConfig
from ravl_med.errors import ConfigError
from ravl_med.regions.film_structures import read_structures
from ravl_med.regions.segmenter import Segmenter
from ravl_med.storage.bounded_reading import parse_json
from ravl_med.storage.cache import Cache

_KIND = "texts"  # of a cache
_TOKEN = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True, eq=False)
class TextArea:
    """The place of a line of text."""

    corners: NDArray[np.float64]  # (4, 2), x and y in pixels of the film
    allowed: bool  # each of its words may be shown


@dataclass(frozen=True, slots=True)
class View:
    """A part of a film that is shown by itself."""

    box: tuple[int, int, int, int]  # xyxy in pixels of the film
    scale: float  # pixels of the picture for a pixel of the film


class TextSearch(Protocol):
    """Finds text on films; `method` names it with its version, for the report."""

    method: str
    reads: bool  # it can read allowed words; else nothing is allowed

    def find(self, film: NDArray[np.uint8], views: Sequence[View] = ()) -> tuple[TextArea, ...]:
        """Find the text on a film (H, W), uint8, at its stored size; `views` are shown enlarged."""
        ...


def open_text_search(
    allowed: Collection[str], regions: RegionsConfig, cache: Cache | None = None
) -> TextSearch:
    """Return the best search that this installation has, for a list of allowed words.

    Without OCR the segmenter of `regions` finds letters as well. What OCR finds is kept in a
    cache, if one is given.
    """
    from ravl_med.regions.proposal import choose_segmenter

    if not ocr_version():
        return LetterRows(choose_segmenter(regions))
    words = fold_words(allowed)
    reader = TextReader(words)
    return reader if cache is None else KeptTextSearch(reader, cache, words)


class KeptTextSearch:
    """A search whose findings are kept in a cache, so that a film is searched once.

    Places are kept under a digest of the pixels and of all that the search depends on, never what
    was read.
    """

    def __init__(self, search: TextSearch, cache: Cache, allowed: frozenset[str]) -> None:
        self.method, self.reads = search.method, search.reads
        self._search, self._cache = search, cache
        self._settings = [__version__, search.method, sorted(allowed)]

    def find(self, film: NDArray[np.uint8], views: Sequence[View] = ()) -> tuple[TextArea, ...]:
        """Find the text on a film (H, W), uint8, at its stored size; `views` are shown enlarged."""
        recipe = [*self._settings, film.shape, list(map(astuple, views))]
        digest = hashlib.sha256(json.dumps(recipe).encode())
        digest.update(np.ascontiguousarray(film).data)
        name = f"{digest.hexdigest()[:24]}.json"
        kept = self._cache.recall(_KIND, name)
        if kept is not None:
            return tuple(
                TextArea(np.array(corners, dtype=np.float64).reshape(4, 2), bool(allowed))
                for corners, allowed in parse_json(kept)
            )
        found = self._search.find(film, views)
        content = [[area.corners.tolist(), area.allowed] for area in found]
        with contextlib.suppress(ConfigError):  # no room: it is searched again next time
            self._cache.keep(_KIND, name, json.dumps(content).encode())
        return found


def fold_words(allowed: Collection[str]) -> frozenset[str]:
    """Return words as they are compared: compatibility forms (NFKC) in capitals."""
    return frozenset(map(_fold, allowed))


def only_allowed_text(text: str, allowed: frozenset[str]) -> bool:
    """Return whether a line has words, and each is one of `allowed`, from `fold_words`."""
    tokens = _TOKEN.findall(_fold(text))
    return bool(tokens) and all(token in allowed for token in tokens)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).upper()


_REACH = (9, 25, 61)  # pixels: widest stroke that stands out from what is around it
_CONTRAST, _NOISE = 24.0, 8.0  # gray levels, and deviations of the film's noise, at least
_LOW, _HIGH = 5, 0.08  # height of a letter: pixels, and share of the film's longer side
_FILLED = (0.12, 0.95)  # share of its box that a letter covers
_WIDE, _NARROW = 4.0, 0.08  # of its height; letters that touch are one object
_ENDS = 0.6  # of its height, added at both ends of a row, where a letter may be lost
_ALIKE, _LEVEL, _GAP = 1.6, 0.6, 1.2  # ratio of heights, overlap in height, gap in heights
_LETTERS = 4  # in a row, at least; fewer objects side by side are often ribs
_MOST = 4000  # objects of a film that are searched


class LetterRows:
    """Finds rows of letters by their shape, and the text that a segmenter finds."""

    reads = False
    method = "rows of letters by their shape, no OCR"

    def __init__(self, segmenter: Segmenter | None = None) -> None:
        self._segmenter = segmenter

    def find(self, film: NDArray[np.uint8], views: Sequence[View] = ()) -> tuple[TextArea, ...]:
        """Find the text on a film (H, W), uint8; views are not searched by themselves."""
        boxes = [*_rows(film), *(box[[1, 0, 3, 2]] for box in _rows(film.T))]
        if self._segmenter is not None:
            height, width = film.shape
            seen = read_structures(self._segmenter, film.astype(np.float32) / np.float32(255.0))
            boxes += [
                np.array(one.box) * (width, height, width, height)
                for one in seen.artifacts
                if one.kind == "text"
            ]
        return tuple(TextArea(_corners(box), allowed=False) for box in boxes)


def _corners(box: NDArray[np.float64]) -> NDArray[np.float64]:
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64)


def _rows(film: NDArray[np.uint8]) -> Iterator[NDArray[np.float64]]:
    """Yield the boxes, xyxy, of rows of letters that run from left to right."""
    gray = np.ascontiguousarray(film)
    noise = float(np.median(np.abs(cv2.Laplacian(gray, cv2.CV_32F)))) / 4.0
    least = max(_CONTRAST, _NOISE * noise)
    for reach in _REACH:
        stroke = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
        for kind in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):
            ink = cv2.morphologyEx(gray, kind, stroke) >= least
            yield from _joined(_letters(ink.astype(np.uint8)))


def _letters(ink: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the boxes (n, 4), xyxy, of connected objects of the shape of a letter."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    left, top, wide, high, area = stats[1:].T.astype(np.float64)
    filled = area / (wide * high)
    fits = (
        (high >= _LOW)
        & (high <= _HIGH * max(ink.shape))
        & (wide <= _WIDE * high)
        & (wide >= _NARROW * high)
        & (filled >= _FILLED[0])
        & (filled <= _FILLED[1])
    )
    boxes: NDArray[np.float64] = np.stack([left, top, left + wide, top + high], axis=1)[fits]
    return boxes[:_MOST]


def _joined(boxes: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield the boxes around letters (n, 4) that stand in a row."""
    if len(boxes) < _LETTERS:
        return
    x0, y0, x1, y1 = boxes.T
    high = y1 - y0
    lower, higher = np.minimum(high[:, None], high), np.maximum(high[:, None], high)
    level = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    gap = np.maximum(x0[:, None], x0) - np.minimum(x1[:, None], x1)
    near = (higher <= _ALIKE * lower) & (level >= _LEVEL * lower) & (gap <= _GAP * lower)
    one, other = np.nonzero(near)
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=near.shape)
    count, row = connected_components(graph, directed=False)
    for number in range(count):
        part = boxes[row == number]
        if len(part) >= _LETTERS:
            box = np.concatenate([part[:, :2].min(axis=0), part[:, 2:].max(axis=0)])
            more = _ENDS * (box[3] - box[1])
            yield box + np.array([-more, 0.0, more, 0.0])


_PACKAGES = ("rapidocr", "onnxruntime")
_NETWORKS = {"Det": "*det*.onnx", "Cls": "*cls*.onnx", "Rec": "*rec*.onnx"}
_FILM = 1536  # longer side of a film as it is read, twice that of the largest picture of one
_TURNED = 1024  # longer side of a film that is read from its side
_LEAST = 736  # shorter side of a film as it is read
_SMALL = 768  # and once more, contrast as it is, where the film is larger: for large letters
_CLIP, _TILES = 2.0, 8  # of the contrast that is made even: faint text is read as well
_FINER, _FINEST = 2.0, 3.0  # of the scale at which a part is shown; of the film's pixels
# Lower than the package's own: a false area costs a grey box, a missed one a name.
_PIXEL, _LINE = 0.2, 0.3
_ENOUGH = 1.1  # times the scale of the whole film, from which reading a part again can find more
_SURE = 0.8  # of a reading, before a word counts as allowed
_LONG, _LIKELY = 1.8, 0.5  # a single sign is more of them, if it is long and the line is likely
_LARGE, _CLEAR = 0.04, 0.7  # share of the film; few signs that are higher have to be read so well
_FEW, _READ_FEW, _READ = 3, 0.4, 0.3  # edges of bones look like few signs, not read so well
_WITHIN = 0.8  # share of an area that lies in another one


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """A line that was found, with its text."""

    corners: NDArray[np.float64]
    likely: float
    text: str
    sure: float

    def sides(self) -> tuple[float, float]:
        """Return the shorter and the longer side in pixels."""
        across = float(np.linalg.norm(self.corners[1] - self.corners[0]))
        down = float(np.linalg.norm(self.corners[3] - self.corners[0]))
        return min(across, down), max(across, down)


def ocr_version() -> str:
    """Return name and version of the OCR, blank where it or its networks are not installed."""
    if any(find_spec(name) is None for name in _PACKAGES) or len(_networks()) < len(_NETWORKS):
        return ""
    return " with ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)


def _networks() -> dict[str, Path]:
    """Return the networks that the package ships, by task."""
    spec = find_spec(_PACKAGES[0])
    places = [] if spec is None else (spec.submodule_search_locations or [])
    found = {}
    for task, name in _NETWORKS.items():
        files = sorted(path for place in places for path in Path(place, "models").glob(name))
        if files:
            found[task] = files[0]
    return found


class TextReader:
    """Finds text by OCR; `allowed` comes from `fold_words`."""

    reads = True

    def __init__(self, allowed: frozenset[str]) -> None:
        self.method = ocr_version()
        self._allowed = allowed
        self._own = threading.local()  # networks hold state, so each thread has its own

    @property
    def _engine(self) -> Any:
        """Return the networks of this thread."""
        if not hasattr(self._own, "engine"):
            self._own.engine = self._open()
        return self._own.engine

    def _open(self) -> Any:
        from rapidocr import RapidOCR

        threads = {
            f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")
        }
        return RapidOCR(
            params={
                "Global.log_level": "critical",  # it would name paths
                "Det.limit_side_len": 64,  # parts are brought to their scale here
                "Det.thresh": _PIXEL,
                "Det.box_thresh": _LINE,
                **threads,
                **{f"{task}.model_path": str(path) for task, path in _networks().items()},
            }
        )

    def find(self, film: NDArray[np.uint8], views: Sequence[View] = ()) -> tuple[TextArea, ...]:
        """Find the text on a film (H, W), uint8, at its stored size; `views` are shown enlarged."""
        readings = _readings(film.shape, views)
        even = cv2.createCLAHE(_CLIP, (_TILES, _TILES)).apply(np.ascontiguousarray(film))
        lines = [line for view in readings for line in self._read(np.asarray(even), view)]
        whole, long = readings[0], max(film.shape)
        flat = View(whole.box, min(whole.scale, _TURNED / long))
        lines += self._read(np.asarray(even), flat, turned=True)
        if long > _SMALL:
            lines += self._read(film, View(whole.box, _SMALL / long))
        large = _LARGE * max(film.shape)
        shown = [
            line
            for line in lines
            if line.sure >= _SURE and only_allowed_text(line.text, self._allowed)
        ]
        hidden = [
            line
            for line in lines
            if _is_text(line, large) and not any(_explains(one, line) for one in shown)
        ]
        return (
            *(TextArea(line.corners, allowed=False) for line in hidden),
            *(TextArea(line.corners, allowed=True) for line in shown),
        )

    def _read(
        self, film: NDArray[np.uint8], view: View, *, turned: bool = False
    ) -> Iterator[_Line]:
        """Read a part of a film at a scale, upright or from its left side."""
        from rapidocr.main import RapidOCRError

        left, top, right, bottom = view.box
        size = tuple(max(1, round(view.scale * side)) for side in (right - left, bottom - top))
        how = cv2.INTER_AREA if view.scale < 1.0 else cv2.INTER_CUBIC
        picture = cv2.resize(film[top:bottom, left:right], size, interpolation=how)
        if turned:
            picture = cv2.rotate(picture, cv2.ROTATE_90_CLOCKWISE)
        colour = np.repeat(picture[..., None], 3, axis=2)
        found: Any
        try:
            cut, found = self._engine.detect_and_crop(colour, {})
        except RapidOCRError:  # raised where there is no text
            return
        upright, _ = self._engine.cls_and_rotate(cut)
        read: Any = self._engine.recognize_txt(upright)
        for box, likely, text, sure in zip(
            found.boxes, found.scores, read.txts, read.scores, strict=True
        ):
            corners = np.asarray(box, dtype=np.float64)
            if turned:  # what is x there runs up the film from its lower edge
                corners = np.stack([corners[:, 1], size[1] - corners[:, 0]], axis=1)
            corners = corners / view.scale + (left, top)
            yield _Line(corners, float(likely), text, float(sure))


def _readings(shape: tuple[int, ...], views: Sequence[View]) -> list[View]:
    """Return the parts of a film to read, with their scales; the whole film first."""
    height, width = shape
    long, short = max(height, width), min(height, width)
    scale = min(_FILM / long, max(1.0, _LEAST / short), _FINEST)
    whole = (0, 0, width, height)
    readings = [View(whole, scale)]
    for view in dict.fromkeys(views):
        finer = min(_FINER * view.scale, _FINEST)
        if finer > _ENOUGH * scale:
            readings.append(View(view.box, finer))
    return readings


def _is_text(line: _Line, large: float) -> bool:
    """Return whether a line could name somebody, and is no single sign or mere resemblance."""
    short, long = line.sides()
    signs = sum(sign.isalnum() for sign in line.text)
    few = signs <= _FEW
    if line.sure < (_READ_FEW if few else _READ):
        return False
    if few and short > large and line.sure < _CLEAR:
        return False
    return signs >= 2 or (long >= _LONG * short and line.likely >= _LIKELY)


def _explains(shown: _Line, other: _Line) -> bool:
    """Return whether a line was read better elsewhere, as allowed words."""
    if other is shown:
        return True
    low, high = other.corners.min(axis=0), other.corners.max(axis=0)
    common = np.clip(
        np.minimum(high, shown.corners.max(axis=0)) - np.maximum(low, shown.corners.min(axis=0)),
        0.0,
        None,
    )
    return bool(
        other.sure <= shown.sure and common.prod() >= _WITHIN * max((high - low).prod(), 1.0)
    )
