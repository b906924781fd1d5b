"""The Markdown of the benchmark of the search: what was asked beside what was reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.benchmarks.benchmark_file import count_held, tell_met, tell_parts

Row = Mapping[str, Any]

_SECONDS = {11_997: 4.0, 1_000_000: 90.0}  # targets, by regions
_PEAK_MB = {1_000_000: 2_000.0}


def discovery_markdown(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of the parts that were measured.

    Parameters
    ----------
    parts : mapping of part to its content in ``discovery.json``
    """
    tell = {
        "calibration": _calibration,
        "power": _power,
        "table": _table,
        "speed": _speed,
    }
    return tell_parts("The search, on cohorts whose truth is known", parts, tell)


def _calibration(rows: list[Row]) -> list[str]:
    lines = [
        "## Calibration: cohorts without a shortcut",
        "",
        "Predictions have nothing to do with the regions, given the label. Region scores are "
        "chosen so that RaVL's influence filter gives no protection. Accused: a correlation is "
        "confirmed on held-out patients. RaVL as published: K over 2C .. 5C by the silhouette, its "
        "filters over all films, no test.",
        "",
        "| null cohorts | films, classes | target: accused | reached: accused (95 % interval) "
        "| met | raised side alone | a proposed cluster passes RaVL's filters "
        "| RaVL as published accuses | clusters, candidates (median) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {row['variant']} | {row['films']:,}, {row['classes']} "
        f"| at most {row['allowed']} of {row['cohorts']} "
        f"| {count_held(row, 'accused')} | {tell_met(row['accused'] <= row['allowed'])} "
        f"| {row['raised_only']} of {row['cohorts']} | {row['survived']} of {row['cohorts']} "
        f"| {row['published']} of {row['compared']} "
        f"| {row['clusters']:.0f}, {row['candidates']:.0f} |"
        for row in rows
    ]


def _power(rows: list[Row]) -> list[str]:
    lines = [
        "## Power: cohorts with a planted feature",
        "",
        "Feature in half of the films, independent of the class; accuracy 0.8. Found: confirmed on "
        "held-out patients, most of its regions are the feature's, and it names the class that the "
        "feature raises.",
        "",
        "| films, classes | gap | lowered | target: found | reached: found (95 % interval) | met "
        "| found or raised side alone | something else confirmed | a proposed cluster passes "
        "RaVL's filters | clusters, candidates (median) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lowered = "all other classes" if row["lowered"] == "others" else "one other class"
        target, met = "–", "–"
        if row["needed"]:
            target = f"at least {row['needed']} of {row['cohorts']}"
            met = tell_met(row["found"] >= row["needed"])
        lines.append(
            f"| {row['films']:,}, {row['classes']} | {100 * row['gap']:.0f} points | {lowered} "
            f"| {target} | {count_held(row, 'found')} | {met} "
            f"| {row['half_found']} of {row['cohorts']} | {row['strays']} of {row['cohorts']} "
            f"| {row['survived']} of {row['cohorts']} "
            f"| {row['clusters']:.0f}, {row['candidates']:.0f} |"
        )
    return lines


def _table(rows: list[Row]) -> list[str]:
    gaps = sorted({row["gap"] for row in rows})
    power = {(r["classes"], r["films"], r["prevalence"], r["gap"]): r["power"] for r in rows}
    lines = [
        "## Power of the confirmation by films, classes, prevalence and gap",
        "",
        "Simulated from what films hold, the feature's cluster perfect, accuracy 0.8, one film a "
        "patient, 10 candidates.",
        "",
        f"| classes | films | feature in | {' | '.join(f'{100 * g:.0f} points' for g in gaps)} |",
        f"|---|---|---|{'---|' * len(gaps)}",
    ]
    return lines + [
        f"| {classes} | {films:,} | {prevalence:.0%} | "
        + " | ".join(f"{power[classes, films, prevalence, gap]:.0%}" for gap in gaps)
        + " |"
        for classes, films, prevalence in dict.fromkeys(key[:3] for key in power)
    ]


def _speed(rows: list[Row]) -> list[str]:
    lines = [
        "## Time and memory of the search",
        "",
        "Clusters proposed, found on the films, filtered and ranked; 10 classes. Memory is the "
        "peak above what was held before the search, which the embeddings are part of.",
        "",
        "| regions x size | films | target | seconds (runs) | met | of it proposing | target "
        "| peak memory | met | clusters | silhouette by K |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds, peak = _SECONDS.get(row["regions"]), _PEAK_MB.get(row["regions"])
        told = ", ".join(f"{k}: {value:.3f}" for k, value in row["silhouettes"].items())
        lines.append(
            f"| {row['regions']:,} x {row['size']} | {row['films']:,} "
            f"| {f'at most {seconds:.0f} s' if seconds else '–'} "
            f"| {row['seconds']:.1f} s ({row['runs']}) "
            f"| {tell_met(row['seconds'] <= seconds) if seconds else '–'} "
            f"| {row['proposing']:.1f} s "
            f"| {f'at most {peak / 1000:.0f} GB' if peak else '–'} "
            f"| {row['peak_mb'] / 1000:.2f} GB "
            f"| {tell_met(row['peak_mb'] <= peak) if peak else '–'} "
            f"| {row['clusters']} | {told or '–'} |"
        )
    largest = sorted(rows, key=lambda row: row["regions"])[-2:]
    if len(largest) == 2 and largest[0]["size"] == largest[1]["size"]:
        more = largest[1]["regions"] / largest[0]["regions"]
        ratio = largest[1]["seconds"] / largest[0]["seconds"]
        lines += [
            "",
            f"{more:.0f} times the regions take {ratio:.1f} times the seconds ({more:.0f} is "
            "linear).",
        ]
    return lines
