"""Words and numbers as the report prints them: the same on a page, in a picture, in a table.

Whatever comes from outside (class names, prompts, pseudonyms, messages) passes `printable`: control
and direction characters go, a character that the fonts cannot draw is named by its code point, and
what is too long ends in an ellipsis. Escaping for markup is the business of the page.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font

from ravl_med.cohort.dicom_header import Edge
from ravl_med.evidence.audit_result import Gate, VerdictName
from ravl_med.evidence.results import Decision, Interval

DASH = "–"
HIDDEN_TEXT = "hidden"
"""Stands for a count of few patients, or one that would reveal such a count."""
NBSP = "\u00a0"
RESIZE_TEXT = {
    "squash": "stretched to a square",
    "shortest": "cut to the square in the middle",
    "longest": "padded to a square",
}
"""How films become inputs, by the name of open_clip."""

VERDICT_NAMES: dict[VerdictName, str] = {
    "fail": "Fail",
    "review": "Review",
    "conditional": "Conditional",
    "pass": "Pass",
    "not_auditable": "Not auditable",
}
VERDICT_LINES: dict[VerdictName, str] = {
    "fail": "Do not use this model as it stands.",
    "review": "A person has to decide before this model is used.",
    "conditional": "Use this model only under the conditions below.",
    "pass": "No shortcut above the thresholds, within what these films can show.",
    "not_auditable": "The films or the model do not allow an answer.",
}
DECISION_TEXT: dict[Decision, str] = {
    "disease": "is the disease",
    "accepted": "tolerated for a time",
    "shortcut": "is a shortcut",
    "chance": "is chance",
    "cannot_tell": "cannot be told",
}
EDGE_TEXT: dict[Edge, str] = {
    "R": "patient's right at the left edge",
    "L": "patient's left at the left edge",
    "A": "patient's front at the left edge",
    "P": "patient's back at the left edge",
    "H": "patient's head at the left edge",
    "F": "patient's feet at the left edge",
    "": "side not stated",
}
"""What lies at the left edge of a film."""
KIND_NAMES = {"shortcut": "shortcut", "plausible_sign": "plausible sign", "undecided": "undecided"}

_CLASS_LIMIT = 40
_CLASSES_NAMED = 3
_LEAST_PROBABILITY = 0.001

REGION_PROBLEMS = {
    "anatomy_not_found": "films on which no anatomy was found",
    "looks_lateral": "films that look lateral, on which no anatomy is named",
    "looks_turned": "films that lie on a side or on their head, on which no anatomy is named",
    "looks_mirrored": "films that look mirrored and do not say so: sides are the picture's",
    "over_limit": "regions left out, more than a film may have (regions.max_per_image)",
    "no_region": "films without any region, which took tiles",
    "other_image": "images of the table that are none of these films",
    "size_differs": "boxes drawn on a film of another size",
    "box_outside": "boxes mostly outside the film",
    "box_empty": "boxes without extent",
    "blank_mask": "blank masks",
    "unknown_value": "masks whose values have no name",
    "other_study": "annotations of another film",
    "no_frame_of_reference": "RT structure sets, which a projection film has no frame for",
    "no_graphics": "presentation states without a graphic on the film",
    "missing": "annotation files that are not there",
    "unreadable": "annotation files that cannot be read",
    "unknown_format": "annotation files of another kind",
}
"""Why something did not become a region."""


def font_file(name: str) -> Path:
    """Return the path of a DejaVu font that ships with matplotlib, such as ``DejaVuSans-Bold``."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


@cache
def _glyphs() -> frozenset[int]:
    """Code points that every font of the report can draw."""
    faces = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono")
    maps = [set(FT2Font(str(font_file(face))).get_charmap()) for face in faces]
    return frozenset(set.intersection(*maps))


@cache
def _drawable(char: str) -> str:
    """Return what is drawn for one character: itself, its code point, or nothing."""
    category = unicodedata.category(char)
    if category in ("Cc", "Cf") or 0xFE00 <= ord(char) <= 0xFE0F:
        return ""
    # Right-to-left letters would be set in the wrong order: better a code point than a wrong word.
    backwards = unicodedata.bidirectional(char) in ("R", "AL")
    if backwards or category in ("Cs", "Co", "Cn") or ord(char) not in _glyphs():
        return f"U+{ord(char):04X}"
    return char


def _draw(text: str, limit: int) -> str:
    drawn: list[str] = []
    length, named = 0, False
    for char in text:
        piece = _drawable(char)
        if not piece:
            continue
        names = len(piece) > 1
        # A code point stands apart from what is around it.
        if drawn and piece != " " and drawn[-1] != " " and (names or named):
            piece = f" {piece}"
        named = names
        if length + len(piece) > limit:
            return "".join(drawn)[: limit - 1].rstrip() + "…"
        drawn.append(piece)
        length += len(piece)
    return "".join(drawn)


@lru_cache(maxsize=4096)  # tables say the same words in cell after cell
def printable(text: str, limit: int = 80) -> str:
    """Return text that the fonts of the report can draw, on one line, at most `limit` long.

    Control and direction characters are dropped; longer text ends in an ellipsis.
    """
    seen = "".join(c for c in text[: 8 * limit] if c.isspace() or _drawable(c))
    flat = re.sub(r"\s+", _one_space, unicodedata.normalize("NFC", seen)).strip(f" {NBSP}")
    # A character that is spelled out brings spaces of its own.
    return re.sub(r"\s+", _one_space, _draw(flat, limit)).strip(f" {NBSP}")


def _one_space(match: re.Match[str]) -> str:
    return NBSP if match.group() == NBSP else " "


def printable_block(text: str, width: int, lines: int) -> str:
    """Return preformatted text in lines of at most `width`, cut after `lines` with a remark."""
    made: list[str] = []
    rows = text.splitlines()
    for row in rows:
        drawn = _draw(unicodedata.normalize("NFC", row.replace("\t", "    ")), 40 * width)
        made += [drawn[at : at + width] for at in range(0, max(len(drawn), 1), width)]
        if len(made) > lines:
            return "\n".join([*made[:lines], "… (cut here; the run folder holds the whole file)"])
    return "\n".join(made)


def number(value: float, decimals: int = 2) -> str:
    """Return a number with a real minus sign; a dash where there is none."""
    if not math.isfinite(value):
        return DASH
    text = f"{value:.{decimals}f}"
    text = text.lstrip("-") if float(text) == 0 else text
    return text.replace("-", "−")


def signed(value: float, decimals: int = 1) -> str:
    """Return a number with its sign, a real minus; a dash where there is none."""
    text = number(value, decimals)
    return f"+{text}" if math.isfinite(value) and float(f"{value:.{decimals}f}") > 0 else text


def percent(value: float, decimals: int = 0) -> str:
    """Return a share as percent: ``0.97`` is ``97 %``."""
    text = number(100 * value, decimals)
    return text if text == DASH else f"{text}{NBSP}%"


def spread(
    interval: Interval, decimals: int = 0, *, scale: float = 100.0, sign: bool = True
) -> str:
    """Return an interval as ``+48 to +63``; a dash where a bound is missing."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return DASH
    write = signed if sign else number
    low, high = write(scale * interval.low, decimals), write(scale * interval.high, decimals)
    return f"{low} to {high}"


def estimate(value: float, interval: Interval, decimals: int = 1, *, scale: float = 100.0) -> str:
    """Return a value with its interval, ``+56.0 (+48.1 to +63.2)``, both in points by default."""
    return bracketed(signed(scale * value, decimals), spread(interval, decimals, scale=scale))


def bracketed(value: str, bounds: str) -> str:
    """Return a value with its interval; a line ends before the interval, not inside."""
    return value if DASH in (value, bounds) else f"{value} ({bounds.replace(' ', NBSP)})"


def gate_mark(gate: Gate) -> str:
    """Say whether a gate holds, or that a person has to decide before it does."""
    return "? open" if gate.open else "✓ met" if gate.passed else "✗ not met"


def accuracy_text(value: float, interval: Interval) -> str:
    """Return an accuracy as ``71.1 % (67.9 to 74.2)``; a dash where there is none."""
    return bracketed(percent(value, 1), spread(interval, 1, sign=False))


def score_text(value: float, interval: Interval, decimals: int = 3) -> str:
    """Return a score between 0 and 1 with its interval, ``0.912 (0.880 to 0.941)``."""
    return bracketed(number(value, decimals), spread(interval, decimals, scale=1.0, sign=False))


def probability(value: float) -> str:
    """Return a p- or q-value: three decimals, ``< 0.001`` below that, a dash where none is."""
    if math.isfinite(value) and value < _LEAST_PROBABILITY:
        return f"<{NBSP}{_LEAST_PROBABILITY}"
    return number(value, 3)


def ordinal(count: int) -> str:
    """Return ``1st``, ``2nd``, ``3rd``, ``11th``."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
    return f"{count:,}{'th' if count % 100 in (11, 12, 13) else ending}"


def counted(count: int) -> str:
    """Return a count such as ``1,200``; a word where it is hidden."""
    return f"{count:,}" if count >= 0 else HIDDEN_TEXT


def with_without(present: int, absent: int) -> str:
    """Return ``30 / 41``, films with and without a feature; one word where they are hidden."""
    if present < 0 and absent < 0:
        return HIDDEN_TEXT
    return f"{counted(present)} / {counted(absent)}"


def of_patients(films: int, patients: int) -> str:
    """Return ``120 (80)``, films and in brackets their patients; one word where they are hidden."""
    if films < 0 and patients < 0:
        return HIDDEN_TEXT
    return f"{counted(films)} ({counted(patients)})"


def plural(count: int, noun: str, ending: str = "s") -> str:
    """Return ``1 film``, ``2 films``, ``1,200 films``; ``a hidden number of films``."""
    if count < 0:
        return f"a {HIDDEN_TEXT} number of {noun}{ending}"
    return f"{count:,} {noun}{'' if count == 1 else ending}"


def listing(items: list[str], shown: int) -> str:
    """Return ``a, b, and 4 more``."""
    rest = len(items) - shown
    return ", ".join(items[:shown]) + (f", and {rest} more" if rest > 0 else "")


def hidden_sentence(least: int, where: str = "") -> str:
    """Say what stands for counts of fewer than `least` patients; blank where none is hidden."""
    if not least:
        return ""
    return (
        f"“{HIDDEN_TEXT.capitalize()}” replaces{f', {where},' if where else ''} numbers of fewer "
        f"than {least} patients, and numbers that they could be worked out from "
        "(privacy.min_cell). "
        f"Rates are the middle of steps that hold {least} patients or more; q is an upper bound."
    )


def first_of(texts: Sequence[str], shown: int, noun: str = "") -> list[str]:
    """Return the first texts of many, and a last one that says how many more there are."""
    rest = len(texts) - shown
    more = f"and {plural(rest, f'more {noun}') if noun else f'{rest} more'}"
    return [*texts[:shown], *([more] if rest > 0 else [])]


def class_name(classes: tuple[str, ...], index: int, limit: int = _CLASS_LIMIT) -> str:
    """Return the name of a class as it is printed."""
    return printable(classes[index], limit) or f"class {index + 1}"


def class_names(classes: tuple[str, ...], indices: tuple[int, ...]) -> str:
    """Return ``a, b, c, and 2 more``; a dash without any class."""
    names = [class_name(classes, index) for index in indices]
    return listing(names, _CLASSES_NAMED) or DASH
