"""Time and memory of the whole search on very many regions, each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.loading import Config
from ravl_med.discovery.candidates import discover_correlations
from ravl_med.discovery.clusters import FeatureClusters, cluster_regions
from ravl_med.discovery.k_medoids import silhouette
from ravl_med.discovery.ravl import AuditData
from tests.benchmarks.discovery.simulation import draw_embeddings, draw_prototypes
from tests.benchmarks.discovery.trials import map_in_children
from tests.benchmarks.peak_memory import forget_peak, peak_mb

_PROTOTYPES = 25
_CLASSES = 10
_ACCURACY = 0.8
_MATRIX = 20_000  # regions whose distances fit into 2 GB


@dataclass(frozen=True, slots=True)
class SpeedCase:
    """Films, regions of each, embedding size, and how often the search is timed."""

    films: int
    regions: int
    size: int
    runs: int


SPEED_CASES = (
    SpeedCase(1_333, 9, 256, 3),
    SpeedCase(10_000, 10, 512, 3),
    SpeedCase(100_000, 10, 512, 1),
)


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """One search: propose clusters, find them on the films, filter and rank.

    Attributes
    ----------
    regions, size, films, classes, runs : int
    seconds : float - median over the runs
    proposing : float - seconds of it that proposing clusters takes
    peak_mb : float - resident memory above that before the search, embeddings included there
    clusters : int - proposed
    silhouettes : mapping of K to silhouette - of all regions, mean over the draws; empty where the
        regions are too many for a matrix of distances
    """

    regions: int
    size: int
    films: int
    classes: int
    runs: int
    seconds: float
    proposing: float
    peak_mb: float
    clusters: int
    silhouettes: dict[str, float]


def measure_speed(
    config: Config,
    cases: Sequence[SpeedCase],
    *,
    progress: Callable[[str, int, int], None],
) -> list[SpeedRow]:
    """Time the search case by case, one after the other, each in a fresh process.

    Parameters
    ----------
    config : Config
    cases : sequence of SpeedCase
    progress : callable - called with (stage, done, total)
    """
    rows = []
    for case in cases:
        stage = f"search {case.films * case.regions:,} regions"
        rows += map_in_children(
            _time_search,
            [(case, config)],
            workers=1,
            threads=None,
            progress=lambda done, total, stage=stage: progress(stage, done, total),  # type: ignore[misc]
        )
    return rows


def _time_search(job: tuple[SpeedCase, Config]) -> SpeedRow:
    case, config = job
    rng = np.random.default_rng(0)
    regions = case.films * case.regions
    embeddings = np.empty((regions, case.size), dtype=np.float32)
    anchors = draw_prototypes(_PROTOTYPES, case.size, rng)
    draw_embeddings(anchors, rng.integers(_PROTOTYPES, size=regions), embeddings, rng)
    labels = rng.integers(_CLASSES, size=case.films)
    wrong = (labels + rng.integers(1, _CLASSES, size=case.films)) % _CLASSES
    data = AuditData(
        classes=tuple(f"class {c + 1}" for c in range(_CLASSES)),
        labels=labels,
        predictions=np.where(rng.random(case.films) < _ACCURACY, labels, wrong),
        patients=np.arange(case.films, dtype=np.int64),
        sizes=np.zeros((case.films, 2), dtype=np.int64),
        region_image=np.repeat(np.arange(case.films, dtype=np.int64), case.regions),
        region_boxes=np.empty((0, 4), dtype=np.float32),
        region_scores=rng.random((regions, _CLASSES), dtype=np.float32),
    )
    films = np.ones(case.films, dtype=np.bool_)
    before = forget_peak()
    whole, proposing = [], []
    for _ in range(case.runs):
        start = time.perf_counter()
        clusters = cluster_regions(embeddings, _CLASSES, config.discovery)
        proposing.append(time.perf_counter() - start)
        discover_correlations(
            data,
            clusters,
            clusters.presence(data.region_image, case.films),
            films,
            config.discovery,
            min_films=config.evidence.min_n_on_half,
            large_gap=config.gate.max_gap,
        )
        whole.append(time.perf_counter() - start)
    peak = peak_mb() - before
    return SpeedRow(
        regions=regions,
        size=case.size,
        films=case.films,
        classes=_CLASSES,
        runs=case.runs,
        seconds=float(np.median(whole)),
        proposing=float(np.median(proposing)),
        peak_mb=round(peak, 1),
        clusters=len(clusters),
        silhouettes=_silhouettes(embeddings, clusters) if regions <= _MATRIX else {},
    )


def _silhouettes(embeddings: NDArray[np.float32], clusters: FeatureClusters) -> dict[str, float]:
    """Mean silhouette of each K over its draws, on all regions."""
    distances = np.maximum(1.0 - embeddings @ embeddings.T, 0.0, dtype=np.float32)
    np.fill_diagonal(distances, 0.0)
    widths: dict[str, list[float]] = {}
    for partition in clusters.partitions:
        width = silhouette(distances, partition.assignment.astype(np.int64))
        widths.setdefault(str(len(partition.medoids)), []).append(width)
    return {k: round(float(np.mean(values)), 4) for k, values in widths.items()}
