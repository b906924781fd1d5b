"""Words and numbers as the report prints them: the same on a page, in a picture, in a table.

Whatever comes from outside (class names, prompts, pseudonyms, messages) passes `printable`: control
and direction characters go, a character that the fonts cannot draw is named by its code point, and
what is too long ends in an ellipsis. Escaping for markup is the business of the page.
"""

from __future__ import annotations

import math
import re
import unicodedata
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font

from ravl_med.evidence.audit_result import Interval, SpuriousCorrelation, VerdictName

__all__ = [
    "DASH",
    "KIND_WORDS",
    "NBSP",
    "VERDICT_LINES",
    "VERDICT_WORDS",
    "class_name",
    "correlation_heading",
    "correlation_sentence",
    "font_file",
    "gap_words",
    "kind_sentence",
    "listing",
    "number",
    "percent",
    "plural",
    "printable",
    "printable_block",
    "signed",
    "spread",
]

DASH = "–"
NBSP = "\u00a0"

VERDICT_WORDS: dict[VerdictName, str] = {
    "fail": "Fail",
    "review": "Review",
    "pass": "Pass",
    "not_auditable": "Not auditable",
}
VERDICT_LINES: dict[VerdictName, str] = {
    "fail": "Do not use this model as it stands.",
    "review": "A person has to decide before this model is used.",
    "pass": "No shortcut above the thresholds, within what these films can show.",
    "not_auditable": "The films or the model do not allow an answer.",
}
KIND_WORDS = {"shortcut": "shortcut", "plausible_sign": "plausible sign", "undecided": "undecided"}

_CLASS_LIMIT = 40
_LOWERED_SHOWN = 3


def font_file(name: str) -> Path:
    """Return the path of a DejaVu font that ships with matplotlib, such as ``DejaVuSans-Bold``."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


@cache
def _glyphs() -> frozenset[int]:
    """Code points that every font of the report can draw."""
    faces = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono")
    maps = [set(FT2Font(str(font_file(face))).get_charmap()) for face in faces]
    return frozenset(set.intersection(*maps))


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


def printable(text: str, limit: int = 80) -> str:
    """Return text that the fonts of the report can draw, on one line, at most `limit` long.

    Parameters
    ----------
    text : str
        Anything; control and direction characters are dropped.
    limit : int
        Length of the result; longer text ends in an ellipsis.
    """
    seen = "".join(c for c in text[: 8 * limit] if c.isspace() or _drawable(c))
    flat = re.sub(r"\s+", _one_space, unicodedata.normalize("NFC", seen)).strip(f" {NBSP}")
    return _draw(flat, limit).strip(f" {NBSP}")


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


def plural(count: int, word: str, ending: str = "s") -> str:
    """Return ``1 film``, ``2 films``, ``1,200 films``."""
    return f"{count:,} {word}{'' if count == 1 else ending}"


def listing(items: list[str], shown: int) -> str:
    """Return ``a, b, and 4 more``."""
    rest = len(items) - shown
    return ", ".join(items[:shown]) + (f", and {rest} more" if rest > 0 else "")


def class_name(classes: tuple[str, ...], index: int, limit: int = _CLASS_LIMIT) -> str:
    """Return the name of a class as it is printed."""
    return printable(classes[index], limit) or f"class {index + 1}"


def correlation_heading(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> str:
    """Return rank, kind, raised class and lowered classes in one line."""
    cluster = correlation.cluster
    lowered = [class_name(classes, c) for c in cluster.lowered_classes]
    # Only what counts has a kind.
    outcome = KIND_WORDS[correlation.kind] if correlation.counts else "not counted"
    parts = [
        f"Correlation {correlation.rank}: {outcome}",
        f"raises {class_name(classes, cluster.raised_class)}",
    ]
    if lowered:
        parts.append(f"lowers {listing(lowered, _LOWERED_SHOWN)}")
    return " · ".join(parts)


def correlation_sentence(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> str:
    """Say what goes with the feature; that the model follows it only where the evidence counts."""
    cluster = correlation.cluster
    raised = class_name(classes, cluster.raised_class)
    start = (
        f"When the feature in cluster {cluster.cluster} is present, the model tends to call "
        f"films {raised}"
        if correlation.counts
        else f"Films with the feature in cluster {cluster.cluster} and films without it differ in "
        "accuracy, an association that does not pass every rule of evidence"
    )
    shown = (cluster.raised_class, *cluster.lowered_classes[:_LOWERED_SHOWN])
    parts = [
        f"{'accuracy ' if at == 0 else ''}on {class_name(classes, c)} "
        f"{percent(float(cluster.accuracy_present[c]))} with it and "
        f"{percent(float(cluster.accuracy_absent[c]))} without"
        for at, c in enumerate(shown)
    ]
    rest = len(cluster.lowered_classes) - _LOWERED_SHOWN
    if rest > 0:
        parts.append(f"{rest} more {'class is' if rest == 1 else 'classes are'} lowered")
    return f"{start}: {'; '.join(parts)}."


def gap_words(correlation: SpuriousCorrelation, index: int, classes: tuple[str, ...]) -> str:
    """Return the gap of one class with its interval, in points."""
    value = signed(100 * float(correlation.cluster.gap[index]))
    return f"{class_name(classes, index)} {value} ({spread(correlation.gap_interval[index], 1)})"


def kind_sentence(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> str:
    """Say what the kind means for the raised class."""
    raised = class_name(classes, correlation.cluster.raised_class)
    share = correlation.removal.inside_share
    where = (
        f"{percent(share)} of the positive removal effect lies where {raised} shows"
        if math.isfinite(share)
        else f"How much of the removal effect lies where {raised} shows is not known"
    )
    if not correlation.counts:
        return f"{where}."
    meaning = {
        "shortcut": "the effect comes from elsewhere, which speaks for a shortcut",
        "plausible_sign": "the feature may be the finding itself; a radiologist has to say",
        "undecided": "whether this is a sign or a shortcut is open; a radiologist has to look",
    }[correlation.kind]
    return f"{where}: {meaning}."
