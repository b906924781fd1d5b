"""The Markdown of the benchmark on phantoms: what was asked beside what was reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scipy import stats

from tests.benchmarks.benchmark_file import tell_met, tell_parts

Row = Mapping[str, Any]

_PRECISION = 0.95
_ACCUSED = 3 / 20  # null cohorts with a confirmed shortcut


def quickstart_markdown(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of the parts that were measured.

    Parameters
    ----------
    parts : mapping of part to its content in ``quickstart.json``
    """
    tell = {
        "planted": _planted,
        "null": _null,
        "localisation": _localisation,
        "bystander": _bystander,
    }
    return tell_parts("The whole tool, on phantoms whose truth is known", parts, tell)


def _planted(rows: list[Row]) -> list[str]:
    failed = sum(row["verdict"] == "fail" for row in rows)
    named = sum(row["top_kind"] == "shortcut" and row["top_names_finding"] for row in rows)
    return [
        "## Planted: a shortcut that the model has learned",
        "",
        "Each cohort has films and a model of its own. The first correlation has to be a shortcut "
        "that names the planted finding.",
        "",
        f"- `fail`: {failed} of {len(rows)} (target: all)",
        f"- first correlation a shortcut that names the finding: {named} of {len(rows)} "
        "(target: all)",
        f"- {_mean_precision(rows)}",
        "",
        *_audits(rows),
    ]


def _null(rows: list[Row]) -> list[str]:
    accused = sum(row["shortcuts"] > 0 for row in rows)
    allowed = int(_ACCUSED * len(rows) + 1e-9)
    held = stats.binomtest(accused, len(rows)).proportion_ci(0.95, method="exact")
    signs = sum(row["plausible_signs"] > 0 for row in rows)
    failed = sum(row["verdict"] == "fail" for row in rows)
    return [
        "## Null: nothing planted, a clean model",
        "",
        f"- with a confirmed shortcut: {accused} of {len(rows)} ({100 * held.low:.1f} to "
        f"{100 * held.high:.1f} %; target: at most {allowed}; met: {tell_met(accused <= allowed)})",
        f"- `fail`: {failed} of {len(rows)}",
        f"- with a confirmed plausible sign, which a radiologist decides on: {signs} of "
        f"{len(rows)}",
        "",
        *_audits(rows),
    ]


def _localisation(rows: list[Row]) -> list[str]:
    lines = [
        "## Localisation: the first ten regions of the first correlation",
        "",
        "A region hits when it shares half the area of the smaller box. Regions count where their "
        "removal effect lies; beside it as they were cut. A generator on the border of tiles hits "
        "none of them: of 4 x 4 tiles one in two generators has no tile that holds half of it.",
        "",
        f"- {_mean_precision(rows)}",
        "",
        "| tower | tiles | seed | target | reached: precision@10 | met | of the tiles as cut "
        "| in the paper's order | overlap with the feature: tile, located box | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {row['tower']} | {row['tiles']} | {row['seed']} | at least {_PRECISION} "
        f"| {_number(row['precision_at_10'])} "
        f"| {tell_met((row['precision_at_10'] or 0.0) >= _PRECISION)} "
        f"| {_number(row['tile_precision_at_10'])} "
        f"| {_number(row['paper_precision_at_10'])} "
        f"| {_number(row['overlap'], 2)}, {_number(row['located_overlap'], 2)} "
        f"| {row['verdict'].replace('_', ' ')} |"
        for row in rows
    ]


def _bystander(rows: list[Row]) -> list[str]:
    lines = [
        "## Bystander: a thing that travels with the feature and that the model has no use for",
        "",
        "On the audited films it goes with the planted feature, on those of the fine-tuning with "
        "nothing. Each thing is the cluster of the tiles that hit it and hold nothing of the "
        "other, taken from the truth. Contrasts are in logits against controls, intervals 95 %, "
        "corrected for two.",
        "",
        "| thing | seed | phi with the feature | held out | gaps | removal, median fill "
        "| removal, inpainted | transplant | called used | target | met | accused by the audit |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return lines + [_thing(row) for row in rows]


def _thing(row: Row) -> str:
    effects = " | ".join(_contrast(row[name]) for name in ("removal", "inpainted", "transplant"))
    planted = row["role"] == "planted"
    return (
        f"| {row['thing']} ({row['role']}) | {row['seed']} | {row['phi']:.2f} "
        f"| {row['status'].replace('_', ' ')}, raises {row['raised']} "
        f"| {_points(row['raised_gap'])} / {_points(row['opposed_gap'])} points "
        f"| {effects} | {_yes(row['used'])} | {'used' if planted else 'not used'} "
        f"| {tell_met(row['used'] is planted)} | {_yes(row['accused'])} |"
    )


def _points(gap: float | None) -> str:
    return "–" if gap is None else f"{100 * gap:+.0f}"


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _contrast(values: list[float]) -> str:
    if not values:
        return "not tried"
    return f"{values[0]:+.2f} ({values[1]:+.2f} to {values[2]:+.2f})"


def _mean_precision(rows: list[Row]) -> str:
    known = [row["precision_at_10"] or 0.0 for row in rows]
    mean = sum(known) / max(len(rows), 1)
    paper = sum(row["paper_precision_at_10"] or 0.0 for row in rows) / max(len(rows), 1)
    return (
        f"precision@10, mean of {len(rows)}: {mean:.2f} (target: at least {_PRECISION}; met: "
        f"{tell_met(mean >= _PRECISION)}); in the paper's order {paper:.2f}"
    )


def _audits(rows: list[Row]) -> list[str]:
    lines = [
        "| seed | accuracy | gaps of the planted pair | verdict | first correlation "
        "| precision@10 (paper's order) | confirmed: all, shortcuts, plausible signs "
        "| gap that could be seen |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        named = "names the finding" if row["top_names_finding"] else "names another class"
        kind = row["top_kind"].replace("_", " ")
        first = "–" if kind == "none" else f"{kind}, {named}"
        precision = "–"
        if row["precision_at_10"] is not None:
            paper = _number(row["paper_precision_at_10"])
            precision = f"{_number(row['precision_at_10'])} ({paper})"
        seen = row["detectable_gap"]
        lines.append(
            f"| {row['seed']} | {row['accuracy']:.1%} | {100 * row['raised_gap']:+.0f} / "
            f"{-100 * row['lowered_gap']:+.0f} points | {row['verdict'].replace('_', ' ')} "
            f"| {first} | {precision} | {row['confirmed']}, {row['shortcuts']}, "
            f"{row['plausible_signs']} | {'–' if seen is None else f'{100 * seen:.0f} points'} |"
        )
    return lines


def _number(value: float | None, places: int = 1) -> str:
    return "–" if value is None else f"{value:.{places}f}"
