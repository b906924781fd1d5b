"""The page of one correlation: what it is, evidence, regions, films, accuracy, strata."""

from __future__ import annotations

import math

import numpy as np
from reportlab.platypus import CondPageBreak, Flowable, KeepTogether, PageBreak, Table

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.claims import SpuriousCorrelation
from ravl_med.reporting.figures import CARRIES, CorrelationPictures, FilmPicture, RegionPicture
from ravl_med.reporting.pdf_evidence import counterfactual_part, evidence_part, strata_part
from ravl_med.reporting.pdf_sentences import (
    correlation_heading,
    correlation_sentence,
    counter_evidence,
    kind_sentence,
    shift_sentence,
)
from ravl_med.reporting.pdf_shapes import ABSENT, PRESENT, Dot, DotAxis, DotRow, FilmFlowable
from ravl_med.reporting.pdf_style import WIDTH, Heading, gap, grid, paragraph, table
from ravl_med.reporting.wording import (
    DASH,
    class_name,
    estimate,
    percent,
    plural,
    signed,
)

__all__ = ["correlation_page", "page_key"]

_COLUMNS = 5
_CLASSES_SHOWN = 20
_REASONS_SHOWN = 8
_ID_LIMIT = 20
_LOCATED = "Yellow: the region. White, dashed: where its removal effect lies."


def page_key(correlation: SpuriousCorrelation) -> str:
    """Return the bookmark of the page of a correlation."""
    return f"correlation-{correlation.rank}"


def correlation_page(
    result: AuditResult, correlation: SpuriousCorrelation, pictures: CorrelationPictures
) -> list[Flowable]:
    """Return the page of one correlation, or its two pages.

    Parameters
    ----------
    result : AuditResult
    correlation : SpuriousCorrelation - one of `result`
    pictures : CorrelationPictures - its regions and films
    """
    classes = result.task.classes
    story: list[Flowable] = [
        PageBreak(),
        Heading(correlation_heading(correlation, classes), page_key(correlation), 1),
        paragraph(correlation_sentence(correlation, classes), "lead"),
    ]
    described = result.descriptions.get(correlation.cluster.cluster, "")
    if described:
        story.append(paragraph(f"Its regions: {described}.", limit=200))
    if correlation.counterfactual is not None:
        story.append(paragraph(kind_sentence(correlation, classes)))
    if not correlation.counts:
        story.append(paragraph("It does not count for the verdict, because:"))
        story += [paragraph(reason, "item", 300) for reason in correlation.reasons[:_REASONS_SHOWN]]
        if not correlation.reasons:
            story.append(paragraph("no rule is named.", "item"))
    # Without an intervention one page is enough: smaller pictures, nothing to speak against.
    tested = correlation.counterfactual is not None
    if tested:
        story.append(paragraph(counter_evidence(correlation, classes)))
    return [
        *story,
        *evidence_part(result, correlation),
        paragraph(shift_sentence(correlation, classes)),
        *counterfactual_part(correlation),
        *_regions(pictures, correlation, 52 if tested else 34),
        *_accuracy_part(correlation, classes),
        *_films(pictures, 68 if tested else 42),
        *strata_part(result, correlation),
    ]


def _regions(
    pictures: CorrelationPictures, correlation: SpuriousCorrelation, height: float
) -> list[Flowable]:
    """Crops in order, those that carry the feature marked."""
    if not pictures.crops:
        return [paragraph("The cluster holds no region to show.")]
    measured = sum(math.isfinite(entry.effect) for entry in pictures.crops)
    order = "by similarity to the medoid"
    if measured:
        order = "by removal effect, the largest first"
        if measured < len(pictures.crops):
            order = "by removal effect, then by similarity where it was not measured"
    crops = grid(
        [_crop_cell(entry, height, told=measured > 0) for entry in pictures.crops], _COLUMNS
    )
    story: list[Flowable] = [
        CondPageBreak(120),
        paragraph(f"The first {plural(len(pictures.crops), 'region')}, {order}", "h2"),
        crops,
    ]
    if measured and correlation.counterfactual is not None:
        least = signed(correlation.counterfactual.removal.threshold, 2)
        rule = f"an effect of at least {least} logits, fixed on the discovery half"
        carried = any(entry.carries for entry in pictures.crops)
        which = f"{CARRIES.strip()} carries" if carried else "None of these carries"
        text = f"{which} the feature ({rule})."
        story.append(paragraph(text, "caption"))
    return story


def _films(pictures: CorrelationPictures, height: float) -> list[Flowable]:
    """Whole films with the boxes of the regions."""
    if not pictures.films:
        return []
    located = any(entry.picture.located for entry in pictures.films)
    return [
        CondPageBreak(140),
        paragraph(f"Where they lie: {plural(len(pictures.films), 'film')}", "h2_loose"),
        grid([_film_cell(entry, height) for entry in pictures.films], _COLUMNS),
        *([paragraph(_LOCATED, "caption")] if located else []),
    ]


def _crop_cell(entry: RegionPicture, height: float, *, told: bool) -> list[Flowable]:
    width = WIDTH / _COLUMNS - 6
    cell: list[Flowable] = [
        FilmFlowable(entry.picture, width, height, 0.8),
        gap(1.5),
        paragraph(f"{entry.number} · {entry.image_id}", "caption", _ID_LIMIT + 5),
    ]
    if told:
        effect = signed(entry.effect, 2)
        measured = f"removal effect {effect}" if effect != DASH else "removal effect not measured"
        cell.append(paragraph(measured + CARRIES * entry.carries, "caption"))
    return cell


def _film_cell(entry: FilmPicture, height: float) -> list[Flowable]:
    width = WIDTH / _COLUMNS - 6
    word = "region" if len(entry.numbers) == 1 else "regions"
    where = ", ".join(map(str, entry.numbers))
    return [
        FilmFlowable(entry.picture, width, height),
        gap(1.5),
        paragraph(f"{word} {where}", "caption", 60),
        paragraph(entry.image_id, "caption", _ID_LIMIT),
    ]


def _accuracy_part(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> list[Flowable]:
    heading = paragraph("Accuracy with and without the feature, on held-out patients", "h2")
    made = _accuracy_table(correlation, classes)
    # A short table stays with its heading; a long one splits over pages.
    story: list[Flowable] = [
        KeepTogether([heading, made]) if len(classes) <= _COLUMNS + 3 else heading
    ]
    if len(classes) > _COLUMNS + 3:
        story.append(made)
    left_out = len(classes) - _CLASSES_SHOWN
    if left_out > 0:
        text = f"{plural(left_out, 'more class', 'es')} with smaller gaps left out here."
        story.append(paragraph(text, "muted"))
    return story


def _accuracy_table(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> Table:
    """Numbers and plot in one: a row a class."""
    cluster, arms = correlation.cluster, correlation.confirmation.arms
    plot = 116.0
    fixed = [56, 42, 44, 104, 48, plot + 8]
    widths = [WIDTH - sum(fixed), *fixed]
    names = [("with", PRESENT, True), ("without", ABSENT, False)]
    rows: list[list[str | Flowable | list[Flowable]]] = [
        [
            "Class",
            "Films with / without",
            "Acc. with",
            "Acc. without",
            "Gap in points (interval)",
            "Gap when found",
            DotAxis(plot, names),
        ]
    ]
    for c in _shown_classes(correlation):
        present, absent = float(arms.accuracy_present[c]), float(arms.accuracy_absent[c])
        dots = [
            Dot(present, arms.present_interval[c], PRESENT, True),
            Dot(absent, arms.absent_interval[c], ABSENT, False),
        ]
        rows.append(
            [
                class_name(classes, c),
                f"{arms.n_present[c]:,} / {arms.n_absent[c]:,}",
                percent(present, 1),
                percent(absent, 1),
                estimate(float(arms.gap[c]), arms.gap_interval[c]),
                signed(100 * float(cluster.gap[c])),
                DotRow(dots, plot, 13.5),
            ]
        )
    return table(rows, widths, dense=True)


def _shown_classes(correlation: SpuriousCorrelation) -> list[int]:
    """Every class in task order; of many, those with the largest gaps."""
    size = np.nan_to_num(np.abs(correlation.confirmation.arms.gap), nan=-1.0)
    if len(size) <= _CLASSES_SHOWN:
        return list(range(len(size)))
    return [int(c) for c in np.argsort(-size, kind="stable")[:_CLASSES_SHOWN]]
