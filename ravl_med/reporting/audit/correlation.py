"""One correlation: what it is, evidence, regions, films, accuracy, strata."""

from __future__ import annotations

import math

import numpy as np

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.reporting.audit.evidence import (
    counterfactual_part,
    evidence_part,
    labels_part,
    strata_part,
)
from ravl_med.reporting.audit.sentences import (
    correlation_heading,
    correlation_key,
    correlation_marks,
    correlation_sentence,
    counter_evidence,
    kind_sentence,
    shift_sentence,
)
from ravl_med.reporting.layout.blocks import (
    Block,
    Dot,
    Dots,
    Entry,
    FilmFigure,
    Items,
    Pictures,
    Scale,
    Section,
    Table,
    Text,
    sized,
)
from ravl_med.reporting.pictures import CARRIES, CorrelationPictures, FilmPicture, RegionPicture
from ravl_med.reporting.text_masking import HIDDEN_LOOK
from ravl_med.reporting.wording import (
    DASH,
    EDGE_WORDS,
    class_name,
    estimate,
    percent,
    plural,
    printable,
    signed,
    with_without,
)

_CLASSES_SHOWN = 20
_REASONS_SHOWN = 8
_ID_LIMIT = 20
_NAME_LIMIT = 60
_LOCATED = "Yellow: the region. White, dashed: where its removal effect lies."


def correlation_entry(
    result: AuditResult, correlation: SpuriousCorrelation, pictures: CorrelationPictures
) -> Entry:
    """Return the page of one correlation, or its two pages.

    Parameters
    ----------
    correlation : SpuriousCorrelation - one of `result`
    pictures : CorrelationPictures - its regions and films
    """
    classes = result.task.classes
    # Without an intervention one page is enough: smaller pictures, nothing to speak against.
    tested = correlation.counterfactual is not None
    blocks: list[Block] = [
        *_introduction(result, correlation),
        *evidence_part(result, correlation),
        Text(shift_sentence(correlation, classes)),
        *counterfactual_part(correlation),
        *_regions(pictures, correlation, 52 if tested else 34),
        _accuracy_table(correlation, classes),
        *_films(pictures, correlation, 68 if tested else 42),
        *([Text(HIDDEN_LOOK, "muted")] if result.burned_in and result.burned_in.masked else []),
        *strata_part(result, correlation),
        *labels_part(correlation, classes),
    ]
    return Entry(
        correlation_heading(correlation, classes),
        correlation_key(correlation),
        "correlation",
        correlation_marks(correlation),
        tuple(blocks),
    )


def _introduction(result: AuditResult, correlation: SpuriousCorrelation) -> list[Block]:
    """Say what goes with the feature, of what kind it is, why it does not count."""
    classes = result.task.classes
    blocks: list[Block] = [Text(correlation_sentence(correlation, classes), "lead")]
    described = result.descriptions.get(correlation.cluster.cluster, "")
    if described:
        blocks.append(Text(f"Its regions: {described}.", limit=200))
    if correlation.counterfactual is not None:
        blocks.append(Text(kind_sentence(correlation, classes)))
    if not correlation.counts:
        blocks += [
            Text("It does not count for the verdict, because:"),
            Items(correlation.reasons[:_REASONS_SHOWN] or ("no rule is named.",), 300),
        ]
    if correlation.counterfactual is not None:
        blocks.append(Text(counter_evidence(correlation, classes)))
    return blocks


def _regions(
    pictures: CorrelationPictures, correlation: SpuriousCorrelation, height: float
) -> list[Block]:
    """Crops in order, those that carry the feature marked."""
    if not pictures.crops:
        return [Text("The cluster holds no region to show.")]
    measured = sum(math.isfinite(entry.effect) for entry in pictures.crops)
    order = "by similarity to the medoid"
    if measured:
        order = "by removal effect, the largest first"
        if measured < len(pictures.crops):
            order = "by removal effect, then by similarity where it was not measured"
    note = ""
    if measured and correlation.counterfactual is not None:
        least = signed(correlation.counterfactual.removal.threshold, 2)
        rule = f"an effect of at least {least} logits, fixed on the discovery half"
        carried = any(entry.carries for entry in pictures.crops)
        which = f"{CARRIES.strip()} carries" if carried else "None of these carries"
        note = f"{which} the feature ({rule})."
    cluster = correlation.cluster.cluster
    shots = tuple(_crop(entry, cluster, told=measured > 0) for entry in pictures.crops)
    return [
        Section(f"The first {plural(len(pictures.crops), 'region')}, {order}"),
        Pictures(shots, height, note=note, line=0.8),
    ]


def _crop(entry: RegionPicture, cluster: int, *, told: bool) -> FilmFigure:
    name = printable(entry.image_id, _ID_LIMIT)
    lines = [printable(f"{entry.number} · {entry.image_id}", _ID_LIMIT + 5)]
    if entry.name:
        lines.append(printable(entry.name, _NAME_LIMIT))
    if told:
        effect = signed(entry.effect, 2)
        measured = f"removal effect {effect}" if effect != DASH else "removal effect not measured"
        lines.append(measured + CARRIES * entry.carries)
    alt = f"Region {entry.number} of cluster {cluster}, outlined, with what is around it: a part "
    return FilmFigure(entry.picture, f"{alt}of film {name}", tuple(lines))


def _films(
    pictures: CorrelationPictures, correlation: SpuriousCorrelation, height: float
) -> list[Block]:
    """Whole films with the boxes of the regions."""
    if not pictures.films:
        return []
    located = any(entry.picture.located for entry in pictures.films)
    heading = f"Where they lie: {plural(len(pictures.films), 'film')}; {_sides(pictures)}"
    shots = tuple(_film(entry, correlation.cluster.cluster) for entry in pictures.films)
    return [
        Section(heading, room=140),
        Pictures(shots, height, note=_LOCATED if located else ""),
    ]


def _sides(pictures: CorrelationPictures) -> str:
    """Say what the letters beside the films mean, and where there is none."""
    stated = sum(entry.picture.edge != "" for entry in pictures.films)
    if not stated:
        return EDGE_WORDS[""]
    told = "letter: the patient's side at the left edge"
    return told if stated == len(pictures.films) else f"{told}, none: not stated"


def _film(entry: FilmPicture, cluster: int) -> FilmFigure:
    word = "region" if len(entry.numbers) == 1 else "regions"
    where = f"{word} {', '.join(map(str, entry.numbers))}"
    name = printable(entry.image_id, _ID_LIMIT)
    alt = f"Film {name}, feature of cluster {cluster} outlined: {where}"
    if entry.picture.located:
        alt += "; dashed, where the removal effect lies"
    edge = entry.picture.edge
    unusual = () if edge in ("", "R") else (EDGE_WORDS[edge],)
    lines = (printable(where, 60), name, *unusual)
    return FilmFigure(entry.picture, f"{alt}; {EDGE_WORDS[edge]}", lines)


def _accuracy_table(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> Table:
    """Numbers and plot in one: a row a class."""
    cluster, arms = correlation.cluster, correlation.confirmation.arms
    rows = []
    for c in _shown_classes(correlation):
        present, absent = float(arms.accuracy_present[c]), float(arms.accuracy_absent[c])
        dots = (
            Dot("with", present, arms.present_interval[c], "main"),
            Dot("without", absent, arms.absent_interval[c], "other"),
        )
        rows.append(
            (
                class_name(classes, c),
                with_without(int(arms.n_present[c]), int(arms.n_absent[c])),
                percent(present, 1),
                percent(absent, 1),
                estimate(float(arms.gap[c]), arms.gap_interval[c]),
                signed(100 * float(cluster.gap[c])),
                Dots(dots, height=13.5),
            )
        )
    left_out = len(classes) - _CLASSES_SHOWN
    heads = ("Class", "Films with / without", "Acc. with", "Acc. without",
             "Gap in points (interval)", "Gap when found",
             Scale((("with", "main"), ("without", "other"))))  # fmt: skip
    return Table(
        caption="Accuracy with and without the feature, on held-out patients",
        columns=sized(heads, (0, 56, 42, 44, 104, 48, 104)),
        rows=tuple(rows),
        note=f"{plural(left_out, 'more class', 'es')} with smaller gaps left out here."
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
