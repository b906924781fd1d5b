"""The end of an audit's report: where reviewers find what guidelines ask for, and who signs."""

from __future__ import annotations

from collections.abc import Mapping

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit_verdict import report_status
from ravl_med.reporting.report_blocks import (
    NEW_PAGE,
    Block,
    Chapter,
    Items,
    Reference,
    Section,
    SignOff,
    Table,
    Text,
    sized,
)
from ravl_med.reporting.wording import DASH, VERDICT_LINES, VERDICT_WORDS, plural, printable

__all__ = ["checklist_chapter", "signing_chapter"]

SIGNERS = ("Validation engineer", "Radiologist", "Person responsible for deployment")

_CLAIM, _TRIPOD, _ACT = "CLAIM 2024", "TRIPOD+AI", "EU AI Act"
_COHORT = Reference("cohort", "Model and cohort")
_PERFORMANCE = Reference("performance", "Performance")
_SEARCH = Reference("search", "Search for shortcuts")
_METHOD = Reference("method", "Method and limitations")
_AGAIN = Reference("reproducibility", "Reproducibility")
_SIGNED = Reference("sign-off", "Sign-off")
_NOT = "Not filled by an audit"

_ASKED: tuple[tuple[str, tuple[str, ...], str, Reference | None], ...] = (
    (
        "The data that were tested on: source, what was taken and what was left out",
        (_CLAIM, _TRIPOD, _ACT),
        "cohort flow and reasons; where the films come from is not told",
        _COHORT,
    ),
    (
        "Characteristics of the participants, such as age, sex, site",
        (_CLAIM, _TRIPOD),
        "audited films by attribute, as far as the files tell it",
        _COHORT,
    ),
    (
        "The model: version, inputs, outputs",
        (_CLAIM, _TRIPOD),
        "digest, architecture, input and prompts",
        _COHORT,
    ),
    (
        "Performance with its uncertainty; metrics of accuracy",
        (_CLAIM, _TRIPOD, _ACT),
        "accuracy with intervals, overall and by class",
        _PERFORMANCE,
    ),
    (
        "Performance in subgroups, fairness, impacts that may discriminate",
        (_TRIPOD, _ACT),
        "accuracy by subgroup; no judgement of what is fair",
        _PERFORMANCE,
    ),
    (
        "Robustness, sensitivity analysis",
        (_CLAIM, _ACT),
        "against shortcuts alone; not against noise, attacks or drift",
        _SEARCH,
    ),
    (
        "Explainability; analysis of failures",
        (_CLAIM,),
        "which features go with mistakes, and what removing them does",
        _SEARCH,
    ),
    (
        "Sample size",
        (_CLAIM, _TRIPOD),
        "not planned ahead; how small an effect could have been seen",
        _SEARCH,
    ),
    (
        "Procedures of validation and testing; statistical methods",
        (_CLAIM, _TRIPOD, _ACT),
        "method, thresholds",
        _METHOD,
    ),
    ("Limitations", (_CLAIM, _TRIPOD), "limitations", _METHOD),
    ("Software, and what it takes to do it again", (_CLAIM,), "versions, seeds, config", _AGAIN),
    (
        "Test reports, dated and signed by the responsible persons",
        (_ACT,),
        "table to sign in; the date of the run is on page one",
        _SIGNED,
    ),
    ("Intended use and its clinical setting", (_CLAIM, _TRIPOD), _NOT, None),
    ("Data and procedure of training", (_CLAIM, _TRIPOD), _NOT, None),
    ("How the reference standard was made", (_CLAIM, _TRIPOD), f"{_NOT}: taken as given", None),
    ("Changes determined in advance", (_ACT,), _NOT, None),
    ("Protocol or registration; funding", (_CLAIM, _TRIPOD), _NOT, None),
    ("Ethical approval; involvement of patients and public", (_TRIPOD,), _NOT, None),
)

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
    "in is no signature: sign on paper, or sign the whole file with a tool of your institution, "
    "after it was filled in. Any later change makes it another file."
)


def checklist_chapter() -> list[Block]:
    """Return where a reviewer finds what guidelines and the law ask for, and what is not here."""
    rows = tuple((asked, ", ".join(by), here, where or DASH) for asked, by, here, where in _ASKED)
    heads = ("Asked for", "By", "In this report", "Page")
    return [
        Chapter("Where a reviewer finds what guidelines ask for", "checklist", 430),
        Text(
            "A map for reviewers, no claim of conformity. Items are told in short and in own "
            "words; the guidelines themselves count, and each asks for more than an audit can "
            "tell. CLAIM 2024: checklist for artificial intelligence in medical imaging, update "
            "of 2024. TRIPOD+AI: reporting of prediction models, BMJ 2024. EU AI Act: Regulation "
            "(EU) 2024/1689, Annex IV, point 2 (g), on validation and testing.",
            "muted",
        ),
        Table(
            caption="Checklist map",
            columns=sized(heads, (176, 108, 0, 34)),
            rows=rows,
            limit=200,
            titled=False,
            dense=False,
        ),
    ]


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
        ("Status", f"{report_status(result)}. {_status(result)}"),
        ("Decisions on correlations", _decisions(result)),
    )
    return [
        Chapter("Sign-off", "sign-off", NEW_PAGE),
        Table("What is signed", sized(("", ""), (120, 0)), facts, headed=False, dense=False),
        Section("What a signature says"),
        Text(_STATEMENT),
        Items(_ROLES),
        Text(_HOW, "muted"),
        SignOff(SIGNERS),
    ]


def _status(result: AuditResult) -> str:
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
