"""What lies on one film, in names: anatomy and artifacts together.

Whether a film is a frontal one of the chest, told by its pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ravl_med.regions.anatomy import anatomical_names, find_anatomy
from ravl_med.regions.artifacts import Artifact, find_artifacts, refine_box
from ravl_med.regions.segmenter import ARTIFACTS, LETTERS, LINES, SIDE, Segmentation, Segmenter

Mask = NDArray[np.bool_]

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
"""Places that do not lie in one another, but for the heart, which lies over the lungs."""

_MEANT = 0.3  # share of a box that a place has to hold to give it its name


@dataclass(frozen=True, slots=True, eq=False)
class FilmStructures:
    """Anatomy and artifacts of a film.

    Attributes
    ----------
    anatomy : mapping of str to ndarray of shape (S, S), bool - what was found of
        `ANATOMICAL_REGIONS`, the film squashed to a square; empty on a film that is no frontal
        chest film
    artifacts : tuple of Artifact - the most certain first
    foreign : ndarray of shape (S, S), bool - where any artifact lies
    lines : ndarray of shape (S, S), bool - where any lead, tube or wire lies
    """

    anatomy: Mapping[str, Mask]
    artifacts: tuple[Artifact, ...]
    foreign: Mask
    lines: Mask

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
        """Name the artifacts that a box holds, xyxy as shares of the film, each once.

        It holds one of which half lies in it, and one that covers a sixth of it.
        """
        names = [
            artifact.name
            for artifact in self.artifacts
            if _common(artifact.box, box) >= min(0.5 * _area(artifact.box), _area(box) / 6.0)
        ]
        return tuple(dict.fromkeys(names))

    def place(self, box: Sequence[float]) -> str:
        """Name where a box lies, xyxy as shares of the film; blank where no name fits."""
        shares = {name: _share(self.anatomy[name], box) for name in _PLACES if name in self.anatomy}
        heart = shares.get("cardiac silhouette", 0.0)
        if heart >= 0.5:
            return "cardiac silhouette"
        best = max(shares, key=lambda name: shares[name], default="")
        return best if best and shares[best] >= _MEANT else ""


_EMPTY: Mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
NOTHING = FilmStructures({}, (), _EMPTY, _EMPTY)
"""A film of which nothing is known."""


def read_structures(
    segmenter: Segmenter, pixels: NDArray[np.float32], *, mirrored: bool = False
) -> FilmStructures:
    """Find anatomy and artifacts of a film.

    Segmenters take the left half of a chest film for the patient's right. A film that is known to
    be mirrored is turned for them, and what they find is turned back: the sides in the names are
    the patient's, the places those of the film.

    Parameters
    ----------
    pixels : ndarray of shape (H, W), float32 in [0, 1]
    mirrored : bool - the patient's left lies at the left edge
    """
    if mirrored:
        turned = np.ascontiguousarray(pixels[:, ::-1])
        return _turned(read_structures(segmenter, turned))
    film: Segmentation = segmenter.segment(pixels)
    artifacts = tuple(
        replace(one, box=refine_box(pixels, one.box)) if one.kind in LETTERS else one
        for one in find_artifacts(film)
    )
    return FilmStructures(find_anatomy(film), artifacts, film.mask(*ARTIFACTS), film.mask(*LINES))


def _turned(film: FilmStructures) -> FilmStructures:
    """Mirror all places, left to right; names stay."""
    return FilmStructures(
        {name: mask[:, ::-1] for name, mask in film.anatomy.items()},
        tuple(
            replace(one, box=(1.0 - one.box[2], one.box[1], 1.0 - one.box[0], one.box[3]))
            for one in film.artifacts
        ),
        film.foreign[:, ::-1],
        film.lines[:, ::-1],
    )


def box_of(mask: Mask) -> tuple[float, float, float, float]:
    """Return the box around a mask that is not empty, xyxy as shares of width and height."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        float(columns[0]) / width,
        float(rows[0]) / height,
        float(columns[-1] + 1) / width,
        float(rows[-1] + 1) / height,
    )


def _area(box: Sequence[float]) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _common(a: Sequence[float], b: Sequence[float]) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    return _area((*low, *high))


def _share(mask: Mask, box: Sequence[float]) -> float:
    """Share of a box that a mask covers; at least one pixel is looked at."""
    height, width = mask.shape
    x0, y0 = int(box[0] * width), int(box[1] * height)
    x1, y1 = max(x0 + 1, round(box[2] * width)), max(y0 + 1, round(box[3] * height))
    part = mask[y0:y1, x0:x1]
    return float(part.mean()) if part.size else 0.0


# Shares of the film. On 184 real frontal films the least of all but one is 0.06 (heart) and 0.05
# (spine); a lateral film, of which the segmenter takes the front for one lung and the back for the
# other, has a small or no heart between them, and no spine in the middle.
_LEAST_HEART, _LEAST_SPINE = 0.045, 0.045


def shows_frontal_chest(segmenter: Segmenter, pixels: NDArray[np.float32]) -> bool:
    """Tell whether both lungs are found on a film, with heart and spine as seen from the front.

    Parameters
    ----------
    segmenter : Segmenter - one that knows lungs, heart and spine
    pixels : ndarray of shape (H, W), float32 in [0, 1] - bright is dense
    """
    film = segmenter.segment(pixels)
    return bool(
        film.mask("heart").mean() >= _LEAST_HEART
        and film.mask("spine").mean() >= _LEAST_SPINE
        and find_anatomy(film)
    )
