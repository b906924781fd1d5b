"""Where a finding shows: the table that tells a sign from a shortcut.

A clean model uses the enlarged heart for cardiomegaly, and RaVL reports that cluster too; no
statistic clears it. What can is the place of the effect. The table names, finding by finding, the
anatomy in which the disease shows; where no segmenter knows the anatomy, film-relative boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ravl_med.config import parse_yaml
from ravl_med.errors import ConfigError
from ravl_med.evidence.claims import Kind
from ravl_med.regions.anatomy import ANATOMICAL_REGIONS, anatomical_names

__all__ = ["RelevanceTable", "RelevantPlaces", "kind_of_share", "read_relevance"]

Box = tuple[float, float, float, float]

_KEYS = ("anatomy", "boxes", "artifacts", "also", "source")


@dataclass(frozen=True, slots=True)
class RelevantPlaces:
    """Where one finding shows.

    Attributes
    ----------
    anatomy : tuple of str - out of `ANATOMICAL_REGIONS`
    boxes : tuple of boxes (x0, y0, x1, y1) - shares of width and height of the film as it is shown
    artifacts : bool - the finding is itself a device
    """

    anatomy: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    artifacts: bool = False


@dataclass(frozen=True, slots=True)
class RelevanceTable:
    """Where findings show.

    Attributes
    ----------
    places : mapping of finding, in lower case, to RelevantPlaces
    """

    places: Mapping[str, RelevantPlaces]

    def find(self, finding: str) -> RelevantPlaces | None:
        """Return the places of a finding, or None when the table does not know it."""
        return self.places.get(_plain(finding))


def read_relevance(path: Path) -> RelevanceTable:
    """Read a relevance table.

    Raises
    ------
    ConfigError
        The file is not a table of findings with known anatomy, or with boxes of four shares in
        rising order.
    """
    data = parse_yaml(path)
    where = f"evidence.relevance {path.name!r}"
    findings = data.get("findings") if isinstance(data, dict) else None
    if not isinstance(findings, dict) or not findings:
        raise ConfigError(f"{where}: expected a mapping 'findings' of finding to its places.")
    places: dict[str, RelevantPlaces] = {}
    for name, entry in findings.items():
        parsed = _places(entry, f"{where}: {name}")
        for alias in (name, *_names(entry, "also", f"{where}: {name}")):
            places[_plain(alias)] = parsed
    return RelevanceTable(places)


def kind_of_share(share: float, sign_share: float, shortcut_share: float) -> Kind:
    """Turn the relevant share into a kind; NaN is undecided."""
    if share >= sign_share:
        return "plausible_sign"
    if share <= shortcut_share:
        return "shortcut"
    return "undecided"


def _plain(name: Any) -> str:
    return " ".join(str(name).replace("_", " ").lower().split())


def _places(entry: Any, where: str) -> RelevantPlaces:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: expected a mapping with 'anatomy' or 'boxes'.")
    if extra := sorted(set(entry) - set(_KEYS)):
        raise ConfigError(f"{where}: unknown key {extra[0]!r}; known: {', '.join(_KEYS)}.")
    anatomy: list[str] = []
    for name in _names(entry, "anatomy", where):
        known = anatomical_names(str(name))
        if not known:
            raise ConfigError(
                f"{where}: anatomy {name!r} is not known; expected one of "
                f"{', '.join(ANATOMICAL_REGIONS)}, or a plural for both sides."
            )
        anatomy += known
    boxes = tuple(_box(box, where) for box in _names(entry, "boxes", where))
    artifacts = entry.get("artifacts") or False
    if not isinstance(artifacts, bool):
        raise ConfigError(f"{where}: 'artifacts' is {artifacts!r}; expected true or false.")
    # Without a place every effect would lie outside, and every correlation would be a shortcut.
    if not (anatomy or boxes or artifacts):
        raise ConfigError(f"{where}: expected 'anatomy', 'boxes' or 'artifacts', not empty.")
    return RelevantPlaces(tuple(dict.fromkeys(anatomy)), boxes, artifacts)


def _names(entry: Mapping[str, Any], key: str, where: str) -> list[Any]:
    names = entry.get(key) or []
    if not isinstance(names, list):
        raise ConfigError(f"{where}: {key!r} is {names!r}; expected a list.")
    return names


def _box(value: Any, where: str) -> Box:
    try:
        x0, y0, x1, y1 = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: a box is {value!r}; expected [x0, y0, x1, y1].") from None
    if not (0.0 <= x0 < x1 <= 1.0 and 0.0 <= y0 < y1 <= 1.0):
        raise ConfigError(f"{where}: a box is {value!r}; expected shares 0 <= x0 < x1 <= 1.")
    return x0, y0, x1, y1
