"""The map of the clusters in an audit's report: all that were proposed, the found ones marked."""

from __future__ import annotations

import math

from ravl_med.discovery.cluster_map import ClusterMap
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.claims import SpuriousCorrelation
from ravl_med.reporting.audit.sentences import correlation_key, correlation_name, outcome_words
from ravl_med.reporting.layout.blocks import Block, ClusterPlot, Text
from ravl_med.reporting.layout.plots import Spot, SpotLook
from ravl_med.reporting.pictures import shown_correlations
from ravl_med.reporting.wording import number, percent, plural

__all__ = ["map_part"]

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
    """Return the map with its legend, and in words how to read it.

    Parameters
    ----------
    result : AuditResult - one that has searched
    """
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
        words = f"{correlation_name(entry)}, {outcome_words(entry)}: cluster {one.cluster}"
        told = f"{words} with {plural(one.regions, 'region')}"
        key = correlation_key(entry)
        spots.append(Spot(one.x, one.y, one.regions, look, told, str(entry.rank), key))
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
    told = [
        f"{plural(len(counts), 'feature cluster')}, drawn at the medoid; the area of a mark "
        f"is its number of regions ({size}), the smallest are drawn larger."
    ]
    if any(spot.number for spot in spots):
        told.append(
            "Numbers: correlations that have a page. Found clusters that lie close together are "
            "often one feature, seen in parts; one that lies alone is unlike the rest to the model."
        )
    elif not result.correlations:
        told.append("No correlation was found, so none is marked.")
    if any(entry.also for entry in result.correlations):
        told.append("Clusters that are shown as one with a correlation have its mark.")
    if len(spots) < len(found.clusters):
        told.append(f"The smallest {len(found.clusters) - len(spots):,} are not drawn.")
    return " ".join([*told, _trust(found)])


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
