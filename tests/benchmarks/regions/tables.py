"""The Markdown of the benchmark of regions: what was asked beside what was reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ravl_med.regions.film_structures import ARTIFACT_NAMES
from tests.benchmarks.benchmark_file import tell_met, tell_parts

Row = Mapping[str, Any]

_RECALL = {
    "generator": 0.95, "marker": 0.95, "text": 0.95, "electrode": 0.95, "tube": 0.8, "lead": 0.8,
}  # fmt: skip
_DICE, _LOW_DICE = 0.88, 0.75
_MOST_ARTIFACTS = 24.0
_SECONDS = {1024: 0.4}


def regions_markdown(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of the parts that were measured.

    Parameters
    ----------
    parts : mapping of part to its content in ``regions.json``
    """
    tell = {
        "phantoms": _phantoms,
        "lungs": _lungs,
        "devices": _devices,
        "films": _films,
        "speed": _speed,
    }
    return tell_parts("Regions, on phantoms and on films that people have marked", parts, tell)


def _phantoms(rows: list[Row]) -> list[str]:
    lines = [
        "## Devices and letters on phantoms",
        "",
        "Films of a cohort as `ravl-med synthesize` makes them, of a seed that no training film "
        "has. Found: a region overlaps by half (intersection over union); a line: half of its "
        "pixels lie in the mask of a line.",
        "",
        "| thing | things | target: found | reached | met | pixels of a line that are covered "
        "| regions of this kind a film |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        target = _RECALL.get(row["kind"])
        covered = "–" if row["covered"] is None else f"{row['covered']:.0%}"
        asked = f"at least {target:.0%}" if target else "–"
        met = tell_met(row["recall"] >= target) if target else "–"
        lines.append(
            f"| {ARTIFACT_NAMES[row['kind']]} | {row['things']} | {asked} | {row['recall']:.1%} "
            f"| {met} | {covered} | {row['proposed']:.1f} |"
        )
    return lines


def _lungs(rows: list[Row]) -> list[str]:
    lines = [
        "## Lungs on real films",
        "",
        "Dice against masks that people have drawn, in stored pixels; a film without lungs found "
        "counts as 0. No real film was trained on.",
        "",
        "| films (patients) | target: median | reached | met | target: 10th percentile | reached "
        "| met | least | not found | blank masks left out |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {row['films']} ({row['patients']}) | at least {_DICE} | {row['median']:.3f} "
        f"| {tell_met(row['median'] >= _DICE)} | at least {_LOW_DICE} | {row['low']:.3f} "
        f"| {tell_met(row['low'] >= _LOW_DICE)} | {row['least']:.3f} | {row['not_found']} "
        f"| {row['blank']} |"
        for row in rows
    ]


def _devices(rows: list[Row]) -> list[str]:
    lines = [
        "## Boxes that people have drawn on real films",
        "",
        "Found: an artifact region overlaps by half (intersection over union).",
        "",
        "| annotated as | found | best overlap of each |",
        "|---|---|---|",
    ]
    return lines + [
        f"| {row['name']} | {row['found']} of {row['things']} "
        f"| {', '.join(f'{share:.2f}' for share in row['overlaps'])} |"
        for row in rows
    ]


def _films(rows: list[Row]) -> list[str]:
    lines = [
        "## What is proposed for real films",
        "",
        "| films | target: artifacts a film, mean | reached | met | most | anatomical regions, "
        "mean | by kind, mean |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        kinds = ", ".join(f"{ARTIFACT_NAMES[k]} {v:.1f}" for k, v in row["by_kind"].items())
        lines.append(
            f"| {row['films']} | at most {_MOST_ARTIFACTS:.0f} | {row['artifacts']:.1f} "
            f"| {tell_met(row['artifacts'] <= _MOST_ARTIFACTS)} | {row['most']} "
            f"| {row['anatomy']:.1f} | {kinds} |"
        )
    return lines


def _speed(rows: list[Row]) -> list[str]:
    lines = [
        "## All regions of one film, on one thread",
        "",
        "| side | target | median seconds (runs) | met |",
        "|---|---|---|---|",
    ]
    for row in rows:
        target = _SECONDS.get(row["side"])
        asked = f"at most {target} s" if target else "–"
        met = tell_met(row["seconds"] <= target) if target else "–"
        lines.append(
            f"| {row['side']} | {asked} | {row['seconds']:.3f} s ({row['runs']}) | {met} |"
        )
    return lines
