"""Pages beside discovery: models without a shortcut, confirmation, special cases, and the cost."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ravl_med.evaluation.discovery_methods import OURS
from ravl_med.reporting.layout.blocks import Block, Cell, Column, Section, Table, Text
from tests.benchmarks.evaluation.sweep_cells import DASH, tell_share
from tests.benchmarks.evaluation.sweep_measures import exact_share, false_alarms

PAPER_MODELS = 654
"""Valid models that RaVL's authors had."""


def null_blocks(table: pd.DataFrame) -> Iterator[Block]:
    """Tell how often RaVL-Med accuses a model without a shortcut."""
    rows = tuple((domain, tell_share(share)) for domain, share in false_alarms(table).items())
    yield Section("Models without a shortcut")
    yield Text(
        "The thing lies on half of the films of each class, in training too. RaVL-Med accuses "
        "where a correlation counts: the rule by which it is credited with a find. The published "
        "methods have no way to say that there is nothing, so they are not counted here."
    )
    yield Table("Accused", (Column("Films"), Column("Accused", "wide")), rows, titled=False)


def confirmation_blocks(table: pd.DataFrame, planted: pd.DataFrame) -> Iterator[Block]:
    """Tell the rates of the test on held-out patients."""
    ours = planted[planted["method"] == OURS]
    nulls = table[(table["kind"] == "null") & (table["method"] == OURS)]

    def rate(rows: pd.DataFrame, kind: str) -> str:
        return tell_share(
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
    """Tell of two shortcuts at once, and of one without a place."""
    two = valid[(valid["kind"] == "two") & (valid["method"] == OURS)]
    whole = valid[(valid["kind"] == "global") & (valid["method"] == OURS)]
    if not len(two) and not len(whole):
        return
    yield Section("Two shortcuts, and one without a place")
    rows: list[tuple[Cell, ...]] = []
    if len(two):
        for count, words in ((1, "at least one found"), (2, "both found")):
            share = exact_share(int((two["pairs_found"] >= count).sum()), len(two))
            rows.append((f"two pairs at once: {words}", tell_share(share)))
    if len(whole):
        share = exact_share(int(whole["accuses"].sum()), len(whole))
        right = exact_share(int((whole["accuses"] & whole["right_class"]).sum()), len(whole))
        rows.append(("brightness of the whole film: accused", tell_share(share)))
        rows.append(("brightness of the whole film: accused with its class", tell_share(right)))
    yield Table(
        "What RaVL-Med finds",
        (Column("", "wide"), Column("Models", "interval")),
        tuple(rows),
        "RaVL's authors say that a feature without a place cannot be found by regions.",
        titled=False,
    )


def cost_blocks(table: pd.DataFrame, valid: pd.DataFrame) -> Iterator[Block]:
    """Tell what settings take, how many models learn their pair, and what is left to do."""
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
        "shared among as many as there are: ravl-med benchmark evaluation --domains "
        "phantoms,radiographs,digits --films FOLDER --shard 1/2, the same with 2/2, then --merge."
    )
