"""The Markdown of the mitigation benchmark: what was asked beside what was reached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from tests.benchmarks.benchmark_file import tell_met, tell_parts

Row = Mapping[str, Any]

_MEASURES = ("image_overall", "image_worst", "region_overall", "region_worst")
_DELIVERED, _CLEAN, _PAPER = "counterfactual", "clean", "ravl"
_LIMITS = {("RN50", "ravl"): 1.8, ("quickstart", "ravl"): 3.0, ("RN50", "exchange"): 1.05,
           ("quickstart", "exchange"): 1.05}  # fmt: skip


def mitigation_markdown(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of the parts that were measured.

    Parameters
    ----------
    parts : mapping of part to its content in ``mitigation.json``
    """
    return tell_parts(
        "Mitigation, on phantoms whose shortcut is known", parts, {"arms": _arms, "cost": _cost}
    )


def mean_with_interval(values: Sequence[float | None]) -> tuple[float, float, float]:
    """Return the mean of values and its 95 % t interval; NaN bounds with fewer than two."""
    known = np.array([v for v in values if v is not None], dtype=np.float64)
    if len(known) == 0:
        return (math.nan,) * 3
    mean = float(known.mean())
    if len(known) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(known) - 1) * stats.sem(known))
    return mean, mean - half, mean + half


def margin_over(
    rows: Sequence[Row], measure: str, arm: str, others: Sequence[str]
) -> tuple[str, tuple[float, float, float]]:
    """Return the best of other arms by its mean, and how far an arm is above it by seed."""
    best = max(others, key=lambda name: mean_with_interval(_column(rows, name, measure))[0])
    mine, theirs = _column(rows, arm, measure), _column(rows, best, measure)
    differences = [a - b for a, b in zip(mine, theirs, strict=True)]
    return best, mean_with_interval(differences)


def _column(rows: Sequence[Row], arm: str, measure: str) -> list[float]:
    """Values of an arm by seed; NaN, below every number, where it has none."""
    mine = sorted((r for r in rows if r["arm"] == arm), key=lambda r: int(r["seed"]))
    return [-math.inf if r[measure] is None else float(r[measure]) for r in mine]


def _arms(rows: list[Row]) -> list[str]:
    if not rows:
        return ["## Arms", "", "No shortcut was confirmed; there was nothing to mitigate."]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    seeds = sorted({int(row["seed"]) for row in rows})
    titles = {row["arm"]: row["title"] for row in rows}
    before = [row for row in rows if row["arm"] == "before"]
    valid = [row for row in before if min(row["raised_gap"], row["lowered_gap"]) > 0.3]
    lines = [
        "## Arms",
        "",
        f"Planted cohorts: {len(seeds)}, each with its own films and model; every arm starts from "
        "the audited model and has the same recipe and budget. Groups are class by true presence "
        "of the feature. `region`: the class of a film is that of its best-matching region. Mean "
        "over the cohorts with its 95 % t interval, in percent.",
        "",
        f"Both gaps of the audited model above 30 points: {len(valid)} of {len(seeds)}.",
        "",
        "| arm | image overall | image worst group | region overall | region worst group | s |",
        "|---|---|---|---|---|---|",
    ]
    for arm in arms:
        own = [row for row in rows if row["arm"] == arm]
        cells = [_percent(mean_with_interval([r[m] for r in own])) for m in _MEASURES]
        seconds = mean_with_interval([r["seconds"] for r in own])[0]
        mark = "" if own[0]["published"] or arm in ("before", _CLEAN) else " (ours)"
        took = "" if math.isnan(seconds) else f"{seconds:.0f}"
        lines.append(f"| {titles[arm]}{mark} | {' | '.join(cells)} | {took} |")
    return [*lines, "", *_targets(rows, arms)]


def _targets(rows: list[Row], arms: Sequence[str]) -> list[str]:
    """Tell what was asked of RaVL and of ours, beside what was reached."""
    published = [
        row["arm"]
        for row in rows
        if row["published"] and not row["head"] and row["arm"] not in ("before", _PAPER)
    ]
    published = [name for name in dict.fromkeys(published) if name in arms]
    lines = []
    if _PAPER in arms and published:
        best, gap = margin_over(rows, "image_worst", _PAPER, published)
        lines.append(
            f"- RaVL as in the paper, image worst group above every other published arm: "
            f"{_points(gap)} points to `{best}`; met: {tell_met(gap[0] > 0)}"
        )
    if _DELIVERED in arms and published:
        every = [*published, *([_PAPER] if _PAPER in arms else [])]
        for measure, asked in (("image_worst", 0.08), ("region_worst", 0.10)):
            lines.append(_margin_line(rows, measure, asked, every))
        plain = mean_with_interval(
            [
                a - b
                for a, b in zip(
                    _column(rows, _DELIVERED, "image_overall"),
                    _column(rows, "standard", "image_overall"),
                    strict=True,
                )
            ]
        )
        lines.append(
            f"- ours, overall accuracy against standard fine-tuning: {_points(plain)} points; "
            f"asked: no fall of more than 1; met: {tell_met(plain[0] >= -0.01)}"
        )
        lines += _head_lines(rows, arms)
        last = [row for row in rows if row["arm"] == _DELIVERED]
        gone = sum(bool(row["gone"]) for row in last)
        improved = sum(row["verdict"] == "improved" for row in last)
        lines.append(
            f"- ours, verdict `improved`: {improved} of {len(last)}; the re-audit finds the "
            f"shortcut no more: {gone} of {len(last)}"
        )
    return lines


def _head_lines(rows: list[Row], arms: Sequence[str]) -> list[str]:
    """Tell the heads apart: they learn from labels that no trained arm has seen."""
    heads = dict.fromkeys(row["arm"] for row in rows if row["head"])
    return [
        f"- ours, image worst group against `{head}`, which trains no tower and is fitted on the "
        "validation films of the discovery half: "
        f"{_points(margin_over(rows, 'image_worst', _DELIVERED, [head])[1])} points"
        for head in heads
        if head in arms
    ]


def _margin_line(rows: list[Row], measure: str, asked: float, published: Sequence[str]) -> str:
    best, gap = margin_over(rows, measure, _DELIVERED, published)
    clean = mean_with_interval(_column(rows, _CLEAN, measure))[0]
    ours = mean_with_interval(_column(rows, _DELIVERED, measure))[0]
    distance = clean - (ours - gap[0])
    met = gap[0] >= asked or (distance > 0 and gap[0] >= distance / 2)
    return (
        f"- ours, {measure.replace('_', ' ')} group against the best published arm (`{best}`): "
        f"{_points(gap)} points; asked: {100 * asked:.0f}, or half of the distance to the model "
        f"trained without the correlation ({100 * distance:.1f}); met: {tell_met(met)}; distance "
        f"left {100 * (clean - ours):.1f}"
    )


def _cost(rows: list[Row]) -> list[str]:
    lines = [
        "## Cost of a step, forward and backward",
        "",
        "In turns on the same films; the ratio is the median over rounds.",
        "",
        "| tower | films | regions a film | arm | s | against a plain step | target |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "ratio" not in row:
            continue
        limit = _LIMITS.get((row["tower"], row["arm"]))
        target = "" if limit is None else f"at most {limit:g}"
        lines.append(
            f"| {row['tower']} | {row['batch']} | {row['regions']} | {row['title']} | "
            f"{row['seconds']:.3f} | {row['ratio']:.2f} | {target} |"
        )
    return [*lines, *_memory([row for row in rows if "peak_mb" in row])]


def _memory(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    lines = [
        "",
        "### Memory of a step, with `mitigation.gradient_checkpointing`",
        "",
        f"A step of {rows[0]['title']}, {rows[0]['batch']} films with {rows[0]['regions']} regions "
        "each, in a process of its own. Memory: resident at most, above libraries, weights and "
        "films. The weights that are learned are the same.",
        "",
        "| tower | without: MB | s | with: MB | s | memory, times | time, times |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = row["peak_mb_checkpointed"] / row["peak_mb"]
        seconds = row["seconds_checkpointed"] / row["seconds"]
        lines.append(
            f"| {row['tower']} | {row['peak_mb']:,.0f} | {row['seconds']:.2f} | "
            f"{row['peak_mb_checkpointed']:,.0f} | {row['seconds_checkpointed']:.2f} | "
            f"{memory:.2f} | {seconds:.2f} |"
        )
    return lines


def _percent(triple: tuple[float, float, float]) -> str:
    mean, low, high = (100 * v for v in triple)
    if math.isnan(mean):
        return "–"
    if math.isnan(low):
        return f"{mean:.1f}"
    return f"{mean:.1f} ({max(low, 0.0):.1f} to {min(high, 100.0):.1f})"  # a share


def _points(triple: tuple[float, float, float]) -> str:
    mean, low, high = (100 * v for v in triple)
    return f"{mean:+.1f}" if math.isnan(low) else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
