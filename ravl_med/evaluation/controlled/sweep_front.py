"""What the README shows of the controlled evaluation, between two marks, made from the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ravl_med.evaluation.controlled.discovery_methods import OURS
from ravl_med.evaluation.controlled.repairs import BASE
from ravl_med.evaluation.controlled.setting_mitigation import BEFORE
from ravl_med.evaluation.controlled.sweep_arms import (
    best_published,
    mean_of_arm,
    repaired_models,
)
from ravl_med.evaluation.controlled.sweep_cells import (
    COMPARED,
    METHOD_NAMES,
    tell_mean,
    tell_share,
)
from ravl_med.evaluation.controlled.sweep_measures import (
    Mean,
    false_alarms,
    score_methods,
    table_of_rows,
    valid_models,
)
from ravl_med.mitigation.arms import ARMS

__all__ = ["MARKED", "front_text"]

MARKED = "evaluation"
"""Name of the marks in the README."""

_STRONG = 0.3
_MEASURES = ("image_worst", "image_overall", "region_worst")
_DOMAINS = {"phantoms": "phantoms", "radiographs": "real radiographs", "digits": "digits"}


def front_text(
    rows: Sequence[Mapping[str, object]], arms: Sequence[Mapping[str, object]] = ()
) -> str:
    """Return the tables of the README, in Markdown.

    Parameters
    ----------
    rows : sequence of mapping - fields of `MethodRow`
    arms : sequence of mapping - fields of `ArmOfSetting`
    """
    table = table_of_rows(rows)
    valid = valid_models(table)
    planted = valid[(valid["kind"] == "planted") & (valid["regions"] == "tiles")]
    parts = {domain: planted[planted["domain"] == domain] for domain in _DOMAINS}
    shown = {domain: own for domain, own in parts.items() if len(own)}
    scores = {
        domain: {score.method: score.precision_10 for score in score_methods(own)}
        for domain, own in shown.items()
    }
    alarms = false_alarms(table)
    heads = [
        "precision@10",
        *(f"{_DOMAINS[name]}, {_count(own)} models" for name, own in shown.items()),
        "accuses a clean model",
    ]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for method in COMPARED:
        cells = [METHOD_NAMES[method], *(tell_mean(scores[name][method]) for name in shown)]
        cells.append(tell_share(alarms[method]))
        lines.append(_row([f"**{cell}**" for cell in cells] if method == OURS else cells))
    models = table.drop_duplicates("digest")
    told = (
        f"{len(models)} small models were trained, {_count(valid)} of them valid (every seed "
        "learned the planted shortcut). Means with 95 % intervals over groups of seeds."
        f"{_where_learned(shown)}"
    )
    return "\n".join([told, "", *lines, *_repairs(repaired_models(arms, set(valid["digest"])))])


def _where_learned(domains: Mapping[str, pd.DataFrame]) -> str:
    """Say how our own method does where the shortcut costs the model much."""
    strong = {
        _DOMAINS[name]: rows[(rows["learned"] > _STRONG) & (rows["method"] == OURS)]
        for name, rows in domains.items()
    }
    told = [
        f"{name} {rows['precision_10'].mean():.2f}" for name, rows in strong.items() if len(rows)
    ]
    if not told:
        return ""
    return (
        f" Where both gaps of a model exceed {100 * _STRONG:.0f} points, {METHOD_NAMES[OURS]} "
        f"reaches: {', '.join(told)}."
    )


def _repairs(rows: pd.DataFrame) -> list[str]:
    """Lines of the table of repairs; none where nothing was repaired."""
    if not len(rows):
        return []
    closest = best_published(rows, "image_worst")
    shown = dict.fromkeys(("standard", "ravl", closest))
    named = [
        (BEFORE, "before"),
        *((arm, ARMS[arm].title) for arm in shown),
        (BASE, METHOD_NAMES[OURS]),
    ]
    heads = [
        f"fine-tuned away from what was found, {_count(rows)} models",
        "worst group, %",
        "accuracy, %",
        "worst group of regions, %",
    ]
    lines = ["", _row(heads), _row(["---"] * len(heads))]
    for arm, name in named:
        means = [mean_of_arm(rows, arm, measure) for measure in _MEASURES]
        cells = [name, *(_percent(mean) for mean in means)]
        lines.append(_row([f"**{cell}**" for cell in cells] if arm == BASE else cells))
    return lines


def _percent(mean: Mean) -> str:
    return f"{100 * mean.value:.0f} ({100 * mean.low:.0f} to {100 * mean.high:.0f})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _count(rows: pd.DataFrame) -> int:
    return int(rows["digest"].nunique())
