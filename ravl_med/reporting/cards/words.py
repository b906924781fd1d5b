"""Texts of the cards of an audited model, the same for CHAI's card and Hugging Face's.

A card is read without the report. It says what was audited and what came of it, which limits that
has, and, of all that only a developer or an institution can know, that an audit cannot fill it.
Texts are Markdown; whatever comes from outside is escaped in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ravl_med import __version__
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.results import ReviewDecision, SpuriousCorrelation
from ravl_med.evidence.verdict import reviewer_name
from ravl_med.reporting import wording
from ravl_med.reporting.audit import sentences
from ravl_med.reporting.audit.cohort import is_answered
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.method import LIMITATIONS, status_sentence
from ravl_med.reporting.audit.verdict import nothing_learned, report_status
from ravl_med.reporting.layout.markdown import bullets, code, escaped

NOT_FILLED = "To be completed by the developer."
LIMITS = tuple(text.replace("of the table", "of the report's table") for text in LIMITATIONS)


def intended_use(result: AuditResult) -> str:
    """Return what the model is meant for, as the audit was told, or that nobody said."""
    return escaped(result.about.get("intended_use", ""), 400) or NOT_FILLED


METHOD_CITATION = """@inproceedings{varma2024ravl,
  title = {{RaVL}: Discovering and Mitigating Spurious Correlations in Fine-Tuned Vision-Language Models},
  author = {Varma, Maya and Delbrouck, Jean-Benoit and Chen, Zhihong and Chaudhari, Akshay and Langlotz, Curtis},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  note = {arXiv:2411.04097}
}"""  # noqa: E501

_CORRELATIONS_SHOWN = 10
_REASONS_SHOWN = 8
_RULINGS_SHOWN = 20
_CLASSES_SHOWN = 60
_VALUES_SHOWN = 12
_ATTRIBUTES_SHOWN = 20


def card_summary(result: AuditResult, details: ReportDetails) -> str:
    """Say what the model is, by whom it was looked at, and what came of it."""
    return (
        f"{audited_model(result)} It was audited for shortcuts (features of an image, other than "
        f"the finding, that its answers follow) on {escaped(_films(result))}, run "
        f"{escaped(result.name, 80)}, {escaped(details.date or 'no date given', 40)}, with "
        f"RaVL-Med {escaped(__version__, 20)}. Outcome: {verdict_text(result)} Status: "
        f"{report_status(result)}, not signed. {status_sentence(result)} This card is made by the "
        "audit: what only a developer can know is left to them, and it is no diagnosis and no "
        "clinical validation."
    )


def audited_model(result: AuditResult) -> str:
    """Say what the model is, as far as its files do."""
    model, classes = result.model, result.classes
    names = wording.listing(
        [wording.printable(name, 40) or wording.DASH for name in classes], _CLASSES_SHOWN
    )
    return (
        f"{escaped(model.name, 80)} is a vision-language model ({escaped(model.architecture, 80)}, "
        f"{model.parameters:,} parameters, SHA-256 {code(model.digest)}), audited zero-shot on the "
        f"task {escaped(result.task.name, 60)} with {wording.plural(len(classes), 'class', 'es')}: "
        f"{escaped(names, 4000)}."
    )


def _films(result: AuditResult) -> str:
    cohort = result.cohort
    if cohort.synthetic:
        return f"{wording.plural(cohort.images, 'synthetic phantom')} (no patient data)"
    return (
        f"{wording.plural(cohort.images, 'film')} of {wording.plural(cohort.patients, 'patient')}"
    )


def verdict_text(result: AuditResult) -> str:
    """Return the verdict and what it means."""
    name, until = result.verdict.name, sentences.holds_until(result)
    ending = f" They hold until {until}." if name == "conditional" and until else ""
    return f"**{wording.VERDICT_NAMES[name]}**. {sentences.verdict_line(result)}{ending}"


def audited_use_text(result: AuditResult) -> str:
    """Say how the model was used, so that the numbers hold for that use alone."""
    model, texts = result.model, result.task.texts.get(result.classes[0], ())
    squared = wording.RESIZE_TEXT.get(model.resize_mode, model.resize_mode)
    example = f" (such as “{escaped(texts[0], 200)}”)" if texts else ""
    answer = f"the answer is the class whose texts{example} are nearest to it by cosine similarity"
    if is_answered(result):
        answer = f"the model is asked about each class{example}, and its own words are scored"
    return (
        f"As it was audited: a film is brought to {model.image_size} x {model.image_size} pixels "
        f"({escaped(squared, 40)}), and {answer}. All texts stand in report.pdf, verbatim. With "
        "other texts or another preprocessing the numbers of this card do not hold."
    )


def out_of_scope(result: AuditResult) -> str:
    """Say where the audit speaks against use, and what it did not look at."""
    return f"Outcome of the audit: {verdict_text(result)} {not_examined(result)}"


def not_examined(result: AuditResult) -> str:
    """Say what the audit did not look at."""
    return (
        "Not examined, so not shown to be safe: other classes, other texts, another preprocessing, "
        "films of another site, view, device or patient group than the tested ones; "
        f"{unmeasured(result)}; use by people. Uses that the developer excludes: {NOT_FILLED}"
    )


def unmeasured(result: AuditResult) -> str:
    """Return which disturbances were not tried: noise was where the dependence was measured."""
    return "attacks, drift" if result.dependence is not None else "noise, attacks, drift"


def known_limits(result: AuditResult) -> str:
    """Return why the verdict is what it is, and the limits of any such audit."""
    parts = [
        f"Outcome of the audit: {verdict_text(result)}",
        bullets(first_reasons(result)),
        "Limits of the audit itself:",
        bullets(LIMITS),
    ]
    return "\n\n".join(part for part in parts if part)


def first_reasons(result: AuditResult) -> list[str]:
    """Return the first reasons of the verdict without names, and how many more there are."""
    return _first(unnamed_reasons(result), _REASONS_SHOWN, "reason")


def unnamed_reasons(result: AuditResult) -> list[str]:
    """Return the reasons of the verdict without names of reviewers, which stand in the report."""
    reasons = list(result.verdict.reasons)
    for ruling in result.rulings:
        name = reviewer_name(ruling)
        for said, ending in (("by ", " until"), ("; ", " judged")):
            named, unnamed = f"{said}{name}{ending}", f"{said}a reviewer{ending}"
            reasons = [reason.replace(named, unnamed) for reason in reasons]
    return reasons


def _first(texts: Sequence[str], shown: int, noun: str, where: str = "") -> list[str]:
    """Return the first of some texts, and how many more there are."""
    rest = len(texts) - shown
    more = [f"and {wording.plural(rest, f'more {noun}')}{where}"] if rest > 0 else []
    return [*texts[:shown], *more]


def found_biases(result: AuditResult) -> str:
    """Say which features the answers of the model were found to follow, or that none was."""
    counting = [entry for entry in result.correlations if entry.counts]
    if not counting:
        return " ".join(escaped(sentence) for sentence in nothing_learned(result))
    classes = result.task.classes
    found = [
        f"{sentences.correlation_name(entry)}. {_named(result, entry)} "
        f"{sentences.use_sentence(entry.counterfactual)} {sentences.kind_sentence(entry, classes)}"
        + (f" Its regions: {wording.printable(regions, 200)}." if regions else "")
        for entry in counting
        for regions in (entry.description(result),)
    ]
    shown = _first(found, _CORRELATIONS_SHOWN, "correlation", ", in report.pdf")
    return f"Features that decide answers on the tested films:\n\n{bullets(shown, 1500)}"


def _named(result: AuditResult, entry: SpuriousCorrelation) -> str:
    """Say what goes with a feature, called by its name as in the report."""
    said = sentences.correlation_sentence(entry, result.task.classes)
    return said.replace(f"feature {entry.rank}", sentences.feature_name(result, entry), 1)


def decisions_text(result: AuditResult) -> str:
    """Say what reviewers decided, and what is open; who and why stands in the report."""
    if result.undecided is None:
        return "No reviewer has decided on any correlation yet."
    still = f"{wording.plural(result.undecided, 'correlation')} still to be decided on."
    left = still if result.undecided else "Nothing is left to decide."
    if not result.rulings:
        return left
    shown = _first([_decision(ruling) for ruling in result.rulings], _RULINGS_SHOWN, "decision")
    return f"Reviewers decided, and the outcome follows them. {left}\n\n{bullets(shown)}"


def _decision(ruling: ReviewDecision) -> str:
    return (
        f"Correlation {ruling.rank}: {sentences.decision_text(ruling)} (decided on {ruling.date})"
    )


def films_origin(result: AuditResult) -> str:
    """Say how many films were tested, and what is not known of them or hidden."""
    least = result.hidden_below
    hidden = f" Counts of fewer than {least} patients, and what they follow from, are hidden."
    return (
        f"{escaped(_films(result))}, all those of {wording.plural(result.cohort.listed, 'row')} of "
        "a list that the task took and that could be read. An audit cannot know where they come "
        "from; that the model was not fitted on them is taken as given, and so are the "
        f"labels.{hidden if least else ''}"
    )


def films_text(result: AuditResult) -> str:
    """Say which films were tested: how many, of which classes, views, groups of patients."""
    cohort = result.cohort
    counts = [f"class: {_counts(cohort.images_by_class, _CLASSES_SHOWN)}"]
    counts += [
        f"{wording.printable(name, 40) or wording.DASH}: {_counts(values, _VALUES_SHOWN)}"
        for name, values in list(cohort.attributes.items())[:_ATTRIBUTES_SHOWN]
    ]
    return f"{films_origin(result)}\n\n{bullets(counts, 4000)}"


def _counts(counts: Mapping[str, int], shown: int) -> str:
    texts = [
        f"{wording.printable(value, 40) or wording.DASH} {wording.counted(count)}"
        for value, count in counts.items()
    ]
    return wording.listing(texts, shown) or wording.DASH
