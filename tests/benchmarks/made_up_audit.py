"""An audit that nobody made, of any size: to measure how a report is written, not what it says.

Numbers are drawn at random or fixed, in the ranges that audits have. Correlations are confirmed and
used, with all of the evidence, which is the longest that a report can say of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.clusters import map_clusters
from ravl_med.evidence.audit_result import (
    Accuracy,
    AuditResult,
    CohortSummary,
    DetectableGap,
    DiscoverySummary,
    Gate,
    LocalEffectBound,
    ModelSummary,
    PartitionSummary,
    Sensitivity,
    Stratum,
    TaskSummary,
    Verdict,
)
from ravl_med.evidence.results import (
    AccuracyByPresence,
    Confirmation,
    Counterfactual,
    CrossedAttribute,
    EffectShares,
    Interval,
    PairedChange,
    Removal,
    ScoreShift,
    SpuriousCorrelation,
    Strata,
    StratumGap,
)
from ravl_med.regions.region_set import RegionKind

_GRID = 6  # tiles a side of each film
_TILES = _GRID * _GRID
_SHARE = 0.2  # of the films, with each feature
_ATTRIBUTES = ("view", "sex", "manufacturer", "site")
_EMBEDDING = 64
_DIRECTIONS = 12
_FILMS_DRAWN = 8  # different ones


@dataclass(frozen=True, slots=True)
class AuditSize:
    """How much there is to report.

    Attributes
    ----------
    films, correlations, classes, clusters : int
    subgroups : int - rows of accuracy by attribute
    shape : tuple of int - height and width of a film in pixels
    """

    films: int
    correlations: int
    classes: int = 5
    subgroups: int = 20
    clusters: int = 400
    shape: tuple[int, int] = (2_500, 2_048)


def make_up_films(size: AuditSize) -> list[NDArray[np.uint8]]:
    """Return a few films, (H, W) uint8: smooth shadows with the noise that films have."""
    rng = np.random.default_rng(1)
    height, width = size.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    films = []
    for _ in range(_FILMS_DRAWN):
        across, down = rng.uniform(-0.2, 0.2, 2)
        lung = np.exp(-(((np.abs(x - across) - 0.4) / 0.25) ** 2) - ((y - down) / 0.6) ** 2)
        grain = rng.normal(0.0, 6.0, size.shape)
        films.append(np.clip(190 - 130 * lung + grain, 0, 255).astype(np.uint8))
    return films


def make_up_audit(size: AuditSize, seed: int = 0) -> AuditResult:
    """Return an audit of that size."""
    rng = np.random.default_rng(seed)
    names = tuple(f"finding {c + 1}" for c in range(size.classes))
    tiles = np.arange(size.films * _TILES)
    height, width = size.shape
    row, column = tiles // _GRID % _GRID, tiles % _GRID
    step = np.array([width, height, width, height]) / _GRID
    boxes = np.stack([column, row, column + 1, row + 1], axis=1) * step
    found = tuple(_correlation(rank + 1, size, rng) for rank in range(size.correlations))
    shares = rng.dirichlet(np.full(size.classes, 20.0))
    counts = {name: int(size.films * share) for name, share in zip(names, shares, strict=True)}
    return AuditResult(
        name="made-up",
        title="An audit that nobody made",
        verdict=_verdict(len(found)),
        task=TaskSummary("finding", names, {n: (f"a chest film with {n}",) for n in names}, 0.07),
        model=ModelSummary("none", "none", "0" * 64, 224, "squash", "layer4", 0),
        cohort=_cohort(size, counts),
        accuracy=_accuracy(size, counts, rng),
        discovery=_search(size, found, rng),
        correlations=found,
        descriptions={one.cluster.cluster: "90 % pulse generator" for one in found},
        subgroups=tuple(_stratum(at, size, rng) for at in range(size.subgroups)),
        sensitivity=_sensitivity(size),
        image_ids=tuple(f"{at * 2_654_435_761 % 2**48:012x}" for at in range(size.films)),
        region_image=tiles // _TILES,
        region_boxes=boxes.astype(np.float32),
        region_kind=tiles % _TILES,
        region_kinds=tuple(
            RegionKind("tiles", f"tile {at // _GRID + 1},{at % _GRID + 1}") for at in range(_TILES)
        ),
    )


def _interval(value: float, half: float = 0.05) -> Interval:
    return Interval(value - half, value + half)


def _verdict(found: int) -> Verdict:
    reasons = tuple(f"Correlation {rank + 1} has a gap of 50 points." for rank in range(found))
    return Verdict("fail" if found else "pass", reasons, (Gate("gate.max_gap", not found, "–"),))


def _cohort(size: AuditSize, counts: dict[str, int]) -> CohortSummary:
    half = size.films // 2
    return CohortSummary(
        listed=size.films + 60,
        left_out={"another split": 50},
        rejected={"truncated": 10},
        rejected_rows=tuple((row, "truncated", "") for row in range(10)),
        images=size.films,
        patients=size.films,
        images_by_class=counts,
        attributes={name: {"A": half, "B": size.films - half} for name in _ATTRIBUTES},
        radiology_reports=size.films,
        synthetic=True,
    )


def _accuracy(size: AuditSize, counts: dict[str, int], rng: np.random.Generator) -> Accuracy:
    by_class = rng.uniform(0.5, 0.9, size.classes).tolist()
    return Accuracy(
        overall=float(np.mean(by_class)),
        overall_interval=_interval(float(np.mean(by_class)), 0.02),
        images=size.films,
        by_class=tuple(by_class),
        by_class_interval=tuple(map(_interval, by_class)),
        images_by_class=tuple(counts.values()),
        predicted_share=(1 / size.classes,) * size.classes,
    )


def _search(
    size: AuditSize, found: tuple[SpuriousCorrelation, ...], rng: np.random.Generator
) -> DiscoverySummary:
    centres = rng.normal(size=(_DIRECTIONS, _EMBEDDING))
    medoids = centres[rng.integers(_DIRECTIONS, size=size.clusters)]
    medoids = medoids + rng.normal(0.0, 0.8, medoids.shape)
    medoids /= np.linalg.norm(medoids, axis=1, keepdims=True)
    regions = rng.integers(20, 4 * size.films, size.clusters)
    half = size.films // 2
    return DiscoverySummary(
        protocol="pooled",
        regions=size.films * _TILES,
        regions_unseen=0,
        region_source="6 x 6 tiles",
        region_problems={},
        partitions=tuple(PartitionSummary(k, draw, 0.2) for k in (40, 80) for draw in range(3)),
        left_out={},
        clusters=size.clusters,
        survivors=len(found),
        candidates=len(found),
        films=half,
        confirmation_films=size.films - half,
        patients=half,
        confirmation_patients=size.films - half,
        cluster_map=map_clusters(
            medoids, regions, {one.cluster.cluster: one.rank for one in found}
        ),
    )


def _sensitivity(size: AuditSize) -> Sensitivity:
    detectable = tuple(DetectableGap(share, 0.3 - share / 4, 1.0) for share in (0.1, 0.2, 0.5))
    local = LocalEffectBound(0.04, 0.04, 0.03, size.clusters, 160, 60)
    candidates = max(size.correlations, 1)
    return Sensitivity(0.8, 200, candidates, detectable, size.clusters, 90, {}, local)


def _stratum(at: int, size: AuditSize, rng: np.random.Generator) -> Stratum:
    films, accuracy = int(rng.integers(1, size.films + 1)), float(rng.uniform(0.4, 0.9))
    return Stratum(
        _ATTRIBUTES[at * len(_ATTRIBUTES) // size.subgroups], f"value {at + 1}", films, films,
        accuracy, _interval(accuracy), accuracy - 0.7, 0.2, 0.4, insufficient=False,
    )  # fmt: skip


def _correlation(rank: int, size: AuditSize, rng: np.random.Generator) -> SpuriousCorrelation:
    cluster = _cluster(rank, size, rng)
    effect = rng.normal(2.0, 0.5, len(cluster.regions))
    return SpuriousCorrelation(
        rank=rank,
        cluster=cluster,
        confirmation=_confirmation(size, cluster),
        counterfactual=_counterfactual(effect),
        strata=Strata(0.1, tuple(map(_crossed, _ATTRIBUTES))),
        kind="shortcut",
        counts=True,
        reasons=(),
        also=(),
        order=np.argsort(-effect, kind="stable"),
    )


def _cluster(rank: int, size: AuditSize, rng: np.random.Generator) -> FeatureCluster:
    holding = np.sort(rng.permutation(size.films)[: max(int(_SHARE * size.films), 1)])
    present = np.zeros(size.films, dtype=np.bool_)
    present[holding] = True
    with_it, without = np.full(size.classes, 0.4), np.full(size.classes, 0.8)
    with_it[0], without[0] = 0.95, 0.45
    films = np.full(size.classes, len(holding) // size.classes)
    return FeatureCluster(
        cluster=rank - 1,
        regions=holding * _TILES + rng.integers(_TILES, size=len(holding)),
        similarity=np.linspace(0.9, 0.4, len(holding)),
        present=present,
        n_present=films,
        n_absent=4 * films,
        accuracy_present=with_it,
        accuracy_absent=without,
        weighted_gap=0.5 * (with_it - without),
        performance_gap=float(0.5 * np.abs(with_it - without).sum()),
        influence=0.6,
        raised_class=0,
        lowered_classes=tuple(range(1, size.classes)),
        opposed_classes=tuple(range(1, min(size.classes, 3))),
        opposed_gap=-0.4,
        rare=False,
    )


def _confirmation(size: AuditSize, cluster: FeatureCluster) -> Confirmation:
    gaps = (cluster.accuracy_present - cluster.accuracy_absent).tolist()
    arms = AccuracyByPresence(
        n_present=cluster.n_present,
        n_absent=cluster.n_absent,
        accuracy_present=cluster.accuracy_present,
        accuracy_absent=cluster.accuracy_absent,
        present_interval=tuple(map(_interval, cluster.accuracy_present.tolist())),
        absent_interval=tuple(map(_interval, cluster.accuracy_absent.tolist())),
        gap_interval=tuple(map(_interval, gaps)),
        opposed_gap=-0.4,
        opposed_interval=_interval(-0.4),
    )
    half = size.films // 2
    return Confirmation(
        status="confirmed", reasons=(), films=half, patients=half, p_raised=0.001, p_lowered=0.001,
        p_value=0.0001, q_value=0.001, exact=True, arms=arms,
        shift=ScoreShift(2.4, _interval(2.4), 1.9, _interval(1.9)),
    )  # fmt: skip


def _counterfactual(effect: NDArray[np.float64]) -> Counterfactual:
    changed = PairedChange(
        pairs=100, patients=100, change=2.0, change_interval=_interval(2.0), control=0.1,
        contrast=1.9, interval=_interval(1.9), decisions=0.5, decisions_interval=_interval(0.5),
        p_value=0.0001,
    )  # fmt: skip
    shares = EffectShares(0.05, _interval(0.05), artifact=0.9, regions=64, unknown=0)
    removal = Removal(
        effect, effect > 1.5, 1.5, spread=2.0, explored=changed, typical=changed,
        replaced=changed, both=changed, wrong_calls=changed, called=0.4, imbalance=0.02,
        sharper=0.86, sharper_interval=_interval(0.86), shares=shares,
    )  # fmt: skip
    return Counterfactual(
        removal, changed, True, (), 0.0002, 0.0004, shown_by=("removal", "transplant")
    )


def _crossed(attribute: str) -> CrossedAttribute:
    sides = [
        tuple(StratumGap(value, 40, 160, gap, _interval(gap)) for value in ("A", "B"))
        for gap in (0.5, -0.4)
    ]
    return CrossedAttribute(
        attribute, 0.1, sides[0], sides[1], 0.5, _interval(0.5), -0.4, _interval(-0.4), ()
    )
