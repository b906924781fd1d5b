"""The page of the arms: what every way of fine-tuning makes of the settings that were repaired."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import pandas as pd

from ravl_med.evaluation.repairs import ABLATIONS, BASE, BEFORE, REPAIRS
from ravl_med.mitigation.arms import ARMS
from ravl_med.reporting.layout.blocks import Block, Cell, Column, Section, Table, Text
from tests.benchmarks.evaluation.sweep_measures import Mean, group_mean

_RIGHT = (0.6, 0.8)
_MEASURES = ("image_overall", "image_worst", "region_overall", "region_worst")


def arm_blocks(rows: Sequence[Mapping[str, object]], valid: Collection[object]) -> Iterator[Block]:
    """Return the page of the arms; nothing where none was run.

    Parameters
    ----------
    rows : sequence of mapping - fields of `ArmOfSetting`
    valid : collection of str - digests of the valid models; others are left out
    """
    table = _table_of(rows, valid)
    if not len(table):
        return
    yield Section("Mitigation")
    yield Text(
        "Arms start from the audited model and share recipe and budget; groups are class by true "
        "presence, on films that nobody has touched. As in the paper, models are counted where our "
        "discovery was right: precision@10 above 0.6, and above 0.8."
    )
    right = _repaired_models(rows, valid)
    shown = 0
    for least in _RIGHT:
        own = right[right["precision_10"] > least]
        if len(own) not in (0, shown):  # the same models are shown once
            shown = len(own)
            yield _arm_table(own, (BEFORE, *ARMS), f"precision@10 above {least:g}")
    own = _repaired_by(table, ("standard", "exchange", BASE, *ABLATIONS))
    own = own[own["precision_10"] > _RIGHT[0]]
    if len(own):
        yield _arm_table(own, ("standard", "exchange", *ABLATIONS, BASE), "What each part gains")
        yield Text(
            "Exchange: the feature's regions are dealt out anew in each batch, whatever the class "
            "of a film. L_R draws the best of a film's other regions to its class among classes, "
            "L_A among films; both push the feature's regions away. lambda is the share of L_CLIP "
            "in the loss, 0.8 where none is named."
        )


def _repaired_models(
    rows: Sequence[Mapping[str, object]], valid: Collection[object]
) -> pd.DataFrame:
    """Return the rows of the valid models that every arm has repaired, found right before.

    Parameters
    ----------
    rows : sequence of mapping - fields of `ArmOfSetting`
    valid : collection of str - digests of the valid models
    """
    whole = _repaired_by(_table_of(rows, valid), ARMS)
    return whole[whole["precision_10"] > _RIGHT[0]] if len(whole) else whole


def _table_of(rows: Sequence[Mapping[str, object]], valid: Collection[object]) -> pd.DataFrame:
    """Rows of arms of valid models in which there was something to repair."""
    return pd.DataFrame([dict(row) for row in rows if row["arm"] and row["digest"] in valid])


def _repaired_by(table: pd.DataFrame, arms: Iterable[str]) -> pd.DataFrame:
    """Rows of the models that all of these arms have repaired."""
    wanted = frozenset(arms)
    if not len(table):
        return table
    known = table.groupby("digest")["arm"].agg(lambda names: wanted.issubset(names))
    return table[table["digest"].isin(known[known].index)]


def _of(rows: pd.DataFrame, arm: str) -> pd.DataFrame:
    return rows[rows["arm"] == arm]


def _arm_table(rows: pd.DataFrame, arms: Sequence[str], caption: str) -> Table:
    lines: list[tuple[Cell, ...]] = []
    for arm in arms:
        own = _of(rows, arm)
        means = [_mean(own, measure) for measure in _MEASURES]
        name = "audited model" if arm == BEFORE else REPAIRS[arm].title
        lines.append((name, *(_tell(mean) for mean in means)))
    models, groups = rows["digest"].nunique(), rows["group"].nunique()
    return Table(
        f"{caption}: {models} models of {groups} groups, %",
        (
            Column("Arm", "wide"),
            *(
                Column(head, "number")
                for head in ("overall", "worst group", "regions, overall", "regions, worst")
            ),
        ),
        tuple(lines),
    )


def _mean(rows: pd.DataFrame, measure: str) -> Mean:
    return group_mean(rows[measure].to_numpy(dtype="float64"), rows["group"].tolist())


def _tell(mean: Mean) -> str:
    return f"{100 * mean.value:.1f} ({100 * mean.low:.1f} to {100 * mean.high:.1f})"
