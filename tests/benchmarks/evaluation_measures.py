"""What the rows of the controlled evaluation say: means with intervals, finds, false alarms.

A model counts as valid when every published seed of its group has been run and learned the pair
(RaVL's test). Intervals of means are bootstrapped over groups, since the seeds of one share a mark
and a finding. One event counts for planted and for clean models alike: a method accuses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ravl_med.evaluation.methods import CHOSEN, METHODS, OPTIONS, OURS, PUBLISHED
from ravl_med.evaluation.settings import SEEDS, TRIED
from ravl_med.evaluation.trial import FOUND, MethodRow
from ravl_med.reporting.layout.blocks import Column, Table
from tests.benchmarks.tables import DASH

BINS = (0.10, 0.20, 0.30, 0.40)
"""Least of the two gaps of the validity test: the thresholds of RaVL's strength bins."""

USES = (0.1, 0.3, 0.6)
"""How far the mark moves the model, in standard deviations: between them lie the bins of use."""

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
    cut_10, fitted_10 : Mean - precision at 10, of regions as cut and of fitted boxes
    right_class : Mean - share of models of which the raised class is named
    found : Mean - share of models with fitted precision at 10 above 0.6, which RaVL calls right
    first : Mean - share of models whose true cluster comes first
    """

    method: str
    cut_10: Mean
    fitted_10: Mean
    touching_10: Mean
    right_class: Mean
    found: Mean
    first: Mean


def table_of_rows(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """Return rows as a table with `learned`, the smaller of the two gaps."""
    names = [one.name for one in fields(MethodRow)]
    table = pd.DataFrame([dict(row) for row in rows], columns=names)
    for name in ("valid", "right_class", "decides", "accuses", "asks", "inside"):
        table[name] = table[name].astype(bool)
    table["learned"] = np.minimum(table["raised_gap"], table["lowered_gap"])
    hits = table["fitted_10"] > FOUND
    table["found"] = hits & table["right_class"]
    return table


def published(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the published seeds."""
    return table[table["seed"].isin(SEEDS)]


def tried(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of valid models of the seeds that options were chosen on."""
    return table[table["seed"].isin(TRIED) & table["valid"]]


def best_options(table: pd.DataFrame) -> dict[str, str]:
    """Return the option of each method with the best mean precision of fitted boxes, as tried.

    Ties go to the first. A method without rows is left out.
    """
    best = {}
    for method, options in OPTIONS.items():
        own = table[table["method"] == method].groupby("option")["fitted_10"].mean()
        known = [option.label() for option in options if option.label() in own.index]
        if known:
            best[method] = max(known, key=lambda label: float(own[label]))
    return best


def valid_models(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of models whose group is valid: all seeds run, and all learned the pair."""
    models = table.drop_duplicates("digest")
    models = models[models["kind"] != "null"]
    seeds = models.groupby("group")["seed"].nunique()
    whole = models.groupby("group")["valid"].all() & (seeds >= len(SEEDS))
    return table[table["group"].isin(whole.index[whole])]


def group_mean(values: NDArray[np.float64], groups: Sequence[str], seed: int = 0) -> Mean:
    """Return the mean of values (n,) with a bootstrap interval over their n groups.

    Fewer than two groups say nothing of how groups differ: there is no interval.
    """
    if not len(values):
        return Mean(math.nan, math.nan, math.nan, 0)
    _, number = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    total = np.bincount(number, weights=values)
    count = np.bincount(number)
    if len(count) < 2:
        return Mean(float(np.mean(values)), math.nan, math.nan, len(values))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(count), size=(_DRAWS, len(count)))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    tail = (1.0 - _CONFIDENCE) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Mean(float(np.mean(values)), float(low), float(high), len(values))


def ratio_of_means(
    gained: NDArray[np.float64], distance: NDArray[np.float64], groups: Sequence[str]
) -> Mean:
    """Return the ratio of two means over n models with a bootstrap interval over their groups.

    Fewer than two groups have none.
    """
    if not len(gained) or not distance.sum() > 0:
        return Mean(math.nan, math.nan, math.nan, 0)
    _, number = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    own, whole = (np.bincount(number, weights=values) for values in (gained, distance))
    if len(own) < 2:
        return Mean(float(gained.sum() / distance.sum()), math.nan, math.nan, len(gained))
    drawn = np.random.default_rng(0).integers(len(own), size=(_DRAWS, len(own)))
    below = whole[drawn].sum(axis=1)
    ratios = own[drawn].sum(axis=1)[below > 0] / below[below > 0]
    tail = (1.0 - _CONFIDENCE) / 2.0
    low, high = np.quantile(ratios, [tail, 1.0 - tail])
    return Mean(float(gained.sum() / distance.sum()), float(low), float(high), len(gained))


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
                cut_10=mean(own["precision_10"]),
                fitted_10=mean(own["fitted_10"]),
                touching_10=mean(own["touching_10"]),
                right_class=mean(own["right_class"]),
                found=mean(own["fitted_10"] > FOUND),
                first=mean(own["true_rank"] == 1),
            )
        )
    return scores


def gain_over_best(rows: pd.DataFrame, measure: str) -> tuple[str, Mean]:
    """Return the published method with the best mean, and ours minus it, model by model."""
    own = {m: rows[rows["method"] == m].set_index("digest") for m in (*PUBLISHED, OURS)}
    others = [m for m in PUBLISHED if len(own[m])]
    if not others or not len(own[OURS]):
        return "", Mean(math.nan, math.nan, math.nan, 0)
    best = max(others, key=lambda m: float(own[m][measure].mean()))
    both = own[OURS].index.intersection(own[best].index)
    gain = own[OURS].loc[both, measure] - own[best].loc[both, measure]
    groups = own[OURS].loc[both, "group"].tolist()
    return best, group_mean(gain.to_numpy(dtype=np.float64), groups)


def exact_share(count: int, total: int) -> Share:
    """Return a share with its exact interval."""
    if total == 0:
        return Share(0, 0, math.nan, math.nan)
    interval = stats.binomtest(count, total).proportion_ci(_CONFIDENCE, method="exact")
    return Share(count, total, float(interval.low), float(interval.high))


def accused(table: pd.DataFrame, column: str = "accuses") -> dict[str, Share]:
    """Return how often each method accuses (or asks a reviewer), of those with a rule for it."""
    return {
        method: exact_share(int(own[column].sum()), len(own))
        for method in COMPARED
        if len(own := table[(table["method"] == method) & table["decides"]])
    }


def finds_at(planted: pd.DataFrame, nulls: pd.DataFrame, method: str, alarms: float) -> float:
    """Return the share of planted models found where a gate lets so many clean ones be accused.

    The gate is the smallest claim that keeps the share of clean models with a larger one at or
    below `alarms`; a model is found where the claim is larger, and right in class and place. NaN
    without models.
    """
    clean = np.nan_to_num(nulls[nulls["method"] == method]["harm"].to_numpy(dtype=np.float64))
    own = planted[planted["method"] == method]
    if not len(clean) or not len(own):
        return math.nan
    allowed = math.floor(alarms * len(clean) + 1e-9)
    gate = np.sort(clean)[::-1][allowed] if allowed < len(clean) else -math.inf
    claims = np.nan_to_num(own["harm"].to_numpy(dtype=np.float64))
    return float((own["found"].to_numpy(dtype=bool) & (claims > max(gate, 0.0))).mean())


def format_mean(mean: Mean) -> str:
    """Write a mean with its interval, where it has one."""
    if not mean.models:
        return DASH
    if math.isnan(mean.low):
        return f"{mean.value:.2f} (one group)"
    return f"{mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})"


def format_share(share: Share) -> str:
    """Write a count out of a total with its exact interval."""
    if not share.total:
        return DASH
    return f"{share.count} of {share.total} ({100 * share.low:.1f} to {100 * share.high:.1f} %)"


def mean_precision(rows: pd.DataFrame, method: str) -> float:
    """Return the mean precision@10 of one method's fitted boxes; NaN without any model."""
    values = rows.loc[rows["method"] == method, "fitted_10"].to_numpy(dtype=np.float64)
    return float(np.mean(values)) if len(values) else math.nan


def precision_table(caption: str, parts: Sequence[tuple[str, pd.DataFrame]]) -> Table:
    """Draw precision@10 of fitted boxes of what is compared, a row a part of the models."""
    heads = ("", "models", *(_SHORT[name] for name in COMPARED))
    rows = []
    for name, own in parts:
        if own.empty:
            continue
        numbers = (format_number(mean_precision(own, method)) for method in COMPARED)
        rows.append((str(name), str(own["digest"].nunique()), *numbers))
    columns = [Column(head, "number" if at else "wide") for at, head in enumerate(heads)]
    return Table(caption, columns, tuple(rows))


def chosen_label(method: str) -> str:
    """Return the option that a method is published with."""
    return CHOSEN[method].label()


def format_number(value: float) -> str:
    """Write a mean alone."""
    return DASH if math.isnan(value) else f"{value:.2f}"
