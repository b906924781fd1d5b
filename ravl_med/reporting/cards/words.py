"""What the cards of an audited model say: the same words for CHAI's card and Hugging Face's.

A card is read without the report. It says what was audited and what came of it, which limits that
has, and, of all that only a developer or an institution can know, that an audit cannot fill it.
Texts are Markdown; whatever comes from outside is escaped in them.
"""

from __future__ import annotations

from collections.abc import Mapping

from ravl_med import __version__
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.results import ReviewDecision
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.method import LIMITATIONS, status_sentence
from ravl_med.reporting.audit.sentences import (
    correlation_name,
    correlation_sentence,
    kind_sentence,
    use_sentence,
)
from ravl_med.reporting.audit.verdict import nothing_learned, report_status
from ravl_med.reporting.layout.markdown import bullets, code, escaped
from ravl_med.reporting.wording import (
    DASH,
    DECISION_TEXT,
    VERDICT_LINES,
    VERDICT_NAMES,
    counted,
    listing,
    plural,
    printable,
)

NOT_FILLED = "Not filled by an audit."

METHOD_CITATION = """@inproceedings{varma2024ravl,
  title = {{RaVL}: Discovering and Mitigating Spurious Correlations in Fine-Tuned Vision-Language Models},
  author = {Varma, Maya and Delbrouck, Jean-Benoit and Chen, Zhihong and Chaudhari, Akshay and Langlotz, Curtis},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  note = {arXiv:2411.04097}
}"""  # noqa: E501

_CORRELATIONS_TOLD = 10
_REASONS_TOLD = 8
_RULINGS_TOLD = 20
_CLASSES_TOLD = 60
_VALUES_TOLD = 12
_ATTRIBUTES_TOLD = 20


def card_summary(result: AuditResult, details: ReportDetails) -> str:
    """Say what the model is, by whom it was looked at, and what came of it."""
    return (
        f"{audited_model(result)} It was audited for shortcuts (features of an image, other than "
        f"the finding, that its answers follow) on {escaped(_films(result))}, run "
        f"{escaped(result.name, 80)}, {escaped(details.date or 'no date given', 40)}, with "
        f"RaVL-Med {escaped(__version__, 20)}. Outcome: {verdict_told(result)} Status: "
        f"{report_status(result)}, not signed. {status_sentence(result)} This card is made by the "
        "audit: what only a developer can know is not filled, and it is no diagnosis and no "
        "clinical validation."
    )


def audited_model(result: AuditResult) -> str:
    """Say what the model is, as far as its files tell."""
    model, classes = result.model, result.task.classes
    return (
        f"{escaped(model.name, 80)} is a vision-language model ({escaped(model.architecture, 80)}, "
        f"{model.parameters:,} parameters, SHA-256 {code(model.digest)}), audited zero-shot on the "
        f"task {escaped(result.task.name, 60)} with {plural(len(classes), 'class', 'es')}: "
        f"{_listed(list(classes), _CLASSES_TOLD)}."
    )


def _listed(names: list[str], shown: int) -> str:
    return escaped(listing([printable(name, 40) or DASH for name in names], shown), 4000)


def _films(result: AuditResult) -> str:
    cohort = result.cohort
    if cohort.synthetic:
        return f"{plural(cohort.images, 'phantom')}, synthetic, of no patient"
    return f"{plural(cohort.images, 'film')} of {plural(cohort.patients, 'patient')}"


def verdict_told(result: AuditResult) -> str:
    """Return the word of the verdict and what it means."""
    name = result.verdict.name
    return f"**{VERDICT_NAMES[name]}**. {VERDICT_LINES[name]}"


def audited_use(result: AuditResult) -> str:
    """Say how the model was used, so that the numbers hold for that use alone."""
    model = result.model
    first = result.task.classes[0]
    texts = result.task.texts.get(first, ())
    example = f" (such as “{escaped(texts[0], 200)}”)" if texts else ""
    return (
        f"As it was audited: a film is brought to {model.image_size} x {model.image_size} pixels "
        f"({escaped(model.resize_mode, 40)}), and the answer is the class whose texts{example} are "
        "nearest to it by cosine similarity. All texts stand in report.pdf, verbatim. With other "
        "texts or another preprocessing the numbers of this card do not hold."
    )


def out_of_scope(result: AuditResult) -> str:
    """Say where the audit speaks against use, and what it did not look at."""
    return (
        f"Outcome of the audit: {verdict_told(result)} Not looked at, so not shown to be safe: "
        "other classes, other texts, another preprocessing, films of another site, view, device "
        "or patient group than the tested ones; noise, attacks, drift; use by people. Uses that "
        f"the developer excludes: {NOT_FILLED}"
    )


def known_limits(result: AuditResult) -> str:
    """Return why the verdict is what it is, and the limits of any such audit."""
    reasons = result.verdict.reasons
    rest = len(reasons) - _REASONS_TOLD
    told = [*reasons[:_REASONS_TOLD], *([f"and {plural(rest, 'more reason')}"] if rest > 0 else [])]
    parts = [
        f"Outcome of the audit: {verdict_told(result)}",
        bullets(told),
        "Limits of the audit itself:",
        bullets(LIMITATIONS),
    ]
    return "\n\n".join(part for part in parts if part)


def found_biases(result: AuditResult) -> str:
    """Say which features the answers of the model were found to follow, or that none was."""
    counting = [entry for entry in result.correlations if entry.counts]
    if not counting:
        return " ".join(escaped(sentence) for sentence in nothing_learned(result))
    classes = result.task.classes
    told = [
        f"{correlation_name(entry)}. {correlation_sentence(entry, classes)} "
        f"{use_sentence(entry.counterfactual)} {kind_sentence(entry, classes)}"
        f"{_regions(result.descriptions.get(entry.cluster.cluster, ''))}"
        for entry in counting[:_CORRELATIONS_TOLD]
    ]
    rest = len(counting) - _CORRELATIONS_TOLD
    if rest > 0:
        told.append(f"and {plural(rest, 'more correlation')}, in report.pdf")
    return f"Features that decide answers on the tested films:\n\n{bullets(told, 1500)}"


def _regions(description: str) -> str:
    return f" Its regions: {printable(description, 200)}." if description else ""


def decisions_told(result: AuditResult) -> str:
    """Say what reviewers decided, and what is open; who and why stands in the report."""
    if result.undecided is None:
        return "No reviewer has decided on any correlation yet."
    told = [_decision(ruling) for ruling in result.rulings[:_RULINGS_TOLD]]
    rest = len(result.rulings) - _RULINGS_TOLD
    if rest > 0:
        told.append(f"and {plural(rest, 'more decision')}")
    still = f"{plural(result.undecided, 'correlation')} still to be decided on."
    left = still if result.undecided else "Nothing is left to decide."
    if not told:
        return left
    return f"Reviewers decided, and the outcome follows them. {left}\n\n{bullets(told)}"


def _decision(ruling: ReviewDecision) -> str:
    word = DECISION_TEXT[ruling.decision] if ruling.in_force else "acceptance expired"
    until = f", until {ruling.until}" if ruling.until else ""
    return f"Correlation {ruling.rank}: {word}{until} (decided on {ruling.date})"


def films_origin(result: AuditResult) -> str:
    """Say how many films were tested, and what is not known or not told of them."""
    least = result.hidden_below
    hidden = f" Counts of fewer than {least} patients, and what would tell them, are hidden."
    return (
        f"{escaped(_films(result))}, all those of {plural(result.cohort.listed, 'row')} of a list "
        "that the task took and that could be read. Where they come from is not told to an audit; "
        "that the model was not fitted on them is taken as given, and so are the labels."
        f"{hidden if least else ''}"
    )


def films_told(result: AuditResult) -> str:
    """Say which films were tested: how many, of which classes, views, groups of patients."""
    cohort = result.cohort
    told = [f"class: {_counts(cohort.images_by_class, _CLASSES_TOLD)}"]
    told += [
        f"{printable(name, 40) or DASH}: {_counts(counts, _VALUES_TOLD)}"
        for name, counts in list(cohort.attributes.items())[:_ATTRIBUTES_TOLD]
    ]
    return f"{films_origin(result)}\n\n{bullets(told, 4000)}"


def _counts(counts: Mapping[str, int], shown: int) -> str:
    told = [f"{printable(value, 40) or DASH} {counted(count)}" for value, count in counts.items()]
    return listing(told, shown) or DASH
