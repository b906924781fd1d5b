"""What was searched, the map of its clusters, what was found, what films could have shown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ravl_med.discovery.clusters import ClusterMap
from ravl_med.evidence.audit_result import AuditResult, DiscoverySummary, Sensitivity
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.reporting.audit.sentences import (
    correlation_key,
    correlation_name,
    detectable_sentences,
    lowered_class_name,
    outcome_text,
    used_text,
)
from ravl_med.reporting.layout.blocks import (
    Block,
    Cell,
    Chapter,
    ClusterPlot,
    Column,
    Items,
    KeepTogether,
    Reference,
    Section,
    Spot,
    SpotLook,
    Table,
    Text,
)
from ravl_med.reporting.pictures import CORRELATIONS_SHOWN, shown_correlations
from ravl_med.reporting.tables import shortened
from ravl_med.reporting.wording import (
    DASH,
    REGION_PROBLEMS,
    class_name,
    listing,
    number,
    percent,
    plural,
    printable,
    probability,
    signed,
)

_DRAWN = 1500  # clusters; of more the smallest are left out
_LITTLE = 0.2  # of the squared distances
_CAPTION = "Map of the feature clusters"
_NAMES: dict[SpotLook, str] = {
    "shortcut": "shortcut",
    "sign": "plausible sign",
    "undecided": "undecided, counted",
    "confirmed": "confirmed, not counted",
    "candidate": "candidate, not confirmed",
    "other": "no candidate",
}


def map_part(result: AuditResult) -> list[Block]:
    """Return the map with its legend, and in words how to read it."""
    if result.discovery is None:
        return []
    found = result.discovery.cluster_map
    if not found.clusters:
        return [Text("No feature cluster was proposed: there is no map of them.")]
    spots = _spots(result, found)
    looks = {spot.look for spot in spots}
    legend = tuple((name, look) for look, name in _NAMES.items() if look in looks)
    return [ClusterPlot(_CAPTION, spots, legend, _note(result, found, spots))]


def _spots(result: AuditResult, found: ClusterMap) -> tuple[Spot, ...]:
    """Return every cluster with its look; what is shown as a correlation looks like it."""
    of = {entry.rank: entry for entry in result.correlations}
    folded = {cluster: entry for entry in result.correlations for cluster in entry.also}
    paged = {entry.rank for entry in shown_correlations(result)}
    spots: list[Spot] = []
    for one in sorted(found.clusters, key=lambda one: (one.rank is None, -one.regions)):
        entry = folded.get(one.cluster) if one.rank is None else of.get(one.rank)
        look: SpotLook = "other" if entry is None else _look(entry)
        if entry is None or one.rank not in paged:
            if len(spots) < _DRAWN:
                spots.append(Spot(one.x, one.y, one.regions, look))
            continue
        alt = (
            f"{correlation_name(entry)}, {outcome_text(entry)}: cluster {one.cluster} with "
            f"{plural(one.regions, 'region')}"
        )
        number, key = str(entry.rank), correlation_key(entry)
        spots.append(Spot(one.x, one.y, one.regions, look, alt, number, key))
    return tuple(spots)


def _look(entry: SpuriousCorrelation) -> SpotLook:
    if entry.counts:
        looks: dict[str, SpotLook] = {"shortcut": "shortcut", "plausible_sign": "sign"}
        return looks.get(entry.kind, "undecided")
    return "confirmed" if entry.confirmation.status == "confirmed" else "candidate"


def _note(result: AuditResult, found: ClusterMap, spots: tuple[Spot, ...]) -> str:
    """Say what to see, how the map was made, and how far it can be trusted."""
    counts = [one.regions for one in found.clusters]
    least, most = min(counts), max(counts)
    size = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    note = [
        f"{plural(len(counts), 'feature cluster')}, drawn at the medoid; the area of a mark "
        f"is its number of regions ({size}), the smallest are drawn larger."
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
    if len(spots) < len(found.clusters):
        note.append(f"The smallest {len(found.clusters) - len(spots):,} are not drawn.")
    return " ".join([*note, _trust(found)])


def _trust(found: ClusterMap) -> str:
    made = "Classical scaling of the distances between the medoids on the unit sphere"
    if not math.isfinite(found.kept):
        return f"{made}; there is no distance to show."
    kept = f"{made}: the two directions keep {percent(found.kept)} of the squared distances"
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


def search_chapter(result: AuditResult) -> list[Block]:
    """Say what was looked for and what came of it, also where that is nothing."""
    search = result.discovery
    blocks: list[Block] = [Chapter("Search for shortcuts", "search", "whole")]
    if search is None:
        text = "No search was made: the audit stopped before discovery. Nothing is known about "
        return [
            *blocks,
            Text(text + "shortcuts of this model.", "lead"),
            Items(result.verdict.reasons[:8], 400),
        ]
    blocks += [Text(text, limit=900) for text in _procedure(search)]
    blocks += [_partition_table(search), _funnel(result, search), *map_part(result)]
    return [*blocks, *_found(result), *_sensitivity_part(result.sensitivity)]


def _procedure(search: DiscoverySummary) -> list[str]:
    """How regions were clustered, and on whom clusters were chosen and tested."""
    one = len(search.partitions) == 1
    pooled = (
        "the clusters of all were pooled and near-duplicates folded, which leaves "
        f"{plural(search.clusters, 'cluster')}"
        if search.protocol == "pooled" and not one
        else f"this gives {plural(search.clusters, 'cluster')}"
    )
    unseen = (
        f" {plural(search.regions_unseen, 'region')} that the model does not see enough of "
        f"{'was' if search.regions_unseen == 1 else 'were'} left out."
        if search.regions_unseen
        else ""
    )
    return [
        f"{plural(search.regions, 'region')} ({printable(search.region_source, 60)}) were grouped "
        f"by how the model sees them, labels unseen, in {plural(len(search.partitions), 'way')} "
        f"(protocol: {search.protocol}); {pooled}.{unseen}{_problems(search)}",
        "Candidates were chosen on the discovery half, "
        f"{plural(search.films, 'film')} of {plural(search.patients, 'patient')}, and tested on "
        f"the confirmation half, {plural(search.confirmation_films, 'film')} of "
        f"{plural(search.confirmation_patients, 'other patient')}.",
    ]


def _problems(search: DiscoverySummary) -> str:
    """Say what was to be a region and is none."""
    if not search.region_problems:
        return ""
    problems = "; ".join(
        f"{REGION_PROBLEMS.get(reason, printable(reason, 40))}: {count:,}"
        for reason, count in sorted(search.region_problems.items())
    )
    return f" Regions that could not be used: {problems}."


def _partition_table(search: DiscoverySummary) -> Table:
    """Each K with its draws; those left out say why."""
    losses: dict[int, list[float]] = {}
    for partition in search.partitions:
        losses.setdefault(partition.clusters, []).append(partition.loss)
    rows: list[tuple[Cell, ...]] = [
        (f"{k:,}", str(len(losses[k])), listing([number(loss, 3) for loss in losses[k]], 10))
        for k in sorted(losses)[:_PARTITIONS_SHOWN]
    ]
    if len(losses) > _PARTITIONS_SHOWN:
        rows.append(("…", "", f"and {len(losses) - _PARTITIONS_SHOWN} more"))
    left_out = sorted(search.left_out.items())
    rows += [(f"{k:,}", "left out", reason) for k, reason in left_out[:_PARTITIONS_SHOWN]]
    if len(left_out) > _PARTITIONS_SHOWN:
        rows.append(("…", "left out", f"and {len(left_out) - _PARTITIONS_SHOWN} more"))
    return Table(
        caption="Clusterings by K, the number of clusters",
        columns=(
            Column("K", "number"),
            Column("Draws", "status"),
            Column("Mean cosine distance of a region to its medoid", "wide"),
        ),
        rows=rows,
        limit=200,
        titled=False,
    )


def _funnel(result: AuditResult, search: DiscoverySummary) -> Table:
    """How many clusters came how far."""
    found = result.correlations
    confirmed = sum(entry.confirmation.status == "confirmed" for entry in found)
    used = sum(entry.counterfactual is not None and entry.counterfactual.used for entry in found)
    steps = {
        "Clusters proposed": search.clusters,
        "Survived RaVL's filters": search.survivors,
        "Carried as candidates": search.candidates,
        "Confirmed, held out": confirmed,
        "Used by the model": used,
        "Counted for the verdict": sum(entry.counts for entry in found),
    }
    return Table(
        caption="How many clusters came how far",
        columns=[Column(step) for step in steps],
        rows=(tuple(f"{count:,}" for count in steps.values()),),
        titled=False,
        dense=False,
    )


def _found(result: AuditResult) -> list[Block]:
    """Return the lists of correlations, or the words for an empty one."""
    found = result.correlations
    if not found:
        return [
            Section("Nothing found"),
            Text(
                "Looked for was a group of regions, alike to the model, that goes with higher "
                "accuracy on one class and lower accuracy on another and also leads the model in "
                "its mistakes, or whose gaps are large on both sides. None came out, so nothing "
                "was tested on held-out patients. This says nothing about effects smaller than "
                "those named below, about features that every film carries or that are spread "
                "over the whole film, or about films of another kind."
            ),
        ]
    further = _further_lists(result)
    listed = {entry.rank for _, _, entries in further for entry in entries}
    main = [entry for entry in found if entry.counts or entry.rank not in listed]
    blocks: list[Block] = []
    rest = len(found) - CORRELATIONS_SHOWN
    if rest > 0:
        blocks.append(
            Text(
                f"{CORRELATIONS_SHOWN} of {len(found):,} correlations have a page of their own, "
                f"those that count first, and {rest} more {'has' if rest == 1 else 'have'} none."
            )
        )
    if not any(entry.counts for entry in found):
        blocks.append(
            Text(
                "Looked for was a feature that raises one class and lowers another, on held-out "
                "patients too, and that the model uses. No candidate passed every rule of evidence."
            )
        )
    note = "Gaps, held out: of the raised and of the lowered side on held-out patients, in points."
    blocks += _listed("Correlations", note, main, _ROWS_SHOWN, result)
    for title, text, entries in further:
        blocks += _listed(title, text, entries, _FURTHER_ROWS, result)
    return blocks


def _further_lists(
    result: AuditResult,
) -> list[tuple[str, str, list[SpuriousCorrelation]]]:
    """Return title, meaning and members of the lists beside the main one that have members."""
    lists = [
        (
            "Rare but large",
            "Gaps that are large on both sides of a feature that RaVL's filters drop: G weights a "
            "gap by how evenly the films are split, which hides what few films carry.",
            [entry for entry in result.correlations if entry.cluster.rare],
        ),
        (
            "Raised side alone",
            "Films of the raised class with the feature are recognised more often, also on "
            "held-out patients; that films of other classes are pulled along was not or could not "
            "be shown.",
            [e for e in result.correlations if e.confirmation.status == "raised_only"],
        ),
    ]
    return [entry for entry in lists if entry[2]]


def _listed(
    title: str,
    text: str,
    entries: Sequence[SpuriousCorrelation],
    shown: int,
    result: AuditResult,
) -> list[Block]:
    """Return a heading, what the list means, and a row for every correlation."""
    if not entries:
        return []
    paged = {entry.rank for entry in shown_correlations(result)}
    rows: list[tuple[Cell, ...]] = [
        (
            *_row(entry, result.task.classes),
            Reference(correlation_key(entry), correlation_name(entry))
            if entry.rank in paged
            else DASH,
        )
        for entry in entries
    ]
    return [
        Section(title),
        Text(text, "muted"),
        Table(
            caption=f"{title}, a row each",
            columns=(
                Column("No.", "number"),
                Column("Raises", "wide"),
                Column("Lowers most", "wide"),
                Column("G", "number"),
                Column("H", "number"),
                Column("Gaps, held out", "number"),
                Column("q", "number"),
                Column("Used", "status"),
                Column("Outcome"),
                Column("Page", "number"),
            ),
            rows=shortened(rows, shown, 10),
            limit=120,
            titled=False,
        ),
    ]


def _row(entry: SpuriousCorrelation, classes: tuple[str, ...]) -> tuple[Cell, ...]:
    cluster, arms = entry.cluster, entry.confirmation.arms
    return (
        str(entry.rank),
        class_name(classes, cluster.raised_class),
        lowered_class_name(cluster, classes),
        number(cluster.performance_gap, 2),
        number(cluster.influence, 2),
        f"{signed(100 * float(arms.gap[cluster.raised_class]), 0)} / "
        f"{signed(100 * arms.opposed_gap, 0)}",
        probability(entry.confirmation.q_value),
        used_text(entry),
        outcome_text(entry),
    )


def _sensitivity_part(sensitivity: Sensitivity | None) -> list[Block]:
    """Say what these films could have shown, in words and by prevalence."""
    heading = Section("What these films could have shown")
    if sensitivity is None:
        return [heading, Text("Not measured: the audit stopped before it.")]
    smallest = f"Smallest gap found with {percent(sensitivity.power)} power, points"
    rows = tuple(
        (
            percent(entry.prevalence),
            number(100 * entry.gap, 0) if math.isfinite(entry.gap) else "not even 100 points",
            percent(entry.power_at_largest),
        )
        for entry in sensitivity.detectable
    )
    blocks: list[Block] = [
        heading,
        Text(" ".join(detectable_sentences(sensitivity))),
        Table(
            caption="Smallest gap found, by films with the feature",
            columns=[
                Column(head)
                for head in ("Films with the feature", smallest, "Power at the largest gap")
            ],
            rows=rows,
            note=f"From {sensitivity.simulations:,} simulated cohorts a row, like this one, under "
            "the rules of this audit; multiplicity charged for "
            f"{plural(sensitivity.candidates, 'candidate')}.",
            limit=120,
            titled=False,
        ),
    ]
    if sensitivity.clusters:
        blocks.append(Text(_tested_sentence(sensitivity)))
    return [KeepTogether(tuple(blocks))]


def _tested_sentence(sensitivity: Sensitivity) -> str:
    """Say how many clusters any test could reach, and why it could not reach the others."""
    untested = sorted(sensitivity.untested.items(), key=lambda entry: -entry[1])
    text = (
        f"{sensitivity.tested:,} of {plural(sensitivity.clusters, 'proposed cluster')} had enough "
        "films on both halves to be tested"
    )
    reasons = [f"{printable(reason, 100)} ({count:,})" for reason, count in untested]
    return f"{text}; not tested: {listing(reasons, _REASONS_SHOWN)}." if reasons else f"{text}."
