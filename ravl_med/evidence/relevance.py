"""Shortcut or sign, told from where the removal effect lies.

A clean model uses the enlarged heart for cardiomegaly, and RaVL reports that cluster too; no
statistic clears it. What can is the place of the effect. The table names, finding by finding,
film-relative boxes in which the disease shows on a frontal film.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravl_med.config import parse_yaml
from ravl_med.errors import ConfigError
from ravl_med.evidence.claims import Kind

__all__ = ["RelevanceTable", "kind_of_share", "read_relevance", "relevant_share"]

_GRID = 200


@dataclass(frozen=True, slots=True)
class RelevanceTable:
    """Where findings show.

    Attributes
    ----------
    boxes : mapping of finding to tuple of boxes (x0, y0, x1, y1) - shares of width and height of
        the film as it is shown
    """

    boxes: Mapping[str, tuple[tuple[float, float, float, float], ...]]

    def find(self, finding: str) -> tuple[tuple[float, float, float, float], ...] | None:
        """Return the boxes of a finding, or None when the table does not know it."""
        return self.boxes.get(finding.strip().lower())


def read_relevance(path: Path) -> RelevanceTable:
    """Read a relevance table.

    Raises
    ------
    ConfigError
        The file is not a table of findings with boxes of four shares in rising order.
    """
    data = parse_yaml(path)
    where = f"evidence.relevance {path.name!r}"
    findings = data.get("findings") if isinstance(data, dict) else None
    if not isinstance(findings, dict) or not findings:
        raise ConfigError(f"{where}: expected a mapping 'findings' of finding to boxes.")
    boxes: dict[str, tuple[tuple[float, float, float, float], ...]] = {}
    for name, entry in findings.items():
        parsed = tuple(_box(box, f"{where}: {name}") for box in _boxes_of(entry, where, name))
        for alias in (name, *_aliases_of(entry, where, name)):
            boxes[str(alias).strip().lower()] = parsed
    return RelevanceTable(boxes)


def _boxes_of(entry: Any, where: str, name: Any) -> list[Any]:
    known = {"boxes", "also", "source"}
    boxes = entry.get("boxes") if isinstance(entry, dict) else None
    # Without a box every effect would lie outside, and every correlation would be a shortcut.
    if not isinstance(boxes, list) or not boxes:
        raise ConfigError(f"{where}: {name}: expected a mapping with a list 'boxes', not empty.")
    if extra := sorted(set(entry) - known):
        raise ConfigError(f"{where}: {name}: unknown key {extra[0]!r}; known: {sorted(known)}.")
    return list(boxes)


def _aliases_of(entry: dict[str, Any], where: str, name: Any) -> list[str]:
    also = entry.get("also") or []
    if not isinstance(also, list):
        raise ConfigError(f"{where}: {name}: 'also' is {also!r}; expected a list of names.")
    return also


def _box(value: Any, where: str) -> tuple[float, float, float, float]:
    try:
        x0, y0, x1, y1 = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: a box is {value!r}; expected [x0, y0, x1, y1].") from None
    if not (0.0 <= x0 < x1 <= 1.0 and 0.0 <= y0 < y1 <= 1.0):
        raise ConfigError(f"{where}: a box is {value!r}; expected shares 0 <= x0 < x1 <= 1.")
    return x0, y0, x1, y1


def relevant_share(
    boxes: NDArray[np.float32],
    sizes: NDArray[np.int64],
    effect: NDArray[np.float64],
    relevant: tuple[tuple[float, float, float, float], ...],
) -> float:
    """Return the share of the positive removal effect that lies inside relevant boxes.

    The effect of a region is spread evenly over its area.

    Parameters
    ----------
    boxes : ndarray of shape (n, 4), float32 - xyxy in stored pixels
    sizes : ndarray of shape (n, 2), int64 - height and width of the film of each region
    effect : ndarray of shape (n,), float64 - NaN where not measured
    relevant : tuple of boxes - shares of width and height

    Returns
    -------
    float - NaN when no region has a positive effect
    """
    weight = np.where(np.isfinite(effect) & (effect > 0), effect, 0.0)
    if weight.sum() == 0:
        return float("nan")
    mask = np.zeros((_GRID + 1, _GRID + 1))
    centres = (np.arange(_GRID) + 0.5) / _GRID
    for x0, y0, x1, y1 in relevant:
        inside = ((centres >= y0) & (centres < y1))[:, None] & ((centres >= x0) & (centres < x1))
        mask[1:, 1:] = np.maximum(mask[1:, 1:], inside)
    table = mask.cumsum(axis=0).cumsum(axis=1)
    height, width = sizes[:, 0], sizes[:, 1]
    grid = np.stack(
        [boxes[:, 0] / width, boxes[:, 1] / height, boxes[:, 2] / width, boxes[:, 3] / height],
        axis=1,
    )
    x0, y0, x1, y1 = np.clip(np.rint(grid * _GRID), 0, _GRID).astype(np.int64).T
    x1, y1 = np.maximum(x1, np.minimum(x0 + 1, _GRID)), np.maximum(y1, np.minimum(y0 + 1, _GRID))
    covered = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
    area = np.maximum((x1 - x0) * (y1 - y0), 1)
    return float((weight * covered / area).sum() / weight.sum())


def kind_of_share(share: float, sign_share: float, shortcut_share: float) -> Kind:
    """Turn the relevant share into a kind; NaN is undecided."""
    if share >= sign_share:
        return "plausible_sign"
    if share <= shortcut_share:
        return "shortcut"
    return "undecided"
