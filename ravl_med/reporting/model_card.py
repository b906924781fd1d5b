"""The model card: ``README.md`` beside the weights of a delivered model.

Who finds the folder alone has to see what the model is, what was measured, what got worse and what
nobody knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ravl_med import __version__
from ravl_med.evidence.mitigation_result import ArmOutcome, MitigationResult
from ravl_med.reporting.mitigation_tables import (
    accuracy_table,
    before_after_table,
    gap_table,
    score_table,
    worsened_table,
)
from ravl_med.reporting.mitigation_words import (
    OUTCOME_LINES,
    OUTCOME_WORDS,
    arm_kind,
    gone_sentence,
    mitigated_sentence,
    reaudit_word,
    worsened_sentence,
)
from ravl_med.reporting.report_blocks import Cell, Dots, Lines, Reference, Scale, Table
from ravl_med.reporting.report_details import MitigationDetails
from ravl_med.reporting.wording import DASH, printable

__all__ = ["model_card_text"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")
_HEAD = """---
library_name: open_clip
pipeline_tag: zero-shot-image-classification
tags:
- radiology
- shortcut-mitigation
---"""
_LIMITS = (
    "No clinical validation: this model is not for diagnosis. What was measured is how it answers "
    "on films of one final test; films of another site can differ.",
    "What was mitigated is what the audit found. A shortcut that the audit could not see on these "
    "films is neither removed nor ruled out.",
    "Films were cut, scaled and windowed as for the audited model; other preprocessing or other "
    "prompts give other results.",
    "A class, group or subgroup with too few films was not measured by itself.",
    "Nobody has signed the report of this mitigation; it is a draft until a person does.",
)
_OPEN = """```python
import open_clip

folder = "local-dir:."  # this folder
model, transform = open_clip.create_model_from_pretrained(folder)
tokenizer = open_clip.get_tokenizer(folder)
```"""


def model_card_text(result: MitigationResult, details: MitigationDetails) -> str:
    """Return the model card of the delivered model as Markdown.

    Parameters
    ----------
    result : MitigationResult
    details : MitigationDetails
    """
    verdict, delivered = result.verdict, result.delivered
    parts = [
        _HEAD,
        f"# {_text(result.title, 120)}",
        f"**{OUTCOME_WORDS[verdict.name]}** – {_outcome_line(result)}",
        _items(verdict.reasons),
    ]
    if delivered is None:
        parts += [
            "No model was made: there is nothing to open in this folder.",
            f"- Audited model: SHA-256 {_code(result.audited_digest)}",
        ]
    else:
        parts += [
            *_origin(result, delivered, details),
            *_measured(result, delivered),
            *_audited_again(result),
        ]
    notes = ["## Notes", _items(result.notes)] if result.notes else []
    parts += [*notes, "## Limits", _items(_LIMITS)]
    if delivered is not None:
        parts += _opening()
    return "\n\n".join(part for part in parts if part) + "\n"


def _outcome_line(result: MitigationResult) -> str:
    """Return the line of the report's band."""
    return OUTCOME_LINES[result.verdict.name].replace(" below,", " of its report,")


def _origin(result: MitigationResult, arm: ArmOutcome, details: MitigationDetails) -> list[str]:
    """Say what the model is, how it came about, and what it was taught to ignore."""
    facts = [
        f"- This model: SHA-256 {_code(result.new_digest or DASH)}",
        f"- Fine-tuned from the audited model: SHA-256 {_code(result.audited_digest)}",
        f"- Arm: {_text(arm.title, 80)} ({_text(arm.name, 40)}; {arm_kind(arm)})",
        f"- Made with RaVL-Med {_text(__version__, 20)}, run {_text(result.name, 80)}, "
        f"{_text(details.date or 'no date given', 40)}",
    ]
    told = [mitigated_sentence(entry) for entry in result.mitigated]
    gates = [
        f"{'✓ held' if gate.passed else '✗ not held'}: {gate.name} – {gate.text}"
        for gate in result.verdict.gates
    ]
    return [
        "## What this is",
        "A vision-language model for radiographs: the image tower of an audited model, fine-tuned "
        "away from a shortcut, with the text tower that it had.",
        "\n".join(facts),
        *(["### Gates, fixed before the run", _items(gates)] if gates else []),
        "## What it was taught to ignore",
        _items(told) or DASH,
        "## Recipe",
        _pairs("Setting", "Value", details.recipe),
        _pairs("Seed of", "Value", {name: str(seed) for name, seed in details.seeds.items()}),
    ]


def _measured(result: MitigationResult, arm: ArmOutcome) -> list[str]:
    tables = [before_after_table(result, arm)]
    if arm.gaps:
        tables.append(gap_table(result, arm))
    worse = [_table(worsened_table(result, arm))] if arm.worsened() else []
    return [
        "## Measured on the final test",
        *map(_table, tables),
        _table(accuracy_table(result)),
        _table(score_table(result)),
        "## What got worse",
        _text(worsened_sentence(arm)),
        *worse,
    ]


def _audited_again(result: MitigationResult) -> list[str]:
    reaudit = result.reaudit
    if reaudit is None:
        return ["## Re-audit", "The new model was not audited again."]
    remaining = ["Found again:", _items(reaudit.remaining)] if reaudit.remaining else []
    return [
        "## Re-audit",
        f"The whole audit again, of this model on the final test: **{_text(reaudit_word(reaudit))}"
        f"**. {_text(gone_sentence(reaudit))}",
        _items(reaudit.reasons),
        *remaining,
        "Appeared:",
        _items(reaudit.appeared) or "- nothing: no other correlation counts",
        f"What these films could have shown: {_text(reaudit.detectable) or 'not known'}",
    ]


def _opening() -> list[str]:
    return [
        "## How to open it",
        "With open_clip, offline, from within this folder:",
        _OPEN,
        "With RaVL-Med, name this folder as `model.path` in the config of an audit.",
    ]


def _text(text: str, limit: int = 1500) -> str:
    """Text in which nothing is markup."""
    return _SPECIAL.sub(r"\\\1", printable(text, limit)).replace("&", "&amp;")


def _code(text: str) -> str:
    return f"`{printable(text, 80).replace('`', '')}`"


def _items(texts: Iterable[str]) -> str:
    return "\n".join(f"- {_text(text, 600)}" for text in texts)


def _pairs(name: str, value: str, entries: Mapping[str, str]) -> str:
    rows = [f"| {_text(key, 60)} | {_text(entry, 140)} |" for key, entry in entries.items()]
    return "\n".join([f"| {name} | {value} |", "|---|---|", *rows]) if rows else ""


def _table(table: Table) -> str:
    """Return a table without its dots, the caption above and the note below."""
    shown = [at for at, column in enumerate(table.columns) if not isinstance(column.head, Scale)]
    heads = [_cell(table.columns[at].head, 120) for at in shown]
    sides = ["---:" if table.columns[at].right else "---" for at in shown]
    rows = [[_cell(row[at], table.limit) for at in shown] for row in table.rows]
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, sides, *rows)]
    note = f"\n\n{_text(table.note)}" if table.note else ""
    return f"**{_text(table.caption)}**\n\n" + "\n".join(lines) + note


def _cell(value: Cell, limit: int) -> str:
    match value:
        case Lines(lines, strong):
            texts = [_text(line, limit) for line in lines]
            texts[:1] = [f"**{text}**" if strong else text for text in texts[:1]]
            return "<br>".join(texts)
        case str():
            return _text(value, limit)
        case Dots() | Scale() | Reference():
            return ""
