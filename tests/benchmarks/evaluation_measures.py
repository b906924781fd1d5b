"""What the rows of the controlled evaluation say: means with intervals, and false alarms.

A model counts as valid when every seed of its group has been run and learned the pair (RaVL's
test). Intervals of means are bootstrapped over groups, since the seeds of one share a feature and a
finding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ravl_med.evaluation.methods import METHODS, OURS, PUBLISHED
from ravl_med.evaluation.settings import SEEDS
from ravl_med.reporting.layout.blocks import Column, Table
from tests.benchmarks.tables import DASH

BINS = (0.10, 0.20, 0.30, 0.40)
"""Least of the two gaps of the validity test: the thresholds of RaVL's strength bins."""

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
_SHORT = {
    "random": "Random",
    "distilling_failures": "Distilling",
    "george": "George",
    "domino": "Domino",
    "spurious_aware": "Sp.-Aware",
    "ravl": "RaVL",
    OURS: "RaVL-Med",
}

_DRAWS = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its interval, over so many models; NaN without any."""

    value: float
    low: float
    high: float
    models: int


@dataclass(frozen=True, slots=True)
class Share:
    """A count out of a total with its exact (Clopper-Pearson) interval; NaN without any."""

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself."""
        return self.count / self.total if self.total else math.nan


@dataclass(frozen=True, slots=True)
class MethodScore:
    """How well one method finds what was planted.

    Attributes
    ----------
    right_class : Mean - share of models of which the raised class is named
    found : Mean - share of models with precision at 10 above 0.6, which RaVL calls right
    first : Mean - share of models whose true cluster comes first
    """

    method: str
    precision_10: Mean
    precision_25: Mean
    touching_10: Mean
    right_class: Mean
    found: Mean
    first: Mean


def table_of_rows(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """Return rows as a table with `learned`, the smaller of the two gaps."""
    table = pd.DataFrame([dict(row) for row in rows])
    table["learned"] = np.minimum(table["raised_gap"], table["lowered_gap"])
    return table


def valid_models(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of models whose group is valid: all seeds run, and all learned the pair."""
    models = table.drop_duplicates("digest")
    models = models[models["kind"] != "null"]
    seeds = models.groupby("group")["seed"].nunique()
    whole = models.groupby("group")["valid"].all() & (seeds >= len(SEEDS))
    return table[table["group"].isin(whole.index[whole])]


def group_mean(values: NDArray[np.float64], groups: Sequence[str], seed: int = 0) -> Mean:
    """Return the mean of values (n,) with a bootstrap interval over their n groups."""
    if not len(values):
        return Mean(math.nan, math.nan, math.nan, 0)
    _, number = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    total = np.bincount(number, weights=values)
    count = np.bincount(number)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(count), size=(_DRAWS, len(count)))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    tail = (1.0 - _CONFIDENCE) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Mean(float(np.mean(values)), float(low), float(high), len(values))


def score_methods(rows: pd.DataFrame) -> list[MethodScore]:
    """Score every method on models that learned what was planted, in the order of `METHODS`."""
    scores = []
    for method in METHODS:
        own = rows[rows["method"] == method]
        groups = own["group"].tolist()

        def mean(values: pd.Series, groups: list[str] = groups) -> Mean:
            return group_mean(values.to_numpy(dtype=np.float64), groups)

        scores.append(
            MethodScore(
                method=method,
                precision_10=mean(own["precision_10"]),
                precision_25=mean(own["precision_25"]),
                touching_10=mean(own["touching_10"]),
                right_class=mean(own["right_class"]),
                found=mean(own["precision_10"] > 0.6),
                first=mean(own["true_rank"] == 1),
            )
        )
    return scores


def exact_share(count: int, total: int) -> Share:
    """Return a share with its exact interval."""
    if total == 0:
        return Share(0, 0, math.nan, math.nan)
    interval = stats.binomtest(count, total).proportion_ci(_CONFIDENCE, method="exact")
    return Share(count, total, float(interval.low), float(interval.high))


def false_alarms(table: pd.DataFrame) -> dict[str, Share]:
    """Return how often RaVL-Med accuses a model that has no shortcut, by domain and in all.

    It accuses where a correlation counts, the rule by which it is credited with a find.
    """
    nulls = table[(table["kind"] == "null") & (table["method"] == OURS)]
    alarms = {
        str(domain): exact_share(int(own["accuses"].sum()), len(own))
        for domain, own in nulls.groupby("domain")
    }
    return {**alarms, "all": exact_share(int(nulls["accuses"].sum()), len(nulls))}


def format_mean(mean: Mean) -> str:
    """Write a mean with its interval."""
    if not mean.models:
        return DASH
    return f"{mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})"


def format_share(share: Share) -> str:
    """Write a count out of a total with its exact interval."""
    if not share.total:
        return DASH
    return f"{share.count} of {share.total} ({100 * share.low:.1f} to {100 * share.high:.1f} %)"


def mean_precision(rows: pd.DataFrame, method: str) -> float:
    """Return the mean precision@10 of one method; NaN without any model."""
    values = rows.loc[rows["method"] == method, "precision_10"].to_numpy(dtype=np.float64)
    return float(np.mean(values)) if len(values) else math.nan


def precision_table(caption: str, parts: Sequence[tuple[str, pd.DataFrame]]) -> Table:
    """Draw precision@10 of what is compared, a row a part of the models."""
    heads = ("", "models", *(_SHORT[name] for name in COMPARED))
    rows = []
    for name, own in parts:
        numbers = (format_number(mean_precision(own, method)) for method in COMPARED)
        rows.append((str(name), str(own["digest"].nunique()), *numbers))
    columns = [Column(head, "number" if at else "wide") for at, head in enumerate(heads)]
    return Table(caption, columns, tuple(rows))


def format_number(value: float) -> str:
    """Write a mean alone."""
    return DASH if math.isnan(value) else f"{value:.2f}"
