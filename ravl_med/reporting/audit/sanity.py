"""Whether the model is wired right: AUROC by finding, and what was looked at beside it."""

from __future__ import annotations

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.sanity import FindingAuroc, SanityStatus
from ravl_med.reporting.layout.blocks import Block, Section, Table, Text, sized
from ravl_med.reporting.wording import DASH, class_name, counted, number, printable, spread

__all__ = ["sanity_part"]

_FINDINGS_SHOWN = 60
_WORDS: dict[SanityStatus, str] = {"held": "✓ held", "odd": "! odd", "failed": "✗ failed"}


def sanity_part(result: AuditResult) -> list[Block]:
    """Return the section on the sanity of the model; nothing where it was not looked at."""
    sanity = result.sanity
    if sanity is None:
        return []
    asked = (
        f"The interval of each finding has to lie above {sanity.min_auroc:g} (gate.min_auroc) for "
        "anything but a fail; one that lies below 0.5 stops the audit."
        if sanity.min_auroc
        else "It is not judged (gate.min_auroc)."
    )
    rows = [
        (class_name(result.task.classes, c), counted(one.films), *_numbers(one))
        for c, one in enumerate(sanity.findings[:_FINDINGS_SHOWN])
    ]
    rest = len(sanity.findings) - _FINDINGS_SHOWN
    if rest > 0:
        rows.append((f"and {rest} more", "", "", "", "", ""))
    heads = ("Finding", "Films", "AUROC", "Interval", "Single prompts", "")
    checks = tuple(
        (_WORDS[check.status], check.name, printable(check.text, 400)) for check in sanity.checks
    )
    return [
        Section("Sanity of the model", room=120),
        Text(
            "How well each finding is told from the other classes (area under the ROC curve, "
            f"interval by patient), and what was looked at of the wiring. {asked}",
            "muted",
        ),
        Table(
            caption="AUROC by finding",
            columns=sized(heads, (0, 44, 52, 92, 92, 60), right=(1, 2)),
            rows=tuple(rows),
            limit=120,
            titled=False,
        ),
        Table(
            caption="What was looked at",
            columns=sized(("Outcome", "What", "Found"), (52, 110, 0)),
            rows=checks,
            limit=400,
        ),
    ]


def _numbers(one: FindingAuroc) -> tuple[str, str, str, str]:
    prompts = f"{number(one.lowest)} to {number(one.highest)}"
    return (
        number(one.auroc),
        spread(one.interval, 2, scale=1.0, sign=False),
        DASH if DASH in prompts else prompts,
        "flipped" if one.flipped else "",
    )
