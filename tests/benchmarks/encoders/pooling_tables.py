"""Which way of embedding regions is the default, and the table that says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from ravl_med.config.model import ModelConfig
from tests.benchmarks.benchmark_file import tell_met

Row = Mapping[str, Any]

WHOLE = 0.999
"""Least cosine of the region that is the whole image and the image."""
MARGIN = 0.03
"""Share of the windows by which regions may say less than crops."""


def choose_pooling(rows: Sequence[Row]) -> str | None:
    """Choose among the ways of one tower: of those that are faithful, the cheapest.

    Faithful is a way whose whole image is the image (`WHOLE`), and which is right on as many
    windows of phantoms as crops are, or nearly (`MARGIN`).

    Parameters
    ----------
    rows : sequence of mapping - `PoolingRow` as a mapping, of one tower

    Returns
    -------
    str or None - value of ``model.region_pooling``; None where no way is faithful
    """
    crops = next((row["right"] for row in rows if row["how"] == "crops"), None)
    held = [row for row in rows if _is_faithful(row, crops)]
    return str(min(held, key=lambda row: row["ratio"])["how"]) if held else None


def poolings_markdown(rows: list[Row]) -> list[str]:
    """Return the lines of the table.

    Parameters
    ----------
    rows : list of mapping - `PoolingRow` as a mapping, the rows of a tower together
    """
    default = ModelConfig.model_fields["region_pooling"].default
    lines = [
        "## Which way of embedding regions?",
        "",
        "Every way that a tower has (`model.region_pooling`). Windows: of phantoms of the final "
        "test, right where the nearest class is that of the film. Leak: a region's change when "
        "another film lies around it, as a share of its change when all of it is of that other "
        "film; 0 where nothing but the region is seen. In brackets the mean cosines behind it: "
        "with itself in the other film, and with the same place of that film. Cost: images with 16 "
        "regions against images alone, processor time. Towers of published sizes have random "
        "weights and see smooth noise: they have no windows, and their leak is their reach, not "
        "what a training made of it. Chosen is the cheapest way that is faithful: whole film at "
        f"least {WHOLE}, windows at least those of crops less {100 * MARGIN:.0f} points.",
        "",
        "| tower | regions by | whole film, least | windows, right | faithful | leak (cosines) "
        "| with 16 regions | chosen |",
        "|---|---|---|---|---|---|---|---|",
    ]
    told = []
    for tower, of_tower in groupby(rows, key=lambda row: str(row["tower"])):
        own = list(of_tower)
        chosen = choose_pooling(own)
        crops = next((row["right"] for row in own if row["how"] == "crops"), None)
        lines += [_line(row, crops, chosen) for row in own]
        told.append(_sentence(tower, own, chosen, default))
    return [*lines, "", *told]


def _is_faithful(row: Row, crops: float | None) -> bool:
    right = row["right"]
    said = right is None or crops is None or right >= crops - MARGIN
    return bool(row["whole"] >= WHOLE and said)


def _line(row: Row, crops: float | None, chosen: str | None) -> str:
    windows = "–" if row["right"] is None else f"{row['right']:.1%} of {row['windows']}"
    leak = "–" if row["leak"] is None else f"{row['leak']:.2f}"
    return (
        f"| {row['tower']} | `{row['how']}`: {row['pooling']} | {row['whole']:.6f} | {windows} "
        f"| {tell_met(_is_faithful(row, crops))} | {leak} ({row['outside']:.3f}, "
        f"{row['other']:.3f}) | {row['ratio']:.2f} x "
        f"| {tell_met(row['how'] == chosen)} |"
    )


def _sentence(tower: str, rows: Sequence[Row], chosen: str | None, default: str) -> str:
    """Tell of one tower what the default is, and what it gives up."""
    if chosen is None:
        return f"- {tower}: no way is faithful; the default, `{default}`, is not either."
    own = next(row for row in rows if row["how"] == default)
    others = [row for row in rows if row["how"] != default]
    beside = "; ".join(
        f"`{row['how']}` leaks {_leak(row)} and costs {row['ratio']:.2f} x" for row in others
    )
    role = "is" if chosen == default else f"would be `{chosen}`, not"
    return (
        f"- {tower}: the default {role} `{default}`, which leaks {_leak(own)} and costs "
        f"{own['ratio']:.2f} x{f'; {beside}' if beside else ''}."
    )


def _leak(row: Row) -> str:
    return "an unknown share" if row["leak"] is None else f"{row['leak']:.2f}"
