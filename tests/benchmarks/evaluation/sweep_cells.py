"""How the pages of the controlled evaluation put numbers, and which methods they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ravl_med.evaluation.discovery_methods import OURS, PUBLISHED
from ravl_med.reporting.layout.blocks import Column, Table
from tests.benchmarks.evaluation.sweep_measures import Mean, Share, score_methods

DASH = "–"

METHOD_NAMES: Mapping[str, str] = {
    "random": "Random regions",
    "distilling_failures": "Distilling Failures",
    "george": "George",
    "domino": "Domino",
    "spurious_aware": "Spurious-Aware detection",
    "gap_unweighted": "clusters by gap, unweighted",
    "gap_weighted": "clusters by gap, weighted",
    "ravl": "RaVL, as published",
    "pooled": "candidates of several K",
    "confirmed": "and confirmed on held-out patients",
    OURS: "RaVL-Med",
}
COMPARED = (*PUBLISHED, OURS)


def tell_mean(mean: Mean) -> str:
    """Tell a mean with its interval."""
    if not mean.models:
        return DASH
    return f"{mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})"


def tell_share(share: Share) -> str:
    """Tell a count out of a total with its exact interval."""
    if not share.total:
        return DASH
    return f"{share.count} of {share.total} ({100 * share.low:.1f} to {100 * share.high:.1f} %)"


def precision_table(caption: str, parts: Sequence[tuple[str, pd.DataFrame]]) -> Table:
    """precision@10 of what is compared, a row a part of the models."""
    heads = ("", "models", *(_SHORT[name] for name in COMPARED))
    rows = []
    for name, own in parts:
        scores = {score.method: score.precision_10 for score in score_methods(own)}
        numbers = (tell_number(scores[method]) for method in COMPARED)
        rows.append((str(name), str(own["digest"].nunique()), *numbers))
    columns = [Column(head, "number" if at else "wide") for at, head in enumerate(heads)]
    return Table(caption, columns, tuple(rows))


_SHORT = {
    "random": "Random",
    "distilling_failures": "Distilling",
    "george": "George",
    "domino": "Domino",
    "spurious_aware": "Sp.-Aware",
    "ravl": "RaVL",
    OURS: "RaVL-Med",
}


def tell_number(mean: Mean) -> str:
    """Tell a mean alone."""
    return f"{mean.value:.2f}" if mean.models else DASH


def tell_met(held: bool) -> str:
    """Tell whether a target was met."""
    return "yes" if held else "no"
