"""Page one: the verdict, why, what the model learned, how sure that is, what next."""

from __future__ import annotations

from collections.abc import Sequence

from ravl_med.evidence.audit_result import AuditResult, VerdictName
from ravl_med.evidence.confounders import attribute_name
from ravl_med.evidence.results import PairedChange, SpuriousCorrelation
from ravl_med.reporting import wording
from ravl_med.reporting.audit import sentences
from ravl_med.reporting.audit.history import AuditHistory
from ravl_med.reporting.layout import blocks
from ravl_med.reporting.pictures import CorrelationPictures
from ravl_med.reporting.tables import fact_table, gate_table, shortened

Shown = Sequence[tuple[SpuriousCorrelation, CorrelationPictures]]
"""Correlations that have a page, with their pictures."""

_REASONS_SHOWN = 8
_LEARNED_SHOWN = 2
_CERTAIN_SHOWN = 3
_RULINGS_SHOWN = 8
_CONFOUNDERS_SHOWN = 3
_LOOKS: dict[VerdictName, tuple[blocks.Tone, blocks.Symbol]] = {
    "fail": ("bad", "cross"),
    "review": ("caution", "question"),
    "conditional": ("caution", "warning"),
    "pass": ("good", "tick"),
    "not_auditable": ("open", "dash"),
}
DISCLAIMER = (
    "This report is about a model, not about a patient. It is no diagnosis and no clinical "
    "validation."
)
NEXT_STEPS: dict[VerdictName, str] = {
    "fail": "Look at the films that the report shows together with a radiologist. If the "
    "feature is no sign of the finding, keep the model out of use, repair it, and audit the "
    "repaired model again on films of other patients.",
    "review": "A radiologist should look at the films that the report shows and say whether "
    "each feature belongs to the finding. Write the decisions and their reasons into review.csv "
    "of the run folder and draw the report again (ravl-med report) before the model is used.",
    "conditional": "Use the model only as the decisions below allow, and no longer than they say. "
    "Before the first of them ends, repair the model, or decide again in review.csv and draw the "
    "report again (ravl-med report).",
    "pass": "Audit again whenever model, prompts or acquisition change, and on films of the "
    "site where the model will be used. A pass does not replace clinical validation.",
    "not_auditable": "Mend what the reasons name (more films, more of a class, other "
    "prompts, readable films) and run the audit again. Until then shortcuts stay unknown.",
}


def verdict_chapter(
    result: AuditResult, shown: Shown, date: str | None, history: AuditHistory | None
) -> list[blocks.Block]:
    """Return page one; the date is that of the run."""
    verdict = result.verdict
    name = verdict.name
    reasons = wording.first_of(verdict.reasons, _REASONS_SHOWN, "reason")
    if len(verdict.reasons) > _REASONS_SHOWN:
        reasons[-1] += "."
    counting = [entry for entry, _ in shown if entry.counts]
    content: list[blocks.Block] = [
        blocks.Title(result.title, _subtitle(result, date)),
        blocks.Banner(
            wording.VERDICT_NAMES[name],
            sentences.verdict_line(result),
            *_LOOKS[name],
            report_status(result),
        ),
        blocks.Section("Why"),
        blocks.Items(tuple(reasons), 400),
        *_learned(result, shown, counting),
        *_certainty(result, counting),
        *_rulings(result),
        blocks.Section("What next"),
        blocks.Text(NEXT_STEPS[name]),
        *_unconfounding(result),
        *([gate_table(verdict.gates)] if verdict.gates else []),
    ]
    if history is not None:
        content.append(blocks.Text(sentences.history_sentence(history), limit=1200))
    return [
        *content,
        _key_facts(result),
        blocks.Text(DISCLAIMER, "muted"),
    ]


def _unconfounding(result: AuditResult) -> list[blocks.Block]:
    """Say what parts label and attribute where they go together; nothing where none does."""
    named = [attribute_name(one.attribute) for one in result.confounders or () if one.sentence]
    if not named:
        return []
    names = wording.listing(named, _CONFOUNDERS_SHOWN)
    return [
        blocks.Text(
            f"Only other films can part label and {names}: some of every class for each {names}. "
            "More films of the same mixture, or a look at single films, cannot settle it."
        )
    ]


def _subtitle(result: AuditResult, date: str | None) -> str:
    kind = " · synthetic phantoms only, no patient" if result.cohort.synthetic else ""
    status = report_status(result)
    until = sentences.holds_until(result)
    valid = f" · valid until {until}" if until else ""
    return f"Run {result.name} · {date or 'no date given'} · {status}, not signed{valid}{kind}"


def report_status(result: AuditResult) -> blocks.Status:
    """Return FINAL where a reviewer has decided on all that asks for one, else DRAFT."""
    return "FINAL" if result.undecided == 0 else "DRAFT"


def _rulings(result: AuditResult) -> list[blocks.Block]:
    """Every decision of a reviewer, and what is still open."""
    if result.undecided is None:
        return []
    if not result.rulings:
        left = wording.plural(result.undecided, "open correlation")
        open_ones = f"No reviewer has decided on the {left} yet."
        return [blocks.Text(open_ones)] if result.undecided else []
    rows: list[tuple[blocks.Cell, ...]] = [
        (
            str(ruling.rank),
            sentences.decision_text(ruling),
            wording.printable(ruling.reason, 160),
            wording.printable(ruling.name, 50),
            ruling.date,
        )
        for ruling in result.rulings
    ]
    left = (
        f"{wording.plural(result.undecided, 'correlation')} still to be decided on."
        if result.undecided
        else "Nothing is left to decide."
    )
    return [
        blocks.Table(
            caption="Conditions and decisions of reviewers"
            if sentences.holds_until(result)
            else "Decisions of reviewers",
            columns=(
                blocks.Column("No.", "number"),
                blocks.Column("Decision"),
                blocks.Column("Reason", "wide"),
                blocks.Column("By"),
                blocks.Column("On", "status"),
            ),
            rows=shortened(rows, _RULINGS_SHOWN, 5),
            note=f"The verdict above follows them. {left}",
            limit=200,
        )
    ]


def _learned(
    result: AuditResult, shown: Shown, counting: Sequence[SpuriousCorrelation]
) -> list[blocks.Block]:
    """Say what the model learned, beside a film of what counts, else of the closest candidate."""
    content: list[blocks.Block] = [
        blocks.Section("What the model learned"),
        *_lessons(result, counting),
    ]
    pictured = next(((e, p) for e, p in shown if p.films), None)
    if pictured is None:
        return content
    return [blocks.SideBySide(tuple(content), _first_film(result, *pictured))]


def _lessons(result: AuditResult, counting: Sequence[SpuriousCorrelation]) -> list[blocks.Block]:
    """Return a sentence for each correlation that counts, or the words for none."""
    total = sum(entry.counts for entry in result.correlations)
    if not total:
        return [blocks.Text(text) for text in nothing_learned(result)]
    content: list[blocks.Block] = [
        blocks.Text(
            sentences.correlation_sentence(
                entry,
                result.task.classes,
                result.descriptions.get(entry.cluster.cluster, ""),
            ),
            see=blocks.Reference(
                sentences.correlation_key(entry), sentences.correlation_name(entry)
            ),
        )
        for entry in counting[:_LEARNED_SHOWN]
    ]
    if total > _LEARNED_SHOWN:
        content.append(
            blocks.Text(f"{wording.plural(total - _LEARNED_SHOWN, 'more correlation')} counted.")
        )
    return content


def nothing_learned(result: AuditResult) -> list[str]:
    """Say that no correlation counts, and what that leaves open."""
    if result.discovery is None:
        return ["Not known: the audit stopped before any search for shortcuts."]
    candidates = len(result.correlations)
    first = (
        "No candidate for a shortcut came out of the search."
        if not candidates
        else "Nothing that passes every rule of evidence. "
        f"{wording.plural(candidates, 'candidate')} of the search did not count; the report shows "
        "what was seen."
    )
    if result.sensitivity is None:
        return [first, "Smaller effects stay possible."]
    return [first, *sentences.detectable_sentences(result.sensitivity)]


def _first_film(
    result: AuditResult, entry: SpuriousCorrelation, pictures: CorrelationPictures
) -> blocks.Figure:
    first = pictures.films[0]
    raised = wording.class_name(result.task.classes, entry.cluster.raised_class, 30)
    role = "counted" if entry.counts else "candidate, not counted"
    film = wording.printable(first.image_id, 20)
    caption = (
        f"{sentences.correlation_name(entry)} ({role}): film {film}, feature of cluster "
        f"{entry.cluster.cluster}, raises {raised}"
    )
    side = wording.EDGE_TEXT[first.picture.edge]
    if first.picture.edge != "R":  # what is usual, the letter beside the film says
        caption += f"; {side}"
    alt = f"Film {film}, feature of cluster {entry.cluster.cluster} outlined; {side}"
    return blocks.Figure(first.picture, alt, (caption,))


def _certainty(result: AuditResult, counting: Sequence[SpuriousCorrelation]) -> list[blocks.Block]:
    """Say how sure that is: gaps on held-out patients and contrasts, with intervals."""
    if not counting:
        return []
    classes = result.task.classes
    rows = []
    for entry in counting[:_CERTAIN_SHOWN]:
        arms, cluster = entry.confirmation.arms, entry.cluster
        raised = cluster.raised_class
        tested = entry.counterfactual
        rows.append(
            (
                str(entry.rank),
                f"{wording.class_name(classes, raised)} "
                + wording.estimate(float(arms.gap[raised]), arms.gap_interval[raised]),
                f"{sentences.lowered_classes_text(cluster, classes)} "
                + wording.estimate(arms.opposed_gap, arms.opposed_interval)
                if cluster.opposed_classes
                else wording.DASH,
                wording.probability(entry.confirmation.q_value),
                _contrast(tested.removal.both if tested else None),
                _contrast(tested.transplant if tested else None),
            )
        )
    return [
        blocks.Table(
            caption="How sure",
            columns=(
                blocks.Column("No.", "number"),
                blocks.Column("Raised, points", "wide"),
                blocks.Column("Lowered, points", "wide"),
                blocks.Column("q", "number"),
                blocks.Column("Removal, logits", "interval"),
                blocks.Column("Transplant", "interval"),
            ),
            rows=rows,
            note="Gaps of accuracy with minus without the feature, on held-out patients. Removal "
            "and transplant: change of the margin beyond that of a control. In brackets: intervals "
            "by patient.",
            limit=120,
        )
    ]


def _contrast(change: PairedChange | None) -> str:
    if change is None:
        return "not tried"
    return wording.estimate(change.contrast, change.interval, 2, scale=1.0)


def _key_facts(result: AuditResult) -> blocks.Table:
    cohort, accuracy = result.cohort, result.accuracy
    films = (
        f"{wording.plural(cohort.images, 'film')} of {wording.plural(cohort.patients, 'patient')}"
    )
    if cohort.synthetic:
        films = f"{wording.plural(cohort.images, 'phantom')}, synthetic, no patient"
    facts = (
        ("Model", wording.printable(result.model.name, 60), "Cohort", films),
        (
            "Model digest",
            wording.printable(result.model.digest, 17),
            "Accuracy",
            f"{wording.percent(accuracy.overall, 1)} "
            f"({wording.spread(accuracy.overall_interval, 1, sign=False)})",
        ),
        (
            "Task",
            f"{wording.printable(result.task.name, 40)}, "
            f"{wording.plural(len(result.task.classes), 'class', 'es')}",
            "Correlations",
            f"{wording.plural(len(result.correlations), 'candidate')}, "
            f"{sum(entry.counts for entry in result.correlations)} counted",
        ),
    )
    return fact_table("Key facts", facts)
