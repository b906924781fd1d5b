"""Text on films by OCR: RapidOCR with the PP-OCR networks that its package ships.

Its networks are named by path, so that nothing is ever fetched, and run on one thread. What is
looked for is what somebody could read in a report: the whole film is read at twice the size at
which it is shown there, each part that is shown by itself at twice the size of that, from the
stored pixels with their contrast made even.

References
----------
RapidOCR (Apache-2.0); PaddleOCR, PP-OCR networks (Apache-2.0); Liao et al., Real-time scene text
detection with differentiable binarization, AAAI 2020.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ravl_med.regions.text_search import TextArea, View, only_allowed

__all__ = ["TextReader", "reader_version"]

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
_ENOUGH = 1.1  # times the scale of the whole film, from which reading a part again can tell more
_SURE = 0.8  # of a reading, before a word counts as allowed
_LONG, _LIKELY = 1.8, 0.5  # a single sign is more of them, if it is long and the line is likely
_LARGE, _CLEAR = 0.04, 0.7  # share of the film; few signs that are higher have to be read so well
_FEW, _READ_FEW, _READ = 3, 0.4, 0.3  # edges of bones look like few signs, not read so well
_WITHIN = 0.8  # share of an area that lies in another one


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """A line that was found, while it is still known what it says."""

    corners: NDArray[np.float64]
    likely: float
    text: str
    sure: float

    def sides(self) -> tuple[float, float]:
        """Return the shorter and the longer side in pixels."""
        across = float(np.linalg.norm(self.corners[1] - self.corners[0]))
        down = float(np.linalg.norm(self.corners[3] - self.corners[0]))
        return min(across, down), max(across, down)


def reader_version() -> str:
    """Return name and version of the OCR, blank where it or its networks are not installed."""
    if any(find_spec(name) is None for name in _PACKAGES) or len(_networks()) < len(_NETWORKS):
        return ""
    return " with ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)


def _networks() -> dict[str, Path]:
    """Return the networks that the package ships, by what they do."""
    spec = find_spec(_PACKAGES[0])
    places = [] if spec is None else (spec.submodule_search_locations or [])
    found = {}
    for task, name in _NETWORKS.items():
        files = sorted(path for place in places for path in Path(place, "models").glob(name))
        if files:
            found[task] = files[0]
    return found


class TextReader:
    """Finds text by OCR.

    Parameters
    ----------
    allowed : frozenset of str - words that may be shown, from `fold_words`
    """

    reads = True

    def __init__(self, allowed: frozenset[str]) -> None:
        from rapidocr import RapidOCR

        self.method = reader_version()
        self._allowed = allowed
        threads = {
            f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")
        }
        self._engine = RapidOCR(
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
        """Find the text on a film.

        Parameters
        ----------
        film : ndarray of shape (H, W), uint8 - at its stored resolution
        views : sequence of View - parts of it that are shown enlarged
        """
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
            line for line in lines if line.sure >= _SURE and only_allowed(line.text, self._allowed)
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
        """Read a part of a film at a scale, as it stands or from its left side."""
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
        except RapidOCRError:  # its way to say that there is no text
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
    """Return what is read of a film, and at which scale; the whole film first."""
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
    """Tell text that could name somebody from single signs and from what only looks like text."""
    short, long = line.sides()
    signs = sum(sign.isalnum() for sign in line.text)
    few = signs <= _FEW
    if line.sure < (_READ_FEW if few else _READ):
        return False
    if few and short > large and line.sure < _CLEAR:
        return False
    return signs >= 2 or (long >= _LONG * short and line.likely >= _LIKELY)


def _explains(shown: _Line, other: _Line) -> bool:
    """Tell whether a line is one that was read better elsewhere, as allowed words."""
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
