"""Sections of the controlled evaluation beside discovery: nulls, confirmation, arms, cost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import pandas as pd

from ravl_med.evaluation.methods import OURS
from ravl_med.evaluation.repairs import ABLATIONS, BASE, BEFORE, REPAIRS
from ravl_med.mitigation.arms import ARMS
from ravl_med.reporting.layout.blocks import Block, Cell, Column, Section, Table, Text
from tests.benchmarks.evaluation_measures import (
    Mean,
    exact_share,
    false_alarms,
    format_share,
    group_mean,
)
from tests.benchmarks.tables import DASH

PAPER_MODELS = 654
"""Valid models that RaVL's authors had."""

_RIGHT = (0.6, 0.8)
_MEASURES = ("image_overall", "image_worst", "region_overall", "region_worst")


def null_blocks(table: pd.DataFrame) -> Iterator[Block]:
    """Say how often RaVL-Med accuses a model without a shortcut."""
    rows = tuple((domain, format_share(share)) for domain, share in false_alarms(table).items())
    yield Section("Models without a shortcut")
    yield Text(
        "The thing lies on half of the films of each class, in training too. RaVL-Med accuses "
        "where a correlation counts: the rule by which it is credited with a find. The published "
        "methods have no way to say that there is nothing, so they are not counted here."
    )
    yield Table("Accused", (Column("Films"), Column("Accused", "wide")), rows, titled=False)


def confirmation_blocks(table: pd.DataFrame, planted: pd.DataFrame) -> Iterator[Block]:
    """Say the rates of the test on held-out patients."""
    ours = planted[planted["method"] == OURS]
    nulls = table[(table["kind"] == "null") & (table["method"] == OURS)]

    def rate(rows: pd.DataFrame, kind: str) -> str:
        return format_share(
            exact_share(int(rows[f"confirmed_{kind}"].sum()), int(rows[f"tested_{kind}"].sum()))
        )

    yield Section("Confirmation on held-out patients")
    yield Table(
        "Confirmed",
        (Column("Candidates", "wide"), Column("Confirmed", "interval")),
        (
            ("that travel with the planted thing and name its class", rate(ours, "true")),
            ("that have nothing to do with it, in the same models", rate(ours, "other")),
            ("of models without a shortcut", rate(nulls, "other")),
        ),
        "What has nothing to do with the thing may be used by the model all the same: a sign of "
        "the disease.",
        titled=False,
    )


def other_blocks(valid: pd.DataFrame) -> Iterator[Block]:
    """Say what becomes of two shortcuts at once, and of one without a place."""
    two = valid[(valid["kind"] == "two") & (valid["method"] == OURS)]
    whole = valid[(valid["kind"] == "global") & (valid["method"] == OURS)]
    if not len(two) and not len(whole):
        return
    yield Section("Two shortcuts, and one without a place")
    rows: list[tuple[Cell, ...]] = []
    if len(two):
        for count, found in ((1, "at least one found"), (2, "both found")):
            share = exact_share(int((two["pairs_found"] >= count).sum()), len(two))
            rows.append((f"two pairs at once: {found}", format_share(share)))
    if len(whole):
        share = exact_share(int(whole["accuses"].sum()), len(whole))
        right = exact_share(int((whole["accuses"] & whole["right_class"]).sum()), len(whole))
        rows.append(("brightness of the whole film: accused", format_share(share)))
        rows.append(("brightness of the whole film: accused with its class", format_share(right)))
    yield Table(
        "What RaVL-Med finds",
        (Column("", "wide"), Column("Models", "interval")),
        tuple(rows),
        "RaVL's authors say that a feature without a place cannot be found by regions.",
        titled=False,
    )


def cost_blocks(table: pd.DataFrame, valid: pd.DataFrame) -> Iterator[Block]:
    """Say what settings take, how many models learn their pair, and what is left to do."""
    models = table.drop_duplicates("digest")
    rows: list[tuple[Cell, ...]] = []
    for (domain, architecture), own in models.groupby(["domain", "architecture"]):
        asked, taught = own[own["method"] != ""], own[own["kind"] != "null"]
        rows.append(
            (
                f"{domain}, {architecture}",
                str(len(own)),
                f"{100 * taught['valid'].mean():.0f} %" if len(taught) else DASH,
                f"{own['training_seconds'].median():.0f}",
                f"{asked['seconds'].median():.0f}" if len(asked) else DASH,
                f"{asked['cpu_seconds'].median():.0f}" if len(asked) else DASH,
            )
        )
    yield Section("Cost")
    yield Table(
        "Medians",
        (
            Column("Settings", "wide"),
            *(
                Column(head, "number")
                for head in ("run", "learned", "training, s", "whole, s", "processor, s")
            ),
        ),
        tuple(rows),
        "The whole setting is that of models that every method was asked about.",
        titled=False,
    )
    left = _left_to_paper(models, valid)
    if left:
        yield Text(left)


def _left_to_paper(models: pd.DataFrame, valid: pd.DataFrame) -> str:
    """Say what as many valid models as RaVL's authors had would take beyond these."""
    whole = valid["digest"].nunique()
    if not 0 < whole < PAPER_MODELS:
        return ""
    taught = models[models["kind"] != "null"]
    each = float(taught["cpu_seconds"].sum()) / whole
    hours = (PAPER_MODELS - whole) * each / 3600.0
    return (
        f"A valid model has cost {each:.0f} s of a processor, with what did not learn its pair: "
        f"{PAPER_MODELS} of them, as RaVL's authors had, take some {hours:.1f} hours more of one, "
        "shared among as many as there are: ravl-med evaluate --only "
        "domain=phantoms,radiographs,digits --films FOLDER --shard 1/2, the same with 2/2, then "
        "--merge."
    )


def arm_blocks(rows: Sequence[Mapping[str, object]], valid: Collection[object]) -> Iterator[Block]:
    """Say what every way of fine-tuning makes of the models; nothing where none was run.

    Rows hold the fields of `ArmOfSetting`; models whose digest is not among the valid are left out.
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
    """Return the rows of the valid models that every arm has repaired, found right before."""
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
        lines.append((name, *(_percent(mean) for mean in means)))
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


def _percent(mean: Mean) -> str:
    return f"{100 * mean.value:.1f} ({100 * mean.low:.1f} to {100 * mean.high:.1f})"
