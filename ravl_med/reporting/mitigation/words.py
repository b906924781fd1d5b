"""What a mitigation report says in words: the verdict, the arms, measures with their intervals."""

from __future__ import annotations

from ravl_med.evidence.claims import Interval
from ravl_med.evidence.mitigation_result import (
    ArmOutcome,
    Change,
    MitigatedCorrelation,
    MitigationResult,
    Reaudit,
    VerdictWord,
)
from ravl_med.reporting.wording import (
    DASH,
    KIND_WORDS,
    NBSP,
    VERDICT_WORDS,
    estimate,
    number,
    percent,
    plural,
    printable,
    spread,
)

__all__ = [
    "ENDED_WORDS",
    "OUTCOME_LINES",
    "OUTCOME_WORDS",
    "accuracy_words",
    "arm_kind",
    "change_words",
    "difference_words",
    "gone_sentence",
    "mitigated_sentence",
    "next_step",
    "reaudit_word",
    "score_words",
    "worsened_sentence",
]

OUTCOME_WORDS: dict[VerdictWord, str] = {
    "improved": "Improved",
    "no_change": "No change",
    "worse": "Worse",
    "nothing_to_do": "Nothing to do",
}
OUTCOME_LINES: dict[VerdictWord, str] = {
    "improved": "By the gates below, the new model is better than the audited one.",
    "no_change": "By the gates below, the new model is not shown to be better.",
    "worse": "By the gates below, the new model is worse than the audited one.",
    "nothing_to_do": "The audit gave no shortcut to mitigate. No model was made.",
}
ENDED_WORDS = {
    "budget": "after its last epoch",
    "early": "early, no more gain",
    "diverged": "it diverged",
}
_NEXT: dict[VerdictWord, str] = {
    "improved": "Read what got worse and what the re-audit found together with a radiologist, and "
    "decide whether the gain is worth it. Then audit the new model on films of the site where it "
    "will be used. This report does not replace clinical validation.",
    "no_change": "The shortcut has to be taken as still there: the verdict of the audit stands. "
    "More films of the rare groups for fine-tuning or a longer training may help. Do not replace "
    "the audited model on the strength of this report.",
    "worse": "Do not use the new model. The verdict of the audit stands for the audited one. Look "
    "at the learning curves and at the groups that got worse before another attempt.",
    "nothing_to_do": "The verdict of the audit stands; nothing was trained and nothing has "
    "changed. A confirmed correlation that is no shortcut is mitigated only when the config names "
    "its rank (mitigation.force), which is a decision for a radiologist.",
}
_SURE = f"{NBSP}*"


def _bracketed(value: str, bounds: str) -> str:
    """Return a value with its interval; a line ends before the interval, not inside."""
    if DASH in (value, bounds):
        return value
    return f"{value} ({bounds.replace(' ', NBSP)})"


def accuracy_words(value: float, interval: Interval) -> str:
    """Return an accuracy with its interval, ``81.2 % (76.0 to 86.1)``; a dash where none is."""
    return _bracketed(percent(value, 1), spread(interval, 1, sign=False))


def score_words(value: float, interval: Interval) -> str:
    """Return a score between 0 and 1 with its interval, ``0.912 (0.880 to 0.941)``."""
    return _bracketed(number(value, 3), spread(interval, 3, scale=1.0, sign=False))


def difference_words(change: Change, *, score: bool = False) -> str:
    """Return the difference to the audited model with its interval, marked where it is sure.

    Parameters
    ----------
    change : Change
    score : bool - print a score with three decimals and not points
    """
    decimals, scale = (3, 1.0) if score else (1, 100.0)
    text = estimate(change.difference, change.difference_interval, decimals, scale=scale)
    return text + (_SURE if change.difference_interval.excludes_zero() else "")


def change_words(change: Change, before: Interval) -> str:
    """Say in half a sentence what an accuracy was, what it is, and how far these differ."""
    return (
        f"{accuracy_words(change.before, before)} before, "
        f"{accuracy_words(change.after, change.interval)} after, difference "
        f"{difference_words(change)} points"
    )


def arm_kind(arm: ArmOutcome) -> str:
    """Say what an arm is: audited, published or ours, whether it trains a tower."""
    if arm.role == "before":
        return "not changed"
    whose = "published" if arm.published else "ours"
    kind = "head, trains no tower" if arm.role == "head" else "tower trained"
    return f"{whose}; {kind}"


def mitigated_sentence(entry: MitigatedCorrelation) -> str:
    """Say what a mitigated correlation makes the model do, and why it was mitigated."""
    kind = "of undecided kind" if entry.kind == "undecided" else f"a {KIND_WORDS[entry.kind]}"
    calls = f"with the feature the model tends to call films {printable(entry.raised_class, 40)}"
    cost = (
        f", at the cost of {printable(entry.lowered_class, 40)}"
        if entry.lowered_class is not None
        else ""
    )
    forced = (
        " It is no confirmed shortcut; it was mitigated because the config asks for it "
        "(mitigation.force)."
        if entry.forced
        else ""
    )
    return f"Correlation {entry.rank} of the audit, {kind}: {calls}{cost}.{forced}"


def worsened_sentence(arm: ArmOutcome) -> str:
    """Say how many classes, groups and subgroups are lower than before, and how many surely."""
    measured = len(arm.classes) + len(arm.groups) + len(arm.subgroups)
    worsened = arm.worsened()
    of = f"of {measured} measured classes, groups and subgroups"
    if not worsened:
        return f"None {of} has a lower accuracy than before."
    surely = sum(change.fell_surely() for _, change in worsened)
    sure = {0: "for none of them does", 1: "for 1 of them"}.get(surely, f"for {surely} of them")
    verb = "the whole interval of the difference " + ("lie" if not surely else "lies")
    have = "has" if len(worsened) == 1 else "have"
    return f"{len(worsened)} {of} {have} a lower accuracy than before; {sure} {verb} below zero."


def gone_sentence(reaudit: Reaudit) -> str:
    """Say whether what was mitigated was found again."""
    if reaudit.remaining:
        found = plural(len(reaudit.remaining), "mitigated shortcut")
        return f"Not gone: {found} found again on the films of the final test."
    if reaudit.verdict == "not_auditable":
        return "Not known: the films of the final test did not allow an audit of the new model."
    return (
        "Gone: no mitigated shortcut was found again on the films of the final test, within what "
        "these films could have shown."
    )


def reaudit_word(reaudit: Reaudit) -> str:
    """Return the verdict of the re-audit as the audit prints it."""
    words: dict[str, str] = {str(name): word for name, word in VERDICT_WORDS.items()}
    return words.get(reaudit.verdict, printable(reaudit.verdict, 30))


def next_step(result: MitigationResult) -> str:
    """Say what a reader should do now."""
    return _NEXT[result.verdict.name]
