"""Anatomical regions of a frontal chest film, from a segmenter's lungs, heart and body.

Sides are the patient's. Both lungs have to be there, each of a lung's size and shape and on its
side; otherwise the film counts as no frontal chest film, and nothing is found on it. Other regions
that are too small are left out.

References
----------
Hansell et al., Fleischner Society glossary of terms for thoracic imaging, Radiology 2008; Bankier
et al., Radiology 2024. Lung zones are thirds of a lung's height, as in Wu et al., Chest ImaGenome,
2021.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, label

from ravl_med.regions.geometry import mask_extent
from ravl_med.regions.segmenter import Segmentation

Mask = NDArray[np.bool_]

_SIDES = ("right", "left")
_PAIRED = {
    "lungs": "lung",
    "upper lung zones": "upper lung zone",
    "middle lung zones": "middle lung zone",
    "lower lung zones": "lower lung zone",
    "lung apices": "lung apex",
    "costophrenic angles": "costophrenic angle",
    "hila": "hilum",
    "pleural borders": "pleural border",
    "hemidiaphragms": "hemidiaphragm",
    "shoulders": "shoulder",
}
_SINGLE = (
    "cardiac silhouette",
    "mediastinum",
    "trachea and neck",
    "upper abdomen",
    "spine",
    "outside the body",
)

ANATOMICAL_REGIONS: tuple[str, ...] = (
    *(f"{side} {name}" for name in _PAIRED.values() for side in _SIDES),
    *_SINGLE,
)
"""All names, the paired ones by side."""

PROPOSED: tuple[str, ...] = tuple(
    name
    for name in ANATOMICAL_REGIONS
    if name not in ("right lung", "left lung", "spine", "outside the body") and "border" not in name
)
"""Regions that are proposed. Whole lungs hold their zones, and the box of a long and thin region is
mostly something else."""

_LEAST_LUNG, _MOST_LUNG = 0.02, 0.45  # shares of the film
_NOTCH = 7  # pixels of 256; a rib or a scar does not cut into a lung
_SURE, _SOLID = 0.75, 0.7  # mean likelihood of a lung, and share of its convex hull
_LEAST = 0.003
_STRAY = 0.4  # of the largest part; smaller ones are dropped


def anatomical_names(name: str) -> tuple[str, ...]:
    """Return the regions of a name: itself, both sides of a plural, or none for an unknown name."""
    plain = " ".join(name.lower().split())
    if plain in _PAIRED:
        return tuple(f"{side} {_PAIRED[plain]}" for side in _SIDES)
    return (plain,) if plain in ANATOMICAL_REGIONS else ()


def find_anatomy(film: Segmentation) -> Mapping[str, Mask]:
    """Find the `ANATOMICAL_REGIONS` of a film, as masks (S, S) of the film made square."""
    found: dict[str, Mask] = {}
    lungs = {side: _lung(film, f"{side} lung") for side in _SIDES}
    if not all(lung.any() for lung in lungs.values()):
        return {}
    across = _middle(lungs["left"]) - _middle(lungs["right"])
    down = _middle(lungs["left"].T) - _middle(lungs["right"].T)
    if across <= abs(down):  # a wrong side is worse than none, and a film may lie on its side
        return {}
    for side, lung in lungs.items():
        found |= _parts_of_lung(side, lung)
    outline = film.mask("body") if "body" in film.likelihoods else np.ones_like(lungs["right"])
    body = binary_fill_holes(outline | lungs["right"] | lungs["left"])
    found |= _around_lungs(film, lungs, body)
    found["cardiac silhouette"] = _largest(film.mask("heart"))
    found["mediastinum"] = film.mask("mediastinum")
    found["spine"] = film.mask("spine")
    found["upper abdomen"] = film.mask("abdomen") & body
    found["outside the body"] = ~body
    size = body.size
    return {name: mask for name, mask in found.items() if mask.sum() >= _LEAST * size}


def _lung(film: Segmentation, name: str) -> Mask:
    """Drop specks and fill holes; return nothing where the mask cannot be a lung."""
    mask = film.mask(name)
    parts, count = label(mask)
    if not count:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    kept = np.isin(parts, np.flatnonzero(sizes >= _STRAY * sizes.max()))
    closed = cv2.morphologyEx(kept.astype(np.uint8), cv2.MORPH_CLOSE, _disc(_NOTCH))
    filled: Mask = binary_fill_holes(closed > 0)
    plausible = (
        _LEAST_LUNG <= filled.mean() <= _MOST_LUNG
        and film.likelihoods[name][filled].mean() >= _SURE
        and _solidity(filled) >= _SOLID
    )
    return filled if plausible else np.zeros_like(mask)


def _solidity(mask: Mask) -> float:
    """Return the share of its convex hull that a mask fills."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(np.concatenate(contours))
    return float(mask.sum()) / max(cv2.contourArea(hull), 1.0)


def _largest(mask: Mask) -> Mask:
    parts, count = label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest: Mask = parts == sizes.argmax()
    return largest


def _middle(mask: Mask) -> float:
    """Return the mean column of a mask that is not empty."""
    return float(np.nonzero(mask)[1].mean())


def _parts_of_lung(side: str, lung: Mask) -> dict[str, Mask]:
    x0, y0, x1, y1 = mask_extent(lung)
    wide, tall = x1 - x0, y1 - y0
    row = (np.arange(len(lung))[:, None] + 0.5 - y0) / tall  # 0 at the apex, 1 at the base
    column = (np.arange(lung.shape[1])[None, :] + 0.5 - x0) / wide
    outward = 1.0 - column if side == "right" else column  # 1 at the outer wall
    radius = max(2, round(0.12 * wide))
    shrunk = np.asarray(cv2.erode(lung.astype(np.uint8), _disc(radius)) > 0)
    low = lung.shape[0] - 1 - np.argmax(lung[::-1], axis=0)  # lowest row of each column
    rows = np.arange(len(lung))[:, None]
    reach = round(0.06 * tall)
    lowest: Mask = np.asarray(lung.any(axis=0))[None, :]
    dome = (np.abs(rows - low[None, :]) <= reach) & lowest & (row > 0.5)
    inside = (row >= 0.0) & (row <= 1.0)
    return {
        f"{side} lung": lung,
        f"{side} upper lung zone": lung & (row < 1 / 3),
        f"{side} middle lung zone": lung & (row >= 1 / 3) & (row < 2 / 3),
        f"{side} lower lung zone": lung & (row >= 2 / 3),
        f"{side} lung apex": lung & (row < 0.17),
        f"{side} costophrenic angle": (row > 0.72) & (row < 1.05) & (outward > 0.55)
        & (outward <= 1.05),
        f"{side} hilum": inside & (row > 0.3) & (row < 0.6) & (outward >= 0.0) & (outward < 0.45),
        f"{side} pleural border": lung & ~shrunk & ((outward > 0.45) | (row < 0.25)),
        f"{side} hemidiaphragm": dome,
    }  # fmt: skip


def _around_lungs(film: Segmentation, lungs: Mapping[str, Mask], body: Mask) -> dict[str, Mask]:
    both = lungs["right"] | lungs["left"]
    x0, y0, x1, y1 = mask_extent(both)
    row, column = np.ogrid[: both.shape[0], : both.shape[1]]
    high = row < y0 + 0.35 * (y1 - y0)
    quarter = 0.25 * (x1 - x0)
    neck = body & (row < y0 + 0.1 * (y1 - y0)) & (column > x0 + quarter) & (column < x1 - quarter)
    shoulders = body & ~both & high
    return {
        "trachea and neck": (neck | (film.mask("airway") & (row < y0 + 0.45 * (y1 - y0)))) & ~both,
        "right shoulder": shoulders & (column < x0 + 0.5 * quarter),
        "left shoulder": shoulders & (column > x1 - 0.5 * quarter),
    }


def _disc(radius: int) -> NDArray[np.uint8]:
    size = 2 * radius + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), dtype=np.uint8)
