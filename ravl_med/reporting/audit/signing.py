"""The last page of an audit's report: what is signed, what a signature says, who signs."""

from __future__ import annotations

from collections.abc import Mapping

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.verdict import report_status
from ravl_med.reporting.layout.blocks import (
    NEW_PAGE,
    Block,
    Chapter,
    Items,
    Section,
    SignOff,
    Table,
    Text,
    sized,
)
from ravl_med.reporting.layout.pdf_signing import can_sign
from ravl_med.reporting.wording import DASH, VERDICT_LINES, VERDICT_WORDS, plural, printable

__all__ = ["signing_chapter", "status_sentence"]

SIGNERS = ("Validation engineer", "Radiologist", "Person responsible for deployment")

_STATEMENT = (
    "Who signs has read this report and takes note of its verdict, of the decisions of reviewers "
    "and of the limitations. A signature does not change the verdict, and it is no diagnosis, no "
    "clinical validation and no approval by an authority."
)
_ROLES = (
    "Validation engineer: the run was made with this model, these films and this config, and the "
    "thresholds were fixed before it.",
    "Radiologist: has looked at the films that this report shows, where it shows any, and stands "
    "by the medical decisions in it.",
    "Person responsible for deployment: knows the verdict and the limitations, and decides on the "
    "use of the model.",
)
_HOW = (
    "In the PDF, name, role, date and remarks can be filled in on a screen. A name that is filled "
    "in is no signature: sign on paper, or {electronically}. Any later change makes it another "
    "file."
)
_IN_A_FIELD = (
    "in the signature field of your role with any tool that signs PDF files, after your row was "
    "filled in"
)
_FROM_OUTSIDE = "sign the whole file with a tool of your institution, after it was filled in"


def signing_chapter(result: AuditResult, digests: Mapping[str, str]) -> list[Block]:
    """Return the last page: what is signed, what a signature says, and where to sign.

    Parameters
    ----------
    result : AuditResult
    digests : mapping of name to digest - that of the films is "cohort"
    """
    name = result.verdict.name
    facts = (
        ("Run", printable(result.name, 80)),
        ("Model", printable(result.model.name, 80)),
        ("Model digest", printable(result.model.digest, 80)),
        ("Cohort digest", printable(digests.get("cohort", ""), 80) or DASH),
        ("Verdict", f"{VERDICT_WORDS[name]}. {VERDICT_LINES[name]}"),
        ("Status", f"{report_status(result)}. {status_sentence(result)}"),
        ("Decisions on correlations", _decisions(result)),
    )
    return [
        Chapter("Sign-off", "sign-off", NEW_PAGE),
        Table("What is signed", sized(("", ""), (120, 0)), facts, headed=False, dense=False),
        Section("What a signature says"),
        Text(_STATEMENT),
        Items(_ROLES),
        Text(_HOW.format(electronically=_IN_A_FIELD if can_sign() else _FROM_OUTSIDE), "muted"),
        SignOff(SIGNERS, can_sign()),
    ]


def status_sentence(result: AuditResult) -> str:
    """Say why the report is a draft, or that it is final."""
    if result.undecided is None:
        return "No review has been taken in."
    return (
        "Not all that asks for a reviewer is decided." if result.undecided else "Nothing is open."
    )


def _decisions(result: AuditResult) -> str:
    """Count what reviewers decided and what is open; before a review the latter is not known."""
    if result.sensitivity is None:
        return "none; the audit stopped before there was anything to decide"
    if result.undecided is None:
        return "none yet; what is open is counted with the first review"
    decided = sum(ruling.in_force for ruling in result.rulings)
    expired = len(result.rulings) - decided
    told = f"{plural(decided, 'correlation')} decided, {result.undecided:,} open"
    return f"{told}; {plural(expired, 'acceptance')} expired" if expired else told
