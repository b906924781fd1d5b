"""The page of one correlation: regions, films, accuracy with and without, evidence."""

from __future__ import annotations

import math

import numpy as np
from reportlab.platypus import CondPageBreak, Flowable, PageBreak, Table

from ravl_med.evidence.audit_result import AuditResult, SpuriousCorrelation
from ravl_med.reporting.figures import CorrelationPictures, FilmPicture, RegionPicture
from ravl_med.reporting.pdf_shapes import ABSENT, PRESENT, Dot, DotAxis, DotRow, FilmFlowable
from ravl_med.reporting.pdf_style import WIDTH, Heading, gap, grid, paragraph, table
from ravl_med.reporting.wording import (
    DASH,
    class_name,
    correlation_heading,
    correlation_sentence,
    kind_sentence,
    number,
    percent,
    plural,
    signed,
    spread,
)

__all__ = ["correlation_page", "page_key"]

_COLUMNS = 5
_CLASSES_SHOWN = 20
_REASONS_SHOWN = 8
_ID_LIMIT = 20


def page_key(correlation: SpuriousCorrelation) -> str:
    """Return the bookmark of the page of a correlation."""
    return f"correlation-{correlation.rank}"


def correlation_page(
    result: AuditResult, correlation: SpuriousCorrelation, pictures: CorrelationPictures
) -> list[Flowable]:
    """Return the page of one correlation.

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
        paragraph(kind_sentence(correlation, classes)),
    ]
    if not correlation.counts:
        story.append(paragraph("It does not count for the verdict, because:"))
        story += [paragraph(reason, "item", 300) for reason in correlation.reasons[:_REASONS_SHOWN]]
        if not correlation.reasons:
            story.append(paragraph("no rule is named.", "item"))
    story += [
        paragraph("Evidence", "h2"),
        _evidence(correlation),
        *_regions(pictures, compact=not correlation.counts),
        paragraph("Accuracy with and without the feature", "h2"),
        _accuracy_table(correlation, classes),
    ]
    left_out = len(classes) - _CLASSES_SHOWN
    if left_out > 0:
        story.append(
            paragraph(
                f"{plural(left_out, 'more class', 'es')} with smaller gaps left out here.", "muted"
            )
        )
    return story


def _evidence(correlation: SpuriousCorrelation) -> Table:
    """Return the measures of a cluster in one row."""
    cluster, removal = correlation.cluster, correlation.removal
    films = int(cluster.present.sum())
    head = [
        "Films with the feature",
        "Regions",
        "Performance gap G",
        "Influence H",
        "Removal effect, logits",
        "Its interval",
        "Inside share",
    ]
    row = [
        f"{films:,} of {len(cluster.present):,}",
        f"{len(cluster.regions):,}",
        number(cluster.performance_gap, 3),
        number(cluster.influence, 2),
        signed(removal.mean, 2),
        spread(removal.interval, 2, scale=1.0),
        percent(removal.inside_share),
    ]
    return table([head, row], [WIDTH / 7] * 7)


def _regions(pictures: CorrelationPictures, *, compact: bool) -> list[Flowable]:
    """Crops in order, then the whole films that they lie on; compact beside a list of reasons."""
    crop_height, film_height = (34, 50) if compact else (52, 75)
    if not pictures.crops:
        return [paragraph("The cluster holds no region to show.")]
    measured = sum(math.isfinite(entry.effect) for entry in pictures.crops)
    order = (
        "by removal effect, the largest first"
        if measured == len(pictures.crops)
        else "by removal effect, then by similarity where it was not measured"
    )
    films = plural(len(pictures.films), "film")
    return [
        paragraph(f"The first {plural(len(pictures.crops), 'region')}, {order}", "h2"),
        grid([_crop_cell(entry, crop_height) for entry in pictures.crops], _COLUMNS),
        CondPageBreak(120),
        paragraph(f"Where they lie: {films}", "h2"),
        grid([_film_cell(entry, film_height) for entry in pictures.films], _COLUMNS),
    ]


def _crop_cell(entry: RegionPicture, height: float) -> list[Flowable]:
    width = WIDTH / _COLUMNS - 6
    effect = signed(entry.effect, 2)
    measured = f"removal effect {effect}" if effect != DASH else "removal effect not measured"
    return [
        FilmFlowable(entry.picture, width, height, 0.8),
        gap(1.5),
        paragraph(f"{entry.number} · {entry.image_id}", "caption", _ID_LIMIT + 5),
        paragraph(measured, "caption"),
    ]


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


def _accuracy_table(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> Table:
    """Numbers and plot in one: a row a class."""
    cluster = correlation.cluster
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
            "Weighted gap",
            DotAxis(plot, names),
        ]
    ]
    for c in _shown_classes(correlation):
        present, absent = float(cluster.accuracy_present[c]), float(cluster.accuracy_absent[c])
        value, interval = (
            signed(100 * float(cluster.gap[c])),
            spread(correlation.gap_interval[c], 1),
        )
        dots = [
            Dot(present, correlation.accuracy_present_interval[c], PRESENT, True),
            Dot(absent, correlation.accuracy_absent_interval[c], ABSENT, False),
        ]
        rows.append(
            [
                class_name(classes, c),
                f"{cluster.n_present[c]:,} / {cluster.n_absent[c]:,}",
                percent(present, 1),
                percent(absent, 1),
                value if interval == DASH else f"{value} ({interval})",
                signed(100 * float(cluster.weighted_gap[c])),
                DotRow(dots, plot, 15),
            ]
        )
    return table(rows, widths)


def _shown_classes(correlation: SpuriousCorrelation) -> list[int]:
    """Every class in task order; of many, those with the largest gaps."""
    size = np.nan_to_num(np.abs(correlation.cluster.gap), nan=-1.0)
    if len(size) <= _CLASSES_SHOWN:
        return list(range(len(size)))
    return [int(c) for c in np.argsort(-size, kind="stable")[:_CLASSES_SHOWN]]
