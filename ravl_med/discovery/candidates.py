"""From proposed clusters to candidates: RaVL's filters, the classes that a feature moves, ranking.

A detector finds a candidate's feature in other films: regions go to the nearest medoid of Stage 1,
in the embedding space of the audited model.

References
----------
Varma et al., RaVL, NeurIPS 2024 (arXiv 2411.04097), sections 3.1 and 3.2.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ravl_med.config.audit import DiscoveryConfig
from ravl_med.discovery.clusters import FeatureClusters
from ravl_med.discovery.ravl import (
    AuditData,
    GapTable,
    influence_scores,
    opposed_gap,
    performance_gaps,
    strongest_regions,
)
from ravl_med.errors import DataError
from ravl_med.storage.documents import Table, result_type
from ravl_med.storage.mapped_arrays import take_rows


@result_type(
    "FoundDocument",
    "performance_gap influence classes opposed_gap",
    doc="The measures of RaVL by which a candidate was chosen; picked for being large.",
    tables=(
        Table(
            "classes",
            row="FoundClassDocument",
            doc="One class with and without the feature, on the films that the candidate was "
            "chosen on.",
            columns="n_present n_absent accuracy_present accuracy_absent gap weighted_gap",
        ),
    ),
    eq=False,
)
class FeatureCluster:
    """A cluster of n regions that became a candidate, measured on the films it was found on."""

    cluster: int = Field(description="number of the cluster of regions")
    regions: NDArray[np.int64] = Field(
        description="(n,), region indices of all films by similarity to the medoid, descending"
    )
    similarity: NDArray[np.float64] = Field(description="(n,), cosine similarity to the medoid")
    present: NDArray[np.bool_] = Field(
        description="(N,), images with at least one region in the cluster (I_c)"
    )
    n_present: NDArray[np.int64] = Field(description="films of the class with the feature")
    n_absent: NDArray[np.int64] = Field(description="films of the class without it")
    accuracy_present: NDArray[np.float64] = Field(description="accuracy on those with it")
    accuracy_absent: NDArray[np.float64] = Field(description="accuracy on those without it")
    weighted_gap: NDArray[np.float64] = Field(description="RaVL's G_c^y; 0 where a side is empty")
    performance_gap: float = Field(description="RaVL's G_c, the sum of all |weighted_gap|")
    influence: float = Field(description="RaVL's H_c; null where no mistake qualifies")
    raised_class: int = Field(description="class that the feature raises")
    lowered_classes: tuple[int, ...] = Field(
        description="classes with a negative gap and enough films, the most lowered first; empty "
        "when only the raised side can be tested"
    )
    opposed_classes: tuple[int, ...] = Field(
        description="the first of them, as many as together speak loudest; tested as one"
    )
    opposed_gap: float = Field(description="gap of the opposed classes taken together")
    rare: bool = Field(
        description="a candidate for its unweighted gaps alone, which RaVL's filters drop"
    )
    source: Literal["clusters", "effects"] = Field(
        default="clusters",
        description="what proposed it: clusters of regions, or the effects of removal",
    )
    strength: float = Field(
        default=math.nan,
        description="gaps of the raised class and of the opposed classes against their standard "
        "errors, joined as one normal deviate (Stouffer)",
    )

    @property
    def gap(self) -> NDArray[np.float64]:
        """Accuracy with minus without the feature; null where an arm is empty."""
        return self.accuracy_present - self.accuracy_absent

    @property
    def lowered_class(self) -> int | None:
        """The class that the raised class is compared with; None with the raised side alone."""
        return self.lowered_classes[0] if self.lowered_classes else None


@dataclass(frozen=True, slots=True, eq=False)
class Discovery:
    """What Stage 1 found for one task."""

    table: GapTable  # of every cluster, candidate or not
    influence: NDArray[np.float64]  # (K,) H_c; -inf where no image qualifies
    survivors: int  # clusters that pass RaVL's filters
    # those carried into evidence, by performance gap, descending
    candidates: tuple[FeatureCluster, ...]


def discover_correlations(
    data: AuditData,
    clusters: FeatureClusters,
    present: NDArray[np.bool_],  # (N, K) clusters.presence(data.region_image, N)
    films: NDArray[np.bool_],  # (N,) to look at
    config: DiscoveryConfig,
    *,
    min_films: int,
    large_gap: float,
) -> Discovery:
    """Run RaVL's filters and ranking over the proposed clusters, on some of the films.

    A cluster survives with influence of at least `min_influence` and with one raised and one
    lowered class, each with `min_films` in its smaller arm. Survivors become candidates, and so do
    clusters whose unweighted gaps are `large_gap` or more on both sides: the weight of G hides a
    device in 3 % of the films. The raised class is the one whose gap is largest against its
    standard error. The paper takes the largest as such (its textual attribute), and reports the
    first survivor alone; the protocol ``ravl`` lists all of them.

    Raises
    ------
    DataError
        When no film has two regions or more: influence is then undefined everywhere.
    """
    paper = config.protocol != "pooled"
    strongest = strongest_regions(data.region_image, data.region_scores, data.predictions)
    if np.bincount(data.region_image, minlength=1).max() < 2:
        raise DataError(
            "regions: every film has fewer than 2 regions, so no region can be compared with "
            "another; expected at least 2. Set regions.tiles to 2 x 2 or more."
        )
    rows = np.flatnonzero(films & (data.labels >= 0))
    labels, predictions = data.labels[rows], data.predictions[rows]
    here = present[rows]
    table = performance_gaps(here, labels, predictions == labels, len(data.classes))
    leads = _leads(clusters, strongest[rows])
    influence = influence_scores(here, table, labels, predictions, leads, strongest[rows] >= 0)
    gap = np.nan_to_num(table.gap, nan=0.0)
    survives = (influence >= config.min_influence) & (gap > 0).any(axis=1) & (gap < 0).any(axis=1)
    enough = table.smaller_arm >= min_films
    usable = np.where(enough, gap, 0.0)
    large = (usable >= large_gap).any(axis=1) & (usable <= -large_gap).any(axis=1)
    strength = np.where(enough, gap if paper else table.standardised_gap, 0.0)
    wanted = (survives if paper else survives | large) & (strength > 0).any(axis=1)
    ranked = np.flatnonzero(wanted)
    ranked = ranked[np.argsort(-table.performance_gap[ranked], kind="stable")]
    candidates = tuple(
        measure_candidate(
            int(k),
            present[:, k],
            table,
            strength[k],
            regions=clusters.members(int(k)),
            similarity=clusters.similarity_of(int(k)).astype(np.float64),
            influence=float(influence[k]),
            rare=bool(not survives[k]),
        )
        for k in ranked[: 1 if config.protocol == "paper" else None]
    )
    return Discovery(table, influence, int(survives.sum()), candidates)


def choose_classes(
    strength: NDArray[np.float64],  # (C,) gaps; 0 where a class must not be chosen
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Choose the raised class and the lowered ones.

    Returns
    -------
    lowered : tuple of int - every class with a negative gap, the most lowered first
    opposed : tuple of int - the first j of them, j with the largest sum over sqrt(j): the weight
        of j independent deviates taken together (Stouffer)
    """
    lowered = tuple(int(c) for c in np.argsort(strength, kind="stable") if strength[c] < 0)
    together = -np.cumsum(strength[list(lowered)]) / np.sqrt(np.arange(1, len(lowered) + 1))
    opposed = lowered[: int(np.argmax(together)) + 1] if lowered else ()
    return int(np.argmax(strength)), lowered, opposed


def stouffer_strength(
    standardised: NDArray[np.float64], raised: int, opposed: tuple[int, ...]
) -> float:
    """Join the standardised gaps (C,) of both sides into one normal deviate (Stouffer)."""
    lowered = -standardised[list(opposed)].sum() / math.sqrt(max(len(opposed), 1))
    return float((standardised[raised] + lowered) / math.sqrt(2.0))


def _leads(clusters: FeatureClusters, strongest: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the strongest region of each film belongs to each cluster: (n, K)."""
    known = strongest >= 0
    leads = np.zeros((len(strongest), len(clusters)), dtype=np.bool_)
    for number, partition in enumerate(clusters.partitions):
        columns = np.flatnonzero(clusters.origin == number)
        label = np.where(known, partition.assignment[np.where(known, strongest, 0)], -1)
        leads[:, columns] = label[:, None] == clusters.label[columns]
    return leads


def measure_candidate(
    k: int,  # cluster, a row of the table
    present: NDArray[np.bool_],  # (N,)
    table: GapTable,  # on the films that the classes are chosen on
    strength: NDArray[np.float64],  # (C,) as `choose_classes` takes it
    *,
    regions: NDArray[np.int64],  # (n,)
    similarity: NDArray[np.float64],  # (n,)
    influence: float,
    rare: bool = False,
) -> FeatureCluster:
    """Choose the classes that a cluster moves, and collect its measures."""
    raised, lowered, opposed = choose_classes(strength)
    return FeatureCluster(
        cluster=k,
        regions=regions,
        similarity=similarity,
        present=present,
        n_present=table.n_present[k],
        n_absent=table.n_absent[k],
        accuracy_present=table.accuracy_present[k],
        accuracy_absent=table.accuracy_absent[k],
        weighted_gap=table.weighted_gap[k],
        performance_gap=float(table.performance_gap[k]),
        influence=influence,
        raised_class=raised,
        lowered_classes=lowered,
        opposed_classes=opposed,
        opposed_gap=opposed_gap(table, k, opposed),
        rare=rare,
        strength=stouffer_strength(table.standardised_gap[k], raised, opposed),
    )


_ROWS = ("upper", "middle", "lower")
_COLUMNS = ("left", "middle", "right")
_OF_PATIENT = ("at the patient's right", "near the midline", "at the patient's left")
_LEAST = 0.25  # share of the regions below which a name or a place says nothing
_MOST = 2  # names that are shown
_REGIONS_AT_ONCE = 65_536


def describe_regions(
    names: Sequence[Sequence[str]],
    shares: NDArray[np.floating],
    places: Sequence[str] = (),
    look: str = "",
    records: Mapping[str, str] | None = None,
    edges: Sequence[str] = (),
) -> str:
    """Describe n regions by their names, the most common first, and by where they lie.

    Names are what each region is called or holds, none for a place in a grid; shares (n, 4) are
    boxes, xyxy, of the film's width and height; places are the anatomy that each lies over, blank
    where it is not known; `look` is how they look, which stands where no name is common. `records`
    say of a name how often it is right. The text is such as ``92 % pulse generator; 85 % left upper
    lung zone``. Sides in names of anatomy are the patient's; others are as well where `edges` state
    for each region the patient's side at the left edge of its film (L, R), else the picture's.
    """
    if len(names) == 0:
        return ""
    count_of = Counter(name for own in names for name in dict.fromkeys(own))
    parts = _common_ones(count_of, len(names), records or {}) or ([look] if look else [])
    anatomy = _common_ones(Counter(filter(None, places)), len(names), {})
    if anatomy:
        return "; ".join([*parts, *anatomy])
    middles = (np.asarray(shares)[:, :2] + np.asarray(shares)[:, 2:]) / 2.0
    stated = len(edges) > 0 and set(edges) <= {"L", "R"}
    if stated:  # as the patient lies: the right side first
        middles[:, 0] = np.where(np.asarray(edges) == "L", 1.0 - middles[:, 0], middles[:, 0])
    thirds = np.clip((3.0 * middles).astype(int), 0, 2)
    (column, row), count = Counter(map(tuple, thirds.tolist())).most_common(1)[0]
    share = _percent(count, len(names))
    if count < _LEAST * len(names):
        parts.append("all over the picture")
    elif row == column == 1:
        parts.append(f"{share} in the centre of the picture")
    elif stated:
        parts.append(f"{share} in the {_ROWS[row]} third {_OF_PATIENT[column]}")
    else:
        parts.append(f"{share} in the {_ROWS[row]} {_COLUMNS[column]} of the picture")
    return "; ".join(parts)


def _common_ones(count_of: Counter[str], regions: int, records: Mapping[str, str]) -> list[str]:
    return [
        f"{_percent(count, regions)} {name}{records.get(name, '')}"
        for name, count in count_of.most_common(_MOST)
        if count >= _LEAST * regions
    ]


def _percent(count: int, of: int) -> str:
    return f"{100 * count / of:.0f} %"


ANYWHERE = -1
"""A feature that has no place of its own."""

PLACES = 7
"""Places of a film in a row and in a column."""


def places_of(shares: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the place of each region (R, 4), xyxy as shares of its film, by its middle: (R,).

    Places lie an eighth of the film apart, as windows of a quarter do in half steps.
    """
    middles = (shares[:, :2] + shares[:, 2:]) / 2.0
    column, row = np.clip(np.rint(middles * (PLACES + 1)).astype(np.int64) - 1, 0, PLACES - 1).T
    numbers: NDArray[np.int64] = row * PLACES + column
    return numbers


Texture = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""How some regions (n,) look, in numbers: (n, T)."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureDetector:
    """A feature as something that can be looked for."""

    # (K, D) of the partition that holds the cluster, unit norm; or 0 and the direction of a feature
    # that effects proposed, (2, D), or of one with a place, (2, D + T + 1), see `score_place`
    medoids: NDArray[np.float32]
    label: int  # the cluster, 0 .. K - 1
    raised_class: int
    lowered_class: int | None  # the most lowered one
    place: int = ANYWHERE  # of `places_of`

    def find(
        self, regions: NDArray[np.float32], shares: NDArray[np.floating], texture: Texture
    ) -> NDArray[np.bool_]:
        """Return which regions belong to the feature, (R,).

        They are embedded by the audited model, (R, D), and lie at `shares` of their films, (R, 4),
        xyxy; their texture is measured where the feature has a place.
        """
        if self.place == ANYWHERE:
            return np.asarray(nearest_medoids(self.medoids, regions) == self.label)
        direction = self.medoids[1] - self.medoids[0]
        rows, score = score_place(self.place, direction, regions, shares, texture)
        found = np.zeros(len(regions), dtype=np.bool_)
        found[rows[score > 0]] = True
        return found


def score_place(
    place: int,
    direction: NDArray[np.float32],
    regions: NDArray[np.float32],
    shares: NDArray[np.floating],
    texture: Texture,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the regions at a place (n,), of (R, D) and (R, 4), and how far along (n,) each lies.

    The direction (D + T + 1,) is of what the model makes of a region, of how it looks, and of 1:
    an offset. One of an older audit is of the first alone.
    """
    rows = np.flatnonzero(places_of(shares) == place)
    score = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _REGIONS_AT_ONCE):
        part = rows[start : start + _REGIONS_AT_ONCE]
        ones = np.ones((len(part), 1), dtype=np.float32)
        seen = np.concatenate([take_rows(regions, part), texture(part), ones], axis=1)
        score[start : start + len(part)] = seen[:, : len(direction)] @ direction
    return rows, score


def nearest_medoids(
    medoids: NDArray[np.float32], regions: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return the nearest of medoids (K, D) for each of regions (R, D), all of unit norm: (R,)."""
    nearest = np.empty(len(regions), dtype=np.int64)
    for start in range(0, len(regions), _REGIONS_AT_ONCE):
        part = slice(start, start + _REGIONS_AT_ONCE)
        nearest[part] = (regions[part] @ medoids.T).argmax(axis=1)
    return nearest
