"""The report of an audit, the same for paper and for the browser, and the cards of its model.

Verdict first, then who was audited, how well the model does, what was searched, a page or two for
each correlation, how all of this was found, and who signs it. The pages say what the result holds
and nothing else.

References
----------
Varma et al., RaVL, NeurIPS 2024 (arXiv 2411.04097).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.reporting import wording
from ravl_med.reporting.audit import sentences
from ravl_med.reporting.audit.cohort import cohort_chapter, performance_chapter
from ravl_med.reporting.audit.evidence import (
    counterfactual_part,
    evidence_part,
    labels_part,
    strata_part,
)
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.looking import looking_chapter, written_part
from ravl_med.reporting.audit.method import checklist_chapter, method_chapter, signing_chapter
from ravl_med.reporting.audit.search import dependence_chapter, search_chapter
from ravl_med.reporting.audit.verdict import verdict_chapter
from ravl_med.reporting.cards.chai import chai_card, chai_properties
from ravl_med.reporting.cards.hub import hub_card
from ravl_med.reporting.layout import blocks
from ravl_med.reporting.layout.html import draw_html
from ravl_med.reporting.layout.pdf import draw_pdf
from ravl_med.reporting.pictures import (
    CARRIES,
    HIDDEN_LOOK,
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
_LOCATED = "Yellow: the region. White, dashed: where its removal effect lies."


def audit_blocks(result: AuditResult, film: Film, details: ReportDetails) -> list[blocks.Block]:
    """Return the whole report as blocks; each film is asked for once for each correlation."""
    shown = [
        (entry, correlation_pictures(result, entry, film, details.regions_shown, enlarged=True))
        for entry in shown_correlations(result)
    ]
    return [
        *verdict_chapter(result, shown, details.date, details.history),
        *cohort_chapter(result),
        *performance_chapter(result),
        *looking_chapter(result),
        *search_chapter(result),
        *dependence_chapter(result),
        *(correlation_entry(result, entry, pictures) for entry, pictures in shown),
        *method_chapter(result, details.thresholds),
        blocks.Reproduction(
            {
                "Digests": details.digests,
                "Seeds": {name: str(seed) for name, seed in details.seeds.items()},
                "Versions": details.versions,
            },
            details.config_yaml,
        ),
        *checklist_chapter(),
        *signing_chapter(result, details.digests),
    ]


def write_report(result: AuditResult, film: Film, details: ReportDetails, folder: Path) -> None:
    """Write ``report.pdf`` and ``report.html``, and the cards of the model: the same numbers.

    ``model_card.xml`` is for the Coalition for Health AI, and lies in the PDF as well;
    ``model_card.md`` is in the layout of the Hugging Face Hub. The same input gives the same bytes.
    """
    content = audit_blocks(result, film, details)
    name, title = result.name, result.title
    card = chai_card(result, details)
    (folder / "model_card.xml").write_text(card, encoding="utf-8")
    (folder / "model_card.md").write_text(hub_card(result, details), encoding="utf-8")
    document = draw_pdf(content, name, title, f"Audit {name}", chai_properties(card))
    (folder / "report.pdf").write_bytes(document)
    page = draw_html(content, name, title)
    (folder / "report.html").write_text(page, encoding="utf-8")


def correlation_entry(
    result: AuditResult, correlation: SpuriousCorrelation, pictures: CorrelationPictures
) -> blocks.Entry:
    """Return the page of one correlation, or its two pages."""
    classes = result.task.classes
    # Without an intervention one page is enough: smaller pictures, nothing to speak against.
    compact = correlation.counterfactual is None
    content: list[blocks.Block] = [
        *_introduction(result, correlation),
        *evidence_part(result, correlation),
        blocks.Text(sentences.shift_sentence(correlation, classes)),
        *counterfactual_part(correlation),
        *written_part(result, correlation),
        *_regions(pictures, correlation, compact=compact),
        _accuracy_table(correlation, classes),
        *_films(pictures, correlation, compact=compact),
        *(
            [blocks.Text(HIDDEN_LOOK, "muted")]
            if result.burned_in and result.burned_in.masked
            else []
        ),
        *strata_part(result, correlation),
        *labels_part(correlation, classes),
    ]
    return blocks.Entry(
        sentences.correlation_heading(correlation, classes),
        sentences.correlation_key(correlation),
        "correlation",
        sentences.correlation_marks(correlation),
        tuple(content),
    )


def _introduction(result: AuditResult, correlation: SpuriousCorrelation) -> list[blocks.Block]:
    """Say what goes with the feature, of what kind it is, why it does not count."""
    classes = result.task.classes
    content: list[blocks.Block] = [
        blocks.Text(sentences.correlation_sentence(correlation, classes), "lead")
    ]
    described = result.descriptions.get(correlation.cluster.cluster, "")
    if described:
        content.append(blocks.Text(f"Its regions: {described}.", limit=200))
    if correlation.counterfactual is not None:
        content.append(blocks.Text(sentences.kind_sentence(correlation, classes)))
    if not correlation.counts:
        content += [
            blocks.Text("It does not count for the verdict, because:"),
            blocks.Items(correlation.reasons[:_REASONS_SHOWN] or ("no rule is named.",), 300),
        ]
    if correlation.counterfactual is not None:
        content.append(blocks.Text(sentences.counter_evidence(correlation, classes)))
    return content


def _regions(
    pictures: CorrelationPictures, correlation: SpuriousCorrelation, *, compact: bool
) -> list[blocks.Block]:
    """Crops in order, those that carry the feature marked."""
    if not pictures.crops:
        return [blocks.Text("The cluster holds no region to show.")]
    measured = sum(math.isfinite(entry.effect) for entry in pictures.crops)
    order = "by similarity to the medoid"
    if measured:
        order = "by removal effect, the largest first"
        if measured < len(pictures.crops):
            order = "by removal effect, then by similarity where it was not measured"
    note = ""
    if measured and correlation.counterfactual is not None:
        least = wording.signed(correlation.counterfactual.removal.threshold, 2)
        rule = f"an effect of at least {least} logits, fixed on the discovery half"
        carried = any(entry.carries for entry in pictures.crops)
        which = f"{CARRIES.strip()} carries" if carried else "None of these carries"
        note = f"{which} the feature ({rule})."
    cluster = correlation.cluster.cluster
    crops = tuple(_crop(entry, cluster, measured=measured > 0) for entry in pictures.crops)
    return [
        blocks.Section(f"The first {wording.plural(len(pictures.crops), 'region')}, {order}"),
        blocks.FigureGrid(crops, "region", compact, note),
    ]


def _crop(entry: RegionPicture, cluster: int, *, measured: bool) -> blocks.Figure:
    name = wording.printable(entry.image_id, _ID_LIMIT)
    lines = [wording.printable(f"{entry.number} · {entry.image_id}", _ID_LIMIT + 5)]
    if entry.name:
        lines.append(wording.printable(entry.name, _NAME_LIMIT))
    if measured:
        effect = wording.signed(entry.effect, 2)
        found = (
            f"removal effect {effect}" if effect != wording.DASH else "removal effect not measured"
        )
        lines.append(found + CARRIES * entry.carries)
    alt = f"Region {entry.number} of cluster {cluster}, outlined, with what is around it: a part "
    return blocks.Figure(entry.picture, f"{alt}of film {name}", tuple(lines))


def _films(
    pictures: CorrelationPictures, correlation: SpuriousCorrelation, *, compact: bool
) -> list[blocks.Block]:
    """Whole films with the boxes of the regions."""
    if not pictures.films:
        return []
    located = any(entry.picture.located for entry in pictures.films)
    heading = f"Where they lie: {wording.plural(len(pictures.films), 'film')}; {_sides(pictures)}"
    films = tuple(_film(entry, correlation.cluster.cluster) for entry in pictures.films)
    return [
        blocks.Section(heading),
        blocks.FigureGrid(films, "film", compact, _LOCATED if located else ""),
    ]


def _sides(pictures: CorrelationPictures) -> str:
    """Say what the letters beside the films mean, and where there is none."""
    stated = sum(entry.picture.edge != "" for entry in pictures.films)
    if not stated:
        return wording.EDGE_TEXT[""]
    meaning = "letter: the patient's side at the left edge"
    return meaning if stated == len(pictures.films) else f"{meaning}, none: not stated"


def _film(entry: FilmPicture, cluster: int) -> blocks.Figure:
    ending = "" if len(entry.numbers) == 1 else "s"
    where = f"region{ending} {', '.join(map(str, entry.numbers))}"
    name = wording.printable(entry.image_id, _ID_LIMIT)
    alt = f"Film {name}, feature of cluster {cluster} outlined: {where}"
    if entry.picture.located:
        alt += "; dashed, where the removal effect lies"
    edge = entry.picture.edge
    unusual = () if edge in ("", "R") else (wording.EDGE_TEXT[edge],)
    lines = (wording.printable(where, 60), name, *unusual)
    return blocks.Figure(entry.picture, f"{alt}; {wording.EDGE_TEXT[edge]}", lines)


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
            blocks.Column("Acc. with", "number"),
            blocks.Column("Acc. without", "number"),
            blocks.Column("Gap in points (interval)", "interval"),
            blocks.Column("Gap when found", "number"),
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
