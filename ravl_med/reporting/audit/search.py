"""What was searched, the map of its clusters, what was found, what films could have shown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ravl_med.discovery.clusters import ClusterMap
from ravl_med.evidence.audit_result import (
    AuditResult,
    Dependence,
    DependenceCell,
    DependenceGroup,
    DiscoverySummary,
    Sensitivity,
)
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.reporting import wording
from ravl_med.reporting.audit import sentences
from ravl_med.reporting.layout import blocks
from ravl_med.reporting.pictures import (
    COMPANIONS_SHOWN,
    Film,
    companions,
    region_pictures,
    shown_correlations,
)
from ravl_med.reporting.tables import shortened
from ravl_med.reporting.wording import number

_DRAWN = 1500  # clusters; of more the smallest are left out
_LITTLE = 0.2  # of the squared distances
_CAPTION = "Map of the feature clusters"
_NAMES: dict[blocks.SpotLook, str] = {
    "shortcut": "shortcut",
    "sign": "plausible sign",
    "undecided": "undecided, counted",
    "confirmed": "confirmed, not counted",
    "candidate": "candidate, not confirmed",
    "other": "no candidate",
}


def map_part(result: AuditResult) -> list[blocks.Block]:
    """Return the map with its legend, and in words how to read it."""
    if result.discovery is None:
        return []
    found = result.discovery.cluster_map
    if not found.clusters:
        return [blocks.Text("No feature cluster was proposed: there is no map of them.")]
    spots = _spots(result, found)
    looks = {spot.look for spot in spots}
    legend = tuple((name, look) for look, name in _NAMES.items() if look in looks)
    return [blocks.ClusterPlot(_CAPTION, spots, legend, _note(result, found, spots))]


def _spots(result: AuditResult, found: ClusterMap) -> tuple[blocks.Spot, ...]:
    """Return every cluster with its look; what is shown as a correlation looks like it."""
    of = {entry.rank: entry for entry in result.correlations}
    folded = {cluster: entry for entry in result.correlations for cluster in entry.also}
    paged = {entry.rank for entry in shown_correlations(result)}
    spots: list[blocks.Spot] = []
    for one in sorted(found.clusters, key=lambda one: (one.rank is None, -one.regions)):
        entry = folded.get(one.cluster) if one.rank is None else of.get(one.rank)
        look: blocks.SpotLook = "other" if entry is None else _look(entry)
        if entry is None or one.rank not in paged:
            if len(spots) < _DRAWN:
                spots.append(blocks.Spot(one.x, one.y, one.regions, look))
            continue
        alt = (
            f"{sentences.correlation_name(entry)}, {sentences.outcome_text(entry)}: cluster "
            f"{one.cluster} with {wording.plural(one.regions, 'region')}"
        )
        number, key = str(entry.rank), sentences.correlation_key(entry)
        spots.append(blocks.Spot(one.x, one.y, one.regions, look, alt, number, key))
    return tuple(spots)


def _look(entry: SpuriousCorrelation) -> blocks.SpotLook:
    if entry.counts:
        looks: dict[str, blocks.SpotLook] = {"shortcut": "shortcut", "plausible_sign": "sign"}
        return looks.get(entry.kind, "undecided")
    return "confirmed" if entry.confirmation.status == "confirmed" else "candidate"


def _note(result: AuditResult, found: ClusterMap, spots: tuple[blocks.Spot, ...]) -> str:
    """Say what to see, how the map was made, and how far it can be trusted."""
    counts = [one.regions for one in found.clusters]
    least, most = min(counts), max(counts)
    size = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    note = [
        f"{wording.plural(len(counts), 'feature cluster')}, drawn at the medoid; the area of a "
        f"mark is its number of regions ({size}), the smallest are drawn larger."
    ]
    if any(spot.number for spot in spots):
        note.append(
            "Numbers: correlations that have a page. Found clusters that lie close together are "
            "often one feature, seen in parts; one that lies alone is unlike the rest to the model."
        )
    elif not result.correlations:
        note.append("No correlation was found, so none is marked.")
    if any(entry.also for entry in result.correlations):
        note.append("Clusters that are shown as one with a correlation have its mark.")
    if any(entry.cluster.source == "effects" for entry in result.correlations):
        note.append("Features that effects proposed are no clusters, and have no mark.")
    if len(spots) < len(found.clusters):
        note.append(f"The smallest {len(found.clusters) - len(spots):,} are not drawn.")
    return " ".join([*note, _trust(found)])


def _trust(found: ClusterMap) -> str:
    made = "Classical scaling of the distances between the medoids on the unit sphere"
    if not math.isfinite(found.kept):
        return f"{made}; there is no distance to show."
    kept = f"{made}: the two directions keep {wording.percent(found.kept)} of the squared distances"
    if math.isfinite(found.correlation):
        kept += f" (distances correlate by {number(found.correlation)})"
    if found.kept < _LITTLE:
        return f"{kept}. That is little: this map says next to nothing."
    return (
        f"{kept}. What is far apart here is so to the model; what is close may still differ, and "
        "the directions mean nothing by themselves."
    )


_ROWS_SHOWN = 40
_FURTHER_ROWS = 15
_PARTITIONS_SHOWN = 12
_REASONS_SHOWN = 8


def search_chapter(result: AuditResult) -> list[blocks.Block]:
    """Say what was looked for and what came of it, also where that is nothing."""
    search = result.discovery
    content: list[blocks.Block] = [blocks.Chapter("Search for shortcuts", "search")]
    if search is None:
        text = "No search was made: the audit stopped before discovery. Nothing is known about "
        return [
            *content,
            blocks.Text(text + "shortcuts of this model.", "lead"),
            blocks.Items(result.verdict.reasons[:8], 400),
        ]
    content += [blocks.Text(text, limit=900) for text in _procedure(search)]
    content += [_partition_table(search), _funnel(result, search), *map_part(result)]
    if result.sensitivity is not None and result.sensitivity.clusters:
        content.append(blocks.Text(_tested_sentence(result.sensitivity)))
    return content


def _procedure(search: DiscoverySummary) -> list[str]:
    """How regions were clustered, and on whom clusters were chosen and tested."""
    one = len(search.partitions) == 1
    pooled = (
        "the clusters of all were pooled and near-duplicates folded, which leaves "
        f"{wording.plural(search.clusters, 'cluster')}"
        if search.protocol == "pooled" and not one
        else f"this gives {wording.plural(search.clusters, 'cluster')}"
    )
    unseen = (
        f" {wording.plural(search.regions_unseen, 'region')} of which the model sees too little "
        f"{'was' if search.regions_unseen == 1 else 'were'} left out."
        if search.regions_unseen
        else ""
    )
    return [
        f"{wording.plural(search.regions, 'region')} "
        f"({wording.printable(search.region_source, 200)}) were grouped by how the model sees "
        f"them, without using the labels, in {wording.plural(len(search.partitions), 'run')} "
        f"(protocol: {search.protocol}); {pooled}.{unseen}{_problems(search)}",
        "Candidates were chosen on all films, and none was tested on others."
        if search.protocol == "ravl"
        else "Candidates were chosen on the discovery half, "
        f"{wording.plural(search.films, 'film')} of {wording.plural(search.patients, 'patient')}, "
        f"and tested on the confirmation half, {wording.plural(search.confirmation_films, 'film')} "
        f"of {wording.plural(search.confirmation_patients, 'other patient')}.",
    ]


def _problems(search: DiscoverySummary) -> str:
    """Say what was to be a region and is none."""
    if not search.region_problems:
        return ""
    problems = "; ".join(
        f"{wording.REGION_PROBLEMS.get(reason, wording.printable(reason, 40))}: {count:,}"
        for reason, count in sorted(search.region_problems.items())
    )
    return f" Regions that could not be used: {problems}."


def _partition_table(search: DiscoverySummary) -> blocks.Table:
    """Each K with its draws; those left out say why."""
    losses: dict[int, list[float]] = {}
    for partition in search.partitions:
        losses.setdefault(partition.clusters, []).append(partition.loss)
    rows: list[tuple[blocks.Cell, ...]] = [
        (
            f"{k:,}",
            str(len(losses[k])),
            wording.listing([number(loss, 3) for loss in losses[k]], 10),
        )
        for k in sorted(losses)[:_PARTITIONS_SHOWN]
    ]
    if len(losses) > _PARTITIONS_SHOWN:
        rows.append(("…", "", f"and {len(losses) - _PARTITIONS_SHOWN} more"))
    left_out = sorted(search.left_out.items())
    rows += [(f"{k:,}", "left out", reason) for k, reason in left_out[:_PARTITIONS_SHOWN]]
    if len(left_out) > _PARTITIONS_SHOWN:
        rows.append(("…", "left out", f"and {len(left_out) - _PARTITIONS_SHOWN} more"))
    return blocks.Table(
        caption="Clusterings by K, the number of clusters",
        columns=(
            blocks.Column("K", "number"),
            blocks.Column("Draws", "status"),
            blocks.Column("Mean cosine distance of a region to its medoid", "wide"),
        ),
        rows=rows,
        limit=200,
        titled=False,
    )


def _funnel(result: AuditResult, search: DiscoverySummary) -> blocks.Table:
    """How many clusters came how far."""
    found = result.correlations
    confirmed = sum(entry.confirmation.status == "confirmed" for entry in found)
    used = sum(entry.used for entry in found)
    steps = {
        "Clusters proposed": search.clusters,
        "Survived RaVL's filters": search.survivors,
        "Candidates": search.candidates,
        "Confirmed on held-out patients": confirmed,
        "Used by the model": used,
        "Counted for the verdict": sum(entry.counts for entry in found),
    }
    return blocks.Table(
        caption="How many clusters came how far",
        columns=blocks.columns("text", *steps),
        rows=(tuple(f"{count:,}" for count in steps.values()),),
        titled=False,
        dense=False,
    )


def candidates_chapter(result: AuditResult, film: Film) -> list[blocks.Block]:
    """Return a row for each correlation without a page, with a picture of what travels along."""
    if result.discovery is None:
        return []
    chapter = blocks.Chapter("Features without a page of their own", "candidates")
    found = result.correlations
    if not found:
        return [
            chapter,
            blocks.Text(
                "Nothing found. We looked for a group of regions, alike to the model, that goes "
                "with higher accuracy on one class and lower accuracy on another and also leads "
                "the model in its mistakes, or whose gaps are large on both sides. None came out, "
                "so nothing was tested on held-out patients. This says nothing about smaller "
                "effects, about features that every film carries or that are spread over the whole "
                "film, or about films of another kind."
            ),
        ]
    paged = {entry.rank for entry in shown_correlations(result)}
    rest = [entry for entry in found if entry.rank not in paged]
    own = wording.plural(len(found) - len(rest), "feature")
    text = (
        f"What counts or asks for a decision has a page: {own}. Without one: {len(rest):,}. Gaps: "
        "of the raised and of the lowered side on held-out patients, in points."
    )
    content: list[blocks.Block] = [chapter, blocks.Text(text)]
    along = companions(result)
    if along:
        ranks = sorted({entry.companion_of for entry in along if entry.companion_of})
        content += _listed(
            f"They occur together with No. {wording.listing([str(rank) for rank in ranks], 6)}",
            "Once that is accounted for, little is left of their own gaps.",
            along,
            (_ROWS_SHOWN, 10),
            result,
            film,
        )
    listed = {entry.rank for entry in along}
    for title, text, entries in _lists([one for one in rest if one.rank not in listed]):
        content += _listed(title, text, entries, (_FURTHER_ROWS, 9), result)
    return content


def _lists(
    entries: Sequence[SpuriousCorrelation],
) -> list[tuple[str, str, list[SpuriousCorrelation]]]:
    """Return title, meaning and members of the lists that have members; each entry is in one."""
    rare = [one for one in entries if one.cluster.rare]
    sided = [
        one for one in entries if one.confirmation.status == "raised_only" and not one.cluster.rare
    ]
    taken = {one.rank for one in (*rare, *sided)}
    lists = [
        ("Candidates", "", [one for one in entries if one.rank not in taken]),
        (
            "Large gaps that RaVL's filters drop",
            "RaVL drops a feature whose influence H is low, or whose weighted gap G is small "
            "because few films carry it. These are kept, because their gaps are large on both "
            "sides.",
            rare,
        ),
        (
            "One-sided",
            "Films of the raised class with the feature are recognised more often, also on "
            "held-out patients; that films of other classes are pulled along was not or could not "
            "be shown.",
            sided,
        ),
    ]
    return [entry for entry in lists if entry[2]]


def _listed(
    title: str,
    text: str,
    entries: Sequence[SpuriousCorrelation],
    shown: tuple[int, int],
    result: AuditResult,
    film: Film | None = None,
) -> list[blocks.Block]:
    """Return a heading, what the list means, and a row for every correlation; pictures if asked."""
    rows: list[tuple[blocks.Cell, ...]] = []
    along = len({entry.companion_of for entry in entries}) > 1  # else the heading says it
    for at, entry in enumerate(entries):
        picture: tuple[blocks.Cell, ...] = ()
        if film is not None:
            crops = region_pictures(result, entry, film, 1) if at < COMPANIONS_SHOWN else ()
            name = sentences.feature_name(result, entry)
            picture = (blocks.Thumbnail(crops[0].picture, f"{name}, outlined"),) if crops else ("",)
        rows.append((str(entry.rank), *picture, *_row(entry, result, along=along)))
    pictured = (blocks.Column("", "picture"),) if film is not None else ()
    return [
        blocks.Section(title),
        *([blocks.Text(text, "muted")] if text else []),
        blocks.Table(
            caption=f"{title}, a row each",
            columns=(
                blocks.Column("No.", "number"),
                *pictured,
                blocks.Column("Feature, or its place", "wide"),
                blocks.Column("Raises", "text"),
                *blocks.columns("number", "G", "H", "Gaps", "q"),
                blocks.Column("Used", "status"),
                blocks.Column("Outcome"),
            ),
            rows=shortened(rows, shown[0], 9 + len(pictured)),
            limit=120,
            titled=False,
        ),
    ]


def _row(
    entry: SpuriousCorrelation, result: AuditResult, *, along: bool
) -> tuple[blocks.Cell, ...]:
    cluster, arms = entry.cluster, entry.confirmation.arms
    beside = f", with No. {entry.companion_of}" if along and entry.companion_of else ""
    return (
        entry.description(result) or sentences.feature_name(result, entry),
        wording.class_name(result.classes, cluster.raised_class),
        number(cluster.performance_gap, 2),
        number(cluster.influence, 2),
        f"{wording.signed(100 * float(arms.gap[cluster.raised_class]), 0)} / "
        f"{wording.signed(100 * arms.opposed_gap, 0)}",
        wording.probability(entry.confirmation.q_value),
        sentences.used_text(entry),
        f"{sentences.outcome_text(entry)}{beside}",
    )


def sensitivity_part(sensitivity: Sensitivity | None) -> list[blocks.Block]:
    """Say how small a shortcut these films can show, in words and by prevalence."""
    heading = blocks.Section("How small a shortcut these films can detect")
    if sensitivity is None:
        return [heading, blocks.Text("Not measured: the audit stopped before it.")]
    smallest = f"Smallest gap found with {wording.percent(sensitivity.power)} power, points"
    rows = tuple(
        (
            wording.percent(entry.prevalence),
            number(100 * entry.gap, 0) if math.isfinite(entry.gap) else "not even 100 points",
            wording.percent(entry.power_at_largest),
        )
        for entry in sensitivity.detectable
    )
    content: list[blocks.Block] = [
        heading,
        blocks.Text(" ".join(sentences.detectable_sentences(sensitivity))),
        blocks.Table(
            caption="Smallest gap found, by films with the feature",
            columns=blocks.columns(
                "text", "Films with the feature", smallest, "Power at the largest gap"
            ),
            rows=rows,
            note=f"Each row from {sensitivity.simulations:,} simulated cohorts like this one, "
            "under the rules of this audit, corrected for "
            f"{wording.plural(sensitivity.candidates, 'candidate')}.",
            limit=120,
            titled=False,
        ),
    ]
    return [blocks.KeepTogether(tuple(content))]


def _tested_sentence(sensitivity: Sensitivity) -> str:
    """Say how many clusters any test could reach, and why it could not reach the others."""
    untested = sorted(sensitivity.untested.items(), key=lambda entry: -entry[1])
    text = (
        f"{sensitivity.tested:,} of {wording.plural(sensitivity.clusters, 'proposed cluster')} "
        "had enough films in both halves to be tested"
    )
    reasons = [f"{wording.printable(reason, 100)} ({count:,})" for reason, count in untested]
    return (
        f"{text}; not tested: {wording.listing(reasons, _REASONS_SHOWN)}."
        if reasons
        else f"{text}."
    )


_FINDINGS_SHOWN = 5
_STYLES_SHOWN = 12


def dependence_chapter(result: AuditResult) -> list[blocks.Block]:
    """Say what the answers depend on: structures, places of the finding, styles."""
    if result.discovery is None:
        return []
    chapter = blocks.Chapter("What the answers depend on", "dependence", "whole")
    found = result.dependence
    if found is None:
        why = (
            "the model is known by its scores alone, and cannot be run on a changed film"
            if result.task.scores == "table"
            else "it was not requested (evidence.dependence_films), or there were too few films"
        )
        return [chapter, blocks.Text(f"This was not measured: {why}.")]
    accused = blocks.Items(found.findings, 700) if found.findings else blocks.Text(_no_style(found))
    return [
        chapter,
        blocks.Text(
            f"{wording.plural(found.films, 'film')} of {wording.plural(found.patients, 'patient')}"
            f" were changed, and the model was run on {found.pictures:,} pictures. Each cell says "
            "how far the margin of a finding moves on average, in standard deviations over the "
            "films (in brackets where its interval by patient holds 0), and how many of the calls "
            "for it change. A dash: fewer than 20 films, or all are answered alike. All intervals "
            "are in result.json."
        ),
        *([accused] if isinstance(accused, blocks.Items) else []),
        *_cell_table(found, "structure", "Structures covered", "Covered"),
        *_area_table(found),
        *_cell_table(found, "style", "Styles changed by a fixed step", "Change"),
        *_style_table(found),
        *([accused] if isinstance(accused, blocks.Text) else []),
    ]


def _no_style(found: Dependence) -> str:
    return (
        "No style moves a finding by more than "
        f"{number(found.max_style_shift, 1)} standard deviations over the spread of these films "
        "(evidence.max_style_shift), with films that differ so by themselves answered so too."
    )


def _cell_table(
    found: Dependence, group: DependenceGroup, caption: str, head: str
) -> list[blocks.Block]:
    """Return shift and flips, a row a change and a column a finding."""
    cells = [cell for cell in found.cells if cell.group == group]
    findings = list(dict.fromkeys(cell.finding for cell in cells))[:_FINDINGS_SHOWN]
    by_place = {(cell.change, cell.finding): cell for cell in cells}
    rows = []
    for change in dict.fromkeys(cell.change for cell in cells):
        own = [by_place[change, finding] for finding in findings]
        size = own[0].steps if group == "style" else own[0].covered
        shown = number(size, 1) if group == "style" else wording.percent(size)
        rows.append((change, wording.counted(own[0].films), shown, *map(_cell_text, own)))
    if not rows:
        return []
    second = "Natural sd" if group == "style" else "Of the film"
    more = len({cell.finding for cell in cells}) - len(findings)
    return [
        blocks.Table(
            caption=caption,
            columns=(
                blocks.Column(head, "wide"),
                blocks.Column("Films", "number"),
                blocks.Column(second, "number"),
                *(blocks.Column(wording.printable(name, 24), "text") for name in findings),
            ),
            rows=rows,
            note=f"{wording.plural(more, 'more finding')} in result.json." if more else "",
        )
    ]


def _cell_text(cell: DependenceCell) -> str:
    if cell.note:
        return wording.DASH
    if not math.isfinite(cell.shift):
        return wording.HIDDEN_TEXT
    shift = wording.signed(cell.shift, 2)
    sure = cell.shift_interval.excludes_zero()
    shown = f"{shift if sure else f'({shift})'} · {wording.percent(cell.flips)}"
    return shown.replace(" ", wording.NBSP)


def _area_table(found: Dependence) -> list[blocks.Block]:
    """Return the AUROC that is left without, and with nothing but, where a finding shows."""
    by_place = {(cell.finding, cell.change): cell for cell in found.cells}
    rows = []
    for finding in dict.fromkeys(cell.finding for cell in found.cells):
        own = [
            by_place.get((finding, change))
            for change in ("relevant covered", "relevant alone", "border", "border alone")
        ]
        before = next(
            (c.auroc_before for c in own if c and math.isfinite(c.auroc_before)), math.nan
        )
        rows.append((wording.printable(finding, 40), number(before), *map(_area_text, own)))
    return [
        blocks.Table(
            caption="AUROC that is left",
            columns=(
                blocks.Column("Finding", "wide"),
                blocks.Column("Whole film", "number"),
                blocks.Column("Where it shows covered", "interval"),
                *blocks.columns("interval", "All else covered", "Border covered", "Border alone"),
            ),
            rows=shortened(rows, _ROWS_SHOWN, 6),
            note="Where a finding shows is said by the table of relevance; a dash: nowhere, or too "
            "few films. What is left with it covered comes from elsewhere. Masks of more than a "
            "third of the film take its mean gray, smaller ones their surroundings.",
        )
    ]


def _area_text(cell: DependenceCell | None) -> str:
    return wording.score_text(cell.auroc_after, cell.auroc_interval, 2) if cell else wording.DASH


def _style_table(found: Dependence) -> list[blocks.Block]:
    """Return styles by how far they move a finding over their natural spread, largest first."""
    measured = [one for one in found.styles if math.isfinite(one.shift)]
    ranked = sorted(measured, key=lambda one: (not one.exceeds, -abs(one.shift)))
    rows = [
        (
            wording.printable(one.finding, 40),
            one.style,
            wording.estimate(one.shift, one.shift_interval, 2, scale=1.0),
            wording.estimate(one.association, one.association_interval, 2, scale=1.0),
            "beyond" if one.exceeds else "within",
        )
        for one in ranked
    ]
    if not rows:
        return []
    return [
        blocks.Table(
            caption="Styles over the spread of these films",
            columns=(
                blocks.Column("Finding", "wide"),
                blocks.Column("Style", "text"),
                blocks.Column("Shift, low to high, in sd", "interval"),
                blocks.Column("Correlation as they are", "interval"),
                blocks.Column("Limit", "status"),
            ),
            rows=shortened(rows, _STYLES_SHOWN, 5),
            note="From one standard deviation of the films below their mean to one above. "
            "Intervals are corrected for all findings and styles. Blur, noise, flip, crop and "
            "inversion say how robust the model is, and are no finding by themselves.",
        )
    ]
