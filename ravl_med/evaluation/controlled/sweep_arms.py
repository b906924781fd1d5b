"""The page of the arms: what every way of fine-tuning makes of the settings that were repaired."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import pandas as pd

from ravl_med.evaluation.controlled.repairs import ABLATIONS, BASE, REPAIRS
from ravl_med.evaluation.controlled.setting_mitigation import BEFORE
from ravl_med.evaluation.controlled.sweep_cells import tell_met
from ravl_med.evaluation.controlled.sweep_measures import Mean, group_mean
from ravl_med.mitigation.arms import ARMS
from ravl_med.reporting.layout.blocks import Block, Cell, Section, Table, Text, sized

__all__ = ["arm_blocks", "best_published", "mean_of_arm", "repaired_models"]

_RIGHT = (0.6, 0.8)
_MODELS, _GROUPS = 30, 10
_ASKED = (
    ("ravl", "image_worst", "worst group", 0.0),
    (BASE, "image_worst", "worst group", 0.08),
    (BASE, "region_worst", "worst group of regions", 0.1),
    (BASE, "image_overall", "accuracy", -0.01),
)
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
    yield Section("Mitigation", 160.0)
    yield Text(
        "Arms start from the audited model and share recipe and budget; groups are class by true "
        "presence, on films that nobody has touched. As in the paper, models are counted where our "
        "discovery was right: precision@10 above 0.6, and above 0.8."
    )
    right = repaired_models(rows, valid)
    if len(right):
        yield _target_table(right)
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


def repaired_models(
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


def mean_of_arm(rows: pd.DataFrame, arm: str, measure: str) -> Mean:
    """Return the mean of a measure over the models, with its interval over groups of seeds."""
    return _mean(_of(rows, arm), measure)


def best_published(rows: pd.DataFrame, measure: str, beside: str = "") -> str:
    """Return the published arm with the highest mean, but for one."""
    published = [name for name, arm in ARMS.items() if arm.published and name != beside]
    return max(published, key=lambda name: mean_of_arm(rows, name, measure).value)


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


def _target_table(rows: pd.DataFrame) -> Table:
    """Say what was asked beside what was reached, model by model."""
    models, groups = rows["digest"].nunique(), rows["group"].nunique()
    lines: list[tuple[Cell, ...]] = [
        (
            "models and groups of seeds",
            f"at least {_MODELS} and {_GROUPS}",
            f"{models} and {groups}",
            tell_met(models >= _MODELS and groups >= _GROUPS),
        )
    ]
    for name, measure, words, least in _ASKED:
        other = "standard" if measure == "image_overall" else best_published(rows, measure, name)
        points = _mean(_difference(rows, name, other, measure), measure)
        lines.append(
            (
                f"{words}: {ARMS[name].title} against {ARMS[other].title}",
                _target(least),
                f"{100 * points.value:+.1f} ({100 * points.low:+.1f} to {100 * points.high:+.1f})",
                tell_met(points.value >= least if least else points.value > 0),
            )
        )
    return Table(
        "What was asked, and what was reached",
        sized(("", "Target", "Reached", "Met"), (230.0, 80.0, 0.0, 40.0)),
        tuple(lines),
        titled=False,
    )


def _target(least: float) -> str:
    if least < 0:
        return f"a fall of at most {-100 * least:.0f} point"
    return f"at least {100 * least:+.0f} points" if least else "above it"


def _of(rows: pd.DataFrame, arm: str) -> pd.DataFrame:
    return rows[rows["arm"] == arm]


def _difference(rows: pd.DataFrame, arm: str, other: str, measure: str) -> pd.DataFrame:
    """One arm minus another of the same model, with its group."""
    one, two = (_of(rows, name).set_index("digest") for name in (arm, other))
    return pd.DataFrame({measure: one[measure] - two[measure], "group": one["group"]})


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
        sized(
            ("Arm", "overall", "worst group", "regions, overall", "regions, worst"),
            (150.0, 0.0, 0.0, 0.0, 0.0),
            right=(1, 2, 3, 4),
        ),
        tuple(lines),
    )


def _mean(rows: pd.DataFrame, measure: str) -> Mean:
    return group_mean(rows[measure].to_numpy(dtype="float64"), rows["group"].tolist())


def _tell(mean: Mean) -> str:
    return f"{100 * mean.value:.1f} ({100 * mean.low:.1f} to {100 * mean.high:.1f})"
