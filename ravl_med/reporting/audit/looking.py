"""The page on whether the model looks at the film, and what one that writes says of a film."""

from __future__ import annotations

import math
import re

from ravl_med.evidence.audit_result import AuditResult, LookingCell, LookingCheck, Regrounding
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.reporting import wording
from ravl_med.reporting.layout import blocks
from ravl_med.reporting.tables import shortened

_FINDINGS_SHOWN, _WORDINGS_SHOWN = 16, 8
_CHANGED = "»"


def looking_chapter(result: AuditResult) -> list[blocks.Block]:
    """Say what the model answers to other films, to none, and to its questions in other words."""
    found = result.looking
    if found is None:
        return []
    verdict = (
        found.ignores
        or "The answers follow the film: they change with it, or tell findings better than chance."
    )
    return [
        blocks.Chapter("Does it look?", "looking", "whole"),
        blocks.Text(verdict, limit=700),
        blocks.Text(
            f"{wording.plural(found.films, 'film')} of {wording.plural(found.patients, 'patient')} "
            "were shown as they are, and something else was shown in the place of each. What a "
            "model answers all the same does not come from the film. Intervals are by patient."
        ),
        _condition_table(found),
        *_grounding_table(found),
        *_wording_table(found),
    ]


def _condition_table(found: LookingCheck) -> blocks.Table:
    return blocks.Table(
        caption="What is shown in place of the film",
        columns=(
            blocks.Column("Shown", "wide"),
            blocks.Column("Films", "number"),
            blocks.Column("Right", "interval"),
            blocks.Column("AUROC", "number"),
            blocks.Column("Answers that stay", "interval"),
        ),
        rows=[_condition_row(cell) for cell in found.conditions],
        note="Right: the answer is the label of the film that it stands for. AUROC: mean of the "
        "findings. A dash: fewer than 20 films, or the number is hidden.",
    )


def _condition_row(cell: LookingCell) -> tuple[blocks.Cell, ...]:
    known = math.isfinite(cell.accuracy)
    return (
        wording.printable(cell.condition, 60),
        wording.counted(cell.films),
        wording.accuracy_text(cell.accuracy, cell.accuracy_interval) if known else wording.DASH,
        wording.number(cell.auroc) if known else wording.DASH,
        wording.accuracy_text(cell.unchanged, cell.unchanged_interval) if known else wording.DASH,
    )


def _grounding_table(found: LookingCheck) -> list[blocks.Block]:
    """Return a row a finding: calls that persist without evidence, and that fall without others."""
    by_place = {(one.finding, one.kind): one for one in found.grounding}
    rows = [
        (
            wording.printable(finding, 40),
            *(_share(by_place.get((finding, kind))) for kind in ("direct", "contextual")),
        )
        for finding in dict.fromkeys(one.finding for one in found.grounding)
    ]
    if not rows:
        return []
    return [
        blocks.Table(
            caption="Right calls with places of findings covered",
            columns=(
                blocks.Column("Finding", "wide"),
                blocks.Column("Persist, where it shows covered", "interval"),
                blocks.Column("Fall, where others show covered", "interval"),
            ),
            rows=shortened(rows, _FINDINGS_SHOWN, 3),
            note="Both are small where a model looks at the finding: a call that persists without "
            "its evidence is a direct shortcut, one that falls with the evidence of other findings "
            "a contextual one (SHOVIR). Places are those of the table of relevance, found by the "
            "segmenter. A dash: fewer than 10 films, or the number is hidden.",
        )
    ]


def _share(one: Regrounding | None) -> str:
    return wording.accuracy_text(one.share, one.interval) if one else wording.DASH


def _wording_table(found: LookingCheck) -> list[blocks.Block]:
    if not found.wordings:
        return []
    rows = [
        (
            f"“{wording.printable(one.wording, 120)}”",
            wording.accuracy_text(one.unchanged, one.unchanged_interval),
            wording.number(one.correlation),
        )
        for one in found.wordings
    ]
    return [
        blocks.Table(
            caption="The question in other words",
            columns=(
                blocks.Column("Question", "wide"),
                blocks.Column("Answers that stay", "interval"),
                blocks.Column("Correlation of margins", "number"),
            ),
            rows=shortened(rows, _WORDINGS_SHOWN, 3),
        )
    ]


def written_part(result: AuditResult, correlation: SpuriousCorrelation) -> list[blocks.Block]:
    """Return what the model writes of a film with the feature and without, changes marked."""
    pairs = [one for one in result.written or () if one.rank == correlation.rank]
    if not pairs:
        return []
    pair = pairs[0]
    before, after = (_sentences(text) for text in (pair.before, pair.after))
    note = "The feature is taken away where removal does most. Numbers and names are masked."
    if before == after:
        note = f"No sentence changes. {note}"
    return [
        blocks.Table(
            caption=f"What the model writes of film {pair.image}",
            columns=blocks.columns("wide", "As it is", "Without the feature"),
            rows=[(_marked(before, after), _marked(after, before))],
            note=f"{_CHANGED} marks a sentence that the other report does not have. {note}",
            limit=1200,
        )
    ]


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in re.findall(r"[^.!?]+[.!?]?", text) if part.strip()]


def _marked(own: list[str], other: list[str]) -> str:
    shown = [one if one in other else f"{_CHANGED} {one}" for one in own]
    return wording.printable(" ".join(shown), 1200) if shown else wording.DASH
