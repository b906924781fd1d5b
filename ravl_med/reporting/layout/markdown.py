"""Blocks, lists and tables as Markdown, for what is read beside a report: the cards of a model.

Every text passes `printable` here, and no character of it is markup.

References
----------
CommonMark 0.31, 2.4 (backslash escapes); GitHub Flavored Markdown 4.10 (tables).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from ravl_med.reporting.layout import blocks
from ravl_med.reporting.wording import NBSP, printable

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")
_PAIR_LIMITS = (60, 140)


def escaped(text: str, limit: int = 1500) -> str:
    """Return text on one line in which nothing is markup."""
    plain = _SPECIAL.sub(r"\\\1", printable(text, limit)).replace("&", "&amp;")
    return plain.replace(NBSP, " ")


def code(text: str) -> str:
    """Return a short text, such as a digest, to be read character by character."""
    return f"`{printable(text, 80).replace('`', '')}`"


def bullets(texts: Iterable[str], limit: int = 600) -> str:
    """Return texts as a list; blank for none."""
    return "\n".join(f"- {escaped(text, limit)}" for text in texts)


def pair_table(name: str, value: str, entries: Mapping[str, str]) -> str:
    """Return names and values as a table of two columns; blank for none."""
    shown = [
        " | ".join(escaped(part, limit) for part, limit in zip(entry, _PAIR_LIMITS, strict=True))
        for entry in entries.items()
    ]
    rows = [f"| {row} |" for row in shown]
    return "\n".join([f"| {name} | {value} |", "|---|---|", *rows]) if rows else ""


def markdown_table(table: blocks.Table, *, captioned: bool = True) -> str:
    """Return a table without dots and pages, the caption above and the note below."""
    shown = [at for at in range(len(table.columns)) if _is_text(table, at)]
    heads = [_cell(table.columns[at].head, 120) for at in shown]
    sides = ["---:" if table.columns[at].kind == "number" else "---" for at in shown]
    rows = [[_cell(row[at], table.limit) for at in shown] for row in table.rows]
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, sides, *rows)]
    caption = [f"**{escaped(table.caption)}**"] if captioned else []
    note = [escaped(table.note)] if table.note else []
    return "\n\n".join([*caption, "\n".join(lines), *note])


def as_markdown(content: Sequence[blocks.Block]) -> list[str]:
    """Return texts, lists and tables of blocks, one string each; what is drawn is left out."""
    texts: list[str] = []
    for block in content:
        match block:
            case blocks.Section(title):
                texts.append(f"**{escaped(title)}**")
            case blocks.Text(text, _, limit):
                texts.append(escaped(text, limit))
            case blocks.Items(items, limit):
                texts.append(bullets(items, limit))
            case blocks.Table():
                texts.append(markdown_table(block, captioned=block.titled))
            case blocks.KeepTogether(inner):
                texts += as_markdown(inner)
            case _:
                continue
    return texts


def _is_text(table: blocks.Table, at: int) -> bool:
    """Whether a column holds text or numbers, no dots and no page numbers."""
    drawn = isinstance(table.columns[at].head, blocks.Scale)
    return not drawn and not any(isinstance(row[at], blocks.Reference) for row in table.rows)


def _cell(value: blocks.Cell, limit: int) -> str:
    match value:
        case blocks.Lines(lines, strong):
            texts = [escaped(line, limit) for line in lines]
            texts[:1] = [f"**{text}**" if strong else text for text in texts[:1]]
            return "<br>".join(texts)
        case str():
            return escaped(value, limit)
        case blocks.Dots() | blocks.Scale() | blocks.Reference() | blocks.Thumbnail():
            return ""
