"""The report of an audit, the same for paper and for the browser, and the cards of its model.

What who has to decide needs comes first, on ten pages or so: the verdict, what has to be decided, a
page or two for each correlation that counts or is open, performance, films, limits, sign-off. An
annex holds the rest. The pages say what the result holds and nothing else.

References
----------
Varma et al., RaVL, NeurIPS 2024 (arXiv 2411.04097).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.reporting import wording
from ravl_med.reporting.audit import sentences
from ravl_med.reporting.audit.cohort import (
    cohort_annex,
    cohort_chapter,
    performance_annex,
    performance_chapter,
)
from ravl_med.reporting.audit.evidence import (
    counterfactual_part,
    evidence_part,
    intervention_note,
    labels_part,
    strata_part,
)
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.looking import looking_chapter, written_part
from ravl_med.reporting.audit.method import (
    checklist_chapter,
    limits_chapter,
    method_chapter,
    signing_chapter,
)
from ravl_med.reporting.audit.search import candidates_chapter, dependence_chapter, search_chapter
from ravl_med.reporting.audit.verdict import Shown, decision_chapter, verdict_chapter
from ravl_med.reporting.cards.chai import chai_card, chai_properties
from ravl_med.reporting.cards.hub import hub_card
from ravl_med.reporting.layout import blocks
from ravl_med.reporting.layout.html import draw_html
from ravl_med.reporting.layout.pdf import draw_pdf
from ravl_med.reporting.pictures import (
    HIDDEN_LOOK,
    ChangePictures,
    CorrelationPictures,
    Film,
    FilmPicture,
    RegionPicture,
    correlation_pictures,
    shown_correlations,
)

_CLASSES_SHOWN = 20
_REASONS_SHOWN = 8
_ID_LIMIT = 20
_NAME_LIMIT = 60
_IN_A_ROW = 4  # films
_ANNEX = (
    "What follows is for those who check how this report came about: all numbers of the "
    "correlations, features without a page of their own, the search, the model and its films, the "
    "method with its thresholds, digests and versions, and a map of guidelines."
)

Progress = Callable[[str, int, int], None]
"""Stage, steps done, steps in all."""


def audit_blocks(
    result: AuditResult,
    film: Film,
    details: ReportDetails,
    progress: Progress = lambda stage, done, total: None,
    agreement: str = "",
) -> list[blocks.Block]:
    """Return the whole report as blocks; `agreement` says how far two readers agree."""
    entries = shown_correlations(result)
    shown = []
    for at, entry in enumerate(entries):
        progress("prepare the films shown", at, len(entries))
        count = details.regions_shown
        shown.append((entry, correlation_pictures(result, entry, film, count, enlarged=True)))
    short = len(shown) > 1  # each has one page, and more of its films in the annex
    content = [
        *verdict_chapter(result, shown, details.date, details.history, agreement),
        *decision_chapter(result, film, shown),
        *performance_chapter(result),
        *(correlation_entry(result, entry, pictures, short=short) for entry, pictures in shown),
        *cohort_chapter(result),
        *limits_chapter(result),
        *signing_chapter(result, details.digests),
        *_annex(result, film, shown, details),
    ]
    chapters = {block.key for block in content if isinstance(block, blocks.Chapter)}
    return [*content, *checklist_chapter({*chapters, "reproducibility"})]


def _annex(
    result: AuditResult, film: Film, shown: Shown, details: ReportDetails
) -> list[blocks.Block]:
    return [
        blocks.Chapter("Annex", "annex", "page"),
        blocks.Text(_ANNEX),
        *candidates_chapter(result, film),
        *(
            part
            for entry, pictures in shown
            for part in (
                *_numbers(result, entry),
                *(_changes(pictures.changes, compact=False) if len(shown) > 1 else ()),
                *(_films(pictures, entry) if len(shown) > 1 else ()),
                *regions_part(pictures, entry),
            )
        ),
        *looking_chapter(result),
        *dependence_chapter(result),
        *search_chapter(result),
        *performance_annex(result),
        *cohort_annex(result),
        *method_chapter(result, details.thresholds),
        blocks.Reproduction(
            {
                "Digests": details.digests,
                "Seeds": {name: str(seed) for name, seed in details.seeds.items()},
                "Versions": details.versions,
            },
            details.config_yaml,
        ),
    ]


def write_report(
    result: AuditResult,
    film: Film,
    details: ReportDetails,
    folder: Path,
    progress: Progress = lambda stage, done, total: None,
    agreement: str = "",
) -> None:
    """Write ``report.pdf`` and ``report.html``, and the cards of the model: the same numbers.

    ``model_card.xml`` is for the Coalition for Health AI, and lies in the PDF as well;
    ``model_card.md`` is in the layout of the Hugging Face Hub. The same input gives the same bytes.
    """
    content = audit_blocks(result, film, details, progress, agreement)
    name, title = result.name, result.title
    progress("draw the report", 0, 3)
    card = chai_card(result, details)
    (folder / "model_card.xml").write_text(card, encoding="utf-8")
    (folder / "model_card.md").write_text(hub_card(result, details), encoding="utf-8")
    progress("draw the report", 1, 3)
    properties = chai_properties(card)
    document = draw_pdf(content, name, title, f"Audit {name}", properties, date=details.date)
    (folder / "report.pdf").write_bytes(document)
    progress("draw the report", 2, 3)
    page = draw_html(content, name, title)
    (folder / "report.html").write_text(page, encoding="utf-8")
    progress("draw the report", 3, 3)


def correlation_entry(
    result: AuditResult,
    correlation: SpuriousCorrelation,
    pictures: CorrelationPictures,
    *,
    short: bool = False,
) -> blocks.Entry:
    """Return what a radiologist needs of one correlation, on two pages or, if short, on one."""
    classes = result.classes
    hidden = result.burned_in is not None and result.burned_in.masked
    content: list[blocks.Block] = [
        *_introduction(result, correlation),
        *_changes(_one_each(pictures.changes) if short else pictures.changes, compact=short),
        _accuracy_table(correlation, classes),
        *counterfactual_part(correlation),
        *written_part(result, correlation),
        *(_few_films(pictures) if short else _films(pictures, correlation)),
        *([blocks.Text(HIDDEN_LOOK, "muted")] if hidden else []),
    ]
    name = sentences.feature_name(result, correlation)
    return blocks.Entry(
        sentences.correlation_heading(correlation, classes, name),
        sentences.correlation_key(correlation),
        "correlation",
        sentences.correlation_marks(result, correlation),
        tuple(content),
    )


def _introduction(result: AuditResult, correlation: SpuriousCorrelation) -> list[blocks.Block]:
    """Say what the feature is and does, what was decided, and what speaks against it."""
    classes = result.classes
    lead = (
        sentences.headline(result, correlation)
        if correlation.counts
        else sentences.correlation_sentence(correlation, classes)
    )
    content: list[blocks.Block] = [blocks.Text(lead, "lead")]
    ruling = sentences.ruling_on(result, correlation)
    if ruling is not None:
        content.append(
            blocks.Text(
                f"Decided: {sentences.decision_text(ruling)}, by {ruling.name} on {ruling.date}. "
                f"{ruling.reason}",
                limit=400,
            )
        )
    described = correlation.description(result)
    parts = [f"Where: {described}."] if described else []
    if correlation.counts:
        parts.append(sentences.harm_sentence(result, correlation))
    parts.append(sentences.strata_sentence(correlation, classes))
    content.append(blocks.Text(" ".join(filter(None, parts)), limit=1200))
    if correlation.counterfactual is not None:
        content.append(blocks.Text(sentences.kind_sentence(correlation, classes)))
    if not correlation.counts:
        content += [
            blocks.Text("Why it does not affect the verdict by itself:"),
            blocks.Items(correlation.reasons[:_REASONS_SHOWN] or ("no rule is named.",), 300),
        ]
    if correlation.counterfactual is not None:
        against = sentences.counter_evidence(correlation, classes)
        content.append(blocks.Text(against, limit=1200))
    return content


def _one_each(changes: tuple[ChangePictures, ...]) -> tuple[ChangePictures, ...]:
    """Return the first removal and the first insertion; two of one kind where the other lacks."""
    kinds = [one.change.change for one in changes]
    first = [at for at, kind in enumerate(kinds) if kinds.index(kind) == at]
    rest = [at for at in range(len(changes)) if at not in first]
    return tuple(changes[at] for at in (*first, *rest)[:2])


def _changes(changes: tuple[ChangePictures, ...], *, compact: bool) -> list[blocks.Block]:
    """Films before and after, with the answer under each."""
    if not changes:
        return []
    titles = {"removal": ("As it is", "Taken out"), "insertion": ("As it is", "Put in")}
    kinds = dict.fromkeys(titles[one.change.change][1].lower() for one in changes)
    figures = tuple(
        _film(film, title, named=not compact)
        for one in changes
        for film, title in zip((one.before, one.after), titles[one.change.change], strict=True)
    )
    return [
        blocks.Section(f"Before and after: the feature {' and '.join(kinds)}"),
        blocks.FigureGrid(
            figures,
            "film",
            compact,
            "Films are drawn at random, those that are called wrongly first. In brackets: the "
            "score of the class that is called.",
        ),
    ]


def _films(pictures: CorrelationPictures, correlation: SpuriousCorrelation) -> list[blocks.Block]:
    """Return mistakes with the feature, a random sample with it, and films without it."""
    held = wording.counted(correlation.films)
    groups = (
        ("Mistakes: films with it that are called wrongly", pictures.mistakes),
        (f"A random sample of the {held} films with it", pictures.random),
        ("Films of the same classes without it, at random", pictures.without),
    )
    content: list[blocks.Block] = []
    for title, films in groups:
        if films:
            figures = tuple(_film(one) for one in films)
            content += [blocks.Section(title), blocks.FigureGrid(figures, "film")]
    if content:
        every = (*pictures.mistakes, *pictures.random, *pictures.without)
        content.append(blocks.Text(_sides(every), "muted"))
    return content


def _few_films(pictures: CorrelationPictures) -> list[blocks.Block]:
    """Return a row of films with the feature, mistakes and random ones; the annex has more."""
    mistakes = pictures.mistakes[: _IN_A_ROW // 2]
    random = pictures.random[: _IN_A_ROW - len(mistakes)]
    if not (mistakes or random):
        return []
    figures = [_film(one, "Mistake", named=False) for one in mistakes]
    figures += [_film(one, "Random", named=False) for one in random]
    return [
        blocks.Section("Films with the feature (more in the annex)"),
        blocks.FigureGrid(tuple(figures), "film", compact=True),
        blocks.Text(_sides((*mistakes, *random)), "muted"),
    ]


def regions_part(
    pictures: CorrelationPictures, correlation: SpuriousCorrelation
) -> list[blocks.Block]:
    """Crops in order, and how many of all they are."""
    if not pictures.crops:
        return [blocks.Text("The cluster holds no region to show.")]
    measured = sum(math.isfinite(entry.effect) for entry in pictures.crops)
    count = wording.plural(len(pictures.crops), "region")
    title = f"The {count} most like the centre of the cluster (a selection)"
    note = ""
    if measured and correlation.counterfactual is not None:
        title = f"The {count} that show it best (a selection)"
        removal = correlation.counterfactual.removal
        note = (
            f"{removal.carrying:,} of {wording.plural(removal.measured, 'measured region')} carry "
            f"the feature; the first of each of {wording.plural(len(pictures.crops), 'film')} is "
            "shown, outlined where its effect lies."
        )
    cluster = correlation.cluster.cluster
    crops = tuple(_crop(entry, cluster, measured=measured > 0) for entry in pictures.crops)
    return [blocks.Section(title), blocks.FigureGrid(crops, "region", note=note)]


def _crop(entry: RegionPicture, cluster: int, *, measured: bool) -> blocks.Figure:
    name = wording.printable(entry.image_id, _ID_LIMIT)
    lines = [wording.printable(f"{entry.number} · {entry.image_id}", _ID_LIMIT + 5)]
    if entry.name:
        lines.append(wording.printable(entry.name, _NAME_LIMIT))
    if measured:
        effect = wording.signed(entry.effect, 2)
        lines.append(
            f"removal effect {effect}" if effect != wording.DASH else "removal effect not measured"
        )
    alt = f"Region {entry.number} of cluster {cluster}, outlined, with what is around it: a part "
    return blocks.Figure(entry.picture, f"{alt}of film {name}", tuple(lines))


def _sides(films: tuple[FilmPicture, ...]) -> str:
    """Say what the letters beside the films mean, and where there is none."""
    stated = sum(entry.picture.edge != "" for entry in films)
    if not stated:
        return f"Sides of the patient: {wording.EDGE_TEXT['']}."
    meaning = "Letter beside a film: the patient's side at its left edge"
    return f"{meaning}." if stated == len(films) else f"{meaning}; none: not stated."


def _film(entry: FilmPicture, title: str = "", *, named: bool = True) -> blocks.Figure:
    name = wording.printable(entry.image_id, _ID_LIMIT)
    edge = entry.picture.edge
    unusual = () if edge in ("", "R") else (wording.EDGE_TEXT[edge],)
    answer = ": ".join(part for part in (title, entry.answer) if part)
    outlined = ", feature outlined" if entry.picture.boxes else ""
    alt = f"Film {name}{outlined}. {answer}; {wording.EDGE_TEXT[edge]}"
    lines = (answer, name if named or not answer else "", *unusual)
    return blocks.Figure(entry.picture, alt, tuple(filter(None, lines)))


def _numbers(result: AuditResult, correlation: SpuriousCorrelation) -> list[blocks.Block]:
    """Return the numbers behind a correlation that has a page."""
    return [
        blocks.Chapter(
            f"Numbers of {sentences.correlation_name(correlation).lower()}",
            f"numbers-{correlation.rank}",
        ),
        *evidence_part(result, correlation),
        blocks.Text(sentences.shift_sentence(correlation, result.classes)),
        *(blocks.Text(text, "muted", 1500) for text in (intervention_note(correlation),) if text),
        *strata_part(result, correlation),
        *labels_part(correlation, result.classes),
    ]


def _accuracy_table(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> blocks.Table:
    """Numbers and plot in one: a row a class."""
    cluster, arms = correlation.cluster, correlation.confirmation.arms
    rows = []
    for c in _shown_classes(correlation):
        present, absent = float(arms.accuracy_present[c]), float(arms.accuracy_absent[c])
        dots = (
            blocks.Dot("with", present, arms.present_interval[c], "main"),
            blocks.Dot("without", absent, arms.absent_interval[c], "other"),
        )
        rows.append(
            (
                wording.class_name(classes, c),
                wording.with_without(int(arms.n_present[c]), int(arms.n_absent[c])),
                wording.percent(present, 1),
                wording.percent(absent, 1),
                wording.estimate(float(arms.gap[c]), arms.gap_interval[c]),
                wording.signed(100 * float(cluster.gap[c])),
                blocks.Dots(dots),
            )
        )
    left_out = len(classes) - _CLASSES_SHOWN
    return blocks.Table(
        caption="Accuracy with and without the feature, on held-out patients",
        columns=(
            blocks.Column("Class", "wide"),
            blocks.Column("Films with / without", "status"),
            blocks.Column("Correct with it", "number"),
            blocks.Column("Correct without", "number"),
            blocks.Column("Gap in points (interval)", "interval"),
            blocks.Column("Gap in the discovery half", "number"),
            blocks.Column(blocks.Scale((("with", "main"), ("without", "other"))), "plot"),
        ),
        rows=rows,
        note=f"{wording.plural(left_out, 'more class', 'es')} with smaller gaps left out here."
        if left_out > 0
        else "",
        limit=120,
    )


def _shown_classes(correlation: SpuriousCorrelation) -> list[int]:
    """Every class in task order; of many, those with the largest gaps."""
    size = np.nan_to_num(np.abs(correlation.confirmation.arms.gap), nan=-1.0)
    if len(size) <= _CLASSES_SHOWN:
        return list(range(len(size)))
    return [int(c) for c in np.argsort(-size, kind="stable")[:_CLASSES_SHOWN]]
