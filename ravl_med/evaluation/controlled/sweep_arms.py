"""The page of the arms: what every way of fine-tuning makes of the settings that were repaired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from ravl_med.evaluation.controlled.setting_mitigation import BEFORE
from ravl_med.evaluation.controlled.sweep_measures import Mean, group_mean
from ravl_med.mitigation.arms import ARMS
from ravl_med.reporting.layout.blocks import Block, Cell, Section, Table, Text, sized

__all__ = ["arm_blocks"]

_RIGHT = (0.6, 0.8)
_MEASURES = ("image_overall", "image_worst", "region_overall", "region_worst")


def arm_blocks(rows: Sequence[Mapping[str, object]]) -> Iterator[Block]:
    """Return the page of the arms; nothing where none was run.

    Parameters
    ----------
    rows : sequence of mapping - fields of `ArmOfSetting`
    """
    table = pd.DataFrame([dict(row) for row in rows])
    if not len(table) or not (table["arm"] != "").any():
        return
    yield Section("Mitigation", 160.0)
    yield Text(
        "Arms start from the audited model and share recipe and budget; groups are class by true "
        "presence, on films that nobody has touched. As in the paper, models are counted where our "
        "discovery was right: precision@10 above 0.6, and above 0.8."
    )
    for least in _RIGHT:
        own = table[(table["precision_10"] > least) & (table["arm"] != "")]
        if len(own):
            yield _arm_table(own, least)
            yield Text(_tell_best(own))


def _arm_table(rows: pd.DataFrame, least: float) -> Table:
    lines: list[tuple[Cell, ...]] = []
    for arm in (BEFORE, *ARMS):
        own = rows[rows["arm"] == arm]
        if not len(own):
            continue
        means = [_mean(own, measure) for measure in _MEASURES]
        name = "audited model" if arm == BEFORE else ARMS[arm].title
        lines.append((name, *(_tell(mean) for mean in means)))
    models, groups = rows["digest"].nunique(), rows["group"].nunique()
    return Table(
        f"precision@10 above {least:g}: {models} models of {groups} groups, %",
        sized(
            ("Arm", "overall", "worst group", "regions, overall", "regions, worst"),
            (150.0, 0.0, 0.0, 0.0, 0.0),
            right=(1, 2, 3, 4),
        ),
        tuple(lines),
    )


def _tell_best(rows: pd.DataFrame) -> str:
    """Tell the best arm of this tool beside the best published one, by the worst group."""
    means = {
        arm: _mean(rows[rows["arm"] == arm], "image_worst").value for arm in rows["arm"].unique()
    }
    ours = [arm for arm in means if arm in ARMS and not ARMS[arm].published]
    theirs = [arm for arm in means if arm in ARMS and ARMS[arm].published]
    if not ours or not theirs:
        return "Not all arms were run."
    mine, other = (max(names, key=lambda arm: means[arm]) for names in (ours, theirs))
    return (
        f"Worst group: {ARMS[mine].title} {100 * means[mine]:.1f} %, the best published arm "
        f"({ARMS[other].title}) {100 * means[other]:.1f} %: "
        f"{100 * (means[mine] - means[other]):+.1f} points."
    )


def _mean(rows: pd.DataFrame, measure: str) -> Mean:
    return group_mean(rows[measure].to_numpy(dtype="float64"), rows["group"].tolist())


def _tell(mean: Mean) -> str:
    return f"{100 * mean.value:.1f} ({100 * mean.low:.1f} to {100 * mean.high:.1f})"
