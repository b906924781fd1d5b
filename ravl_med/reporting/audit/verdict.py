"""Page one: what the model does wrong, how sure that is, what is open, what next."""

from __future__ import annotations

from collections.abc import Sequence

from ravl_med.evidence.audit_result import AuditResult, VerdictName
from ravl_med.evidence.confounders import attribute_name
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.reporting import wording
from ravl_med.reporting.audit import sentences
from ravl_med.reporting.audit.cohort import key_facts
from ravl_med.reporting.audit.history import AuditHistory
from ravl_med.reporting.layout import blocks
from ravl_med.reporting.pictures import CorrelationPictures, Film, FilmPicture, region_pictures
from ravl_med.reporting.tables import gate_table, shortened

Shown = Sequence[tuple[SpuriousCorrelation, CorrelationPictures]]
"""Correlations that have a page, with their pictures."""

_REASONS_SHOWN = 6
_LEARNED_SHOWN = 2
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
    "fail": "Do not use the model as it stands. With a radiologist, look at the films of this "
    "report. If the feature is no sign of the finding, repair the model (ravl-med mitigate) and "
    "audit the repaired one on films of other patients.",
    "review": "Do not use the model yet. A radiologist looks at the films and says of each open "
    "feature whether it is part of the finding, with a reason: ravl-med review RUN, or review.csv "
    "of the run folder by hand; ravl-med report RUN then draws this report again.",
    "conditional": "Use the model only as the decisions below allow, and no longer than they say. "
    "A shortcut that was taken for the finding needs a second reader (ravl-med review RUN). Before "
    "a toleration ends, repair the model (ravl-med mitigate), or decide again and draw the report "
    "again (ravl-med report RUN).",
    "pass": "The model may go on to clinical validation, which a pass does not replace. Audit "
    "again whenever model, prompts or acquisition change, and on films of the site where it will "
    "be used.",
    "not_auditable": "Fix the problems that the reasons name (more films, more of a class, other "
    "prompts, readable films) and run the audit again. What the model uses beyond what is named "
    "here is not known until then.",
}


def verdict_chapter(
    result: AuditResult,
    shown: Shown,
    date: str | None,
    history: AuditHistory | None,
    agreement: str = "",
) -> list[blocks.Block]:
    """Return page one; the date is that of the run, the agreement that of two readers."""
    verdict = result.verdict
    name = verdict.name
    counting = [entry for entry, _ in shown if entry.counts]
    why = (blocks.Section("Why this verdict"), blocks.Items(_reasons(result), 400))
    early = name == "not_auditable"  # all else on the page hangs on the reason
    content: list[blocks.Block] = [
        blocks.Title(result.title, _subtitle(result, date)),
        blocks.Banner(
            wording.VERDICT_NAMES[name],
            sentences.verdict_line(result),
            *_LOOKS[name],
            report_status(result),
        ),
        *_intended(result),
        *((*why, blocks.Section("What was found")) if early else ()),
        *_learned(result, counting),
        *_before_and_after(shown),
        *_certainty(result, counting),
        *([] if early else _missed(result)),  # all may have been, as "What next" says
        *_to_decide(result),
        blocks.Section("What next"),
        blocks.Text(NEXT_STEPS[name]),
        *_unconfounding(result),
        *_rulings(result, agreement),
        *(() if early else why),
        *([gate_table(verdict.gates)] if verdict.gates else []),
    ]
    if history is not None:
        content.append(blocks.Text(sentences.history_sentence(history), "muted", limit=1200))
    if not counting:  # else they stand with the performance, and page one says what counts
        content.append(key_facts(result))
    return [*content, blocks.Text(DISCLAIMER, "muted")]


def _intended(result: AuditResult) -> list[blocks.Block]:
    """Say what the model is meant for, where the config does."""
    use = wording.printable(result.about.get("intended_use", ""), 400)
    return [blocks.Text(f"Intended use of the model: {use}", "muted", limit=500)] if use else []


def _reasons(result: AuditResult) -> tuple[str, ...]:
    """Return the first reasons of the verdict, and how many more there are."""
    reasons = wording.first_of(result.verdict.reasons, _REASONS_SHOWN, "reason")
    if len(result.verdict.reasons) > _REASONS_SHOWN:
        reasons[-1] += "."
    return tuple(reasons)


def _unconfounding(result: AuditResult) -> list[blocks.Block]:
    """Say what parts label and attribute where they go together; nothing where none does."""
    named = [attribute_name(one.attribute) for one in result.confounders or () if one.sentence]
    if not named:
        return []
    names = wording.listing(named, _CONFOUNDERS_SHOWN)
    return [
        blocks.Text(
            f"Only other films can separate label and {names}: some of every class for each "
            f"{names}. More films of the same mixture, or a look at single films, cannot settle it."
        )
    ]


def _subtitle(result: AuditResult, date: str | None) -> str:
    kind = " · synthetic phantoms only, no patient" if result.cohort.synthetic else ""
    status = report_status(result)
    until = sentences.holds_until(result)
    valid = f" · valid until {until}" if until else ""
    model = wording.printable(result.model.name, 60)
    when = date or "no date given"
    by = [wording.printable(result.about.get(key, ""), 120) for key in ("operator", "institution")]
    made = f" · audited by {', '.join(filter(None, by))}" if any(by) else ""
    return f"Model {model} · run {result.name} · {when}{made} · {status}, not signed{valid}{kind}"


def report_status(result: AuditResult) -> blocks.Status:
    """Return FINAL where a reviewer has decided on all that asks for one, else DRAFT."""
    return "FINAL" if result.undecided == 0 else "DRAFT"


def _learned(result: AuditResult, counting: Sequence[SpuriousCorrelation]) -> list[blocks.Block]:
    """Say what the model does wrong, in a sentence and in films."""
    if not counting:
        return [
            blocks.Text(_nothing_used(result), "lead"),
            *(blocks.Text(text) for text in nothing_learned(result)),
        ]
    first, *others = counting
    content: list[blocks.Block] = [
        blocks.Text(sentences.headline(result, first), "lead"),
        blocks.Text(sentences.harm_sentence(result, first), limit=900, see=_page_of(first)),
    ]
    content += [
        blocks.Text(sentences.headline(result, entry), see=_page_of(entry))
        for entry in others[:_LEARNED_SHOWN]
    ]
    rest = len(others) - _LEARNED_SHOWN
    if rest > 0:
        content.append(
            blocks.Text(f"{wording.plural(rest, 'more feature')} that the model uses: see below.")
        )
    return content


def _page_of(entry: SpuriousCorrelation) -> blocks.Reference:
    return blocks.Reference(sentences.correlation_key(entry), sentences.correlation_name(entry))


def _nothing_used(result: AuditResult) -> str:
    """Say in one sentence what is known of a model that no feature was shown to mislead."""
    left = len(result.open_ranks)
    if left:
        verb = "asks" if left == 1 else "ask"
        return (
            f"Whether the model uses a shortcut is open: {wording.plural(left, 'feature')} {verb} "
            "for a radiologist."
        )
    if result.verdict.name == "not_auditable":
        return "Whether the model uses shortcuts is not known."
    if result.verdict.name == "review":
        return "No single feature was shown to mislead the model, but a person has to decide."
    return "On these films no feature was shown to mislead the model."


def nothing_learned(result: AuditResult) -> list[str]:
    """Say that no correlation counts, and what that leaves open."""
    if result.discovery is None:
        return ["The audit stopped before it could search for shortcuts."]
    candidates = result.discovery.candidates
    verb = "was" if candidates == 1 else "were"
    if not result.correlations:
        return ["No candidate for a shortcut came out of the search."]
    examined = f"{wording.plural(candidates, 'candidate')} {verb} examined"
    if result.open_ranks:
        return [f"No feature met every criterion by itself; {examined}."]
    confirmed = sum(one.confirmed for one in result.correlations)
    return [f"No feature met every criterion: {examined}; associations confirmed: {confirmed:,}."]


def _before_and_after(shown: Shown) -> list[blocks.Block]:
    """Show a film as it is and without its feature, with the answers to both."""
    for _, pictures in shown:
        for one in pictures.changes:
            if one.change.change == "removal":
                figures = (
                    _captioned(one.before, "As it is"),
                    _captioned(one.after, "The feature taken out"),
                )
                return [blocks.FigureGrid(figures, "large", compact=True)]
        films = (*pictures.mistakes, *pictures.random)[:2]
        if films:
            return [
                blocks.FigureGrid(
                    tuple(_captioned(film, "") for film in films), "large", compact=True
                )
            ]
    return []


def _captioned(film: FilmPicture, what: str) -> blocks.Figure:
    lines = [f"{what}: {film.answer}" if what and film.answer else what or film.answer]
    edge = film.picture.edge
    if edge != "R":
        lines.append(wording.EDGE_TEXT[edge])
    lines = [line for line in lines if line]
    return blocks.Figure(
        film.picture,
        f"Film {wording.printable(film.image_id, 20)}, feature outlined. {'. '.join(lines)}",
        (*lines, f"Film {wording.printable(film.image_id, 20)}"),
    )


def _certainty(result: AuditResult, counting: Sequence[SpuriousCorrelation]) -> list[blocks.Block]:
    """Say how sure that is: on whom it was tested, and what every intervention does."""
    if not counting:
        return []
    return [
        blocks.Section("How sure?"),
        blocks.Text(sentences.certainty_sentence(result, counting[0])),
        *([blocks.Text(named)] if (named := sentences.name_sentence(result, counting[0])) else []),
    ]


def _missed(result: AuditResult) -> list[blocks.Block]:
    """Say what could not have been seen."""
    if result.sensitivity is None:
        return []
    return [
        blocks.Section("What could have been missed?"),
        blocks.Text(" ".join(sentences.detectable_sentences(result.sensitivity)), limit=900),
    ]


def _to_decide(result: AuditResult) -> list[blocks.Block]:
    """Say on what a reviewer has to decide, and on which page it is listed."""
    left = result.open_ranks
    if not left:
        return []
    numbers = wording.listing([str(rank) for rank in left], 12)
    text = f"You have to decide on {wording.plural(len(left), 'feature')}: No. {numbers}."
    return [
        blocks.Section("What has to be decided?"),
        blocks.Text(text, see=blocks.Reference("decisions", "the list")),
    ]


def decision_chapter(result: AuditResult, film: Film, shown: Shown) -> list[blocks.Block]:
    """Return what counts or has to be decided on, with a picture each."""
    if not shown:
        return []
    return [
        blocks.Chapter("What has to be decided", "decisions"),
        blocks.Text(
            "Is what is outlined part of the finding? disease: yes, it is the finding or a "
            "sign of it. shortcut: no. chance: the films have nothing in common. cannot tell: it "
            "stays open. accepted: known, and tolerated until a date, with the safeguard as the "
            "reason. Decide with ravl-med review RUN, in review.html of the run folder, or in "
            "review.csv, one row each."
        ),
        _decision_table(result, film, shown),
    ]


def _decision_table(result: AuditResult, film: Film, shown: Shown) -> blocks.Table:
    rows: list[tuple[blocks.Cell, ...]] = []
    decided = {one.rank: sentences.decision_text(one) for one in result.rulings}
    for entry, _ in shown:
        crops = region_pictures(result, entry, film, 1)
        name = sentences.feature_name(result, entry)
        rows.append(
            (
                str(entry.rank),
                blocks.Thumbnail(crops[0].picture, f"{name}, outlined") if crops else "",
                name,
                wording.class_name(result.classes, entry.cluster.raised_class),
                sentences.outcome_text(entry),
                decided.get(
                    entry.rank, "open" if entry.rank in result.open_ranks else "not asked for"
                ),
                _page_of(entry),
            )
        )
    return blocks.Table(
        caption="Features that count or are open",
        columns=(
            blocks.Column("No.", "number"),
            blocks.Column("", "picture"),
            blocks.Column("Feature", "wide"),
            *blocks.columns("text", "Raises", "Found", "Decision"),
            blocks.Column("Page", "number"),
        ),
        rows=rows,
        limit=120,
        titled=False,
    )


def _rulings(result: AuditResult, agreement: str) -> list[blocks.Block]:
    """Every decision of a reviewer, how far two agreed, and what is still open."""
    if not result.rulings:
        return []
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
    left = len(result.open_ranks)
    note = (
        f"{wording.plural(left, 'decision')} still open." if left else "Nothing is left to decide."
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
            note=" ".join(filter(None, ("The verdict follows these decisions.", note, agreement))),
            limit=200,
        )
    ]
