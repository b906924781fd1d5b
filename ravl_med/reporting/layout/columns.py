"""How wide the columns of a table are: what their content needs, by kind; on paper and on a screen.

The same rule as that of HTML's automatic layout: what fits is as wide as its longest line, else the
room above the longest words is shared by need. Counts, intervals and states come first, so that
they stay on one line.
"""

from __future__ import annotations

from collections.abc import Sequence

from ravl_med.reporting.layout import blocks
from ravl_med.reporting.layout.pdf_style import WIDTH, text_width
from ravl_med.reporting.wording import printable

PADDING = 8.0  # of a cell, left and right together
_SLACK = 0.6  # a line that just fits is not broken
_CELL, _HEAD, _CODE = 7.5, 7.0, 6.8  # sizes of type
_CODE_LETTER = 0.602 * _CODE
_INDENT = 9.0
_PLOT, _LARGE_PLOT = (76.0, 104.0), 150.0
_PICTURE = 46.0
_LABEL = 110.0  # the least width of the names of facts, so that tables of them are alike
_LONGEST_WORD, _LONGEST_CODE = 84.0, 180.0
# Shares of a line: the most of a text and of a label, the least of a wide column if it can.
_THIRD, _QUARTER, _LEAST_WIDE = 0.34, 0.26, 0.18
_READ = 400  # characters of a cell that its width is measured by
_ON_ONE_LINE: tuple[blocks.ColumnKind, ...] = ("number", "status", "interval", "picture")
_FIRST: tuple[blocks.ColumnKind, ...] = ("text", "label")  # before wide columns


def column_widths(table: blocks.Table) -> list[float]:
    """Return the width of each column in points; they sum to the width of a line."""
    kinds = [column.kind for column in table.columns]
    floor = min(_LABEL, WIDTH / (2 * len(kinds)))
    needs = [
        _need(column, [row[at] for row in table.rows], floor, headed=table.headed)
        for at, column in enumerate(table.columns)
    ]
    most = [high for _, high in needs]
    if sum(most) <= WIDTH:
        return _widened(kinds, most)
    firm: tuple[blocks.ColumnKind, ...]
    for firm, least_wide in (
        (_ON_ONE_LINE + _FIRST, _LEAST_WIDE),
        (_ON_ONE_LINE, _LEAST_WIDE),
        (("number", "status", "picture"), _LEAST_WIDE),
        (_ON_ONE_LINE, 0.0),
        ((), 0.0),
    ):
        least = [
            high if kind in firm else max(low, min(high, least_wide * WIDTH * (kind == "wide")))
            for kind, (low, high) in zip(kinds, needs, strict=True)
        ]
        if sum(least) <= WIDTH:
            return _shared(least, most)
    total = sum(low for low, _ in needs)
    return [WIDTH * low / total for low, _ in needs]


def _widened(kinds: Sequence[blocks.ColumnKind], widths: Sequence[float]) -> list[float]:
    """Give what is left of a line to plots up to their full width, then to wide columns, or all."""
    made = list(widths)
    for at in (at for at, kind in enumerate(kinds) if kind == "plot"):
        made[at] += min(max(WIDTH - sum(made), 0.0), _LARGE_PLOT - made[at])
    for taking in ("wide", "code", "text", kinds[0]):
        count = kinds.count(taking)
        if count:
            left = (WIDTH - sum(made)) / count
            return [
                width + left * (kind == taking) for kind, width in zip(kinds, made, strict=True)
            ]
    return made


def _shared(least: Sequence[float], most: Sequence[float]) -> list[float]:
    """Share what is left above the least widths by how much more each column could use."""
    left, wanted = WIDTH - sum(least), sum(most) - sum(least)
    return [low + left * (high - low) / wanted for low, high in zip(least, most, strict=True)]


def _need(
    column: blocks.Column, cells: Sequence[blocks.Cell], floor: float, *, headed: bool
) -> tuple[float, float]:
    """Return the least and the full width: of the longest word, and of the longest line."""
    if column.kind == "plot":
        return _PLOT
    if column.kind == "picture":
        return _PICTURE, _PICTURE
    least = most = 0.0
    for cell in cells:
        for text, bold, indent in _lines(cell):
            longest, line = _measured(text[:_READ], column, bold=bold)
            least, most = max(least, longest + indent), max(most, line + indent)
    if headed and isinstance(column.head, str):
        longest, lines = _head_widths(printable(column.head, 120).split(" "))
        least, most = max(least, longest), max(most, lines)
    cap = _LONGEST_CODE if column.kind == "code" else _LONGEST_WORD
    least = min(least, cap) + PADDING + _SLACK
    if column.kind == "label":
        least = max(least, floor)
    if column.kind in _FIRST:
        most = min(most, (_THIRD if column.kind == "text" else _QUARTER) * WIDTH)
    return least, max(least, most + PADDING + _SLACK)


def _head_widths(parts: Sequence[str]) -> tuple[float, float]:
    """Return the widths of the longest part of a head, and of the head on two lines."""
    pairs = ((" ".join(parts[:at]), " ".join(parts[at:])) for at in range(1, len(parts) + 1))
    two_lines = [max(text_width(line, _HEAD, bold=True) for line in pair) for pair in pairs]
    return max(text_width(part, _HEAD, bold=True) for part in parts), min(two_lines)


def _lines(cell: blocks.Cell) -> list[tuple[str, bool, float]]:
    """Return the lines of a cell, whether each is bold, and its indent."""
    match cell:
        case blocks.Lines(lines, strong, indented):
            indent = _INDENT if indented else 0.0
            return [(text, strong and at == 0, indent) for at, text in enumerate(lines)]
        case blocks.Reference():
            return [("999", False, 0.0)]
        case blocks.Dots() | blocks.Scale() | blocks.Thumbnail():
            return []
        case str():
            return [(cell, False, 0.0)]


def _measured(text: str, column: blocks.Column, *, bold: bool) -> tuple[float, float]:
    """Return the widths of the longest word and of all of a text."""
    drawn = printable(text, _READ)
    if column.kind == "code":
        return _CODE_LETTER * max(map(len, drawn.split(" "))), _CODE_LETTER * len(drawn)
    # A value breaks before the bracket with its interval, and nowhere else.
    pieces = drawn.split(" (" if column.kind == "interval" else " ")
    longest = max(text_width(piece, _CELL, bold=bold) for piece in pieces)
    return longest, text_width(drawn, _CELL, bold=bold)
