"""Page one: the verdict, why, what the model learned, how sure that is, what next."""

from __future__ import annotations

from collections.abc import Sequence

from reportlab.platypus import Flowable, KeepTogether, Table

from ravl_med.evidence.audit_result import AuditResult, Gate
from ravl_med.evidence.claims import PairedChange, SpuriousCorrelation
from ravl_med.reporting.audit_history import AuditHistory
from ravl_med.reporting.figures import CorrelationPictures
from ravl_med.reporting.pdf_correlation import page_key
from ravl_med.reporting.pdf_sentences import (
    correlation_sentence,
    detectable_sentences,
    history_sentence,
    lowered_side,
)
from ravl_med.reporting.pdf_shapes import FilmFlowable, VerdictBanner
from ravl_med.reporting.pdf_style import WIDTH, Heading, columns, gap, paragraph, table
from ravl_med.reporting.wording import (
    DASH,
    class_name,
    estimate,
    percent,
    plural,
    printable,
    probability,
    spread,
)

__all__ = ["Shown", "verdict_page"]

Shown = Sequence[tuple[SpuriousCorrelation, CorrelationPictures]]
"""Correlations that have a page, with their pictures."""

_REASONS_SHOWN = 8
_LEARNED_SHOWN = 2
_CERTAIN_SHOWN = 3
_GATES_SHOWN = 20
_PICTURE = 0.3  # of the width of the page


def verdict_page(
    result: AuditResult,
    shown: Shown,
    date: str | None,
    history: AuditHistory | None,
    pages: dict[str, int],
) -> list[Flowable]:
    """Return page one.

    Parameters
    ----------
    result : AuditResult
    shown : sequence of (SpuriousCorrelation, CorrelationPictures)
    date : str or None - of the run
    history : AuditHistory or None - of earlier audits of the model on these films
    pages : dict of bookmark to page number - empty on the first pass
    """
    verdict = result.verdict
    story: list[Flowable] = [
        Heading(result.title, "verdict", style="title", limit=120),
        paragraph(_subtitle(result, date), "muted", 300),
        gap(4),
        VerdictBanner(verdict.name),
        gap(2),
        paragraph("Why", "h2"),
        *[paragraph(reason, "item", 400) for reason in verdict.reasons[:_REASONS_SHOWN]],
    ]
    rest = len(verdict.reasons) - _REASONS_SHOWN
    if rest > 0:
        story.append(paragraph(f"and {plural(rest, 'more reason')}.", "item"))
    counting = [entry for entry, _ in shown if entry.counts]
    text = _learned(result, counting, pages)
    # A picture beside the text: of what counts, else of the candidate that came closest.
    pictured = next(((e, p) for e, p in shown if p.films), None)
    if pictured is None:
        story += text
    else:
        story.append(columns([gap(9), *text], _first_film(result, *pictured), 1 - _PICTURE))
    story += [
        *_certainty(result, counting),
        paragraph("What next", "h2"),
        paragraph(_next_step(result)),
        *_gates(verdict.gates),
    ]
    if history is not None:
        story.append(paragraph(history_sentence(history), limit=1200))
    story += [
        KeepTogether([paragraph("Key facts", "h2"), _key_facts(result)]),
        gap(4),
        paragraph(
            "This report is about a model, not about a patient. It is no diagnosis and no clinical "
            "validation.",
            "muted",
        ),
    ]
    return story


def _subtitle(result: AuditResult, date: str | None) -> str:
    kind = " · synthetic phantoms only, no patient" if result.cohort.synthetic else ""
    return f"Run {result.name} · {date or 'no date given'} · DRAFT, not signed{kind}"


def _learned(
    result: AuditResult, counting: Sequence[SpuriousCorrelation], pages: dict[str, int]
) -> list[Flowable]:
    """Say what the model learned, a sentence for each correlation that counts."""
    classes = result.task.classes
    total = sum(entry.counts for entry in result.correlations)
    story: list[Flowable] = [paragraph("What the model learned", "h2")]
    if not total:
        return [*story, *[paragraph(text) for text in _nothing_learned(result)]]
    for entry in counting[:_LEARNED_SHOWN]:
        page = pages.get(page_key(entry))
        where = f" (page {page})" if page else ""
        story.append(paragraph(correlation_sentence(entry, classes)[:-1] + f"{where}."))
    if total > _LEARNED_SHOWN:
        story.append(paragraph(f"{plural(total - _LEARNED_SHOWN, 'more correlation')} counted."))
    return story


def _nothing_learned(result: AuditResult) -> list[str]:
    if result.discovery is None:
        return ["Not known: the audit stopped before any search for shortcuts."]
    candidates = len(result.correlations)
    first = (
        "No candidate for a shortcut came out of the search."
        if not candidates
        else f"Nothing that passes every rule of evidence. {plural(candidates, 'candidate')} of "
        "the search did not count; the pages below show what was seen."
    )
    if result.sensitivity is None:
        return [first, "Smaller effects stay possible."]
    return [first, *detectable_sentences(result.sensitivity)]


def _first_film(
    result: AuditResult, entry: SpuriousCorrelation, pictures: CorrelationPictures
) -> list[Flowable]:
    first = pictures.films[0]
    raised = class_name(result.task.classes, entry.cluster.raised_class, 30)
    role = "counted" if entry.counts else "candidate, not counted"
    return [
        gap(12),
        FilmFlowable(first.picture, _PICTURE * WIDTH, 140, 1.4),
        gap(2),
        paragraph(
            f"Correlation {entry.rank} ({role}): film {printable(first.image_id, 20)}, feature of "
            f"cluster {entry.cluster.cluster}, raises {raised}",
            "caption",
            160,
        ),
    ]


def _certainty(result: AuditResult, counting: Sequence[SpuriousCorrelation]) -> list[Flowable]:
    """Say how sure that is: gaps on held-out patients and contrasts, with intervals."""
    if not counting:
        return []
    classes = result.task.classes
    rows = [("No.", "Raised, points", "Lowered, points", "q", "Removal, logits", "Transplant")]
    for entry in counting[:_CERTAIN_SHOWN]:
        arms, cluster = entry.confirmation.arms, entry.cluster
        raised = cluster.raised_class
        tested = entry.counterfactual
        rows.append(
            (
                str(entry.rank),
                f"{class_name(classes, raised)} "
                + estimate(float(arms.gap[raised]), arms.gap_interval[raised]),
                f"{lowered_side(cluster, classes)} "
                + estimate(arms.opposed_gap, arms.opposed_interval)
                if cluster.opposed_classes
                else DASH,
                probability(entry.confirmation.q_value),
                _contrast(tested.removal.median if tested else None),
                _contrast(tested.transplant if tested else None),
            )
        )
    sides = WIDTH - 24 - 46 - 2 * 92
    note = (
        "Gaps of accuracy with minus without the feature, on held-out patients. Removal and "
        "transplant: change of the margin beyond that of a control. In brackets: intervals by "
        "patient; those of removal and transplant are corrected for the number of tests."
    )
    return [
        paragraph("How sure", "h2"),
        table(rows, [24, 0.43 * sides, 0.57 * sides, 46, 92, 92], dense=True),
        gap(3),
        paragraph(note, "muted"),
    ]


def _contrast(change: PairedChange | None) -> str:
    if change is None:
        return "not tried"
    return estimate(change.contrast, change.interval, 2, scale=1.0)


def _next_step(result: AuditResult) -> str:
    return {
        "fail": "Look at the films on the following pages together with a radiologist. If the "
        "feature is no sign of the finding, keep the model out of use, repair it, and audit the "
        "repaired model again on films of other patients.",
        "review": "A radiologist should look at the films on the following pages and say whether "
        "each feature belongs to the finding. Record the decision and its reason beside this "
        "report before the model is used.",
        "pass": "Audit again whenever model, prompts or acquisition change, and on films of the "
        "site where the model will be used. A pass does not replace clinical validation.",
        "not_auditable": "Mend what the reasons above name (more films, more of a class, other "
        "prompts, readable films) and run the audit again. Until then shortcuts stay unknown.",
    }[result.verdict.name]


def _gates(gates: tuple[Gate, ...]) -> list[Flowable]:
    """Every gate by name: a symbol and a word, the key, and what was found beside what is asked."""
    if not gates:
        return []
    rows = [
        ("✓ held" if gate.passed else "✗ not held", printable(gate.name, 60), gate.text)
        for gate in gates[:_GATES_SHOWN]
    ]
    rest = len(gates) - _GATES_SHOWN
    if rest > 0:
        rows.append(("…", f"and {rest} more", ""))
    made = table(rows, [52, 126, WIDTH - 178], header=False, mono=(1,), limit=200, dense=True)
    return [paragraph("Gates, fixed before the run", "h2"), made, gap(5)]


def _key_facts(result: AuditResult) -> Table:
    cohort, accuracy = result.cohort, result.accuracy
    films = f"{plural(cohort.images, 'film')} of {plural(cohort.patients, 'patient')}"
    if cohort.synthetic:
        films = f"{plural(cohort.images, 'phantom')}, synthetic, no patient"
    facts = [
        ("Model", printable(result.model.name, 60), "Cohort", films),
        (
            "Model digest",
            printable(result.model.digest, 17),
            "Accuracy",
            f"{percent(accuracy.overall, 1)} ({spread(accuracy.overall_interval, 1, sign=False)})",
        ),
        (
            "Task",
            f"{printable(result.task.name, 40)}, {plural(len(result.task.classes), 'class', 'es')}",
            "Correlations",
            f"{plural(len(result.correlations), 'candidate')}, "
            f"{sum(entry.counts for entry in result.correlations)} counted",
        ),
    ]
    return table(facts, [70, WIDTH / 2 - 70, 70, WIDTH / 2 - 70], header=False, dense=True)
